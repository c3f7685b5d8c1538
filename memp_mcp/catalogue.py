"""Makes catalogue.json: what the SDK's server says in the handshake, in its own words, for each protocol version.

``python -m memp_mcp.catalogue`` writes the file, ``--check`` only says whether it is up to date (exit 1: it is not).
Run it after every change of a tool's name, schema or wording; tests/test_front.py fails until then.

The file: ``handshake`` and ``envelope`` hold the protocol versions of the two eras in the SDK's order, each with the
methods that can be answered in it and the place of the answer in ``results``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import anyio
from mcp.server import MCPServer
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    JSONRPCRequest,
    JSONRPCResponse,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from memp_mcp.front import CATALOGUE
from memp_mcp.server import build_server

_METHODS = ("server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list", "ping")


def catalogue(application: MCPServer[Any]) -> str:
    """Return the text of the file for *application*; equal answers are kept once."""
    return anyio.run(_catalogue, application)


async def _catalogue(application: MCPServer[Any]) -> str:
    places: dict[str, int] = {}

    def placed(answers: dict[str, dict[str, Any]]) -> dict[str, int]:
        texts = {method: json.dumps(answer) for method, answer in answers.items()}
        return {method: places.setdefault(text, len(places)) for method, text in texts.items()}

    eras = {
        "handshake": {v: placed(await _answers(application, _handshake(v))) for v in HANDSHAKE_PROTOCOL_VERSIONS},
        "envelope": {v: placed(await _answers(application, _enveloped(v))) for v in MODERN_PROTOCOL_VERSIONS},
    }
    results = [json.loads(text) for text in places]
    return json.dumps({**eras, "results": results}, ensure_ascii=False, indent=1) + "\n"


def _handshake(version: str) -> dict[str, dict[str, Any]]:
    client = {"name": "catalogue", "version": "1"}
    initialize = {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
    return {"initialize": initialize} | {method: {} for method in _METHODS}


def _enveloped(version: str) -> dict[str, dict[str, Any]]:
    meta = {PROTOCOL_VERSION_META_KEY: version, CLIENT_CAPABILITIES_META_KEY: {}}
    return {method: {"_meta": meta} for method in _METHODS}


async def _answers(application: MCPServer[Any], requests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Ask *application* over one connection; leave out what it refuses, for that is not the front's to answer."""
    server = application._lowlevel_server  # noqa: SLF001 - the SDK has no public way to serve given streams
    answers = {}
    async with create_client_server_memory_streams() as (client, streams), anyio.create_task_group() as tasks:
        receive, send = client
        tasks.start_soon(server.run, *streams, server.create_initialization_options())
        for method, params in requests.items():
            await send.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=method, method=method, params=params)))
            received = await receive.receive()
            if isinstance(received, SessionMessage) and isinstance(received.message, JSONRPCResponse):
                answers[method] = received.message.result
        await send.aclose()
    return answers


def _no_memory() -> NoReturn:
    raise AssertionError("the handshake must not open the memory")


def main(arguments: list[str], path: Path = CATALOGUE) -> int:
    """Write the catalogue, or compare it with ``--check``; return the exit code."""
    text = catalogue(build_server(_no_memory))
    if "--check" in arguments:
        return 0 if path.is_file() and path.read_text(encoding="utf-8") == text else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
