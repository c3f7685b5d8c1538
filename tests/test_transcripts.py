"""Each format is read as it is written by others; nothing that is broken stops the rest."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import tarfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memp_mcp import transcripts
from memp_mcp.errors import BadInput
from memp_mcp.models import Event, Pitfall, Procedure, Reward, ScriptStep, Step, Trajectory
from memp_mcp.transcripts import FORMATS, Exported, Skipped, own, read

DATA = Path(os.environ.get("TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared trajectories are not at {DATA}")

OWN_LINE = {"task": "put a mug on the desk", "steps": [{"action": "go to desk 1", "observation": "You see nothing."}]}
SYSTEM = {"role": "system", "content": "You are an agent."}
ASK = {"role": "user", "content": "Make the tests pass."}


def written(path: Path, *documents: object) -> Path:
    path.write_text("".join(d if isinstance(d, str) else json.dumps(d) + "\n" for d in documents), encoding="utf-8")
    return path


def only(path: Path) -> Trajectory:
    (value,) = read(path)
    assert isinstance(value, Trajectory), value
    return value


def reasons(path: Path, source_format: str | None = None) -> list[str]:
    return [v.reason for v in read(path, source_format=source_format) if isinstance(v, Skipped)]


def calls(*functions: tuple[str | None, str, object]) -> dict[str, object]:
    tool_calls = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in functions]
    return {"role": "assistant", "content": None, "tool_calls": tool_calls}


def result(call_id: str | None, content: object) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


# The project's own lines


def test_a_line_of_ones_own_becomes_a_trajectory(tmp_path: Path) -> None:
    line = OWN_LINE | {
        "outcome": "partial",
        "reward": 0.25,
        "script": "look\n\nput it\n",
        "project": "home",
        "key": "k1",
    }
    read_back = only(written(tmp_path / "mine.jsonl", line))
    assert read_back.steps == (Step(action="go to desk 1", observation="You see nothing."),)
    assert read_back.reward == Reward(score=0.25, judged_by="environment", verified=True)
    assert (read_back.outcome, read_back.script, read_back.project) == ("partial", ("look", "put it"), "home")
    assert read_back.source == "mine.jsonl"


@pytest.mark.parametrize(("reward", "outcome"), [(1, "success"), (0, "failure"), (True, "success"), (None, "unknown")])
def test_the_outcome_follows_from_a_lone_reward(tmp_path: Path, reward: object, outcome: str) -> None:
    assert only(written(tmp_path / "x", OWN_LINE | {"reward": reward})).outcome == outcome


def test_a_reward_may_name_its_judge(tmp_path: Path) -> None:
    reward = {"score": 0.5, "reason": "half of it", "judged_by": "llm:x", "verified": False}
    assert only(written(tmp_path / "x", OWN_LINE | {"reward": reward})).reward == Reward.model_validate(reward)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": " "}, "task: Value error, must not be empty."),
        ({"steps": []}, "There are no steps in it."),
        ({"steps": [{"action": "ls"}] * 20_001}, "20,001 steps"),
        ({"reward": 1.5}, "score: Input should be less than or equal to 1."),
        ({"reward": "good"}, "valid dictionary"),
        ({"outcom": "success"}, "outcom: Extra inputs are not permitted."),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, "; and 2 more."),
    ],
)
def test_what_a_trajectory_cannot_be_is_skipped_with_the_reason(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = written(tmp_path / "x", OWN_LINE | change, OWN_LINE)
    skipped, good = read(path)
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason
    assert str(skipped) == f"{path}:1: {skipped.reason}"
    assert isinstance(good, Trajectory)


TEXTS = st.text(max_size=30)
LINES = TEXTS.filter(lambda t: bool(t.strip()))
MOMENTS = st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
TRAJECTORIES = st.builds(
    Trajectory,
    task=LINES,
    steps=st.lists(st.builds(Step, action=LINES, observation=TEXTS, thought=TEXTS), max_size=3).map(tuple),
    outcome=st.sampled_from(["success", "failure", "partial", "unknown"]),
    reward=st.none() | st.builds(Reward, score=st.floats(0, 1), judged_by=LINES, verified=st.booleans(), reason=TEXTS),
    script=st.lists(LINES, max_size=2).map(tuple),
    key=TEXTS,
    source=TEXTS,
    created_at=MOMENTS,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TRAJECTORIES, min_size=1, max_size=3))
def test_an_export_reads_back_equal(tmp_path: Path, trajectories: list[Trajectory]) -> None:
    path = written(
        tmp_path / "x", own.header({"made_by": "a test"}) + "\n", *(own.to_line(t) + "\n" for t in trajectories)
    )
    assert list(read(path)) == [Exported(t) for t in trajectories]


def test_procedures_and_events_travel_in_the_same_file(tmp_path: Path) -> None:
    values: list[Procedure | Event] = [
        Procedure(
            title="Tidy",
            when_to_use="a mug is about",
            script=(ScriptStep(name="s1", text="find it"),),
            pitfalls=(Pitfall(text="closed \u2028 drawer", error="Nothing\nhappens."),),
        ),
        Event(kind="used", score=0.1, detail='{"a": "é"}'),
    ]
    path = written(tmp_path / "x", own.header({}) + "\n", *(own.to_line(v) + "\n" for v in values))
    assert list(read(path)) == [Exported(v) for v in values]


def test_an_export_of_another_version_or_kind_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "x", {"memp": 2, "kind": "event", "value": {}}, {"memp": 1, "kind": "dream", "value": {}})
    first, second = reasons(path)
    assert "Update memp-mcp" in first
    assert "kind is 'dream'" in second


# Message lists


def test_tool_calls_are_matched_to_their_results_by_id(tmp_path: Path) -> None:
    messages = [
        SYSTEM,
        ASK,
        calls(("c1", "bash", '{"command": "pytest"}'), ("c2", "edit", {"path": "a.py", "line": 3}))
        | {"content": "First."},
        result("c2", "edited"),
        result("c1", [{"type": "text", "text": "1 failed"}, {"type": "refusal"}]),
        result("c9", "of nobody"),
        calls(("c1", "now", ""), ("c3", "raw", "not json")),
        result("c1", {"time": 5}),
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thank you."},
    ]
    steps = only(written(tmp_path / "x.json", json.dumps(messages, indent=2))).steps
    assert steps == (
        Step(action="bash: pytest", observation="1 failed", thought="First."),
        Step(action='edit({"path":"a.py","line":3})', observation="edited"),
        Step(action="now()", observation='{"time": 5}'),
        Step(action="raw: not json"),
    )


def test_results_without_ids_go_to_the_oldest_open_call(tmp_path: Path) -> None:
    messages = [ASK, calls((None, "a", "{}"), (None, "b", "[1]")), result(None, "of a"), result("x", "of b")]
    steps = only(written(tmp_path / "x", messages)).steps
    assert [(s.action, s.observation) for s in steps] == [("a()", "of a"), ("b([1])", "of b")]


def test_an_object_around_the_messages_states_how_it_went(tmp_path: Path) -> None:
    document = {
        "messages": [ASK, calls(("1", "ls", "{}"))],
        "task": "List files",
        "reward": 1,
        "model": "m-1",
        "info": {"cost": 3},
    }
    told, silent = read(written(tmp_path / "x", document, [ASK, calls(("1", "ls", "{}"))]))
    assert isinstance(told, Trajectory)
    assert (told.task, told.outcome, told.model) == ("List files", "success", "m-1")
    assert isinstance(silent, Trajectory)
    assert (silent.task, silent.outcome) == ("Make the tests pass.", "unknown")


REACT = [
    ("Thought: I look first.\nAction: search[mug]", "search[mug]", "I look first."),
    ("THOUGHT: hm\nACTION 2:\ngo to desk 1\n\nThen we see.", "go to desk 1", "hm"),
    ("Action: search\nAction Input: mugs\nObservation: invented", "search: mugs", ""),
    ("Let me see.\n\n```bash\nls -la\ncat x\n```\n", "ls -la\ncat x", "Let me see."),
    ("Action: below\n```mswea_bash_command\nls\n```", "ls", "Action: below"),
]


@pytest.mark.parametrize(("text", "action", "thought"), REACT)
def test_react_text_is_read_where_no_tool_is_called(tmp_path: Path, text: str, action: str, thought: str) -> None:
    messages = [ASK, {"role": "assistant", "content": text}, {"role": "user", "content": "seen"}]
    assert only(written(tmp_path / "x", messages)).steps == (Step(action=action, observation="seen", thought=thought),)


def test_text_that_is_no_single_action_is_no_step(tmp_path: Path) -> None:
    two = "```bash\nls\n```\n```bash\npwd\n```"
    answer = [{"role": "assistant", "content": text} for text in (two, "Action:", "It is done.")]
    assert reasons(written(tmp_path / "x", [ASK, *answer])) == ["There is no tool call and no other action in it."]


def test_a_conversation_without_a_task_is_skipped(tmp_path: Path) -> None:
    assert "state one as 'task'" in reasons(written(tmp_path / "x", [SYSTEM, calls(("1", "ls", "{}"))]))[0]


def test_of_a_long_first_message_the_first_paragraph_is_the_task(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "Fix the bug.\r\n\r\n" + "Rules. " * 100}
    assert only(written(tmp_path / "x", [ask, calls(("1", "ls", "{}"))])).task == "Fix the bug."


def test_the_reasoning_stands_in_for_an_empty_thought(tmp_path: Path) -> None:
    call = calls(("1", "ls", "{}")) | {"reasoning_content": "I reason."}
    assert only(written(tmp_path / "x", [ASK, call])).steps[0].thought == "I reason."


@needs_data
def test_both_real_mini_swe_agent_runs_are_read(tmp_path: Path) -> None:
    with tarfile.open(DATA / "transcripts" / "mini-swe-agent" / "trajectories.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    runs = sorted((only(path) for path in tmp_path.rglob("*.json")), key=lambda run: len(run.steps))
    assert [len(run.steps) for run in runs] == [2, 10]
    assert runs[1].task == "Please solve this issue: GitHub Issue: SyntaxError: invalid syntax"
    assert "No such file or directory" in runs[1].steps[0].observation


# ALFWorld


def test_the_observation_of_an_action_is_the_next_state(tmp_path: Path) -> None:
    pairs = [("A room.", "go to desk 1"), ("A desk.", " "), ("A mug.", "take mug 1")]
    run = {
        "task_description": "take a mug . ",
        "state_action_pairs": [{"step_id": n, "state": s, "action": a} for n, (s, a) in enumerate(pairs)],
    }
    path = written(tmp_path / "x", {"metadata": {}, "trajectories": [run, {"task_description": "x"}]})
    first, second = read(path)
    assert isinstance(first, Trajectory)
    assert first.task == "take a mug"
    assert first.steps == (Step(action="go to desk 1", observation="A desk."), Step(action="take mug 1"))
    assert (first.succeeded, first.model) == (True, "gpt-4")
    assert isinstance(second, Skipped)
    assert second.reason == "Trajectory 2: state_action_pairs: Field required."


def knowagent(
    *, result: object = True, traj: str = "Room.\nYour task is to: cool a mug.\n> Think: so\n> look\n"
) -> object:
    return {"name": "g", "result": result, "traj": traj}


@pytest.mark.parametrize(
    ("result", "outcome", "score"),
    [(True, "success", 1), ("True", "success", 1), (False, "failure", 0), ("0", "unknown", None), (0, "unknown", None)],
)
def test_a_run_that_broke_off_is_unknown_and_not_a_failure(
    tmp_path: Path, result: object, outcome: str, score: float | None
) -> None:
    run = only(written(tmp_path / "x", knowagent(result=result)))
    assert (run.outcome, run.reward and run.reward.score) == (outcome, score)
    assert (run.task, run.steps) == ("cool a mug", (Step(action="look", thought="so"),))


def test_react_lines_become_steps_with_their_thoughts(tmp_path: Path) -> None:
    traj = (
        "Room.\nYour task is to: cool a mug.\n> Think: first\n> think: second\nline\n> ActionPath: Start\n"
        "> go to fridge 1\nIt is\nclosed.\n> \n> open fridge 1\n> Think: broken off"
    )
    assert only(written(tmp_path / "x", knowagent(traj=traj))).steps == (
        Step(action="go to fridge 1", observation="It is\nclosed.", thought="first\nsecond\nline"),
        Step(action="open fridge 1"),
    )


def test_a_run_without_task_result_or_action_is_skipped(tmp_path: Path) -> None:
    bad = [knowagent(traj="Room."), knowagent(result="maybe"), knowagent(traj="Your task is to: rest.\n> Think: ok")]
    no_task, no_result, no_action = reasons(written(tmp_path / "x", *bad))
    assert "Your task is to" in no_task
    assert "'maybe'" in no_result
    assert no_action == "There is no action in it."


@needs_data
def test_the_real_collections_are_read_completely() -> None:
    instruct = list(read(DATA / "retrieval" / "agentinstruct_trajectories.json"))
    runs = [t for t in instruct if isinstance(t, Trajectory)]
    assert len(runs) == len(instruct) == 336
    assert sum(len(t.steps) for t in runs) / 336 == pytest.approx(13.5, abs=0.1)
    assert all(t.succeeded and t.steps[0].observation for t in runs)
    assert len({t.id for t in runs}) == 336
    outcomes = {"D0": (134, 256, 120), "D1": (182, 216, 112)}
    for name, expected in outcomes.items():
        found = list(read(DATA / "alfworld" / f"knowagent_llama2_13b_{name}.jsonl.xz"))
        counted = Counter(t.outcome if isinstance(t, Trajectory) else str(t) for t in found)
        assert counted == dict(zip(("success", "failure", "unknown"), expected, strict=True))


# Any file


def test_a_broken_line_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    whole = json.dumps(OWN_LINE)
    path = written(tmp_path / "x", whole + "\n", whole[:40] + "\n", "\n", whole + "\n", [ASK], '{"a": 1}\n', whole[:9])
    values = list(read(path))
    assert [type(v) for v in values] == [Trajectory, Skipped, Trajectory, Skipped, Skipped, Skipped]
    assert [v.line for v in values if isinstance(v, Skipped)] == [2, 5, 6, 7]


def test_a_broken_first_line_costs_only_itself(tmp_path: Path) -> None:
    broken, good = read(written(tmp_path / "x", '{"task": "cut\n', OWN_LINE))
    assert isinstance(broken, Skipped)
    assert broken.line == 1
    assert isinstance(good, Trajectory)


def test_the_name_of_a_file_says_nothing_about_its_packing(tmp_path: Path) -> None:
    plain = json.dumps(OWN_LINE).encode()
    for name, raw in {
        "a.gz": plain,
        "b": lzma.compress(plain),
        "c": gzip.compress(plain),
        "d": b"\xef\xbb\xbf" + plain,
    }.items():
        (tmp_path / name).write_bytes(raw)
        assert only(tmp_path / name).task == OWN_LINE["task"]


def test_a_packed_file_that_ends_early_gives_what_it_has(tmp_path: Path) -> None:
    lines = "".join(json.dumps(OWN_LINE | {"task": f"task {os.urandom(40).hex()}"}) + "\n" for _ in range(500))
    for name, raw in {"x": lzma.compress(lines.encode()), "g": gzip.compress(lines.encode())}.items():
        (tmp_path / name).write_bytes(raw[: len(raw) * 2 // 3])
        *good, last = read(tmp_path / name)
        assert good
        assert isinstance(last, Skipped)
        assert "The rest of the file cannot be read" in last.reason


def test_reading_twice_gives_the_same_ids(tmp_path: Path) -> None:
    path = written(tmp_path / "x", OWN_LINE, [ASK, calls(("1", "ls", "{}"))])
    assert only(written(tmp_path / "y", OWN_LINE)).id == only(written(tmp_path / "z", OWN_LINE)).id
    assert reasons(path) == ["It is JSON, but not of the format of this file."]


def test_a_single_document_that_is_too_large_to_hold_is_refused_and_lines_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "WHOLE_BYTES", 100)
    document = json.dumps([SYSTEM, ASK, calls(("1", "ls", "{}"))], indent=1)

    with pytest.raises(BadInput, match="as a single document 100 are read"):
        list(read(written(tmp_path / "x", document)))
    assert len(list(read(written(tmp_path / "y", *[OWN_LINE] * 9)))) == 9


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_gives_nothing_but_the_reason(tmp_path: Path, content: str) -> None:
    assert reasons(written(tmp_path / "x", content)) == ["The file is empty."]


@pytest.mark.parametrize("content", ["not json", '{"a": 1}', "[]", "null", "3\n" * 500, "[" * 100_000, "\x00\x01"])
def test_a_file_of_no_known_format_names_the_known_ones(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadInput, match=r"Known formats: own .*; messages .*; alfworld"):
        list(read(written(tmp_path / "x", content)))


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file"):
        list(read(tmp_path))
    with pytest.raises(BadInput, match=r"no format 'xml'\. Known formats"):
        list(read(written(tmp_path / "x", OWN_LINE), source_format="xml"))


def test_a_named_format_is_taken_at_its_word(tmp_path: Path) -> None:
    path = written(tmp_path / "x", "broken\n", OWN_LINE)
    assert len(reasons(path, "messages")) == 2
    assert len(reasons(path, "own")) == 1


FIELDS = (
    "task steps action observation outcome reward score script memp kind value messages role content tool_calls id",
    "function name arguments tool_call_id trajectories state_action_pairs state task_description result traj",
    "type uuid parentUuid sessionId message text tool_use tool_use_id input is_error payload item call_id output",
    "exit_code parts functionCall functionResponse args toolCalls thoughts $set $rewindTo info projectID directory",
    "source steps observation results history simulations reward_info metadata systemPayload toolCallResult",
)
KEYS = st.sampled_from(" ".join(FIELDS).split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=10)
    | st.sampled_from(["user", "assistant", "tool", "Your task is to: x\n> go", "Action: x", "\ud800", "trajectory"])
)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=25
)
HEADS = st.sampled_from(
    [
        {"task": "t", "steps": [{"action": "a"}]},
        {"memp": 1, "kind": "trajectory"},
        {"messages": [{"role": "user", "content": "t"}]},
        {"trajectories": [{"state_action_pairs": []}]},
        {"name": "n", "result": True, "traj": "Your task is to: x\n> go"},
        {"type": "user", "uuid": "u", "parentUuid": "u", "sessionId": "s", "message": {"content": "t"}},
        {"type": "assistant", "uuid": "v", "parentUuid": "u", "message": {"parts": [{"functionCall": {"id": "c"}}]}},
        {"type": "response_item", "payload": {"type": "function_call", "name": "a", "call_id": "c"}},
        {"type": "event_msg", "payload": {"type": "item_completed", "item": {"type": "CommandExecution"}}},
        {"sessionId": "s", "projectHash": "h", "messages": [{"id": "1", "type": "gemini", "content": "x"}]},
        {"info": {"directory": "/"}, "messages": [{"info": {"role": "user"}, "parts": [{"type": "tool"}]}]},
        {"id": "ses_1", "projectID": "p", "directory": "/"},
        {"role": "assistant", "message": {"content": [{"type": "tool_use", "name": "a"}, {"type": "tool_result"}]}},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "a"}]}]},
        {"schema_version": "ATIF-v1.7", "steps": [{"source": "agent", "tool_calls": [{"function_name": "a"}]}]},
        {"history": [{"role": "user", "content": "t"}], "trajectory": [{"action": "a"}]},
        {"task_id": 1, "reward": 1, "traj": [{"role": "user", "content": "t"}]},
        {"simulations": [{"task_id": 1, "messages": [{"role": "user"}], "termination_reason": "x"}]},
    ]
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HEADS, st.dictionaries(KEYS, DOCUMENTS, max_size=4), DOCUMENTS)
def test_no_json_of_any_shape_is_more_than_bad_input(
    tmp_path: Path, head: dict[str, object], change: dict[str, object], other: object
) -> None:
    for documents in ([head, head | change, other], [other], [[*head.get("messages", []), change, other]]):  # type: ignore[misc] # a list where it is there
        path = written(tmp_path / "x", *(json.dumps(d) + "\n" for d in documents))
        for name in (None, *FORMATS):
            try:
                assert all(isinstance(v, Trajectory | Exported | Skipped) for v in read(path, source_format=name))
            except BadInput as error:
                assert str(error)  # noqa: PT017 - either end is right


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x1f\x8b\x08\x00", b"\xfd7zXZ\x00", json.dumps(OWN_LINE).encode() + b"\n"]),
)
def test_no_bytes_are_more_than_bad_input(tmp_path: Path, raw: bytes, head: bytes) -> None:
    (tmp_path / "x").write_bytes(head + raw)
    try:
        assert all(isinstance(v, Trajectory | Skipped) for v in read(tmp_path / "x"))
    except BadInput as error:
        assert str(error)  # noqa: PT017 - either end is right
