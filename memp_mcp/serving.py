"""Settings → Memory → server, on stdio or HTTP: what is opened when, and kept for how long."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from memp_mcp.errors import BadInput, MempError
from memp_mcp.front import Serve, before_leaving
from memp_mcp.redact import keep_out_of_logs
from memp_mcp.settings import AUTO, Settings

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from memp_mcp import web
    from memp_mcp.embedder import BackgroundEmbedder
    from memp_mcp.memory import Memory


def stdio_server() -> Serve:
    """The server as the front starts it: the memory opens in the background, its troubles are told by each call."""
    return on_stdio(lambda: Settings.from_env(os.environ))


def compose(settings: Callable[[], Settings]) -> MCPServer[Any]:
    """The server over a memory that opens in the background, so that a client need not wait for LanceDB.

    Settings that cannot be used, or a store that cannot be opened, are told by every call until they are mended: a
    client shows the result of a call to its model, but nobody reads the stderr of a server that has died.
    """
    from memp_mcp.server import build_server  # noqa: PLC0415 - imports the SDK: more than a second

    keep_out_of_logs()
    opening = _Opening(settings)
    Thread(target=opening.begin, name="open-memory", daemon=True).start()
    return build_server(opening.memory)


class _Opening:
    """Opens a memory once; tries again after a failure, since the user may have mended what was wrong."""

    def __init__(self, settings: Callable[[], Settings], embedder: BackgroundEmbedder | None = None) -> None:
        self._settings = settings
        self._embedder = embedder
        self._memory: Memory | None = None
        self._lock = Lock()

    def begin(self) -> None:
        """Open it ahead of the first call, and attend to the clients' hooks; a failure is told by that call."""
        with suppress(MempError):
            memory = self.memory()
            if memory.settings.hooks != "off":
                self._attend(memory)

    def memory(self) -> Memory:
        """The memory, once it is open."""
        from memp_mcp.memory import Memory  # noqa: PLC0415 - imports LanceDB: two seconds

        with self._lock:
            if self._memory is None:
                settings = self._settings()
                logging.getLogger("memp_mcp").setLevel(settings.log_level)
                self._memory = Memory.open(settings, embedder=self._embedder)
            return self._memory

    def _attend(self, memory: Memory) -> None:
        from memp_mcp.sessions import Sessions  # noqa: PLC0415 - as above

        try:
            endpoint = Sessions(memory).attend()
            before_leaving(endpoint.close)  # a server on stdio ends without
            atexit.register(endpoint.close)
        except OSError as error:  # the tools serve all the same
            logging.getLogger(__name__).warning("hooks are not served: %s", error)


class _Namespaces:
    """One memory for each namespace, each in a directory of its own, opened when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        from memp_mcp.embedder import BackgroundEmbedder  # noqa: PLC0415 - imports numpy

        self._settings = settings
        self._embedder = BackgroundEmbedder(settings.embedder)  # one for all: it is most of what a memory weighs
        self._openings: dict[str, _Opening] = {}
        self._lock = Lock()

    def begin(self) -> None:
        """Open the memory of the empty name ahead of the first call; a failure is told by that call."""
        self._of("").begin()

    def memory(self, name: str) -> Memory:
        """The memory of a namespace; that of the empty name is the one in MEMP_HOME itself."""
        return self._of(name).memory()

    def _of(self, name: str) -> _Opening:
        with self._lock:
            if name not in self._openings:
                settings = self._settings.of_namespace(name)
                self._openings[name] = _Opening(lambda: settings, self._embedder)
            return self._openings[name]

    def missing(self) -> str:
        """What is still to come before calls are answered as well as they can be; empty when nothing is."""
        self.memory("").store.statuses()
        return "" if self._embedder.reason != "still loading" else "the embedding model, which is still loading"


def _places(settings: Settings) -> dict[str, str]:
    """Where this server has things, by the settings that say so; the longest first, for one may lie in another."""
    files = {"MEMP_HOME": settings.directory, "MEMP_RULES": settings.rules, "MEMP_EMBEDDER": Path(settings.embedder)}
    set_to = {name: file.expanduser() for name, file in files.items() if file}
    places = {str(file): name for name, file in set_to.items() if file.is_absolute()} | {settings.store: "MEMP_STORE"}
    return dict(sorted(places.items(), key=lambda told: len(told[0]), reverse=True))


def on_stdio(settings: Callable[[], Settings]) -> Serve:
    """What serves one client on stdio."""
    from memp_mcp.stdio import serve  # noqa: PLC0415 - imports the SDK

    return partial(serve, compose(settings))


def on_http(settings: Settings, door: web.Door) -> Callable[[Callable[[], object]], None]:
    """What serves over HTTP until the process is ended; each token's namespace has a memory of its own.

    It calls what it is given once the port is its own.

    Raises:
        BadInput: such a door would be open to everybody, or a package is missing that it needs.

    """
    from memp_mcp import web  # noqa: PLC0415 - imports the SDK
    from memp_mcp.server import build_server  # noqa: PLC0415 - as above

    if settings.project == AUTO:
        raise BadInput(
            "MEMP_PROJECT is auto, but over HTTP nobody tells the folder that a client works in. Give this server the "
            "name of a project, or none: calls and tokens can name their own."
        )
    guard, meters = web.guard(door, _places(settings))
    memories = _Namespaces(settings)
    Thread(target=memories.begin, name="open-memory", daemon=True).start()
    server = build_server(
        lambda: memories.memory(web.namespace()), verifier=guard.verifier, auth=guard.auth, middleware=[guard]
    )
    return partial(web.serve, web.application(server, door, ready=memories.missing, meters=meters), door)
