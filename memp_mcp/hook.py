"""``memp-mcp hook EVENT --client NAME``: what a client's hook runs at an event of its session.

It passes the event on to a server of the memory that is running, and prints what that says, in the form that the
clients share. It fails open: within 300 ms there is an answer or nothing, the exit code is 0, and stderr stays empty.
So it imports the standard library only, and of that little. Without a server it is silent; but the end of a turn or
session is written down, for the next server to learn from.

The settings that it follows: MEMP_HOME, MEMP_HOOKS and MEMP_HOOK_SECONDS.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from memp_mcp import local

ENDS = frozenset({"Stop", "SessionEnd", "AfterAgent"})
"""Events after which there is something to learn."""

SECONDS = 0.3
_BEFORE = 0.05
"""Seconds that the interpreter needs to come here, and to end."""
_LONGEST_EVENT = 4_000_000


class _Asked(NamedTuple):
    event: str
    client: str
    home: Path


def main(arguments: Sequence[str]) -> NoReturn:
    """Do what the event asks for, and end the process."""
    until = time.monotonic() + _seconds() - _BEFORE
    threading.Thread(target=_leave_at, args=(until,), daemon=True).start()
    try:
        said = _said(_asked(arguments), until)
        if said:
            os.write(1, said)
    finally:
        os._exit(0)  # whatever it was that went wrong: no client is to hear of it


def _seconds() -> float:
    try:
        return float(os.environ.get("MEMP_HOOK_SECONDS") or SECONDS)
    except ValueError:
        return SECONDS


def _leave_at(moment: float) -> NoReturn:
    time.sleep(max(0.0, moment - time.monotonic()))
    os._exit(0)


def _asked(arguments: Sequence[str]) -> _Asked:
    """What is asked for; unknown arguments are those of a later version."""
    options = {"--client": "", "--home": os.environ.get("MEMP_HOME", "").strip() or "~/.memp"}
    words = []
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if name in options:
            options[name] = value or next(rest, "")
        else:
            words.append(argument)
    return _Asked(words[0] if words else "", options["--client"], Path(options["--home"]).expanduser())


def _said(asked: _Asked, until: float) -> bytes:
    """What to print: JSON, or nothing."""
    ends = asked.event in ENDS
    wanted = os.environ.get("MEMP_HOOKS", "").strip()
    if wanted and ("record" if ends else "recall") not in wanted:
        return b""
    told = json.loads(_stdin())
    if not isinstance(told, dict):
        return b""
    if ends:
        _note(asked, told)
        local.ask(asked.home, {"event": asked.event}, until=until)
        return b""
    seconds = until - time.monotonic()
    question = {"event": asked.event, "client": asked.client, "seconds": seconds, "told": told}
    answer = local.ask(asked.home, question, until=until)
    output = answer.get("output") if answer else None
    return json.dumps(output).encode() if output and isinstance(output, dict) else b""


def _stdin() -> bytes:
    """All of stdin, unless that is more than any event should be."""
    parts: list[bytes] = []
    size = 0
    while part := os.read(0, 1 << 20):
        size += len(part)
        if size <= _LONGEST_EVENT:
            parts.append(part)
    return b"".join(parts) if size <= _LONGEST_EVENT else b"{}"


def _note(asked: _Asked, told: dict[str, Any]) -> None:
    """Write down that a session has something to learn from: one note a transcript, the latest."""
    import hashlib  # noqa: PLC0415 - costs milliseconds, and the recalls do not need it

    transcript = told.get("transcript_path")
    if not isinstance(transcript, str) or not transcript:
        return
    note = {"client": asked.client, "event": asked.event, "transcript": transcript}
    spool = local.private(local.private(asked.home / "run") / "spool")
    path = spool / f"{hashlib.sha256(transcript.encode('utf-8', 'replace')).hexdigest()[:24]}.json"
    begun = path.with_suffix(f".{os.getpid()}")
    begun.write_text(json.dumps(note), encoding="utf-8")
    begun.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
