"""Joining clients: what stands in their configuration afterwards, and that everything else stays as it was."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

from memp_mcp import clients, entries, joining, json_edit
from memp_mcp.cli import main
from memp_mcp.clients import CLIENTS, Command, Host
from memp_mcp.entries import Found
from memp_mcp.errors import BadInput
from memp_mcp.joining import FileChange, carry_out, own_command
from memp_mcp.models import Event
from memp_mcp.store import Store

CACHE = Path(os.environ.get("CLIENTS_CACHE") or "~/.cache/memp-mcp/clients").expanduser()  # that of tests/e2e/clients
MOVING = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "QWEN_HOME", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME", "VSCODE_PORTABLE")
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

# What people have there: other servers, other hooks, and in the files of editors comments and trailing commas.
CONFIGURED = {
    "claude-code": {
        ".claude.json": """{
  "numStartups": 7,
  "mcpServers": {
    "docs": {"type": "http", "url": "http://x/"}
  }
}""",
        ".claude/settings.json": """{
  "permissions": {"allow": ["Bash(make:*)"]},
  "hooks": {
    "Stop": [{"hooks": [{"type": "command", "command": "notify-send done"}]}],
    "PreToolUse": []
  }
}
""",
    },
    "claude-desktop": {
        ".config/Claude/claude_desktop_config.json": '{"globalShortcut": "Ctrl+Space", "mcpServers": {}}\n'
    },
    "codex": {
        ".codex/config.toml": """# my own
model = "gpt-6"
notify = [
  "say",
  "done",
]

[mcp_servers.docs]  # the company's
command = "docs"

[mcp_servers.docs.env]
LEVEL = "1"

# one profile
[profiles.fast]
model = "gpt-6-mini"
""",
        ".codex/hooks.json": '{"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "say done"}]}]}}',
    },
    "qwen-code": {
        ".qwen/settings.json": """{
\t"model": {"name": "qwen"},
\t"mcpServers": {
\t\t"docs": {"command": "docs"}
\t}
}
""".replace("\n", "\r\n")
    },
    "gemini-cli": {
        ".gemini/settings.json": """{
    // spoken to by everybody
    "mcpServers": {"docs": {"command": "docs"}}, "hooks": {"AfterTool": [
        {"matcher": "run_shell_command", "hooks": [{"name": "log", "type": "command", "command": "log it"}]}
    ]}
}
"""
    },
    "cursor": {
        ".cursor/mcp.json": '{\n    "mcpServers": {\n    }\n}\n',
        ".cursor/hooks.json": """{
  "version": 1,
  "hooks": {
    "stop": [{"command": "./hooks/audit.sh", "loop_limit": 3}],
    "afterFileEdit": []
  }
}
""",
    },
    "vscode": {
        ".config/Code/User/mcp.json": """{
\t// ask for it once
\t"inputs": [{"type": "promptString", "id": "key", "password": true}],
\t"servers": { // all of them
\t\t"docs": {
\t\t\t"type": "http",
\t\t\t"url": "https://docs.example/mcp", /* not http */
\t\t},
\t},
}
"""
    },
    "windsurf": {".codeium/windsurf/mcp_config.json": "{}"},
    "zed": {
        ".config/zed/settings.json": """// Zed settings
//
// See the documentation.
{
  "theme": "One Dark", // at night
  "buffer_font_size": 15,
  /* "vim_mode": true, */
}
"""
    },
    "opencode": {
        ".config/opencode/opencode.jsonc": """{
  "$schema": "https://opencode.ai/config.json",
  "mcp": {
    // none yet
  },
}
"""
    },
}
SERVER = {
    "claude-code": (".claude.json", "mcpServers", "stdio"),
    "claude-desktop": (".config/Claude/claude_desktop_config.json", "mcpServers", None),
    "codex": (".codex/config.toml", "mcp_servers", None),
    "qwen-code": (".qwen/settings.json", "mcpServers", None),
    "gemini-cli": (".gemini/settings.json", "mcpServers", None),
    "cursor": (".cursor/mcp.json", "mcpServers", None),
    "vscode": (".config/Code/User/mcp.json", "servers", "stdio"),
    "windsurf": (".codeium/windsurf/mcp_config.json", "mcpServers", None),
    "zed": (".config/zed/settings.json", "context_servers", None),
    "opencode": (".config/opencode/opencode.jsonc", "mcp", "local"),
}
HOOKS = {
    "claude-code": ".claude/settings.json",
    "codex": ".codex/hooks.json",
    "qwen-code": ".qwen/settings.json",
    "gemini-cli": ".gemini/settings.json",
    "cursor": ".cursor/hooks.json",
}


class Machine:
    """A throw-away home directory, and the command line in it."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def has(self, client: str) -> None:
        """Put the client's folder there, as it is after its first start."""
        CLIENTS[client].folder(self.host()).mkdir(parents=True)

    def has_configured(self, client: str) -> None:
        """Put the client there with the configuration of somebody who uses it."""
        self.has(client)
        for name, text in CONFIGURED[client].items():
            self.write(name, text)

    def host(self) -> Host:
        """The machine as a client sees it."""
        return Host(dict(os.environ), "linux")

    def write(self, name: str, text: str) -> Path:
        """Put a file there."""
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        return file

    def files(self) -> dict[str, str]:
        """Everything in the home directory."""
        found = (p for p in self.home.rglob("*") if p.is_file())
        return {p.relative_to(self.home).as_posix(): p.read_bytes().decode() for p in found}

    def data(self, name: str) -> Any:
        """What a file says."""
        text = (self.home / name).read_bytes().decode()
        return tomllib.loads(text.removeprefix("\ufeff")) if name.endswith(".toml") else json_edit.read(text)

    def entry(self, client: str) -> Any:
        """The entry of this program in a client's configuration."""
        name, key, _ = SERVER[client]
        return self.data(name).get(key, {}).get("memp")

    def hooks(self, client: str, event: str) -> list[str]:
        """All commands that a client runs at an event."""
        groups = self.data(HOOKS[client]).get("hooks", {}).get(event, [])
        return [hook["command"] for group in groups for hook in group.get("hooks", [group])]

    def run(self, *argv: str, code: int = 0) -> str:
        """What a command prints."""
        assert main(argv, {k: v for k, v in os.environ.items() if k.startswith("MEMP_")}) == code
        return self._capsys.readouterr().out

    def error(self, *argv: str) -> str:
        """What a failing command says."""
        assert main(argv, {}) == 1
        return self._capsys.readouterr().err


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    home = tmp_path / "home"
    home.mkdir()
    for name in MOVING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return Machine(home, capsys)


