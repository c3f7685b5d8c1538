"""A server small enough to see what crosses the hand-over: who the SDK thinks is calling, and where prints go."""

from __future__ import annotations

import sys
import threading
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel


class Client(BaseModel):
    """Who is calling."""

    name: str
    protocol: str


def who(ctx: Context) -> Client:
    params = ctx.session.client_params
    return Client(name=params.client_info.name if params else "", protocol=ctx.protocol_version)


def loud(text: str) -> int:
    """Print, as careless code does, and say how long the text was."""
    print(text)  # noqa: T201 - what is tested
    sys.stdout.flush()
    return len(text)


def stuck() -> None:
    """Say so on stderr and never return."""
    sys.stderr.write("stuck\n")
    sys.stderr.flush()
    threading.Event().wait()


def thing(name: str) -> str:
    return name


def stats() -> str:
    return "{}"


def begin(task: str = "") -> str:
    return task


def application() -> MCPServer[Any]:
    """Make the server."""
    server: MCPServer[Any] = MCPServer("stand-in", title="Stand-in — für Tests", version="7", instructions="Läuft.")
    for tool in (who, loud, stuck):
        server.add_tool(tool)
    server.resource("stand-in://things/{name}")(thing)
    server.resource("stand-in://stats")(stats)
    server.prompt()(begin)
    return server
