"""Runs an MCPServer on two byte streams: the SDK's stdio transport, without its claim on the process's own streams."""

from __future__ import annotations

import io
import json
import re
from typing import Any, BinaryIO, TextIO

import anyio
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError
from pydantic import ValidationError

from memp_mcp.models import storable
from memp_mcp.server import no_message, not_json

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ODD_ID = re.compile(r'"id"\s*:\s*(?!"|-?\d+\s*[,}])')
"""Where an id might be neither a text nor a whole number; arguments may have one too."""


def serve(application: MCPServer[Any], stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Serve one connection, of either protocol era, until *stdin* ends; close both streams."""
    with (
        _Lines(stdin, encoding="utf-8", errors="replace") as lines_in,
        io.TextIOWrapper(stdout, encoding="utf-8", newline="\n") as lines_out,
    ):
        anyio.run(_serve, application, lines_in, lines_out)


class _Lines(io.TextIOWrapper):
    r"""Lines that the SDK can parse.

    A client that cuts a text in the middle of an emoji sends half of it, as an escape such as ``\ud83d``. The SDK
    drops such a line without an answer, and the client waits until its time-out. So it does with a request whose id
    is no id, which it takes for a notification: here that becomes a line which is no message.
    """

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed mixes text and bytes here
        line = super().readline(size)
        if _ODD_ID.search(line) and _has_no_id(line):
            return "null\n"
        return _joined(line) if _SURROGATE.search(line) else line


def _has_no_id(line: str) -> bool:
    """Whether it asks for an answer and has no id that an answer could be given to."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and "method" in message and not _is_id(message.get("id", ""))


def _is_id(value: object) -> bool:
    """Whether a request can be answered by this id."""
    return isinstance(value, str) or type(value) is int


def _joined(line: str) -> str:
    """The line with its surrogates joined to characters, and those left alone replaced by U+FFFD."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return line  # not for us to judge: the SDK hears it as it is
    return f"{storable(json.dumps(message, ensure_ascii=False))}\n"


async def _serve(application: MCPServer[Any], lines_in: TextIO, lines_out: TextIO) -> None:
    server = application._lowlevel_server  # noqa: SLF001 - run_stdio_async() does the same, but takes no streams
    forward, messages = anyio.create_memory_object_stream[SessionMessage | Exception]()
    async with (
        stdio_server(anyio.wrap_file(lines_in), anyio.wrap_file(lines_out)) as (read_stream, write_stream),
        anyio.create_task_group() as tasks,
    ):

        async def listen() -> None:
            """Pass on what is a message; answer what is none, which the SDK would drop without a word."""
            async with forward, read_stream:
                async for heard in read_stream:
                    answer = _complaint(heard) if isinstance(heard, ValidationError) else None
                    if answer:
                        await write_stream.send(SessionMessage(answer))
                    elif isinstance(heard, SessionMessage):
                        await forward.send(heard)

        tasks.start_soon(listen)
        await server.run(messages, write_stream, server.create_initialization_options())


def _complaint(error: ValidationError) -> JSONRPCError | None:
    """The answer to a line that is no message of JSON-RPC; none to a blank one."""
    problems = error.errors(include_url=False)
    if problems[0]["type"] == "json_invalid":
        if not str(problems[0]["input"]).strip():
            return None
        return JSONRPCError(jsonrpc="2.0", id=None, error=not_json("line"))
    ids = [p["input"].get("id") for p in problems if isinstance(p["input"], dict)]
    return JSONRPCError(jsonrpc="2.0", id=next(filter(_is_id, ids), None), error=no_message("line"))
