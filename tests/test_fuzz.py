"""Whatever a client says, the server answers it, names what is wrong, shows no traceback, and goes on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.types import CallToolResult
from test_front import ENVELOPE, INITIALIZED, connected, initialize, line, notification, request

from memp_mcp.errors import BadInput
from memp_mcp.memory import Memory
from memp_mcp.models import Trajectory
from memp_mcp.server import build_server
from memp_mcp.transcripts import Exported, Skipped, read

TRACES = ("Traceback", 'File "', ".py", "errors.pydantic.dev")

# -- the arguments of the tools -------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(st.characters(codec=None), max_size=40),
    st.sampled_from(["", " ", "p_", "t_0", "r_x", "'; --", "\x00", "\ud800", "9" * 5000, "{}", "null", "s1: x", "-s9"]),
)
KEYS = st.text(st.characters(codec="utf-8"), max_size=10) | st.sampled_from(["id", "task", "steps"])
"""A client cannot send half a character in the name of an argument."""
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
STEPS = st.lists(
    st.fixed_dictionaries(
        {"action": TEXTS},
        optional={"observation": TEXTS, "thought": TEXTS, "failed": st.none() | st.booleans(), "other": ANYTHING},
    ),
    max_size=4,
)
KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "steps": STEPS,
    "used": st.lists(TEXTS, max_size=3),
    "script": st.lists(TEXTS, max_size=3),
    "outcome": st.sampled_from(["success", "failure", "partial", "unknown", "great"]),
    "reward": st.floats() | st.integers(-1, 2),
    "limit": st.integers(),
    "revision": st.integers(),
    "detail": st.sampled_from(["brief", "full", "x"]),
}
ARGUMENTS = {
    "recall_procedure": ("task", "error", "limit", "detail", "project"),
    "record_trajectory": (
        *("task", "steps", "outcome", "reward", "feedback", "recall_id", "used", "script", "project", "model", "key"),
    ),
    "reflect_failure": (
        *("error", "task", "trajectory_id", "recall_id", "used", "diagnosis", "correction", "project"),
    ),
    "get_procedure": ("id", "revision"),
    "forget_procedure": ("id",),
}
fuzzed = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


def arguments(tool: str) -> st.SearchStrategy[dict[str, Any]]:
    """What a careless caller passes: mostly of the right type, now and then of any."""
    fields = {name: st.one_of(KNOWN.get(name, TEXTS), KNOWN.get(name, TEXTS), ANYTHING) for name in ARGUMENTS[tool]}
    alike = st.fixed_dictionaries({}, optional=fields)
    return alike | st.dictionaries(KEYS, ANYTHING, max_size=3)


CALLS = st.sampled_from(sorted(ARGUMENTS)).flatmap(lambda tool: st.tuples(st.just(tool), arguments(tool)))


@fuzzed
@given(call=CALLS, era=st.sampled_from(["legacy", "2026-07-28"]))
@example(call=("record_trajectory", {"task": "x", "steps": [{"action": "y"}], "outcome": "success"}), era="legacy")
@example(call=("recall_procedure", {"task": "sweep", "limit": 10**30}), era="legacy")
@example(call=("get_procedure", {"id": "p_0", "revision": 2**63}), era="legacy")
@example(call=("no_such_tool", {}), era="legacy")
def test_every_call_is_answered_or_refused_with_the_reason(
    memory: Memory, caplog: pytest.LogCaptureFixture, call: tuple[str, dict[str, Any]], era: str
) -> None:
    tool, given_arguments = call
    caplog.clear()

    result = anyio.run(_called, memory, tool, given_arguments, era)
    text = "".join(c.text for c in result.content)  # type: ignore[union-attr]  # our tools answer with text

    assert text
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR], "an exception that nobody expected"
    if result.is_error:
        assert text != f"Error executing tool {tool}"
        assert not any(trace in text for trace in TRACES)
    else:
        assert json.loads(text) == result.structured_content


async def _called(memory: Memory, tool: str, given_arguments: dict[str, Any], era: str) -> CallToolResult:
    async with Client(build_server(lambda: memory), mode=era) as client:
        return await client.call_tool(tool, given_arguments)


@pytest.mark.parametrize("tool", sorted(ARGUMENTS))
def test_the_fuzz_knows_every_argument(memory: Memory, tool: str) -> None:
    async def schemas() -> dict[str, Any]:
        async with Client(build_server(lambda: memory)) as client:
            return {t.name: t.input_schema["properties"] for t in (await client.list_tools()).tools}

    known = anyio.run(schemas)

    assert known.keys() == ARGUMENTS.keys()
    assert set(ARGUMENTS[tool]) == known[tool].keys()


# -- lines that are no messages -------------------------------------------------------------------------------


class Said(NamedTuple):
    """A line of a client, and whether it has to be answered: a request by its id, what is no message by an error."""

    line: bytes
    answered: bool | None
    """None: perhaps."""
    request_id: int | None = None


def _request(number: int, message: dict[str, Any]) -> Said:
    return Said(line({**message, "id": number}), answered=True, request_id=number)


METHODS = st.sampled_from(
    [
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "skills/list",
        "skills/get",
        "ping",
        "initialize",
        "server/discover",
        "x",
    ]
)
PARAMS = st.one_of(
    st.just({}),
    st.just({"name": "recall_procedure", "arguments": {"task": "sweep"}}),
    st.just({"_meta": ENVELOPE}),
    st.just({"_meta": {**ENVELOPE, "io.modelcontextprotocol/protocolVersion": "1999-01-01"}}),
    st.dictionaries(st.sampled_from(["name", "arguments", "uri", "_meta", "cursor"]), ANYTHING, max_size=3),
)


def _is_broken(raw: bytes) -> bool:
    """Whether no line of it is JSON, and none is blank."""
    text = raw.decode("utf-8", "replace")
    return "\n" not in text and "\r" not in text and bool(text.strip()) and not text.strip().isdecimal()


BROKEN = st.one_of(
    st.sampled_from(
        [
            b"{",
            b"nonsense",
            b"\xff\xfe\x00",
            b'{"jsonrpc":"2.0","id":1,"method":"ping"',
            b'{"jsonrpc":"2.0","id":1,"method":"ping"}}',
            b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
            b"[]",
            b"{}",
            b"null",
            b'"ping"',
            b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
            b'{"id":1,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":1,"method":7}',
            b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":{"id":1},"method":"ping"}',
            b'{"method":"ping","params":{"id":2},"jsonrpc":"2.0","id":[1]}',
            b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":1e2,"method":"notifications/cancelled"}',
            b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}',
            b"[" * 100_000,
            b'{"\\ud800":' + b"[" * 100_000,
            b'{"a":' * 10_000,
            b"9" * 10_000,
            b"x" * 3_000_000,
        ]
    ),
    st.binary(min_size=1, max_size=30).filter(_is_broken),
).map(lambda broken: Said(broken + b"\n", answered=True))
SILENT = st.sampled_from(
    [
        b"\n",
        b"  \r\n",
        line(notification("cancelled") | {"params": {"requestId": "nothing"}}),
        line(notification("no/such")),
        line({"jsonrpc": "2.0", "id": 77, "result": {}}),
        line({"jsonrpc": "2.0", "id": 78, "error": {"code": 1, "message": "x"}}),
    ]
).map(lambda silent: Said(silent, answered=False))


@st.composite
def conversations(draw: st.DrawFn) -> list[Said]:
    """Requests, what is none, notifications and cancels in any order, in either era or none."""
    spoken = [Said(line(initialize()), None), Said(line(INITIALIZED), answered=False)] if draw(st.booleans()) else []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        spoken += draw(st.lists(BROKEN | SILENT, max_size=2))
        said = _request(number, request(draw(METHODS), **draw(PARAMS)))
        if draw(st.integers(0, 3)) == 0:
            cancel = notification("cancelled") | {"params": {"requestId": number}}
            spoken += [said._replace(answered=None), Said(line(cancel), answered=False)]
        else:
            spoken.append(said)
    return spoken


@fuzzed
@given(spoken=conversations())
def test_every_line_that_wants_an_answer_gets_one_and_the_server_goes_on(memory: Memory, spoken: list[Said]) -> None:
    wanted = {s.request_id for s in spoken if s.answered and s.request_id}
    complaints = sum(bool(s.answered) and s.request_id is None for s in spoken)
    answers: list[dict[str, Any]] = []
    with connected(build_server(lambda: memory)) as connection:
        connection.said.writelines(said.line for said in spoken)
        connection.said.write(line(request("ping", "the end")))
        connection.said.flush()
        patience = threading.Timer(60, connection.said.close)  # an answer that never comes is to fail, not to hang
        patience.start()
        while wanted - {a["id"] for a in answers} or len(_complaints(answers)) < complaints or not _ended(answers):
            heard = connection.heard.readline()
            assert heard, f"unanswered: {wanted - {a['id'] for a in answers}}, complaints: {len(_complaints(answers))}"
            answers.append(json.loads(heard))
        patience.cancel()

    assert len(_complaints(answers)) == complaints
    assert all(("result" in a) != ("error" in a) for a in answers)
    assert all(isinstance(a["error"]["code"], int) and a["error"]["message"] for a in answers if "error" in a)
    assert not any(trace in json.dumps(a) for a in answers for trace in TRACES)


def _complaints(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to what is no message: they have no id, or one that no request of ours has."""
    malformed = [a for a in answers if a.get("error", {}).get("message", "").startswith(("Parse error:", NO_MESSAGE))]
    return [a for a in malformed if a["error"]["code"] in {-32700, -32600}]


