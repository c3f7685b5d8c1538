"""Serving a team: who comes in, what a token may do, what it sees, how much; and what operators see."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import Implementation
from test_fuzz import TRACES

from memp_mcp.tokens import Scope, Tokens
from memp_mcp.web import MAX_BODY, NEEDED, _retold

pytestmark = pytest.mark.anyio
EPISODE = {"task": "sweep the floor", "steps": [{"action": "sweep"}], "outcome": "success", "reward": 1}
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}
ERAS = pytest.mark.parametrize("era", ["legacy", "2026-07-28"])


class Served(NamedTuple):
    """A running server and the tokens that it knows."""

    port: int
    process: subprocess.Popen[str]
    home: Path
    tokens: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"


class Reply(NamedTuple):
    """What came back, refused or not."""

    status: int
    headers: Message
    text: str


def ask(url: str, *, body: bytes | None = None, **headers: str) -> Reply:
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=sent), timeout=60) as reply:  # noqa: S310 - our own server
            return Reply(reply.status, reply.headers, reply.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            return Reply(refused.code, refused.headers, refused.read().decode())


def started(home: Path, *argv: str, log: Path | None = None) -> tuple[int, subprocess.Popen[str]]:
    """A server on a free port; it answers when this returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "memp_mcp", "serve", "--http", "--port", str(port), *argv]
    environ = {**os.environ, "MEMP_HOME": str(home), "MEMP_LOG_LEVEL": "INFO"}
    with (log or home.parent / "server.log").open("w") as errors:
        process = subprocess.Popen(command, env=environ, stderr=errors, stdout=subprocess.DEVNULL, text=True)
    for _ in range(600):
        try:
            ask(f"http://127.0.0.1:{port}/health")
        except OSError:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        else:
            return port, process
        break
    process.kill()
    pytest.fail("the server does not answer")


def made(home: Path) -> dict[str, str]:
    """Tokens of every scope, and one of another namespace."""
    tokens = Tokens(home / "tokens.json")
    scopes: list[tuple[str, Scope, str]] = [
        ("reader", "read", ""),
        ("writer", "write", ""),
        ("owner", "admin", ""),
        ("guest", "admin", "guests"),
        ("gone", "admin", ""),
    ]
    secrets = {name: tokens.create(name, scope=scope, namespace=space) for name, scope, space in scopes}
    tokens.revoke("gone")
    return secrets


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("team") / "memory"
    tokens = made(home)
    port, process = started(home, "--allow-host", "memory.example", "--allow-origin", "https://app.example")
    try:
        yield Served(port, process, home, tokens)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait(30)
    assert "Traceback" not in (home.parent / "server.log").read_text()


