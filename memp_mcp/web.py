"""Serves an MCPServer over streamable HTTP: who may come in, request ids, health. The SDK and Starlette do the work.

A token confines its calls to its namespace, a memory of its own (`namespace`), and to its scope (`Guard`).
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import uvicorn
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp.types import CallToolResult, JSONRPCError, TextContent
from pydantic import AnyHttpUrl, ValidationError
from starlette.applications import Starlette
from starlette.authentication import has_required_scope
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from memp_mcp.errors import BadInput, MempError
from memp_mcp.models import MAX_CHARACTERS
from memp_mcp.redact import Redactor
from memp_mcp.server import STATS, no_message, not_json
from memp_mcp.tokens import Scope, Tokens

if TYPE_CHECKING:
    from memp_mcp.team import Meters

PATH = "/mcp"
MAX_BODY = 4 * MAX_CHARACTERS
"""Bytes of a request: the largest trajectory, in UTF-8."""
RATE = "600/minute"
"""What a token may ask for, unless another rate is set."""
NEEDED: Mapping[str, Scope] = {
    "recall_procedure": "read",
    "get_procedure": "read",
    "record_trajectory": "write",
    "reflect_failure": "write",
    "forget_procedure": "admin",
}
"""The scope that each tool asks for."""
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_NAMESPACE = "namespace"
_GRACE = 5
"""Seconds that open streams have to end in once the server is told to stop."""

_log = logging.getLogger(__name__)
_request_id: ContextVar[str] = ContextVar("request_id", default="-")


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the server listens, and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 8765
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    rate: str | None = None
    stateless: bool = False
    tokens: Tokens | None = None

    @property
    def security(self) -> TransportSecuritySettings:
        """The values of the Host and Origin headers that are accepted: this machine's own, and those that are named."""
        return TransportSecuritySettings(
            allowed_hosts=[spelt for name in (*_LOOPBACK, *self.hosts) for spelt in (name, f"{name}:{self.port}")],
            allowed_origins=[f"http://{n}{port}" for n in _LOOPBACK for port in ("", f":{self.port}")]
            + list(self.origins),
        )


class Guard:
    """What build_server is given so that tokens are asked for and their scopes kept; and the figures taken."""

    def __init__(self, tokens: Tokens | None, meters: Meters | None, places: Mapping[str, str]) -> None:
        self.verifier = _Verifier(tokens) if tokens else None
        self._meters = meters
        self._places = {place: name for place, name in places.items() if place}

    @property
    def auth(self) -> AuthSettings | None:
        """The SDK's settings; there is no authorization server to point at, so no metadata is published."""
        if self.verifier is None:
            return None
        issuer = AnyHttpUrl("http://localhost")  # the SDK wants one; without a resource URL nobody is told
        return AuthSettings(issuer_url=issuer, resource_server_url=None, required_scopes=["read"])

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Pass a message on, and what came of it without the paths of this server: MCP middleware."""
        try:
            if ctx.method == "tools/call":
                return _retold(await self._called(ctx, call_next), self._named)
            result = await call_next(ctx)
            of_stats = ctx.method == "resources/read" and str((ctx.params or {}).get("uri")) == STATS
            return _reread(result, self._named) if of_stats else result
        except MCPError as error:
            raise MCPError(error.code, self._named(error.message), error.data) from error

    def _named(self, text: str) -> str:
        """A text for strangers: the places of this server by the settings that name them."""
        for place, name in self._places.items():
            text = text.replace(place, name)
        return text

    async def _called(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Call a tool, or refuse it where the token's scope does not cover it."""
        tool = str((ctx.params or {}).get("name"))
        started = time.perf_counter()
        failed = True
        try:
            result = _refusal(tool) or await call_next(ctx)
            failed = _is_error(result)
        finally:
            if self._meters:
                seconds = time.perf_counter() - started
                self._meters.tool(tool if tool in NEEDED else "other", failed=failed, seconds=seconds)
        return result


def namespace() -> str:
    """The namespace of the token that the present request came with; empty without a token."""
    token = get_access_token()
    return str((token.claims or {}).get(_NAMESPACE, "")) if token else ""


