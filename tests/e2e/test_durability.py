"""The server over stdio when the disk, the clock, the lock or the client fails: a clear word, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.common import SERVER, Ended, Wire
from memp_mcp.store import Store

pytestmark = pytest.mark.usefixtures("unmeasured")
SECONDS = 60
LIMITED = (
    "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
    "runpy.run_module('memp_mcp', None, '__main__')"
)
HOLDER = """
import sys
from pathlib import Path
from memp_mcp.store import Store
with Store.open(Path(sys.argv[1]))._locked():
    print("held", flush=True)
    sys.stdin.read()
"""
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
#define BACK 172800  /* two days */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec -= BACK;
  return done;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec at;
  int done = clock_gettime(CLOCK_REALTIME, &at);
  now->tv_sec = at.tv_sec;
  now->tv_usec = at.tv_nsec / 1000;
  return done;
}
time_t time(time_t *now) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (now) *now = at.tv_sec;
  return at.tv_sec;
}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "memory"


@pytest.fixture
def serve(home: Path) -> Iterator[Callable[..., Wire]]:
    """Starts servers on the memory, and ends what is left of them after the test."""
    started: list[Wire] = []

    def start(*command: str, **env: str) -> Wire:
        started.append(Wire(command or SERVER, quiet=False, MEMP_HOME=str(home), **env))
        return started[-1].open()

    yield start
    for wire in started:
        wire.close()


def record(server: Wire, task: str, observation: str = "done") -> str:
    steps = [{"action": f"do {task}", "observation": observation}]
    answer = server.call("record_trajectory", task=task, steps=steps, outcome="success", reward=1.0)
    return str(answer["trajectory_id"])


def refused(server: Wire, task: str, observation: str = "done") -> str:
    """What a record is refused with."""
    with pytest.raises(RuntimeError) as caught:
        record(server, task, observation)
    assert not isinstance(caught.value, Ended)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def assert_it_has(home: Path, *trajectory_ids: str) -> None:
    store = Store.open(home)
    assert {t.id for t in store.all_trajectories()} == set(trajectory_ids)
    assert store.stored(trajectory_ids) == set(trajectory_ids)
    assert store.list_procedures()
    assert store.check() == []


@contextmanager
def held(home: Path) -> Iterator[subprocess.Popen[str]]:
    """The lock, in the hands of another process."""
    command = [sys.executable, "-c", HOLDER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


# --- the disk


def test_a_disk_without_space_is_said_and_the_rest_goes_on(home: Path, serve: Callable[..., Wire]) -> None:
    server = serve(sys.executable, "-c", LIMITED)
    first = record(server, "water the flowers")
    assert "Free some space" in refused(server, "paint the wall", os.urandom(400_000).hex())
    second = record(server, "sweep the floor")
    with_space = serve()
    third = record(with_space, "paint the wall", "x" * 1000)
    assert_it_has(home, first, second, third)


def test_a_read_only_memory_is_recalled_from_and_says_why_nothing_is_recorded(
    home: Path, serve: Callable[..., Wire]
) -> None:
    kept = record(serve(), "water the flowers")
    with read_only(home):
        server = serve()
        answer = server.call("recall_procedure", task="water the flowers")
        assert [p["title"] for p in answer["procedures"]] == ["water the flowers"]
        assert "could not be written down" in answer["note"]
        assert "set MEMP_HOME to a directory that can be written" in refused(server, "sweep the floor")
    assert_it_has(home, kept, record(server, "sweep the floor"))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for options in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_directory_that_vanishes_is_missed_and_found_again(home: Path, serve: Callable[..., Wire]) -> None:
    server = serve()
    first = record(server, "water the flowers")
    home.rename(home.with_name("elsewhere"))
    assert "is gone. Put it back" in refused(server, "sweep the floor")
    assert not home.exists()
    home.with_name("elsewhere").rename(home)
    assert_it_has(home, first, record(server, "sweep the floor"))


# --- the clock


def test_a_clock_that_jumps_back_loses_nothing_and_confuses_nothing(
    home: Path, serve: Callable[..., Wire], tmp_path: Path
) -> None:
    clock = tmp_path / "clock.c"
    clock.write_text(CLOCK)
    compiler = shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("no C compiler to make a clock with")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "clock.so", clock, "-ldl"], check=True)
    now = serve()
    told = [record(now, task) for task in ("water the flowers", "sweep the floor")]
    earlier = serve(LD_PRELOAD=str(tmp_path / "clock.so"))
    told += [record(earlier, f"count to {i}") for i in range(40)]  # enough for a compaction
    recall = earlier.call("recall_procedure", task="water the flowers")
    used = recall["procedures"][0]
    corrected = earlier.call(
        "reflect_failure",
        recall_id=recall["recall_id"],
        used=[used["id"]],
        task="water the flowers",
        error="They were dry.",
        diagnosis="The tap was shut.",
        correction="pitfall: open the tap",
    )
    assert corrected["changes"][0]["revision"] == 2
    told.append(record(now, "feed the cat"))
    known = now.call("get_procedure", id=used["id"])
    assert (known["procedure"]["revision"], known["procedure"]["uses"]) == (2, 1)
    stored = Store.open(home)
    first, later = stored.history(used["id"])
    assert later.created_at < first.created_at  # the clock was really another one
    assert_it_has(home, *told)


# --- two versions of the program


def test_a_memory_of_a_newer_program_is_left_as_it_is(home: Path, serve: Callable[..., Wire]) -> None:
    kept = record(serve(), "water the flowers")
    meta = home / "meta.json"
    ours = meta.read_text()
    meta.write_text(json.dumps({**json.loads(ours), "format": 99, "program": "9.0"}))
    server = serve()
    assert "written by memp-mcp 9.0" in refused(server, "sweep the floor")
    assert json.loads(meta.read_text())["format"] == 99
    meta.write_text(ours)
    assert_it_has(home, kept, record(server, "sweep the floor"))  # the same server, once it can


def test_columns_that_a_newer_program_has_added_are_no_trouble(home: Path, serve: Callable[..., Wire]) -> None:
    server = serve()
    first = record(server, "water the flowers")
    store = Store.open(home)
    for name in ("trajectories", "procedure_versions", "procedures", "events"):
        store._tables._table(name).add_columns(pa.field("newer", pa.string()))
    second = record(server, "sweep the floor")
    recall = server.call("recall_procedure", task="water the flowers")
    told = {"recall_id": recall["recall_id"], "used": [recall["procedures"][0]["id"]], "error": "dry"}
    server.call("reflect_failure", task="water", diagnosis="no water", correction="pitfall: open the tap", **told)
    assert_it_has(home, first, second, record(serve(), "feed the cat"))


# --- the lock


def test_a_lock_whose_holder_was_killed_is_free(home: Path, serve: Callable[..., Wire]) -> None:
    patient, impatient = serve(), serve(MEMP_LOCK_TIMEOUT="0.2")
    first = record(patient, "water the flowers")
    with held(home) as holder, ThreadPoolExecutor(1) as pool:
        assert "Other writers held the memory" in refused(impatient, "sweep the floor")
        waiting = pool.submit(record, patient, "feed the cat")
        holder.kill()
        second = waiting.result(SECONDS)
    assert_it_has(home, first, second, record(impatient, "sweep the floor"))


# --- the end

Act = Callable[[Wire], None]


def _hang_up(server: Wire) -> None:
    assert server._process.stdin is not None
    server._process.stdin.close()


def _terminate(server: Wire) -> None:
    server._process.send_signal(signal.SIGTERM)


def _interrupt(server: Wire) -> None:
    server._process.send_signal(signal.SIGINT)


ENDS: list[tuple[Act, int]] = [(_hang_up, 0), (_terminate, 128 + signal.SIGTERM), (_interrupt, 128 + signal.SIGINT)]
RECALL = {"name": "recall_procedure", "arguments": {"task": "water the flowers"}}


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal is a TerminateProcess")
@pytest.mark.parametrize(("act", "code"), ENDS)
def test_a_server_that_waits_for_the_lock_ends_when_it_is_to_end(
    home: Path, serve: Callable[..., Wire], act: Act, code: int
) -> None:
    server = serve()
    kept = record(server, "water the flowers")
    with held(home):
        task = {"task": "x", "steps": [{"action": "y"}], "outcome": "success"}
        say(server, {"name": "record_trajectory", "arguments": task})
        act(server)
        assert server._process.wait(SECONDS) == code
    assert_it_has(home, kept)


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal is a TerminateProcess")
@pytest.mark.parametrize(("act", "code"), ENDS)
def test_a_server_that_loads_its_model_ends_when_it_is_to_end(
    home: Path, serve: Callable[..., Wire], act: Act, code: int
) -> None:
    server = serve()
    say(server, RECALL)
    act(server)
    assert server._process.wait(SECONDS) == code


@pytest.mark.skipif(sys.platform == "win32", reason="there nothing tells that a parent is gone")
def test_a_server_whose_client_was_killed_ends_though_it_waits_for_the_lock(
    home: Path, serve: Callable[..., Wire]
) -> None:
    client = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    server = serve(sys.executable, "-c", client, *map(str, SERVER))
    kept = record(server, "water the flowers")
    with held(home):
        task = {"task": "x", "steps": [{"action": "y"}], "outcome": "success"}
        say(server, {"name": "record_trajectory", "arguments": task})
        server.kill()
        assert server._process.stdout is not None
        assert server._process.stdout.read() == b""  # the server has let go of the wire, though its stdin is still open
    assert_it_has(home, kept)


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal is a TerminateProcess")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_is_ended_is_finished_by_the_next_one(
    home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "many.jsonl"
    line = {"steps": [{"action": "look", "observation": "x" * 1000}], "outcome": "success"}
    file.write_text("".join(json.dumps({"task": f"count to {i}", **line}) + "\n" for i in range(300)))
    command = [*map(str, SERVER), "import", str(file), "--json", "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (home / "trajectories.lance" / "data").is_dir() and process.poll() is None:
            pass  # until the first batch is on its way
        process.send_signal(number)
        _, complaints = process.communicate(timeout=SECONDS)
    assert process.returncode in {1 if number == signal.SIGINT else -number, -number}
    assert "Traceback" not in complaints
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["stored"] + told["stored_before"] == 300
    store = Store.open(home)
    assert len(list(store.all_trajectories())) == 300
    assert store.check() == []


def say(server: Wire, call: dict[str, Any]) -> None:
    """Call a tool without waiting for the answer."""
    server._send({"jsonrpc": "2.0", "id": "unheard", "method": "tools/call", "params": call})