def program() -> str:
    [word] = own_command({}).words
    return word


# -- install and uninstall ----------------------------------------------------------------------------------


def test_the_samples_are_of_every_client() -> None:
    assert set(CONFIGURED) == set(SERVER) == set(CLIENTS)
    assert set(HOOKS) == {name for name, client in CLIENTS.items() if client.hooks}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("state", ["has", "has_configured"])
def test_install_puts_the_server_where_the_client_looks_for_it(machine: Machine, client: str, state: str) -> None:
    getattr(machine, state)(client)
    if client == "opencode" and state == "has":
        machine.write(".config/opencode/opencode.jsonc", "{}")

    machine.run("install", client)

    kind = SERVER[client][2]
    started = {"command": [program()]} if client == "opencode" else {"command": program(), "args": []}
    assert machine.entry(client) == {**({"type": kind} if kind else {}), **started}


@pytest.mark.parametrize("client", HOOKS)
def test_install_puts_in_a_hook_for_each_event_beside_those_that_are_there(machine: Machine, client: str) -> None:
    machine.has_configured(client)
    before = {event: machine.hooks(client, event) for event in CLIENTS[client].events}

    machine.run("install", client)

    for event in CLIENTS[client].events:
        own = f"{program()} hook {event} --client {client} || true"
        assert machine.hooks(client, event) == [own, *before[event]]


@pytest.mark.parametrize(
    ("client", "timeout", "at_the_end"),
    [("claude-code", 5, 5), ("codex", 5, 3), ("qwen-code", 5000, 5000), ("gemini-cli", 5000, 5000), ("cursor", 5, 5)],
)
def test_a_hook_is_ended_after_seconds_as_the_client_counts_them(
    machine: Machine, client: str, timeout: int, at_the_end: int
) -> None:
    machine.has(client)

    machine.run("install", client)

    hooks = machine.data(HOOKS[client])["hooks"]
    timeouts = {event: groups[0].get("hooks", groups)[0]["timeout"] for event, groups in hooks.items()}
    assert timeouts == {event: at_the_end if event == "SessionEnd" else timeout for event in CLIENTS[client].events}


def test_cursors_hooks_stand_in_the_list_of_their_event_in_a_file_with_a_version(machine: Machine) -> None:
    machine.has("cursor")

    machine.run("install", "cursor")

    hooks = {
        event: [{"command": f"{program()} hook {event} --client cursor || true", "timeout": 5}]
        for event in CLIENTS["cursor"].events
    }
    assert machine.data(".cursor/hooks.json") == {"version": 1, "hooks": hooks}
    assert machine.files()[".cursor/hooks.json"].startswith('{\n  "version": 1,\n  "hooks"')
    [state] = json.loads(machine.run("status", "--json"))
    assert (state["hooks"], state["hooks_missing"]) == (list(CLIENTS["cursor"].events), [])


THEIRS = '"hooks": {"stop": [{"command": "say done"}]}'


@pytest.mark.parametrize("text", [f"{{{THEIRS}}}", f'{{"version": 1, {THEIRS}}}', '{"version": 1}', "{}"])
def test_the_version_of_cursors_hooks_goes_only_where_it_was_not_before_and_is_not_needed(
    machine: Machine, text: str
) -> None:
    machine.has("cursor")
    file = machine.write(".cursor/hooks.json", text)

    machine.run("install", "cursor")
    assert machine.data(".cursor/hooks.json")["version"] == 1
    machine.run("uninstall", "cursor")
    assert file.read_text() == text

    machine.run("install", "cursor")
    data = machine.data(".cursor/hooks.json")
    data["hooks"].setdefault("sessionEnd", []).append({"command": "say good-bye"})
    machine.write(".cursor/hooks.json", json.dumps(data))
    machine.run("uninstall", "cursor")
    assert machine.data(".cursor/hooks.json")["version"] == 1
    assert machine.hooks("cursor", "sessionEnd") == ["say good-bye"]


@pytest.mark.parametrize("begins", [{"seen": 1}, {}])
def test_cursors_hooks_that_somebody_has_written_anew_go_with_their_version(
    machine: Machine, begins: dict[str, Any]
) -> None:
    machine.has("cursor")
    machine.run("install", "cursor")
    machine.write(".cursor/hooks.json", json.dumps({**begins, **machine.data(".cursor/hooks.json")}))

    machine.run("uninstall", "cursor")

    left = machine.files().get(".cursor/hooks.json")
    assert json.loads(left or "{}") == ({**begins, "version": 1} if begins else {})
    assert (left is None) == (not begins)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_second_install_changes_nothing(machine: Machine, client: str) -> None:
    machine.has_configured(client)
    machine.run("install", client)
    once = machine.files()

    assert "nothing to change" in machine.run("install", client)

    assert machine.files() == once


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("state", ["has", "has_configured"])
def test_uninstall_leaves_every_file_as_it_was_to_the_byte(machine: Machine, client: str, state: str) -> None:
    getattr(machine, state)(client)
    before = machine.files()
    machine.run("install", client)
    assert machine.files() != before

    machine.run("uninstall", client)

    assert machine.files() == before
    assert "nothing to change" in machine.run("uninstall", client)


@pytest.mark.parametrize("client", ["codex", "qwen-code", "vscode", "zed", "opencode"])
def test_install_only_adds_lines(machine: Machine, client: str) -> None:
    machine.has_configured(client)

    machine.run("install", client)

    name = SERVER[client][0]
    added = difflib.ndiff(CONFIGURED[client][name].splitlines(), machine.files()[name].splitlines())
    assert {line[0] for line in added} == {" ", "+"}


@pytest.mark.parametrize("client", CLIENTS)
def test_the_file_is_kept_as_it_was_while_the_client_is_joined(machine: Machine, client: str) -> None:
    machine.has_configured(client)

    told = machine.run("install", client)

    for name, text in CONFIGURED[client].items():
        assert (machine.home / f"{name}.before-memp").read_bytes().decode() == text
        assert f"{Path(name).name}.before-memp" in told


@pytest.mark.parametrize("client", CLIENTS)
def test_a_dry_run_shows_the_change_and_changes_nothing(machine: Machine, client: str) -> None:
    machine.has_configured(client)
    before = machine.files()

    told = machine.run("install", client, "--dry-run")

    assert machine.files() == before
    for name in CONFIGURED[client]:
        assert f"+++ {machine.home / name}" in told
    machine.run("install", client)
    joined = machine.files()
    assert "\n-" in machine.run("uninstall", client, "--dry-run")
    assert machine.files() == joined


