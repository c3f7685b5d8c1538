"""The real clients share one memory, and learn from it and for it without being asked.

Their model is scripted, so this shows what is passed on and shown, not what a model would make of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from endpoint import PROMPT_MARK, Json, Model
from sessions import CLAUDE, CLIENTS, CODEX, QWEN, ROOT, SECONDS, SERVER, Client, Desk, install

from memp_mcp.models import Trajectory
from memp_mcp.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
TASK = "Publish version 1.4.0 of the shop app to the store"
PASSED = "printf '===== 3 passed in 0.01s =====\\n' # pytest"


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


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
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
    assert b"hook UserPromptSubmit" in put_in
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
    """What each model was asked, in turn: Claude Code records, Codex recalls that and adds to it, Qwen recalls both.

    Without Claude Code there is nothing for the others to recall.
    """
    need(missing, CLAUDE)
    first = {"task": TASK, "steps": [{"action": "./ship build"}, {"action": "./ship sign"}]}
    second = {"task": "Brew coffee for the whole team", "steps": [{"action": "barista --cups 12"}]}
    worked = {"outcome": "success", "reward": 1}
    turns = {
        CLAUDE: CLAUDE.calls("record_trajectory", **first, **worked),
        CODEX: [
            *CODEX.calls("recall_procedure", task="Publish release 2.0 of the shop app to the store"),
            *CODEX.calls("record_trajectory", **second, **worked),
        ],
        QWEN: [
            *QWEN.calls("recall_procedure", task="Publish release 3.0 of the shop app to the store"),
            *QWEN.calls("recall_procedure", task="Brew coffee for a team of nine"),
        ],
    }
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
    return json.dumps(request.get("messages") or request["input"])


def test_what_one_client_records_the_others_recall_and_add_to(
    told: dict[str, list[Json]], missing: dict[str, str]
) -> None:
    need(missing, *CLIENTS)
    codex, qwen = said(told["codex"][-1]), said(told["qwen-code"][-1])

    assert "./ship sign" in codex
    assert "./ship sign" in qwen
    assert "barista" in qwen


def test_codex_knows_the_server_in_its_first_request(told: dict[str, list[Json]], missing: dict[str, str]) -> None:
    need(missing, CODEX)
    assert "recall_procedure" in json.dumps(told["codex"][0]["tools"])


@pytest.fixture(scope="module", params=CLIENTS, ids=lambda client: client.name)
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
    ship = desks[client.name].work / "ship"
    ship.write_text("#!/bin/sh\necho done\n", encoding="utf-8")
    ship.chmod(0o755)
    commands = ("python3 -c 'raise ValueError(7)'", "./ship build", "./ship sign", PASSED)
    model.will_do(*(client.runs(command) for command in commands), "All is published.")
    assert "All is published." in desks[client.name].session(f"{PROMPT_MARK}{TASK.replace('1.4.0', '9.9.9')}")
    return client, list(model.requests)


def test_a_hook_puts_the_recall_into_the_first_request(session: tuple[Client, list[Json]]) -> None:
    _, requests = session

    assert "memp-recall" in said(requests[0])
    assert "./ship sign" in said(requests[0])


def test_at_the_end_of_the_turn_the_session_is_in_the_memory(
    session: tuple[Client, list[Json]], memory: dict[str, str]
) -> None:
    client, requests = session
    store = Store.open(Path(memory["MEMP_HOME"]))

    def recorded() -> list[Trajectory]:
        return [t for t in store.all_trajectories() if t.client == client.name and "9.9.9" in t.task]

    until(recorded)
    [run] = recorded()
    assert (run.succeeded, run.reward and run.reward.judged_by) == (True, "rule:tests")
    assert str(run.recall_id) in said(requests[0])
    assert run.used
    assert "memp-recall" not in run.model_dump_json()


def test_no_process_is_left_behind(session: tuple[Client, list[Json]], desks: dict[str, Desk]) -> None:
    home = f"HOME={desks[session[0].name].home}".encode()

    until(lambda: not [p for p in Path("/proc").glob("[0-9]*/environ") if home in environment(p).split(b"\0")])


def environment(path: Path) -> bytes:
    """The environment of a process; empty where it has ended, or is not ours."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
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
