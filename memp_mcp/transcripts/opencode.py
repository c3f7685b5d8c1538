r"""opencode's sessions, in the three ways in which it has kept them.

Files, a session being spread over a folder (``~/.local/share/opencode/storage``)::

    session/<project>/ses_….json    {"id": "ses_…", "projectID": "…", "directory": "…", "parentID"?: "ses_…", …}
    message/<session>/msg_….json    {"id": "msg_…", "role": "user" | "assistant", "modelID"?: "…", "summary"?: {…},
                                     "time": {"created": milliseconds}}
    part/<message>/prt_….json       {"type": "text" | "reasoning", "text": "…", "synthetic"?: true} |
                                    {"type": "tool", "callID": "…", "tool": "bash", "state": {
                                        "status": "completed" | "error", "input": {…}, "output"?: "…", "error"?: "…",
                                        "metadata"?: {"exit"?: 0}}} | …

(the oldest have all parts in one folder, with a messageID); a database, ``~/.local/share/opencode/opencode.db``, with
the tables session (id, directory, time_created), message (id, session_id, data) and part (message_id, data), data being
the same JSON; and what ``opencode export`` writes::

    {"info": {session}, "messages": [{"info": {message}, "parts": [{part}, …]}]}

Ids rise with time, those of sessions fall. A session that another one has started (parentID) is a session of its own.
``opencode run`` puts a prompt with a space in it into quotation marks, without which it is read.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from memp_mcp.transcripts.found import Documents, Located, Skipped, Word, reason
from memp_mcp.transcripts.session import About, Call, Event, Result, Said, prompt, text_of, trajectories

CLIENT = "opencode"
SQLITE = b"SQLite format 3\x00"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)


class _State(BaseModel):
    status: Word = ""
    input: object = None
    output: Word = ""
    error: Word = ""
    metadata: object = None


class _Part(BaseModel):
    type: str
    text: Word = ""
    synthetic: object = None
    tool: Word = ""
    callID: Word = ""  # noqa: N815 - the name it has in the file
    state: _State = _State()


class _Info(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Word = ""
    modelID: Word = ""  # noqa: N815 - the name it has in the file
    directory: Word = ""
    summary: object = None
    time: object = None

    @property
    def created(self) -> str:
        """The moment of a message, as it stands there; empty where it does not."""
        moment = self.time.get("created") if isinstance(self.time, dict) else None
        return str(moment or "")

    @property
    def told(self) -> str:
        """The text of a message of which the parts are gone."""
        summary = self.summary if isinstance(self.summary, dict) else {}
        return str(summary.get("body") or summary.get("title") or "")


class _Message(BaseModel):
    info: _Info
    parts: list[object]


class _Session(BaseModel):
    info: _Info
    messages: list[object]


def recognises(document: object) -> bool:
    """Whether *document* is an exported session, or the file of one."""
    if not isinstance(document, dict):
        return False
    if {"id", "projectID", "directory"} <= document.keys():
        return True
    info = document.get("info")
    return isinstance(document.get("messages"), list) and isinstance(info, dict) and "directory" in info


def is_part(path: Path) -> bool:
    """Whether a file is a message or part of a session, which is read by the session's own file."""
    return any(f.name in {"message", "part"} and (f.parent / "session").is_dir() for f in list(path.parents)[:2])


def read(documents: Documents, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of each session."""
    for number, document in documents:
        if isinstance(document, Skipped):
            yield document
            continue
        whole = _collected(document, path) if isinstance(document, dict) and "messages" not in document else document
        try:
            session = _Session.model_validate(whole)
        except ValidationError as error:
            yield Skipped(path, number, reason(error))
            continue
        yield from trajectories(_events(session, path, number), client=CLIENT, path=path)


def sessions(database: Path) -> Iterator[dict[str, object]]:
    """The sessions in a database, as they would be exported.

    Raises:
        sqlite3.Error: it is none of opencode's, or damaged.
    """
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT id, directory FROM session ORDER BY time_created")
        for session_id, folder in found.fetchall():
            messages = connection.execute(
                "SELECT id, data FROM message WHERE session_id = ? ORDER BY id", (session_id,)
            )
            yield {
                "info": {"id": session_id, "directory": folder},
                "messages": [
                    {
                        "info": _json(data),
                        "parts": [
                            _json(part)
                            for (part,) in connection.execute(
                                "SELECT data FROM part WHERE message_id = ? ORDER BY id", (message_id,)
                            )
                        ],
                    }
                    for message_id, data in messages.fetchall()
                ],
            }


def _collected(session: dict[str, Any], path: Path) -> dict[str, object]:
    """A session with what lies beside its file."""
    storage = path.parent.parent.parent
    session_id = Path(str(session.get("id"))).name
    old: dict[object, list[object]] = {}
    for part in _files(storage / "part"):
        old.setdefault(part.get("messageID"), []).append(part)
    messages = []
    for info in _files(storage / "message" / session_id):
        parts = _files(storage / "part" / Path(str(info.get("id"))).name) or old.get(info.get("id"), [])
        messages.append({"info": info, "parts": parts})
    return {"info": session, "messages": messages}


def _files(folder: Path) -> list[dict[str, Any]]:
    found = [_json(file.read_text(encoding="utf-8", errors="replace")) for file in sorted(folder.glob("*.json"))]
    return [f for f in found if isinstance(f, dict)]


def _json(text: object) -> Any:
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError):
        return None


def _events(session: _Session, path: Path, number: int) -> Iterator[Event | Skipped]:
    yield About(folder=session.info.directory)
    for given in session.messages:
        try:
            message = _Message.model_validate(given)
        except ValidationError as error:
            yield Skipped(path, number, reason(error))
            continue
        parts = []
        for part in message.parts:
            try:
                parts.append(_Part.model_validate(part))
            except ValidationError as error:
                yield Skipped(path, number, reason(error))
        yield from _message(message.info, parts)


def _message(info: _Info, parts: list[_Part]) -> Iterator[Event]:
    yield About(model=info.modelID if info.role == "assistant" else "")
    if info.role == "user":
        texts = [p.text for p in parts if p.type == "text" and not p.synthetic]
        yield from prompt(_unquoted("\n".join(texts)) if parts else info.told, info.created)
    for part in parts:
        yield from _part(part, info.role)


def _unquoted(text: str) -> str:
    """What a user gave to ``opencode run``; any other text as it is."""
    quoted = _QUOTED.fullmatch(text) if " " in text else None
    return quoted[1].replace('\\"', '"') if quoted else text


def _part(part: _Part, role: str) -> Iterator[Event]:
    if part.type == "tool":
        state = part.state
        yield Call(part.callID, part.tool, state.input)
        exit_code = state.metadata.get("exit") if isinstance(state.metadata, dict) else None
        failed = exit_code != 0 if isinstance(exit_code, int) else True if state.status == "error" else None
        yield Result(part.callID, text_of(state.output or state.error), failed)
    elif part.type in {"text", "reasoning"} and role == "assistant" and not part.synthetic:
        yield Said(part.text)
