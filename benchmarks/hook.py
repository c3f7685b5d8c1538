"""What a hook costs a client that waits for it: CPU and wall seconds of its process, beside a bare Python.

``python -m benchmarks.hook --runs 100`` (Linux; needs ../shared/data or TEST_DATA). One server runs on a memory of as
many ALFWorld tasks as ``--procedures`` says, recorded one by one as a hook does; then, in turns, so that a busy moment
of the machine does not hit one row alone: a bare Python, a prompt that finds something, one that finds nothing, the end
of a turn, a prompt without any server, and a command that worked, behind which nothing is said. "in time" is the share
of prompts that were answered within the hook's own limit; "tokens" is what was put into the prompt, in characters / 4.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import Wire, command_line, median, percentiles, print_table, write_results
from benchmarks.population import SEED, queries, real_tasks
from memp_mcp.hook import SECONDS as LIMIT
from memp_mcp.memory import Memory
from memp_mcp.models import Reward, Step, Trajectory
from memp_mcp.settings import Settings

PASS = (sys.executable, "-c", "pass")
ELSEWHERE = "Translate the minutes of the last meeting into Portuguese"
WON = Reward(score=1.0, judged_by="environment", verified=True)
WORKED = {"tool_name": "Bash", "tool_input": {"command": "ls"}, "tool_response": {"stdout": "app", "stderr": ""}}
SECONDS = 120
ROWS = ("python -c pass", "a prompt that finds something", "a prompt that finds nothing", "the end of a turn",
        "a prompt without a server", "a command that worked")  # fmt: skip


class Cost(NamedTuple):
    """What one process took, in seconds, and what it printed."""

    cpu: float
    wall: float
    said: str


def run(command: Sequence[str], told: Mapping[str, object], home: Path) -> Cost:
    """Run a process to its end with an event on its stdin."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MEMP_")}
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env | {"MEMP_HOME": str(home)}
    ) as process:
        assert process.stdin is not None  # noqa: S101 - PIPE says so, but not to mypy
        assert process.stdout is not None  # noqa: S101 - as above
        with suppress(BrokenPipeError):  # a bare Python reads nothing, and may have ended
            process.stdin.write(json.dumps(told).encode())
            process.stdin.close()
        said = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(usage.ru_utime + usage.ru_stime, wall, said)


def hook(event: str, home: Path, **told: object) -> Cost:
    """Run a hook as a client does."""
    command = (sys.executable, "-m", "memp_mcp", "hook", event, "--client", "codex")
    return run(command, {"hook_event_name": event, "cwd": "/"} | told, home)


def fill(home: Path, count: int) -> None:
    """Record that many tasks with their walkthroughs."""
    memory = Memory.open(Settings(home=home))
    memory.vectorizer.embedder(wait=SECONDS)
    memory.record_all(
        [
            Trajectory(task=task.text, steps=tuple(Step(action=a) for a in task.walkthrough), reward=WON)
            for task in real_tasks()[:count]
        ]
    )


def measure(home: Path, runs: int) -> dict[str, list[Cost]]:
    """Run all rows *runs* times, in turns."""
    asked = random.Random(SEED).sample(queries(), runs)
    costs: dict[str, list[Cost]] = {name: [] for name in ROWS}
    transcript = home.with_name("rollout.jsonl")
    transcript.write_text('{"type": "session_meta", "payload": {}}\n', encoding="utf-8")
    with Wire(MEMP_HOME=str(home)) as server:
        server.open()
        while server.call("recall_procedure", task="anything at all")["found"] != "hybrid":
            time.sleep(0.1)
        for number, task in enumerate(asked):
            session = f"session {number}"
            turns = (
                run(PASS, {}, home),
                hook("UserPromptSubmit", home, session_id=session, prompt=task),
                hook("UserPromptSubmit", home, session_id=session, prompt=ELSEWHERE),
                hook("Stop", home, session_id=session, transcript_path=str(transcript)),
                hook("UserPromptSubmit", home / "nobody", session_id=session, prompt=task),
                hook("PostToolUse", home, session_id=session, **WORKED),
            )
            for name, cost in zip(ROWS, turns, strict=True):
                costs[name].append(cost)
    return costs


def table(costs: Mapping[str, Sequence[Cost]]) -> list[dict[str, object]]:
    """A line for each row: its CPU as a multiple of a bare Python's, then the seconds."""
    bare = median([cost.cpu for cost in costs[ROWS[0]]])
    lines: list[dict[str, object]] = []
    for name, row in costs.items():
        walls = percentiles([cost.wall for cost in row], (50, 95))
        said = [cost.said for cost in row if cost.said]
        finds = name == "a prompt that finds something"
        lines.append(
            {
                "process": name,
                "CPU / python -c pass": median([cost.cpu for cost in row]) / bare,
                "CPU s, median": median([cost.cpu for cost in row]),
                **{f"wall s, {percent}": seconds for percent, seconds in walls.items()},
                "in time": len(said) / len(row) if finds else None,
                "tokens p50": median([_tokens(text) for text in said]) if finds and said else None,
            }
        )
    return lines


def _tokens(said: str) -> float:
    return len(json.loads(said)["hookSpecificOutput"]["additionalContext"]) / 4


def main() -> None:
    """Measure, print, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="how often each row is measured (default: %(default)s)")
    parser.add_argument("--procedures", type=int, default=1000, help="tasks in the memory (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "memory"
        fill(home, options.procedures)
        lines = table(measure(home, options.runs))
    print_table(lines)
    if options.out:
        write_results(options.out, command_line(), SEED, {"limit in seconds": LIMIT, "rows": lines})


if __name__ == "__main__":
    main()
