"""What it costs to remember: acknowledgement, import, growth with the number of commits, memory and disk.

``python -m benchmarks.record`` (Linux; needs ../shared/data or TEST_DATA). Real ALFWorld tasks with the games' own
walkthroughs go through the real server. A record is on the disk, synced, when it is answered; beside each stands one
bare LanceDB commit of one row, which LanceDB does not sync, in turns, so that a busy moment of the machine hits both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lancedb
import pyarrow as pa

from benchmarks.common import (
    Wire,
    command_line,
    cpu_seconds,
    disk_bytes,
    median,
    percentiles,
    print_table,
    resident_bytes,
    write_results,
)
from benchmarks.population import SEED, Task, queries, tasks
from memp_mcp import keys
from memp_mcp.archive import import_files
from memp_mcp.embedder import load
from memp_mcp.memory import Memory
from memp_mcp.models import Trajectory
from memp_mcp.rows import SCHEMAS, trajectory_row
from memp_mcp.settings import DEFAULT_EMBEDDER, Settings

MEGABYTE = 1_000_000
LIMIT = 350 * MEGABYTE
"""Of resident memory, after 1,000 calls."""
MARKS = (100, 300, 1_000, 2_000, 3_000, 5_000, 10_000)
MEMORY = {"MB resident": "resident", "of it not of files": "anonymous"}
WINDOW = 128
"""Records that are timed at a mark: four times those between two compactions."""
STARTS = 5
PARTS = ("acknowledgement", "import", "disk", "memory", "growth")
OPEN = """
import json, sys, time
from pathlib import Path
from memp_mcp.store import Store
clock, cpu = time.perf_counter(), time.process_time()
Store.open(Path(sys.argv[1]))
print(json.dumps([1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - clock)]))
"""

Row = dict[str, Any]


def told(task: Task) -> Row:
    """The arguments of a record_trajectory call."""
    steps = [{"action": action, "observation": "You did it."} for action in task.walkthrough]
    return {"task": task.text, "steps": steps, "outcome": "success", "reward": 1.0}


def acknowledgement(episodes: Sequence[Task]) -> Row:
    """One record beside one bare commit of the same row, in turns."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as beside:
        table = lancedb.connect(beside).create_table("bare", schema=SCHEMAS["trajectories"])
        with ready(home) as server:
            records, cpu, bare = [], [], []
            for task in episodes:
                before = cpu_seconds(server.pid)
                records.append(_milliseconds(partial(server.call, "record_trajectory", **told(task))))
                cpu.append(1000 * (cpu_seconds(server.pid) - before))
                row = pa.Table.from_pylist([trajectory_row(_trajectory(task))], schema=SCHEMAS["trajectories"])
                bare.append(_milliseconds(partial(table.add, row)))
                if len(bare) % 32 == 0:  # as often as the store compacts
                    table.optimize()
    return {
        "record / bare commit": median(records) / median(bare),
        "CPU of record / bare commit": median(cpu) / median(bare),
        "records": len(records),
        **{f"record ms {p}": ms for p, ms in percentiles(records).items()},
        "bare commit ms p50": median(bare),
    }


def importing(episodes: Sequence[Task]) -> Row:
    """An import of trajectories beside the embedder on the same texts, in CPU seconds of this process."""
    embedder = load(DEFAULT_EMBEDDER)
    texts = [t.text for t in episodes]
    texts += list(dict.fromkeys(p for t in episodes for p in keys.phrases(t.text)))
    embedding = _cpu(lambda: embedder.embed(texts))
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "episodes.jsonl"
        file.write_text("".join(json.dumps(told(t)) + "\n" for t in episodes), encoding="utf-8")
        memory = Memory.open(Settings(home=Path(home) / "memory"))
        memory.vectorizer.background.ready(120)
        began = time.perf_counter()
        spent = _cpu(lambda: import_files(memory, [file]))
        seconds = time.perf_counter() - began
    return {
        "import / embedding (CPU)": spent / embedding,
        "trajectories": len(episodes),
        "trajectories per CPU second": len(episodes) / spent,
        "trajectories per second": len(episodes) / seconds,
        "texts embedded per CPU second": len(texts) / embedding,
    }


