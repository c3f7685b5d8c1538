r"""Gemini CLI's sessions: ``~/.gemini/tmp/<project>/chats/session-*.json``, or .jsonl since 0.40.

One document::

    {"sessionId": "…", "projectHash": "…", "directories"?: ["…"], "messages": [
        {"id": "…", "type": "user", "content": "…" | [{"text": "…"}]},
        {"id": "…", "type": "gemini", "content": "…", "model": "…", "thoughts": [{"subject"?: "…", "description": "…"}],
         "toolCalls"?: [{"id": "…", "name": "run_shell_command", "args": {…}, "resultDisplay": …,
                         "status": "success" | "error" | "cancelled",
                         "result": [{"functionResponse": {"response": {"output" | "error": "…"}}}]}]}]}

or lines: a header without messages; then the same messages, each written again whenever it changes, so that the last
line with an id counts; ``{"$set": {…}}`` with other fields, among them the messages that the model is shown, which
replace nothing that happened; and ``{"$rewindTo": "id"}``, after which that message and all later ones are void. The
report of a shell says since 0.61 only of a command that failed how it ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from memp_mcp.transcripts.found import Documents, Located, Skipped, Word, reason
from memp_mcp.transcripts.session import About, Call, Event, Result, Said, prompt, text_of, trajectories

CLIENT = "gemini-cli"
_EXIT_CODE = re.compile(r"^Exit Code: (-?\d+)\s*$", re.MULTILINE)
_SHELL = "run_shell_command"
_REPORT = "Output: "
_ENDED = re.compile(r"^(?:Exit Code|Error|Signal): ", re.MULTILINE)
_UNTRUSTED = re.compile(r"\A\s*<untrusted_context>\n?|\n?</untrusted_context>\s*(?=\Z|<hook_context>)")


class _ToolCall(BaseModel):
    id: Word = ""
    name: str
    args: object = None
    status: Word = ""
    result: object = None


class _Message(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    id: str
    type: str
    timestamp: Word = ""
    model: Word = ""
    content: object = None
    parts: object = None
    thoughts: list[dict[str, object]] | None = None
    tool_calls: list[_ToolCall] | None = None


def recognises(document: object) -> bool:
    """Whether *document* is a session, or the header or a message of one."""
    if not isinstance(document, dict):
        return False
    if "projectHash" in document and "sessionId" in document:
        return True
    return document.get("type") == "gemini" and "id" in document and "content" in document


def read(documents: Documents, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of a session."""
    happened: dict[str, list[Event]] = {}
    for number, document in documents:
        if isinstance(document, Skipped) or not isinstance(document, dict):
            yield document if isinstance(document, Skipped) else Skipped(path, number, "It is no object.")
            continue
        _rewind(happened, document.get("$rewindTo"))
        if isinstance(folders := document.get("directories"), list) and folders:
            happened[""] = [About(folder=str(folders[0]))]
        for message in _messages(document):
            try:
                told = _Message.model_validate(message)
                happened[told.id] = list(_events(told))
            except ValidationError as error:
                yield Skipped(path, number, reason(error))
    told_events = (event for message in happened.values() for event in message)
    yield from trajectories(told_events, client=CLIENT, path=path)


def _rewind(happened: dict[str, list[Event]], target: object) -> None:
    """Forget a message and all later ones."""
    ids = list(happened)
    for void in ids[ids.index(target) :] if isinstance(target, str) and target in ids else ():
        del happened[void]


def _messages(document: dict[str, object]) -> list[object]:
    """The messages of a document: of a whole session, of its update, or the line itself."""
    update = document.get("$set")
    inner = update if isinstance(update, dict) else document
    if isinstance(messages := inner.get("messages"), list):
        return messages
    return [document] if "id" in document and "type" in document else []


def _events(message: _Message) -> Iterator[Event]:
    content = message.content if message.content is not None else message.parts
    if message.type == "user":
        yield from parts_events([content] if isinstance(content, str) else content, by_user=True, at=message.timestamp)
    elif message.type in {"gemini", "model"}:
        yield About(message.model)
        for thought in message.thoughts or []:
            yield Said(str(thought.get("description") or thought.get("subject") or ""))
        yield Said(text_of(content))
        for call in message.tool_calls or []:
            yield Call(call.id, call.name, call.args)
            results = list(parts_events(call.result, by_user=True))
            text = "\n".join(r.text for r in results if isinstance(r, Result))
            failed = True if call.status in {"error", "cancelled"} else report_failed(call.name, text)
            yield Result(call.id, text, failed)


def parts_events(parts: object, *, by_user: bool, at: str = "") -> Iterator[Event]:
    """What the parts of a message in the Gemini API's form tell."""
    texts: list[str] = []
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            continue
        elif isinstance(call := part.get("functionCall"), dict):
            yield Call(str(call.get("id")), str(call.get("name")), call.get("args"))
        elif isinstance(answer := part.get("functionResponse"), dict):
            yield _response(answer)
        elif by_user:
            texts.append(text_of([part]))
        else:
            yield Said(text_of([part]))
    yield from prompt("\n".join(texts), at)


def _response(answer: dict[str, object]) -> Result:
    response = answer.get("response")
    told = response if isinstance(response, dict) else {}
    error = told.get("error")
    text = _trusted(text_of(told.get("output") if error is None else error))
    return Result(str(answer.get("id")), text, exit_failed(text) if error is None else True)


def exit_failed(text: object) -> bool | None:
    """Whether a shell's report says that the command failed; None where it names no exit code."""
    found = _EXIT_CODE.findall(text) if isinstance(text, str) else []
    return int(found[-1]) != 0 if found else None


def report_failed(tool: str, text: str) -> bool | None:
    """Whether what a tool returned says that a command failed; None where that tells nothing of it."""
    failed = exit_failed(text)
    if failed is None and tool == _SHELL and _trusted(text).startswith(_REPORT) and not _ENDED.search(text):
        return False
    return failed


def _trusted(text: str) -> str:
    """The text without what marks it off as somebody else's."""
    return _UNTRUSTED.sub("", text)