@asynccontextmanager
async def client(server: Served, name: str, era: str, **options: Any) -> AsyncIterator[Client]:
    """A client with the token of this name."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {server.tokens[name]}"}, timeout=60) as http,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=era, **options) as connected,
    ):
        yield connected


def hello(server: Served, **headers: str) -> Reply:
    return ask(f"{server.url}/mcp", body=json.dumps(HELLO).encode(), **headers)


def ping(server: Served, **headers: str) -> Reply:
    return ask(f"{server.url}/mcp", body=b'{"jsonrpc":"2.0","id":1,"method":"ping"}', **headers)


def bearer(server: Served, name: str) -> str:
    return f"Bearer {server.tokens[name]}"


def test_nobody_comes_in_without_a_token_that_is_valid(server: Served) -> None:
    for told in ({}, {"Authorization": "Bearer memp_x"}, {"Authorization": bearer(server, "gone")}):
        refused = hello(server, **told)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
    assert hello(server, Authorization=bearer(server, "reader")).status == 200


@ERAS
async def test_a_token_may_do_what_its_scope_covers_and_hears_why_not(server: Served, era: str) -> None:
    calls: dict[str, dict[str, Any]] = {
        "recall_procedure": {"task": "sweep"},
        "get_procedure": {"id": "p_0"},
        "record_trajectory": EPISODE,
        "reflect_failure": {"task": "x", "error": "y"},
        "forget_procedure": {"id": "p_0"},
    }
    assert calls.keys() == NEEDED.keys()
    refused: dict[str, list[str]] = {}
    for name in ("reader", "writer", "owner"):
        async with client(server, name, era) as connected:
            assert {t.name for t in (await connected.list_tools()).tools} == NEEDED.keys()
            for tool, arguments in calls.items():
                answer = await connected.call_tool(tool, arguments)
                text = answer.content[0].text  # type: ignore[union-attr]  # text
                if "needs a token of the scope" in text:
                    assert answer.is_error
                    refused.setdefault(name, []).append(tool)

    assert refused == {
        "reader": ["record_trajectory", "reflect_failure", "forget_procedure"],
        "writer": ["forget_procedure"],
    }


@ERAS
async def test_a_namespace_is_a_memory_of_its_own(server: Served, era: str) -> None:
    async with client(server, "guest", era) as guest, client(server, "owner", era) as owner:
        secret = await guest.call_tool("record_trajectory", {**EPISODE, "task": f"open the safe of {era}"})
        assert secret.structured_content is not None
        taught = secret.structured_content["trajectory_id"]
        ours = await guest.call_tool("recall_procedure", {"task": f"open the safe of {era}"})
        theirs = await owner.call_tool("recall_procedure", {"task": f"open the safe of {era}"})

        assert ours.structured_content is not None
        assert theirs.structured_content is not None
        assert ours.structured_content["procedures"]
        assert not theirs.structured_content.get("procedures")
        with pytest.raises(Exception, match="No trajectory"):
            await owner.read_resource(f"memp://trajectories/{taught}")
    assert (server.home / "namespaces" / "guests" / "meta.json").is_file()


@ERAS
async def test_what_is_recorded_has_the_name_of_its_token_beside_what_the_client_calls_itself(
    server: Served, era: str
) -> None:
    """A client may call itself anything, so that without the token's name all sources would look alike."""
    task = f"wash the car of {era}"
    named = {"client_info": Implementation(name="codex", version="1")}
    async with client(server, "writer", era, **named) as writer, client(server, "reader", era) as reader:
        await writer.call_tool("record_trajectory", {**EPISODE, "task": task})
        found = await reader.call_tool("recall_procedure", {"task": task})

    assert found.structured_content is not None
    assert found.structured_content["procedures"][0]["origin"].startswith("writer (codex), ")


def test_without_a_session_the_name_of_the_token_is_the_source(tmp_path: Path) -> None:
    """No call of the 2025 era tells the client's name then."""
    home = tmp_path / "memory"
    tokens = made(home)
    port, process = started(home, "--stateless")
    try:
        served = Served(port, process, home, tokens)
        called(served, "writer", "record_trajectory", EPISODE)
        found = called(served, "reader", "recall_procedure", {"task": EPISODE["task"]})
    finally:
        process.kill()
        process.wait(30)

    assert found["structuredContent"]["procedures"][0]["origin"].startswith("writer, ")


@ERAS
async def test_the_paths_of_the_server_are_no_business_of_a_client(tmp_path: Path, era: str) -> None:
    home = tmp_path / "memory"
    home.mkdir()
    (home / "meta.json").write_text("{")
    served = Served(*started(home), home, {"anybody": "unasked"})
    try:
        async with client(served, "anybody", era) as connected:
            refused = await connected.call_tool("recall_procedure", {"task": "sweep"})
            with pytest.raises(Exception, match="MEMP_HOME") as caught:
                await connected.read_resource("memp://stats")
    finally:
        served.process.kill()
        served.process.wait(30)

    text = refused.content[0].text  # type: ignore[union-attr]  # text
    assert refused.is_error
    assert "MEMP_HOME" in text
    assert str(tmp_path) not in text + str(caught.value)


