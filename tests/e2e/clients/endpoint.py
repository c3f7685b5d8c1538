"""A model that says what it was told to say, behind the four wire formats that the clients speak.

Anthropic Messages (Claude Code), OpenAI Responses (Codex), Chat Completions (Qwen Code, opencode) and Gemini's
streamGenerateContent (Gemini CLI), each as a stream of server-sent events. The script is a list of turns. Which turn is
due is read off the request itself: one for each tool result in it since the last prompt.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Json = dict[str, Any]


class Call(NamedTuple):
    """A tool that the model calls."""

    tool: str
    arguments: Mapping[str, object]


Turn = str | Call
"""What the model does: it says something and is done, or it calls a tool."""


class Model:
    """An endpoint on a free port of the loopback interface."""

    def __init__(self) -> None:
        self.requests: list[Json] = []
        """The bodies of all requests that offer tools, in order: those of the session itself."""
        self._script: Sequence[Turn] = ()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="model", daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def will_do(self, *turns: Turn) -> None:
        """Forget what was asked so far, and do this from now on."""
        self.requests.clear()
        self._script = turns

    def answer(self, path: str, body: Json) -> Iterator[tuple[str, Json]]:
        """The events of the answer to a request, with their names."""
        form = _FORMATS[_ending(path)]
        if not body.get("tools"):
            return form("A title", body, 0)
        self.requests.append(body)
        place = _results(body)
        turn = self._script[place] if place < len(self._script) else "There is nothing more to do."
        return form(turn, body, place)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def conversation(body: Json) -> list[Json]:
    """The messages of a request, without the tools that it offers."""
    messages: list[Json] = body.get("messages") or body.get("input") or body.get("contents") or []
    return messages


def _results(body: Json) -> int:
    """How many results of tools the model has been shown since the last prompt."""
    messages = conversation(body)
    last = max((i for i, message in enumerate(messages) if _is_prompt(message)), default=0)
    return sum(_results_in(message) for message in messages[last:])


def _results_in(message: Json) -> int:
    if message.get("role") == "tool" or str(message.get("type", "")).endswith("_call_output"):
        return 1
    content = message.get("parts") or message.get("content")
    blocks = content if isinstance(content, list) else []
    return sum(isinstance(b, dict) and (b.get("type") == "tool_result" or "functionResponse" in b) for b in blocks)


def _is_prompt(message: Json) -> bool:
    return message.get("role") == "user" and PROMPT_MARK in json.dumps(message)


PROMPT_MARK = "Please: "
"""How a prompt of the tests begins; clients put many things of their own into messages of the user."""


def _messages(turn: Turn, body: Json, place: int) -> Iterator[tuple[str, Json]]:
    usage = {"input_tokens": 10, "output_tokens": 10}
    message: Json = {
        "id": f"msg_{place}", "type": "message", "role": "assistant", "model": body.get("model"), "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    yield "message_start", {"message": message}
    if isinstance(turn, str):
        yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": turn}}
    else:
        block = {"type": "tool_use", "id": f"toolu_{place:024}", "name": turn.tool, "input": {}}
        yield "content_block_start", {"index": 0, "content_block": block}
        told = json.dumps(turn.arguments)
        yield "content_block_delta", {"index": 0, "delta": {"type": "input_json_delta", "partial_json": told}}
    yield "content_block_stop", {"index": 0}
    reason = "end_turn" if isinstance(turn, str) else "tool_use"
    yield "message_delta", {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 10}}
    yield "message_stop", {}


def _responses(turn: Turn, body: Json, place: int) -> Iterator[tuple[str, Json]]:
    response: Json = {"id": f"resp_{place}", "object": "response", "model": body.get("model"), "output": []}
    if isinstance(turn, str):
        text = {"type": "output_text", "text": turn, "annotations": []}
        item = {"id": f"item_{place}", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    else:
        namespace, _, name = turn.tool.rpartition("/")
        item = {
            "id": f"item_{place}", "type": "function_call", "status": "completed", "call_id": f"call_{place:024}",
            "name": name, "arguments": json.dumps(turn.arguments), **({"namespace": namespace} if namespace else {}),
        }  # fmt: skip
    yield "response.created", {"response": response | {"status": "in_progress"}}
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    usage = {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20}
    yield "response.completed", {"response": response | {"status": "completed", "output": [item], "usage": usage}}


def _completions(turn: Turn, body: Json, place: int) -> Iterator[tuple[str, Json]]:
    head = {"id": f"chatcmpl_{place}", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
    if isinstance(turn, str):
        delta: Json = {"role": "assistant", "content": turn}
    else:
        function = {"name": turn.tool, "arguments": json.dumps(turn.arguments)}
        call = {"index": 0, "id": f"call_{place:024}", "type": "function", "function": function}
        delta = {"role": "assistant", "content": None, "tool_calls": [call]}
    yield "", head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    reason = "stop" if isinstance(turn, str) else "tool_calls"
    yield "", head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    yield "", head | {"choices": [], "usage": usage}


def _generations(turn: Turn, body: Json, place: int) -> Iterator[tuple[str, Json]]:
    call = None if isinstance(turn, str) else {"id": f"call_{place:024}", "name": turn.tool, "args": turn.arguments}
    part = {"text": turn} if call is None else {"functionCall": call}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 10, "totalTokenCount": 20}
    candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    yield "", {"candidates": [candidate], "usageMetadata": usage}


_FORMATS = {
    "/v1/messages": _messages,
    "/v1/responses": _responses,
    "/v1/chat/completions": _completions,
    ":streamGenerateContent": _generations,
}


def _ending(path: str) -> str:
    """What a path ends with, of what is answered as a model does; nothing if it is another path."""
    return next((ending for ending in _FORMATS if path.endswith(ending)), "")


def _handler(model: Model) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        asked = model

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: Model

    def do_POST(self) -> None:
        """Answer as the model does; whatever else a client posts is of no interest."""
        path = self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if not _ending(path):
            self._send("application/json", b'{"input_tokens": 10}')
            return
        lines = []
        for name, event in self.asked.answer(path, body):
            head, told = (f"event: {name}\n", {"type": name} | event) if name else ("", event)
            lines.append(f"{head}data: {json.dumps(told)}\n\n")
        lines += ["data: [DONE]\n\n"] if path == "/v1/chat/completions" else []
        self._send("text/event-stream", "".join(lines).encode())

    def do_GET(self) -> None:
        """There is nothing to get."""
        self._send("application/json", b'{"data": [], "models": []}')

    def do_HEAD(self) -> None:
        """It is there."""
        self._send("application/json", b"")

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name in http.server
        """Keep quiet."""
