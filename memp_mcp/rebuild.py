"""What can be derived from the evidence again: current procedures, unfinished work, vectors, scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from memp_mcp import build, lookup, revisions
from memp_mcp.errors import EmbedderError, LLMFailed, MempError, NotFound, StaleRevision
from memp_mcp.memory import Memory
from memp_mcp.models import Change, Commit, Procedure, Trajectory, Value, new_id

ALL = 1_000_000

Advance = Callable[[int], None]


class Rebuilt(Value):
    """What a rebuild did."""

    current: int = 0
    finished: int = 0
    embedded: int = 0
    distilled: tuple[Change, ...] = ()
    kept_as_they_are: int = 0


def rebuild(
    memory: Memory,
    *,
    embed: bool = False,
    distil: bool = False,
    everything: bool = False,
    advance: Advance | None = None,
) -> Rebuilt:
    """Derive again what can be derived.

    Always: the current procedures from their revisions, and what a crash left between a trajectory and its procedure.
    With *embed* all vectors by the embedder of the settings; with *distil* scripts from the evidence by the build
    policy and LLM of the settings, except those that a reflection has corrected, unless *everything* is asked for.

    Raises:
        EmbedderError: the embedder cannot be loaded.
        MempError: the LLM failed; what had been distilled before stays so.

    """
    current = memory.store.rebuild_current()
    finished = finish(memory)
    embedded = embed_again(memory, advance) if embed else 0
    procedures = memory.list_procedures(limit=ALL) if distil else []
    changes = _distil(memory, procedures, everything=everything, advance=advance)
    return Rebuilt(
        current=current,
        finished=finished,
        embedded=embedded,
        distilled=tuple(changes),
        kept_as_they_are=len(procedures) - len(changes),
    )


def finish(memory: Memory) -> int:
    """Learn from the trajectories that a process which died had only stored; returns how many there were."""
    unfinished = memory.store.trajectories(memory.store.unfinished(limit=ALL)).values()
    memory.record_all([without_lost_ids(memory, t) for t in unfinished])
    return len(unfinished)


def without_lost_ids(memory: Memory, trajectory: Trajectory) -> Trajectory:
    """The trajectory without the ids that have been forgotten since: nothing is left to credit under them."""
    used = memory.store.procedures(trajectory.used)
    lost = trajectory.recall_id and not memory.store.events(kind="recall", recall_id=trajectory.recall_id)
    recall_id = None if lost else trajectory.recall_id
    return trajectory.model_copy(
        update={"used": tuple(u for u in trajectory.used if u in used), "recall_id": recall_id}
    )


def _distil(
    memory: Memory, procedures: Iterable[Procedure], *, everything: bool, advance: Advance | None
) -> list[Change]:
    changes: list[Change] = []
    for procedure in procedures:
        try:
            change = _distilled(memory, procedure, everything=everything)
        except LLMFailed as error:
            raise MempError(
                f"{error.llm} gave no usable answer: {error.reason}. The {len(changes)} procedures that were distilled "
                "before that are kept as they are now; call again to go on with the others."
            ) from error
        changes += [change] if change else []
        if advance:
            advance(1)
    return changes


def embed_again(memory: Memory, advance: Advance | None = None) -> int:
    """Make all vectors anew, by the embedder of the settings; returns how many.

    Raises:
        EmbedderError: the embedder cannot be loaded.

    """
    embedder = memory.vectorizer.background.ready(600)
    if embedder is None:
        raise EmbedderError(f"No vectors can be made: {memory.vectorizer.background.reason}")
    procedures = memory.list_procedures(limit=ALL)
    vectors = memory.vectorizer.of_procedures(embedder, procedures, advance=advance) if procedures else {}
    memory.store.reembed(embedder.name, embedder.dimension, vectors)
    return len(vectors) + memory.vectorizer.embed_missing(embedder)  # what was recorded meanwhile


def _distilled(memory: Memory, procedure: Procedure, *, everything: bool) -> Change | None:
    """A new script from the exemplar's trajectory; None where there is nothing to build from or nothing changes."""
    corrected = any(r.change in {"revise", "restore"} for r in memory.store.history(procedure.id))
    trajectory = memory.store.trajectory(procedure.exemplar_id or "")
    if trajectory is None or procedure.status == "retired" or (corrected and not everything):
        return None
    recalled = _recalled(memory, trajectory)
    draft = build.build(trajectory, policy=memory.settings.build, llm=memory.llm, recalled=recalled)
    change = revisions.redistilled(procedure, draft)
    if change is None:
        return None
    try:
        memory.store.apply(Commit(op_id=new_id("o"), procedures=(change.procedure,)))
    except StaleRevision:
        return None
    return change


def _recalled(memory: Memory, trajectory: Trajectory) -> list[Procedure]:
    """What the agent had been told: it must not come back as evidence."""
    try:
        return lookup.recalled(memory.store, trajectory.recall_id) if trajectory.recall_id else []
    except NotFound:  # recalled from a memory whose events did not come along
        return []
