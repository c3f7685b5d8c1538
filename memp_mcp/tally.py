"""What the events say about each procedure, counted once and held by the process: asking LanceDB takes 8 ms each time.

It holds for one state of the table. What this process writes is counted in; after a commit of another one the store
is asked directly, and at the second question everything is counted anew.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from memp_mcp.models import Counts
from memp_mcp.rows import Row, one_of
from memp_mcp.tables import State, Tables

MAX_EVENTS = 50_000
"""Above this, about 15 MB, LanceDB is asked, which by then has an index."""

_COUNTED = ("recalled", "used")
_KINDS = one_of("kind", _COUNTED)
_NAMED = 500
"""Procedures that a filter names; of more, all events are read."""
_COLUMNS = ("id", "procedure_id", "counted_from", "kind", "score", "verified", "at")


class _Count(NamedTuple):
    """`Counts` in a tenth of the memory."""

    recalled: int = 0
    uses: int = 0
    verified: int = 0
    successes: int = 0
    last_verified: datetime | None = None

    def more(self, row: Row) -> _Count:
        """The same with one event more."""
        if row["kind"] == "recalled":
            return self._replace(recalled=self.recalled + 1)
        if not row["verified"]:
            return self._replace(uses=self.uses + 1)
        succeeded = row["score"] is not None and row["score"] >= 0.5
        latest = max(filter(None, (self.last_verified, row["at"]))) if succeeded else self.last_verified
        return _Count(self.recalled, self.uses + 1, self.verified + 1, self.successes + succeeded, latest)


_Counted = dict[str, dict[int, _Count]]
"""By procedure and ``counted_from``."""


class _Held(NamedTuple):
    state: State
    counted: _Counted


class Tally:
    """Counts what happened to procedures. Thread-safe."""

    def __init__(self, tables: Tables, *, max_events: int = MAX_EVENTS) -> None:
        self._tables = tables
        self._max_events = max_events
        self._held: _Held | None = None
        self._asked: State | None = None
        self._being_written = False
        self._changing = threading.RLock()

    def of(self, ids: Collection[str], *, beside: Iterable[Row] = ()) -> dict[str, dict[int, Counts]]:
        """What has happened to each procedure, by the revision since which it is counted.

        Args:
            ids: of the procedures.
            beside: events that are not in the table.

        """
        counted = self._of_held(ids)
        if counted is None:
            about = f" AND {one_of('procedure_id', ids)}" if len(ids) <= _NAMED else ""
            counted = _count(self._tables.rows("events", _COLUMNS, where=_KINDS + about))
        counted = _count(beside, counted)
        return {i: {since: Counts(**c._asdict()) for since, c in counted.get(i, {}).items()} for i in ids}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around what is written under the store's lock: what was up to date before is so afterwards.

        Meanwhile others see another state, and ask LanceDB.
        """
        with self._changing:
            begun = self._tables.state("events")
            asked = self._asked == begun
            if self._held is not None and self._held.state != begun:
                self._held = None
            self._being_written = True
        try:
            yield
        except BaseException:
            self.drop()  # nobody knows what was written of it
            raise
        finally:
            with self._changing:
                self._being_written = False
                written = self._tables.state("events")
                self._asked = written if asked else self._asked
                self._held = self._held and self._held._replace(state=written)

    def add(self, rows: Iterable[Row]) -> None:
        """Count in what was just written, within `kept`; none of it had been there."""
        with self._changing:
            if self._held is not None:
                _count(rows, self._held.counted)

    def drop(self) -> None:
        """Forget what is held: events were taken out, or may not have been written."""
        with self._changing:
            self._held = None

    def _of_held(self, ids: Collection[str]) -> _Counted | None:
        with self._changing:
            # Asked before reading: what is held may be newer than its state says, and is then counted once more.
            state = self._tables.state("events")
            if self._held is None or self._held.state != state:
                if self._being_written:
                    return None
                first, self._asked = self._asked != state, state
                self._held = None
                if first or self._tables.count("events") > self._max_events:
                    return None
                self._held = _Held(state, _count(self._tables.rows("events", _COLUMNS, where=_KINDS)))
            return {i: dict(self._held.counted[i]) for i in ids if i in self._held.counted}


def _count(rows: Iterable[Row], counted: _Counted | None = None) -> _Counted:
    """Count events, each id once, on top of what is *counted* already."""
    total = {} if counted is None else counted
    for row in {row["id"]: row for row in rows if row["kind"] in _COUNTED}.values():
        of_procedure = total.setdefault(row["procedure_id"], {})
        of_procedure[row["counted_from"]] = of_procedure.get(row["counted_from"], _Count()).more(row)
    return total
