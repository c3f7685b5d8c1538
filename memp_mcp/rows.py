"""What stands in the tables: schemas, rows, and the filters that ask for them. Values → rows, without LanceDB."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import pyarrow as pa

from memp_mcp.models import Event, Procedure, Trajectory, storable

TableName = Literal["trajectories", "procedure_versions", "procedures", "events"]
Row = dict[str, Any]
T = TypeVar("T")

LIVE = "status != 'retired'"
_TASK_CHARACTERS = 4_000
_KEY = {"lance-schema:unenforced-primary-key": "true"}  # without it, merges of one new key can insert it twice
_MOMENT = pa.timestamp("us", tz="UTC")


def _schema(key: str, **columns: pa.DataType) -> pa.Schema:
    fields = [pa.field(name, kind) for name, kind in columns.items()]
    return pa.schema([pa.field(key, pa.string(), nullable=False, metadata=_KEY), *fields])


_TEXT, _INT = pa.string(), pa.int64()
SCHEMAS: Mapping[TableName, pa.Schema] = {
    "trajectories": _schema(
        "id",
        content_hash=_TEXT,
        created_at=_MOMENT,
        project=_TEXT,
        succeeded=pa.bool_(),
        task=_TEXT,
        body=pa.large_string(),
    ),
    "procedure_versions": _schema(
        "version_id", procedure_id=_TEXT, revision=_INT, op_id=_TEXT, created_at=_MOMENT, body=_TEXT
    ),
    "procedures": _schema(
        "id", revision=_INT, status=_TEXT, project=_TEXT, created_at=_MOMENT, doc=_TEXT, errors=_TEXT, body=_TEXT
    ),
    "events": _schema(
        "id",
        kind=_TEXT,
        procedure_id=_TEXT,
        counted_from=_INT,
        trajectory_id=_TEXT,
        recall_id=_TEXT,
        score=pa.float64(),
        verified=pa.bool_(),
        at=_MOMENT,
        body=_TEXT,
    ),
}
CONTROL = pa.schema([pa.field("id", _TEXT, nullable=False, metadata=_KEY), ("body", _TEXT), ("turn", _INT)])
"""Of the table that `control` keeps beside them on object storage."""


def version_id(procedure: Procedure) -> str:
    """The key of a revision."""
    return f"{procedure.id}@{procedure.revision}"


def trajectory_row(trajectory: Trajectory) -> Row:
    """A row of `trajectories`; the index reads only the first words of a long task."""
    row = {name: getattr(trajectory, name) for name in ("id", "content_hash", "created_at", "project", "succeeded")}
    return {**row, "task": trajectory.task[:_TASK_CHARACTERS], "body": trajectory.model_dump_json()}


def version_row(procedure: Procedure, op_id: str) -> Row:
    """A row of `procedure_versions`, with the operation that wrote it."""
    return {
        "version_id": version_id(procedure),
        "procedure_id": procedure.id,
        "revision": procedure.revision,
        "op_id": op_id,
        "created_at": procedure.created_at,
        "body": procedure.model_dump_json(),
    }


def procedure_row(procedure: Procedure) -> Row:
    """A row of `procedures`, without its vectors."""
    row = {name: getattr(procedure, name) for name in ("id", "revision", "status", "project", "created_at")}
    searched = {"doc": procedure.searched_text, "errors": procedure.searched_errors}
    return {**row, **searched, "body": procedure.model_dump_json()}


def event_row(event: Event) -> Row:
    """A row of `events`."""
    columns = [name for name in SCHEMAS["events"].names if name != "body"]
    return {**{name: getattr(event, name) for name in columns}, "body": event.model_dump_json()}


def quoted(text: str) -> str:
    """The literal that stands for *text* in a filter. No text gets into a filter any other way."""
    return "'" + str(storable(text)).replace("'", "''") + "'"


def one_of(column: str, values: Collection[str]) -> str:
    """The filter that keeps the rows whose *column* is one of *values*; none of them when there are none."""
    return f"{column} IN ({', '.join(quoted(v) for v in sorted(set(values)))})" if values else "false"


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of *size*; the last one may be shorter."""
    chunk: list[T] = []
    for value in values:
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def starts_with(column: str, prefix: str) -> str:
    """The filter that keeps the rows whose *column* begins with *prefix*."""
    return f"starts_with({column}, {quoted(prefix)})"
