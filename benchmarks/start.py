"""How long a client waits for the server: process start until something is answered, and until it has ended.

``python -m benchmarks.start --runs 20`` measures the start, in CPU and wall seconds (Linux: CPU time is read from the
process's own clock at the moment when the answer has arrived, so what a server loads afterwards does not count).
``--peers DIR`` measures other memory servers in the same run; each is installed there, in the pinned version, if it is
not there yet: the official one by npm, the others by pip into a virtual environment each. What cannot be installed or
does not answer is listed with the reason. Peers are started as their own documentation says, without a key and with an
empty home.

``--part end`` measures instead how long the server's output stays open after its client has hung up, has sent SIGTERM
or SIGINT, or was killed while somebody else holds the pipes: idle, while it loads, and in a record that waits for the
lock.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from benchmarks.common import SERVER, Command, Wire, command_line, cpu_seconds, median, print_table, write_results

Request = tuple[str, Mapping[str, Any]]

META = "io.modelcontextprotocol/"
CLIENT = {"name": "benchmark", "version": "1"}
ENVELOPE = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {}, META + "clientInfo": CLIENT}
INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}
HANDSHAKE: tuple[Request, ...] = (("initialize", INITIALIZE), ("tools/list", {}))
TASK = "Put a hot apple into the fridge"
RECALL: Request = ("tools/call", {"name": "recall_procedure", "arguments": {"task": TASK}})
SECONDS = 120


class Cost(NamedTuple):
    """Seconds since the process was started."""

    cpu: float
    wall: float


Row = Callable[[], Cost]


def conversation(command: Command, *requests: Request, **env: str) -> Cost:
    """Start a server in an empty home, ask one request after the other, and return the cost up to the last answer."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        with Wire(
            command, quiet=command is not SERVER, **({"HOME": home, "MEMP_HOME": f"{home}/memory"} | env)
        ) as server:
            for method, params in requests:
                server.ask(method, params)
            return Cost(cpu_seconds(server.pid), time.perf_counter() - began)


def command(*arguments: str) -> Cost:
    """Run a Python command to its end."""
    began = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(arguments)} failed.")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - began)


ROWS: dict[str, Row] = {
    "python -c pass": partial(command, "-c", "pass"),
    "python -c 'import mcp'": partial(command, "-c", "import mcp"),
    "memp-mcp: initialize, tools/list": partial(conversation, SERVER, *HANDSHAKE),
    "memp-mcp: server/discover, tools/list": partial(
        conversation, SERVER, ("server/discover", {"_meta": ENVELOPE}), ("tools/list", {"_meta": ENVELOPE})
    ),
    "memp-mcp: until the first semantic recall": partial(
        conversation, SERVER, *HANDSHAKE, RECALL, MEMP_RECALL_WAIT=str(SECONDS)
    ),
}

# -- peers --------------------------------------------------------------------------------------------------


class Peer(NamedTuple):
    """Another memory server: what to install, and how it starts."""

    package: str
    version: str
    start: Sequence[str]
    """The program, relative to the folder that it is installed in, and its arguments."""
    env: Mapping[str, str] = {}
    npm: bool = False


PEERS = (
    Peer("@modelcontextprotocol/server-memory", "2026.8.31", ("node_modules/.bin/mcp-server-memory",), npm=True),
    Peer("skillmem", "0.13.0", ("bin/skillmem-mcp",)),
    Peer("thewariend-musclememory", "0.1.8", ("bin/musclememory-mcp",), {"MM_EMBEDDING_PROVIDER": "lexical-hash"}),
    Peer("mcp-memory-service", "12.2.0", ("bin/memory", "server")),
)


def installed(peer: Peer, folder: Path, python: str) -> str:
    """Install a peer into a folder of its own unless it is there; return why that failed, or nothing."""
    program = folder / peer.start[0]
    if program.exists():
        return ""
    spec = f"{peer.package}{'@' if peer.npm else '=='}{peer.version}"
    commands: list[list[str]] = [["npm", "install", "--prefix", str(folder), spec]]
    if not peer.npm:
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", spec]
        commands = [[python, "-m", "venv", str(folder)], pip]
    folder.mkdir(parents=True, exist_ok=True)
    for line in commands:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"not installed: {_reason(done.stdout + done.stderr)}"
    return "" if program.exists() else f"not installed: it has no {peer.start[0]}"


def _reason(said: str) -> str:
    """What a failing installer says, in a line."""
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if "ERROR" in line or "npm error" in line]
    return (lines or said.splitlines() or ["no reason given"])[0][:160]


def peers(folder: Path, python: str) -> tuple[dict[str, Row], dict[str, str]]:
    """The rows of the peers that answer, and the others with the reason why they do not."""
    rows: dict[str, Row] = {}
    without: dict[str, str] = {}
    for peer in PEERS:
        name = f"{peer.package} {peer.version}"
        home = folder / peer.package.replace("/", "_")
        reason = installed(peer, home, python)
        row = partial(conversation, [home / peer.start[0], *peer.start[1:]], *HANDSHAKE, **peer.env)
        if not reason:
            try:
                row()  # the first start may compile and prepare; what follows is measured
            except (RuntimeError, OSError) as error:
                reason = f"does not start: {str(error)[:160]}"
        if reason:
            without[name] = reason
        else:
            rows[f"{name}: initialize, tools/list"] = row
    return rows, without


