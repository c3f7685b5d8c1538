r"""Claude Code's sessions: ``~/.claude/projects/<folder with - for />/<session>.jsonl``, one line an event.

::

    {"type": "user", "uuid": "…", "parentUuid": "…" | null, "sessionId": "…", "cwd": "…", "isSidechain": false,
     "isMeta"?: true, "isCompactSummary"?: true, "isVisibleInTranscriptOnly"?: true, "agentId"?: "…",
     "message": {"role": "user", "content": "prompt" | [
        {"type": "text", "text": "…"} |
        {"type": "tool_result", "tool_use_id": "…", "is_error"?: true,
         "content": "…" | [{"type": "text" | "image", …}]}]}}
    {"type": "assistant", …, "isApiErrorMessage"?: true, "message": {"id": "msg_…", "model": "…", "content": [
        {"type": "thinking", "thinking": "…"} | {"type": "text", "text": "…"} |
        {"type": "tool_use", "id": "toolu_…", "name": "Bash", "input": {…}}]}}
    {"type": "attachment", …, "attachment": {"type": "hook_additional_context" | …, "content": ["what a hook said"]}}
    {"type": "system", "subtype": "compact_boundary", "uuid": "…", "parentUuid": null, "logicalParentUuid": "…", …}

The lines are a tree by uuid and parentUuid. One message of the agent takes several lines, one a block, with the same
message id; the results of parallel calls hang on different lines of it. Going back in the conversation leaves a dead
branch, which is not read. After a compaction the tree begins anew, and the session goes on. Lines of a sub-agent
(isSidechain) are a session of their own, in this file or in ``<session>/subagents/agent-<id>.jsonl``.

What the client writes for itself (isMeta, summaries, API errors, the model ``<synthetic>``, many types of lines) tells
nothing about the task.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from memp_mcp.transcripts.found import Documents, Located, Skipped, Word, reason, unknown_type
from memp_mcp.transcripts.session import About, Call, Event, Result, Said, injected, prompt, text_of, trajectories
from memp_mcp.transcripts.tree import Node, living

CLIENT = "claude-code"
_TOLD = ("user", "assistant")
_SILENT = {
    "agent-name", "agent-setting", "ai-title", "api-request", "api-request-blob", "api-request-shape", "atis-latch",
    "attachment", "bridge-session", "cost-state", "custom-title", "file-history-delta", "file-history-snapshot",
    "frame-link", "last-prompt", "mode", "permission-mode", "pr-link", "progress", "queue-operation", "relocated",
    "result", "started", "summary", "system", "tag", "tools-used", "worktree-state",
}  # fmt: skip
"""Lines that are the client's own; what else there is in a later version is passed over and counted."""


class Message(BaseModel):
    """A message as the Messages API has it."""

    id: Word = ""
    model: Word = ""
    content: str | list[dict[str, object]]


class _Line(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    type: str
    uuid: str
    parent_uuid: str | None = None
    timestamp: Word = ""
    cwd: Word = ""
    agent_id: Word = ""
    subtype: Word = ""
    is_sidechain: bool = False
    is_meta: bool = False
    is_compact_summary: bool = False
    is_visible_in_transcript_only: bool = False
    is_api_error_message: bool = False
    message: object = None
    attachment: object = None

    @property
    def is_the_clients(self) -> bool:
        own = self.is_meta or self.is_compact_summary or self.is_visible_in_transcript_only
        return own or self.is_api_error_message or self.type not in _TOLD


def recognises(document: object) -> bool:
    """Whether *document* is a line in which the user or the agent speaks."""
    if not isinstance(document, dict) or document.get("type") not in _TOLD or "sessionId" not in document:
        return False
    message = document.get("message")
    return isinstance(message, dict) and "content" in message


def read(documents: Documents, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of a session, then those of each sub-agent in it."""
    chains: dict[str, list[Node]] = {}
    roots: dict[str, str] = {}
    for number, document in documents:
        if isinstance(document, Skipped):
            yield document
        elif not isinstance(document, dict) or not isinstance(document.get("type"), str):
            yield Skipped(path, number, "It is JSON, but not of the format of this file.")
            continue
        elif document["type"] not in _TOLD and document["type"] not in _SILENT:
            yield Skipped(path, number, unknown_type(document["type"]))
        if isinstance(document, dict) and "uuid" in document:
            try:
                line = _Line.model_validate(document)
                chains.setdefault(_chain(line, roots), []).append(_node(line))
            except ValidationError as error:
                yield Skipped(path, number, reason(error))
    for nodes in chains.values():
        yield from trajectories(living(nodes), client=CLIENT, path=path)


def _chain(line: _Line, roots: dict[str, str]) -> str:
    """Which session a line belongs to: the main one, or that of a sub-agent by its id or its first line."""
    if not line.is_sidechain:
        return ""
    root = line.agent_id or roots.get(line.parent_uuid or "", line.uuid)
    roots[line.uuid] = root
    return root


def _node(line: _Line) -> Node:
    node = Node(line.uuid, line.parent_uuid, resumes=line.subtype == "compact_boundary")
    if isinstance(line.attachment, dict) and line.attachment.get("type") == "hook_additional_context":
        node.events = list(injected(text_of(line.attachment.get("content"))))
    if not line.is_the_clients:
        message = Message.model_validate(line.message)
        if message.model != "<synthetic>":
            node.message = message.id
            node.events = [About(message.model, line.cwd), *message_events(line.type, message.content, line.timestamp)]
    return node


def message_events(who: str, content: str | list[dict[str, object]], at: str = "") -> Iterator[Event]:
    """What the blocks of a message tell; of a person's all texts are one prompt."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if who == "user":
        yield from prompt("\n".join(str(b.get("text", "")) for b in blocks if b.get("type") == "text"), at)
    for block in blocks:
        match block.get("type"):
            case "text" | "thinking" as kind if who == "assistant":
                yield Said(str(block.get(kind, "")))
            case "tool_use":
                yield Call(str(block.get("id")), str(block.get("name")), block.get("input"))
            case "tool_result":
                failed = True if block.get("is_error") is True else None
                yield Result(str(block.get("tool_use_id")), text_of(block.get("content")), failed)
