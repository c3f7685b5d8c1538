"""The vectors of a small memory, held by the process: an exact scan takes a tenth of what a query of LanceDB costs.

They are those of one state of the table. After a commit, of whatever process, they are read anew at the second
search: who writes one procedure after the other would else read all of them for each.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from datetime import UTC
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memp_mcp.tables import METRICS, PLACE, Row, Tables, VectorColumn

MAX_FLOATS = 16_000_000
"""Of both vectors of all procedures, 64 MB: 20,000 procedures of 384 dimensions. Above, LanceDB's indexes are asked."""


class _Held(NamedTuple):
    state: tuple[str, str]
    """Of the table, as `Tables.state` tells it."""
    ids: list[str]
    revisions: list[int]
    moments: NDArray[np.datetime64]
    projects: NDArray[np.str_]
    """Each of those that occur, once."""
    project: NDArray[np.intp]
    """Which of them, for each procedure."""
    row_ids: list[int]
    """Where their rows stand in the table of this version."""
    places: dict[int, int]
    """Which of them stands where."""
    vectors: dict[VectorColumn, NDArray[np.float32]]


class Resident:
    """Finds the nearest procedures of a small memory. Thread-safe."""

    def __init__(self, tables: Tables, *, max_floats: int = MAX_FLOATS) -> None:
        self._tables = tables
        self._max_floats = max_floats
        self._held: _Held | None = None
        self._searched = ("", "")
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
        scores = held.vectors[column] @ query
        seen = np.isin(held.projects, list(projects))
        visible = np.flatnonzero(seen[held.project])
        best = visible[_highest(scores[visible], limit)]
        return [_named(held, int(i)) | {"_distance": 1.0 - float(scores[i])} for i in best]

    def is_ready(self) -> bool:
        """Whether what is held is the present state of the table, so that `named` can tell what stands where."""
        held = self._held
        return held is not None and held.state == self._tables.state("procedures")

    def named(self, places: Sequence[int]) -> list[Row] | None:
        """The id, revision and moment of the rows at these places, from memory; None: one of them is not held.

        No place is used twice for different rows, so that one of another state of the table is simply not found.
        """
        held = self._held
        if held is None or any(place not in held.places for place in places):
            return None
        return [_named(held, held.places[place]) for place in places]

    def _current(self, dimension: int) -> _Held | None:
        with self._reading:
            # Asked before reading: what is held may be newer than its state says, and is then read once more.
            state = self._tables.state("procedures")
            if self._held is None or self._held.state != state:
                first, self._searched = self._searched != state, state
                self._held = None
                if first or 2 * dimension * self._tables.count("procedures") > self._max_floats:
                    return None
                self._held = self._read(state)
            return self._held

    def _read(self, state: tuple[str, str]) -> _Held:
        read = self._tables.held(("id", "revision", "created_at", "project"), METRICS)
        vectors = dict(zip(METRICS, (read[c] for c in METRICS), strict=True))
        vectors["vector"] = _unit(vectors["vector"])
        projects, project = np.unique(read["project"].astype(np.str_), return_inverse=True)
        told = (read["id"].tolist(), read["revision"].tolist(), read["created_at"])
        row_ids = read[PLACE].tolist()
        places = {place: i for i, place in enumerate(row_ids)}
        return _Held(state, *told, projects, project, row_ids, places, vectors)


def _named(held: _Held, index: int) -> Row:
    return {
        "id": held.ids[index],
        "revision": held.revisions[index],
        "created_at": held.moments[index].item().replace(tzinfo=UTC),
        PLACE: held.row_ids[index],
    }


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
