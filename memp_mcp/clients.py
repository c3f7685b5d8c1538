"""The clients that this memory joins: where each keeps its configuration, and the form of what is put into it.

Two parts are put in: the **server**, an entry that starts ``memp-mcp``, and where a client runs commands at events, the
**hooks**. Sources, read in November 2026; what is marked (run) was also done with the real client on Linux:

- Claude Code 2.1 (run): `claude mcp add --scope user` writes ``mcpServers`` of ~/.claude.json, with CLAUDE_CONFIG_DIR
  that folder's .claude.json; hooks are in settings.json of ~/.claude (code.claude.com/docs/en/hooks). PostToolUse
  follows success alone, PostToolUseFailure a command that fails. Plugins that are on stand in ``enabledPlugins`` of the
  same file, as ``name@marketplace``.
- Claude Desktop: claude_desktop_config.json in ~/Library/Application Support/Claude, %APPDATA%/Claude
  (modelcontextprotocol.io/docs/develop/connect-local-servers), ~/.config/Claude on Linux (a beta); the packages of the
  Windows Store keep it below %LOCALAPPDATA%.
- Codex 0.169 (run): ``mcp_servers`` of config.toml and hooks.json in ~/.codex or CODEX_HOME
  (developers.openai.com/codex/hooks). A person has to trust the hooks once. At the end of a session it allows a hook
  three seconds, and says at each start if one asks for more.
- Qwen Code 0.24 (run): settings.json in ~/.qwen or QWEN_HOME holds both (qwenlm.github.io/qwen-code-docs).
- Gemini CLI 0.61 (run): settings.json in .gemini of the home directory or GEMINI_CLI_HOME holds both; its events have
  names of their own (geminicli.com/docs/hooks/reference).
- Cursor, by its documentation as of September 2026 and not run with the real client: ~/.cursor/mcp.json
  (cursor.com/docs/mcp) and hooks.json beside it (cursor.com/docs/hooks), whose hooks stand in the list of their event
  itself and whose ``version`` is 1; without one, or with an event that it does not know, it is said to load none of
  them. It can be set to run Claude Code's hooks as well (cursor.com/docs/reference/third-party-hooks); hook.py is
  silent at those.
- VS Code: mcp.json in the folder User of its profile, ``servers`` with a type
  (code.visualstudio.com/docs/copilot/reference/mcp-configuration). Its hooks are left alone: they are a preview whose
  form may change, and that of a prompt adds nothing to it (code.visualstudio.com/docs/agent-customization/hooks).
- Windsurf: ~/.codeium/windsurf/mcp_config.json (docs.windsurf.com/windsurf/cascade/mcp).
- Zed: ``context_servers`` of settings.json in ~/.config/zed, XDG_CONFIG_HOME/zed on Linux, %APPDATA%/Zed
  (zed.dev/docs/configuring-zed, zed.dev/docs/ai/mcp).
- opencode 1.18 (run): ``mcp`` of opencode.json or .jsonc in ~/.config/opencode or XDG_CONFIG_HOME/opencode; version 2
  reads the same (opencode.ai/docs/config, opencode.ai/docs/migrate-v1).

What the clients call themselves over MCP is from real sessions of those that are marked, else from
github.com/apify/mcp-client-capabilities. Windows and macOS were not tried.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

Part = Literal["server", "hooks"]
Entry = dict[str, Any]

NAME = "memp"


class Host(NamedTuple):
    """The machine as the clients see it: its environment, and `sys.platform`."""

    environ: Mapping[str, str]
    platform: str

    def home(self, *below: str) -> Path:
        """The home directory, or what is below it."""
        name = "USERPROFILE" if self.platform == "win32" else "HOME"
        return Path(self.environ.get(name) or Path.home(), *below)

    def named(self, *variables: str, otherwise: Path) -> Path:
        """The directory that the first set variable names."""
        named = next((self.environ[v] for v in variables if self.environ.get(v, "").strip()), "")
        return self.home(*Path(named).parts[1:]) if named.startswith("~") else Path(named or otherwise)

    def config(self) -> Path:
        """Where programs without a window keep their configuration, also on macOS."""
        return self.named("XDG_CONFIG_HOME", otherwise=self.home(".config"))

    def app_data(self) -> Path:
        """Where programs with a window keep theirs."""
        if self.platform == "win32":
            return self.named("APPDATA", otherwise=self.home("AppData", "Roaming"))
        return self.home("Library", "Application Support") if self.platform == "darwin" else self.config()


class Command(NamedTuple):
    """How this program is started, and the directory of its memory where that is not the usual one."""

    words: tuple[str, ...]
    home: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """What has to be set when it is started."""
        return {"MEMP_HOME": self.home} if self.home else {}

    def hook(self, client: str, event: str, platform: str) -> str:
        """The line for a shell that tells this program of an event.

        Whatever becomes of the program, the line succeeds: to the clients, status 2 means to block what the user asked
        (seen in Codex), and that is how Python, argparse and uv end when they cannot start. On Windows it is for cmd
        and for the bash that Claude Code uses there, and has no such end, since older PowerShells know none.
        """
        words = [*self.words, "hook", event, "--client", client, *(("--home", self.home) if self.home else ())]
        if platform != "win32":
            return f"{shlex.join(words)} || true"
        return subprocess.list2cmdline([word.replace("\\", "/") for word in words])


class Adding(NamedTuple):
    """The client's own command that puts in an entry: its words, and the variable that says where it does."""

    words: Callable[[Command], list[str]]
    folder: str


