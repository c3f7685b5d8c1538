"""Streamable HTTP on loopback: both eras, two clients at once, and no stranger."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp import Client

pytestmark = pytest.mark.anyio


def serve(home: Path, *argv: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "memp_mcp", "serve", "--http", *argv]
    environ = {**os.environ, "MEMP_HOME": str(home), **env}
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def port(tmp_path: Path, free_port: int) -> Iterator[int]:
    """A running server; it has to stop by itself on SIGTERM, without a traceback."""
    with serve(tmp_path / "memory", "--port", str(free_port)) as server:
        try:
            _wait_for(free_port, server)
            yield free_port
            server.send_signal(signal.SIGTERM)
            out, err = server.communicate(timeout=60)
        finally:
            server.kill()
    assert out == ""
    assert err.startswith(f"memp-mcp serves http://127.0.0.1:{free_port}/mcp without tokens, to this machine alone\n")
    assert "Traceback" not in err


def _wait_for(port: int, server: subprocess.Popen[str]) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.1)
        else:
            return
    pytest.fail("the server does not listen")


def refused(port: int, **headers: str) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/mcp",
        data=b'{"jsonrpc":"2.0","id":1,"method":"ping"}',
        headers={"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers},
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)  # noqa: S310 - as above
    error.value.close()
    return error.value.code


def asked(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - our own server
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_two_clients_of_either_era_share_the_memory_and_strangers_are_refused(port: int) -> None:
    url = f"http://127.0.0.1:{port}/mcp"
    steps = [{"action": "sweep"}]
    async with Client(url, mode="legacy") as one, Client(url, mode="auto") as other:
        async with anyio.create_task_group() as at_once:
            for client, task in ((one, "sweep the floor"), (other, "mow the lawn")):
                episode = {"task": task, "steps": steps, "outcome": "success", "reward": 1}
                at_once.start_soon(client.call_tool, "record_trajectory", episode)
        found = await other.call_tool("recall_procedure", {"task": "sweep the floor"})

        assert found.structured_content is not None
        assert found.structured_content["procedures"][0]["title"] == "sweep the floor"
        assert one.protocol_version != other.protocol_version
    assert await anyio.to_thread.run_sync(lambda: refused(port, Host="evil.example")) == 421
    assert await anyio.to_thread.run_sync(lambda: refused(port, Origin="http://evil.example")) == 403


def test_the_figures_are_told_to_no_page_that_calls_this_machine_by_another_name(port: int) -> None:
    assert asked(port, "/metrics") == asked(port, "/metrics", Host=f"localhost:{port}") == 200
    assert asked(port, "/metrics", Host=f"evil.example:{port}") == 421
    assert asked(port, "/metrics", Origin="http://evil.example") == 403


def test_a_load_balancer_may_call_a_server_by_any_name(port: int) -> None:
    assert asked(port, "/health", Host="10.0.0.7") == 200
    assert asked(port, "/ready", Host="10.0.0.7") in {200, 503}  # as it stands with the embedder


def test_no_address_but_a_loopback_one_is_served(tmp_path: Path) -> None:
    with serve(tmp_path / "memory", "--host", "0.0.0.0") as server:  # noqa: S104 - must be refused
        out, err = server.communicate(timeout=60)

    assert (server.returncode, out) == (1, "")
    assert "'0.0.0.0' is not a loopback address" in err


def test_a_project_by_the_clients_folder_is_refused_as_nobody_tells_it(tmp_path: Path) -> None:
    with serve(tmp_path / "memory", MEMP_PROJECT="auto") as server:
        out, err = server.communicate(timeout=60)

    assert (server.returncode, out) == (1, "")
    assert err.startswith("memp-mcp: MEMP_PROJECT is auto, but over HTTP nobody tells the folder")


def test_a_port_that_is_taken_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with serve(tmp_path / "memory", "--port", str(number)) as server:
            _, err = server.communicate(timeout=60)

    assert server.returncode == 1
    assert f"Nothing can be served on 127.0.0.1:{number}. Is a server there already? Choose a --port." in err
    assert "serves" not in err
    assert "Traceback" not in err


async def test_a_server_stops_though_clients_are_connected(tmp_path: Path, free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/mcp"
    with serve(tmp_path / "memory", "--port", str(free_port)) as server:
        try:
            await anyio.to_thread.run_sync(_wait_for, free_port, server)
            async with Client(url, mode="legacy") as one, Client(url, mode="auto") as other:
                assert not (await one.call_tool("recall_procedure", {"task": "sweep"})).is_error
                assert not (await other.call_tool("recall_procedure", {"task": "sweep"})).is_error
                server.send_signal(signal.SIGTERM)
                _, err = await anyio.to_thread.run_sync(lambda: server.communicate(timeout=30))
        finally:
            server.kill()
    assert "Traceback" not in err


async def test_a_trajectory_of_five_megabytes_is_taken(port: int) -> None:
    steps = [{"action": "dump", "observation": "x" * 5_000_000}]
    async with Client(f"http://127.0.0.1:{port}/mcp") as client:
        recorded = await client.call_tool(
            "record_trajectory", {"task": "dump it", "steps": steps, "outcome": "success"}, read_timeout_seconds=120
        )

    assert not recorded.is_error
