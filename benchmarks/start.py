"""How long a client waits for the server: process start until the handshake is answered, in CPU and wall seconds.

``python benchmarks/start.py --runs 20 --out start.json``. Linux only: CPU time is read from the process's own clock at
the moment when the answer has arrived, so what the server loads afterwards does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

META = "io.modelcontextprotocol/"
CLIENT = {"name": "benchmark", "version": "1"}
ENVELOPE = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {}, META + "clientInfo": CLIENT}
INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}


class Cost(NamedTuple):
    """Seconds since the process was started."""

    cpu: float
    wall: float


Row = Callable[[], Cost]


def conversation(*requests: tuple[str, dict[str, Any]]) -> Cost:
    """Start the server, ask one request after the other, and return the cost up to the last answer."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "memp_mcp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"MEMP_HOME": home},
        )
        with server:
            assert server.stdin is not None  # noqa: S101 - PIPE says so, but not to mypy
            assert server.stdout is not None  # noqa: S101 - likewise
            for number, (method, params) in enumerate(requests):
                message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
                server.stdin.write(json.dumps(message).encode() + b"\n")
                server.stdin.flush()
                if not server.stdout.readline():
                    raise SystemExit(f"The server did not answer {method}; see its error above.")
            cost = Cost(cpu_of(server.pid), time.perf_counter() - began)
            server.terminate()
    return cost


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a running process, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def command(*arguments: str) -> Cost:
    """Run a Python command to its end."""
    began = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(arguments)} failed.")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - began)


ROWS: dict[str, Row] = {
    "python -c pass": lambda: command("-c", "pass"),
    "python -c 'import mcp'": lambda: command("-c", "import mcp"),
    "python -c 'import sentence_transformers'": lambda: command("-c", "import sentence_transformers"),
    "initialize": lambda: conversation(("initialize", INITIALIZE)),
    "initialize, tools/list": lambda: conversation(("initialize", INITIALIZE), ("tools/list", {})),
    "server/discover, tools/list": lambda: conversation(
        ("server/discover", {"_meta": ENVELOPE}), ("tools/list", {"_meta": ENVELOPE})
    ),
    "the same, first answer of the SDK": lambda: conversation(
        ("initialize", INITIALIZE), ("tools/list", {}), ("tools/call", {"name": "none"})
    ),
}


VERSIONS = {"python": sys.version, **{name: version(name) for name in ("memp-mcp", "mcp", "sentence-transformers")}}


def measure(runs: int) -> dict[str, list[Cost]]:
    """Run all rows *runs* times, in turns, so that a busy moment of the machine does not hit one row alone."""
    costs: dict[str, list[Cost]] = {name: [] for name in ROWS}
    for _ in range(runs):
        for name, row in ROWS.items():
            costs[name].append(row())
    return costs


def print_table(costs: dict[str, list[Cost]]) -> None:
    """Print the median, and the worst, of each row."""
    print("| process start until answered | CPU, median s | CPU, worst s | wall, median s | wall, worst s |")
    print("|---|---|---|---|---|")
    for name, row in costs.items():
        cpu, wall = ([getattr(cost, field) for cost in row] for field in Cost._fields)
        figures = (statistics.median(cpu), max(cpu), statistics.median(wall), max(wall))
        print(f"| {name} | " + " | ".join(f"{seconds:.3f}" for seconds in figures) + " |")


def main() -> None:
    """Measure, print, and keep the single runs if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20, help="how often each row is measured (default: 20)")
    parser.add_argument("--out", type=Path, help="a JSON file for the single runs")
    options = parser.parse_args()
    costs = measure(options.runs)
    print_table(costs)
    if options.out:
        runs = {name: [cost._asdict() for cost in row] for name, row in costs.items()}
        options.out.write_text(
            json.dumps(
                {"command": f"python benchmarks/start.py --runs {options.runs}", **VERSIONS, "runs": runs}, indent=1
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