def guard(door: Door, places: Mapping[str, str]) -> tuple[Guard, Meters | None]:
    """What is to watch over the server at this door, and where it takes figures.

    Args:
        door: Whom it lets in.
        places: Paths that are no business of a client's, and what stands for them in what it is told.

    Raises:
        BadInput: it would be open to strangers, or the extra `team` is needed and not installed.
    """
    if not _is_loopback(door.host) and door.tokens is None:
        raise BadInput(
            f"{door.host!r} is not a loopback address, and without tokens this server asks nobody who they are. "
            "Make one with `memp-mcp token create NAME --scope write`, or use 127.0.0.1."
        )
    try:
        from memp_mcp.team import Meters  # noqa: PLC0415 - an extra
    except ImportError as error:
        if door.tokens or door.rate:
            raise BadInput(f"Serving a team needs more ({error}). Run: pip install 'memp-mcp[team]'") from error
        return Guard(None, None, places), None
    meters = Meters()
    return Guard(door.tokens, meters, places), meters


def application(
    server: MCPServer[Any], door: Door, *, ready: Callable[[], str], meters: Meters | None = None
) -> ASGIApp:
    """The whole ASGI application.

    Args:
        server: What answers at /mcp.
        door: Whom it lets in.
        ready: What is still missing before calls can be answered; empty when nothing is. May raise MempError.
        meters: Where the figures of /metrics come from.

    """
    _add_probes(server, ready)
    if meters:
        _add_metrics(server, meters, door)
    app: Starlette = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=door.stateless,
        max_request_body_size=MAX_BODY,
        transport_security=door.security,
        host=door.host,
    )
    limit = door.rate or (RATE if door.tokens else None)
    if limit:
        from memp_mcp.team import RateLimit, rate  # noqa: PLC0415 - an extra

        app.user_middleware.append(Middleware(RateLimit, limit=rate(limit), path=PATH))  # inside authentication
    return _Journal(_Complaints(app), meters, known={PATH, "/health", "/ready", "/metrics"})


def serve(app: ASGIApp, door: Door, bound: Callable[[], object]) -> None:
    """Serve until the process is told to stop; *bound* is called once the port is this process's own.

    Raises:
        BadInput: the port is taken.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(_with_request_id)
        handler.setFormatter(logging.Formatter("%(levelname)s %(request_id)s %(message)s"))
    config = uvicorn.Config(
        app, host=door.host, port=door.port, log_level="warning", timeout_graceful_shutdown=_GRACE, server_header=False
    )
    try:
        port = config.bind_socket()
        bound()
        anyio.run(partial(uvicorn.Server(config).serve, sockets=[port]))
    except SystemExit as stopped:  # uvicorn has logged why, and would end the process with a code of its own
        raise BadInput(
            f"Nothing can be served on {door.host}:{door.port}. Is a server there already? Choose a --port."
        ) from stopped


# -- who comes in -------------------------------------------------------------------------------------------


class _Verifier:
    """The SDK's TokenVerifier over the file of tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def verify_token(self, token: str) -> AccessToken | None:
        """What the token allows, or None: it is unknown, expired or revoked, or the file cannot be read."""
        try:
            known = self._tokens.of(token)
        except MempError as error:
            _log.error("%s", error)
            return None
        if known is None:
            return None
        expires = int(known.expires_at.timestamp()) if known.expires_at else None
        return AccessToken(
            token=token,
            client_id=known.name,
            scopes=list(known.scopes),
            expires_at=expires,
            claims={_NAMESPACE: known.namespace},
        )


def _refusal(tool: str) -> CallToolResult | None:
    token, needed = get_access_token(), NEEDED.get(tool)
    if token is None or needed is None or needed in token.scopes:
        return None
    text = (
        f"Nothing was done: {tool} needs a token of the scope {needed!r}, and yours may only {token.scopes[-1]}. "
        "Go on without it, or ask whoever runs this server for another token."
    )
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _is_error(result: HandlerResult) -> bool:
    if isinstance(result, CallToolResult):
        return bool(result.is_error)
    return isinstance(result, dict) and bool(result.get("isError"))


def _retold(result: HandlerResult, told: Callable[[str], str]) -> HandlerResult:
    """A tool's result with its troubles as *told*: errors and notes, but not what was recorded and is recalled."""
    if not isinstance(result, dict):
        return result  # a refusal of ours
    if result.get("isError"):
        said = [{**c, "text": told(c["text"])} if c["type"] == "text" else c for c in result["content"]]
        return {**result, "content": said}
    data = result.get("structuredContent") or {}
    notes = {name: data[name] for name in ("note", "notes") if name in data}
    anew = {name: told(v) if isinstance(v, str) else [told(note) for note in v] for name, v in notes.items()}
    if notes == anew:
        return result
    text = json.dumps(data | anew, ensure_ascii=False, separators=(",", ":"))
    return {**result, "content": [{"type": "text", "text": text}], "structuredContent": data | anew}


