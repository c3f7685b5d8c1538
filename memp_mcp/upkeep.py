"""What the tables say about each other: which rows are behind, begun, doubled or astray, and how large it all is.

`procedures` has to show the last revision that `procedure_versions` has of each procedure, and every trajectory its
marker among the events. Reads only, and needs no lock: what others write meanwhile may be told as begun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from memp_mcp.models import Value
from memp_mcp.rows import LIVE, SCHEMAS, TableName
from memp_mcp.tables import Tables

MEND = "Run `memp-mcp repair`."


class StoreSize(Value):
    """How large a memory is."""

    rows: dict[str, int]
    bytes: int
    fragments: dict[str, int]
    versions: dict[str, int]


def size(tables: Tables, directory: Path) -> StoreSize:
    """Rows, fragments and kept versions of each table, and the bytes of the whole directory."""
    return StoreSize(
        rows={name: tables.count(name) for name in SCHEMAS},
        bytes=sum(_file_size(p) for p in directory.rglob("*")),
        fragments={name: tables.fragments(name) for name in SCHEMAS},
        versions={name: tables.versions(name) for name in SCHEMAS},
    )


def heads(tables: Tables, ids: Collection[str] | None = None) -> dict[str, int]:
    """The highest revision of each procedure, or of these, in its history."""
    found: dict[str, int] = {}
    for row in tables.rows_of("procedure_versions", ["procedure_id", "revision"], ids, key="procedure_id"):
        found[row["procedure_id"]] = max(row["revision"], found.get(row["procedure_id"], 0))
    return found


def behind(tables: Tables, ids: Collection[str] | None = None) -> tuple[dict[str, int], dict[str, int]]:
    """The heads, and those of them that the current rows have not reached: a write died in between."""
    if ids is not None and not ids:
        return {}, {}
    latest = heads(tables, ids)
    rows = tables.rows_of("procedures", ["id", "revision"], ids)
    current = {row["id"]: row["revision"] for row in rows}
    return latest, {i: r for i, r in latest.items() if current.get(i, 0) < r}


def is_current(tables: Tables) -> bool:
    """Whether each procedure is shown once, and in its latest revision."""
    ids = [row["id"] for row in tables.rows("procedures", ["id"])]
    return len(ids) == len(set(ids)) and not behind(tables)[1]


def strays(tables: Tables) -> list[str]:
    """Procedures without a history: somebody began to forget them and died."""
    return sorted({row["id"] for row in tables.rows("procedures", ["id"])} - heads(tables).keys())


def unfinished(tables: Tables) -> list[str]:
    """Trajectories that are stored without what was to follow from them: the process died in between."""
    rows = tables.rows("events", ["trajectory_id"], where="kind = 'recorded'")
    recorded = {row["trajectory_id"] for row in rows}
    return sorted(row["id"] for row in tables.rows("trajectories", ["id"]) if row["id"] not in recorded)


def unreadable(tables: Tables) -> dict[TableName, str]:
    """The tables that cannot be read, or not all of them, and why."""
    return {name: reason for name in SCHEMAS if (reason := tables.unreadable(name))}


def damage(tables: Tables) -> list[str]:
    """What keeps the tables from being read and searched, each with the way to mend it."""
    if torn := unreadable(tables):
        return [f"The table {name} cannot be read ({reason}). {MEND}" for name, reason in torn.items()]
    broken = {name: columns for name in SCHEMAS if (columns := tables.broken_indexes(name))}
    return [f"The indexes of {n} on {', '.join(columns)} cannot be used. {MEND}" for n, columns in broken.items()]


def disorder(tables: Tables) -> Iterator[str]:
    """What is wrong in tables that can be read, each with the way to mend it."""
    for name in SCHEMAS:
        yield from _doubled(tables, name)
    if late := behind(tables)[1]:
        yield f"{len(late)} procedures are shown in an old revision: {_some(late)}. {MEND}"
    if astray := strays(tables):
        yield f"{len(astray)} procedures have no history, as if half forgotten: {_some(astray)}. {MEND}"
    if begun := unfinished(tables):
        yield (
            f"{len(begun)} trajectories were stored by a process that died before it learnt from them: "
            f"{_some(begun)}. Record them again, or run `memp-mcp repair`."
        )


def without_vectors(tables: Tables) -> Iterator[str]:
    """That procedures have no vector, with the way to mend it."""
    if "vector" in tables.columns("procedures"):
        bare = [row["id"] for row in tables.rows("procedures", ["id"], where=f"vector IS NULL AND {LIVE}")]
        if bare:
            yield f"{len(bare)} procedures have no vector: {_some(bare)}. {MEND}"


def _doubled(tables: Tables, name: TableName) -> Iterator[str]:
    key = SCHEMAS[name].names[0]
    twice = [i for i, n in Counter(row[key] for row in tables.rows(name, [key])).items() if n > 1]
    if twice:
        yield f"{len(twice)} ids are in {name} more than once, such as {twice[0]}. {MEND}"


def _some(ids: Iterable[str]) -> str:
    first = sorted(ids)[:4]
    return ", ".join(first[:3]) + (" …" if len(first) > 3 else "")


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # compacted away by another process meanwhile
        return 0
