"""The first half second: answers the MCP handshake from catalogue.json while the rest loads.

Importing the SDK costs more than a second; some clients wait about one and then go on without the server. So this
module needs the standard library only. It answers a line when it is sure what the SDK's server would say (the
catalogue holds that server's own words, see catalogue.py) and starts loading once the tools are listed.

From the first line on that it is not sure about, the client talks to the SDK's server, in the same process. That
server first hears again what the connection's state depends on: the opening request, which decides the protocol era,
``initialize`` and ``notifications/initialized``. Its answers to those are dropped, for the client has had them.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from memp_mcp.handshake import Handshake

CATALOGUE = Path(__file__).with_name("catalogue.json")

Serve = Callable[[BinaryIO, BinaryIO], None]
"""Serves one connection: reads lines of JSON-RPC from the first stream, writes them to the second, until its end."""

_SECONDS_BETWEEN_LOOKS = 0.25
_SECONDS_FOR_THE_REST = 0.5
"""For calls that are under way when the client hangs up. Nobody hears their answers, and the next try counts once."""


def serve_stdio(load: Callable[[], Serve], catalogue: Path = CATALOGUE) -> NoReturn:
    """Serve MCP on this process's standard streams and end the process with the connection.

    *load* is called once, in a thread, and imports what the front does without. Meanwhile, and ever after, descriptor 1
    is stderr: whatever is printed stays off the wire. An error in *load* is raised here; otherwise this never returns,
    because a reader blocked in a thread, or a model still loading in one, must not keep a finished process alive.
    """
    wire_in, wire_out = _claim_wire()
    _leave_on_signals()
    _leave_with_parent()
    converse(wire_in, wire_out, load, catalogue, at_end=_leave_soon)
    _leave(0)


def converse(
    wire_in: io.BufferedIOBase,
    wire_out: BinaryIO,
    load: Callable[[], Serve],
    catalogue: Path,
    *,
    at_end: Callable[[], None] = lambda: None,
) -> None:
    """Answer the handshake on *wire_in*; hand over at the first line that is not certain; return at its end.

    *at_end* is called when the server has heard the end, which it may be too busy to act on.
    """
    handshake = Handshake(json.loads(catalogue.read_bytes()))
    server = _Loading(load)
    for line in wire_in:
        answer = handshake.answer(line)
        if answer is None:
            serve = server.loaded(unless=lambda: _hung_up(wire_in), then=at_end)
            heard = io.BufferedReader(_Heard(b"".join(handshake.to_repeat) + line, wire_in, at_end))
            serve(heard, io.BufferedWriter(_Said(wire_out, handshake.answered)))
            return
        _send(wire_out, answer)
        if handshake.tools_listed:
            server.begin()


class _Loading(threading.Thread):
    """Calls *load* beside the conversation, once."""

    def __init__(self, load: Callable[[], Serve]) -> None:
        super().__init__(name="loading", daemon=True)
        self._load = load
        self._serve: Serve
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._serve = self._load()
        except BaseException as failure:  # noqa: BLE001 - loaded() raises it where it can be seen
            self._failure = failure

    def begin(self) -> None:
        """Start, unless that has been done."""
        if self.ident is None:
            self.start()

    def loaded(self, *, unless: Callable[[], bool], then: Callable[[], None]) -> Serve:
        """Wait for the result, and call *then* if *unless* comes true meanwhile; raise what *load* raised."""
        self.begin()
        while self.is_alive():
            self.join(_SECONDS_BETWEEN_LOOKS)
            if unless():
                then()
        if self._failure is not None:
            raise self._failure
        return self._serve


class _Heard(io.RawIOBase):
    """What the server hears: first *before*, then the rest of the wire."""

    def __init__(self, before: bytes, wire: io.BufferedIOBase, at_end: Callable[[], None]) -> None:
        self._before = io.BytesIO(before)
        self._wire = wire
        self._at_end = at_end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._before.read(len(buffer)) or self._wire.read1(len(buffer))
        buffer[: len(chunk)] = chunk
        if not chunk:
            self._at_end()
        return len(chunk)


class _Said(io.RawIOBase):
    """What the server says, less the answers that the client has had."""

    def __init__(self, wire: BinaryIO, answered: set[str | int]) -> None:
        self._wire = wire
        self._answered = answered
        self._unfinished = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        *lines, self._unfinished = (self._unfinished + bytes(data)).split(b"\n")
        _send(self._wire, b"".join(line + b"\n" for line in lines if not self._is_repeated(line)))
        return len(data)

    def _is_repeated(self, line: bytes) -> bool:
        if not self._answered:
            return False
        message = json.loads(line)
        if "method" in message or message.get("id") not in self._answered:
            return False
        self._answered.remove(message["id"])
        return True


def _send(wire: BinaryIO, data: bytes) -> None:
    try:
        wire.write(data)
        wire.flush()
    except ConnectionError:
        _leave(0)  # the client is gone; nothing is lost, for every call is durable before it is answered


_last_acts: list[Callable[[], None]] = []


def before_leaving(act: Callable[[], None]) -> None:
    """Have *act* called when this process ends; there is time for very little, and no act is to raise."""
    _last_acts.append(act)


def _leave(code: int) -> NoReturn:
    try:
        for act in _last_acts:
            act()
    finally:
        os._exit(code)


def _claim_wire() -> tuple[io.BufferedIOBase, BinaryIO]:
    """Take the standard streams as the wire; leave the null device as descriptor 0 and stderr as descriptor 1."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    while nowhere <= 2:  # a standard stream was closed: it is the null device from now on
        nowhere = os.dup(nowhere)
    wire_in, wire_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    os.close(nowhere)
    return wire_in, wire_out


def _leave_on_signals() -> None:
    """End at once on SIGTERM and SIGINT: an ordinary exit waits for the reader, which waits for the client.

    A thread waits for them. A handler runs in the main thread, and a signal that comes just before that goes to sleep
    does not wake it.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    if sys.platform == "win32":
        for number in numbers:
            signal.signal(number, lambda received, _frame: _leave(128 + received))
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    threading.Thread(target=lambda: _leave(128 + signal.sigwait(numbers)), name="signals", daemon=True).start()


def _hung_up(wire: io.BufferedIOBase) -> bool:
    """Whether the other end is closed, though there may still be something to read; False where nobody can tell."""
    if sys.platform == "win32":
        return False
    try:
        poll = select.poll()
        poll.register(wire.fileno(), getattr(select, "POLLRDHUP", 0))
    except OSError:  # not a file
        return False
    closed = select.POLLHUP | getattr(select, "POLLRDHUP", 0)
    return any(event & closed for _, event in poll.poll(0))


def _leave_soon() -> None:
    """End the process though a call may be under way: one that waits for the lock can do so for half a minute."""
    leave = threading.Timer(_SECONDS_FOR_THE_REST, _leave, [0])
    leave.daemon = True
    leave.start()


def _leave_with_parent() -> None:
    """End when the client's process is gone, even if something else holds its end of the pipe open."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        _leave(0)

    if os.name == "posix":
        threading.Thread(target=watch, name="parent", daemon=True).start()
