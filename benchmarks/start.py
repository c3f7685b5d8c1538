"""How long a client waits for the server: process start until something is answered, in CPU and wall seconds.

``python -m benchmarks.start --runs 20`` (Linux: CPU time is read from the process's own clock at the moment when the
answer has arrived, so what a server loads afterwards does not count). ``--peers DIR`` measures other memory servers in
the same run; each is installed there, in the pinned version, if it is not there yet: the official one by npm, the
others by pip into a virtual environment each. What cannot be installed or does not answer is listed with the reason.
Peers are started as their own documentation says, without a key and with an empty home.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
    parser.add_argument("--runs", type=int, default=20, help="how often each row is measured (default: %(default)s)")
    parser.add_argument("--peers", type=Path, help="measure other memory servers too, installed into this folder")
    parser.add_argument("--python", default=sys.executable, help="the Python of the peers (default: this one)")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    options = parser.parse_args()
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