class Client(NamedTuple):
    """One client.

    *folder* tells that it is there, and so does the *program*; *server* is the file with the entry, which stands at
    *path* and is an *entry* as *adding* writes it; *names* are what it calls itself, or how that begins, in lower case;
    *hooks* is the file with the hooks, whose time it counts in *ticks* to the second, and which are *flat* where they
    stand in an event's list themselves, not in groups; *plugin* is what brings both without this program's doing.
    """

    title: str
    program: str
    folder: Callable[[Host], Path]
    server: Callable[[Host], Path]
    path: tuple[str, ...]
    entry: Callable[[Command], Entry]
    names: tuple[str, ...]
    adding: Adding | None = None
    hooks: Callable[[Host], Path] | None = None
    events: tuple[str, ...] = ()
    ticks: int = 1
    flat: bool = False
    advice: str = ""
    plugin: str = ""


# -- where --------------------------------------------------------------------------------------------------


def _below(folder: Callable[[Host], Path], *names: str) -> Callable[[Host], Path]:
    return lambda host: folder(host).joinpath(*names)


def _claude(host: Host) -> Path:
    return host.named("CLAUDE_CONFIG_DIR", otherwise=host.home(".claude"))


def _claude_server(host: Host) -> Path:
    return host.named("CLAUDE_CONFIG_DIR", otherwise=host.home()) / ".claude.json"


def _claude_desktop(host: Host) -> Path:
    usual = host.app_data() / "Claude"
    if host.platform != "win32" or usual.is_dir():
        return usual
    local = host.named("LOCALAPPDATA", otherwise=host.home("AppData", "Local"))
    stores = [*local.glob("Claude-Data/[Cc]laude*"), *local.glob("Packages/Claude_*/LocalCache/Roaming/Claude")]
    return next(iter(sorted(stores)), usual)


def _codex(host: Host) -> Path:
    return host.named("CODEX_HOME", otherwise=host.home(".codex"))


def _qwen(host: Host) -> Path:
    return host.named("QWEN_HOME", otherwise=host.home(".qwen"))


def _gemini(host: Host) -> Path:
    return host.named("GEMINI_CLI_HOME", otherwise=host.home()) / ".gemini"


def _cursor(host: Host) -> Path:
    return host.home(".cursor")


def _vscode(host: Host) -> Path:
    portable = host.environ.get("VSCODE_PORTABLE", "")
    return Path(portable) / "user-data" if portable else host.app_data() / "Code"


def _windsurf(host: Host) -> Path:
    return host.home(".codeium", "windsurf")


def _zed(host: Host) -> Path:
    if host.platform == "win32":
        return host.app_data() / "Zed"
    return (host.home(".config") if host.platform == "darwin" else host.config()) / "zed"


def _opencode(host: Host) -> Path:
    return host.config() / "opencode"


def _opencode_server(host: Host) -> Path:
    commented = _opencode(host) / "opencode.jsonc"
    return commented if commented.exists() else commented.with_suffix(".json")


# -- what ---------------------------------------------------------------------------------------------------


def _usual(command: Command, **more: str) -> Entry:
    entry = {**more, "command": command.words[0], "args": list(command.words[1:])}
    return {**entry, "env": command.environment} if command.environment else entry


def _of_opencode(command: Command) -> Entry:
    entry: Entry = {"type": "local", "command": list(command.words)}
    return {**entry, "environment": command.environment} if command.environment else entry


def _added(*options: str, environment: str = "-e") -> Callable[[Command], list[str]]:
    """What comes after the name is the environment, and after ``--`` the program with its arguments."""
    return lambda command: [
        *("mcp", "add", *options, NAME),
        *(word for name, value in command.environment.items() for word in (environment, f"{name}={value}")),
        *("--", *command.words),
    ]


def _added_first(command: Command) -> list[str]:
    """The environment comes before the name, and after ``--`` the program's arguments alone."""
    program, *arguments = command.words
    set_to = (word for name, value in command.environment.items() for word in ("-e", f"{name}={value}"))
    return ["mcp", "add", "--scope", "user", *set_to, NAME, program, *(("--", *arguments) if arguments else ())]


