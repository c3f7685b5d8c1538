"""What this memory has under an id, or a clear word that it has nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from memp_mcp.errors import NotFound, StoreDamaged
from memp_mcp.models import Counts, Event, Procedure, Text, Trajectory, Value, checked_id, stable_id
from memp_mcp.store import Store
from memp_mcp.update import Used

NO_WORDS = "no neighbours by words, since their index cannot be read: run `memp-mcp repair`"

log = logging.getLogger(__name__)
T = TypeVar("T")


class Known(NamedTuple):
    """A procedure with its counts since its script was last changed."""

    procedure: Procedure
    counts: Counts


class Returned(Value):
    """A procedure that a recall returned."""

    id: str
    revision: int


class Noted(Value):
    """What is written down of a recall, as JSON, in the detail of its event."""

    task: Text
    error: Text
    returned: tuple[Returned, ...]
    withheld: tuple[Returned, ...] = ()
    """What would have been returned, where it was withheld at random."""
    holdout: float = 0.0
    """The share that was withheld at the time, where this recall took part in the draw; else 0."""


def noted(recall: Event) -> Noted:
    """What was written down of a recall.

    Raises:
        pydantic.ValidationError: the event was not written by this program.

    """
    return Noted.model_validate_json(recall.detail)


def known(store: Store, procedure_id: str, *, revision: int | None = None) -> Known:
    """A procedure as it is, or as it was at a revision, with its counts.

    Raises:
        NotFound: there is no such procedure or revision.

    """
    checked_id("procedure", procedure_id)
    current = store.procedure(procedure_id)
    if current is None:
        raise NotFound("procedure", procedure_id, "Call recall_procedure to get current ids, or `memp-mcp list`.")
    wanted = current if revision is None else store.revision(procedure_id, revision)
    if wanted is None:
        raise NotFound("revision", f"{procedure_id}@{revision}", f"The current revision is {current.revision}.")
    return Known(wanted, store.counts([procedure_id]).get(procedure_id, {}).get(wanted.counted_from, Counts()))


def trajectory(store: Store, trajectory_id: str) -> Trajectory:
    """A stored trajectory.

    Raises:
        NotFound: there is none with this id.

    """
    checked_id("trajectory", trajectory_id)
    found = store.trajectory(trajectory_id)
    if found is None:
        raise NotFound("trajectory", trajectory_id, "Ids come from record_trajectory.")
    return found


def recalled(store: Store, recall_id: str) -> list[Procedure]:
    """The procedures that a recall returned, in the revisions that it returned, best first.

    Raises:
        NotFound: this memory never gave that recall id.

    """
    checked_id("recall", recall_id)
    found = store.events(kind="recall", recall_id=recall_id)
    if not found:
        raise NotFound("recall", recall_id, "It may belong to another memory: leave recall_id out, or recall again.")
    revisions = (store.revision(r.id, r.revision) for r in noted(found[0]).returned)
    return [p for p in revisions if p is not None]


def by_words(search: Callable[[], list[T]], notes: list[str]) -> list[T]:
    """What a search by words finds. A damaged index is a reason to say so in *notes*, not to refuse what is told."""
    try:
        return search()
    except StoreDamaged as error:
        log.warning("%s", error)
        if NO_WORDS not in notes:
            notes.append(NO_WORDS)
        return []


def is_withheld(store: Store, recall_id: str) -> bool:
    """Whether what this recall found was withheld, so that its outcome says nothing about any procedure."""
    return any(noted(e).withheld for e in store.events(kind="recall", recall_id=recall_id))


def evidence(trajectory: Trajectory, procedure: Procedure, *, client: str) -> Event:
    """The event which says that a trajectory stands behind a procedure; its id is one that a retry makes again."""
    return Event.about(
        procedure,
        id=stable_id("e", "evidence", trajectory.id, procedure.id),
        kind="evidence",
        trajectory_id=trajectory.id,
        client=client,
        project=trajectory.project,
    )


def used(store: Store, procedure: Procedure) -> Used:
    """A procedure with its counts, and the script that it replaced with the counts of that one."""
    counts = store.counts([procedure.id]).get(procedure.id, {})
    parent = None
    if procedure.counted_from > 1:
        earlier = [r for r in store.history(procedure.id) if r.revision < procedure.counted_from]
        others = (r for r in reversed(earlier) if r.script and r.script != procedure.script)
        parent = next((r for r in others if r.status != "retired"), None)
    return Used(
        procedure,
        counts.get(procedure.counted_from, Counts()),
        parent,
        counts.get(parent.counted_from, Counts()) if parent else Counts(),
    )
