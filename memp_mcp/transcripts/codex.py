r"""Codex's rollouts: ``~/.codex/sessions/YYYY/MM/DD/rollout-<time>-<id>.jsonl``, one line an item.

::

    {"timestamp": "…", "type": "session_meta", "payload": {"id": "…", "cwd": "…", …}}
    {"type": "turn_context", "payload": {"model": "…", "cwd": "…", …}}
    {"type": "response_item", "payload":
        {"type": "message", "role": "user" | "assistant" | "developer", "content": [{"type": "…", "text": "…"}]} |
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "…"}]} |
        {"type": "function_call", "name": "exec_command", "namespace"?: "mcp__server", "arguments": "{…}",
         "call_id": "…"} |
        {"type": "custom_tool_call", "name": "apply_patch" | "exec", "input": "…", "call_id": "…"} |
        {"type": "local_shell_call", "action": {"command": ["bash", "-lc", "…"]}, "call_id": "…"} |
        {"type": "function_call_output" | "custom_tool_call_output", "call_id": "…",
         "output": "…" | {"text": "…"} | [{"text": "…"}]}}
    {"type": "event_msg", "payload":
        {"type": "user_message", "message": "…"} |
        {"type": "exec_command_end", "call_id": "…", "exit_code": 0, "aggregated_output": "…"} |
        {"type": "patch_apply_end", "call_id": "…", "success": true, "stdout": "…", "stderr": "…"} |
        {"type": "mcp_tool_call_end", "call_id": "…", "result": {"Ok": {"isError"?: true, …} | "Err": "…"}} |
        {"type": "item_completed", "item":
            {"type": "CommandExecution" | "McpToolCall" | "FileChange" | "UserMessage", "id": "…", …}}}

There are two shapes. Called directly, a tool is a function_call; an event with the same call id has its exit code and
its plain output. In code mode the agent writes JavaScript (a custom_tool_call named ``exec``) that calls the tools:
they are known by the items completed between that call and its output, and the JavaScript itself is left out; it is a
step only where it called nothing. What the model's turns say twice, as item and as event, is told once.

A sub-agent's rollout is a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from memp_mcp.errors import BadInput
from memp_mcp.transcripts.found import Documents, Located, Skipped, Word, unknown_type
from memp_mcp.transcripts.session import (
    About,
    Call,
    Event,
    Result,
    Said,
    events,
    injected,
    prompt,
    text_of,
    trajectories,
)

CLIENT = "codex"
_TOLD = ("session_meta", "turn_context", "response_item", "event_msg")
_SILENT = ("compacted", "world_state", "token_usage_record", "inter_agent_communication_metadata")


class _Payload(BaseModel):
    """The fields of any item that are read; which of them it has depends on its type."""

    model_config = ConfigDict(extra="allow")

    type: Word = ""
    call_id: Word = ""
    name: Word = ""
    namespace: Word = ""
    role: Word = ""
    message: object = ""
    model: Word = ""
    cwd: Word = ""
    arguments: object = None
    input: object = None
    action: object = None
    summary: object = None
    content: object = None
    output: object = None
    exit_code: object = None
    success: object = None
    aggregated_output: Word = ""
    stdout: Word = ""
    stderr: Word = ""
    result: object = None
    item: object = None


class _Line(BaseModel):
    type: Word
    timestamp: Word = ""
    payload: object = None


def recognises(document: object) -> bool:
    """Whether *document* is a line of a rollout."""
    return isinstance(document, dict) and document.get("type") in _TOLD + _SILENT and "payload" in document


def read(documents: Documents, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of a rollout."""
    yield from trajectories(events(documents, path, _Rollout().events), client=CLIENT, path=path)


