"""What others publish to check such files and servers accepts ours. Each test is skipped, with the reason, without it.

npm packages go into a cache (CLIENTS_CACHE, else ~/.cache/memp-mcp/clients), one folder a package and version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bundle
import pytest
from builders import won
from conftest import OpenMemory

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("CLIENTS_CACHE") or Path.home() / ".cache" / "memp-mcp" / "clients")
INSPECTOR = "@modelcontextprotocol/inspector", "2.12.0", "mcp-inspector"
MCPB = "@anthropic-ai/mcpb", "2.1.2", "mcpb"
CLAUDE = "@anthropic-ai/claude-code", "2.1.328", "claude"


def program(package: str, version: str, name: str, *, fetch: bool = True) -> str:
    """The program of an npm package, installed on first use."""
    folder = CACHE / f"{package.rpartition('/')[2]}-{version}"
    found = folder / "node_modules" / ".bin" / name
    if not found.exists():
        npm = shutil.which("npm")
        if npm is None or not fetch:
            pytest.skip(f"{package}@{version} is not in {CACHE}" + ("" if npm else ", and there is no npm to fetch it"))
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", f"{package}@{version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            pytest.skip(f"npm cannot install {package}@{version}: {done.stderr[-300:]}")
    return str(found)


def run(*command: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HOME": str(home), "MCP_CATALOG_PATH": str(home / "catalog.json")}
    done = subprocess.run(
        [str(c) for c in command], env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def reports(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_the_inspector_verifies_every_skill_and_its_digest(open_memory: OpenMemory, tmp_path: Path) -> None:
    inspector = program(*INSPECTOR)
    memory = open_memory()
    for task in ('publish the shop: "now" --- 0o17', "Отправить письмо <клиенту>", "sweep the floor"):
        memory.record(won(task, "look at `it` | tee {file}", "do it\nin two lines"))
    given = {"MEMP_HOME": str(memory.settings.home), "PYTHONPATH": os.environ.get("PYTHONPATH")}
    environ = [word for name, value in given.items() if value for word in ("-e", f"{name}={value}")]
    server = (inspector, "--cli", sys.executable, "-m", "memp_mcp", *environ, "--protocol-era", "modern")
    verify = ("--verify", "--require-digests", "--format", "json")

    listed = reports(run(*server, "--method", "skills/list", *verify, home=tmp_path).stdout)
    got = reports(run(*server, "--method", "skills/get", "--uri", listed[0]["uri"], *verify, home=tmp_path).stdout)

    assert len(listed) == 3
    assert {r["outcome"] for r in (*listed, *got)} == {"verified"}
    assert all(not r["conformance"] and not r["frontmatter"] for r in (*listed, *got))


def test_the_bundle_is_accepted_and_packed_by_its_own_tool(tmp_path: Path) -> None:
    mcpb = program(*MCPB)
    made = bundle.bundle(tmp_path / "made.mcpb")

    run(mcpb, "validate", ROOT / "packaging" / "mcpb" / "manifest.json", home=tmp_path)
    run(mcpb, "unpack", made, tmp_path / "unpacked", home=tmp_path)
    run(mcpb, "pack", tmp_path / "unpacked", tmp_path / "packed.mcpb", home=tmp_path)

    unpacked = {
        f.relative_to(tmp_path / "unpacked").as_posix() for f in (tmp_path / "unpacked").rglob("*") if f.is_file()
    }
    assert unpacked == set(bundle.contents())


def test_claude_code_accepts_the_marketplace_and_installs_the_plugin(tmp_path: Path) -> None:
    claude = shutil.which("claude") or program(*CLAUDE, fetch=False)  # a third of a gigabyte: the client tests fetch it

    run(claude, "plugin", "validate", "--strict", ROOT, home=tmp_path)
    run(claude, "plugin", "validate", "--strict", ROOT / "packaging" / "claude-code", home=tmp_path)
    run(claude, "plugin", "marketplace", "add", ROOT, home=tmp_path)
    run(claude, "plugin", "install", "memp@memp-mcp", home=tmp_path)

    assert "memp@memp-mcp" in run(claude, "plugin", "list", home=tmp_path).stdout


@pytest.mark.parametrize("broken", ["", '"type": "stdio"'])
def test_the_entry_of_the_registry_fits_the_schema_that_it_names(tmp_path: Path, broken: str) -> None:
    entry = (ROOT / "server.json").read_text(encoding="utf-8")
    (tmp_path / "server.json").write_text(entry.replace(broken, '"type": "?"') if broken else entry, encoding="utf-8")

    verdict = linted(tmp_path, "--rule", "mcp-registry-server-json-valid")

    assert bool(verdict.returncode) == bool(broken), verdict.stdout
    assert "mcp-registry" in verdict.stdout


def test_the_plugin_and_its_skill_leave_nothing_to_remark_on(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "packaging" / "claude-code", tmp_path / "plugin")

    verdict = linted(tmp_path / "plugin", "--strict")

    assert verdict.returncode == 0, verdict.stdout
    assert "single-plugin" in verdict.stdout


def linted(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What skillsaw says, which carries the released schemas of the registry."""
    program = Path(sys.executable).with_name("skillsaw")
    return subprocess.run(
        [str(program), "lint", *options, "--no-plugins", "."], cwd=folder, capture_output=True, text=True, check=False
    )
