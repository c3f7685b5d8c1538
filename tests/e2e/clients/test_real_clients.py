"""The real clients share one memory, and learn from it and for it without being asked.

Their model is scripted, so this shows what is passed on and shown, not what a model would make of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from endpoint import PROMPT_MARK, Json, Model, conversation
from sessions import CLAUDE, CLIENTS, CODEX, GEMINI, OPENCODE, QWEN, ROOT, SECONDS, SERVER, Client, Desk, install

from memp_mcp.models import Trajectory
from memp_mcp.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
TASK = "Publish version 1.4.0 of the shop app to the store"
PASSED = "printf '===== 3 passed in 0.01s =====\\n' # pytest"
DRY = "error: the water tank is empty, and rule 7 forbids dry brewing"
HOOKED = tuple(client for client in CLIENTS if client.events)


def of_each(argument: str, clients: Sequence[Client], *, indirect: bool = False) -> pytest.MarkDecorator:
    """A test of each of these clients."""
    return pytest.mark.parametrize(argument, clients, indirect=indirect, ids=lambda client: client.name)


def until(is_so: Callable[[], object]) -> None:
    """Wait for something that a process does in its own time."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    endpoint = Model()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of the memory that all share; no hook is to miss its moment on a busy machine."""
    home = tmp_path_factory.mktemp("shared") / "memory"
    return {"MEMP_HOME": str(home), "MEMP_HOOK_SECONDS": "20", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def missing() -> dict[str, str]:
    """The clients that are not here, and why."""
    reasons = {client.name: install(client) for client in CLIENTS}
    return {name: reason for name, reason in reasons.items() if reason}


def need(missing: dict[str, str], *clients: Client) -> None:
    """Skip what these clients are needed for if one of them is not here."""
    for client in clients:
        if client.name in missing:
            pytest.skip(missing[client.name])


@pytest.fixture(scope="module")
def desks(
    tmp_path_factory: pytest.TempPathFactory, model: Model, memory: dict[str, str], missing: dict[str, str]
) -> dict[str, Desk]:
    here = [client for client in CLIENTS if client.name not in missing]
    found = {c.name: Desk(c, tmp_path_factory.mktemp(c.name) / "home", model, memory) for c in here}
    for desk in found.values():
        desk.join()
    return found


@of_each("client", CLIENTS)
def test_what_install_puts_in_uninstall_takes_out(
    client: Client, tmp_path: Path, model: Model, memory: dict[str, str]
) -> None:
    desk = Desk(client, tmp_path / "home", model, memory)
    before = desk.files()

    desk.join()
    joined = desk.files()
    desk.memp("uninstall", client.name)

    after = desk.files()
    put_in = b"".join(content for name, content in joined.items() if content != before.get(name))
    assert [event for event in client.events if f"hook {event} ".encode() not in put_in] == []
    assert put_in.count(b"memp") > put_in.count(b"hook "), "the server and the hooks"
    assert {name: content for name, content in after.items() if name in before} == before
    assert not [name for name, content in after.items() if b"memp" in content and name not in joined]


@pytest.fixture(scope="module")
def server(memory: dict[str, str]) -> Iterator[None]:
    """A server that is running already, as that of another client is, when a session begins."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "other", "version": "1"}}
    with subprocess.Popen(
        SERVER, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, **memory}
    ) as process:
        assert process.stdin is not None
        for number, (method, params) in enumerate([("initialize", hello), ("tools/list", {})]):
            line = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
        until(lambda: list(Path(memory["MEMP_HOME"]).glob("run/*.sock")))
        yield
        process.stdin.close()


@pytest.fixture(scope="module")
def told(desks: dict[str, Desk], model: Model, server: None, missing: dict[str, str]) -> dict[str, list[Json]]:
    """What each model was asked: Claude Code records, Codex recalls that and adds to it, the others recall both.

    Without Claude Code there is nothing for the others to recall.
    """
    need(missing, CLAUDE)
    first = {"task": TASK, "steps": [{"action": "./ship build"}, {"action": "./ship sign"}]}
    brew = {"action": "barista --cups 12"}
    second = {
        "task": "Brew coffee for the whole team",
        "steps": [{**brew, "observation": DRY}, {"action": "barista fill"}, {**brew, "observation": "brewed"}],
    }
    worked = {"outcome": "success", "reward": 1}
    turns = {
        CLAUDE: CLAUDE.calls("record_trajectory", **first, **worked),
        CODEX: [
            *CODEX.calls("recall_procedure", task="Publish release 2.0 of the shop app to the store"),
            *CODEX.calls("record_trajectory", **second, **worked),
        ],
    }
    for client in (QWEN, GEMINI, OPENCODE):
        turns[client] = [
            *client.calls("recall_procedure", task="Publish release 3.0 of the shop app to the store"),
            *client.calls("recall_procedure", task="Brew coffee for a team of nine"),
        ]
    asked = {}
    for client, script in turns.items():
        if client.name in missing:
            continue
        model.will_do(*script, "Done.")
        assert "Done." in desks[client.name].session(f"{PROMPT_MARK}do as you are told")
        asked[client.name] = list(model.requests)
    return asked


def said(request: Json) -> str:
    """The conversation of a request, without the tools that it offers."""
    return json.dumps(conversation(request))


@of_each("client", (CODEX, QWEN, GEMINI, OPENCODE))
def test_what_one_client_records_the_others_recall_and_add_to(
    client: Client, told: dict[str, list[Json]], missing: dict[str, str]
) -> None:
    need(missing, CODEX, client)

    seen = said(told[client.name][-1])

    assert "./ship sign" in seen
    assert "barista" in seen


@of_each("client", (CODEX, GEMINI, OPENCODE))
def test_the_model_knows_the_tools_in_its_first_request(
    client: Client, told: dict[str, list[Json]], missing: dict[str, str]
) -> None:
    """The tools are not declared at once by Claude Code and Qwen Code, whose models look them up."""
    need(missing, client)

    assert "recall_procedure" in json.dumps(told[client.name][0]["tools"])


@pytest.fixture(scope="module")
def session(
    request: pytest.FixtureRequest,
    told: dict[str, list[Json]],
    desks: dict[str, Desk],
    model: Model,
    missing: dict[str, str],
) -> tuple[Client, list[Json]]:
    """A session of a client in which nobody thinks of the memory, and what its model was asked."""
    client: Client = request.param
    need(missing, client)
    for name, does in {"ship": "echo done", "brew": f"echo {DRY!r} >&2; exit 1"}.items():
        program = desks[client.name].work / name
        program.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        program.chmod(0o755)
    commands = ("./brew", "./ship build", "./ship sign", PASSED)
    model.will_do(*(client.runs(command) for command in commands), "All is published.")
    assert "All is published." in desks[client.name].session(f"{PROMPT_MARK}{TASK.replace('1.4.0', '9.9.9')}")
    return client, list(model.requests)


@of_each("session", HOOKED, indirect=True)
def test_a_hook_puts_the_recall_into_the_first_request(session: tuple[Client, list[Json]]) -> None:
    _, requests = session

    assert "memp-recall" in said(requests[0])
    assert "./ship sign" in said(requests[0])


@of_each("session", HOOKED, indirect=True)
def test_after_a_failing_command_comes_what_helped_before(
    session: tuple[Client, list[Json]], missing: dict[str, str]
) -> None:
    need(missing, CODEX)
    _, requests = session

    assert "barista fill" not in said(requests[0])
    assert "barista fill" in said(requests[1])


def learnt(memory: dict[str, str], client: Client) -> list[Trajectory]:
    """What the memory has of a client's session in which nobody thought of it."""
    store = Store.open(Path(memory["MEMP_HOME"]))
    return [t for t in store.all_trajectories() if t.client == client.name and "9.9.9" in t.task]


@of_each("session", HOOKED, indirect=True)
def test_at_the_end_of_the_turn_the_session_is_in_the_memory(
    session: tuple[Client, list[Json]], memory: dict[str, str]
) -> None:
    client, requests = session

    until(lambda: learnt(memory, client))

    [run] = learnt(memory, client)
    assert (run.succeeded, run.reward and run.reward.judged_by) == (True, "rule:tests")
    assert str(run.recall_id) in said(requests[0])
    assert run.used
    assert "memp-recall" not in run.model_dump_json()
    assert (DRY in run.steps[0].observation, "context>" in run.steps[0].observation) == (True, False)


@of_each("session", (OPENCODE,), indirect=True)
def test_what_a_client_without_hooks_has_kept_is_learnt_by_an_import(
    session: tuple[Client, list[Json]], memory: dict[str, str], desks: dict[str, Desk]
) -> None:
    client, _ = session
    assert not learnt(memory, client)

    for _ in range(2):
        desks[client.name].memp("import", "--from", client.name)

    [run] = learnt(memory, client)
    assert run.task == f"{PROMPT_MARK}{TASK.replace('1.4.0', '9.9.9')}"
    assert [step.action for step in run.steps] == [
        f"bash: {c}" for c in ("./brew", "./ship build", "./ship sign", PASSED)
    ]
    assert (run.steps[0].failed, DRY in run.steps[0].observation) == (True, True)
    assert (run.succeeded, run.reward and run.reward.judged_by) == (True, "rule:tests")


@of_each("session", CLIENTS, indirect=True)
def test_status_tells_that_a_client_is_joined_and_was_heard_of(
    session: tuple[Client, list[Json]], desks: dict[str, Desk]
) -> None:
    client, _ = session

    state = desks[client.name].status()

    assert (state["registered"], state["command_found"]) == (True, True)
    assert (tuple(state["hooks"]), state["hooks_missing"]) == (client.events, [])
    assert state["last_seen"]


@of_each("session", CLIENTS, indirect=True)
def test_no_process_is_left_behind(session: tuple[Client, list[Json]], desks: dict[str, Desk]) -> None:
    home = f"HOME={desks[session[0].name].home}".encode()

    until(lambda: not [p for p in Path("/proc").glob("[0-9]*/environ") if home in environment(p).split(b"\0")])


def environment(path: Path) -> bytes:
    """The environment of a process; empty where it has ended, or is not ours."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@of_each("client", CLIENTS)
def test_a_client_that_was_left_knows_nothing_of_it(
    client: Client, told: dict[str, list[Json]], desks: dict[str, Desk], model: Model, missing: dict[str, str]
) -> None:
    """The last of all tests: nobody joins it again. The client has written into its files since it was joined."""
    need(missing, client)
    desk = desks[client.name]
    joined = desk.configuration()
    desk.memp("uninstall", client.name)
    left = desk.configuration()
    model.will_do("All is published.")

    desk.session(f"{PROMPT_MARK}{TASK.replace('1.4.0', '7.7.7')}")

    asked = json.dumps(model.requests)
    assert [name for name, text in joined.items() if "memp" in text]
    assert not [name for name, text in left.items() if "memp" in text or "before" in name]
    assert left.keys() == {name for name in joined if "before" not in name}
    assert "memp-recall" not in asked
    assert "recall_procedure" not in asked
    assert (desk.status()["registered"], desk.status()["hooks"]) == (False, [])
