"""Several real processes on one memory: the normal case, since every client starts its own server."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from memp_mcp.models import Commit, Procedure
from memp_mcp.store import Store

pytestmark = pytest.mark.usefixtures("unmeasured")
WRITER = """
import sys
from pathlib import Path
from memp_mcp.errors import StaleRevision
from memp_mcp.models import Commit, Event, Procedure, Step, Trajectory, new_id
from memp_mcp.store import Store

directory, worker, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = Store.open(directory)

def acknowledge(*words):
    print(*words, flush=True)

def learn(i):
    told = Trajectory(task=f"Task {i} of {worker}", steps=(Step(action="look"),), outcome="success")
    made = Procedure(title=told.task, when_to_use="Something is to be done.")
    used = Event(kind="used", procedure_id="p_shared", counted_from=1)
    store.apply(Commit(op_id=told.id, trajectory=told, procedures=(made,), events=(used,)))
    acknowledge("learnt", told.id, made.id)
    noted = Event(kind="recalled", procedure_id="p_shared", counted_from=1)
    store.note(noted)
    acknowledge("noted", noted.id)

def revise():
    while True:
        current = store.procedure("p_shared")
        later = current.model_copy(update={"revision": current.revision + 1, "author": worker})
        try:
            store.apply(Commit(op_id=new_id("o"), procedures=(later,)))
        except StaleRevision:
            continue
        return acknowledge("revised", later.revision)

acknowledge("ready")
for i in range(count):
    learn(i)
    revise()
"""


def start(directory: Path, worker: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(directory), worker, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shared_memory(directory: Path) -> Store:
    store = Store.open(directory, lock_timeout=60)
    shared = Procedure(id="p_shared", title="Everybody's", when_to_use="Always.")
    store.apply(Commit(op_id="o_shared", procedures=(shared,)))
    return store


def acknowledged(stdout: str) -> list[list[str]]:
    """The complete lines; the last one of a killed process may be torn."""
    return [line.split() for line in stdout.splitlines(keepends=True) if line.endswith("\n")]


def assert_nothing_is_lost(store: Store, said: list[list[str]]) -> None:
    learnt = [words[1:] for words in said if words[0] == "learnt"]
    noted = {words[1] for words in said if words[0] == "noted"}
    revised = [int(words[1]) for words in said if words[0] == "revised"]
    assert store.stored([t for t, _ in learnt]) == {t for t, _ in learnt}
    assert store.procedures([p for _, p in learnt]).keys() == {p for _, p in learnt}
    assert noted <= {e.id for e in store.events(kind="recalled")}
    assert len(set(revised)) == len(revised)
    revisions = [p.revision for p in store.history("p_shared")]
    assert revisions == list(range(1, len(revisions) + 1))
    assert set(revised) <= set(revisions)


def test_four_processes_write_one_memory_and_nothing_is_lost(tmp_path: Path) -> None:
    store = shared_memory(tmp_path)
    writers = [start(tmp_path, str(i), 8) for i in range(4)]
    said: list[list[str]] = []
    for writer in writers:
        stdout, stderr = writer.communicate()
        assert (writer.returncode, stderr) == (0, "")
        said += acknowledged(stdout)
    assert len(said) == 4 * (1 + 8 * 3)
    assert_nothing_is_lost(store, said)
    assert len(store.history("p_shared")) == 1 + 4 * 8
    counts = store.counts(["p_shared"])["p_shared"][1]
    assert (counts.uses, counts.recalled) == (32, 32)
    assert store.check() == []


def test_processes_killed_in_the_middle_of_writing_lose_nothing_that_they_acknowledged(tmp_path: Path) -> None:
    store = shared_memory(tmp_path)
    chance = random.Random(1)
    said: list[list[str]] = []
    for round_ in range(3):
        writers = [start(tmp_path, f"{round_}-{i}", 1000) for i in range(3)]
        for writer in writers:
            said += killed_after(writer, chance.randrange(2, 9))
        assert_nothing_is_lost(store, said)
    again = Store.open(tmp_path)
    assert_nothing_is_lost(again, said)
    # What was begun and not acknowledged may be there in part: it is known, and can be finished.
    begun = again.trajectories(again.unfinished())
    assert len(again.check()) == (1 if begun else 0)
    again.apply(*(Commit(op_id=i, trajectory=t) for i, t in begun.items()))
    assert again.check() == []


def killed_after(writer: subprocess.Popen[str], lines: int) -> list[list[str]]:
    """Read so many lines of a writer, kill it (SIGKILL) whatever it does just then, and read what it had said."""
    assert writer.stdout is not None
    head = [writer.stdout.readline() for _ in range(lines)]
    writer.kill()
    rest, _ = writer.communicate()
    return acknowledged("".join(head) + rest)
