r"""Qwen Code's sessions: ``~/.qwen/projects/<folder>/chats/<session>.jsonl``, one line an event.

::

    {"uuid": "…", "parentUuid": "…" | null, "sessionId": "…", "cwd": "…", "version": "…",
     "type": "user" | "assistant" | "tool_result" | "system", "subtype"?: "rewind" | "ui_telemetry" | …, "model"?: "…",
     "message"?: {"role": "user" | "model", "parts": [
        {"text": "…", "thought"?: true} |
        {"functionCall": {"id": "…", "name": "run_shell_command", "args": {…}}} |
        {"functionResponse": {"id": "…", "name": "…", "response": {"output" | "error": "…"}}}]},
     "toolCallResult"?: {"callId": "…", "status": "success" | "error", "resultDisplay": "…" | {"exitCode": 0, …}},
     "systemPayload"?: {"displayText"?: "what the user typed", …}}

The lines are a tree by uuid and parentUuid; a rewind leaves a dead branch, which is not read. Several lines may share
a uuid. Tools of MCP servers are called through a bridge: ``tool_call({"name": "mcp__…", "arguments": {…}})``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from memp_mcp.transcripts.found import Documents, Located, Skipped, Word, reason, unknown_type
from memp_mcp.transcripts.gemini_cli import exit_failed, parts_events
from memp_mcp.transcripts.session import About, Call, Event, Result, injected, prompt, text_of, trajectories
from memp_mcp.transcripts.tree import Node, living

CLIENT = "qwen-code"
_TYPES = ("user", "assistant", "tool_result", "system")


class _Line(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    type: str
    uuid: str
    parent_uuid: str | None = None
    timestamp: Word = ""
    cwd: Word = ""
    model: Word = ""
    subtype: Word = ""
    message: dict[str, object] | None = None
    tool_call_result: dict[str, object] | None = None
    system_payload: object = None


def recognises(document: object) -> bool:
    """Whether *document* is a line of a session of Qwen Code; Claude Code's lines have no parts."""
    if not isinstance(document, dict) or document.get("type") not in _TYPES or "parentUuid" not in document:
        return False
    message = document.get("message")
    return isinstance(message, dict) and "parts" in message


def read(documents: Documents, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of a session."""
    nodes: dict[str, Node] = {}
    for number, document in documents:
        if isinstance(document, Skipped):
            yield document
            continue
        try:
            line = _Line.model_validate(document)
        except ValidationError as error:
            yield Skipped(path, number, reason(error))
            continue
        if line.type not in _TYPES:
            yield Skipped(path, number, unknown_type(line.type))
        node = nodes.setdefault(line.uuid, Node(line.uuid, line.parent_uuid))
        node.events += _events(line)
    yield from trajectories(living(list(nodes.values())), client=CLIENT, path=path)


def _events(line: _Line) -> Iterator[Event]:
    if line.type not in {"user", "assistant", "tool_result"} or line.subtype == "notification":
        return
    yield About(line.model, line.cwd)
    parts = (line.message or {}).get("parts")
    displayed = line.system_payload.get("displayText") if isinstance(line.system_payload, dict) else None
    if line.type == "user" and isinstance(displayed, str):
        yield from prompt(displayed, line.timestamp)
        yield from injected(text_of(parts))
        return
    failed = _failed(line.tool_call_result or {})
    for event in parts_events(parts, by_user=line.type == "user", at=line.timestamp):
        match event:
            case Call(call_id, "tool_call", {"name": str(name), "arguments": arguments}):
                yield Call(call_id, name, arguments)
            case Result(call_id, text, told):
                yield Result(call_id, text, told if failed is None else failed)
            case _:
                yield event


def _failed(result: dict[str, object]) -> bool | None:
    shown = result.get("resultDisplay")
    code = shown.get("exitCode") if isinstance(shown, dict) else None
    if isinstance(code, int):
        return code != 0
    return True if result.get("status") == "error" else exit_failed(shown)
