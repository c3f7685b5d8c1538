"""What clients and registries install: each of their files tells the truth of the program, and the same version."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bundle
import links
import pytest
import skills_ref

import memp_mcp
from memp_mcp import entries
from memp_mcp.clients import CLIENTS, Command
from memp_mcp.entries import Found
from memp_mcp.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLUGIN = ROOT / "packaging" / "claude-code"


def loaded(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    parsed: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return parsed


def test_the_source_distribution_has_what_the_readme_tells_to_run() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    told = set(re.findall(r"(?:bash|python|pytest|python -m pytest) ((?:\.ci|packaging|tests)/[\w./]+)", README))

    assert {".ci/test", ".ci/run", "packaging/bundle.py"} <= told
    assert {path.partition("/")[0] for path in told} <= set(build["targets"]["sdist"]["include"])


def test_every_file_tells_the_same_version() -> None:
    registry = loaded("server.json")

    assert {
        memp_mcp.__version__,
        project()["version"],
        registry["version"],
        *(package["version"] for package in registry["packages"]),
        loaded("packaging/mcpb/manifest.json")["version"],
        loaded("packaging/claude-code/.claude-plugin/plugin.json")["version"],
    } == {memp_mcp.__version__}


def test_the_command_is_called_as_the_package_so_that_uvx_and_pipx_need_no_more() -> None:
    assert project()["scripts"] == {project()["name"]: "memp_mcp.__main__:main"}


# -- the wheel ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package index gets, built from this folder."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not here")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_program_and_none_besides(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    files = (path for path in (ROOT / "memp_mcp").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert {"memp_mcp/catalogue.json", "memp_mcp/report.html", "memp_mcp/py.typed"} <= names


def test_a_hook_needs_nothing_that_is_not_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Nothing else is installed: what it imported from elsewhere would end it with a traceback and status 1."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)
    event = {"session_id": "s", "transcript_path": str(tmp_path / "t.jsonl"), "cwd": str(tmp_path), "prompt": "go"}
    environ = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "MEMP_HOOK_SECONDS": "20"}

    for name in ("UserPromptSubmit", "Stop"):
        done = subprocess.run(
            [python.with_name("memp-mcp"), "hook", name, "--client", "codex"],
            input=json.dumps({**event, "hook_event_name": name}).encode(),
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    noted = [path for path in (tmp_path / ".memp").rglob("*") if path.is_file() and b"t.jsonl" in path.read_bytes()]
    assert noted, "the end of a turn is written down for the next server"


# -- the registry -------------------------------------------------------------------------------------------


def test_the_registry_finds_its_name_in_the_readme_that_the_package_shows() -> None:
    assert f"<!-- mcp-name: {loaded('server.json')['name']} -->" in README
    assert project()["readme"] == "README.md"


def test_the_registry_entry_names_the_package_and_settings_that_there_are() -> None:
    [package] = loaded("server.json")["packages"]

    assert package["identifier"] == project()["name"]
    for variable in package["environmentVariables"]:
        field = Settings.model_fields[variable["name"].removeprefix(PREFIX).lower()]
        assert variable["description"] == field.description


# -- Claude Code --------------------------------------------------------------------------------------------


def test_the_marketplace_points_at_the_plugin() -> None:
    [entry] = loaded(".claude-plugin/marketplace.json")["plugins"]
    plugin = loaded("packaging/claude-code/.claude-plugin/plugin.json")

    assert (ROOT / entry["source"]).resolve() == PLUGIN
    assert (entry["name"], entry["description"]) == (plugin["name"], plugin["description"])


def test_the_plugin_starts_the_documented_server() -> None:
    assert loaded("packaging/claude-code/.mcp.json") == loaded("claude_desktop_config.example.json")


def test_the_plugin_tells_each_event_to_the_program() -> None:
    hooks = loaded("packaging/claude-code/hooks/hooks.json")["hooks"]

    lines = {event: Command(("memp-mcp",)).hook("claude-code", event, "linux") for event in hooks}
    installed = entries.put("claude-code", Path("settings.json"), "", Found(None, lines))

    assert hooks == json.loads(installed)["hooks"]
    assert list(hooks) == list(CLIENTS["claude-code"].events)
    assert hooks["Stop"][0]["hooks"][0]["command"] == "memp-mcp hook Stop --client claude-code || true"


def test_the_plugin_is_looked_for_under_its_name() -> None:
    [entry] = loaded(".claude-plugin/marketplace.json")["plugins"]

    assert CLIENTS["claude-code"].plugin == f"{entry['name']}@{loaded('.claude-plugin/marketplace.json')['name']}"


def test_the_skill_of_the_plugin_is_valid_and_names_the_tools_that_there_are() -> None:
    folder = PLUGIN / "skills" / "procedural-memory"
    text = (folder / "SKILL.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+_\w+)`", text))

    assert skills_ref.validate(folder) == []
    assert {"recall_procedure", "record_trajectory", "reflect_failure"} <= named
    arguments = {name for tool in tools() for name in tool["inputSchema"]["properties"]}
    answers = {"when_not"}
    assert named <= {tool["name"] for tool in tools()} | arguments | answers


def tools() -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = loaded("memp_mcp/catalogue.json")["results"]
    found: list[dict[str, Any]] = next(r["tools"] for r in results if "tools" in r)
    return found


# -- Claude Desktop -----------------------------------------------------------------------------------------


def test_the_bundle_names_the_tools_as_the_server_does() -> None:
    manifest = loaded("packaging/mcpb/manifest.json")

    assert manifest["tools"] == [{"name": t["name"], "description": t["description"]} for t in tools()]


def test_the_bundle_starts_the_program_and_sets_only_what_is_a_setting() -> None:
    manifest = loaded("packaging/mcpb/manifest.json")
    start = manifest["server"]["mcp_config"]

    assert start["args"][-1] in project()["scripts"]
    assert {name.removeprefix(PREFIX).lower() for name in start["env"]} <= Settings.model_fields.keys()
    assert manifest["compatibility"]["runtimes"]["python"] == project()["requires-python"]
    for value in start["env"].values():
        assert re.fullmatch(r"\$\{user_config\.(\w+)\}", value)[1] in manifest["user_config"]  # type: ignore[index]  # the pattern has a group


def test_the_bundle_holds_the_program_and_nothing_else(tmp_path: Path) -> None:
    made = bundle.bundle(tmp_path / "a.mcpb")

    with zipfile.ZipFile(made) as archive:
        names = set(archive.namelist())
        assert archive.read("memp_mcp/catalogue.json") == (ROOT / "memp_mcp" / "catalogue.json").read_bytes()
        bundled = tomllib.loads(archive.read("pyproject.toml").decode())["project"]
    assert bundled == {name: value for name, value in project().items() if name != "optional-dependencies"}
    assert loaded("packaging/mcpb/manifest.json")["server"]["entry_point"] in names
    assert {"manifest.json", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert all(name.startswith("memp_mcp/") or "/" not in name for name in names)
    assert not any(name.endswith((".pyc", ".whl", ".so")) for name in names)


def test_the_same_sources_give_the_same_bundle(tmp_path: Path) -> None:
    one, other = (bundle.bundle(tmp_path / name) for name in ("a.mcpb", "b.mcpb"))

    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


# -- links --------------------------------------------------------------------------------------------------


def test_the_badges_of_the_readme_are_the_ones_that_are_generated() -> None:
    assert "\n".join(links.badges()) in README


def test_the_links_carry_the_configuration_that_the_readme_documents() -> None:
    documented = json.dumps({"mcpServers": {links.NAME: links.CONFIGURATION}})
    cursor = parse_qs(urlsplit(links.cursor_link(links.NAME, links.CONFIGURATION)).query)
    vscode = parse_qs(urlsplit(links.vscode_link(links.NAME, links.CONFIGURATION)).query)

    assert documented in README
    assert cursor["name"] == vscode["name"] == [links.NAME]
    assert json.loads(base64.b64decode(cursor["config"][0])) == links.CONFIGURATION
    assert json.loads(vscode["config"][0]) == links.CONFIGURATION


@pytest.mark.parametrize("insiders", [True, False])
def test_a_link_survives_whatever_stands_in_a_configuration(insiders: bool) -> None:  # noqa: FBT001 - a parameter of the test
    odd = {"command": "C:\\My Tools\\memp.exe", "args": ["--a=ü&b", "+/?#"], "env": {"X": "日本"}}
    name = "memp & co"

    vscode = parse_qs(urlsplit(links.vscode_link(name, odd, insiders=insiders)).query)
    cursor = parse_qs(urlsplit(links.cursor_link(name, odd)).query)

    assert (vscode["name"], cursor["name"]) == ([name], [name])
    assert json.loads(vscode["config"][0]) == json.loads(base64.b64decode(cursor["config"][0])) == odd
    assert vscode.get("quality") == (["insiders"] if insiders else None)