class Grown(NamedTuple):
    """A memory, and the server that records into it."""

    server: Wire
    home: str


def growth(commits: int) -> dict[str, list[Row]]:
    """One record after the other: what opening, recalling and recording cost on the way, and the size of it all.

    Costs are means of the CPU of the process that does it, and medians by the clock. At each mark they are taken over a
    few rounds of what the store does between two compactions, for they depend on where it is in that. At the last one
    a young memory, of as many commits as the first mark, is asked in turns with the grown one: whatever else the
    machine does hits both.
    """
    marks = sorted({m for m in MARKS if m + WINDOW <= commits} | {commits})
    episodes = tasks(commits + WINDOW)
    asked = queries()
    random.Random(SEED).shuffle(asked)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as home,
        tempfile.TemporaryDirectory() as beside,
        ready(home) as server,
        ready(beside) as other,
    ):
        grown, young, done = Grown(server, home), Grown(other, beside), 0
        _record(young, episodes[: marks[0]])
        for mark in marks:
            _record(grown, episodes[done:mark])
            memories = [grown, young] if mark == commits else [grown]
            first, *others = _measured(memories, episodes[mark : mark + WINDOW], asked, stored=episodes[0])
            rows.append({"commits": mark, **first})
            done = mark + WINDOW
            print_table(rows[-1:])  # a long run tells how it goes
    return {"growth": rows, "bars of growth": _bars(others[0], rows[-1], _imported(episodes[:commits]) / MEGABYTE)}


def _record(memory: Grown, episodes: Sequence[Task]) -> None:
    for task in episodes:
        memory.server.call("record_trajectory", **told(task))


def _measured(memories: Sequence[Grown], episodes: Sequence[Task], asked: Sequence[str], *, stored: Task) -> list[Row]:
    sizes = [disk_bytes(Path(memory.home)) / MEGABYTE for memory in memories]
    rows = []
    for memory, size, costs in zip(memories, sizes, _costs(memories, episodes, asked), strict=True):
        row = {"MB on disk": size} | costs | _starting(memory, stored)
        resident = resident_bytes(memory.server.pid)
        rows.append(row | {name: resident[kind] / MEGABYTE for name, kind in MEMORY.items()})
    return rows


def _bars(young: Row, grown: Row, imported: float) -> list[Row]:
    """The grown memory against the young one, and its size against the same data *imported* in one go, in MB.

    By the clock it is told, but on a machine with other work to do only the CPU says something.
    """
    names = [name for name in young if " ms " in name]
    told: list[tuple[Row, float]] = [({"what": n, "first": young[n], "last": grown[n]}, 1.5) for n in names]
    size = {"what": "MB on disk / imported in one go", "first": imported, "last": grown["MB on disk"]}
    rows = [({**row, "ratio": row["last"] / row["first"]}, bar) for row, bar in [*told, (size, 3.0)]]
    return [{**row, "bar": bar, "within": row["ratio"] <= bar} for row, bar in rows]


def _costs(memories: Sequence[Grown], episodes: Sequence[Task], asked: Sequence[str]) -> list[Row]:
    """Milliseconds of recording, of a recall between two records, and of opening the store in another process."""
    spent: list[dict[str, list[tuple[float, float]]]] = [{"record": [], "recall": [], "open": []} for _ in memories]
    for i, task in enumerate(episodes):
        for (server, home), costs in list(zip(memories, spent, strict=True))[:: 1 if i % 2 else -1]:
            costs["record"].append(_cost(server, partial(server.call, "record_trajectory", **told(task))))
            if i % 2:
                costs["recall"].append(_cost(server, partial(server.call, "recall_procedure", task=asked[i])))
            if i % 8 == 0:
                costs["open"].append(tuple(json.loads(_python(OPEN, home))))
    return [_means(costs) for costs in spent]


def _means(spent: dict[str, list[tuple[float, float]]]) -> Row:
    means = {f"{what} ms CPU": statistics.fmean(cpu for cpu, _ in costs) for what, costs in spent.items()}
    return means | {f"{what} ms clock": median([clock for _, clock in costs]) for what, costs in spent.items()}


