"""What serving a team needs besides the server: rate limits and Prometheus metrics. Needs the extra `team`."""

from __future__ import annotations

import math
import time
from typing import Any

import prometheus_client as prometheus
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from memp_mcp.errors import BadInput

METRICS_TYPE = prometheus.CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Meters:
    """The figures that Prometheus collects: requests by path and status, tool calls by tool and outcome."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self._registry)
        prometheus.PlatformCollector(registry=self._registry)
        self._requests = prometheus.Counter(
            "memp_http_requests", "HTTP requests answered", ["method", "path", "status"], registry=self._registry
        )
        self._tools = prometheus.Histogram(
            "memp_tool_seconds",
            "Seconds that tool calls took",
            ["tool", "outcome"],
            registry=self._registry,
            buckets=_SECONDS,
        )

    def request(self, *, method: str, path: str, status: int) -> None:
        """Count a request."""
        self._requests.labels(method, path, status).inc()

    def tool(self, tool: str, *, failed: bool, seconds: float) -> None:
        """Count a call of a tool."""
        self._tools.labels(tool, "error" if failed else "ok").observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)


class RateLimit:
    """ASGI middleware that lets each token, or each address without one, make so many requests at *path*.

    Above that it answers 429 and says in Retry-After when the next one will do. Each process counts for itself.
    """

    def __init__(self, app: ASGIApp, *, limit: RateLimitItem, path: str) -> None:
        self._app = app
        self._limit = limit
        self._path = path
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        who = _who(scope)
        if self._limiter.hit(self._limit, who):
            await self._app(scope, receive, send)
            return
        wait = max(1, math.ceil(self._limiter.get_window_stats(self._limit, who).reset_time - time.time()))
        told = {"error": f"More than {self._limit}. Try again in {wait} s."}
        await JSONResponse(told, status_code=429, headers={"Retry-After": str(wait)})(scope, receive, send)


def rate(text: str) -> RateLimitItem:
    """The limit that a text such as "600/minute" stands for.

    Raises:
        BadInput: it stands for none.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is no rate limit. Write it as 600/minute, 20/second or 10000/hour.") from error


def _who(scope: Scope) -> str:
    user: Any = scope.get("user")
    if user is not None and user.is_authenticated:
        return f"token:{user.display_name}"
    client = scope.get("client")
    return f"address:{client[0] if client else ''}"
