"""The memory on object storage: the same tables in a bucket, written to by servers on several machines.

A lock in a directory does not reach other machines. Here a lease takes its place: a row that says who may write, taken
and given back by compare and swap, which rests on the conditional writes of the storage (If-None-Match). The rest of
the protocol is the one of `store`: what a server that died has begun, the next one finishes.

What the lease cannot do that a lock can: it does not end with its process. Whoever waits takes it over when it has not
been renewed for LEASE seconds by the waiter's own clock; clocks of different machines are never compared. A holder
renews it before each commit and stops when it has lost it, so a second writer is possible only where a single commit
takes longer than LEASE; revisions are therefore inserted by their key, so that even then none is there twice.

LanceDB Cloud and Enterprise (db://) are other tables on the same terms. Their client sends a write again, up to three
times in all, when it gets no answer or a 409, 429 or 5xx, whether or not it was done; so each write is one that may
be done twice: every row is inserted by its key, and whoever seems to have lost a race looks whether it was its own.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from memp_mcp.control import Control
from memp_mcp.errors import StoreBusy, StoreDamaged, StoreError
from memp_mcp.faults import explained
from memp_mcp.models import Event
from memp_mcp.reading import Meta
from memp_mcp.rows import SCHEMAS, Row, TableName, event_row
from memp_mcp.store import Store
from memp_mcp.tables import INDEXED_FROM, SEARCHED, State, Table, Tables
from memp_mcp.tally import Tally
from memp_mcp.upkeep import StoreSize

LEASE = 20.0
"""Seconds without a sign of life after which a holder counts as dead."""
_RENEWED_AFTER = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two looks at whether one may write; each costs requests, so they become rarer."""
_KEEP = timedelta(minutes=10)
"""How long a superseded version stays readable; on object storage a reader may take its time."""
_FRAGMENTS = 16
"""Files of a table, each of which costs a request to read, before it is compacted."""
_UPKEEP_EVERY = 16
"""Writes between two looks at whether something has to be compacted; each look costs several requests."""
_COUNTED = 1_000
"""Events up to which a process counts them itself. Above, and for all vectors, the indexes in the bucket are asked:
what a process holds it would have to fetch as a whole after each commit of another one."""
_CACHE = 64 << 20
"""Bytes of what LanceDB knows about files, which here would cost requests to learn again."""
_SEEN_AFTER = timedelta(seconds=1)
"""How old what a recall sees may be; to look for a later version costs a request for each thing that is read."""
_META_KNOWN_FOR = 5.0
_INDEXED_WITHIN = timedelta(minutes=1)
"""How long a service may take for the indexes of an empty table."""
_WRITER, _META = "writer", "meta"

_log = logging.getLogger(__name__)


class Lease:
    """Whose turn it is to write. One for each process; its threads take turns before they ask for it."""

    def __init__(self, control: Control, *, seconds: float = LEASE) -> None:
        self._control = control
        self._seconds = seconds
        self._changing = threading.Lock()
        self._mine: str | None = None
        self._turn = 0
        self._holder = 0
        self._renewed = 0.0

    def take(self, timeout: float) -> dict[str, tuple[str, int]]:
        """Wait for it; returns what `Control.read` told at that moment.

        Raises:
            TimeoutError: others had it for all of *timeout* seconds.
        """
        me = uuid.uuid4().hex
        give_up = time.monotonic() + timeout
        seen = (-1, 0.0)
        pause = _FIRST_PAUSE
        while True:
            told = self._control.read()
            holder, turn = was = told[_WRITER]
            if turn != seen[0]:
                seen = (turn, time.monotonic())
            over = not holder or time.monotonic() - seen[1] > self._seconds
            if holder == me or (over and self._control.swap(_WRITER, me, was=was)):
                self._mine, self._turn = me, turn + (holder != me)
                self._holder, self._renewed = threading.get_ident(), time.monotonic()
                return told
            if time.monotonic() > give_up:
                raise TimeoutError
            time.sleep(pause * (0.5 + random.random()))
            pause = min(1.5 * pause, _LONGEST_PAUSE)

    @property
    def is_held(self) -> bool:
        """Whether this thread may write now."""
        return self._mine is not None and self._holder == threading.get_ident()

    def renew(self) -> None:
        """Show that this process lives, when it holds the lease and has not shown it lately.

        Raises:
            StoreBusy: it was taken over meanwhile.
        """
        with self._changing:
            if self._mine is None or time.monotonic() - self._renewed < _RENEWED_AFTER:
                return
            if not self._control.swap(_WRITER, self._mine, was=(self._mine, self._turn)):
                self._mine = None
                raise StoreBusy(
                    "This process was away for so long that another one has taken its turn to write. What was begun is "
                    "finished when the same is asked for again: try again."
                )
            self._turn += 1
            self._renewed = time.monotonic()

    def give_back(self) -> None:
        """Let the next one write."""
        with self._changing:
            mine, self._mine = self._mine, None
        if mine is None:
            return
        try:
            self._control.swap(_WRITER, "", was=(mine, self._turn))
        except StoreError as error:
            _log.warning("The next writer has to wait for %g s: %s", self._seconds, error)


