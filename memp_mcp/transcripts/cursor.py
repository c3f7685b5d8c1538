r"""Cursor's transcripts: ``~/.cursor/projects/<project>/agent-transcripts/<id>/<id>.jsonl``, one message a line.

::

    {"role": "user" | "assistant", "message": {"content": [
        {"type": "text", "text": "…"} | {"type": "thinking", "thinking": "…"} |
        {"type": "tool_use" | "tool_call", "id"?: "…", "name": "Bash", "input": {…}} |
        {"type": "tool_result" | "tool-result", "tool_use_id"?: "…", "content": …}]}}
    {"type": "turn_ended", "status": "success"}

Calls often have no ids, and results name calls that are not told: such a result belongs to the oldest call of its turn
without one. Many versions write no results at all. No moment is told either: what identifies an episode while its
conversation grows is the id of that, which the file is named by, and the prompt's place in it. The conversations in
Cursor's SQLite files are in a form that is not documented, and are not read.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from memp_mcp.errors import BadInput
from memp_mcp.transcripts.found import Documents, Located, Skipped, unknown_type
from memp_mcp.transcripts.session import Call, Event, Result, Said, events, prompt, text_of, trajectories

CLIENT = "cursor"
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Message(BaseModel):
    content: str | list[dict[str, object]]


class _Line(BaseModel):
    role: str
    message: _Message


def recognises(document: object) -> bool:
    """Whether *document* is a message as Cursor writes it; Claude Code's have a type and a session."""
    if not isinstance(document, dict) or not {"role", "message"} <= document.keys() or "sessionId" in document:
        return False
    message = document["message"]
    return isinstance(message, dict) and "content" in message


def read(documents: Documents, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of a conversation."""
    yield from trajectories(events(documents, path, _Conversation(path.stem).events), client=CLIENT, path=path)


class _Conversation:
    """Which calls wait for a result, and how many prompts there were."""

    def __init__(self, name: str) -> None:
        self._id = name if _ID.fullmatch(name) else ""
        self._prompts = 0
        self._number = 0
        self._waiting: deque[str] = deque()

    def events(self, document: object) -> Iterator[Event]:
        """What a line tells."""
        if isinstance(document, dict) and "role" not in document and "type" in document:
            if document["type"] == "turn_ended":
                return
            raise BadInput(unknown_type(document["type"]))
        line = _Line.model_validate(document)
        content = line.message.content
        blocks: list[dict[str, object]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if line.role == "user":
            asked = list(self._asked("\n".join(str(b.get("text", "")) for b in blocks if b.get("type") == "text")))
            yield from asked
            if asked:
                self._waiting.clear()
        for block in blocks:
            yield from self._block(block, line.role)

    def _asked(self, text: str) -> Iterator[Event]:
        self._prompts += 1
        return prompt(text, f"{self._id} {self._prompts}" if self._id else "")

    def _block(self, block: dict[str, object], role: str) -> Iterator[Event]:
        match block.get("type"):
            case "text" | "thinking" as kind if role == "assistant":
                yield Said(str(block.get(kind, "")))
            case "tool_use" | "tool_call":
                self._number += 1
                self._waiting.append(str(block.get("id") or f"call {self._number}"))
                yield Call(self._waiting[-1], str(block.get("name")), block.get("input"))
            case "tool_result" | "tool-result" if self._waiting:
                named = str(block.get("tool_use_id"))
                answered = named if named in self._waiting else self._waiting[0]
                self._waiting.remove(answered)
                yield Result(answered, text_of(block.get("content")))