class _Rollout:
    """Which calls are known by their items, and which script is running."""

    def __init__(self) -> None:
        self._called: set[str] = set()
        self._script: Call | None = None
        self._at = ""

    def events(self, document: object) -> Iterator[Event]:
        line = _Line.model_validate(document)
        if line.type in _SILENT:
            return
        if line.type not in _TOLD:
            raise BadInput(unknown_type(line.type))
        payload = _Payload.model_validate(line.payload)
        self._at = line.timestamp
        if line.type == "response_item":
            yield from self._item(payload)
        elif line.type == "event_msg":
            yield from self._event(payload)
        else:
            yield About(payload.model, payload.cwd)

    def _item(self, item: _Payload) -> Iterator[Event]:
        match item.type:
            case "message" if item.role == "user":
                yield from prompt(text_of(item.content), self._at)
            case "message" if item.role == "developer":  # what a hook said stands there, too
                yield from injected(text_of(item.content))
            case "message" if item.role == "assistant":
                yield Said(text_of(item.content))
            case "reasoning":
                yield Said(text_of(item.summary))
            case "custom_tool_call" if item.name == "exec":
                self._script = Call(item.call_id, "exec", item.input)
            case "function_call" | "custom_tool_call" | "local_shell_call":
                self._called.add(item.call_id)
                yield _call(item)
            case "function_call_output" | "custom_tool_call_output":
                yield from self._output(item)

    def _output(self, item: _Payload) -> Iterator[Event]:
        if self._script and self._script.call_id == item.call_id:
            if "ALL_TOOLS.filter" not in str(self._script.arguments):  # it only looks up a tool
                yield self._script
            self._script = None
        yield _output(item)

    def _event(self, event: _Payload) -> Iterator[Event]:
        match event.type:
            case "user_message":
                yield from prompt(text_of(event.message), self._at)
            case "exec_command_end":
                failed = event.exit_code != 0 if isinstance(event.exit_code, int) else None
                yield Result(event.call_id, text_of(event.aggregated_output or event.stdout), failed)
            case "patch_apply_end":
                failed = not event.success if isinstance(event.success, bool) else None
                yield Result(event.call_id, text_of(event.stdout or event.stderr), failed)
            case "mcp_tool_call_end":
                yield Result(event.call_id, *_mcp_result(event.result))
            case "item_completed" if isinstance(event.item, dict):
                yield from self._completed(event.item)

    def _completed(self, item: dict[str, object]) -> Iterator[Event]:
        if item.get("type") == "UserMessage":
            yield from prompt(text_of(item.get("content")), self._at)
        done = _DONE.get(str(item.get("type")))
        if done is None:
            return
        call, result = done(str(item.get("id")), item)
        if call.call_id not in self._called:
            self._script = None  # it did something: the calls stand for it
            yield call
        yield result


def _call(item: _Payload) -> Call:
    if item.type == "local_shell_call":
        command = item.action.get("command") if isinstance(item.action, dict) else None
        return Call(item.call_id, "shell", {"command": command})
    name = f"{item.namespace}__{item.name}" if item.namespace else item.name
    arguments = item.input if item.type == "custom_tool_call" else item.arguments
    if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return Call(item.call_id, name, arguments)


def _output(item: _Payload) -> Result:
    """The output of a call; before 0.50 it was JSON in a string, with the exit code beside it."""
    text = text_of(item.output)
    if text.startswith('{"output":'):
        with suppress(ValueError, RecursionError, KeyError, TypeError):
            told = json.loads(text)
            return Result(item.call_id, str(told["output"]), told["metadata"]["exit_code"] != 0)
    return Result(item.call_id, text)


def _mcp_result(result: object) -> tuple[str, bool | None]:
    outcome = result if isinstance(result, dict) else {}
    if "Err" in outcome:
        return str(outcome["Err"]), True
    inner = outcome.get("Ok", outcome)
    told = inner if isinstance(inner, dict) else {}
    return text_of(told.get("content")), True if told.get("isError") is True else None


def _command(call_id: str, item: dict[str, object]) -> tuple[Call, Result]:
    code = item.get("exit_code")
    failed = code != 0 if isinstance(code, int) else None
    return (
        Call(call_id, "exec_command", {"command": item.get("command")}),
        Result(call_id, text_of(item.get("aggregated_output")), failed),
    )


def _mcp(call_id: str, item: dict[str, object]) -> tuple[Call, Result]:
    text, failed = _mcp_result(item.get("result"))
    name = f"mcp__{item.get('server')}__{item.get('tool')}"
    return Call(call_id, name, item.get("arguments")), Result(call_id, text, failed or item.get("status") == "failed")


def _change(call_id: str, item: dict[str, object]) -> tuple[Call, Result]:
    failed = {"completed": False, "failed": True}.get(str(item.get("status")))
    text = text_of(item.get("stdout") or item.get("stderr"))
    return Call(call_id, "apply_patch", item.get("changes")), Result(call_id, text, failed)


_DONE = {"CommandExecution": _command, "McpToolCall": _mcp, "FileChange": _change}
