"""A hook never stands in a client's way: it says what a server tells it to say, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memp_mcp import local

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
SECONDS = 60
HEAVY = {
    "mcp",
    "pydantic",
    "anyio",
    "numpy",
    "lancedb",
    "pyarrow",
    "rich",
    "asyncio",
    "subprocess",
    "typing_extensions",
}
Answer = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], None]]:
    """Lets a server of the memory in tmp_path answer."""
    listening: list[local.Endpoint] = []
    yield lambda answer: listening.append(local.listen(tmp_path, answer))
    for endpoint in listening:
        endpoint.close()


def hook(home: Path, *arguments: str, stdin: bytes = b"{}", **env: str) -> subprocess.CompletedProcess[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEMP_")}
    return subprocess.run(
        [sys.executable, "-m", "memp_mcp", "hook", *arguments],
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
        env=inherited | {"MEMP_HOME": str(home), "MEMP_HOOK_SECONDS": str(SECONDS)} | env,
    )


def silent(done: subprocess.CompletedProcess[bytes]) -> bool:
    return (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_hook_prints_what_the_server_says(tmp_path: Path, serve: Callable[[Answer], None]) -> None:
    asked: list[dict[str, Any]] = []

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        return {"output": {"said": "Grüße"}}

    serve(answer)
    told = {"prompt": "Publish the shop", "session_id": "s"}

    done = hook(tmp_path, "UserPromptSubmit", "--client", "claude-code", stdin=json.dumps(told).encode())

    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"said": "Grüße"}, b"")
    [question] = asked
    assert (question["event"], question["client"], question["told"]) == ("UserPromptSubmit", "claude-code", told)


def says_nothing(done: subprocess.CompletedProcess[bytes]) -> bool:
    """What Cursor reads as nothing: JSON all the same, and nothing that could stop or send a prompt."""
    return (done.returncode, done.stdout, done.stderr) == (0, b"{}", b"")


CURSOR_EVENTS = ["sessionStart", "beforeSubmitPrompt", "postToolUse", "postToolUseFailure", "stop", "sessionEnd"]


@pytest.mark.parametrize("event", CURSOR_EVENTS)
@pytest.mark.parametrize("stdin", [b"{}", b"", b"[]", b"\xff"])
def test_to_cursor_nothing_is_an_empty_object(tmp_path: Path, event: str, stdin: bytes) -> None:
    assert says_nothing(hook(tmp_path, event, "--client", "cursor", stdin=stdin, MEMP_HOOK_SECONDS="0.3"))


def test_cursor_hears_what_the_server_says(tmp_path: Path, serve: Callable[[Answer], None]) -> None:
    serve(lambda _: {"output": {"additional_context": "Grüße"}})

    done = hook(tmp_path, "sessionStart", "--client", "cursor")

    assert json.loads(done.stdout) == {"additional_context": "Grüße"}


@pytest.mark.parametrize("arguments", [(), ("--client", "cursor")])
def test_a_server_that_does_not_answer_cursor_in_time_leaves_an_empty_object(
    tmp_path: Path, serve: Callable[[Answer], None], arguments: tuple[str, ...]
) -> None:
    never = threading.Event()
    serve(lambda _: {"never": never.wait(SECONDS)})

    done = hook(tmp_path, "beforeSubmitPrompt", *arguments, MEMP_HOOK_SECONDS="0.3")

    assert says_nothing(done) if arguments else silent(done)
    never.set()


@pytest.mark.parametrize("event", ["SessionStart", "UserPromptSubmit", "Stop"])
def test_a_hook_of_claude_code_that_cursor_runs_leaves_it_to_cursors_own(
    tmp_path: Path, serve: Callable[[Answer], None], event: str
) -> None:
    serve(lambda _: {"output": {"said": "twice"}})
    told = {"conversation_id": "c", "cursor_version": "3.20.17", "prompt": "Publish", "transcript_path": "/t.jsonl"}

    assert says_nothing(hook(tmp_path, event, "--client", "claude-code", stdin=json.dumps(told).encode()))
    assert not (tmp_path / "run" / "spool").exists()


def test_the_end_of_a_turn_in_cursor_is_written_down_if_there_is_a_transcript(tmp_path: Path) -> None:
    told: dict[str, object] = {"conversation_id": "c", "cursor_version": "3.20.17", "status": "completed"}
    told |= {"transcript_path": "/t.jsonl", "workspace_roots": ["/shop", "/farm"]}

    assert says_nothing(hook(tmp_path, "stop", "--client", "cursor", stdin=json.dumps(told).encode()))
    no_transcript = json.dumps(told | {"transcript_path": None}).encode()
    assert says_nothing(hook(tmp_path, "sessionEnd", "--client", "cursor", stdin=no_transcript))

    [note] = (tmp_path / "run" / "spool").iterdir()
    noted = {"client": "cursor", "event": "stop", "transcript": "/t.jsonl", "project": "", "folder": "/shop"}
    assert json.loads(note.read_text()) == noted


def test_the_home_can_be_named_on_the_command_line(tmp_path: Path, serve: Callable[[Answer], None]) -> None:
    serve(lambda _: {"output": {"said": "here"}})

    done = hook(tmp_path / "elsewhere", "SessionStart", f"--home={tmp_path}", "--later-option")

    assert json.loads(done.stdout) == {"said": "here"}


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{}" + b" " * 5_000_000, b"[" * 100_000])
@pytest.mark.parametrize("event", ["UserPromptSubmit", "Stop", "stop"])
def test_garbage_is_met_with_silence(tmp_path: Path, serve: Callable[[Answer], None], event: str, stdin: bytes) -> None:
    serve(lambda question: {"output": question.get("told")})

    assert silent(hook(tmp_path, event, "--client", "codex", stdin=stdin))


@pytest.mark.parametrize("arguments", [(), ("Unknown",), ("--client",), ("Stop", "--home")])
def test_without_a_server_a_hook_is_silent(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert silent(hook(tmp_path, *arguments, MEMP_HOOK_SECONDS="0.3"))


def test_who_allows_it_time_gets_what_a_server_says_that_is_only_starting(tmp_path: Path) -> None:
    endpoints: list[local.Endpoint] = []
    with subprocess.Popen(
        [sys.executable, "-m", "memp_mcp", "hook", "UserPromptSubmit", "--client", "codex", "--home", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"MEMP_HOOK_SECONDS": str(SECONDS)},
    ) as waiting:
        assert waiting.stdin is not None
        waiting.stdin.write(b'{"prompt": "Publish the shop"}')
        waiting.stdin.close()
        turns: Iterator[dict[str, Any]] = iter([dict(local.PASS), {"output": {"said": "ready"}}])
        endpoints.append(local.listen(tmp_path, lambda _: next(turns)))
        assert waiting.stdout is not None
        assert json.loads(waiting.stdout.read()) == {"said": "ready"}
    endpoints[0].close()


@pytest.mark.parametrize("said", [{}, {"output": None}, {"output": {}}])
def test_a_server_that_has_nothing_to_say_makes_the_hook_silent(
    tmp_path: Path, serve: Callable[[Answer], None], said: dict[str, Any]
) -> None:
    serve(lambda _: said)

    assert silent(hook(tmp_path, "SessionStart"))


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path: Path, serve: Callable[[Answer], None]) -> None:
    never = threading.Event()
    serve(lambda _: {"never": never.wait(SECONDS)})

    assert silent(hook(tmp_path, "UserPromptSubmit", MEMP_HOOK_SECONDS="0.3"))
    never.set()


def test_a_client_that_never_ends_its_input_is_not_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "memp_mcp", "hook", "Stop"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"MEMP_HOME": str(tmp_path)},
    ) as process:
        assert process.wait(SECONDS) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""


def test_the_end_of_a_turn_is_written_down_for_the_next_server(tmp_path: Path) -> None:
    told = json.dumps({"transcript_path": "/t.jsonl", "session_id": "s", "cwd": "/shop"}).encode()

    assert silent(hook(tmp_path, "Stop", "--client", "codex", stdin=told))
    assert silent(hook(tmp_path, "SessionEnd", "--client", "codex", stdin=told, MEMP_PROJECT="shop"))
    assert silent(hook(tmp_path, "Stop", "--client", "codex", stdin=b'{"transcript_path": null}'))

    [note] = (tmp_path / "run" / "spool").iterdir()  # one for each transcript: the latest
    noted = {"client": "codex", "event": "SessionEnd", "transcript": "/t.jsonl", "project": "shop", "folder": "/shop"}
    assert json.loads(note.read_text()) == noted


@pytest.mark.parametrize(
    ("at", "root", "folder"),
    [
        ("/shop/src", "/shop", "/shop"),
        ("/shop-of-another", "/shop", "/shop-of-another"),
        ("/shop/src", "", "/shop/src"),
        (None, "", ""),
        (["/shop"], "/shop", ""),
    ],
)
def test_the_folder_that_the_client_works_in_goes_with_the_question(
    tmp_path: Path, serve: Callable[[Answer], None], at: object, root: str, folder: str
) -> None:
    asked: list[dict[str, Any]] = []
    serve(lambda question: asked.append(question) or {})  # type: ignore[func-returns-value]  # append gives None

    hook(tmp_path, "SessionStart", stdin=json.dumps({"cwd": at}).encode(), CLAUDE_PROJECT_DIR=root)

    assert [question["folder"] for question in asked] == [folder]


@pytest.mark.parametrize(("hooks", "event"), [("off", "Stop"), ("recall", "Stop"), ("record", "UserPromptSubmit")])
def test_hooks_can_be_switched_off(tmp_path: Path, serve: Callable[[Answer], None], hooks: str, event: str) -> None:
    serve(lambda _: {"output": {"said": "something"}})

    assert silent(hook(tmp_path, event, stdin=b'{"transcript_path": "/t.jsonl"}', MEMP_HOOKS=hooks))
    assert not (tmp_path / "run" / "spool").exists()


def test_nothing_heavy_is_imported(tmp_path: Path, serve: Callable[[Answer], None]) -> None:
    serve(lambda _: {})
    command = [sys.executable, "-X", "importtime", "-m", "memp_mcp", "hook", "Stop", "--home", str(tmp_path)]

    done = subprocess.run(command, input=b"{}", capture_output=True, timeout=SECONDS, check=True)

    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.decode().splitlines()}
    assert "memp_mcp" in imported
    assert not imported & HEAVY
