"""What a memory on disk can be asked: procedures, trajectories and events, by id and by search. Readers never wait.

The half of the store that writes nothing; `store.Store` is the other one, and what everybody else opens.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from memp_mcp import __version__, upkeep
from memp_mcp.errors import EmbedderError, StoreDamaged, StoreNewer
from memp_mcp.faults import explained
from memp_mcp.models import (
    ChangeKind,
    Counts,
    Event,
    EventKind,
    Procedure,
    Status,
    Trajectory,
    Value,
    stable_id,
)
from memp_mcp.resident import Resident
from memp_mcp.rows import LIVE, SCHEMAS, Row, TableName, chunks, event_row, one_of, quoted, starts_with
from memp_mcp.tables import PLACE, Tables, VectorColumn
from memp_mcp.tally import Tally
from memp_mcp.upkeep import StoreSize
from memp_mcp.waiting import Waiting

FORMAT = 1

_REVISION = ("id", "revision", "created_at")
_READ_LATELY = 1_000
"""Procedures that are kept as they were read: about 10 MB."""
_BATCH = 500
_LARGE_BATCH = 32
_V = TypeVar("_V", bound=Value)


class Hit(NamedTuple):
    """A procedure that a search found: which text of which id, and how well it fits. The text itself is not read."""

    id: str
    revision: int
    created_at: datetime
    """Of the revision: even a history that was forgotten and begun anew has other moments."""
    score: float
    place: int
    """Where its row stood in the table; the next commit may have moved it."""


class Brief(Value, extra="ignore"):
    """A revision of a procedure without its texts."""

    id: str
    revision: int
    counted_from: int
    title: str
    project: str = ""
    status: Status
    change: ChangeKind
    created_at: datetime


class Meta(Value):
    """meta.json. ``pending`` names the embedder whose vectors are being written; until then none can be trusted."""

    format: int
    id: str
    embedder: str | None = None
    dimension: int | None = None
    pending: str | None = None
    program: str


class Reading:
    """What can be asked of a memory. Thread-safe."""

    def __init__(self, directory: Path, tables: Tables, *, max_floats: int) -> None:
        self.directory = directory
        self._tables = tables
        self._resident = Resident(tables, max_floats=max_floats)
        self._tally = Tally(tables)
        self._waiting = Waiting(directory)
        self._read_lately: dict[tuple[str, int, datetime], Procedure] = {}
        self._adopted: tuple[str, int] | None = None

    @property
    def location(self) -> str:
        """Where the memory is."""
        return str(self.directory)

    @property
    def embedder(self) -> tuple[str, int] | None:
        """Name and dimension of the embedder whose vectors are stored; None before the first."""
        meta = self._meta()
        return (meta.embedder, meta.dimension) if meta.embedder and meta.dimension else None

    def is_being_embedded(self) -> bool:
        """Whether somebody has begun to embed the memory anew, and not finished."""
        return self._meta().pending is not None

    # --- procedures

    def procedure(self, procedure_id: str) -> Procedure | None:
        """The current revision, or None."""
        return self.procedures([procedure_id]).get(procedure_id)

    def procedures(self, ids: Collection[str]) -> dict[str, Procedure]:
        """The current revisions of those that are here."""
        found = self._parsed(Procedure, self._tables.rows_of("procedures", ["body"], ids))
        return {p.id: p for p in found}

    def statuses(self, *, projects: Collection[str] = ()) -> dict[str, int]:
        """How many procedures there are of each status, in these projects or in all."""
        where = " OR ".join(_all_equal(project=project) for project in projects)
        return dict(
            Counter(row["status"] for row in self._tables.rows("procedures", ["status"], where=where or "true"))
        )

    def briefs(self, ids: Collection[str]) -> list[Brief]:
        """The current revisions of those that are here, without their texts."""
        return self._parsed(Brief, self._tables.rows_of("procedures", ["body"], ids))

    def changes(self, kinds: Collection[ChangeKind]) -> list[Brief]:
        """The revisions that changed a procedure in one of these ways, without their texts."""
        # a quote inside a text is escaped in JSON, so that only the field itself matches
        wanted = " OR ".join(f"""contains(body, '"change":"{kind}"')""" for kind in sorted(kinds)) or "false"
        return self._parsed(Brief, self._tables.rows("procedure_versions", ["body"], where=wanted))

    def list_procedures(
        self, *, status: Status | None = None, project: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[Procedure]:
        """Current revisions, the latest changed first."""
        where = _all_equal(status=status, project=project)
        return self._newest(where, limit, offset)

    def history(self, procedure_id: str) -> list[Procedure]:
        """All revisions, oldest first; empty when the procedure is unknown."""
        rows = self._tables.rows("procedure_versions", ["body"], where=_all_equal(procedure_id=procedure_id))
        return sorted(self._parsed(Procedure, rows), key=lambda p: p.revision)

    def revision(self, procedure_id: str, revision: int) -> Procedure | None:
        """One revision as it was, or None."""
        found = self._revisions({procedure_id: revision})
        return found[0] if found else None

    def without_vectors(self, limit: int = 1000) -> list[Procedure]:
        """Current procedures, not retired, that have no vector yet."""
        missing = "vector IS NULL AND " if "vector" in self._tables.columns("procedures") else ""
        return self._newest(missing + LIVE, limit)

    # --- trajectories and events

    def trajectory(self, trajectory_id: str) -> Trajectory | None:
        """The evidence with this id, or None."""
        return self.trajectories([trajectory_id]).get(trajectory_id)

    def trajectories(self, ids: Collection[str]) -> dict[str, Trajectory]:
        """Those of the trajectories that are here."""
        found = self._parsed(Trajectory, self._tables.rows_of("trajectories", ["body"], ids))
        return {t.id: t for t in found}

    def stored(self, ids: Collection[str]) -> set[str]:
        """Which of these trajectories are stored with everything that was to follow from them."""
        rows = self._tables.rows_of("events", ["trajectory_id", "kind"], ids, key="trajectory_id")
        recorded = {row["trajectory_id"] for row in rows if row["kind"] == "recorded"}
        return self._ids("trajectories", recorded)

    def unfinished(self, limit: int = 1000) -> list[str]:
        """Trajectories that are stored without what was to follow from them: the process died in between."""
        return upkeep.unfinished(self._tables)[:limit]

    def similar_trajectories(
        self, task: str, *, succeeded: bool, projects: Collection[str], limit: int
    ) -> list[Trajectory]:
        """Trajectories of tasks in similar words that are known to have succeeded, or to have failed; best first."""
        where = f"succeeded = {str(succeeded).lower()} AND {one_of('project', projects)}"
        rows = self._tables.matching("trajectories", task, "task", ["body"], where=where, limit=limit)
        return self._parsed(Trajectory, rows)

    def counts(self, ids: Collection[str]) -> dict[str, dict[int, Counts]]:
        """What has happened to each procedure, by the revision since which it is counted (``counted_from``)."""
        waiting = self._waiting_events()
        fresh = waiting.keys() - self._ids("events", waiting.keys())
        return self._tally.of(ids, beside=[event_row(waiting[i]) for i in fresh])

    def settled_counts(self, ids: Collection[str]) -> dict[str, dict[int, Counts]]:
        """The same in a tenth of the time, but that recalls of the last second may not be counted yet."""
        return self._tally.of(ids)

    def events(
        self,
        *,
        kind: EventKind | None = None,
        procedure_id: str | None = None,
        recall_id: str | None = None,
        trajectory_id: str | None = None,
    ) -> list[Event]:
        """The events that fit, oldest first."""
        about = {"kind": kind, "procedure_id": procedure_id, "recall_id": recall_id, "trajectory_id": trajectory_id}
        waiting = self._waiting_events().values()
        rows = self._tables.rows("events", ["body"], where=_all_equal(**about))
        found = [*self._parsed(Event, rows), *(e for e in waiting if _is_about(e, about))]
        return sorted({e.id: e for e in found}.values(), key=lambda e: (e.at, e.id))

    def applied(self, op_id: str) -> bool:
        """Whether this operation has been written already."""
        return bool(self._ids("events", [marker_id(op_id)]))

    def ids_starting(
        self,
        prefix: str,
        *,
        kind: Literal["procedure", "trajectory"],
        limit: int,
        projects: Collection[str] | None = None,
    ) -> list[str]:
        """Ids of procedures or trajectories that start with *prefix*, in their order; by default of all projects."""
        name: TableName = "procedures" if kind == "procedure" else "trajectories"
        where = starts_with("id", prefix)
        if projects is not None:
            where += f" AND {one_of('project', projects)}"
        return sorted(row["id"] for row in self._tables.rows(name, ["id"], where=where))[:limit]

    def all_trajectories(self) -> Iterator[Trajectory]:
        """Every trajectory, oldest first, read a few at a time."""
        return self._stream("trajectories", Trajectory, ["created_at", "id"], _LARGE_BATCH)

    def all_revisions(self) -> Iterator[Procedure]:
        """Every revision of every procedure, oldest first, read a few at a time."""
        return self._stream("procedure_versions", Procedure, ["created_at", "procedure_id", "revision"], _BATCH)

    def all_events(self) -> Iterator[Event]:
        """Every event, oldest first, read a few at a time; those that wait are the last."""
        waiting = self._waiting_events()
        for event in self._stream("events", Event, ["at", "id"], _BATCH):
            waiting.pop(event.id, None)
            yield event
        yield from sorted(waiting.values(), key=lambda e: (e.at, e.id))

    # --- search

    def dense(
        self, vector: Sequence[float], *, column: VectorColumn = "vector", projects: Collection[str], limit: int
    ) -> list[tuple[Procedure, float]]:
        """Procedures by similarity, as `near` finds them."""
        return self.scored(self.near(vector, column=column, projects=projects, limit=limit))

    def near(
        self, vector: Sequence[float], *, column: VectorColumn = "vector", projects: Collection[str], limit: int
    ) -> list[Hit]:
        """Procedures by similarity, the most similar first; without the retired ones and those without a vector.

        The similarity is the cosine for ``vector`` and the dot product for ``phrases``, whose vectors are means of
        unit vectors and carry meaning in their length.

        Raises:
            EmbedderError: `adopt` was not called, or somebody has re-embedded the memory since.
        """
        numbers = checked(vector, self._dimension(self._meta()), "The query")
        rows = self._resident.nearest(numbers, column, projects=projects, limit=limit)
        if rows is None:
            rows = self._tables.nearest(numbers, column, _REVISION, where=_visible(projects), limit=limit)
        return [_hit(row, 1.0 - row["_distance"]) for row in rows]

    def lexical(
        self,
        text: str,
        *,
        column: Literal["doc", "errors"] = "doc",
        projects: Collection[str],
        limit: int,
    ) -> list[tuple[Procedure, float]]:
        """Procedures by BM25 score, as `worded` finds them."""
        return self.scored(self.worded(text, column=column, projects=projects, limit=limit))

    def worded(
        self, text: str, *, column: Literal["doc", "errors"] = "doc", projects: Collection[str], limit: int
    ) -> list[Hit]:
        """Procedures by BM25 score, best first; any text will do. Without the retired ones."""
        search = partial(self._tables.matching, "procedures", text, column, where=_visible(projects), limit=limit)
        if self._resident.is_ready():  # then LanceDB need not read what they are called: half of what a search costs
            rows = search([])
            named = self._resident.named([row[PLACE] for row in rows])
            if named is not None:
                return [_hit(name, row["_score"]) for name, row in zip(named, rows, strict=True)]
        return [_hit(row, row["_score"]) for row in search(_REVISION)]

    def scored(self, hits: Sequence[Hit]) -> list[tuple[Procedure, float]]:
        """The procedures that were found, with their scores."""
        procedures = self.found(hits)
        return [(procedures[hit.id], hit.score) for hit in hits if hit.id in procedures]

    def found(self, hits: Sequence[Hit]) -> dict[str, Procedure]:
        """The procedures that were found, by id; those that were read lately are not read again."""
        # A thread reads the dictionary once and goes on with what it got, so that another may replace it meanwhile.
        lately = self._read_lately
        known = {hit.id: p for hit in hits if (p := lately.get(hit[:3])) is not None}
        read = self._at_their_places([hit for hit in hits if hit.id not in known])
        read |= self.procedures({hit.id for hit in hits} - known.keys() - read.keys())
        new = {(p.id, p.revision, p.created_at): p for p in read.values()}
        if len(lately) + len(new) > _READ_LATELY:
            self._read_lately = new
        else:
            lately.update(new)
        return known | read

    def _at_their_places(self, hits: Sequence[Hit]) -> dict[str, Procedure]:
        """Those that are still where they were found: a quarter of what it costs to look them up by id."""
        if not hits:
            return {}
        wanted = {hit[:3] for hit in hits}
        rows = self._tables.at("procedures", sorted({hit.place for hit in hits}), ["body"])
        return {p.id: p for p in self._parsed(Procedure, rows) if (p.id, p.revision, p.created_at) in wanted}

    def sample(self, *, projects: Collection[str], limit: int, seed: int) -> list[Procedure]:
        """A random choice: the baseline that every way of retrieving has to beat."""
        ids = sorted(row["id"] for row in self._tables.rows("procedures", ["id"], where=_visible(projects)))
        chosen = random.Random(seed).sample(ids, min(limit, len(ids)))
        found = self.procedures(chosen)
        return [found[i] for i in chosen if i in found]

    # --- its state

    def size(self) -> StoreSize:
        """Rows, fragments and kept versions of each table, and the bytes of the whole directory."""
        return upkeep.size(self._tables, self.directory)

    def is_current(self) -> bool:
        """Whether each procedure is shown once, and in its latest revision."""
        return upkeep.is_current(self._tables)

    def strays(self) -> list[str]:
        """Procedures without a history: somebody began to forget them and died."""
        return upkeep.strays(self._tables)

    def unreadable(self) -> dict[TableName, str]:
        """The tables that cannot be read, or not all of them, and why."""
        return upkeep.unreadable(self._tables)

    # --- how

    def _exists(self) -> bool:
        return (self.directory / "meta.json").exists()

    def _meta_text(self) -> str:
        return (self.directory / "meta.json").read_text("utf-8")

    def _meta(self) -> Meta:
        with explained(self.directory):
            raw = json.loads(self._meta_text())
            written = raw["format"] if isinstance(raw, dict) and isinstance(raw.get("format"), int) else None
            if written is not None and written > FORMAT:
                raise StoreNewer(
                    f"The memory in {self.directory} has format {written}, written by memp-mcp {raw.get('program')}; "
                    f"this is {__version__}, which knows formats up to {FORMAT}. Upgrade memp-mcp. Nothing was changed."
                )
            return Meta.model_validate(raw)

    def _dimension(self, meta: Meta) -> int:
        """The dimension of the vectors, when this process may use them.

        Raises:
            EmbedderError: it may not.
        """
        if self._adopted is None:
            raise EmbedderError("No embedder was adopted by this process. Call adopt(name, dimension) first.")
        return agreed(meta, *self._adopted)[1]

    def _waiting_events(self) -> dict[str, Event]:
        """To be asked for before the table is: what is taken in meanwhile is then found twice, and not missed."""
        with explained(self.directory):
            return self._waiting.events()

    def _revisions(self, heads: Mapping[str, int]) -> list[Procedure]:
        rows = self._tables.rows_of(
            "procedure_versions", ["version_id", "body"], [f"{i}@{r}" for i, r in heads.items()], key="version_id"
        )
        return self._parsed(Procedure, rows)

    def _ids(self, name: TableName, ids: Collection[str]) -> set[str]:
        key = SCHEMAS[name].names[0]
        return {row[key] for row in self._tables.rows_of(name, [key], ids, key=key)}

    def _rows_whatever(self, name: TableName, columns: Sequence[str], ids: Collection[str], key: str) -> list[Row]:
        """The rows of these ids, by a scan where the index is damaged: whatever can be read is to be saved."""
        try:
            return self._tables.rows_of(name, columns, ids, key=key)
        except StoreDamaged:
            return self._tables.rows_of(name, columns, ids, key=f"concat({key}, '')")  # no index knows that

    def _newest(self, where: str, limit: int, offset: int = 0) -> list[Procedure]:
        # sorted here: LanceDB's own ordering fails on columns that are not selected, and then not always
        keys = self._tables.rows("procedures", ["created_at", "id"], where=where)
        newest_first = sorted(sorted(keys, key=itemgetter("id")), key=itemgetter("created_at"), reverse=True)
        ids = [row["id"] for row in newest_first[offset : offset + limit]]
        found = self.procedures(ids)
        return [found[i] for i in ids if i in found]

    def _stream(self, name: TableName, kind: type[_V], order: Sequence[str], size: int) -> Iterator[_V]:
        key = SCHEMAS[name].names[0]
        rows = self._tables.rows(name, [*{*order, key}])
        keys = [row[key] for row in sorted(rows, key=lambda row: tuple(row[c] for c in order))]
        for chunk in chunks(dict.fromkeys(keys), size):
            bodies = {r[key]: r for r in self._rows_whatever(name, [key, "body"], chunk, key)}
            yield from self._parsed(kind, [bodies[k] for k in chunk if k in bodies])

    def _parsed(self, kind: type[_V], rows: Iterable[Row]) -> list[_V]:
        with explained(self.directory):
            return [kind.model_validate_json(row["body"]) for row in rows]


def agreed(meta: Meta, name: str, dimension: int) -> tuple[str, int]:
    """The embedder of this name and dimension, when the vectors of the memory are its own.

    Raises:
        EmbedderError: they are another's, or are just being made anew.
    """
    if meta.pending is not None:
        raise EmbedderError(
            f"Embedding this memory anew with {meta.pending!r} was interrupted. Run `memp-mcp rebuild --embed`; "
            "until then recall uses words alone."
        )
    if (meta.embedder, meta.dimension) != (name, dimension):
        raise EmbedderError(
            f"This memory was embedded with {meta.embedder!r} ({meta.dimension} dimensions), the setting says {name!r} "
            f"({dimension}). Run `memp-mcp rebuild --embed` to embed it anew, or set MEMP_EMBEDDER={meta.embedder}."
        )
    return name, dimension


def checked(vector: Sequence[float], dimension: int, whose: str) -> list[float]:
    """The vector as plain numbers.

    Raises:
        EmbedderError: it has not this dimension, or is not finite.
    """
    numbers = [float(x) for x in vector]
    if len(numbers) != dimension or not all(map(math.isfinite, numbers)):
        raise EmbedderError(
            f"{whose} has a vector of {len(numbers)} numbers; it takes {dimension}, all finite. "
            "The embedder gave something that this memory cannot use: run `memp-mcp doctor`."
        )
    return numbers


def marker_id(op_id: str) -> str:
    """The id of the event that says that an operation is complete."""
    return stable_id("e", "done", op_id)


def _hit(row: Row, score: float) -> Hit:
    return Hit(row["id"], row["revision"], row["created_at"], score, row[PLACE])


def _visible(projects: Collection[str]) -> str:
    return f"{LIVE} AND {one_of('project', projects)}"


def _all_equal(**wanted: str | None) -> str:
    return " AND ".join(f"{name} = {quoted(value)}" for name, value in wanted.items() if value is not None) or "true"


def _is_about(event: Event, wanted: Mapping[str, str | None]) -> bool:
    return all(getattr(event, name) == value for name, value in wanted.items() if value is not None)
