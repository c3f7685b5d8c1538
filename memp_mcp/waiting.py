"""Events that wait for the next write, those of a recall in a small file: a recall need not wait for a commit.

A commit takes LanceDB 5 ms and more while others write; such a file takes .2 ms and waits for nobody. It outlives the
process that wrote it, every process on the directory reads it, and whoever writes next takes it into the table. Only a
power cut can lose it, since nobody waits for the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from memp_mcp.models import Event

_SUFFIX = ".jsonl"
_log = logging.getLogger(__name__)


class Waiting:
    """The events that wait in a memory's directory. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "waiting"
        self._read: dict[str, tuple[Event, ...] | None] = {}

    def add(self, *events: Event) -> None:
        """Keep events together, all or none.

        Raises:
            OSError: they cannot be written.

        """
        self._folder.mkdir(exist_ok=True)
        begun = self._folder / f"{events[0].id}.begun"
        begun.write_text("".join(f"{event.model_dump_json()}\n" for event in events), encoding="utf-8")
        begun.replace(begun.with_suffix(_SUFFIX))

    def files(self) -> dict[str, tuple[Event, ...]]:
        """What waits, by file; one that this program cannot read is left for who can: a later one may have written it.

        Raises:
            OSError: they are there and cannot be read.

        """
        known = self._read  # another thread may replace it meanwhile
        try:
            names = [path.name for path in self._folder.iterdir() if path.suffix == _SUFFIX]
        except FileNotFoundError:
            names = []
        self._read = read = {name: known[name] if name in known else self._events(name) for name in names}
        return {name: events for name, events in read.items() if events is not None}

    def events(self) -> dict[str, Event]:
        """What waits, by id.

        Raises:
            OSError: they are there and cannot be read.

        """
        return {event.id: event for events in self.files().values() for event in events}

    def drop(self, names: Iterable[str]) -> None:
        """Remove files whose events are in the table."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _events(self, name: str) -> tuple[Event, ...] | None:
        try:
            lines = (self._folder / name).read_bytes().splitlines()
            return tuple(Event.model_validate_json(line) for line in lines)
        except FileNotFoundError:  # somebody has taken it in
            return ()
        except ValueError as error:
            _log.warning("%s is left as it is, for it cannot be read: %s", self._folder / name, error)
            return None