class BucketTables(Tables):
    """The tables under a URI. There is nothing to sync; what is committed is on the storage."""

    _KEYED: frozenset[TableName] = frozenset({"procedure_versions"})
    """Tables whose rows are inserted by their key."""

    def __init__(self, uri: str, *, indexed_from: int = INDEXED_FROM) -> None:
        with explained(uri):
            super().__init__(uri, indexed_from=indexed_from, metadata_cache=_CACHE, seen_after=_SEEN_AFTER)
        self._control = self.control()
        self.lease = Lease(self._control)
        self._written = 0

    def control(self) -> Control:
        """The table of the lease and the memory's description."""
        return Control(self._db, str(self._directory), [_WRITER, _META])

    def exists(self, name: TableName) -> bool:
        """Whether the table is there."""
        with explained(str(self._directory)):
            try:
                self._db.open_table(name)
            except ValueError:  # so LanceDB says that it is not
                return False
            return True

    def make(self, name: TableName) -> None:
        """Make an empty table with its full-text indexes; throw away what is there."""
        self._opened.pop(name, None)
        with explained(str(self._directory)):
            if self.exists(name):
                self._db.drop_table(name)
            self._opened[name] = self._db.create_table(name, schema=SCHEMAS[name])
        self.index(name)

    def add(self, name: TableName, rows: Sequence[Row]) -> None:
        """Append rows, in one commit; revisions by their key.

        Raises:
            StoreBusy: a revision was written by another process in this very moment.
        """
        if name not in self._KEYED:
            super().add(name, rows)
            return
        inserted = self._insert(name, rows) if rows else 0
        if name == "procedure_versions" and inserted < len(rows) and not self._are_here(rows):
            raise StoreBusy("Another process has changed the same procedure in this very moment. Try again.")

    def _are_here(self, revisions: Sequence[Row]) -> bool:
        """Whether it was these that were in the way: no answer came, and LanceDB's client has asked twice."""
        mine = {row["version_id"]: row["body"] for row in revisions}
        self.catch_up("procedure_versions")
        rows = self.rows_of("procedure_versions", ["version_id", "body"], mine, key="version_id")
        return mine == {row["version_id"]: row["body"] for row in rows}

    def rows(self, name: TableName, columns: Sequence[str], *, where: str = "true") -> list[Row]:
        """The rows that *where* keeps, in no order; that there are none is said of the latest version alone."""
        found = super().rows(name, columns, where=where)
        if found or self.lease.is_held:  # whoever holds it has seen the latest, and nobody else writes
            return found
        self.catch_up(name)
        return super().rows(name, columns, where=where)

    def catch_up(self, *names: TableName) -> None:
        """See the latest commit of any process, in these tables."""
        for name in names:
            self._read(name, lambda t: t.checkout_latest())

    def settle(self) -> None:
        """Compact now and then, while nobody else writes."""
        touched, self._touched = self._touched, set()
        self._written += 1
        for name in sorted(touched) if self._written % _UPKEEP_EVERY == 0 else ():
            if self._untidy(name):
                self._tidy(name)

    def state(self, name: TableName) -> State:
        """What is another after every commit of any process that this one has seen."""
        return State(("", str(self._read(name, lambda t: t.version))), "")

    def compact(self) -> None:
        """Rebuild the indexes, merge all fragments and drop every superseded version now."""
        super().compact()
        self._control.compact(_KEEP)

    def versions(self, name: TableName) -> int:
        """Number of versions that are still kept."""
        return len(self._read(name, lambda t: t.list_versions()))

    def bytes(self, name: TableName) -> int:
        """Size of the table's data."""
        return int(self._read(name, lambda t: t.stats())["total_bytes"])

    def _ragged(self, name: TableName) -> bool:
        # As in a directory: the larger a table is, the more commits have to pay for its being rewritten.
        return self.fragments(name) > max(_FRAGMENTS, math.isqrt(self.count(name)) // 4)

    def _compact(self, name: TableName, keep: timedelta) -> None:
        super()._compact(name, max(keep, _KEEP) if keep > timedelta(seconds=1) else keep)

    def _sync(self, name: TableName) -> None:
        """Nothing: a commit returns when the storage has it."""

    def _write(self, name: TableName, action: Any, *, rows: int = 0) -> None:
        self.lease.renew()
        super()._write(name, action, rows=rows)


class CloudTables(BucketTables):
    """The tables of a database of LanceDB Cloud or Enterprise, which looks after files, versions and indexes itself."""

    _KEYED = frozenset(SCHEMAS)

    def make(self, name: TableName) -> None:
        """Make an empty table with its full-text indexes; throw away what is there."""
        super().make(name)
        names = [f"{column}_idx" for column in SEARCHED.get(name, ())]
        if names:  # they are built in the background, and a search by words needs them
            self._read(name, lambda t: t.wait_for_index(names, _INDEXED_WITHIN))

    def compact(self) -> None:
        """Have the indexes built anew."""
        for name in SCHEMAS:
            self.index(name)

    def _untidy(self, name: TableName) -> bool:
        return bool(self._not_indexed(name))

    def _tidy(self, name: TableName) -> None:
        try:
            self.index(name, only=self._not_indexed(name))
        except StoreError as error:  # what was asked for is written; a later write tries this again
            _log.warning("Could not have %s indexed: %s", name, error)

    def _not_indexed(self, name: TableName) -> set[str]:
        return self._wanted(name).keys() - self.indexed(name)

    def _table(self, name: TableName) -> Table:
        is_open = name in self._opened
        table = super()._table(name)
        if not is_open:
            table.checkout_latest()  # opened, it may still be shown as it was a second ago
        return table

    def _compact(self, name: TableName, keep: timedelta) -> None:
        """Nothing: the service does it, and its client could only warn of that."""


class BucketStore(Store):
    """The memory on object storage. Thread-safe; any number of processes on any number of machines may share it."""

    _tables: BucketTables

    def __init__(self, uri: str, home: Path, *, lock_timeout: float) -> None:
        tables = CloudTables(uri) if uri.startswith("db://") else BucketTables(uri)
        super().__init__(home, lock_timeout=lock_timeout, tables=tables, max_floats=0)
        self._tally = Tally(tables, max_events=_COUNTED)
        self._uri = uri
        self._control = tables.control()
        self._known_meta: tuple[str, int] = ("", 0)
        self._known_at = -_META_KNOWN_FOR

    @classmethod
    def connect(cls, uri: str, home: Path, *, lock_timeout: float = 30.0, salvage: bool = False) -> Self:
        """Open the memory at *uri*; make an empty one when there is none. Never destroys anything.

        Args:
            uri: of a bucket and a path in it, or of a database; LanceDB finds the credentials in the environment.
            home: a local directory for what each machine has for itself: rules, tokens, the LLM's ledger.
            lock_timeout: seconds that a write waits for other writers.
            salvage: see Store.open.

        Raises:
            StoreError: the storage cannot be reached, or what is there cannot be used.
        """
        store = cls(uri, home, lock_timeout=lock_timeout)
        store._begin(salvage=salvage)
        return store

    @property
    def location(self) -> str:
        """Where the memory is."""
        return self._uri

    def note_recall(self, *events: Event) -> None:
        """Append events whose ids were just made, without the lease: appending is safe, and a recall must not wait."""
        self._tables.add("events", [event_row(e) for e in events])

    def size(self) -> StoreSize:
        """Rows, fragments, kept versions and bytes of the tables' data."""
        return StoreSize(
            rows={name: self._tables.count(name) for name in SCHEMAS},
            bytes=sum(self._tables.bytes(name) for name in SCHEMAS),
            fragments={name: self._tables.fragments(name) for name in SCHEMAS},
            versions={name: self._tables.versions(name) for name in SCHEMAS},
        )

    def mend(self) -> list[str]:
        """Mend nothing: what a directory is mended by, there are no files for.

        Raises:
            StoreDamaged: there is something to mend.
        """
        if unreadable := self.unreadable():
            raise StoreDamaged(
                f"{', '.join(unreadable)} in {self._uri} cannot be read, and tables are mended in a directory only. "
                "Put back earlier versions of their objects, or import a backup into another MEMP_STORE. Nothing was "
                "changed."
            )
        return []

    # --- how

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            told = self._tables.lease.take(self._lock_timeout)
        except TimeoutError:
            raise self._busy() from None
        self._known_meta, self._known_at = told[_META], time.monotonic()
        try:
            if self._exists():
                self._tables.catch_up(*SCHEMAS)
            yield
        finally:
            self._tally.drop()  # recalls of others may have come in between, since they do not wait for their turn
            self._tables.lease.give_back()

    @contextmanager
    def _marked(self, *, keep: bool) -> Iterator[bool]:  # noqa: ARG002 - as in the parent
        yield False  # whoever opens it looks at everything

    def _was_left(self) -> bool:
        return True

    def _busy(self) -> StoreBusy:
        return StoreBusy(
            f"Other writers held the memory in {self._uri} for more than {self._lock_timeout:g} s. "
            "Try again; if that does not help, raise MEMP_LOCK_TIMEOUT."
        )

    def _exists(self) -> bool:
        return bool(self._meta_text())

    def _meta_text(self) -> str:
        if time.monotonic() - self._known_at > _META_KNOWN_FOR:
            self._known_meta, self._known_at = self._control.read()[_META], time.monotonic()
        return self._known_meta[0]

    def _write_meta(self, meta: Meta) -> None:
        if not self._control.swap(_META, meta.model_dump_json(), was=self._known_meta):
            raise StoreBusy("Another process has changed the description of the memory meanwhile. Try again.")
        self._known_meta, self._known_at = (meta.model_dump_json(), self._known_meta[1] + 1), time.monotonic()
