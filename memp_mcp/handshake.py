"""What the SDK's server would say in the handshake, where that is certain.

The catalogue holds that server's own words (see catalogue.py). Certain is a request whose every part this module
recognises as what all versions of the protocol accept; anything else is the server's to judge, errors included, so no
rule about what is wrong is told here a second time. Standard library only, as front.py, which explains why.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

_LONGEST = 16_384
_MOST_BRACKETS = 100
_EXACT = 2**53
_RESERVED = "io.modelcontextprotocol/"
_VERSION, _CAPABILITIES, _CLIENT = (_RESERVED + key for key in ("protocolVersion", "clientCapabilities", "clientInfo"))
_OWN_CAPABILITIES = frozenset({"experimental", "extensions"})
_CLIENT_TEXTS = frozenset({"name", "version", "title", "description", "websiteUrl"})


class Handshake:
    """What has been said on one connection so far, and what the SDK's server would say next."""

    def __init__(self, catalogue: dict[str, Any]) -> None:
        self.to_repeat: list[bytes] = []
        """Lines that the state of the SDK's server depends on, in order."""
        self.answered: set[str | int] = set()
        """Ids of the requests among them."""
        self.tools_listed = False
        self._results: list[dict[str, Any]] = catalogue["results"]
        self._by_handshake: dict[str, dict[str, int]] = catalogue["handshake"]
        self._by_envelope: dict[str, dict[str, int]] = catalogue["envelope"]
        self._modern: bool | None = None  # the era, which the first request decides (mcp.server.runner)
        self._version: str | None = None  # what initialize agreed on
        self._initialized = False

    def answer(self, line: bytes) -> bytes | None:
        """Return the line to send, empty where none is due; None: leave this line and all after it to the server."""
        message = _message(line)
        if message is None:
            return None
        method, params = message["method"], message.get("params") or {}
        if "id" not in message:
            return self._notified(line, method)
        index = self._known(method, params).get(method)
        if index is None:
            return None
        self._note(line, message["id"], method, params)
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": self._results[index]}
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def _notified(self, line: bytes, method: str) -> bytes | None:
        if method == "notifications/cancelled":
            return b""  # all that could be cancelled has been answered
        if method != "notifications/initialized" or self._initialized:
            return None
        self._initialized = True
        self.to_repeat.append(line)
        return b""

    def _known(self, method: str, params: dict[str, Any]) -> dict[str, int]:
        """Return where the results are, by method, that can be given in answer to such a request as things stand."""
        meta = params.get("_meta", {})
        if not _is_meta(meta):
            return {}
        if _VERSION in meta:
            certain = self._modern is not False and params.keys() == {"_meta"} and _is_envelope(meta)
            return self._by_envelope.get(meta[_VERSION], {}) if certain else {}
        if self._modern or any(key.startswith(_RESERVED) for key in meta):
            return {}
        if method == "initialize":
            certain = self._version is None and _is_initialize(params)
            return self._by_handshake[self._negotiated(params["protocolVersion"])] if certain else {}
        if not params.keys() <= {"_meta"}:
            return {}
        version = self._version or (self._negotiated("") if method == "ping" else "")
        return self._by_handshake.get(version, {})

    def _negotiated(self, wanted: str) -> str:
        """Return the version that the SDK settles on: the one asked for, else the latest with a handshake."""
        return wanted if wanted in self._by_handshake else list(self._by_handshake)[-1]

    def _note(self, line: bytes, request_id: str | int, method: str, params: dict[str, Any]) -> None:
        """Remember what the request changed."""
        opening = self._modern is None
        if opening:
            self._modern = _VERSION in params.get("_meta", {})
        if method == "initialize":
            self._version = self._negotiated(params["protocolVersion"])
        if opening or method == "initialize":
            self.to_repeat.append(line)
            self.answered.add(request_id)
        self.tools_listed |= method == "tools/list"


def _message(line: bytes) -> dict[str, Any] | None:
    """Return the request or notification on *line*; None for whatever two JSON parsers could read differently."""
    odd = b"\r" in line.rstrip(b"\r\n") or b"\\ud" in line.lower()
    if odd or len(line) > _LONGEST or line.count(b"{") + line.count(b"[") > _MOST_BRACKETS:
        return None
    try:
        message = json.loads(line.decode(), object_pairs_hook=_distinct, parse_constant=_refused)
    except ValueError:
        return None  # the server's to judge
    if not isinstance(message, dict) or not message.keys() <= {"jsonrpc", "id", "method", "params"}:
        return None
    plain = (
        message.get("jsonrpc") == "2.0"
        and isinstance(message.get("method"), str)
        and isinstance(message.get("params"), dict | None)
        and _is_token(message.get("id", ""))
    )
    return message if plain else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_token(value: object) -> bool:
    """Tell whether *value* can be a request id or a progress token, and is written the same by every program."""
    return isinstance(value, str) or (type(value) is int and abs(value) < _EXACT)


def _is_meta(meta: object) -> bool:
    return isinstance(meta, dict) and all(
        _is_token(value) if key == "progressToken" else _is_own_key(key) or key in {_VERSION, _CAPABILITIES, _CLIENT}
        for key, value in meta.items()
    )


def _is_own_key(key: str) -> bool:
    """Tell whether *key* is a client's own, such as vendor/name, which the server passes over."""
    return "/" in key and not key.startswith(_RESERVED)


def _is_envelope(meta: dict[str, Any]) -> bool:
    return (
        isinstance(meta[_VERSION], str)
        and _are_capabilities(meta.get(_CAPABILITIES))
        and (_CLIENT not in meta or _is_client(meta[_CLIENT]))
    )


def _is_initialize(params: dict[str, Any]) -> bool:
    return (
        params.keys() - {"_meta"} == {"protocolVersion", "capabilities", "clientInfo"}
        and isinstance(params["protocolVersion"], str)
        and _are_capabilities(params["capabilities"])
        and _is_client(params["clientInfo"])
    )


def _is_client(info: object) -> bool:
    return (
        isinstance(info, dict)
        and info.keys() <= _CLIENT_TEXTS
        and isinstance(info.get("name"), str)
        and isinstance(info.get("version"), str)
        and all(value is None or isinstance(value, str) for value in info.values())
    )


def _are_capabilities(value: object) -> bool:
    """Tell whether these are capabilities that every version of the protocol accepts."""
    return isinstance(value, dict) and all(
        isinstance(settings, dict)
        and (
            all(isinstance(one, dict) for one in settings.values())
            if name in _OWN_CAPABILITIES
            else _only_objects(settings)
        )
        for name, settings in value.items()
    )


def _only_objects(settings: dict[str, Any]) -> bool:
    return all(
        isinstance(value, bool) if key == "listChanged" else isinstance(value, dict) and _only_objects(value)
        for key, value in settings.items()
    )