def test_a_file_of_one_long_line_is_shown_in_those_that_change(machine: Machine) -> None:
    file = machine.home / ".cursor" / "mcp.json"
    file.parent.mkdir(parents=True)
    others = {f"server-{i}": {"command": f"program-{i}"} for i in range(30)}
    file.write_text(json.dumps({"mcpServers": others}), encoding="utf-8")

    told = machine.run("install", "cursor", "--dry-run")

    assert '+    "memp": {' in told
    assert "program-3" not in told


def test_what_becomes_one_long_line_is_shown_against_the_same_layout(machine: Machine) -> None:
    machine.has("codex")
    machine.write(".codex/hooks.json", '{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"theirs"}]}]}}')

    told = machine.run("install", "codex", "--dry-run")

    taken_away = [line for line in told.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert taken_away == []
    assert "laid out to be read" in told
    assert "without --dry-run" in told


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("broken", ["{", "\x00", "[1, 2"])
def test_a_file_that_cannot_be_read_is_refused_and_left(machine: Machine, client: str, broken: str) -> None:
    machine.has_configured(client)
    machine.write(SERVER[client][0], broken)
    before = machine.files()

    for command in ("install", "uninstall"):
        assert f"{machine.home / SERVER[client][0]} stays as it is: " in machine.error(command, client)

    assert machine.files() == before


def test_a_file_in_another_encoding_is_refused_and_left(machine: Machine) -> None:
    machine.has("cursor")
    file = machine.home / ".cursor" / "mcp.json"
    file.write_bytes('{"naïve": 1}'.encode("latin-1"))

    assert "it is no UTF-8" in machine.error("install", "cursor")

    assert file.read_bytes() == '{"naïve": 1}'.encode("latin-1")


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ("cursor", '{"mcpServers": []}'),
        ("cursor", "[]"),
        ("claude-code", '{"mcpServers": {"memp": 1, "memp": {}}, "mcpServers": "none"}'),
        ("codex", 'mcp_servers = { docs = { command = "docs" } }\n'),
    ],
)
def test_a_file_with_no_room_for_the_server_is_refused_and_left(machine: Machine, client: str, text: str) -> None:
    machine.has(client)
    file = machine.write(SERVER[client][0], text)

    assert "stays as it is" in machine.error("install", client)

    assert file.read_text() == text


def test_nothing_is_written_if_one_of_the_files_is_refused(machine: Machine) -> None:
    machine.has_configured("cursor")
    machine.has_configured("codex")
    machine.write(".codex/hooks.json", '{"hooks": {"Stop": {}}}')
    before = machine.files()

    assert "hooks.Stop is no list" in machine.error("install", "cursor", "codex")

    assert machine.files() == before


def test_a_client_that_is_not_on_this_machine_is_refused(machine: Machine) -> None:
    told = machine.error("install", "cursor")

    assert f"neither {machine.home / '.cursor'} nor a command `cursor`" in told
    assert machine.files() == {}


def test_a_client_is_on_this_machine_if_its_command_is(machine: Machine, tmp_path: Path) -> None:
    command = tmp_path / "bin" / "cursor"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)

    machine.run("install", "cursor")

    assert machine.entry("cursor")["command"] == program()


# -- what has been changed by others meanwhile ---------------------------------------------------------------


def test_what_was_added_after_install_stays_after_uninstall(machine: Machine) -> None:
    machine.has_configured("vscode")
    machine.run("install", "vscode")
    file = machine.home / SERVER["vscode"][0]
    added = file.read_text().replace('\t"inputs"', '\t// added later\n\t"more": 1,\n\t"inputs"')
    file.write_text(added)

    machine.run("uninstall", "vscode")

    before = CONFIGURED["vscode"][SERVER["vscode"][0]]
    assert file.read_text() == before.replace('\t"inputs"', '\t// added later\n\t"more": 1,\n\t"inputs"')


@pytest.mark.parametrize("client", ["claude-code", "claude-desktop", "qwen-code", "cursor", "windsurf"])
def test_uninstall_finds_its_own_in_a_file_that_the_client_has_written_anew(machine: Machine, client: str) -> None:
    machine.has_configured(client)
    before = {name: machine.data(name) for name in CONFIGURED[client]}
    machine.run("install", client)
    for name in CONFIGURED[client]:
        data = {**dict(reversed(machine.data(name).items())), "seen": 1}
        machine.write(name, json.dumps(data, indent=4))

    machine.run("uninstall", client)

    assert {name: machine.data(name) for name in CONFIGURED[client]} == {n: {**d, "seen": 1} for n, d in before.items()}


def test_tables_that_others_have_added_to_codex_stay_with_their_comments(machine: Machine) -> None:
    machine.has_configured("codex")
    machine.run("install", "codex")
    file = machine.home / ".codex/config.toml"
    file.write_text(
        f"{file.read_text()}\n[mcp_servers.memp.tools.recall]\nenabled = true\n\n# theirs\n[other]\na = 1\n"
    )

    machine.run("uninstall", "codex")

    assert file.read_text() == f"{CONFIGURED['codex']['.codex/config.toml']}\n# theirs\n[other]\na = 1\n"


def test_what_the_user_has_set_in_the_entry_stays_when_it_is_installed_again(machine: Machine) -> None:
    machine.has("codex")
    machine.has("cursor")
    theirs = '[mcp_servers.memp]\ncommand = "/gone/memp-mcp"\nenv = { MEMP_FLOOR = "0.4" }\n'
    theirs += 'required = true\nstartup_timeout_sec = 2.5\nenabled_tools = ["recall_procedure"]\ntools = {}\n'
    machine.write(".codex/config.toml", theirs)
    machine.write(".cursor/mcp.json", '{"mcpServers": {"memp": {"command": "memp-mcp", "env": {"MEMP_FLOOR": "0.4"}}}}')

    machine.run("install", "codex", "cursor", "--home", "/memory")

    env = {"MEMP_FLOOR": "0.4", "MEMP_HOME": "/memory"}
    kept = {"required": True, "startup_timeout_sec": 2.5, "enabled_tools": ["recall_procedure"], "tools": {}}
    assert machine.entry("codex") == {"command": program(), "args": [], "env": env, **kept}
    assert machine.entry("cursor") == {"command": program(), "args": [], "env": env}