def _cost(server: Wire, call: Callable[[], object]) -> tuple[float, float]:
    before = cpu_seconds(server.pid)
    clock = _milliseconds(call)
    return 1000 * (cpu_seconds(server.pid) - before), clock


def _starting(memory: Grown, stored: Task) -> Row:
    """A server from its start to its first answer out of the memory."""
    answer = memory.server.call("record_trajectory", **told(stored))  # stored before: nothing is written
    known = answer["trajectory_id"]
    cpu, wall = [], []
    for _ in range(STARTS):
        began = time.perf_counter()
        with Wire(MEMP_HOME=memory.home).open() as other:
            other.ask("resources/read", {"uri": f"memp://trajectories/{known}"})
            wall.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * cpu_seconds(other.pid))
    return {"start ms CPU": median(cpu), "start ms clock": median(wall)}


def _python(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout


def _imported(episodes: Sequence[Task]) -> int:
    """Bytes of a memory that took all of them in at once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "episodes.jsonl"
        file.write_text("".join(json.dumps(told(t)) + "\n" for t in episodes), encoding="utf-8")
        memory = Memory.open(Settings(home=Path(folder) / "memory"))
        memory.vectorizer.background.ready(120)
        import_files(memory, [file])
        return disk_bytes(memory.store.directory)


def memory_after(calls: int) -> Row:
    """Resident memory when idle and after that many calls, a recall and a record in turns."""
    with tempfile.TemporaryDirectory() as home, ready(home) as server:
        idle = resident_bytes(server.pid)
        for task in tasks(calls // 2):
            recall = server.call("recall_procedure", task=task.text)
            server.call("record_trajectory", **told(task), recall_id=recall["recall_id"])
        after = resident_bytes(server.pid)
    return {
        "within 350 MB": after["resident"] <= LIMIT,
        "calls": calls,
        "MB idle": idle["resident"] / MEGABYTE,
        "MB after": after["resident"] / MEGABYTE,
        "MB idle, not of files": idle["anonymous"] / MEGABYTE,
        "MB after, not of files": after["anonymous"] / MEGABYTE,
    }


def disk(procedures: int) -> Row:
    """Disk for that many trajectories with the procedures made of them, imported and then compacted."""
    with tempfile.TemporaryDirectory() as home:
        memory = Memory.open(Settings(home=Path(home)))
        memory.vectorizer.background.ready(120)
        memory.record_all([_trajectory(t) for t in tasks(procedures)], update_policy="vanilla")
        written = disk_bytes(Path(home))
        memory.store.compact()
        compacted, rows = disk_bytes(Path(home)), memory.store.size().rows
    return {
        "MB per 1,000 procedures, compacted": compacted / rows["procedures"] / 1000,
        "MB per 1,000 procedures, as written": written / rows["procedures"] / 1000,
        **rows,
    }


def _trajectory(task: Task) -> Trajectory:
    return Trajectory.model_validate({**told(task), "reward": None})


def ready(home: str) -> Wire:
    """A server whose embedder is there."""
    server = Wire(MEMP_HOME=home).open()
    while server.call("recall_procedure", task="anything at all")["found"] != "hybrid":
        time.sleep(0.1)
    return server


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200, help="acknowledged one by one (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=1_000, help="imported (default: %(default)s)")
    parser.add_argument("--commits", type=int, default=1_000, help="of the growth (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=1_000, help="before memory is read (default: %(default)s)")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="growth to 10,000 takes most of an hour"
    )
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args()
    measures: dict[str, Callable[[], Any]] = {
        "acknowledgement": lambda: acknowledgement(tasks(given.records)),
        "import": lambda: importing(tasks(given.episodes)),
        "disk": lambda: disk(given.episodes),
        "memory": lambda: memory_after(given.calls),
    }
    results = {name: measure() for name, measure in measures.items() if name in given.parts}
    if "growth" in given.parts:
        results |= growth(given.commits)
    for name, rows in results.items():
        print(f"### {name}\n")
        print_table(rows if isinstance(rows, list) else [rows])
    if given.out:
        write_results(given.out, command_line(), SEED, results)


if __name__ == "__main__":
    main()
