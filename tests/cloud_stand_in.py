"""A stand-in for LanceDB Cloud and Enterprise on loopback, which answers by a local LanceDB.

It speaks what the remote client of lancedb 0.40 was seen to send, as far as the store uses it, and answers in the
forms that this client reads. What it cannot know is what the real service does. Where that is open, it does the worst
that the protocol allows:

- A read shows the table as old as the request's headers allow (``x-lancedb-min-version``, ``-min-read-version``,
  ``-min-timestamp``), so that whoever needs to see the latest has to ask for it.
- An index is not built when it is asked for, but later: when somebody looks whether it is there. Until then a search by
  words is refused.

It guesses that an update and a merge are atomic, that a conflict is answered with 409, that the key of a schema
(``lance-schema:unenforced-primary-key``) is kept, and that rows stay where they are between two writes. Nothing is
ever cleaned up, and it knows no limits of requests, of sizes or of rows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

import lancedb
import pyarrow as pa
from lancedb.index import FTS, Bitmap, BTree, IvfRq, IvfSq
from lancedb.query import MatchQuery

KEY = "sk_team"
_ARROW = "application/vnd.apache.arrow.file"
_TYPES = {pa.string(): "string", pa.large_string(): "large_string", pa.bool_(): "bool", pa.int64(): "int64"}
_TYPES |= {pa.float32(): "float", pa.float64(): "double", pa.timestamp("us", tz="UTC"): "timestamp:us:UTC"}
_INDEXES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "FTS": lambda asked: FTS(base_tokenizer=asked["base_tokenizer"], with_position=asked["with_position"]),
    "BTREE": lambda _: BTree(),
    "BITMAP": lambda _: Bitmap(),
    "IVF_RQ": lambda asked: IvfRq(distance_type=asked["metric_type"]),
    "IVF_SQ": lambda asked: IvfSq(distance_type=asked["metric_type"]),
}


class Answer(NamedTuple):
    """What a request is answered with."""

    status: int
    body: bytes
    kind: str = "application/json"


class _Fault(NamedTuple):
    """An answer to a request other than what was done."""

    status: int
    done: bool
    """Whether what was asked for is done all the same."""


class Request(NamedTuple):
    """One request, read whole."""

    table: str
    action: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        told: dict[str, Any] = json.loads(self.body or b"{}")
        return told

    @property
    def rows(self) -> pa.Table:
        """The body, where it is a stream of Arrow."""
        return pa.ipc.open_stream(self.body).read_all()


class Cloud:
    """The service: tables in a directory, behind HTTP."""

    uri = "db://team"

    def __init__(self, directory: Path) -> None:
        self._db = lancedb.connect(directory)
        self._shown: dict[str, tuple[int, datetime]] = {}
        """The version of each table that reads are shown, and since when."""
        self._to_build: list[tuple[str, dict[str, Any]]] = []
        self._faults: list[tuple[str, _Fault]] = []
        self._changing = threading.Lock()
        self.fail_each = 0
        """Of so many requests one is answered with 503, and every other one of these is done all the same; 0: none."""
        self._asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        """Listen."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hear nothing any more."""
        self._server.shutdown()
        self._server.server_close()

    def fail(self, action: str, status: int, *, times: int = 1, done: bool = False) -> None:
        """Answer the next requests for *action*, such as ``events/*insert``, with an error; *done*: do it first."""
        self._faults += [(action, _Fault(status, done))] * times

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: of two, the second would wait for the first's receipt

            def do_POST(self) -> None:
                answer = cloud._answer(self.path, self.headers, _read(self))
                self.send_response(answer.status)
                self.send_header("content-type", answer.kind)
                self.send_header("content-length", str(len(answer.body)))
                self.send_header("phalanx-version", "0.6.0")  # by which the client knows how words are asked for
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *told: object) -> None: ...

        return Handler

    def _answer(self, path: str, headers: Any, body: bytes) -> Answer:
        if headers["x-api-key"] != KEY:
            return Answer(401, b"Unauthorized")
        url = urlsplit(path)
        _, _, _, table, action = url.path.rstrip("/").split("/", 4)
        fault = self._fault(f"{table}/{action}")
        if fault and not fault.done:
            return Answer(fault.status, b"so it was ordered")
        answer = self._done(Request(table, action, parse_qs(url.query), headers, body))
        return Answer(fault.status, b"it was done, but you are not told so") if fault else answer

    def _fault(self, action: str) -> _Fault | None:
        with self._changing:
            self._asked += 1
            if self.fail_each and self._asked % self.fail_each == 0:
                return _Fault(503, done=self._asked // self.fail_each % 2 == 0)
            for at, (wanted, fault) in enumerate(self._faults):
                if fnmatchcase(action, wanted):
                    del self._faults[at]
                    return fault
        return None

    def _done(self, request: Request) -> Answer:
        try:
            told = self._act(request)
        except (ValueError, RuntimeError, OSError) as error:
            text = str(error)
            missing = "was not found" in text
            status = 404 if missing else 409 if "ommit conflict" in text else 400 if "lready exists" in text else 500
            return Answer(status, text.encode())
        return told if isinstance(told, Answer) else Answer(200, json.dumps(told).encode())

    def _act(self, request: Request) -> object:  # noqa: C901, PLR0911, PLR0912 - a list of what can be asked for
        name, asked = request.table, request.query
        match request.action:
            case "create":
                self._db.create_table(name, request.rows)
                return {}
            case "drop":
                self._db.drop_table(name)
                self._shown.pop(name, None)
                return {}
            case "describe":
                table = self._seen(request)
                return {"version": table.version, "schema": {"fields": [_field(f) for f in table.schema]}}
            case "count_rows":
                return self._seen(request).count_rows(request.json.get("predicate"))
            case "query":
                return Answer(200, _as_file(_searched(self._seen(request), request.json)), _ARROW)
            case "stats":
                return self._seen(request).stats()
            case "version/list":
                versions = self._db.open_table(name).list_versions()
                return {"versions": [{**v, "timestamp": v["timestamp"].astimezone(UTC).isoformat()} for v in versions]}
            case "index/list":
                self._build(name)
                return {"indexes": [_index(i) for i in self._db.open_table(name).list_indices()]}
            case "create_index":
                self._db.open_table(name)
                self._to_build.append((name, request.json))
                return {}
            case "insert":
                return {"version": self._db.open_table(name).add(request.rows).version}
            case "merge_insert":
                return _merged(self._db.open_table(name), asked, request.rows)
            case "update":
                values = dict(request.json["updates"])
                done = self._db.open_table(name).update(where=request.json["predicate"], values_sql=values)
                return {"rows_updated": done.rows_updated, "version": done.version}
            case "delete":
                return {"version": self._db.open_table(name).delete(request.json["predicate"]).version}
            case "add_columns":
                return {"version": self._db.open_table(name).add_columns(list(request.rows.schema)).version}
            case "drop_columns":
                return {"version": self._db.open_table(name).drop_columns(request.json["columns"]).version}
            case action if action.startswith("index/") and action.endswith("/stats"):
                told = self._db.open_table(name).index_stats(action.split("/")[1])
                return Answer(404, b"no such index") if told is None else {**_stats(told)}
        raise ValueError(f"{request.action} is not known here")

    def _seen(self, request: Request) -> Any:
        """The table, as old as the request allows."""
        table, wanted = self._db.open_table(request.table), request.json.get("version")
        if wanted is None:
            with self._changing:
                version, since = self._shown.get(request.table, (0, datetime.min.replace(tzinfo=UTC)))
                at_least = [request.headers[f"x-lancedb-{h}"] or 0 for h in ("min-version", "min-read-version")]
                moment = request.headers["x-lancedb-min-timestamp"]
                is_late = moment is not None and since < datetime.fromisoformat(moment)
                if not version or is_late or version < max(map(int, at_least)):
                    version = table.version
                    self._shown[request.table] = (version, datetime.now(UTC))
            wanted = version
        table.checkout(wanted)
        return table

    def _build(self, name: str) -> None:
        with self._changing:
            here = [asked for table, asked in self._to_build if table == name]
            self._to_build = [one for one in self._to_build if one[0] != name]
        table = self._db.open_table(name)
        for asked in here:
            table.create_index(asked["column"], config=_INDEXES[asked["index_type"]](asked), replace=True)


def _read(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers["transfer-encoding"] != "chunked":
        return request.rfile.read(int(request.headers["content-length"] or 0))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def _searched(table: Any, asked: dict[str, Any]) -> pa.Table:
    if words := asked.get("full_text_query"):
        [(kind, told)] = words["query"].items()
        if kind != "match":
            raise ValueError(f"words are not searched by {kind} here")
        if not any(told["column"] in index.columns for index in table.list_indices()):
            raise ValueError(f"{told['column']} has no index of words")
        query = table.search(MatchQuery(told["terms"], told["column"]))  # type: ignore[call-arg] # they have defaults
    elif asked["vector"]:
        query = table.search(asked["vector"], vector_column_name=asked["vector_column"])
        query = query.distance_type(asked["distance_type"]).nprobes(asked["nprobes"])
        query = query.refine_factor(asked["refine_factor"])
    else:
        query = table.search()
    if "filter" in asked:
        query = query.where(asked["filter"])
    if "columns" in asked:
        query = query.select(asked["columns"])
    if asked.get("with_row_id"):
        query = query.with_row_id(with_row_id=True)
    return query.limit(min(asked["k"], 1 << 31)).to_arrow()


def _merged(table: Any, asked: dict[str, list[str]], rows: pa.Table) -> dict[str, int]:
    merge = table.merge_insert(asked["on"])
    if asked["when_matched_update_all"] == ["true"]:
        merge = merge.when_matched_update_all(where=asked.get("when_matched_update_all_filt", [None])[0])
    if asked["when_not_matched_insert_all"] == ["true"]:
        merge = merge.when_not_matched_insert_all()
    if asked.get("use_index") == ["false"]:
        merge = merge.use_index(False)  # noqa: FBT003 - LanceDB's own
    done = merge.execute(rows)
    names = ("version", "num_updated_rows", "num_inserted_rows", "num_deleted_rows")
    return {name: getattr(done, name) for name in names}


def _field(field: pa.Field) -> dict[str, Any]:
    told: dict[str, Any] = {"name": field.name, "nullable": field.nullable}
    if field.metadata:
        told["metadata"] = {key.decode(): value.decode() for key, value in field.metadata.items()}
    if pa.types.is_fixed_size_list(field.type):
        inner = {"type": "fixed_size_list", "length": field.type.list_size, "fields": [_field(field.type.value_field)]}
        return {**told, "type": inner}
    return {**told, "type": {"type": _TYPES[field.type]}}


def _index(index: Any) -> dict[str, Any]:
    told = {name: getattr(index, name) for name in ("index_type", "num_indexed_rows", "num_unindexed_rows")}
    return {"index_name": index.name, "columns": index.columns, "num_segments": index.num_segments, **told}


def _stats(stats: Any) -> dict[str, Any]:
    return {name: getattr(stats, name) for name in ("index_type", "num_indexed_rows", "num_unindexed_rows")}


def _as_file(rows: pa.Table) -> bytes:
    sink = BytesIO()
    with pa.ipc.new_file(sink, rows.schema) as file:
        file.write_table(rows)
    return sink.getvalue()
