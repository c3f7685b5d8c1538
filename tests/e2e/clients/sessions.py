"""The real clients, pinned: how each is installed, told of the server and its hooks, and run for one session.

Installed from npm into a cache, ``CLIENTS_CACHE`` or ``~/.cache/memp-mcp/clients``; run with a home of their own, an
environment built from nothing and a scripted model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from endpoint import Call, Json, Model

from memp_mcp.clients import CLIENTS as KNOWN
from memp_mcp.clients import Host, parts

SECONDS = 180
INSTALL_SECONDS = 600
ROOT = Path(__file__).parents[3]
SERVER = (sys.executable, "-m", "memp_mcp")


class Client(NamedTuple):
    """A client of a certain version."""

    name: str
    package: str
    version: str
    command: str
    shell: str
    """Its tool for commands."""
    argument: str
    """What that tool calls its command."""

    @property
    def events(self) -> tuple[str, ...]:
        """Those at which it runs a hook of this program."""
        return KNOWN[self.name].events

    @property
    def program(self) -> Path:
        """Where it is installed."""
        cache = Path(os.environ.get("CLIENTS_CACHE") or "~/.cache/memp-mcp/clients").expanduser()
        return cache / f"{self.name}-{self.version}" / "node_modules" / ".bin" / self.command

    def runs(self, command: str) -> Call:
        """The model has a command run."""
        required: dict[str, Json] = {
            "qwen-code": {"is_background": False},
            "opencode": {"description": "Runs it"},
        }
        return Call(self.shell, {self.argument: command, **required.get(self.name, {})})

    def calls(self, tool: str, **arguments: object) -> list[Call]:
        """The model calls a tool of the memory; where it knows no more than the name, it loads the tool before that."""
        match self.name:
            case "claude-code":
                return [
                    Call("ToolSearch", {"query": f"select:mcp__memp__{tool}", "max_results": 5}),
                    Call(f"mcp__memp__{tool}", arguments),
                ]
            case "codex":
                return [Call(f"mcp__memp/{tool}", arguments)]
            case "gemini-cli":
                return [Call(f"mcp_memp_{tool}", arguments)]
            case "opencode":
                return [Call(f"memp_{tool}", arguments)]
        return [
            Call("tool_search", {"query": f"select:mcp__memp__{tool}"}),
            Call("tool_call", {"name": f"mcp__memp__{tool}", "arguments": arguments}),
        ]


CLAUDE = Client("claude-code", "@anthropic-ai/claude-code", "2.1.328", "claude", "Bash", "command")
CODEX = Client("codex", "@openai/codex", "0.169.0", "codex", "exec_command", "cmd")
QWEN = Client("qwen-code", "@qwen-code/qwen-code", "0.24.4", "qwen", "run_shell_command", "command")
GEMINI = Client("gemini-cli", "@google/gemini-cli", "0.61.0", "gemini", "run_shell_command", "command")
OPENCODE = Client("opencode", "opencode-ai", "1.18.33", "opencode", "bash", "command")
CLIENTS = (CLAUDE, CODEX, QWEN, GEMINI, OPENCODE)


def install(client: Client) -> str:
    """Install a client unless it is there; returns why that cannot be done, or nothing."""
    if client.program.exists():
        return ""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not there: the real clients are installed with it"
    folder = client.program.parents[2]
    begun = folder.with_name(f"{folder.name}.{os.getpid()}")
    begun.mkdir(parents=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(begun), f"{client.package}@{client.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no reason given"]
            return f"{client.package}@{client.version} cannot be installed: {said[0][:200]}"
        begun.rename(folder)
    except subprocess.TimeoutExpired:
        return f"{client.package}@{client.version} was not installed within {INSTALL_SECONDS} s"
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return ""


class Desk:
    """A client with a home of its own, which this program has joined, and a model that is scripted."""

    def __init__(self, client: Client, home: Path, model: Model, memory: Mapping[str, str]) -> None:
        self.client = client
        self.home = home
        self.work = home / "work"
        self.work.mkdir(parents=True)
        self._model = model
        node = shutil.which("node")
        path = ":".join([*([str(Path(node).parent)] if node else []), "/usr/local/bin", "/usr/bin", "/bin"])
        self.env = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", "TERM": "dumb", **memory, **self._own_env()}
        self._configure()

    def join(self) -> None:
        """Put the server and the hooks into the client's configuration, as its user would."""
        self.memp("install", self.client.name)

    def memp(self, *arguments: str) -> str:
        """Run a command of this program for this user; returns what it prints."""
        done = subprocess.run(
            [*SERVER, *arguments], env=self.env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> Json:
        """What this program says of the client."""
        states: list[Json] = json.loads(self.memp("status", "--json"))
        return next(state for state in states if state["client"] == self.client.name)

    def files(self) -> dict[str, bytes]:
        """What is in the home, by name."""
        return {str(file.relative_to(self.home)): file.read_bytes() for file in self.home.rglob("*") if file.is_file()}

    def configuration(self) -> dict[str, str]:
        """What is in the files that the client is configured by, and in those that are kept beside them."""
        files = [Path(file) for file in parts(self.client.name, Host(self.env, sys.platform))]
        beside = [file for folder in {file.parent for file in files} for file in folder.glob("*.before-*")]
        return {file.name: file.read_text(encoding="utf-8") for file in [*files, *beside] if file.exists()}

    def session(self, prompt: str) -> str:
        """One session with one prompt, to its end; returns what the agent says last."""
        match self.client.name:
            case "claude-code":
                arguments = ["-p", prompt, "--allowedTools", "Bash", "mcp__memp", "ToolSearch"]
            case "codex":
                bypass = ("--dangerously-bypass-approvals-and-sandbox", "--dangerously-bypass-hook-trust")
                arguments = ["exec", "--skip-git-repo-check", *bypass, prompt]
            case "opencode":
                arguments = ["run", prompt]
            case _:
                arguments = ["-p", prompt, "--yolo"]
        return self._run(arguments)

    def _run(self, arguments: Sequence[str]) -> str:
        done = subprocess.run(
            [str(self.client.program), *arguments],
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{self.client.name}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout.strip()

    def _own_env(self) -> dict[str, str]:
        match self.client.name:
            case "claude-code":
                quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
                return {"ANTHROPIC_BASE_URL": self._model.url, "ANTHROPIC_API_KEY": "none", **quiet}
            case "codex":
                return {"SCRIPTED_KEY": "none"}
            case "gemini-cli":
                trusted = {"GEMINI_CLI_TRUST_WORKSPACE": "true", "GEMINI_MODEL": "gemini-2.5-pro"}
                return {"GOOGLE_GEMINI_BASE_URL": self._model.url, "GEMINI_API_KEY": "none", **trusted}
            case "opencode":
                quiet = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
                return {"NPM_CONFIG_REGISTRY": self._model.url, **quiet}
        url = f"{self._model.url}/v1"
        return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none", "OPENAI_MODEL": "qwen3-coder-plus"}

    def _configure(self) -> None:
        """What the user has set before: where the model is, and a hook of their own."""
        own: list[Json] = [{"hooks": [{"type": "command", "command": "true"}]}]
        match self.client.name:
            case "claude-code":
                self._write_json(".claude/settings.json", {"hooks": {"Stop": own}})
            case "codex":
                provider = f'name = "scripted"\nbase_url = "{self._model.url}/v1"\nenv_key = "SCRIPTED_KEY"'
                config = f'model = "scripted"\nmodel_provider = "scripted"\n[model_providers.scripted]\n{provider}\n'
                self._write(".codex/config.toml", f'{config}wire_api = "responses"\n')
                self._write_json(".codex/hooks.json", {"hooks": {"Stop": own}})
            case "gemini-cli":
                by_key = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
                quiet = {"privacy": {"usageStatisticsEnabled": False}}
                self._write_json(".gemini/settings.json", {"hooks": {"AfterAgent": own}, **by_key, **quiet})
            case "opencode":
                options = {"baseURL": f"{self._model.url}/v1", "apiKey": "none"}
                scripted = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"scripted": {}}}
                settings = {"provider": {"scripted": scripted}, "model": "scripted/scripted"}
                self._write_json(".config/opencode/opencode.json", settings)
            case _:
                by_key = {"security": {"auth": {"selectedType": "openai"}}}
                self._write_json(".qwen/settings.json", {"hooks": {"Stop": own}, **by_key})

    def _write_json(self, name: str, content: Json) -> None:
        self._write(name, json.dumps(content, indent=2))

    def _write(self, name: str, content: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
