"""The vectors of a small memory, held by the process: an exact scan takes a tenth of what a query of LanceDB costs.

They are those of one state of the table. After a commit, of whatever process, only the rows that it put there are read,
so that keeping up costs as much in a large memory as in a small one. Who searches once asks LanceDB; the second search
reads them all.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from datetime import UTC
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memp_mcp.rows import Row
from memp_mcp.tables import METRICS, PLACE, Findable, State, Tables, VectorColumn

MAX_FLOATS = 16_000_000
"""Of both vectors of all procedures, 64 MB: 20,000 procedures of 384 dimensions. Above, LanceDB's indexes are asked."""


class _Part(NamedTuple):
    """Procedures in the order of their places."""

    columns: dict[str, Any]
    """As they were read, with the vectors."""
    projects: NDArray[np.str_]
    """Each of those that occur, once."""
    project: NDArray[np.intp]
    """Which of them, for each procedure."""
    by_id: dict[str, int]
    by_place: dict[int, int]
    alive: NDArray[np.bool_]
    """Not those that were changed since, which are in another part, or cannot be found any more."""

    def without(self, ids: Collection[str]) -> _Part:
        """The same, these ones no longer alive."""
        gone = [self.by_id[i] for i in ids if i in self.by_id]
        if not gone:
            return self
        alive = self.alive.copy()
        alive[gone] = False
        return self._replace(alive=alive)

    def visible(self, projects: Collection[str]) -> NDArray[np.intp]:
        """Where those of these projects stand."""
        return np.flatnonzero(np.isin(self.projects, list(projects))[self.project] & self.alive)

    def named(self, index: int) -> Row:
        """What LanceDB tells of one of them."""
        told = {name: self.columns[name][index] for name in ("id", "revision", "created_at", PLACE)}
        moment = told["created_at"].item().replace(tzinfo=UTC)
        return {"id": told["id"], "revision": int(told["revision"]), "created_at": moment, PLACE: int(told[PLACE])}


class _Held(NamedTuple):
    state: State
    first: _Part
    """What was read together."""
    later: _Part
    """What was read after one change or another."""
    others: frozenset[str]
    """Ids of the procedures that are not to be found."""
    end: int
    """A place behind all that was read."""

    @property
    def parts(self) -> tuple[_Part, _Part]:
        """What can be found."""
        return self.first, self.later

    @property
    def rows(self) -> int:
        """Of the whole table."""
        return sum(int(part.alive.sum()) for part in self.parts) + len(self.others)

    def named(self, index: int) -> Row:
        """What LanceDB tells of one of them, counted through both parts."""
        first = len(self.first.alive)
        return self.first.named(index) if index < first else self.later.named(index - first)


class Resident:
    """Finds the nearest procedures of a small memory. Thread-safe."""

    def __init__(self, tables: Tables, *, max_floats: int = MAX_FLOATS) -> None:
        self._tables = tables
        self._max_floats = max_floats
        self._held: _Held | None = None
        self._was_asked = False
        self._reading = threading.Lock()

    def nearest(
        self, vector: Sequence[float], column: VectorColumn, *, projects: Collection[str], limit: int
    ) -> list[Row] | None:
        """Rows as `Tables.nearest` gives them, of the visible procedures of these projects; None: ask LanceDB."""
        held = self._current(len(vector))
        if held is None:
            return None
        query = np.asarray(vector, np.float32)
        query = _unit(query) if METRICS[column] == "cosine" else query
        seen = [part.visible(projects) for part in held.parts]
        scores = np.concatenate(
            [(part.columns[column] @ query)[rows] for part, rows in zip(held.parts, seen, strict=True)]
        )
        rows = np.concatenate([seen[0], seen[1] + len(held.first.alive)])
        best = _highest(scores, limit)
        return [held.named(int(rows[i])) | {"_distance": 1.0 - float(scores[i])} for i in best]

    def is_ready(self) -> bool:
        """Whether what is held is the present state of the table, so that `named` can tell what stands where."""
        held = self._held
        return held is not None and held.state == self._tables.state("procedures")

    def named(self, places: Sequence[int]) -> list[Row] | None:
        """The id, revision and moment of the rows at these places, from memory; None: one of them is not held.

        No place is used twice for different rows, so that one of another state of the table is simply not found.
        """
        held = self._held
        if held is None:
            return None
        rows = [p.named(p.by_place[place]) for place in places for p in held.parts if place in p.by_place]
        return rows if len(rows) == len(places) else None

    def _current(self, dimension: int) -> _Held | None:
        with self._reading:
            # Asked before reading: what is held may be newer than its state says, and is then brought up once more.
            state = self._tables.state("procedures")
            if self._held is not None and self._held.state != state:
                self._held = self._kept_up(self._held, state, dimension)
            if self._held is None and self._is_to_be_held(dimension):
                self._held = self._read(state)
            return self._held

    def _is_to_be_held(self, dimension: int) -> bool:
        again, self._was_asked = self._was_asked, True
        return again and self._fits(self._tables.count("procedures"), dimension)

    def _fits(self, rows: int, dimension: int) -> bool:
        return 0 < len(METRICS) * dimension * rows <= self._max_floats

    def _read(self, state: State) -> _Held:
        columns, others, end = self._findable()
        return _Held(state, _part(columns), _nothing(columns), others, end)

    def _kept_up(self, held: _Held, state: State, dimension: int) -> _Held | None:
        """What is held with what has changed since; None where that cannot be told, or there is too much of it."""
        rows = self._tables.count("procedures")
        if state.made != held.state.made or not self._fits(rows, dimension):
            return None
        columns, others, end = self._findable(since=held.end)
        if columns["vector"].shape[1] != dimension:
            return None
        changed = _part(columns)
        moved = changed.by_id.keys() | others
        first, later = held.first.without(moved), _joined(held.later.without(moved), changed)
        if 2 * first.alive.sum() < len(first.alive):  # LanceDB has put most of them elsewhere
            first, later = _joined(first, later), _nothing(columns)
        kept = _Held(state, first, later, (held.others - changed.by_id.keys()) | others, end)
        return kept if kept.rows == rows else None  # a row that was taken out leaves no other trace

    def _findable(self, *, since: int = 0) -> Findable:
        found = self._tables.findable(("revision", "created_at", "project"), METRICS, since=since)
        return found._replace(columns=found.columns | {"vector": _unit(found.columns["vector"])})


def _part(columns: dict[str, Any]) -> _Part:
    projects, project = np.unique(columns["project"].astype(np.str_), return_inverse=True)
    by_id, by_place = ({key: i for i, key in enumerate(columns[c].tolist())} for c in ("id", PLACE))
    return _Part(columns, projects, project, by_id, by_place, np.ones(len(project), np.bool_))


def _nothing(like: dict[str, Any]) -> _Part:
    return _part({name: values[:0] for name, values in like.items()})


def _joined(one: _Part, other: _Part) -> _Part:
    """Those that are alive, in their order."""
    if not one.alive.any():
        return other
    return _part({c: np.concatenate([a[one.alive], other.columns[c][other.alive]]) for c, a in one.columns.items()})


def _highest(scores: NDArray[np.float32], limit: int) -> NDArray[np.intp]:
    """Where the highest scores stand, best first; of equal ones the first."""
    if limit < len(scores):
        worst = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        enough = np.flatnonzero(scores >= worst)
    else:
        enough = np.arange(len(scores))
    best: NDArray[np.intp] = enough[np.argsort(-scores[enough], kind="stable")[:limit]]
    return best


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same directions, of length 1; nothing stays nothing."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return unit
