"""What to expect of a large memory and of one that a team shares: import at scale, and several writers on one store.

``python -m benchmarks.team`` (Linux; needs ../shared/data or TEST_DATA, and moto's S3 server: the extra ``dev``).

Import: synthetic episodes (real ALFWorld walkthroughs under wordings that are filled in anew) in slices, so that a
slowing down with the size of the memory shows. Writers: processes with a memory each, on one directory and on one
bucket of an S3 API on loopback; each records and recalls in turns, and then every acknowledged record is looked for.
Loopback has no network in it, so the requests that a call makes are counted too: on a real storage each takes as long
as its round trip, most of them one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, command_line, disk_bytes, percentiles, print_table, write_results
from benchmarks.population import SEED, tasks
from benchmarks.record import told
from memp_mcp.archive import import_files
from memp_mcp.memory import Memory
from memp_mcp.models import Trajectory
from memp_mcp.settings import Settings

Row = dict[str, Any]
BUCKET = "memory"


# -- import -------------------------------------------------------------------------------------------------


def importing(episodes: int, slices: int) -> list[Row]:
    """The same number of episodes again and again, into one memory."""
    size = episodes // slices
    every = tasks(episodes)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory.open(Settings(home=Path(folder) / "memory"))
        memory.vectorizer.background.ready(120)
        for start in range(0, episodes, size):
            file = Path(folder) / f"{start}.jsonl"
            file.write_text("".join(json.dumps(told(t)) + "\n" for t in every[start : start + size]), encoding="utf-8")
            began, spent = time.perf_counter(), time.process_time()
            done = import_files(memory, [file])
            seconds, cpu = time.perf_counter() - began, time.process_time() - spent
            rows.append(
                {
                    "trajectories": start + done.stored,
                    "procedures": sum(memory.store.statuses().values()),
                    "trajectories per CPU second": done.stored / cpu,
                    "trajectories per second": done.stored / seconds,
                    "MB on disk": disk_bytes(Path(folder) / "memory") / 1e6,
                }
            )
    return rows


# -- several writers ----------------------------------------------------------------------------------------


def sharing(place: str, writers: int, records: int) -> Row:
    """Processes that record and recall at once; what it took them, and what is there afterwards."""
    with tempfile.TemporaryDirectory() as folder, _storage(place) as (environ, requests):
        home = Path(folder) / "memory"
        Memory.open(Settings(home=home, store=environ.get("MEMP_STORE", ""))).vectorizer.background.ready(120)
        before = requests()
        began = time.perf_counter()
        running = [_started(home, environ, number, writers, records) for number in range(writers)]
        told_by = [json.loads(process.communicate()[0]) for process in running]
        seconds = max(t["ended"] for t in told_by) - min(t["began"] for t in told_by)
        made = requests() - before
        memory = Memory.open(Settings(home=home, store=environ.get("MEMP_STORE", "")))
        acknowledged = [i for t in told_by for i in t["ids"]]
        kept = memory.store.stored(set(acknowledged))
    print(f"{place}, {writers} writers: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    spent = {name: [ms for t in told_by for ms in t[name]] for name in ("record", "recall")}
    return {
        "place": place,
        "writers": writers,
        "records": len(acknowledged),
        "lost": len(acknowledged) - len(kept),
        "records per second": len(acknowledged) / seconds,
        **{f"{name} ms {p}": ms for name in spent for p, ms in percentiles(spent[name], (50, 95)).items()},
        "requests per record and recall": made / len(acknowledged) if made else None,
    }


def _started(home: Path, environ: Mapping[str, str], *numbers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.team", "--writer", str(home), *map(str, numbers)]
    return subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def write(home: str, number: str, writers: str, records: str) -> None:
    """Record and recall in turns, in a process of its own; print what it took as JSON."""
    memory = Memory.open(Settings(home=Path(home), store=os.environ.get("MEMP_STORE", ""), lock_timeout=600))
    memory.vectorizer.background.ready(120)
    mine = tasks(int(writers) * int(records))[int(number) :: int(writers)]
    memory.recall("what is here?")
    took: dict[str, list[float]] = {"record": [], "recall": []}
    ids = []
    began = time.time()
    for task in mine:
        at = time.perf_counter()
        ids.append(memory.record(Trajectory.model_validate({**told(task), "reward": None})).trajectory_id)
        between = time.perf_counter()
        memory.recall(task.text)
        took["record"].append(1000 * (between - at))
        took["recall"].append(1000 * (time.perf_counter() - between))
    print(json.dumps({**took, "ids": ids, "began": began, "ended": time.time()}))


@contextmanager
def _storage(place: str) -> Iterator[tuple[dict[str, str], Any]]:
    """The environment that leads to the place, and how many requests were made to it so far."""
    if place == "directory":
        yield {}, lambda: 0
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile() as log:
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
        with subprocess.Popen(command, stdout=log, stderr=log) as server:
            try:
                endpoint = f"http://127.0.0.1:{port}"
                _make_bucket(f"{endpoint}/{BUCKET}")
                environ = {
                    "AWS_ENDPOINT": endpoint,
                    "AWS_ALLOW_HTTP": "true",
                    "AWS_ACCESS_KEY_ID": "x",
                    "AWS_SECRET_ACCESS_KEY": "y",
                    "AWS_REGION": "us-east-1",
                    "MEMP_STORE": f"s3://{BUCKET}/team",
                }
                os.environ.update({name: value for name, value in environ.items() if name.startswith("AWS_")})
                yield environ, lambda: Path(log.name).read_bytes().count(b"HTTP/1.1")
            finally:
                server.kill()


def _make_bucket(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30).close()  # noqa: S310 - our own server
        except urllib.error.URLError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("The S3 server does not answer.")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["sharing", "import"], default=["sharing", "import"])
    parser.add_argument("--episodes", type=int, default=10_000, help="imported (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=10, help="of the import (default: %(default)s)")
    parser.add_argument("--records", type=int, default=20, help="of each writer (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--writer", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.writer:
        write(*given.writer)
        return
    results: dict[str, list[Row]] = {}
    if "sharing" in given.parts:
        results["sharing"] = [sharing(place, n, given.records) for place in ("directory", "bucket") for n in (1, 4)]
    if "import" in given.parts:
        results["import"] = importing(given.episodes, given.slices)
    for rows in results.values():
        print_table(rows)
    if given.out:
        write_results(given.out, command_line(), SEED, results, packages=("moto",))


if __name__ == "__main__":
    main()