def _reread(result: HandlerResult, told: Callable[[str], str]) -> HandlerResult:
    """The figures of the memory, which name its directory, as *told*."""
    if not isinstance(result, dict):
        return result
    return {**result, "contents": [{**c, "text": told(c["text"])} for c in result["contents"]]}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# -- what is told about the server --------------------------------------------------------------------------


def _add_probes(server: MCPServer[Any], ready: Callable[[], str]) -> None:
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def is_ready(_: Request) -> Response:
        try:
            missing = await anyio.to_thread.run_sync(ready)
        except MempError as error:
            _log.warning("Not ready: %s", error)
            missing = "the memory cannot be opened; the log says why"  # its text names files, and anybody may ask
        if missing:
            return JSONResponse({"status": "not ready", "missing": missing}, status_code=503)
        return JSONResponse({"status": "ready"})

    server.custom_route("/health", methods=["GET"])(health)
    server.custom_route("/ready", methods=["GET"])(is_ready)


def _add_metrics(server: MCPServer[Any], meters: Meters, door: Door) -> None:
    from memp_mcp.team import METRICS_TYPE  # noqa: PLC0415 - an extra

    names = TransportSecurityMiddleware(door.security)

    async def metrics(request: Request) -> Response:
        if door.tokens is None:  # a page in a browser may call this machine by a name of its own
            refusal = await names.validate_request(request)
        else:  # which such a page has not, and Prometheus calls a server by its address
            refusal = None if has_required_scope(request, ["read"]) else _asks_for_token()
        return refusal or Response(meters.text(), media_type=METRICS_TYPE)

    server.custom_route("/metrics", methods=["GET"])(metrics)


def _asks_for_token() -> Response:
    return JSONResponse({"error": "a token is needed"}, status_code=401, headers={"WWW-Authenticate": "Bearer"})


class _Journal:
    """ASGI middleware, the outermost: gives each request an id, and says in the log and the figures how it ended."""

    def __init__(self, app: ASGIApp, meters: Meters | None, *, known: set[str]) -> None:
        self._app = app
        self._meters = meters
        self._known = known

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _identity(Headers(scope=scope).get("x-request-id", ""))
        _request_id.set(request_id)
        statuses: list[int] = []
        started = time.perf_counter()
        try:
            await self._app(scope, receive, partial(_identified, send, request_id, statuses))
        finally:
            self._note(scope, statuses[0] if statuses else 500, time.perf_counter() - started)

    def _note(self, scope: Connection, status: int, seconds: float) -> None:
        user = scope.get("user")
        who = user.display_name if user is not None and user.is_authenticated else "-"
        path = scope["path"] if scope["path"] in self._known else "other"
        _log.info("%s %s %d %s %.0f ms", scope["method"], path, status, who, seconds * 1000)
        if self._meters:
            method = scope["method"] if scope["method"] in {"GET", "POST", "DELETE"} else "other"
            self._meters.request(method=method, path=path, status=status)


def _identity(told: str) -> str:
    """The id of a request: the one that it was given, unless that cannot be one, or is a secret: logs carry none."""
    fits = _REQUEST_ID.fullmatch(told) and Redactor().text(told) == told
    return told if fits else uuid.uuid4().hex


class _Complaints:
    """ASGI middleware: says of a body that is no message what is said on stdio, in the place of pydantic's report."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        held: list[Message] = []

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 400:
                held.append(message)  # its length is known when its body is, which the SDK sends in one piece
                return
            if held:
                message = {**message, "body": _complaint(message.get("body", b""))}
                MutableHeaders(scope=held[0])["Content-Length"] = str(len(message["body"]))
                await send(held.pop())
            await send(message)

        await self._app(scope, receive, say)


def _complaint(body: bytes) -> bytes:
    try:
        told = JSONRPCError.model_validate_json(body)
    except ValidationError:
        return body  # of another kind
    kinds = {"Parse error": not_json, "Validation error:": no_message}
    said = next((of("body") for sign, of in kinds.items() if told.error.message.startswith(sign)), told.error)
    return told.model_copy(update={"error": said}).model_dump_json(exclude_unset=True).encode()


async def _identified(send: Send, request_id: str, statuses: list[int], message: Message) -> None:
    if message["type"] == "http.response.start":
        statuses.append(message["status"])
        MutableHeaders(scope=message)["X-Request-ID"] = request_id
    await send(message)


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = _request_id.get()
    return True
