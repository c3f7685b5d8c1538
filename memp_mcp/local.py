"""The small local socket by which a running server is asked: both ends of it, with the standard library only.

A server of a memory listens on ``run/PID.sock``, a Unix socket below the memory's directory, which is for its owner
alone. Where the path would be too long for a socket, the folder is one of the owner's below the temporary folder; where
there are no Unix sockets, ``run/PID.port`` names a port of the loopback interface and the token that it asks for.

One connection is one question: the server says that it is there, so that one which hangs is passed over; then a line of
JSON goes to it, and one comes back. A server that cannot say anything yet answers `PASS`, and the next one is asked.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from contextlib import suppress

TYPE_CHECKING = False  # that of typing costs a hook three milliseconds, and pathlib four
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Message = dict[str, Any]
    Answer = Callable[[Message], Message]

PASS = {"pass": True}
"""The answer of a server that is still loading what it would need: another may be further."""
_HELLO = b"memp\n"
_LONGEST_PATH = 100  # sun_path takes 104 bytes on macOS, 108 on Linux
_LONGEST_LINE = 8_000_000
_PATIENCE = 1 / 3  # the share of the time that is left in which a server has to say that it is there
_SECONDS_TO_CONNECT = 0.1
_SECONDS_FOR_A_QUESTION = 2.0
_UNIX = hasattr(socket, "AF_UNIX")
_SUFFIX = "sock" if _UNIX else "port"


def folder(home: str | os.PathLike[str]) -> str:
    """Where the servers of the memory in *home* listen; it need not be there yet."""
    run = os.path.join(home, "run")
    if not _UNIX or len(os.fsencode(os.path.join(run, f"{2**32}.{_SUFFIX}"))) <= _LONGEST_PATH:
        return run
    import hashlib  # noqa: PLC0415 - hardly anybody needs it, and it costs a hook milliseconds

    name = hashlib.sha256(os.fsencode(os.path.abspath(home))).hexdigest()[:16]
    temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - private() looks whose folder it is
    return os.path.join(temporary, f"memp-{os.getuid()}-{name}")


def private(path: str) -> str:
    """Make a folder that is for its owner alone; return it.

    Raises:
        PermissionError: it is somebody else's.
        OSError: it cannot be made.

    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    if os.name == "posix":
        if not _is_mine(path):
            raise PermissionError(f"{path} is not a folder of this user.")
        os.chmod(path, 0o700)
    return path


def _is_mine(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


# -- the server's end -----------------------------------------------------------------------------------------


class Endpoint:
    """Where a server listens: its socket, and the file by which it is found."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener = listener
        self._path = path

    def close(self) -> None:
        """Stop to listen; nobody finds it any more."""
        _remove(self._path)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for connections
        self._listener.close()


def listen(home: str | os.PathLike[str], answer: Answer) -> Endpoint:
    """Answer questions in the background from now on; what servers that have died left behind is swept away.

    *answer* is called in a thread of its own for each question.

    Raises:
        OSError: nobody can listen there.

    """
    run = private(folder(home))
    _sweep(run)
    path = os.path.join(run, f"{os.getpid()}.{_SUFFIX}")
    listener, token = _unix(path) if _UNIX else _loopback(path)
    threading.Thread(target=_accept, args=(listener, answer, token), name="local", daemon=True).start()
    return Endpoint(listener, path)


def _unix(path: str) -> tuple[socket.socket, str]:
    begun = f"{path}.new"  # a socket that does not listen yet would be swept away as a dead one
    _remove(begun)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(begun)
    os.chmod(begun, 0o600)
    listener.listen()
    os.replace(begun, path)
    return listener, ""


def _loopback(path: str) -> tuple[socket.socket, str]:
    import secrets  # noqa: PLC0415 - only where there are no Unix sockets

    token = secrets.token_hex(16)
    listener = socket.create_server(("127.0.0.1", 0))
    begun = f"{path}.new"
    _remove(begun)
    with open(os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        json.dump({"port": listener.getsockname()[1], "token": token}, file)
    os.replace(begun, path)
    return listener, token


def _accept(listener: socket.socket, answer: Answer, token: str) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # it has been closed
        threading.Thread(target=_attend, args=(connection, answer, token), name="question", daemon=True).start()


def _attend(connection: socket.socket, answer: Answer, token: str) -> None:
    with connection, suppress(OSError, ValueError):  # whoever asked is gone, or has asked nonsense
        connection.settimeout(_SECONDS_FOR_A_QUESTION)
        connection.sendall(_HELLO)
        question = _received(connection)
        if question.pop("token", "") == token:
            connection.sendall(_line(answer(question)))


def _sweep(run: str) -> None:
    """Remove what nobody listens behind any more."""
    for path in _found(run):
        try:
            _connected(path)[0].close()
        except (OSError, ValueError):
            _remove(path)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


# -- the other end --------------------------------------------------------------------------------------------


def ask(home: str | os.PathLike[str], question: Message, *, until: float) -> Message | None:
    """Ask the server that was started last, or the next one that can answer; None without an answer by then.

    *until* is a moment of `time.monotonic`.
    """
    run = folder(home)
    if os.name == "posix" and not (os.path.lexists(run) and _is_mine(run)):
        return None
    for path in _found(run):
        with suppress(OSError, ValueError):
            connection, token = _connected(path)
            with connection:
                if not _is_there(connection, until):
                    continue
                answer = _answer(connection, question | {"token": token}, until)
            if answer != PASS:
                return answer
    return None


def _found(run: str) -> list[str]:
    """The files of servers, the last started first."""
    found: list[tuple[float, str]] = []
    with os.scandir(run) as entries:
        for entry in entries:
            if entry.name.endswith(f".{_SUFFIX}"):
                with suppress(FileNotFoundError):
                    found.append((entry.stat().st_mtime, entry.path))
    return [path for _, path in sorted(found, reverse=True)]


def _connected(path: str) -> tuple[socket.socket, str]:
    if _UNIX:
        connection = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = path
        token = ""
    else:
        with open(path, encoding="ascii") as file:
            told = json.load(file)
        connection = socket.socket()
        address, token = ("127.0.0.1", int(told["port"])), str(told["token"])
    connection.settimeout(_SECONDS_TO_CONNECT)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection, token


def _is_there(connection: socket.socket, until: float) -> bool:
    connection.settimeout(max(0.001, _PATIENCE * (until - time.monotonic())))
    return connection.recv(len(_HELLO)) == _HELLO


def _answer(connection: socket.socket, question: Message, until: float) -> Message:
    connection.settimeout(max(0.001, until - time.monotonic()))
    connection.sendall(_line(question))
    return _received(connection)


def _received(connection: socket.socket) -> Message:
    """The object on the line that comes."""
    parts: list[bytes] = []
    size = 0
    while size <= _LONGEST_LINE and (chunk := connection.recv(1 << 16)):
        parts.append(chunk)
        size += len(chunk)
        if chunk.endswith(b"\n"):
            break
    message = json.loads(b"".join(parts))
    if not isinstance(message, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - of the kind that json raises
    return message


def _line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"