NO_MESSAGE = "Invalid Request: the line"


@pytest.mark.parametrize(("responses", "told"), [(None, "error"), ({}, "result")])
def test_null_is_not_taken_for_responses_that_were_not_asked_for(memory: Memory, responses: object, told: str) -> None:
    call = request("tools/call", 1, name="recall_procedure", arguments={"task": "x"}, _meta=ENVELOPE)
    call["params"]["inputResponses"] = responses

    with connected(build_server(lambda: memory)) as connection:
        connection.said.write(line(call))
        connection.said.flush()
        answer = json.loads(connection.heard.readline())

    assert told in answer
    assert answer.get("error", {"code": -32602})["code"] == -32602


def _ended(answers: list[dict[str, Any]]) -> bool:
    return any(a["id"] == "the end" for a in answers)


@pytest.mark.parametrize(
    ("said", "code", "request_id"),
    [
        (b"{nonsense", -32700, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, None),
        (b'{"jsonrpc":"1.0","id":"a","method":"ping"}', -32600, "a"),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}', -32600, None),
    ],
)
def test_the_program_answers_what_is_no_message_and_goes_on(
    tmp_path: Path, said: bytes, code: int, request_id: str | None
) -> None:
    environ = {**os.environ, "MEMP_HOME": str(tmp_path / "memory")}
    program = subprocess.Popen(
        [sys.executable, "-m", "memp_mcp"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(said + b"\n" + line(initialize()))
        program.stdin.flush()
        answers = [json.loads(program.stdout.readline()) for _ in range(2)]
        program.stdin.close()

    complaint = next(a for a in answers if "error" in a)
    assert (complaint["error"]["code"], complaint["id"]) == (code, request_id)
    assert [a["result"]["protocolVersion"] for a in answers if "result" in a] == ["2025-06-18"]


# -- transcripts ----------------------------------------------------------------------------------------------

CLIENTS = ["claude-code", "codex-rollout-direct-gpt-5.5", "qwen-chat", "gemini-chat"]
Mutation = Callable[[bytes], bytes]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """One way in which a line of a real transcript is damaged."""
    where, other = draw(st.floats(0, 0.999)), draw(st.floats(0, 0.999))
    put = draw(st.sampled_from([b"", b"\x00", b"\xff", b'"', b"}", b"null", b"[[", b"\\ud800", b"1e999", b"\n"]))

    def cut(text: bytes) -> bytes:
        start, end = sorted((int(where * len(text)), int(other * len(text))))
        return text[:start] + put + text[end:]

    def insert(text: bytes) -> bytes:
        return text[: int(where * len(text))] + put + text[int(where * len(text)) :]

    def swap_value(text: bytes) -> bytes:
        """Put another value in place of one that the line has."""
        pieces = text.split(b":")
        at = int(where * len(pieces))
        return b":".join([*pieces[:at], put or b"7", *pieces[at + 1 :]])

    return draw(st.sampled_from([cut, insert, swap_value]))


@pytest.mark.parametrize("name", CLIENTS)
@fuzzed
@given(change=st.lists(st.tuples(st.floats(0, 0.999), mutations()), min_size=1, max_size=4))
def test_a_real_transcript_that_is_damaged_is_read_around_the_damage(
    data: Path, tmp_path: Path, name: str, change: list[tuple[float, Mutation]]
) -> None:
    lines = (data / "transcripts" / "clients" / f"{name}.jsonl").read_bytes().splitlines()
    for where, mutate in change:
        lines[int(where * len(lines))] = mutate(lines[int(where * len(lines))])
    damaged = b"\n".join(lines)
    broken = sum(not _is_json(text) for text in damaged.split(b"\n") if text.strip())
    file = tmp_path / "damaged.jsonl"
    file.write_bytes(damaged)

    try:
        found = list(read(file))
    except BadInput as error:
        assert str(error)  # noqa: PT017 - nothing in it shows its format any more
        return

    assert all(isinstance(f, Trajectory | Exported | Skipped) for f in found)
    if broken:
        assert any(isinstance(f, Skipped) for f in found)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode("utf-8", "replace"))
    except ValueError:
        return False
    return True
