"""``memp-mcp hook EVENT --client NAME``: what a client's hook runs at an event of its session.

It passes the event on to a server of the memory that is running, and prints what that says, in the form that the client
knows. It fails open: within 300 ms there is an answer or nothing, the exit code is 0, and stderr stays empty. Nothing
is an empty object to Cursor, which reads JSON. So it imports the standard library only, and of that little: no pathlib,
no typing. Without a server it is silent; but the end of a turn or session is written down, for the next server to learn
from.

The settings that it follows: MEMP_HOME, MEMP_PROJECT, MEMP_HOOKS and MEMP_HOOK_SECONDS. The project goes with what it
asks and notes, since the server that answers may be that of a session in another one; with "auto", or none, that
server goes by the folder.
"""

from __future__ import annotations

import json
import os
import threading
import time

from memp_mcp import local

TYPE_CHECKING = False  # that of typing costs three milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

ENDS = frozenset({"Stop", "SessionEnd", "AfterAgent", "stop", "sessionEnd"})
"""Events after which there is something to learn."""
CURSOR = "cursor"
_OF_CURSOR = "cursor_version"
"""Only Cursor tells this, and it may run the hooks of Claude Code beside its own."""
_NOTHING = b"{}"

SECONDS = 0.3
_BEFORE = 0.05
"""Seconds that the interpreter needs to come here, and to end."""
_BETWEEN = 0.1
"""Seconds between two looks whether a server is there."""
_LONGEST_EVENT = 4_000_000
_LAST_WORD = threading.Lock()


def main(arguments: Sequence[str]) -> NoReturn:
    """Do what the event asks for, and end the process."""
    until = time.monotonic() + _seconds() - _BEFORE
    event, client, home = _asked(arguments)
    said = silence = _NOTHING if client == CURSOR else b""
    threading.Thread(target=_leave_at, args=(until, silence), daemon=True).start()
    try:
        said = _said(event, client, home, until) or silence
    finally:
        _leave(said)  # whatever it was that went wrong: no client is to hear of it


def _seconds() -> float:
    try:
        return float(os.environ.get("MEMP_HOOK_SECONDS") or SECONDS)
    except ValueError:
        return SECONDS


def _place(told: dict[str, Any]) -> dict[str, str]:
    """The project that is set, and the folder that the client works in, wherever in it the agent may be."""
    project = os.environ.get("MEMP_PROJECT", "")
    roots = told.get("workspace_roots")  # Cursor
    folder = told.get("cwd") or (roots[0] if isinstance(roots, list) and roots else "")
    folder = folder if isinstance(folder, str) else ""
    root = os.environ.get("CLAUDE_PROJECT_DIR", "")  # inherited by whatever else is run there, elsewhere maybe
    if root and os.path.join(folder, "").startswith(os.path.join(root, "")):
        folder = root
    return {"project": project if project.strip() else "", "folder": folder}


def _leave_at(moment: float, silence: bytes) -> NoReturn:
    time.sleep(max(0.0, moment - time.monotonic()))
    _leave(silence)


def _leave(said: bytes) -> NoReturn:
    """Print that and end the process; of two threads, the first to come has the last word."""
    _LAST_WORD.acquire()
    try:
        if said:
            os.write(1, said)
    finally:
        os._exit(0)


def _asked(arguments: Sequence[str]) -> tuple[str, str, str]:
    """The event, the client and the memory's directory; unknown arguments are those of a later version."""
    options = {"--client": "", "--home": os.environ.get("MEMP_HOME", "").strip() or "~/.memp"}
    words = []
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if name in options:
            options[name] = value or next(rest, "")
        else:
            words.append(argument)
    return words[0] if words else "", options["--client"], os.path.expanduser(options["--home"])


def _said(event: str, client: str, home: str, until: float) -> bytes:
    """What to print: JSON, or nothing."""
    ends = event in ENDS
    wanted = os.environ.get("MEMP_HOOKS", "").strip()
    if wanted and ("record" if ends else "recall") not in wanted:
        return b""
    told = json.loads(_stdin())
    if not isinstance(told, dict):
        return b""
    if client != CURSOR and _OF_CURSOR in told:
        return _NOTHING
    if ends:
        _note(event, client, home, told)
        local.ask(home, {"event": event}, until=until)
        return b""
    answer = _answer(home, {"event": event, "client": client, "told": told, **_place(told)}, until)
    output = answer.get("output") if answer else None
    return json.dumps(output).encode() if output and isinstance(output, dict) else b""


def _answer(home: str, question: dict[str, Any], until: float) -> dict[str, Any] | None:
    """What a server says. Who gives more time than a hook has by default wants to wait for one that is starting."""
    while True:
        seconds = until - time.monotonic()
        answer = local.ask(home, question | {"seconds": seconds}, until=until)
        if answer is not None or until - time.monotonic() < SECONDS:
            return answer
        time.sleep(_BETWEEN)


def _stdin() -> bytes:
    """All of stdin, unless that is more than any event should be."""
    parts: list[bytes] = []
    size = 0
    while part := os.read(0, 1 << 20):
        size += len(part)
        if size <= _LONGEST_EVENT:
            parts.append(part)
    return b"".join(parts) if size <= _LONGEST_EVENT else b"{}"


def _note(event: str, client: str, home: str, told: dict[str, Any]) -> None:
    """Write down that a session has something to learn from: one note a transcript, the latest."""
    import hashlib  # noqa: PLC0415 - costs milliseconds, and the recalls do not need it

    transcript = told.get("transcript_path")
    if not isinstance(transcript, str) or not transcript:
        return
    note = {"client": client, "event": event, "transcript": transcript, **_place(told)}
    spool = local.private(os.path.join(local.private(os.path.join(home, "run")), "spool"))
    path = os.path.join(spool, hashlib.sha256(transcript.encode("utf-8", "replace")).hexdigest()[:24])
    begun = f"{path}.{os.getpid()}"
    with open(begun, "w", encoding="utf-8") as file:
        json.dump(note, file)
    os.replace(begun, f"{path}.json")
