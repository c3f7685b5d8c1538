"""memp-mcp scrub: secrets out of what is stored already, by the detector as it is today.

What is stored was clean by the detector of its day. Every trajectory, every revision and every event is gone through;
what holds a secret is replaced by the same value with slots, and then all files are rewritten, so that nothing of the
old ones is left in them, in an index or in an earlier version. Ids stay as they are, although that of a trajectory was
made from its content: procedures, events and other memories point at it. (The same run recorded anew gets the id of its
clean content, and is then stored beside it.)

Nothing is lost when it dies half-way, and running it again finishes the work: values are replaced in whole commits, and
the files are rewritten each time, whatever there was to replace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pydantic import Field

from memp_mcp import redact
from memp_mcp.memory import Memory
from memp_mcp.models import Event, Procedure, Trajectory, Value

TOGETHER = 32
"""Values that one commit replaces."""

Stored = Trajectory | Procedure | Event


class Scrubbed(Value):
    """What was found, and replaced unless it was only looked for."""

    trajectories: int = 0
    revisions: int = 0
    events: int = 0
    slots: dict[str, int] = Field(default={}, description="How often each kind of slot was put in.")
    bytes_before: int = 0
    bytes_after: int = 0


def scrub(memory: Memory, *, dry_run: bool = False, advance: Callable[[int], None] | None = None) -> Scrubbed:
    """Replace every secret that is stored by its slot, in the files too; with *dry_run* only count what would change.

    Raises:
        StoreError: the memory cannot be read or written; run it again when that is mended.

    """
    store = memory.store
    before = store.size().bytes
    slots: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    tables: dict[str, Iterator[Stored]] = {
        "trajectories": store.all_trajectories(),
        "revisions": store.all_revisions(),
        "events": store.all_events(),
    }
    for name, values in tables.items():
        for batch in _batches(_dirty(values, slots, advance)):
            changed[name] += len(batch)
            if not dry_run:
                store.replace(batch)
    if not dry_run:
        store.rebuild_current()
        store.erase()
    return Scrubbed(
        **changed,
        slots=dict(sorted(slots.items())),
        bytes_before=before,
        bytes_after=before if dry_run else store.size().bytes,
    )


def _dirty(values: Iterable[Stored], slots: Counter[str], advance: Callable[[int], None] | None) -> Iterator[Stored]:
    """Those of the values that hold secrets, without them."""
    for value in values:
        clean, counts = redact.redact_value(
            value, derived=frozenset({"content_hash"} & type(value).model_fields.keys())
        )
        for slot, count in counts.items():
            slots[re.sub(r"_\d+$", "", slot)] += count
        if advance:
            advance(1)
        if counts:
            yield clean


def _batches(values: Iterable[Stored]) -> Iterator[list[Stored]]:
    batch: list[Stored] = []
    for value in values:
        batch.append(value)
        if len(batch) == TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch
