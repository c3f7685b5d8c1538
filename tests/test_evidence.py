"""What code alone reads off a trajectory: on made-up steps, one rule each, and on real runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memp_mcp.evidence import (
    edits,
    error_signature,
    essential_steps,
    exited_well,
    failed_steps,
    failure,
    head,
    prepares,
    reads,
    transient,
)
from memp_mcp.models import Step, Trajectory

DATA = Path(os.environ.get("TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\n    f()\nValueError: no such slot'

REPORT = "Command: ./brew\nDirectory: (root)\nOutput: {said}\nError: (none)\nExit Code: {code}\nSignal: (none)"
"""Of a shell, as Qwen Code writes it."""
GEMINI_REPORT = "<untrusted_context>\nOutput: {said}\nExit Code: 1\nProcess Group PGID: 29721\n</untrusted_context>"


def said(observation: str, action: str = "python a.py", *, failed: bool | None = None) -> str | None:
    return failure(Step(action=action, observation=observation, failed=failed))


def steps(*told: tuple[str, str] | str) -> list[Step]:
    return [Step(action=t) if isinstance(t, str) else Step(action=t[0], observation=t[1]) for t in told]


def kept(*told: tuple[str, str] | str) -> list[str]:
    trajectory = steps(*told)
    return [trajectory[i].action for i in essential_steps(trajectory)]


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "error"),
    [
        (TRACEBACK, "ValueError: no such slot"),
        ("Exit code 1\nThe following paths are ignored\nhint: use -f", "hint: use -f"),
        ("make: ok\nExit status: 2", "make: ok"),
        ("boom\n[exit 1]", "boom"),
        ("zsh: command not found: tree (exit 127)", "zsh: command not found: tree (exit 127)"),
        ("Process exited with code 3", "Process exited with code 3"),
        ("<returncode>1</returncode>\n<output>\nno luck\n</output>", "</output>"),
        ('{"exit_code": 1, "output": "sorry"}', '{"exit_code": 1, "output": "sorry"}'),
        ('{"output": "no", "metadata": {"exit_code": 2}}', '{"output": "no", "metadata": {"exit_code": 2}}'),
        ('{"is_error": true}', '{"is_error": true}'),
        ('{"error": "unknown user"}', '{"error": "unknown user"}'),
        ("bash: frobnicate: command not found", "bash: frobnicate: command not found"),
        ("ls: cannot access 'x': No such file or directory", "ls: cannot access 'x': No such file or directory"),
        ("touch: /etc/x: Permission denied", "touch: /etc/x: Permission denied"),
        ("fatal: not a git repository", "fatal: not a git repository"),
        ("working …\nerror: pathspec 'x' did not match", "error: pathspec 'x' did not match"),
        ("Error: no route", "Error: no route"),
        ("npm ERR! code ELIFECYCLE", "npm ERR! code ELIFECYCLE"),
        ("FAILED tests/test_a.py::test_b", "FAILED tests/test_a.py::test_b"),
        ("E   AssertionError: 1 != 2\n===== 1 failed in 0.1s =====", "E   AssertionError: 1 != 2"),
        ("58 tests, 1 failure", "58 tests, 1 failure"),
        ("src/a.c:3:5: error: expected ';'", "src/a.c:3:5: error: expected ';'"),
        ("** (CompileError) a.exs: cannot compile", "** (CompileError) a.exs: cannot compile"),
        ("<tool_use_error>File does not exist.</tool_use_error>", "File does not exist."),
        ("Nothing happens.", "Nothing happens."),
        ("Pre-commit validation failed: run the formatter", "Pre-commit validation failed: run the formatter"),
        (REPORT.format(said="error: no water", code=1), "Output: error: no water"),
        (REPORT.format(said="no water", code=1), "Output: no water"),
        (REPORT.format(said="(empty)", code=1), "Command: ./brew"),
        (GEMINI_REPORT.format(said="no water"), "Output: no water"),
        (GEMINI_REPORT.format(said="(empty)"), "Exit Code: 1"),
    ],
)
def test_a_step_whose_observation_tells_of_a_failure_has_failed(observation: str, error: str) -> None:
    assert said(observation) == error


@pytest.mark.parametrize(
    "observation",
    [
        "",
        "0 errors, 0 warnings",
        "no errors found",
        "Errors: 0",
        "error handling added to parser.py",
        "Process finished with exit code 0",
        "exit code 0\nerror: this was only logged",
        "ValueError was handled as asked",
        "===== 12 passed, 1 warning in 0.3s =====",
        "ERROR: logged by a test\n===== 12 passed in 0.3s =====",
        "test result: ok. 5 passed; 0 failed",
        "12 tests, 0 failures",
        "It returns exit code 1 if the file is missing",
        '{"exit_code": 0, "output": "error: was expected"}',
        '{"error": null, "total": 3}',
        "{not json",
        "[1, 2]",
        "You put the mug 1 in/on the shelf 1.",
        "On the shelf 1, you see nothing.",
        REPORT.format(said="12 cups", code=0),
        REPORT.format(said="12 cups", code="(none)"),
    ],
)
def test_a_success_that_merely_mentions_errors_has_not_failed(observation: str) -> None:
    assert said(observation) is None


@pytest.mark.parametrize(
    "action",
    ["cat build.log", "grep -rn error src", "sed -n 1,80p run.sh", 'Read {"file_path": "/a/log.txt"}', "git log"],
)
def test_what_was_merely_read_says_nothing_about_the_step(action: str) -> None:
    text = f"first\nsecond\n{TRACEBACK}\nerror: disk\nFAILED tests/x.py"
    assert said(text, action) is None
    assert said("cat: build.log: No such file or directory", action) is not None


def test_what_the_recorder_knows_outranks_the_words() -> None:
    assert said(TRACEBACK, failed=False) is None
    assert said("all is well", failed=True) == "all is well"
    assert said("", failed=True) == "failed without a message"
    assert said("Exit code 1", failed=True) == "Exit code 1"
    assert exited_well(Step(action="x", failed=True)) is False
    assert exited_well(Step(action="x", observation="exit code: 0")) is True
    assert exited_well(Step(action="x", observation="hm")) is None


def test_an_error_is_short_and_found_at_the_end_of_a_huge_observation() -> None:
    assert said("x" * 1_000_000 + "\nfatal: " + "y" * 1000) == "fatal: " + "y" * 293


def test_failed_steps_carry_their_place_from_one() -> None:
    trajectory = Trajectory(task="t", steps=tuple(steps(("ls", "a"), ("make", "make: *** [all] Error 2"))))
    assert [(f.index, f.action) for f in failed_steps(trajectory)] == [(2, "make")]


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=300), st.text(min_size=1, max_size=40).filter(str.strip))
def test_any_text_can_be_looked_at(observation: str, action: str) -> None:
    step = Step(action=action, observation=observation)
    found = failure(step)
    assert found is None or 0 < len(found) <= 300
    assert set(essential_steps([step, step])) <= {0, 1}
    assert not set("0123456789ABC") & set(error_signature(observation))


# -- whose fault ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("requests.exceptions.ReadTimeout: timed out", "time-out"),
        ("TimeoutError", "time-out"),
        ("504 Gateway Time-out", "time-out"),
        ("subprocess.TimeoutExpired: 'make' after 60 s", "time-out"),
        ("Could not resolve host: pypi.org", "network"),
        ("Connection refused by db.example.org:5432", "network"),
        ("HTTP 429 Too Many Requests", "rate limit"),
        ("Permission denied (publickey).", "permission"),
        ("touch: /etc/x: Permission denied", "permission"),
        ("403 Forbidden", "permission"),
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("KeyboardInterrupt", "interrupted"),
        ("Sibling tool call errored", "interrupted"),
        ("bash: ./run.sh: Permission denied", None),
        ("zsh: permission denied: ./run.sh", None),
        ("connect ECONNREFUSED: Connection refused 127.0.0.1:8000", None),
        ("TypeError: unexpected keyword argument 'timeout'", None),
        ("AssertionError: 429 != 428", None),
        ("Nothing happens.", None),
    ],
)
def test_a_fault_of_the_surroundings_is_told_from_one_of_the_procedure(error: str, kind: str | None) -> None:
    assert transient(error) == kind


def test_two_occurrences_of_one_fault_have_the_same_signature() -> None:
    one = error_signature("FileNotFoundError: '/tmp/a1/x.txt' at 0x7f3a after 12 s")
    assert one == error_signature('filenotfounderror: "/home/b/y.txt"  at 0x11FF after 3.5 s')
    assert one != error_signature("PermissionError: '/tmp/a1/x.txt' at 0x7f3a after 12 s")
    assert error_signature("open /a/b/c.txt line 3") == error_signature("open /d.txt line 44")


# -- verbs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "verb"),
    [
        ("go to shelf 7", "go"),
        ("> take mug 1 from desk 1", "take"),
        ("git commit -m 'x; y'", "git commit"),
        ("cd /srv/app && FOO=1 sudo npm install left-pad", "npm install"),
        ("python -m pytest -q", "pytest"),
        ("/usr/bin/grep -n x y", "grep"),
        ("go test ./...", "go test"),
        ("cd src", "cd"),
        ("Bash: git status", "Bash:git status"),
        ('Bash {"command": "git status --short", "timeout": 3}', "Bash:git status"),
        ('shell({"command": ["bash", "-lc", "cargo build"]})', "shell:cargo build"),
        ('Read {"file_path": "/a"}', "Read"),
        ('{"tool": 1}', '{"tool":'),
        ("get_order(order_id='W12')", "get_order"),
        ("search[red shoes]", "search"),
        ("run_command({broken)", "run_command:broken"),
        ("Bash {}", "Bash:"),
    ],
)
def test_the_head_is_the_verb_the_tool_or_the_command(action: str, verb: str) -> None:
    assert head(action) == verb


@pytest.mark.parametrize(
    "action",
    [
        "sed -i s/a/b/ x.py",
        "echo hi > x",
        "Edit {}",
        "apply_patch(x)",
        "mv a b",
        "git apply x",
        "git commit -m 'x > y' && echo done > log",
    ],
)
def test_writing_files_is_an_edit(action: str) -> None:
    assert edits(action)


COMMIT = "git commit -m \"$(cat <<'EOF'\nfix: it\n\nCo-Authored-By: A <a@b.c>\nEOF\n)\""


@pytest.mark.parametrize("action", ['TodoWrite {"todos": []}', "write_todos: {}", "update_plan: {}", "save_memory {}"])
def test_what_an_agent_notes_for_itself_neither_edits_nor_prepares_anything(action: str) -> None:
    assert not edits(action)
    assert not prepares(action)


@pytest.mark.parametrize(
    ("action", "prepared"),
    [
        ("pip install rich", True),
        ("Bash: mix format", True),
        ("go to shelf 1", True),
        ("open fridge 1", True),
        ("grant_roaming(line='L1')", True),
        ("cat setup.py", False),
        ("git status", False),
        ("Edit: app.py", False),
        ("check_network_status()", False),
    ],
)
def test_what_goes_somewhere_or_changes_something_may_be_what_a_later_step_needs(
    action: str,
    prepared: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    assert prepares(action) is prepared


@pytest.mark.parametrize(
    "action",
    [
        "pytest -q 2>&1",
        "ls 2>/dev/null",
        "Read {}",
        "git status",
        f"Bash: {COMMIT}",
        """git commit -m "don't call it > 3" """,
        "git commit --message='a > b'",
        "git commit -F - <<'EOF'\nrename x > y\nEOF",
    ],
)
def test_reading_and_running_are_no_edits(action: str) -> None:
    assert not edits(action)
    assert reads(action) == (action.split(maxsplit=1)[0] in {"ls", "Read"})


# -- what a procedure needs ------------------------------------------------------------------------------------------


def test_a_search_through_shelves_leaves_the_way_that_led_to_the_goal() -> None:
    assert kept(
        ("go to shelf 8", "On the shelf 8, you see a remotecontrol 3."),
        ("go to shelf 7", "On the shelf 7, you see a statue 3."),
        ("inventory", "You are not carrying anything."),
        ("go to drawer 2", "The drawer 2 is closed."),
        ("open drawer 2", "In it, you see a pen 1."),
        ("close drawer 2", "You close the drawer 2."),
        ("go to shelf 3", "Nothing happens."),
        ("go to drawer 1", "The drawer 1 is closed."),
        ("open drawer 1", "In it, you see a keychain 1."),
        ("take keychain 1 from drawer 1", "You pick up the keychain 1."),
        ("go to sofa 1", "On the sofa 1, you see nothing."),
        ("put keychain 1 in/on sofa 1", "You put the keychain 1 in/on the sofa 1."),
    ) == [
        "go to drawer 1",
        "open drawer 1",
        "take keychain 1 from drawer 1",
        "go to sofa 1",
        "put keychain 1 in/on sofa 1",
    ]


def test_the_place_that_showed_a_thing_used_later_is_kept_although_no_one_names_it_again() -> None:
    assert kept(
        ("go to desk 1", "you see a desklamp 1"),
        ("go to bed 1", "you see a book 1"),
        ("go to shelf 1", "you see nothing"),
        ("take book 1 from bed 1", "taken"),
        ("go to desk 1", "you see a desklamp 1"),
        ("use desklamp 1", "you turn on the desklamp 1"),
    ) == ["go to bed 1", "take book 1 from bed 1", "go to desk 1", "use desklamp 1"]


def test_a_place_returned_to_after_something_was_done_there_is_kept_twice() -> None:
    walk = ["go to bed 1", "take cd 1 from bed 1", "go to box 1", "put cd 1 in/on box 1"]
    again = ["go to bed 1", "take cd 2 from bed 1", "go to box 1", "put cd 2 in/on box 1"]
    assert kept(*walk, *again) == [*walk, *again]


def test_files_that_were_read_for_nothing_are_left_out_and_those_edited_later_are_not() -> None:
    assert kept(
        ('Read {"file_path": "docs/history.md"}', "long ago"),
        ('Read {"file_path": "src/app.py"}', "def f(): ..."),
        ('Edit {"file_path": "src/app.py", "old_string": "f", "new_string": "g"}', "done"),
        ("Bash: pytest -q", "===== 1 failed in 0.1s ====="),
        ('Edit {"file_path": "src/app.py", "old_string": "g", "new_string": "h"}', "done"),
        ("Bash: pytest -q", "===== 3 passed in 0.1s ====="),
    ) == [
        'Read {"file_path": "src/app.py"}',
        'Edit {"file_path": "src/app.py", "old_string": "f", "new_string": "g"}',
        'Edit {"file_path": "src/app.py", "old_string": "g", "new_string": "h"}',
        "Bash: pytest -q",
    ]


@pytest.mark.parametrize(
    "changing",
    [
        "find . -name x -delete",
        "cat a > b",
        "open the settings and set the language to German",
        "update_order(id='W1')",
        "click[Buy]",
        "sed -i s/a/b/ c",
    ],
)
def test_a_step_that_may_have_changed_something_is_never_dropped(changing: str) -> None:
    looks = ["find . -name y", "cat q", "open r", "get_order(id='W2')", "sed -n 1p z"]
    assert changing in kept(*looks, changing, "make release")


def test_a_tool_that_only_asks_is_dropped_when_nothing_came_of_it() -> None:
    assert kept(
        ("get_order(id='W111')", "shoes"), ("get_order(id='W222')", "a lamp"), ("cancel_order(id='W222')", "cancelled")
    ) == ["get_order(id='W222')", "cancel_order(id='W222')"]


def test_a_repetition_without_effect_is_kept_once() -> None:
    assert kept(("make", "up to date"), ("make", "up to date"), ("ls", "a"), ("make", "up to date")) == ["make"]


def test_the_last_step_that_worked_is_kept_whatever_it_is() -> None:
    assert kept("ls a", "ls b", "ls c") == ["ls c"]
    assert kept(("make", "Exit code 1")) == []
    assert kept() == []


def test_ten_thousand_steps_are_no_problem() -> None:
    many = [(f"go to shelf {i}", f"On the shelf {i}, you see a cup {i}.") for i in range(9_998)]
    files = [f"cat file{i}.py" for i in range(5_000)]
    assert len(kept(*files, *(f"run file{i}.py" for i in range(5_000)))) == 10_000
    assert kept(*many, "take cup 5 from shelf 5", "put cup 5 in/on desk 1") == [
        "go to shelf 5",
        "take cup 5 from shelf 5",
        "put cup 5 in/on desk 1",
    ]


def test_real_household_runs_become_about_as_short_as_the_shortest_walk_and_lose_no_deed() -> None:
    path = DATA / "retrieval" / "agentinstruct_trajectories.json"
    if not path.exists():
        pytest.skip(f"no real trajectories at {path}")
    runs = json.loads(path.read_text(encoding="utf-8"))["trajectories"]
    before = after = 0
    for run in runs:
        pairs = run["state_action_pairs"]
        states = [p["state"] for p in pairs[1:]] + [""]
        trajectory = [Step(action=p["action"], observation=o) for p, o in zip(pairs, states, strict=True)]
        places = essential_steps(trajectory)
        left = {trajectory[i].action for i in places}
        deeds = [s for s in trajectory if head(s.action) in {"take", "put", "clean", "heat", "cool", "use"}]
        assert all(s.action in left for s in deeds if failure(s) is None)
        assert all((failure(s) is not None) == ("Nothing happens" in s.observation) for s in trajectory)
        before, after = before + len(pairs), after + len(places)
    assert before / len(runs) > 13
    assert after / len(runs) < 7.5  # the oracle's walkthroughs have 6.0