@ERAS
async def test_the_figures_of_the_memory_do_not_tell_where_it_is(server: Served, era: str) -> None:
    async with client(server, "reader", era) as connected:
        told = await connected.read_resource("memp://stats")

    text = told.contents[0].text  # type: ignore[union-attr]  # text
    assert json.loads(text)["directory"] == "MEMP_HOME"
    assert str(server.home) not in text


@pytest.mark.parametrize("setting", ["MEMP_RULES", "MEMP_EMBEDDER"])
async def test_what_is_wrong_with_a_file_of_the_server_names_the_setting_and_not_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(setting, str(tmp_path / "elsewhere" / "file.toml"))
    home = tmp_path / "memory"
    served = Served(*started(home), home, {"anybody": "unasked"})
    try:
        while "still loading" in ask(f"{served.url}/ready").text:
            pass
        async with client(served, "anybody", "legacy") as connected:
            told = await connected.call_tool("recall_procedure", {"task": "sweep"})
    finally:
        served.process.kill()
        served.process.wait(30)

    text = told.content[0].text  # type: ignore[union-attr]  # text
    assert setting in text
    assert str(tmp_path) not in text


def test_a_note_is_told_without_the_paths_of_the_server_and_what_is_recalled_as_it_is() -> None:
    data = {"procedures": [{"title": "clean /srv/memp"}], "note": "no id (/srv/memp is full)", "notes": ["x /srv/memp"]}
    result = {"content": [], "structuredContent": data, "isError": False}

    told = _retold(result, lambda text: text.replace("/srv/memp", "MEMP_HOME"))

    assert isinstance(told, dict)
    anew = {**data, "note": "no id (MEMP_HOME is full)", "notes": ["x MEMP_HOME"]}
    assert told["structuredContent"] == json.loads(told["content"][0]["text"]) == anew


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{nonsense", -32700), (b"[]", -32600), (b'"x"', -32600), (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
     (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600), (b'{"jsonrpc":"2.0","id":{},"method":7}', -32600),
     (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600)],
)  # fmt: skip
def test_a_body_that_is_no_message_is_answered_as_on_stdio(
    server: Served, revision: str, body: bytes, code: int
) -> None:
    told = {"Authorization": bearer(server, "reader"), "Mcp_Protocol_Version": revision}
    answer = ask(f"{server.url}/mcp", body=body, **told)

    assert answer.status == 400
    assert json.loads(answer.text)["error"]["code"] == code
    assert json.loads(answer.text)["id"] is None
    assert not any(trace in answer.text for trace in TRACES)


