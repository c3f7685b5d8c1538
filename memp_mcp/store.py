"""The memory on disk. Several processes share one directory: writers take turns, readers never wait.

`procedure_versions` is the source of truth for procedures; `procedures` holds the current revision of each, as recall
reads it, and can be rebuilt from it. Trajectories and events are append-only. One operation is one `Commit`: its
trajectory, its revisions, its current rows and its events are written in this order, the marker of the operation among
the events. What dies in between is finished by the same operation when it is tried again, and what is left half-way is
brought up to date when the memory is opened or the procedure is next changed.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import uuid
import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from filelock import FileLock, Timeout

from memp_mcp import __version__, upkeep
from memp_mcp.errors import MempError, StaleRevision, StoreBusy, StoreDamaged, StoreFull
from memp_mcp.faults import explained
from memp_mcp.files import sync_folder
from memp_mcp.models import (
    Commit,
    Event,
    Procedure,
    Trajectory,
    stable_id,
)
from memp_mcp.reading import FORMAT, Meta, Reading, agreed, checked, marker_id
from memp_mcp.resident import MAX_FLOATS
from memp_mcp.rows import (
    SCHEMAS,
    Row,
    TableName,
    chunks,
    event_row,
    one_of,
    procedure_row,
    quoted,
    trajectory_row,
    version_id,
    version_row,
)
from memp_mcp.salvage import Salvage, set_aside
from memp_mcp.settings import make_private
from memp_mcp.tables import INDEXED_FROM, Tables

TAKEN_IN_AFTER = 1.0
"""Seconds that a recall waits for a write which takes it along."""
_LAST_COMMIT = 2.0
"""Seconds that the end of the process waits for such a write: it takes .02, and may wait for the lock."""
_BATCH = 500
_LARGE_BATCH = 32

_log = logging.getLogger(__name__)
_timers = weakref.WeakSet[threading.Timer]()
T = TypeVar("T")


@atexit.register
def _end_timers() -> None:
    """Let the process end with none of its threads in LanceDB: one that Python stops there aborts it.

    What has not begun to be taken in stays where it waits, for the next write of whatever process.
    """
    for timer in list(_timers):
        timer.cancel()
        timer.join(_LAST_COMMIT)


class Vectors(NamedTuple):
    """What a procedure is found by: the vector of its text, and the mean of the unit vectors of its key phrases."""

    vector: Sequence[float]
    phrases: Sequence[float]


class MergedIn(NamedTuple):
    """What came of an import: how much was new, how much was here already."""

    trajectories: int
    revisions: int
    events: int
    kept: int
    conflicts: tuple[str, ...]
    """Ids of procedures whose history here is another one; ours was kept."""


class Store(Reading):
    """The memory on disk. Thread-safe; any number of processes may have the same directory open."""

    def __init__(
        self,
        directory: Path,
        *,
        lock_timeout: float,
        indexed_from: int = INDEXED_FROM,
        max_floats: int = MAX_FLOATS,
        tables: Tables | None = None,
    ) -> None:
        with explained(directory):
            tables = tables or Tables(directory, indexed_from=indexed_from, max_floats=max_floats)
        super().__init__(directory, tables, max_floats=max_floats)
        self.id = ""
        self._lock_timeout = lock_timeout
        self._turn = threading.Lock()
        self._file_lock = FileLock(
            directory / "write.lock",
            poll_interval=0.01,
            thread_local=False,
            fallback_to_soft=False,  # a soft lock outlives a killed process
        )
        self._mark = directory / "writing"
        self._taking_in: threading.Timer | None = None
        self._deferring = threading.Lock()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        lock_timeout: float = 30.0,
        salvage: bool = False,
        indexed_from: int = INDEXED_FROM,
        max_floats: int = MAX_FLOATS,
    ) -> Self:
        """Open the memory in *directory*; make an empty one when there is none. Never destroys anything.

        Args:
            directory: where it is, or is to be.
            lock_timeout: seconds that a write waits for other writers.
            salvage: open it even if tables are unreadable; those raise when they are used.
            indexed_from: rows from which on a table has all its indexes.
            max_floats: size of the vectors up to which this process holds them.

        Raises:
            StoreNewer: a later version of the program wrote it.
            StoreDamaged: it cannot be read.
            StoreFull: there is none, and none can be made here.
        """
        with explained(directory):
            make_private(directory)
        store = cls(directory, lock_timeout=lock_timeout, indexed_from=indexed_from, max_floats=max_floats)
        store._begin(salvage=salvage)
        return store

    def _begin(self, *, salvage: bool) -> None:
        """Make the memory where there is none; finish what others have left."""
        if not self._exists():
            self._create()
        self.id = self._meta().id
        if not salvage:
            for name in SCHEMAS:
                self._tables.count(name)
            self._catch_up()

    @classmethod
    def remake_meta(cls, directory: Path, *, lock_timeout: float = 30.0) -> list[str]:
        """Write meta.json anew where tables are there and it is not, or says nothing; says what was done.

        Which embedder the vectors are of is not known then, so that they will be made anew.

        Raises:
            StoreNewer: it can be read, and a later version of the program wrote it.
            StoreDamaged: the tables are not as this version of the program makes them.
        """
        store = cls(directory, lock_timeout=lock_timeout)
        if not all(store._tables.exists(name) for name in SCHEMAS):
            return []
        with suppress(StoreDamaged):
            store._meta()
            return []
        with explained(directory), store._locked():
            for name, schema in SCHEMAS.items():
                if set(schema.names) - set(store._tables.columns(name)):
                    raise StoreDamaged(f"The table {name} is of another version of memp-mcp. Put meta.json back.")
            kept = set_aside(directory / "meta.json")
            store._write_meta(Meta(format=FORMAT, id=str(uuid.uuid4()), program=__version__))
        return [f"meta.json was written anew, so that vectors have to be made again{kept}."]

    # --- embedder

    def adopt(self, name: str, dimension: int) -> None:
        """Say whose vectors this process is going to write and ask with; the first one is recorded for good.

        Raises:
            EmbedderError: the memory has vectors of another embedder.
        """
        if self.embedder is None:
            with self._writing() as meta:
                if meta.embedder is None:
                    self._tables.give_vectors(dimension)
                    self._tables.settle()
                    self._write_meta(meta.model_copy(update={"embedder": name, "dimension": dimension}))
        self._adopted = agreed(self._meta(), name, dimension)

    def reembed(self, name: str, dimension: int, vectors: Mapping[str, Vectors]) -> None:
        """Replace all vectors by those of another embedder. Procedures without an entry are left without a vector.

        Dies it half-way, dense search is refused until it has been done again.
        """
        rows = _vector_rows(vectors, dimension)
        with self._writing() as meta:
            self._write_meta(meta.model_copy(update={"pending": name}))
            self._tables.give_vectors(dimension)
            self._tables.fill_vectors(rows)
            self._tables.settle()
            done = {"embedder": name, "dimension": dimension, "pending": None}
            self._write_meta(meta.model_copy(update=done))
        self._adopted = (name, dimension)

    def set_vectors(self, vectors: Mapping[str, Vectors]) -> None:
        """Fill in the vectors of procedures that are stored, by id."""
        with self._writing() as meta:
            self._tables.fill_vectors(_vector_rows(vectors, self._dimension(meta)))

    # --- writing

    def apply(self, *commits: Commit, vectors: Mapping[str, Vectors] | None = None) -> list[bool]:
        """Write operations, each completely and once; durable on return.

        Args:
            commits: a procedure of revision r needs the stored one to be at r - 1 (r = 1: not to be there); commits of
                one call may build on each other.
            vectors: by procedure id; rows without an entry keep the vectors that they have.

        Returns:
            For each commit, whether it was applied now; False: it had been before, or a process that died had begun it
            with revisions of its own, which are kept, and it is finished with those.

        Raises:
            StaleRevision: a procedure was revised meanwhile. Nothing of the call was written.
        """
        with self._writing() as meta:
            prepared = _vector_rows(vectors, self._dimension(meta)) if vectors else []
            done = self._ids("events", [marker_id(c.op_id) for c in commits])
            fresh: dict[str, Commit] = {}
            applied = [self._is_fresh(c, done, fresh) for c in commits]
            begun = self._write(list(fresh.values()), {row["id"]: row for row in prepared}) if fresh else set()
            return [now and commit.op_id not in begun for now, commit in zip(applied, commits, strict=True)]

    def note(self, *events: Event) -> None:
        """Append events; those whose id is here already are left out."""
        with self._writing():
            self._add_absent("events", [event_row(e) for e in events])

    def note_recall(self, *events: Event) -> None:
        """Append events whose ids were just made. Everybody sees them at once; they outlive this process.

        They wait beside the table for the next write, or a second: only a power cut can lose them until then.

        Raises:
            StoreError: they could not be written.
        """
        with explained(self.directory):
            self._meta()  # whatever is wrong with the memory is to be said now
            self._waiting.add(*events)
        self._take_in_later()

    def forget(self, procedure_id: str, *, evidence: Collection[str] = ()) -> None:
        """Remove a procedure, its history, its events and the given trajectories for good, out of the files too.

        Dies it half-way, the procedure is still found, and forgetting it again finishes the work.
        """
        of_it, of_them = f"procedure_id = {quoted(procedure_id)}", one_of("trajectory_id", evidence)
        doomed: dict[TableName, str] = {
            "trajectories": one_of("id", evidence),
            "procedure_versions": of_it,
            "events": f"{of_it} OR (kind = 'recorded' AND {of_them})",
            "procedures": f"id = {quoted(procedure_id)}",
        }
        with self._writing():
            for name, where in doomed.items():
                if self._tables.delete(name, where):
                    self._tables.erase(name)
            self._tally.drop()
            gone = Event(id=stable_id("e", "forgotten", procedure_id), kind="forgotten", procedure_id=procedure_id)
            self._add_absent("events", [event_row(gone)])

    def replace(self, values: Iterable[Trajectory | Procedure | Event]) -> None:
        """Put these in the place of what is stored under their ids; for `scrub`, which is the only one to change them.

        The current rows of procedures are not touched: see `rebuild_current`.
        """
        rows: dict[TableName, list[Row]] = {"trajectories": [], "procedure_versions": [], "events": []}
        for value in values:
            match value:
                case Trajectory():
                    rows["trajectories"].append(trajectory_row(value))
                case Procedure():
                    row = version_row(value, "")
                    del row["op_id"]  # stays that of the operation which wrote it
                    rows["procedure_versions"].append(row)
                case Event():
                    rows["events"].append(event_row(value))
        with self._writing():
            for name, of_table in rows.items():
                self._tables.replace(name, of_table)

    def erase(self) -> None:
        """Rewrite all files, so that nothing is left in them of what was replaced or deleted."""
        for name in SCHEMAS:
            with self._writing():
                self._tables.erase(name)
                self._tally.drop()
        self._read_lately = {}

    def _is_fresh(self, commit: Commit, done: set[str], fresh: dict[str, Commit]) -> bool:
        if marker_id(commit.op_id) in done or commit.op_id in fresh:
            return False
        fresh[commit.op_id] = commit
        return True

    def _write(self, commits: Sequence[Commit], vectors: Mapping[str, Row]) -> set[str]:
        """Write them; returns which of them somebody had begun."""
        begun = self._begun([c.op_id for c in commits])
        versions = [(c.op_id, p) for c in commits if c.op_id not in begun for p in c.procedures]
        self._check_revisions([p for _, p in versions])
        self._add_absent("trajectories", [trajectory_row(c.trajectory) for c in commits if c.trajectory])
        self._add("procedure_versions", [version_row(p, op_id) for op_id, p in versions])
        self._set_current([p for _, p in versions], vectors)
        self._add_absent("events", [event_row(e) for c in commits for e in (*c.events, _marker(c))])
        return begun

    def _begun(self, op_ids: Sequence[str]) -> set[str]:
        """Which operations had written their revisions when they died; brings their procedures up to date."""
        rows = self._tables.rows("procedure_versions", ["op_id", "procedure_id"], where=one_of("op_id", op_ids))
        self._bring_up({row["procedure_id"] for row in rows})
        return {row["op_id"] for row in rows}

    def _check_revisions(self, procedures: Sequence[Procedure]) -> None:
        heads = self._bring_up({p.id for p in procedures})
        for procedure in procedures:
            current = heads.get(procedure.id, 0)
            if current != procedure.revision - 1:
                raise StaleRevision(procedure.id, procedure.revision - 1, current)
            heads[procedure.id] = procedure.revision

    def _set_current(self, procedures: Iterable[Procedure], vectors: Mapping[str, Row]) -> None:
        """Make the last of each procedure's revisions the current one."""
        latest = {p.id: p for p in procedures}
        kept = self._stored_vectors(latest.keys() - vectors.keys())
        rows = [{**procedure_row(p), **kept.get(p.id, {}), **vectors.get(p.id, {})} for p in latest.values()]
        self._tables.upsert(rows)

    def _stored_vectors(self, ids: Collection[str]) -> dict[str, Row]:
        if not ids or "vector" not in self._tables.columns("procedures"):
            return {}
        rows = self._tables.rows_of("procedures", ["id", "vector", "phrases"], ids)
        return {row["id"]: row for row in rows}

    def _add_absent(self, name: TableName, rows: Iterable[Row]) -> int:
        key = SCHEMAS[name].names[0]
        unique = {row[key]: row for row in reversed(list(rows))}
        for here in self._ids(name, unique.keys()):
            del unique[here]
        self._add(name, list(reversed(unique.values())))
        return len(unique)

    def _add(self, name: TableName, rows: Sequence[Row]) -> None:
        self._tables.add(name, rows)
        if name == "events":
            self._tally.add(rows)

    # --- recovery

    def _bring_up(self, ids: Collection[str] | None = None) -> dict[str, int]:
        heads, behind = upkeep.behind(self._tables, ids)
        if behind:
            self._set_current(self._revisions(behind), {})
        return heads

    def _catch_up(self) -> None:
        """Finish what a process that died has left; a memory that cannot be written now is read as it is."""
        if not self._was_left() or not upkeep.behind(self._tables)[1]:
            return
        try:
            with self._writing():
                self._bring_up()
        except (StoreFull, StoreBusy) as error:
            _log.warning("Some procedures are shown in an older revision for now. %s", error)

    def rebuild_current(self) -> int:
        """Make the current rows anew from the history; a vector stays where the revision is the same.

        Returns:
            The number of procedures.
        """
        with self._writing(readable=False) as meta:
            kept = self._salvaged_vectors(meta)
            heads = upkeep.heads(self._tables)
            procedures = self._revisions(heads)
            rows = [{**procedure_row(p), **kept.get((p.id, p.revision), {})} for p in procedures]
            shown = Counter(row["id"] for row in self._tables.rows("procedures", ["id"]))
            wrong = [i for i, times in shown.items() if times > 1 or i not in heads]
            self._tables.delete("procedures", one_of("id", wrong))
            self._tables.upsert(rows, newer_only=False)
            return len(rows)

    def _salvaged_vectors(self, meta: Meta) -> dict[tuple[str, int], Row]:
        """The stored vectors by id and revision; an unreadable table gives none and is replaced by an empty one."""
        try:
            names = [c for c in self._tables.columns("procedures") if c not in {"doc", "errors"}]
            rows = self._tables.rows("procedures", names)
        except StoreDamaged:
            self._tables.make("procedures")
            if meta.dimension:
                self._tables.give_vectors(meta.dimension)
            return {}
        return {(r["id"], r["revision"]): {c: r[c] for c in ("vector", "phrases") if c in r} for r in rows}

    def merge_in(
        self, trajectories: Iterable[Trajectory], revisions: Iterable[Procedure], events: Iterable[Event]
    ) -> MergedIn:
        """Take in another memory's export: what is not here yet, by id. The revisions are held in memory together."""
        seen: Counter[str] = Counter()
        told = list(revisions)
        added = {"trajectories": self._take_in("trajectories", map(trajectory_row, trajectories), _LARGE_BATCH, seen)}
        conflicts = self._conflicts(told)
        ours = (version_row(p, "") for p in sorted(told, key=lambda p: p.revision) if p.id not in conflicts)
        seen["procedure_versions"] += sum(p.id in conflicts for p in told)
        added["revisions"] = self._take_in("procedure_versions", ours, _BATCH, seen)
        with self._writing():
            self._bring_up()
        added["events"] = self._take_in("events", map(event_row, events), _BATCH, seen)
        return MergedIn(**added, kept=seen.total() - sum(added.values()), conflicts=tuple(sorted(conflicts)))

    def _take_in(self, name: TableName, rows: Iterable[Row], size: int, seen: Counter[str]) -> int:
        added = 0
        for chunk in chunks(rows, size):
            seen[name] += len(chunk)
            with self._writing():
                added += self._add_absent(name, chunk)
        return added

    def _conflicts(self, told: Sequence[Procedure]) -> set[str]:
        """Procedures that have, here, other content under a revision that is told."""
        wanted = [version_id(p) for p in told]
        rows = self._tables.rows_of("procedure_versions", ["version_id", "body"], wanted, key="version_id")
        here = {version_id(p): p for p in self._parsed(Procedure, rows)}
        return {p.id for p in told if here.get(version_id(p), p) != p}

    # --- upkeep

    def compact(self) -> None:
        """Merge the files of each table, rebuild the indexes and drop what is superseded."""
        with self._writing():
            self._tables.compact()

    def check(self) -> list[str]:
        """What is wrong with this memory, each with the way to mend it; nothing when it is sound."""
        if damaged := upkeep.damage(self._tables):  # what follows reads and looks up
            return damaged
        return [*self._not_understood(), *upkeep.disorder(self._tables), *self._vectors_missing()]

    def mend(self) -> list[str]:
        """Mend what is damaged, as far as the tables themselves allow; say what was done and what is lost.

        Nothing is destroyed: what is replaced is set aside in the folder ``damaged``. What a process that died has
        only begun is not the matter here: see `unfinished`, `strays` and `rebuild_current`.
        """
        salvage = Salvage(self.directory, self._tables)
        with self._writing(readable=False):
            self._tally.drop()
            told = list(salvage.everything())
            if salvage.lost["procedure_versions"] and "procedures" not in self.unreadable():
                told += self._put_back_histories()
            return told

    def _put_back_histories(self) -> Iterator[str]:
        """Give the procedures whose history is lost a history again: what they are now."""
        heads = upkeep.heads(self._tables)
        rows = self._tables.rows("procedures", ["id", "revision", "body"])
        bare = self._parsed(Procedure, [row for row in rows if row["revision"] > heads.get(row["id"], 0)])
        self._tables.add("procedure_versions", [version_row(p, "") for p in bare])
        if bare:
            yield f"procedure_versions: {len(bare)} procedures have their current revision in it again."

    def _not_understood(self) -> Iterator[str]:
        for values in (self.all_trajectories, self.all_revisions, self.all_events):
            try:
                for _ in values():
                    pass
            except StoreDamaged as error:
                yield f"A row is none of this program's ({error.__cause__}). Was it written by a later one?"

    def _vectors_missing(self) -> Iterator[str]:
        if self.is_being_embedded():
            yield f"Re-embedding was interrupted: recall uses words alone. {upkeep.MEND}"
        elif self.embedder:
            yield from upkeep.without_vectors(self._tables)

    # --- how

    @contextmanager
    def _writing(self, *, readable: bool = True) -> Iterator[Meta]:
        """The one place where something is written: alone, durably, in a memory that is still the one opened.

        What waits is taken along, counts are kept, and what a process that died has left half-way is brought up to
        date, unless the tables need not be *readable*.
        """
        if not self._turn.acquire(timeout=self._lock_timeout):
            raise self._busy()
        try:
            with (
                explained(self.directory),
                self._locked(),
                self._marked(keep=not readable) as left,
                self._tally.kept() if readable else nullcontext(),
            ):
                meta = self._meta()
                if left and readable:
                    self._bring_up()
                waiting = self._take_in_waiting() if readable else ()
                yield meta
                self._tables.settle()
                self._waiting.drop(waiting)
        except BaseException:
            self._tables.abandon()
            raise
        finally:
            self._turn.release()

    @contextmanager
    def _marked(self, *, keep: bool) -> Iterator[bool]:
        """Leave a mark on the disk while something is being written; gives whether somebody has died and left his.

        Only then is everything to be looked at for what is behind. *keep* his: nobody looks now.
        """
        left = self._mark.exists()
        if not left:
            self._mark.touch()
            sync_folder(self.directory)
        try:
            yield left
        except BaseException:
            if not left and not self._tables.has_unsettled():
                self._mark.unlink(missing_ok=True)
            raise
        if not (left and keep):
            self._mark.unlink(missing_ok=True)

    def _was_left(self) -> bool:
        """Whether somebody is writing now, or has died while he was."""
        return self._mark.exists()

    def _take_in_waiting(self) -> Collection[str]:
        """Write the events that wait; their files may go once that is on the disk."""
        files = self._waiting.files()
        self._add_absent("events", [event_row(e) for events in files.values() for e in events])
        return tuple(files)

    def _take_in_later(self) -> None:
        """Take in what waits, once for all that comes within a second."""
        with self._deferring:
            if self._taking_in is None:
                self._taking_in = timer = threading.Timer(TAKEN_IN_AFTER, self._take_in_now)
                timer.daemon = True  # an ordinary exit would wait for all of the second
                _timers.add(timer)
                timer.start()

    def _take_in_now(self) -> None:
        with self._deferring:
            self._taking_in = None
        try:
            with self._writing():
                pass
        except MempError as error:  # there is nobody to tell; it waits for the next write
            _log.warning("What was recalled lately still waits to be written down: %s", error)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.id:
            self._meta()  # a lock file is not to be made where the memory has vanished
        try:
            self._file_lock.acquire(timeout=self._lock_timeout)
        except Timeout:
            raise self._busy() from None
        try:
            yield
        finally:
            self._file_lock.release()

    def _busy(self) -> StoreBusy:
        return StoreBusy(
            f"Other writers held the memory in {self.directory} for more than {self._lock_timeout:g} s. "
            "Try again; if that does not help, end the memp-mcp process that hangs, or raise MEMP_LOCK_TIMEOUT."
        )

    def _create(self) -> None:
        with explained(self.directory), self._locked():
            if self._exists():
                return
            if any(self._tables.exists(name) and self._tables.count(name) for name in SCHEMAS):
                raise StoreDamaged(
                    f"{self.location} has tables but no meta.json, which says what wrote them. Put it back from "
                    "a copy, run `memp-mcp repair`, or set MEMP_HOME to another directory. Nothing was changed."
                )
            for name in SCHEMAS:
                self._tables.make(name)
            self._tables.settle()
            self._write_meta(Meta(format=FORMAT, id=str(uuid.uuid4()), program=__version__))

    def _write_meta(self, meta: Meta) -> None:
        temporary = self.directory / "meta.json.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(meta.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.directory / "meta.json")
        sync_folder(self.directory)


def _vector_rows(vectors: Mapping[str, Vectors], dimension: int) -> list[Row]:
    return [
        {
            "id": i,
            "vector": checked(v.vector, dimension, f"Procedure {i!r}"),
            "phrases": checked(v.phrases, dimension, f"Procedure {i!r}"),
        }
        for i, v in vectors.items()
    ]


def _marker(commit: Commit) -> Event:
    """The event that says that an operation is complete; it is written last."""
    marker = Event(id=marker_id(commit.op_id), kind="recorded")
    if commit.trajectory is None:
        return marker
    told = {"trajectory_id": commit.trajectory.id, "client": commit.trajectory.client, "detail": commit.figures}
    return marker.model_copy(update={**told, "project": commit.trajectory.project})
