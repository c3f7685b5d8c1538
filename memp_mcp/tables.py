"""The four tables as LanceDB keeps them: reading, commits, indexes, upkeep. The only importer of lancedb.

What is done here and why was measured (lancedb 0.40): a commit is never synced to the disk by LanceDB, so `settle`
does it; every commit writes a manifest that lists all fragments, so `settle` also compacts; a deleted row stays in its
data file until the file is rewritten, so `erase` rewrites. All methods that write expect the caller to hold the
memory's write lock; reading needs none.

Importing this module costs about two seconds of CPU: import it where a memory is about to be opened.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from memp_mcp import lean
from memp_mcp.errors import StoreDamaged
from memp_mcp.faults import committed, explained, first_line, without_panic
from memp_mcp.files import sync_file, sync_folder
from memp_mcp.models import storable
from memp_mcp.rows import SCHEMAS, Row, TableName, chunks, one_of

lean.few_arenas()
lean.on_demand("lance_namespace_urllib3_client")  # LanceDB needs its models; its clients cost 0.7 s of CPU and 13 MB
os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of one damaged index a dozen times, which is told once here
import lancedb  # noqa: E402 - after that
from lancedb.index import FTS, Bitmap, BTree, IvfRq, IvfSq  # noqa: E402 - after that
from lancedb.query import MatchQuery  # noqa: E402 - after that

VectorColumn = Literal["vector", "phrases"]
METRICS: Mapping[VectorColumn, Literal["cosine", "dot"]] = {"vector": "cosine", "phrases": "dot"}
Table: TypeAlias = Any  # lancedb's annotations contradict what it does: stats() is a dict, a query has no distance_type
T = TypeVar("T")

_log = logging.getLogger(__name__)

pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what it has once used: 27 MB after 200 commits

_KEEP = timedelta(seconds=10)
"""How long a superseded version of a table stays readable; a reader that is later than that starts again."""
_NOW = timedelta(milliseconds=1)
"""Not zero, which makes LanceDB warn on stderr."""
_FRAGMENTS = 32
_VERSIONS = 50
_LOOK_AFTER = 8
"""Versions of a table, after which a look at whether it is untidy is due: each takes LanceDB 5 ms."""
_COMPACTED_AT_ONCE = 50_000
"""Rows; of 10,000 it takes .2 s."""
INDEXED_FROM = 1_000
"""Rows from which on a table has all its indexes; below, only those of full text. A scan of so few costs as little."""
_UNINDEXED = 500
_UNINDEXED_SHARE = 0.05
"""Rows, and share of them, that a search may have to scan beside an index before it is brought up to date."""
_SEGMENTS = 8
"""Of a vector index. Bringing it up to date adds one, and compaction merges no fragments across them."""
_NPROBES = 64
"""Parts of a vector index, of about 8,000 rows each, that a search looks at: all of them up to half a million rows."""
_REFINE = 5
"""A vector index keeps one bit a dimension; so many times more rows than asked for are compared by their vectors."""
_NAMED = 500
"""Ids that one filter names."""
_READ_AT_ONCE = 500
"""Rows, when a whole table is read to see whether it can be."""
_COMMITS_OF_A_SESSION = 100
"""After so many it is connected anew: of the index of each, LanceDB keeps .03 MB beyond what its caches may have."""
_HINT = "latest_version_hint.json"
_UNFINISHED = ".tmp"
"""What LanceDB's name of a file begins with until it is whole."""
PLACE = "_rowid"
"""The column by which a search tells where a row stands."""
_ROW_BITS = 32
"""Of a place; those before them tell the fragment. The number of a fragment is used once."""
_QUERY_CHARACTERS = 4_000
SEARCHED: Mapping[TableName, tuple[str, ...]] = {"procedures": ("doc", "errors"), "trajectories": ("task",)}
_LOOKED_UP: Mapping[TableName, tuple[str, ...]] = {
    "trajectories": ("id",),
    "procedure_versions": ("version_id", "procedure_id", "op_id"),
    "procedures": (),  # none on the id: merges by a key with an index of this kind can insert it twice
    "events": ("id", "procedure_id", "trajectory_id", "recall_id"),
}
_FILTERED: Mapping[TableName, tuple[str, ...]] = {"procedures": ("status", "project")}


class State(NamedTuple):
    """What a table is at a moment; equal ones are of the same moment."""

    latest: tuple[str, str]
    made: str
    """The same as long as changes are all that happens to the table."""


