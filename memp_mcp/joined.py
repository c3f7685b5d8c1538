"""Which clients of this machine are joined, and what the memory has heard from each."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from memp_mcp import entries
from memp_mcp.clients import CLIENTS, Host, Part, is_there, known_as, parts
from memp_mcp.entries import Found, text_of
from memp_mcp.errors import BadInput, StoreError
from memp_mcp.models import Event, Value
from memp_mcp.redact import Redactor


class ClientState(Value):
    """What is known of a client that is on this machine."""

    client: str
    registered: bool = False
    another_program: bool = False
    plugin: bool = False
    command: tuple[str, ...] = ()
    command_found: bool = False
    address: str = ""
    hooks: tuple[str, ...] = ()
    hooks_missing: tuple[str, ...] = ()
    last_seen: datetime | None = None
    last_trajectory: str = ""
    last_recorded: datetime | None = None
    problem: str = ""


def states(host: Host, directory: Path) -> tuple[list[ClientState], str]:
    """What is known of each client that is on this machine, and why the memory in *directory* could not be asked."""
    seen: dict[str, Event] = {}
    recorded: dict[str, Event] = {}
    problem = ""
    try:
        for event in _events(directory):  # the oldest first
            name = known_as(event.client)
            seen[name] = event
            if event.kind == "recorded":
                recorded[name] = event
    except StoreError as error:
        problem = str(error)
    return [_state(n, host, seen.get(n), recorded.get(n)) for n in CLIENTS if is_there(n, host)], problem


def _events(directory: Path) -> Iterable[Event]:
    if not (directory / "meta.json").exists():
        return ()  # to ask a memory that nobody has used yet would make it
    from memp_mcp.store import Store  # noqa: PLC0415 - imports LanceDB: two seconds

    return Store.open(directory, salvage=True).all_events()


def _state(name: str, host: Host, seen: Event | None, recorded: Event | None) -> ClientState:
    heard = {
        "last_seen": seen.at if seen else None,
        "last_trajectory": recorded.trajectory_id if recorded else "",
        "last_recorded": recorded.at if recorded else None,
    }
    try:
        found = [_found(name, file, wanted) for file, wanted in parts(name, host).items()]
    except (BadInput, OSError) as error:
        return ClientState(client=name, problem=str(error), **heard)
    server, hooks = found[0], {event: line for part in found for event, line in part.hooks.items()}
    program = server.command[0] if server.command else ""
    return ClientState(
        client=name,
        registered=server.ours,
        another_program=server.entry is not None and not server.ours,
        plugin=entries.has_plugin(name, host),
        command=server.command,
        command_found=bool(program) and shutil.which(program, path=host.environ.get("PATH", "")) is not None,
        address=server.address,
        hooks=tuple(event for event in CLIENTS[name].events if event in hooks),
        hooks_missing=tuple(event for event in CLIENTS[name].events if event not in hooks),
        **heard,
    )


def _found(name: str, file: Path, wanted: Sequence[Part]) -> Found:
    text = text_of(file) or ""
    try:
        return entries.find(name, file, text, wanted)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None


COLUMNS = ("client", "registered", "hooks", "last seen", "last trajectory", "command")


def row(state: ClientState) -> tuple[str, ...]:
    """A client's state as a row of a table under `COLUMNS`."""
    if state.problem:
        return (state.client, "?", "?", _moment(state.last_seen), state.last_trajectory, state.problem)
    command = " ".join(state.command) + ("" if state.command_found or not state.command else " (is not there)")
    trajectory = f"{state.last_trajectory} {_moment(state.last_recorded)}".strip()
    heard = (_moment(state.last_seen), trajectory)
    return (state.client, _registered(state), _hooks(state), *heard, Redactor().text(state.address or command))


def _registered(state: ClientState) -> str:
    if state.another_program:
        return "another program"
    ways = [way for way, is_so in (("yes", state.registered), ("by the plugin", state.plugin)) if is_so]
    return " and ".join(ways) or "no"


def _hooks(state: ClientState) -> str:
    if state.plugin:
        return "twice: by the plugin too" if state.hooks else "by the plugin"
    if not state.hooks:
        return "off" if state.hooks_missing else ""
    total = len(state.hooks) + len(state.hooks_missing)
    return f"{len(state.hooks)} of {total}" if state.hooks_missing else "on"


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else ""
