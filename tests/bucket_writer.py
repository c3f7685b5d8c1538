"""One of several writers on a bucket: ``python bucket_writer.py URI HOME NAME TIMES [--die]``; prints what is done."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from builders import procedure, trajectory

from memp_mcp.bucket import BucketStore
from memp_mcp.errors import StaleRevision
from memp_mcp.models import Commit, Event

SHARED = "p_" + "0" * 12


def revise(store: BucketStore, name: str, number: int) -> None:
    """Add a revision to the procedure that all writers change, on top of whatever is there then."""
    done = trajectory(f"task {number} of {name}", "do it")
    event = Event(kind="evidence", procedure_id=SHARED, trajectory_id=done.id)
    while True:
        now = store.procedure(SHARED)
        revision = now.revision + 1 if now else 1
        told = procedure(f"by {name}", id=SHARED, revision=revision)
        try:
            store.apply(Commit(op_id=f"{name}-{number}", trajectory=done, procedures=(told,), events=(event,)))
        except StaleRevision:
            continue
        return


def main() -> None:
    """Write, and say so."""
    uri, home, name, times = sys.argv[1:5]
    store = BucketStore.connect(uri, Path(home), lock_timeout=120)
    for number in range(int(times)):
        revise(store, name, number)
        store.note_recall(Event(kind="recall", recall_id=f"r_{name}{number}"))
        sys.stdout.write(f"{name}-{number}\n")
        sys.stdout.flush()
        if "--die" in sys.argv and number == 1:
            with store._locked():
                os._exit(9)


main()
