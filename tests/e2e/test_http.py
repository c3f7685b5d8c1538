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


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A running server; it has to stop by itself on SIGTERM, without a word on stderr about it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    command = [sys.executable, "-m", "memp_mcp", "serve", "--http", "--port", str(number)]
    environ = {**os.environ, "MEMP_HOME": str(tmp_path / "memory")}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        assert server.stderr is not None
        _wait_for(number, server)
        yield number
        server.send_signal(signal.SIGTERM)
        assert "Traceback" not in server.stderr.read()


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


async def test_two_clients_of_either_era_share_the_memory_and_strangers_are_refused(port: int) -> None:
    url = f"http://127.0.0.1:{port}/mcp"
    steps = [{"action": "sweep"}]
    async with Client(url, mode="legacy") as one, Client(url, mode="auto") as other:
        await one.call_tool(
            "record_trajectory", {"task": "sweep the floor", "steps": steps, "outcome": "success", "reward": 1}
        )
        found = await other.call_tool("recall_procedure", {"task": "sweep the floor"})

        assert found.structured_content is not None
        assert found.structured_content["procedures"][0]["title"] == "sweep the floor"
        assert one.protocol_version != other.protocol_version
    assert await anyio.to_thread.run_sync(lambda: refused(port, Host="evil.example")) == 421
    assert await anyio.to_thread.run_sync(lambda: refused(port, Origin="http://evil.example")) == 403