_SERVERS = ("mcpServers", NAME)
_typed = partial(_usual, type="stdio")
_LIFE = ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "SessionEnd")

CLIENTS: Mapping[str, Client] = {
    "claude-code": Client(
        "Claude Code",
        "claude",
        _claude,
        _claude_server,
        _SERVERS,
        _typed,
        ("claude-code",),
        adding=Adding(_added("--scope", "user"), "CLAUDE_CONFIG_DIR"),
        hooks=_below(_claude, "settings.json"),
        events=("SessionStart", "UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "Stop", "SessionEnd"),
        plugin="memp@memp-mcp",
    ),
    "claude-desktop": Client(
        "Claude Desktop",
        "claude-desktop",
        _claude_desktop,
        _below(_claude_desktop, "claude_desktop_config.json"),
        _SERVERS,
        _usual,
        ("claude-ai", "claude-desktop"),
    ),
    "codex": Client(
        "Codex",
        "codex",
        _codex,
        _below(_codex, "config.toml"),
        ("mcp_servers", NAME),
        _usual,
        ("codex",),
        adding=Adding(_added(environment="--env"), "CODEX_HOME"),
        hooks=_below(_codex, "hooks.json"),
        events=_LIFE,
        advice="Codex runs hooks only once you have trusted them: start it, and say so under /hooks.",
    ),
    "qwen-code": Client(
        "Qwen Code",
        "qwen",
        _qwen,
        _below(_qwen, "settings.json"),
        _SERVERS,
        _usual,
        ("qwen-",),
        adding=Adding(_added_first, "QWEN_HOME"),
        hooks=_below(_qwen, "settings.json"),
        events=("SessionStart", "UserPromptSubmit", "PostToolUse", "PostToolUseFailure", "Stop", "SessionEnd"),
        ticks=1000,
    ),
    "gemini-cli": Client(
        "Gemini CLI",
        "gemini",
        _gemini,
        _below(_gemini, "settings.json"),
        _SERVERS,
        _usual,
        ("gemini-cli",),
        adding=Adding(_added_first, "GEMINI_CLI_HOME"),
        hooks=_below(_gemini, "settings.json"),
        events=("SessionStart", "BeforeAgent", "AfterTool", "AfterAgent", "SessionEnd"),
        ticks=1000,
    ),
    "cursor": Client(
        "Cursor",
        "cursor",
        _cursor,
        _below(_cursor, "mcp.json"),
        _SERVERS,
        _usual,
        ("cursor",),
        hooks=_below(_cursor, "hooks.json"),
        events=("sessionStart", "beforeSubmitPrompt", "postToolUse", "postToolUseFailure", "stop", "sessionEnd"),
        flat=True,
    ),
    "vscode": Client(
        "VS Code",
        "code",
        _vscode,
        _below(_vscode, "User", "mcp.json"),
        ("servers", NAME),
        _typed,
        ("visual studio code", "vscode"),
    ),
    "windsurf": Client(
        "Windsurf", "windsurf", _windsurf, _below(_windsurf, "mcp_config.json"), _SERVERS, _usual, ("windsurf",)
    ),
    "zed": Client("Zed", "zed", _zed, _below(_zed, "settings.json"), ("context_servers", NAME), _usual, ("zed",)),
    "opencode": Client("opencode", "opencode", _opencode, _opencode_server, ("mcp", NAME), _of_opencode, ("opencode",)),
}


def known_as(name: str) -> str:
    """The client that calls itself *name* over MCP; nothing if it is none of these."""
    own = name.lower()
    return next((client for client, known in CLIENTS.items() if own.startswith(known.names)), "")


def is_there(name: str, host: Host) -> bool:
    """Whether a client is on this machine: its folder exists, or its command does."""
    known = CLIENTS[name]
    return known.folder(host).is_dir() or shutil.which(known.program, path=host.environ.get("PATH", "")) is not None


def parts(client: str, host: Host) -> dict[Path, tuple[Part, ...]]:
    """The files of a client's configuration, and what each of them gets."""
    known = CLIENTS[client]
    files: dict[Path, tuple[Part, ...]] = {known.server(host): ("server",)}
    if known.hooks is not None:
        file = known.hooks(host)
        files[file] = (*files.get(file, ()), "hooks")
    return files


def timeout(client: str, event: str) -> int:
    """After what time a client ends a hook: far more than it takes, and for Codex no more than it allows.

    Qwen Code 0.24 counts in seconds, but takes a thousand and more as milliseconds, as older ones take any number.
    """
    seconds = 3 if (client, event) == ("codex", "SessionEnd") else 5
    return seconds * CLIENTS[client].ticks