def test_an_entry_that_cannot_be_written_again_is_refused(machine: Machine) -> None:
    machine.has("codex")
    theirs = '[mcp_servers.memp]\ncommand = "memp-mcp"\nsince = 2026-01-01\n'
    file = machine.write(".codex/config.toml", theirs)

    assert "change it by hand" in machine.error("install", "codex")

    assert file.read_text() == theirs


def test_a_hook_of_an_earlier_install_is_replaced(machine: Machine) -> None:
    machine.has("codex")
    theirs = {"type": "command", "command": "say memp-mcp"}
    older = {"type": "command", "command": "'/gone/my venv/memp-mcp' hook Stop --client codex"}
    machine.write(
        ".codex/hooks.json", json.dumps({"hooks": {"Stop": [{"hooks": [older]}, {"hooks": [theirs, older]}]}})
    )

    machine.run("install", "codex")

    assert machine.hooks("codex", "Stop") == [f"{program()} hook Stop --client codex || true", "say memp-mcp"]


def test_a_file_that_changed_since_it_was_read_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"theirs": 1}')

    with pytest.raises(BadInput, match="changed by somebody else just now"):
        carry_out(FileChange("cursor", file, "{}", '{"ours": 1}'))

    assert file.read_text() == '{"theirs": 1}'


@pytest.mark.parametrize("client", CLIENTS)
def test_uninstall_leaves_what_the_client_has_written_into_a_file_that_install_made(
    machine: Machine, client: str
) -> None:
    machine.has(client)
    machine.run("install", client)
    name = SERVER[client][0].removesuffix("c")
    if name.endswith(".toml"):
        machine.write(name, f'model = "x"\n\n{machine.files()[name]}')
    else:
        machine.write(name, json.dumps({"token": "t", **machine.data(name)}))

    machine.run("uninstall", client)

    assert list(machine.files()) == [name]
    assert machine.data(name) == ({"model": "x"} if name.endswith(".toml") else {"token": "t"})


def test_the_kept_file_goes_with_the_entry_whoever_takes_that_out(machine: Machine) -> None:
    machine.has_configured("windsurf")
    machine.run("install", "windsurf")
    machine.write(".codeium/windsurf/mcp_config.json", '{"mcpServers": {"theirs": {"command": "x"}}}')

    assert "mcp_config.json.before-memp is gone" in machine.run("uninstall", "windsurf")

    assert machine.files() == {".codeium/windsurf/mcp_config.json": '{"mcpServers": {"theirs": {"command": "x"}}}'}


def test_a_kept_file_whose_successor_is_gone_goes_too(machine: Machine) -> None:
    machine.has("cursor")
    machine.run("install", "cursor")
    (machine.home / ".cursor/mcp.json").unlink()

    machine.run("uninstall", "cursor")

    assert machine.files() == {}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("text", ["", "\n", " \r\n\t\r\n", "\ufeff", "\ufeff\n"])
def test_an_empty_file_is_as_empty_after_uninstall(machine: Machine, client: str, text: str) -> None:
    machine.has(client)
    files = dict.fromkeys(CONFIGURED[client], text)
    for name in files:
        machine.write(name, text)

    machine.run("install", client)
    assert machine.entry(client)
    machine.run("uninstall", client)

    assert machine.files() == files


@pytest.mark.parametrize("text", ["// nothing yet", "\n/* nothing\nyet */\r\n// at all\r\n"])
def test_a_file_of_comments_alone_keeps_them(machine: Machine, text: str) -> None:
    machine.has("zed")
    machine.write(".config/zed/settings.json", text)

    machine.run("install", "zed")
    assert machine.entry("zed")
    assert machine.files()[".config/zed/settings.json"].startswith(text)
    machine.run("uninstall", "zed")

    assert machine.files() == {".config/zed/settings.json": text}


def test_an_empty_file_in_which_the_client_has_written_since_keeps_that(machine: Machine) -> None:
    machine.has("cursor")
    machine.write(".cursor/mcp.json", "")
    machine.run("install", "cursor")
    machine.write(".cursor/mcp.json", json.dumps({"token": "t", **machine.data(".cursor/mcp.json")}))

    machine.run("uninstall", "cursor")

    assert machine.files() == {".cursor/mcp.json": '{"token": "t"}'}


def test_a_file_that_install_has_not_made_stays_though_nothing_is_left_in_it(machine: Machine) -> None:
    machine.has("cursor")
    machine.write(".cursor/mcp.json", '{"mcpServers": {"memp": {"command": "memp-mcp", "args": []}}}')
    machine.run("install", "cursor")

    machine.run("uninstall", "cursor")

    assert list(machine.files()) == [".cursor/mcp.json"]
    assert machine.data(".cursor/mcp.json") == {}


# -- entries of others, and by other ways ----------------------------------------------------------------------


def put_entry(machine: Machine, client: str, entry: dict[str, Any]) -> str:
    """Give a client an entry of this program's name, and nothing else; returns the file."""
    machine.has(client)
    name, key, _ = SERVER[client]
    if name.endswith(".toml"):
        lines = "".join(f"{k} = {json.dumps(v)}\n" for k, v in entry.items() if not isinstance(v, dict))
        tables = "".join(
            f"[{key}.memp.{k}]\n" + "".join(f"{json.dumps(x)} = {json.dumps(y)}\n" for x, y in v.items())
            for k, v in entry.items()
            if isinstance(v, dict)
        )
        machine.write(name, f"[{key}.memp]\n{lines}{tables}")
    else:
        machine.write(name, json.dumps({key: {"memp": entry}}))
    return name


def foreign(client: str) -> dict[str, Any]:
    if client == "opencode":
        return {"type": "local", "command": ["other-prog", "a"], "environment": {"KEY": "k"}}
    return {"command": "other-prog", "args": ["a"], "env": {"KEY": "k"}}


