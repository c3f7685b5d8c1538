r"""Message lists of Anthropic's Messages API: one JSON document, or JSONL with one conversation a line.

::

    {"system"?: "…", "model"?: "…", "messages": [
        {"role": "user", "content": "…" | [{"type": "text", "text": "…"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "…"} | {"type": "text", "text": "…"} |
            {"type": "tool_use", "id": "toolu_…", "name": "bash", "input": {…}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_…", "content": "…" | [{"type": "text" | "image", …}],
             "is_error"?: true}]}]}

or the list alone. The object may state task, outcome, reward and so on, as an OpenAI-style list may. With a stated task
it is one trajectory, whatever else is asked in it; else each task that the user gives is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from memp_mcp.errors import BadInput
from memp_mcp.models import Trajectory
from memp_mcp.transcripts import own
from memp_mcp.transcripts.claude_code import Message, message_events
from memp_mcp.transcripts.found import Documents, Located, Skipped, reason
from memp_mcp.transcripts.session import About, Event, Prompt, trajectories

_BLOCKS = ("tool_use", "tool_result", "thinking")
_STATED = ("task", "outcome", "feedback", "project", "client", "key")


def recognises(document: object) -> bool:
    """Whether *document* is a conversation in which a message has a block that only this API has."""
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        return False
    blocks = (b for m in messages if isinstance(m.get("content"), list) for b in m["content"])
    return any(isinstance(b, dict) and b.get("type") in _BLOCKS for b in blocks)


def read(documents: Documents, path: Path) -> Iterator[Trajectory | Located | Skipped]:
    """The trajectories of each conversation."""
    for number, document in documents:
        if isinstance(document, Skipped):
            yield document
        elif not recognises(document):
            yield Skipped(path, number, "It is JSON, but not of the format of this file.")
        else:
            yield from _conversation(document if isinstance(document, dict) else {"messages": document}, path, number)


def _conversation(around: dict[str, object], path: Path, number: int) -> Iterator[Trajectory | Located | Skipped]:
    try:
        stated = {name: around[name] for name in _STATED if around.get(name) is not None} | own.stated(around)
        found = trajectories(_events(around, asked=stated.get("task")), client="", path=path)
        for value in found:
            yield _with(value, stated) if stated and isinstance(value, Located) else value
    except (BadInput, ValidationError) as error:
        yield Skipped(path, number, reason(error))


def _events(around: dict[str, object], *, asked: object) -> Iterator[Event]:
    """What the messages tell; a stated task stands in for all that is asked."""
    yield About(model=str(around.get("model") or ""))
    if asked is not None:
        yield Prompt(str(asked))
    messages = around["messages"]
    for message in messages if isinstance(messages, list) else []:
        told = Message.model_validate(message)
        for event in message_events(str(message["role"]), told.content):
            if asked is None or not isinstance(event, Prompt):
                yield event


def _with(located: Located, stated: dict[str, object]) -> Trajectory:
    derived = {"id", "content_hash"}
    fields = {name: value for name, value in located.trajectory if name not in derived}
    return Trajectory.model_validate(fields | stated)
