"""One of several writers on a memory that is shared.

``python bucket_writer.py URI HOME NAME TIMES [--die] [--again]`` prints what is done. With ``--die`` it dies in its
turn, with ``--again`` it calls again what was refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from builders import procedure, trajectory

from memp_mcp.bucket import BucketStore
from memp_mcp.errors import StaleRevision, StoreError
from memp_mcp.models import Commit, Event

SHARED = "p_" + "0" * 12
T = TypeVar("T")


def start(uri: str, home: Path, name: str, times: int, *more: str) -> subprocess.Popen[str]:
    """Start one, in the environment of this process."""
    here = Path(__file__)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parent)])}
    command = [sys.executable, str(here), uri, str(home / name), name, str(times), *more]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


def revise(store: BucketStore, name: str, number: int) -> None:
    """Add a revision to the procedure that all writers change, on top of whatever is there then."""
    done = trajectory(f"task {number} of {name}", "do it")
    event = Event(kind="evidence", procedure_id=SHARED, trajectory_id=done.id)
    while True:
        now = store.procedure(SHARED)
        revision = now.revision + 1 if now else 1
        told = procedure(f"by {name}", id=SHARED, revision=revision)
        commit = Commit(op_id=f"{name}-{number}", trajectory=done, procedures=(told,), events=(event,))
        try:
            done_with(lambda c=commit: store.apply(c))  # type: ignore[misc] # binds the loop's value
        except StaleRevision:
            continue
        return


def done_with(action: Callable[[], T]) -> T:
    """What it gives; with ``--again`` at whichever try."""
    while True:
        try:
            return action()
        except StoreError:
            if "--again" not in sys.argv:
                raise


def main() -> None:
    """Write, and say so."""
    uri, home, name, times = sys.argv[1:5]
    store = done_with(lambda: BucketStore.connect(uri, Path(home), lock_timeout=120))
    for number in range(int(times)):
        revise(store, name, number)
        recall = Event(kind="recall", recall_id=f"r_{name}{number}")
        done_with(lambda e=recall: store.note_recall(e))  # type: ignore[misc] # binds the loop's value
        sys.stdout.write(f"{name}-{number}\n")
        sys.stdout.flush()
        if "--die" in sys.argv and number == 1:
            with store._locked():
                os._exit(9)


if __name__ == "__main__":
    main()
