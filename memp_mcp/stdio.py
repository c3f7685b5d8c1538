"""Runs an MCPServer on two byte streams: the SDK's stdio transport, without its claim on the process's own streams."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, TextIO

import anyio
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server


def serve(application: MCPServer[Any], stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Serve one connection, of either protocol era, until *stdin* ends; close both streams."""
    with (
        io.TextIOWrapper(stdin, encoding="utf-8", errors="replace") as lines_in,
        io.TextIOWrapper(stdout, encoding="utf-8", newline="\n") as lines_out,
    ):
        anyio.run(_serve, application, lines_in, lines_out)


async def _serve(application: MCPServer[Any], lines_in: TextIO, lines_out: TextIO) -> None:
    server = application._lowlevel_server  # noqa: SLF001 - run_stdio_async() does the same, but takes no streams
    async with stdio_server(anyio.wrap_file(lines_in), anyio.wrap_file(lines_out)) as (read_stream, write_stream):
        await server.run(read_stream, write_stream, server.create_initialization_options())
