"""What a session has been shown, and what waits to be said in it: files, since any server may be asked next.

A client may tell of an event at which it takes no text. What is to be said there waits for the next one at which it
does, and counts as shown only then.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from memp_mcp import local


class Recalled(NamedTuple):
    """A text for a session, and the procedures that are in it."""

    text: str = ""
    ids: tuple[str, ...] = ()


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
        waiting = {waits for recalled in _read(self._waiting) for waits in recalled.ids}
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

    def wait(self, recalled: Recalled) -> None:
        """Keep a text for the next event that takes one."""
        if not recalled.text:
            return
        with self._waiting.open("a", encoding="ascii") as file:
            file.write(json.dumps(recalled) + "\n")

    def release(self, is_known: Callable[[str], bool]) -> str:
        """What has waited, to be said now; only one of those who ask at the same time gets it.

        A text with a procedure that is not known any more is let go: it was forgotten meanwhile.
        """
        taken = self._waiting.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}")
        try:
            self._waiting.rename(taken)
        except FileNotFoundError:
            return ""
        found = [recalled for recalled in _read(taken) if all(map(is_known, recalled.ids))]
        taken.unlink()
        self.add([waited for recalled in found for waited in recalled.ids])
        return "\n".join(recalled.text for recalled in found)

    def drop(self) -> None:
        """Let go of what waits: it is of no use any more."""
        self._waiting.unlink(missing_ok=True)


def _read(file: Path) -> list[Recalled]:
    with suppress(FileNotFoundError, ValueError):
        told = (json.loads(line) for line in file.read_text(encoding="ascii").splitlines())
        return [Recalled(text, tuple(ids)) for text, ids in told]
    return []
