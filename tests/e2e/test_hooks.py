"""A server process and the processes of the hooks, as a client starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memp_mcp.clients import Command
from memp_mcp.store import Store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets and signals")
SECONDS = 60
TASK = "Publish version 1.4.0 of the shop app"
PASSED = "===== 3 passed in 0.01s ====="


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "memory"


def environment(home: Path, project: str = "") -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEMP_")}
    return inherited | {"MEMP_HOME": str(home), "MEMP_HOOK_SECONDS": str(SECONDS), "MEMP_PROJECT": project}


def until(is_so: Callable[[], object]) -> None:
    """Wait for what another process does in its own time."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.02)


@contextmanager
def server(home: Path, project: str = "", folder: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose memory is open; it ends with its client, unless it has been killed."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "client", "version": "1"}}
    command = [sys.executable, "-m", "memp_mcp"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(home, project), cwd=folder
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, (method, params) in enumerate([("initialize", hello), ("tools/list", {})]):
            line = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            process.stdout.readline()
        until((home / "run" / f"{process.pid}.sock").exists)
        yield process


def hook(home: Path, event: str, project: str = "", **told: object) -> str:
    """What the model is told at an event; empty where the hook is silent."""
    done = subprocess.run(
        [sys.executable, "-m", "memp_mcp", "hook", event, "--client", "codex"],
        input=json.dumps({"hook_event_name": event, "session_id": "s"} | told),
        text=True,
        capture_output=True,
        check=True,
        env=environment(home, project),
    )
    assert done.stderr == ""
    return str(json.loads(done.stdout)["hookSpecificOutput"]["additionalContext"]) if done.stdout else ""


def cursor_hook(home: Path, event: str, **told: object) -> dict[str, str]:
    """What Cursor reads, which runs the line that install has put in; always an object."""
    common = {"hook_event_name": event, "conversation_id": "c", "cursor_version": "3.20.17", "transcript_path": None}
    done = subprocess.run(
        ["sh", "-c", Command((sys.executable, "-m", "memp_mcp")).hook("cursor", event, sys.platform)],
        input=json.dumps(common | told),
        text=True,
        capture_output=True,
        check=True,
        env=environment(home),
    )
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said.keys() <= {"additional_context"}, "anything else could stop a prompt, or send one"
    return dict(said)


def cursor_transcript(path: Path) -> Path:
    """A conversation of Cursor in which the tests passed."""
    call: dict[str, object] = {"type": "tool_use", "name": "Shell", "input": {"command": "./ship sign && pytest"}}
    lines: list[tuple[str, dict[str, object]]] = [
        ("user", {"type": "text", "text": f"<user_query>\n{TASK}\n</user_query>"}),
        ("assistant", call),
        ("user", {"type": "tool_result", "content": PASSED}),
    ]
    texts = (json.dumps({"role": role, "message": {"content": [block]}}) + "\n" for role, block in lines)
    path.write_text("".join(texts), encoding="utf-8")
    return path


def transcript(path: Path) -> Path:
    """A session of Codex in which the tests passed."""
    item = {"type": "CommandExecution", "id": "c1", "command": ["bash", "-lc", "./ship sign && pytest"]}
    lines = [
        {"type": "session_meta", "payload": {"id": "x", "cwd": "/shop"}},
        {"type": "event_msg", "payload": {"type": "user_message", "message": TASK}},
        {
            "type": "event_msg",
            "payload": {"type": "item_completed", "item": item | {"aggregated_output": PASSED, "exit_code": 0}},
        },
    ]
    moment = {"timestamp": "2026-01-01T00:00:00Z"}
    path.write_text("".join(json.dumps(moment | line) + "\n" for line in lines), encoding="utf-8")
    return path


def own(path: Path) -> Path:
    """A trajectory in the program's own format."""
    told = {"task": TASK, "steps": [{"action": "./ship sign"}], "outcome": "success", "reward": 1}
    path.write_text(json.dumps(told) + "\n", encoding="utf-8")
    return path


def tasks(home: Path) -> list[str]:
    return [t.task for t in Store.open(home).all_trajectories()]


def test_a_session_is_learnt_from_and_helps_the_next_one(home: Path, tmp_path: Path) -> None:
    with server(home) as process:
        assert hook(home, "SessionStart") == ""

        hook(home, "Stop", transcript_path=str(transcript(tmp_path / "rollout.jsonl")))
        until(lambda: tasks(home))
        told = ""

        def recalled() -> str:
            nonlocal told
            told = hook(
                home, "UserPromptSubmit", prompt="Publish version 2.0 of the shop app", session_id=str(time.time())
            )
            return told

        until(recalled)
        assert "ship sign" in told
        assert "1 procedure " in hook(home, "SessionStart")

        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(SECONDS) == 0
        assert not list((home / "run").glob("*.sock"))


def test_a_conversation_of_cursor_is_learnt_from_and_helps_the_next_one(home: Path, tmp_path: Path) -> None:
    with server(home):
        assert cursor_hook(home, "sessionStart") == {}
        assert cursor_hook(home, "stop", status="completed") == {}
        ended = cursor_transcript(tmp_path / "0b0d6c1e-8a4f-4f1e-9d8e-2b7f1c3a9e10.jsonl")
        assert cursor_hook(home, "stop", status="completed", transcript_path=str(ended)) == {}
        until(lambda: tasks(home))

        told: dict[str, str] = {}

        def recalled() -> bool:
            conversation = str(time.time())
            prompt = "Publish version 2.0 of the shop app"
            assert cursor_hook(home, "beforeSubmitPrompt", prompt=prompt, conversation_id=conversation) == {}
            answer = {"tool_name": "Read", "tool_output": "{}", "conversation_id": conversation}
            told.update(cursor_hook(home, "postToolUse", **answer))
            return bool(told)

        until(recalled)
        assert "ship sign" in told["additional_context"]
        assert "recall_procedure(task)" in cursor_hook(home, "sessionStart")["additional_context"]
        assert cursor_hook(home, "sessionEnd", reason="completed") == {}
        assert tasks(home) == [TASK]


@pytest.mark.usefixtures("unmeasured")
def test_what_a_killed_server_left_is_taken_up_by_the_next(home: Path, tmp_path: Path) -> None:
    with server(home) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    [left] = (home / "run").glob("*.sock")

    assert hook(home, "SessionEnd", transcript_path=str(transcript(tmp_path / "rollout.jsonl"))) == ""

    with server(home):
        assert not left.exists()
        until(lambda: not list((home / "run" / "spool").iterdir()))
        assert tasks(home) == [TASK]


def test_a_server_that_is_stopped_holds_up_nobody(home: Path, tmp_path: Path) -> None:
    record = [sys.executable, "-m", "memp_mcp", "import", str(own(tmp_path / "one.jsonl"))]
    subprocess.run(record, check=True, env=environment(home), capture_output=True)
    with server(home) as stopped, server(home):
        stopped.send_signal(signal.SIGSTOP)
        try:
            os.utime(home / "run" / f"{stopped.pid}.sock")  # so that it is asked first
            assert "1 procedure " in hook(home, "SessionStart")
        finally:
            stopped.send_signal(signal.SIGCONT)


def test_a_session_is_told_nothing_of_another_project_by_the_server_of_that(home: Path, tmp_path: Path) -> None:
    record = [sys.executable, "-m", "memp_mcp", "import", str(own(tmp_path / "one.jsonl"))]
    subprocess.run([*record, "--project", "shop"], check=True, env=environment(home), capture_output=True)

    with server(home, "farm"), server(home, "shop"):
        told = {project: hook(home, "SessionStart", project) for project in ("shop", "farm", "")}

    assert "1 procedure " in told["shop"]
    assert told["farm"] == told[""] == ""


def test_projects_by_folder_keep_two_clients_apart_whose_hooks_name_none(home: Path, tmp_path: Path) -> None:
    shop, farm = tmp_path / "shop", tmp_path / "farm"
    shop.mkdir()
    farm.mkdir()
    session = str(transcript(tmp_path / "rollout.jsonl"))
    with server(home, "auto", shop), server(home, "auto", farm):
        assert hook(home, "SessionEnd", transcript_path=session, cwd=str(shop)) == ""
        until(lambda: tasks(home))
        until(lambda: hook(home, "SessionStart", cwd=str(shop)))

        assert hook(home, "SessionStart", cwd=str(farm)) == ""


def test_a_server_on_http_answers_the_hooks_of_its_machine(home: Path, tmp_path: Path) -> None:
    record = [sys.executable, "-m", "memp_mcp", "import", str(own(tmp_path / "one.jsonl"))]
    subprocess.run(record, check=True, env=environment(home), capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "memp_mcp", "serve", "--http", "--port", str(port)]
    with subprocess.Popen(command, env=environment(home), stderr=subprocess.DEVNULL) as process:
        try:
            until((home / "run" / f"{process.pid}.sock").exists)
            assert "1 procedure " in hook(home, "SessionStart")
        finally:
            process.terminate()