class Findable(NamedTuple):
    """Procedures that can be found by their vectors."""

    columns: dict[str, Any]
    """Numpy arrays of one length."""
    others: frozenset[str]
    """Ids of those that cannot: retired, or without vectors."""
    end: int
    """A place behind all of them, and not behind any that is yet to come."""


class Tables:
    """The tables under one directory; they are opened when first used."""

    def __init__(
        self,
        directory: Path | str,
        *,
        indexed_from: int = INDEXED_FROM,
        max_floats: int = 0,
        metadata_cache: int = 4 << 20,
        seen_after: timedelta = timedelta(0),
    ) -> None:
        """Open them; vectors of up to *max_floats* numbers in all are scanned, and need no index."""
        self._directory = directory
        """Where they are; a text is the URI of an object storage, for `bucket.BucketTables`."""
        self._indexed_from = indexed_from
        self._max_floats = max_floats
        self._opened: dict[TableName, Table] = {}
        self._synced: dict[TableName, set[str]] = {}
        self._touched: set[TableName] = set()
        self._commits = 0
        self._looked_at: dict[TableName, int] = {}
        self._rows_unseen: Counter[TableName] = Counter()
        """Rows, since it was looked."""

        # Every read sees the latest commit of any process. The default caches may grow to 7 GB, and the one of metadata
        # does fill: each commit leaves a version in it that nobody will ask for again.
        def connect() -> Any:
            caches = lancedb.Session(index_cache_size_bytes=64 << 20, metadata_cache_size_bytes=metadata_cache)
            return lancedb.connect(
                directory,
                read_consistency_interval=seen_after,
                session=caches,
                # of LanceDB Cloud and Enterprise (db://) alone; the key it takes from LANCEDB_API_KEY itself
                region=os.environ.get("LANCEDB_REGION", "us-east-1"),
                host_override=os.environ.get("LANCEDB_HOST"),
            )

        self._connect = connect
        self._db: Any = connect()

    # --- there or not

    def exists(self, name: TableName) -> bool:
        """Whether the table was ever committed; it may still be unreadable."""
        return (self._path(name) / "_versions").is_dir()

    def make(self, name: TableName) -> None:
        """Make an empty table with its full-text indexes; throw away what is there, readable or not."""
        self._opened.pop(name, None)
        with explained(self._directory):
            if self._path(name).exists():
                shutil.rmtree(self._path(name))
            self._opened[name] = self._db.create_table(name, schema=SCHEMAS[name])
        self.index(name)

    def index(self, name: TableName, *, only: Collection[str] | None = None) -> None:
        """Build the indexes anew, over every row; or those of *only* these columns."""
        for column, config in self._wanted(name).items():
            if only is None or column in only:
                self._write(name, lambda t, c=column, f=config: t.create_index(c, config=f, replace=True))  # type: ignore[misc] # binds the loop's values

    def _wanted(self, name: TableName) -> dict[str, Any]:
        """What each column is to be indexed by; one that was indexed stays so when rows are taken out."""
        # ICU finds the words of Chinese, Thai …; "split" also finds the parts of snake_case and dotted.names.
        wanted: dict[str, Any] = {
            c: FTS(base_tokenizer="icu/split", with_position=False) for c in SEARCHED.get(name, ())
        }
        large = {**dict.fromkeys(_LOOKED_UP[name], BTree()), **dict.fromkeys(_FILTERED.get(name, ()), Bitmap())}
        if name == "procedures":
            large |= self._wanted_for_vectors()
        if self.count(name) < self._indexed_from:
            here = self.indexed(name)
            large = {column: config for column, config in large.items() if column in here}
        return wanted | large

    def _wanted_for_vectors(self) -> dict[str, Any]:
        schema = self._read("procedures", lambda t: t.schema)
        if "vector" not in schema.names or not self._read("procedures", lambda t: t.count_rows("vector IS NOT NULL")):
            return {}
        dimension = schema.field("vector").type.list_size
        if 2 * dimension * self.count("procedures") <= self._max_floats and "vector" not in self.indexed("procedures"):
            return {}
        kind = IvfSq if dimension % 8 else IvfRq  # RQ packs bits into bytes
        return {column: kind(distance_type=metric) for column, metric in METRICS.items()}

    def columns(self, name: TableName) -> list[str]:
        """Names of the columns that the table has now."""
        return list(self._read(name, lambda t: t.schema.names))

    def indexed(self, name: TableName) -> set[str]:
        """Names of the columns that have an index."""
        return {column for i in self._read(name, lambda t: t.list_indices()) for column in i.columns}

    # --- reading

    def count(self, name: TableName) -> int:
        """Number of rows."""
        return int(self._read(name, lambda t: t.count_rows()))

    def rows(self, name: TableName, columns: Sequence[str], *, where: str = "true") -> list[Row]:
        """The rows that *where* keeps, in no order."""
        return self._read(name, lambda t: t.search().where(where).select(list(columns)).to_arrow().to_pylist())

    def rows_of(
        self, name: TableName, columns: Sequence[str], ids: Collection[str] | None, *, key: str = "id"
    ) -> list[Row]:
        """The rows whose *key* is one of *ids*, which may be any number of them; all when *ids* is None."""
        if ids is None:
            return self.rows(name, columns)
        return [row for chunk in chunks(ids, _NAMED) for row in self.rows(name, columns, where=one_of(key, chunk))]

    def nearest(
        self, vector: Sequence[float], column: VectorColumn, columns: Sequence[str], *, where: str, limit: int
    ) -> list[Row]:
        """Procedures by `_distance`: cosine distance for `vector`, 1 - dot product for `phrases`; nearest first."""
        return self._read(
            "procedures",
            lambda t: (
                t.search(list(vector), vector_column_name=column)
                .distance_type(METRICS[column])
                .where(where)
                .nprobes(_NPROBES)
                .refine_factor(_REFINE)
                .select([*columns, "_distance"])
                .with_row_id(with_row_id=True)
                .limit(limit)
                .to_arrow()
                .to_pylist()
            ),
        )

    def state(self, name: TableName) -> State:
        """What is another after every commit of any process, and what tells whether the table was made anew.

        LanceDB tells the number of the version, but takes ten times as long.
        """
        with explained(self._directory):
            names = [entry.name for entry in self._manifests(name)]
            folder = self._path(name).stat()
        latest = (min(names, default=""), max(names, default=""))  # by naming scheme it is the first or the last
        return State(latest, f"{folder.st_ino}.{folder.st_ctime_ns}")

    def findable(self, columns: Sequence[str], vectors: Collection[VectorColumn], *, since: int = 0) -> Findable:
        """What can be found by its vectors, and where each row stands, for the rows at the place *since* and after it.

        Every change of a row, of whatever kind, puts it behind all others.
        """
        wanted = ["id", "status", *columns, *vectors]
        where = f"{PLACE} >= {since}" if since else "true"
        read = self._read(
            "procedures",
            lambda t: t.search().where(where).select(wanted).with_row_id(with_row_id=True).to_arrow().combine_chunks(),
        )
        shown = pc.not_equal(read["status"], "retired")
        for name in vectors:
            shown = pc.and_(shown, pc.is_valid(read[name]))
        others = frozenset(read["id"].filter(pc.invert(shown)).to_pylist())
        last = max(read[PLACE].to_pylist(), default=-1)
        found = read.filter(shown).combine_chunks() if others else read
        arrays = {c: found[c].to_numpy() for c in ("id", *columns, PLACE)}
        for name in vectors:
            flat = found[name].combine_chunks().flatten().to_numpy()
            # copied: a view would keep the other columns of the batch too
            arrays[name] = flat.reshape(found.num_rows, found.schema.field(name).type.list_size).copy()
        return Findable(arrays, others, max(since, (last >> _ROW_BITS) + 1 << _ROW_BITS))

    def matching(
        self, name: TableName, text: str, column: str, columns: Sequence[str], *, where: str, limit: int
    ) -> list[Row]:
        """Rows by `_score` (BM25), best first. *text* is words, never query syntax."""
        query = MatchQuery(str(storable(text))[:_QUERY_CHARACTERS], column)  # type: ignore[call-arg] # they have defaults
        return self._read(
            name,
            # without _score in the selection LanceDB prints a warning for every query
            lambda t: (
                t.search(query)
                .where(where)
                .select([*columns, "_score"])
                .with_row_id(with_row_id=True)
                .limit(limit)
                .to_arrow()
                .to_pylist()
            ),
        )

    def at(self, name: TableName, places: Sequence[int], columns: Sequence[str]) -> list[Row]:
        """The rows at these places, which a search told as `PLACE`; none where there is none any more."""
        return self._read(name, lambda t: t.take_row_ids(list(places)).select(list(columns)).to_arrow().to_pylist())

    # --- writing

    def add(self, name: TableName, rows: Sequence[Row]) -> None:
        """Append rows, in one commit. Whether their ids are new is the caller's business."""
        if rows:
            self._write(name, lambda t: t.add(pa.Table.from_pylist(rows, schema=SCHEMAS[name])), rows=len(rows))

    def _insert(self, name: TableName, rows: Sequence[Row]) -> int:
        """Append those rows whose key is new, in one commit; how many there were."""
        source = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
        key = SCHEMAS[name].names[0]
        done: list[Any] = []
        self._write(
            name,
            # by an index on the key, two that insert the same new one at once would both do so
            lambda t: done.append(
                t.merge_insert(key).use_index(False).when_not_matched_insert_all().execute(source)  # noqa: FBT003 - LanceDB's own
            ),
            rows=len(rows),
        )
        return int(done[-1].num_inserted_rows)

    def upsert(self, rows: Sequence[Row], *, newer_only: bool = True) -> None:
        """Insert or replace procedures, in one commit; *newer_only* leaves a row that has the revision or a later."""
        if not rows:
            return
        where = "target.revision < source.revision" if newer_only else None

        def merge(table: Table) -> object:
            builder = table.merge_insert("id").when_matched_update_all(where=where).when_not_matched_insert_all()
            # "null": vectors may be missing, and LanceDB takes a NULL for one of a wrong length
            return builder.execute(pa.Table.from_pylist(rows, schema=table.schema), on_bad_vectors="null")

        self._write("procedures", merge, rows=len(rows))

    def replace(self, name: TableName, rows: Sequence[Row]) -> None:
        """Replace rows that are there, by their key, in one commit; columns that are not given stay as they are."""
        if not rows:
            return
        names = [c for c in SCHEMAS[name].names if c in rows[0]]
        source = pa.Table.from_pylist(rows, schema=pa.schema([SCHEMAS[name].field(c) for c in names]))
        self._write(name, lambda t: t.merge_insert(names[0]).when_matched_update_all().execute(source), rows=len(rows))

    def fill_vectors(self, rows: Sequence[Row]) -> None:
        """Set `vector` and `phrases` of procedures that are there, by id, in one commit."""
        if not rows:
            return

        def merge(table: Table) -> object:
            names = ("id", "vector", "phrases")
            schema = pa.schema([table.schema.field(name) for name in names])
            source = pa.Table.from_pylist(rows, schema=schema)
            return table.merge_insert("id").when_matched_update_all().execute(source)

        self._write("procedures", merge, rows=len(rows))

    def give_vectors(self, dimension: int) -> None:
        """Replace the vector columns of the procedures by empty ones of this dimension."""
        old = [c for c in ("vector", "phrases") if c in self.columns("procedures")]
        if old:
            self._write("procedures", lambda t: t.drop_columns(old))
            self._write("procedures", lambda t: t.update(values_sql={"revision": "revision"}))  # see `findable`
        fields = [pa.field(c, pa.list_(pa.float32(), dimension)) for c in ("vector", "phrases")]
        self._write("procedures", lambda t: t.add_columns(fields))

    def delete(self, name: TableName, where: str) -> bool:
        """Take rows out of the table (not yet out of its files: see `erase`); whether there were any."""
        if not self._read(name, lambda t: t.count_rows(where)):
            return False
        self._write(name, lambda t: t.delete(where))
        return True

    def erase(self, name: TableName) -> None:
        """Rewrite the table's files, so that nothing of a deleted row is left in them or in an index."""
        constant = SCHEMAS[name].names[1]
        self._write(name, lambda t: t.update(values_sql={constant: constant}))
        self.index(name)
        self._compact(name, _NOW)

    # --- upkeep

    def settle(self) -> None:
        """Bring what was written since the last call to the disk, and compact the tables that have grown ragged."""
        touched, self._touched = self._touched, set()
        for name in sorted(touched):
            self._sync(name)
            if self._is_due(name) and self._untidy(name):
                self._tidy(name)
        if self._commits >= _COMMITS_OF_A_SESSION:
            self._commits = 0
            # A thread that reads meanwhile has taken its table out of what is replaced here.
            self._db, self._opened = self._connect(), {}

    def has_unsettled(self) -> bool:
        """Whether something was written since `settle`."""
        return bool(self._touched)

    def abandon(self) -> None:
        """Forget what was written since `settle`: the operation failed and is not going to be acknowledged."""
        self._touched.clear()

    def compact(self) -> None:
        """Rebuild the indexes, merge all fragments and drop every superseded version now."""
        for name in SCHEMAS:
            self.index(name)
            self._compact(name, _NOW)

    def fragments(self, name: TableName) -> int:
        """Number of data fragments."""
        return int(self._read(name, lambda t: t.stats())["fragment_stats"]["num_fragments"])

    def versions(self, name: TableName) -> int:
        """Number of versions that are still kept."""
        return sum(1 for _ in self._manifests(name))

    def _is_due(self, name: TableName) -> bool:
        """Whether enough was committed, by whomever, since this process last looked whether the table is untidy."""
        version = int(self._read(name, lambda t: t.version))
        passed = abs(version - self._looked_at.get(name, -_LOOK_AFTER))  # a table made anew begins again with 1
        if passed < _LOOK_AFTER and self._rows_unseen[name] < self._unindexed_at_most() / _LOOK_AFTER:
            return False
        self._looked_at[name], self._rows_unseen[name] = version, 0
        return True

    def _untidy(self, name: TableName) -> bool:
        return self._ragged(name) or self._unindexed(name)

    def _ragged(self, name: TableName) -> bool:
        stats = self._read(name, lambda t: t.stats())
        # Compaction rewrites the whole table: the larger it is, the more commits have to pay for that.
        if stats["fragment_stats"]["num_fragments"] > max(_FRAGMENTS, math.isqrt(stats["num_rows"]) // 4):
            return True
        expired = time.time() - _KEEP.total_seconds()
        return sum(entry.stat().st_mtime < expired for entry in self._manifests(name)) > _VERSIONS

    def _unindexed(self, name: TableName) -> bool:
        """Whether a search has to scan more than an index should leave to it."""
        rows, scanned = self.count(name), self._scanned(name)
        all_of_it = {*_LOOKED_UP[name], *_FILTERED.get(name, ()), *(METRICS if name == "procedures" else ())}
        missing = all_of_it - scanned.keys() if rows >= self._indexed_from else set()
        if missing and missing & self._wanted(name).keys():
            return True
        return max(scanned.values(), default=0) > max(self._unindexed_at_most(), _UNINDEXED_SHARE * rows)

    def _unindexed_at_most(self) -> int:
        return min(_UNINDEXED, self._indexed_from)

    def _scanned(self, name: TableName) -> dict[str, int]:
        """How many rows the index of each column that has one does not know yet."""
        indexes = self._read(name, lambda t: t.list_indices())
        return {column: i.num_unindexed_rows for i in indexes for column in i.columns}

    def _in_many_segments(self, name: TableName) -> set[str]:
        indexes = self._read(name, lambda t: t.list_indices())
        return {column for i in indexes for column in i.columns if i.num_segments > _SEGMENTS}

    def _tidy(self, name: TableName) -> None:
        try:
            scanned, half, many = self._scanned(name), self.count(name) / 2, self._in_many_segments(name)
            # Bringing one up to date keeps the parts that it was divided into when there were fewer rows.
            self.index(name, only={c for c in self._wanted(name) if c in many or scanned.get(c, half) >= half})
            self._compact(name, _KEEP)
            lean.give_back()
        except RuntimeError as error:  # what was asked for is written and safe; the next write tries this again
            _log.warning("Could not compact %s: %s", name, first_line(str(error)))

    def _compact(self, name: TableName, keep: timedelta) -> None:
        """Merge what is in many files; drop the versions that are older than *keep*.

        The new files are to be on the disk before those that they replace are deleted. A small table is compacted long
        before the version that was last synced is old enough for that; what is done twice here costs twice as much.
        """
        table = self._table(name)
        if keep < _KEEP or self.count(name) > _COMPACTED_AT_ONCE:
            table.optimize()
            self._sync(name)
        table.optimize(cleanup_older_than=keep, delete_unverified=False)  # True destroys tables that others write
        self._sync(name)

    def _sync(self, name: TableName) -> None:
        known = self._synced.get(name, set())
        files: set[str] = set()
        for folder, folders, names in os.walk(self._path(name)):
            folders[:] = [f for f in folders if f != "_transactions"]  # no reader needs those
            kept = (n for n in names if not n.endswith(_HINT) and not n.startswith(_UNFINISHED))
            here = {os.path.join(folder, n) for n in kept}  # noqa: PTH118 - 3x the speed
            for path in here - known:
                with suppress(FileNotFoundError):  # compacted away meanwhile
                    sync_file(Path(path))
            if here - known:
                sync_folder(Path(folder))
            files |= here
        self._synced[name] = files

    # --- damage

    def broken_indexes(self, name: TableName) -> list[str]:
        """Columns whose index cannot be read, or is missing though every memory has it."""
        there = self.indexed(name)
        return [
            *(c for c in SEARCHED.get(name, ()) if c not in there),
            *(c for c in sorted(there) if not self._usable(name, c)),
        ]

    def _usable(self, name: TableName, column: str) -> bool:
        key = SCHEMAS[name].names[0]
        try:
            if column in SEARCHED.get(name, ()):
                self.matching(name, "the task", column, [key], where="true", limit=1)
            elif column in METRICS:
                field = self._read(name, lambda t: t.schema.field(column))
                self.nearest([1.0] * field.type.list_size, column, [key], where="true", limit=1)  # type: ignore[arg-type] # METRICS holds no other
            else:
                self.rows(name, [key], where=f"{column} >= ''")  # all of the index
        except StoreDamaged:
            return False
        return True

    def manifests(self, name: TableName) -> list[Path]:
        """What describes each version that is still kept, the latest first."""
        # LanceDB counts down in their names, so that the latest is the first in a listing
        return sorted(Path(entry.path) for entry in self._manifests(name)) if self.exists(name) else []

    def reopen(self, name: TableName) -> None:
        """Look at the table anew: its files were changed by other means."""
        self._opened.pop(name, None)

    def unreadable(self, name: TableName) -> str:
        """Why not all rows can be read, whatever the indexes; empty when all can."""
        try:
            with without_panic():
                for batch in self._read(name, lambda t: t.search().to_batches(_READ_AT_ONCE)):
                    del batch
        except (RuntimeError, OSError, ValueError) as error:  # while it is read, which is later than _read explains
            return first_line(str(error))
        except StoreDamaged as error:
            return first_line(str(error.__cause__))
        return ""

    def salvaged(self, name: TableName, version: int | None = None) -> Iterator[tuple[int, list[Row], bool]]:
        """The fragments of a version, by default the latest: number, the rows that can be read, whether all can."""
        with explained(self._directory):
            table = self._db.open_table(name)
            if version is not None:
                table.checkout(version)
            longest = table.stats()["fragment_stats"]["lengths"]["max"]
            for number in range(table.version + 1):  # a commit adds one at most
                rows, sound = _fragment(table, number << 32, longest)
                if rows or not sound:
                    yield number, rows, sound

    def kept_versions(self, name: TableName) -> list[int]:
        """Numbers of the versions that are still kept, the latest first."""
        return sorted((int(v["version"]) for v in self._read(name, lambda t: t.list_versions())), reverse=True)

    def drop_fragment(self, name: TableName, number: int) -> None:
        """Take a fragment out of the table, readable or not."""
        self._write(name, lambda t: t.delete(f"_rowid >= {number << 32} AND _rowid < {(number + 1) << 32}"))

    # --- how

    def _path(self, name: TableName) -> Path:
        return Path(self._directory) / f"{name}.lance"

    def _manifests(self, name: TableName) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._path(name) / "_versions") as entries:
            yield from (e for e in entries if e.name.endswith(".manifest"))

    def _table(self, name: TableName) -> Table:
        table = self._opened.get(name)
        if table is None:
            table = self._opened[name] = self._db.open_table(name)
        return table

    def _read(self, name: TableName, action: Callable[[Table], T]) -> T:
        with explained(self._directory):
            table = self._table(name)
            try:
                return action(table)
            except RuntimeError as error:
                if "Not found" not in str(error):
                    raise
                table.checkout_latest()  # the version was cleaned up between its opening and its reading
                return action(table)

    def _write(self, name: TableName, action: Callable[[Table], object], *, rows: int = 0) -> None:
        self._touched.add(name)
        self._rows_unseen[name] += rows
        self._commits += 1
        with explained(self._directory):
            table = self._table(name)
            committed(lambda: action(table))


def _fragment(table: Table, first: int, longest: int) -> tuple[list[Row], bool]:
    """The rows of a fragment, which are numbered from *first* on, as far as they can be read; whether all can."""
    rows: list[Row] = []
    sound = True
    for start in range(first, first + longest, _READ_AT_ONCE):
        try:
            with without_panic():
                found = table.take_row_ids(list(range(start, start + _READ_AT_ONCE))).to_list()
        except (RuntimeError, OSError, ValueError):
            sound = False
            continue
        rows += found
        if sound and not found:
            break
    return rows, sound
