r"""OpenAI-style message lists: one JSON document, or JSONL with one conversation a line.

Either the list itself or an object around it, which may state the fields of a Trajectory other than its steps; its
other fields are left alone::

    {"messages": [
        {"role": "system" | "developer" | "user", "content": "…"},
        {"role": "assistant", "content": "thought", "tool_calls": [
            {"id": "call_1", "function": {"name": "bash", "arguments": "{\"command\": \"ls\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "observation"}],
     "task"?, "outcome"?, "reward"?, "feedback"?, "script"?, "project"?, "client"?, "model"?, "key"?}

`content` is a string or a list of ``{"type": "text", "text": "…"}``; an image leaves a mark, other parts nothing. The
task is the first user message: all of it when it is short, else its first paragraph.

An action is a tool call, written ``bash: ls`` when its only argument is a string, else ``name({"json":"arguments"})``.
Where an assistant calls no tool, ReAct text is read: its only fenced shell block (as mini-swe-agent writes it) or its
``Action:`` line is the action, what stands before that is the thought, and the next message of the user is the
observation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from memp_mcp.errors import BadInput
from memp_mcp.models import Step, Trajectory
from memp_mcp.transcripts import own
from memp_mcp.transcripts.session import action_text, task_of, text_of

_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_STATED = ("task", "outcome", "feedback", "project", "client", "model", "key")
_SHELL_BLOCK = re.compile(r"^```(?:[\w-]*bash\w*|sh|shell)[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ACTION_LABEL = re.compile(r"^[ \t]*action(?: \d+)?:\s*", re.IGNORECASE | re.MULTILINE)
_ACTION_END = re.compile(r"\n[ \t\r]*(?:\n|observation)", re.IGNORECASE)
_INPUT_LABEL = re.compile(r"\n[ \t]*action input(?: \d+)?:[ \t]*", re.IGNORECASE)
_THOUGHT_LABEL = re.compile(r"\s*thought(?: \d+)?:\s*", re.IGNORECASE)


class _Function(BaseModel):
    name: str
    arguments: object = ""


class _Call(BaseModel):
    id: str | None = None
    function: _Function


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)

    role: str
    content: object = None
    reasoning_content: object = None
    tool_calls: tuple[_Call, ...] | None = None
    tool_call_id: str | None = None


@dataclass
class _Draft:
    """A step whose observation may still come; without a call id it was an action in ReAct text."""

    action: str
    thought: str
    call_id: str | None
    observation: str = ""


def recognises(document: object) -> bool:
    """Whether *document* is a list of messages, or an object around one."""
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not messages:
        return False
    first = messages[0]
    return isinstance(first, dict) and isinstance(first.get("role"), str) and first["role"] in _ROLES


def parts(document: object) -> list[object]:
    """One conversation is one trajectory."""
    return [document]


def parse(document: object, source: str) -> Trajectory:
    """Read one conversation.

    Raises:
        BadInput: nobody asks for anything in it, or nothing is done.
        pydantic.ValidationError: a message or a stated field cannot be used.
    """
    around: dict[str, Any] = document if isinstance(document, dict) else {"messages": document}
    messages = [_Message.model_validate(message) for message in around["messages"]]
    fields = {name: around[name] for name in _STATED if around.get(name) is not None}
    fields.setdefault("task", _task(messages))
    steps = [
        Step(action=d.action, observation=d.observation, thought=d.thought)
        for d in _drafts(messages)
        if d.action.strip()
    ]
    if not steps:
        raise BadInput("There is no tool call and no other action in it.")
    return Trajectory.model_validate({"source": source, **fields, **own.stated(around), "steps": steps})


def _task(messages: list[_Message]) -> str:
    task = next((task_of(text_of(m.content)) for m in messages if m.role == "user"), "")
    if not task:
        raise BadInput("There is no message of a user that could be the task; state one as 'task'.")
    return task


def _drafts(messages: list[_Message]) -> list[_Draft]:
    drafts: list[_Draft] = []
    waiting: list[_Draft] = []
    for message in messages:
        if message.role == "assistant":
            actions = _actions(message)
            waiting = [draft for draft in waiting if draft.call_id is not None] + actions
            drafts += actions
        elif message.role in {"tool", "function", "user"}:
            _answer(waiting, message)
    return drafts


def _actions(message: _Message) -> list[_Draft]:
    thought = text_of(message.content).strip() or text_of(message.reasoning_content).strip()
    if not message.tool_calls:
        return _react(thought)
    drafts = [
        _Draft(action_text(call.function.name, call.function.arguments), "", call.id or "")
        for call in message.tool_calls
    ]
    drafts[0].thought = thought
    return drafts


def _answer(waiting: list[_Draft], message: _Message) -> None:
    """Give an observation to the call that it names, or else to the oldest action that could have caused it."""
    wanted = message.tool_call_id
    if message.role == "user":
        fits = [draft for draft in waiting if draft.call_id is None]
    else:
        named = [draft for draft in waiting if wanted and draft.call_id == wanted]
        fits = named or [draft for draft in waiting if not wanted or not draft.call_id]
    if fits:
        fits[0].observation = text_of(message.content)
        waiting.remove(fits[0])


def _react(text: str) -> list[_Draft]:
    blocks = list(_SHELL_BLOCK.finditer(text))
    if len(blocks) == 1:
        start, action = blocks[0].start(), blocks[0][1]
    elif not blocks and (label := _ACTION_LABEL.search(text)):
        start, action = label.start(), _INPUT_LABEL.sub(": ", _ACTION_END.split(text[label.end() :], maxsplit=1)[0])
    else:
        return []
    return [_Draft(action.strip(), _THOUGHT_LABEL.sub("", text[:start], count=1).strip(), None)]