# -- the end ------------------------------------------------------------------------------------------------

CLIENT_THAT_DIES = (sys.executable, "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()", *SERVER)
WAYS: dict[str, tuple[Command, Callable[[Wire], None]]] = {
    "end of input": (SERVER, Wire.hang_up),
    "SIGTERM": (SERVER, lambda server: server.signal(signal.SIGTERM)),
    "SIGINT": (SERVER, lambda server: server.signal(signal.SIGINT)),
    "death of the client": (CLIENT_THAT_DIES, Wire.kill),
}
UNDER_WAY = 0.3
"""Seconds after which a record waits for the lock."""


def _idle(server: Wire, home: Path) -> None:  # noqa: ARG001 - as the others
    server.ask(*RECALL)


def _loading(server: Wire, home: Path) -> None:
    """It began to when the tools were listed."""


def _waiting(server: Wire, home: Path) -> FileLock:
    server.ask(*RECALL)
    lock = FileLock(home / "memory" / "write.lock")
    lock.acquire()
    server.begin("record_trajectory", task=TASK, steps=[{"action": "open the fridge"}], outcome="success")
    time.sleep(UNDER_WAY)
    return lock  # it is held until it is forgotten


STATES: dict[str, Callable[[Wire, Path], object]] = {
    "idle": _idle,
    "loading": _loading,
    "waiting for the lock": _waiting,
}


def ending(way: str, state: str) -> float:
    """Milliseconds from the act that is to end the server until its output is closed."""
    command, act = WAYS[way]
    with tempfile.TemporaryDirectory() as home:
        settings = {"HOME": home, "MEMP_HOME": f"{home}/memory", "MEMP_RECALL_WAIT": str(SECONDS)}
        with Wire(command, quiet=True, **settings).open() as server:
            kept = STATES[state](server, Path(home))
            began = time.perf_counter()
            act(server)
            server.wait_for_the_end()
            taken = 1000 * (time.perf_counter() - began)
            del kept
            return taken


def endings(runs: int) -> tuple[list[dict[str, object]], dict[str, list[float]]]:
    """A line for each state and way, and the single runs, which are made in turns."""
    cases = [(state, way) for state in STATES for way in WAYS]
    taken: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(runs):
        for state, way in cases:
            taken[state, way].append(ending(way, state))
    lines: list[dict[str, object]] = [
        {"the server is": state, "ended by": way, "ms, median": median(ms), "ms, worst": max(ms), "runs": runs}
        for (state, way), ms in taken.items()
    ]
    return lines, {f"{state}, {way}": ms for (state, way), ms in taken.items()}


# -- results ------------------------------------------------------------------------------------------------


def measure(rows: Mapping[str, Row], runs: int) -> dict[str, list[Cost]]:
    """Run all rows *runs* times, in turns, so that a busy moment of the machine does not hit one row alone."""
    costs: dict[str, list[Cost]] = {name: [] for name in rows}
    for _ in range(runs):
        for name, row in rows.items():
            costs[name].append(row())
    return costs


def table(costs: Mapping[str, Sequence[Cost]]) -> list[dict[str, object]]:
    """A line for each row: its CPU as a multiple of a bare Python's and of the SDK's import, then the seconds."""
    bare, sdk = (median([c.cpu for c in costs[name]]) for name in list(costs)[:2])
    lines: list[dict[str, object]] = []
    for name, row in costs.items():
        cpu, wall = ([getattr(cost, field) for cost in row] for field in Cost._fields)
        lines.append(
            {
                "process start until answered": name,
                "CPU / python -c pass": median(cpu) / bare,
                "CPU / import mcp": median(cpu) / sdk,
                "CPU s, median": median(cpu),
                "CPU s, worst": max(cpu),
                "wall s, median": median(wall),
                "wall s, worst": max(wall),
            }
        )
    return lines


def main() -> None:
    """Measure, print, and keep the figures and the single runs if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--peers", type=Path, help="measure other memory servers too, installed into this folder")
    parser.add_argument("--python", default=sys.executable, help="the Python of the peers (default: this one)")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--part", choices=["start", "end"], default="start", help="what to measure (default: start)")
    options = parser.parse_args()
    if options.part == "end":
        lines, single = endings(options.runs)
        print_table(lines)
        if options.out:
            write_results(options.out, command_line(), None, {"rows": lines, "runs": single})
        return
    others, without = peers(options.peers.resolve(), options.python) if options.peers else ({}, {})
    costs = measure(ROWS | others, options.runs)
    lines = table(costs)
    print_table(lines)
    for name, reason in without.items():
        print(f"{name}: {reason}")
    if options.out:
        runs = {name: [cost._asdict() for cost in row] for name, row in costs.items()}
        write_results(options.out, command_line(), None, {"rows": lines, "without": without, "runs": runs})


if __name__ == "__main__":
    main()