def called(server: Served, name: str, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a call without a session, in the 2025 era."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    reply = ask(f"{server.url}/mcp", body=json.dumps(body).encode(), Authorization=bearer(server, name))
    told = next(line for line in reply.text.splitlines() if line.startswith("data:") and "jsonrpc" in line)
    result: dict[str, Any] = json.loads(told.removeprefix("data:"))["result"]
    return result


async def test_a_session_is_of_no_use_with_another_token(server: Served) -> None:
    opened = hello(server, Authorization=bearer(server, "owner"))
    session = opened.headers["mcp-session-id"]

    assert ping(server, Mcp_Session_Id=session, Authorization=bearer(server, "guest")).status == 404
    assert ping(server, Mcp_Session_Id=session, Authorization=bearer(server, "owner")).status == 200


def test_only_named_hosts_and_origins_are_answered(server: Served) -> None:
    ours = {"Authorization": bearer(server, "reader")}

    assert hello(server, Host="memory.example", Origin="https://app.example", **ours).status == 200
    assert hello(server, Host=f"memory.example:{server.port}", **ours).status == 200
    assert hello(server, Host="evil.example", **ours).status == 421
    assert hello(server, Origin="https://evil.example", **ours).status == 403


def test_a_body_above_the_limit_is_refused(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/mcp")
    told = {"Content-Type": "application/json", "Content-Length": str(MAX_BODY + 1)}
    for name, value in {**told, "Authorization": bearer(server, "writer")}.items():
        connection.putheader(name, value)
    connection.endheaders()

    assert connection.getresponse().status == 413  # before any of it was sent
    connection.close()


def test_health_and_readiness_are_told_to_anybody(server: Served) -> None:
    assert ask(f"{server.url}/health", Host="10.0.0.7").status == 200
    for _ in range(200):
        ready = ask(f"{server.url}/ready")
        if ready.status == 200:
            break
        assert "missing" in ready.text
    assert json.loads(ready.text) == {"status": "ready"}


def test_metrics_are_for_those_with_a_token(server: Served) -> None:
    hello(server, Authorization=bearer(server, "reader"))

    assert ask(f"{server.url}/metrics").status == 401
    assert ask(f"{server.url}/metrics", Host="10.0.0.7", Authorization=bearer(server, "reader")).status == 200
    told = ask(f"{server.url}/metrics", Authorization=bearer(server, "reader"))

    assert told.headers["Content-Type"].startswith("text/plain")
    assert 'memp_http_requests_total{method="POST",path="/mcp",status="200"}' in told.text
    assert "memp_tool_seconds" in told.text
    assert not any(secret in told.text for secret in server.tokens.values())


def test_a_request_has_an_id_that_the_log_tells(server: Served) -> None:
    given = hello(server, Authorization=bearer(server, "reader"), X_Request_ID="deploy-17")
    forged = hello(server, Authorization=bearer(server, "reader"), X_Request_ID="a b{}")
    log = ""
    while "deploy-17 POST" not in log:  # the line is written after the answer
        log = (server.home.parent / "server.log").read_text()

    assert given.headers["X-Request-ID"] == "deploy-17"
    assert forged.headers["X-Request-ID"] != "a b{}"
    assert "deploy-17 POST /mcp 200 reader" in log
    assert not any(secret in log for secret in server.tokens.values())


def test_a_secret_in_the_place_of_a_request_id_is_in_no_log(server: Served) -> None:
    secret = "gh" + "p_" + "Zq9X" * 9
    answered = hello(server, Authorization=bearer(server, "reader"), X_Request_ID=secret)
    log = ""
    while answered.headers["X-Request-ID"] not in log:
        log = (server.home.parent / "server.log").read_text()

    assert answered.headers["X-Request-ID"] != secret
    assert secret not in log


def test_more_than_the_rate_is_refused_until_it_is_not(tmp_path: Path) -> None:
    home = tmp_path / "memory"
    tokens = made(home)
    port, process = started(home, "--rate", "2/minute", "--stateless")
    try:
        served = Served(port, process, home, tokens)
        mine = [hello(served, Authorization=bearer(served, "reader")) for _ in range(3)]
        other = hello(served, Authorization=bearer(served, "writer"))
        still_up = ask(f"{served.url}/health")
    finally:
        process.kill()
        process.wait(30)

    assert [r.status for r in mine] == [200, 200, 429]
    assert 1 <= int(mine[2].headers["Retry-After"]) <= 60
    assert other.status == still_up.status == 200


async def test_two_stateless_servers_serve_one_client_by_turns(tmp_path: Path) -> None:
    home = tmp_path / "memory"
    (tmp_path / "logs").mkdir()
    servers = [started(home, "--stateless", log=tmp_path / "logs" / name) for name in ("a", "b")]
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    try:
        urls = [f"http://127.0.0.1:{port}/mcp" for port, _ in servers]
        for url, tool, arguments in (
            (urls[0], "record_trajectory", EPISODE),
            (urls[1], "recall_procedure", {"task": "sweep the floor"}),
        ):
            sent = json.dumps({**body, "params": {"name": tool, "arguments": arguments}}).encode()
            reply = ask(url, body=sent, Mcp_Protocol_Version="2025-11-25")
            assert reply.status == 200
            assert '"isError":false' in reply.text
        assert "sweep the floor" in reply.text
    finally:
        for _, process in servers:
            process.kill()
            process.wait(30)
