"""What a session has been shown, and what waits to be said in it: files, since any server may be asked next.

A client may tell of an event at which it takes no text. What is to be said there waits for the next one at which it
does, and counts as shown only then. It waits by its ids: what is forgotten, or scrubbed, meanwhile is in no file here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from memp_mcp import local
from memp_mcp.memory import Found, Recall


class Waits(NamedTuple):
    """A recall that is still to be said: all of it but its task, and but the procedures, which go by their ids."""

    recall_id: str
    found: Found | Literal["withheld"]
    reason: str
    matches: Mapping[str, Mapping[str, Any]]


class Shown:
    """The procedures that a session has been shown, by whichever server, and what waits there."""

    def __init__(self, run: Path, session_id: str) -> None:
        self.session = session_id
        self._path = (
            Path(local.private(str(run / "shown")))
            / hashlib.sha256(session_id.encode("utf-8", "replace")).hexdigest()[:24]
        )
        self._waiting = self._path.with_suffix(".waiting")

    def ids(self) -> set[str]:
        """What has been shown or waits."""
        waiting = {procedure_id for waits in _read(self._waiting) for procedure_id in waits.matches}
        with suppress(FileNotFoundError):
            return waiting | set(self._path.read_text(encoding="ascii").split())
        return waiting

    def begin(self) -> bool:
        """Note that something is looked up for this session; tells the first who does so, and no other."""
        with suppress(FileExistsError):
            self._path.open("x").close()
            return True
        return False

    def add(self, ids: Sequence[str]) -> None:
        """Note that something was looked up for this session, and that these are shown now."""
        with self._path.open("a", encoding="ascii") as file:
            file.write("".join(f"{shown}\n" for shown in ids))

    def forget(self) -> None:
        """Begin anew: the agent has forgotten it, too."""
        self._path.unlink(missing_ok=True)

    def wait(self, recalls: Iterable[Recall]) -> None:
        """Keep what was recalled for the next event that takes a text."""
        for recall in recalls:
            matches = {m.procedure.id: m.model_dump(exclude={"procedure", "counts"}) for m in recall.matches}
            with self._waiting.open("a", encoding="ascii") as file:
                file.write(json.dumps((recall.id, recall.found, recall.reason, matches)) + "\n")

    def release(self) -> list[Waits]:
        """What has waited, to be said now; only one of those who ask at the same time gets it."""
        taken = self._waiting.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}")
        try:
            self._waiting.rename(taken)
        except FileNotFoundError:
            return []
        found = _read(taken)
        taken.unlink()
        return found

    def drop(self) -> None:
        """Let go of what waits: it is of no use any more."""
        self._waiting.unlink(missing_ok=True)


def _read(file: Path) -> list[Waits]:
    with suppress(FileNotFoundError, ValueError):
        told = (json.loads(line) for line in file.read_text(encoding="ascii").splitlines())
        return [Waits(recall_id, found, reason, matches) for recall_id, found, reason, matches in told]
    return []