@pytest.mark.parametrize("client", CLIENTS)
def test_an_entry_of_another_program_is_neither_replaced_nor_taken_out(machine: Machine, client: str) -> None:
    name = put_entry(machine, client, foreign(client))
    before = machine.files()

    assert f"{name} stays as it is: its entry memp is of other-prog a, which --force" in machine.error(
        "install", client
    )
    assert f"{name} keeps its entry memp: it is of other-prog a." in machine.run("uninstall", client)

    assert machine.files() == before


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("written_anew", [False, True])
def test_an_entry_that_was_replaced_by_force_is_given_back(
    machine: Machine,
    client: str,
    written_anew: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    name = put_entry(machine, client, foreign(client))
    before = machine.data(name)

    machine.run("install", client, "--force")
    assert program() in str(machine.entry(client))
    assert "KEY" not in str(machine.entry(client))
    if written_anew:
        text = machine.files()[name]
        machine.write(name, f"a = 1\n{text}" if name.endswith(".toml") else json.dumps({"a": 1, **machine.data(name)}))
    machine.run("uninstall", client)

    assert machine.data(name) == ({"a": 1, **before} if written_anew else before)
    assert not list(machine.home.rglob("*.before-memp"))


BY_HAND = [
    {"command": "memp-mcp"},
    {"command": "/opt/venv/bin/memp-mcp", "args": ["serve"]},
    {"command": r"C:\venv\Scripts\memp-mcp.exe"},
    {"command": "uvx", "args": ["memp-mcp"]},
    {"command": "uvx memp-mcp@0.1.0"},
    {"command": "uv", "args": ["tool", "run", "--from", "memp-mcp[team]==0.1", "memp-mcp"]},
    {"command": "python3", "args": ["-P", "-m", "memp_mcp"]},
    {"type": "http", "url": "http://127.0.0.1:8765/mcp"},
    {"httpUrl": "http://localhost:8765/mcp"},
]
NOT_OURS = [
    {"command": "memp"},
    {"command": "node", "args": ["/src/memp-mcp/server.js"]},
    {"command": "memp-mcp-other"},
    {"command": "my-memp-mcp"},
    {"url": "https://memory.example/mcp"},
    {"url": "http://127.0.0.1:8765/mcp@evil.example"},
    {},
]


@pytest.mark.parametrize("entry", BY_HAND, ids=str)
def test_an_entry_that_was_made_by_hand_is_known_and_taken_out(machine: Machine, entry: dict[str, Any]) -> None:
    put_entry(machine, "cursor", entry)

    [state] = json.loads(machine.run("status", "--json"))
    machine.run("uninstall", "cursor")

    assert (state["registered"], state["another_program"]) == (True, False)
    assert machine.files() == {".cursor/mcp.json": "{}"}


@pytest.mark.parametrize("entry", NOT_OURS, ids=str)
def test_an_entry_is_not_ours_for_its_name_alone(machine: Machine, entry: dict[str, Any]) -> None:
    put_entry(machine, "cursor", entry)

    [state] = json.loads(machine.run("status", "--json"))

    assert (state["registered"], state["another_program"]) == (False, True)
    assert "nothing to change" in machine.run("uninstall", "cursor")


@pytest.mark.parametrize("client", CLIENTS)
def test_an_entry_that_named_an_address_starts_the_program_and_nothing_else(machine: Machine, client: str) -> None:
    remote = {"headers": {"Authorization": "Bearer x"}, "http_headers": {"X": "y"}, "bearer_token_env_var": "TOKEN"}
    switched_off = {"disabled": True, "enabled": False}
    address = "serverUrl" if client == "windsurf" else "url"
    theirs = {"type": "http", address: "http://127.0.0.1:8765/mcp", **remote, **switched_off, "timeout": 7}
    put_entry(machine, client, theirs)

    machine.run("install", client)

    kind = SERVER[client][2]
    started = {"command": [program()]} if client == "opencode" else {"command": program(), "args": []}
    assert machine.entry(client) == {**({"type": kind} if kind else {}), **started, "timeout": 7}


def test_what_says_that_an_entry_is_on_stays(machine: Machine) -> None:
    put_entry(machine, "zed", {"command": "memp-mcp", "enabled": True, "type": "stdio", "disabled": False})

    machine.run("install", "zed")

    on = {"enabled": True, "type": "stdio", "disabled": False}
    assert machine.entry("zed") == {"command": program(), "args": [], **on}


# -- the plugin -----------------------------------------------------------------------------------------------


def test_hooks_that_the_plugin_brings_are_not_put_in_twice(machine: Machine) -> None:
    machine.has("claude-code")
    machine.run("install", "claude-code")
    settings = machine.data(".claude/settings.json")
    machine.write(".claude/settings.json", json.dumps({**settings, "enabledPlugins": {"memp@memp-mcp": True}}))
    assert "twice: by the plugin too" in " ".join(machine.run("status").split())

    told = machine.run("install", "claude-code")

    assert "Claude Code has the plugin memp@memp-mcp" in told
    assert "hooks" not in machine.data(".claude/settings.json")
    [state] = json.loads(machine.run("status", "--json"))
    assert (state["registered"], state["plugin"], state["hooks"]) == (True, True, [])
    assert "yes and by the plugin by the plugin" in " ".join(machine.run("status").split())
    assert "keeps the plugin memp@memp-mcp" in machine.run("uninstall", "claude-code")
    assert "by the plugin by the plugin" in " ".join(machine.run("status").split())


def test_a_plugin_that_is_off_brings_nothing(machine: Machine) -> None:
    machine.has("claude-code")
    machine.write(".claude/settings.json", '{"enabledPlugins": {"memp@memp-mcp": false}}')

    told = machine.run("install", "claude-code")

    assert "has the plugin" not in told
    assert machine.hooks("claude-code", "Stop")


# -- the file itself -----------------------------------------------------------------------------------------


def test_a_link_stays_a_link_and_modes_stay(machine: Machine) -> None:
    machine.has("claude-code")
    kept = machine.write("dotfiles/claude.json", '{"key": 1}')
    kept.chmod(0o640)
    link = machine.home / ".claude.json"
    link.symlink_to(kept)

    machine.run("install", "claude-code")

    assert link.is_symlink()
    assert machine.entry("claude-code")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert stat.S_IMODE((machine.home / ".claude.json.before-memp").stat().st_mode) == 0o640
    assert stat.S_IMODE((machine.home / ".claude/settings.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("read_only", [".claude.json", ".claude/settings.json", ".claude"])
def test_nothing_is_written_if_one_of_the_files_or_folders_is_read_only(machine: Machine, read_only: str) -> None:
    machine.has_configured("claude-code")
    (machine.home / read_only).chmod(0o555)
    as_a_user = () if os.geteuid() else ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # root may write it all
    command = [*as_a_user, sys.executable, "-m", "memp_mcp", "install", "claude-code"]

    told = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": os.defpath})

    (machine.home / read_only).chmod(0o755)
    assert f"{machine.home / read_only} is read-only, so nothing was changed" in told.stderr
    assert told.returncode == 1
    assert machine.files() == CONFIGURED["claude-code"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has_configured("cursor")
    before = machine.files()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    assert f"No space left on device: {machine.home / '.cursor/mcp.json'}" in machine.error("install", "cursor")
    assert machine.files() == before


def test_secrets_beside_the_change_are_not_shown(machine: Machine) -> None:
    machine.has("cursor")
    secret = "ghp_" + "a1B2" * 9
    env = {"GITHUB_TOKEN": secret}
    machine.write(".cursor/mcp.json", json.dumps({"mcpServers": {"github": {"command": "gh", "env": env}}}))

    told = machine.run("install", "cursor")

    assert '"memp"' in told
    assert secret not in told
    assert secret in (machine.home / ".cursor/mcp.json").read_text()


# -- options -------------------------------------------------------------------------------------------------


def test_no_hooks_means_the_server_alone_also_afterwards(machine: Machine) -> None:
    machine.has_configured("claude-code")
    settings = CONFIGURED["claude-code"][".claude/settings.json"]

    machine.run("install", "claude-code", "--no-hooks")
    assert (machine.home / ".claude/settings.json").read_text() == settings
    machine.run("install", "claude-code")
    assert (machine.home / ".claude/settings.json").read_text() != settings
    machine.run("install", "claude-code", "--no-hooks")

    assert (machine.home / ".claude/settings.json").read_text() == settings
    assert machine.entry("claude-code")


def test_without_hooks_the_file_that_had_nothing_else_is_gone(machine: Machine) -> None:
    machine.has("cursor")
    machine.run("install", "cursor")

    machine.run("install", "cursor", "--no-hooks")

    assert machine.entry("cursor")
    assert not (machine.home / ".cursor/hooks.json").exists()


def test_without_hooks_nothing_but_the_entry_is_left_in_a_file_of_both(machine: Machine) -> None:
    machine.has_configured("gemini-cli")
    machine.run("install", "gemini-cli")

    machine.run("install", "gemini-cli", "--no-hooks")

    assert machine.entry("gemini-cli")
    assert machine.data(".gemini/settings.json")["hooks"].keys() == {"AfterTool"}
    machine.run("uninstall", "gemini-cli")
    assert machine.files() == CONFIGURED["gemini-cli"]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_memory_elsewhere_goes_into_the_entry_and_the_hooks_and_stays(machine: Machine, client: str) -> None:
    machine.has_configured(client)
    name = "environment" if client == "opencode" else "env"

    machine.run("install", client, "--home", "/my memory")
    machine.run("install", client)

    assert machine.entry(client)[name] == {"MEMP_HOME": "/my memory"}
    if client in HOOKS:
        start = CLIENTS[client].events[0]
        [own] = [line for line in machine.hooks(client, start) if "memp-mcp" in line]
        assert own.endswith(f"hook {start} --client {client} --home '/my memory' || true")


def test_the_home_that_is_set_for_the_shell_is_set_for_the_client(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("zed")
    monkeypatch.setenv("MEMP_HOME", "~/memory")

    machine.run("install", "zed")

    assert machine.entry("zed")["env"] == {"MEMP_HOME": str(machine.home / "memory")}


def test_what_is_left_to_do_is_said(machine: Machine) -> None:
    machine.has("codex")

    told = machine.run("install", "codex", "codex")

    assert "Restart Codex." in told
    assert "trusted" in told
    assert "trusted" not in machine.run("uninstall", "codex")


def test_the_changes_are_data_with_json(machine: Machine) -> None:
    machine.has("windsurf")

    [change] = json.loads(machine.run("install", "windsurf", "--json"))

    file = str(machine.home / ".codeium/windsurf/mcp_config.json")
    assert (change["client"], change["file"], change["written"]) == ("windsurf", file, True)
    assert change["diff"].startswith(f"--- {os.devnull}\n+++ {file}\n")


# -- where clients keep their configuration ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "variable", "files"),
    [
        ("claude-code", "CLAUDE_CONFIG_DIR", [".claude.json", "settings.json"]),
        ("codex", "CODEX_HOME", ["config.toml", "hooks.json"]),
        ("qwen-code", "QWEN_HOME", ["settings.json"]),
        ("gemini-cli", "GEMINI_CLI_HOME", [".gemini/settings.json"]),
        ("zed", "XDG_CONFIG_HOME", ["zed/settings.json"]),
        ("opencode", "XDG_CONFIG_HOME", ["opencode/opencode.json"]),
        ("vscode", "VSCODE_PORTABLE", ["user-data/User/mcp.json"]),
    ],
)
def test_a_client_that_was_moved_is_joined_where_its_variable_says(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, client: str, variable: str, files: list[str]
) -> None:
    elsewhere = "~/elsewhere" if variable == "QWEN_HOME" else str(machine.home / "elsewhere")
    monkeypatch.setenv(variable, elsewhere)
    machine.has(client)

    machine.run("install", client)

    assert {n for n in machine.files() if not n.endswith(".before-memp")} == {f"elsewhere/{name}" for name in files}


@pytest.mark.parametrize(
    ("client", "platform", "file"),
    [
        ("claude-desktop", "darwin", "Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", "win32", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("vscode", "darwin", "Library/Application Support/Code/User/mcp.json"),
        ("vscode", "win32", "AppData/Roaming/Code/User/mcp.json"),
        ("zed", "darwin", ".config/zed/settings.json"),
        ("zed", "win32", "AppData/Roaming/Zed/settings.json"),
        ("opencode", "darwin", ".config/opencode/opencode.json"),
        ("claude-code", "win32", ".claude.json"),
    ],
)
def test_other_platforms_have_places_of_their_own(tmp_path: Path, client: str, platform: str, file: str) -> None:
    host = Host({"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}, platform)

    assert CLIENTS[client].server(host) == tmp_path / file


def test_claude_desktop_of_the_windows_store_is_found_in_its_package(tmp_path: Path) -> None:
    package = tmp_path / "AppData/Local/Packages/Claude_abc/LocalCache/Roaming/Claude"
    package.mkdir(parents=True)

    found = CLIENTS["claude-desktop"].server(Host({"USERPROFILE": str(tmp_path)}, "win32"))

    assert found == package / "claude_desktop_config.json"


def test_the_readme_names_every_client_and_those_with_hooks() -> None:
    section = README.split("\n## Connect a client\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]

    assert [row[0] for row in rows[2:]] == list(CLIENTS)
    assert {row[0] for row in rows[2:] if row[2]} == set(HOOKS)
    for client, file, hooks in rows[2:]:
        assert SERVER[client][0].rsplit("/", 1)[-1].removesuffix("c") in file
        assert not hooks or hooks.startswith(("in the same file", f"`~/{HOOKS[client]}`"))


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_starts_in_a_project_with_modules_of_the_librarys_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logging.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    without_script = own_command({}).words

    for words in (own_command_words(), without_script):
        done = subprocess.run([*words, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


def own_command_words() -> tuple[str, ...]:
    """The script as it is installed, whatever a test has put in its place."""
    script = Path(sys.executable).with_name("memp-mcp")
    return (str(script),) if script.exists() else (sys.executable, "-P", "-m", "memp_mcp")


def test_from_an_environment_of_uvx_the_client_starts_uvx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "uv" / "archive-v0" / "x"))
    uvx = tmp_path / "uvx"
    uvx.write_text("")
    uvx.chmod(0o755)

    assert own_command({"UV": str(tmp_path / "uv")}).words == (str(uvx), "memp-mcp")
    assert own_command({"PATH": str(tmp_path)}).words == (str(uvx), "memp-mcp")
    with pytest.raises(BadInput, match=r"does not last\. Install it first, by `uv tool install memp-mcp`"):
        own_command({"PATH": ""})


def test_that_uvx_is_slow_for_hooks_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has("zed")
    uvx = machine.home / "uvx"
    uvx.write_text("")
    uvx.chmod(0o755)
    monkeypatch.setenv("UV", str(machine.home / "uv"))
    monkeypatch.setattr(sys, "prefix", str(machine.home / "archive-v0" / "x"))

    assert "uv tool install" in machine.run("install", "zed")
    assert "uv tool install" not in machine.run("install", "zed"), "nothing has changed"


@pytest.mark.parametrize(
    ("environment", "passes"),
    [
        ("/home/me/.cache/uv/archive-v0/igibXoYNkN", True),
        ("/home/me/.cache/pipx/4f3ab1c", True),
        ("/home/me/.local/share/pipx/venvs/memp-mcp", False),
        ("/home/me/.local/share/uv/tools/memp-mcp", False),
        ("/home/me/.cache/pypoetry/virtualenvs/shop-py3.12", False),
        ("/home/me/shop/.venv", False),
    ],
)
def test_environments_that_last_are_told_from_those_that_do_not(environment: str, passes: bool) -> None:  # noqa: FBT001 - a column of the table
    assert joining._passes(Path(environment)) is passes


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_the_line_of_a_hook_reaches_the_program_word_by_word_and_never_fails(tmp_path: Path) -> None:
    script = tmp_path / "it's here" / "memp-mcp"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nfor word; do echo "$word"; done; exit 2\n')
    script.chmod(0o755)
    command = Command((str(script),), "/my $memory")

    done = subprocess.run(
        ["sh", "-c", command.hook("codex", "Stop", "linux")], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == ["hook", "Stop", "--client", "codex", "--home", "/my $memory"]


def test_the_line_of_a_hook_is_quoted_for_windows() -> None:
    command = Command((r"C:\Users\a b\memp-mcp.exe",))

    line = command.hook("codex", "Stop", "win32")

    assert line == '"C:/Users/a b/memp-mcp.exe" hook Stop --client codex'
    text = entries.put("codex", Path("hooks.json"), "", Found(None, {"Stop": line}))
    assert entries.find("codex", Path("hooks.json"), text, ("hooks",)).hooks == {"Stop": line}


# -- status --------------------------------------------------------------------------------------------------


def test_status_says_of_each_client_here_whether_it_is_joined(machine: Machine) -> None:
    machine.has_configured("claude-code")
    machine.has("zed")
    machine.has("codex")
    machine.write(".config/zed/settings.json", '{"context_servers": {"memp": {"command": "/gone/memp-mcp"}}}')
    machine.run("install", "claude-code")

    claude, codex, zed = json.loads(machine.run("status", "--json"))

    assert (claude["client"], claude["registered"], claude["command_found"]) == ("claude-code", True, True)
    assert claude["hooks"] == list(CLIENTS["claude-code"].events)
    assert (codex["client"], codex["registered"], codex["hooks"]) == ("codex", False, [])
    assert codex["hooks_missing"] == list(CLIENTS["codex"].events)
    assert (zed["registered"], zed["command"], zed["command_found"]) == (True, ["/gone/memp-mcp"], False)
    told = machine.run("status")
    assert "/gone/memp-mcp (is not there)" in " ".join(told.split())
    assert not (machine.home / ".memp").exists()


def test_status_names_the_address_or_the_other_program(machine: Machine) -> None:
    put_entry(machine, "cursor", {"url": "http://127.0.0.1:8765/mcp"})
    put_entry(machine, "windsurf", {"serverUrl": "https://memory.example/mcp"})
    put_entry(machine, "opencode", foreign("opencode"))

    cursor, windsurf, opencode = (" ".join(line.split()) for line in machine.run("status").splitlines()[-3:])

    assert cursor == "cursor yes off http://127.0.0.1:8765/mcp"
    assert windsurf == "windsurf another program https://memory.example/mcp"
    assert opencode == "opencode another program other-prog a (is not there)"


def test_status_says_when_a_client_was_last_heard_of_and_what_it_recorded(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("codex")
    machine.has("cursor")
    monkeypatch.setenv("MEMP_HOME", str(tmp_path / "memory"))
    recorded = Event(kind="recorded", client="codex-mcp-client", trajectory_id="t_1")
    recalled = Event(kind="recall", client="codex", recall_id="r_1")
    Store.open(tmp_path / "memory").note(recorded, recalled, Event(kind="recall", client="somebody"))

    codex, cursor = json.loads(machine.run("status", "--json"))

    assert codex["last_trajectory"] == "t_1"
    assert codex["last_recorded"] == recorded.model_dump(mode="json")["at"]
    assert codex["last_seen"] == recalled.model_dump(mode="json")["at"]
    assert (cursor["last_seen"], cursor["last_trajectory"]) == (None, "")
    assert f"t_1 {recorded.at:%Y-%m-%d %H:%M}" in machine.run("status")


def test_status_tells_what_is_wrong_with_a_file_and_with_the_memory(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("cursor")
    machine.write(".cursor/mcp.json", "{")
    monkeypatch.setenv("MEMP_HOME", str(tmp_path / "memory"))
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "meta.json").write_text("{")

    told = " ".join(machine.run("status").split())
    [cursor] = json.loads(machine.run("status", "--json"))

    assert "cursor ? ?" in told
    assert f"{machine.home / '.cursor/mcp.json'}: line 1, column 2" in cursor["problem"]
    assert "memp-mcp doctor" in told


def test_status_of_a_machine_without_clients_finds_nothing(machine: Machine) -> None:
    assert "none of the clients" in machine.run("status", code=3)


@pytest.mark.parametrize(
    ("name", "client"),
    [
        ("claude-code", "claude-code"),
        ("claude-ai", "claude-desktop"),
        ("codex-mcp-client", "codex"),
        ("qwen-cli-mcp-client-memp", "qwen-code"),
        ("gemini-cli-mcp-client", "gemini-cli"),
        ("cursor-vscode", "cursor"),
        ("Visual Studio Code", "vscode"),
        ("windsurf-client", "windsurf"),
        ("Zed", "zed"),
        ("opencode", "opencode"),
        *((name, name) for name in CLIENTS),
        ("inspector-cli", ""),
        ("", ""),
    ],
)
def test_clients_are_known_by_what_they_call_themselves(name: str, client: str) -> None:
    assert clients.known_as(name) == client


# -- the client's own command --------------------------------------------------------------------------------


@pytest.fixture
def codex(machine: Machine, tmp_path: Path) -> Path:
    """A program `codex` on the path, of which a test says what it does when it is asked to put in a server."""
    file = tmp_path / "bin" / "codex"
    file.parent.mkdir()
    machine.has_configured("codex")
    return file


def does(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(0o755)


def test_what_the_clients_own_command_writes_is_what_stands_in_the_entry(machine: Machine, codex: Path) -> None:
    lines = (
        f'[mcp_servers.memp]\ncommand = "{program()}"\nkind = "of next year"\n[mcp_servers.memp.env]\nMEMP_HOME = "/m"'
    )
    does(
        codex,
        f"test \"$*\" = 'mcp add memp --env MEMP_HOME=/m -- {program()}' && echo '{lines}' > $CODEX_HOME/config.toml",
    )

    machine.run("install", "codex", "--home", "/m")

    entry = {"command": program(), "args": [], "kind": "of next year", "env": {"MEMP_HOME": "/m"}}
    assert machine.entry("codex") == entry
    assert "nothing to change" in machine.run("install", "codex")


def test_the_clients_own_command_gets_no_hold_of_the_users_configuration(machine: Machine, codex: Path) -> None:
    does(codex, "echo 'id = 1' > $CODEX_HOME/config.toml; echo seen > $CODEX_HOME/seen")
    before = machine.files()

    machine.run("install", "codex")
    assert "id" not in machine.data(".codex/config.toml")

    machine.run("uninstall", "codex")
    assert machine.files() == before


@pytest.mark.parametrize(
    "script",
    [
        "exit 2",
        "exit 0",
        "echo '[mcp_servers.memp' > $CODEX_HOME/config.toml",
        "printf '[mcp_servers.memp]\\ncommand = \"other\"\\n' > $CODEX_HOME/config.toml",
    ],
)
def test_a_command_that_does_not_do_it_is_done_without(machine: Machine, codex: Path, script: str) -> None:
    does(codex, script)

    machine.run("install", "codex")

    assert machine.entry("codex") == {"command": program(), "args": []}


# -- the real clients ----------------------------------------------------------------------------------------

REAL = {
    "claude-code": (["claude", "mcp", "list"], r"memp: .*memp.* - .*Connected"),
    "codex": (["codex", "mcp", "list"], r"memp\s+.*memp.*enabled"),
    "qwen-code": (["qwen", "mcp", "list"], r"memp: .*memp.*Connected"),
    "gemini-cli": (["gemini", "mcp", "list"], r"memp: .*memp.*Connected"),
    "opencode": (["opencode", "mcp", "list"], r"✓ memp.*connected"),
}
ADDED_BY = {
    "claude-code": ["claude", "mcp", "add", "memp", "--scope", "user", "-e", "MEMP_HOME=/m", "--"],
    "codex": ["codex", "mcp", "add", "memp", "--env", "MEMP_HOME=/m", "--"],
    "qwen-code": ["qwen", "mcp", "add", "--scope", "user", "-e", "MEMP_HOME=/m", "memp"],
    "gemini-cli": ["gemini", "mcp", "add", "--scope", "user", "-e", "MEMP_HOME=/m", "memp"],
}


@pytest.fixture
def real(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with the clients of the folders that TEST_CLIENTS names, as PATH does; else with those in the cache."""
    cached = os.pathsep.join(map(str, sorted(CACHE.glob("*/node_modules/.bin"))))
    folders = os.environ.get("TEST_CLIENTS") or cached
    node = shutil.which("node", path=os.defpath + os.pathsep + "/usr/local/bin")
    if not folders or node is None:
        pytest.skip(f"no real clients: TEST_CLIENTS names none, none is in {CACHE}, or there is no node")
    monkeypatch.setenv("PATH", os.pathsep.join([folders, str(Path(node).parent), os.defpath]))
    monkeypatch.setenv("GEMINI_CLI_TRUST_WORKSPACE", "true")
    monkeypatch.chdir(machine.home)
    return machine


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not among the clients of TEST_CLIENTS, or else in {CACHE}")


def asked(words: list[str]) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MEMP_")}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.parametrize("client", REAL)
def test_the_real_client_sees_what_was_put_in_and_no_more_once_it_is_out(real: Machine, client: str) -> None:
    words, listed = REAL[client]
    need(words[0])

    real.run("install", client)
    assert re.search(listed, asked(words))

    real.run("uninstall", client)
    assert not re.search(listed, asked(words))


@pytest.mark.parametrize("client", ADDED_BY)
@pytest.mark.parametrize("command", [("/opt/memp mcp",), ("/usr/bin/python3", "-P", "-m", "memp_mcp")])
@pytest.mark.parametrize("home", ["", "/a home"])
def test_the_real_client_is_asked_in_words_that_it_understands(
    real: Machine, client: str, command: tuple[str, ...], home: str
) -> None:
    need(CLIENTS[client].program)
    wanted = Command(command, home)
    adding = CLIENTS[client].adding
    assert adding is not None

    asked([CLIENTS[client].program, *adding.words(wanted)])

    file, parts = next(iter(clients.parts(client, real.host()).items()))
    found = entries.find(client, file, file.read_text(encoding="utf-8"), parts)
    assert (found.command, found.home) == (command, home)


@pytest.mark.parametrize("client", ADDED_BY)
def test_the_real_clients_own_command_writes_the_same_entry(real: Machine, client: str) -> None:
    need(ADDED_BY[client][0])

    asked([*ADDED_BY[client], program()])
    theirs = real.entry(client)
    real.run("uninstall", client)

    real.run("install", client, "--home", "/m")

    assert real.entry(client) == {"args": [], **theirs}
