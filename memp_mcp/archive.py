"""The memory in bulk: transcripts in, the whole of it out and in again, a cold start, a rebuild from the evidence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from memp_mcp import __version__, build, judge, keys, redact, revisions, transcripts
from memp_mcp.errors import EmbedderError, LLMFailed, MempError, StaleRevision
from memp_mcp.memory import Memory
from memp_mcp.models import BuildPolicy, Change, Commit, Event, Procedure, Trajectory, UpdatePolicy, Value, new_id
from memp_mcp.transcripts import Exported, Skipped, own

CHUNK = 64
"""Trajectories written together: large enough to spread the cost of a commit, small enough to lose little to a kill."""

Advance = Callable[[int], None]


class Imported(Value):
    """What an import did."""

    read: int = 0
    stored: int = 0
    stored_before: int = 0
    added: int = 0
    merged: int = 0
    other_changes: int = 0
    skipped: tuple[str, ...] = ()


class Kept(Value):
    """A trajectory that the bootstrap looked at, and whether it was kept."""

    task: str
    trajectory_id: str
    score: float | None
    judged_by: str
    steps: int
    kept: bool
    reason: str


class Rebuilt(Value):
    """What a rebuild did."""

    current: int = 0
    finished: int = 0
    embedded: int = 0
    distilled: tuple[Change, ...] = ()
    kept_as_they_are: int = 0


# -- import and export --------------------------------------------------------------------------------------


def import_files(
    memory: Memory,
    paths: Iterable[Path],
    *,
    source_format: str | None = None,
    build_policy: BuildPolicy | None = None,
    update_policy: UpdatePolicy | None = None,
    advance: Advance | None = None,
) -> Imported:
    """Record the trajectories of transcripts, and take over whole exported memories; each content once.

    Raises:
        BadInput: a file is of no known format; what was read from the files before it is stored.

    """
    total = Imported()
    exported: list[Trajectory | Procedure | Event] = []
    for path in paths:
        for chunk in _chunks(transcripts.read(path, source_format=source_format)):
            exported += [_without_secrets(item.value) for item in chunk if isinstance(item, Exported)]
            total = _added(total, skipped=tuple(str(i) for i in chunk if isinstance(i, Skipped)))
            new = [i for i in chunk if isinstance(i, Trajectory)]
            recorded = memory.record_all(new, build_policy=build_policy, update_policy=update_policy, advance=advance)
            kinds = [c.kind for r in recorded for c in r.changes]
            before = sum(r.already_stored for r in recorded)
            total = _added(
                total,
                read=len(new),
                stored=len(new) - before,
                stored_before=before,
                added=kinds.count("add"),
                merged=kinds.count("merge"),
                other_changes=len(kinds) - kinds.count("add") - kinds.count("merge"),
            )
    return _take_over(memory, exported, total) if exported else total


def _chunks(items: Iterable[Trajectory | Exported | Skipped]) -> Iterator[list[Trajectory | Exported | Skipped]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def _without_secrets(value: Trajectory | Procedure | Event) -> Trajectory | Procedure | Event:
    """The value as it may be stored; an export of this program has no secrets left and stays as it is."""
    if isinstance(value, Trajectory):
        return redact.redact_trajectory(value)[0]
    return redact.redact_value(value)[0]


def _added(total: Imported, **more: int | tuple[str, ...]) -> Imported:
    return total.model_copy(update={name: getattr(total, name) + value for name, value in more.items()})


def _take_over(memory: Memory, exported: list[Trajectory | Procedure | Event], total: Imported) -> Imported:
    trajectories = [v for v in exported if isinstance(v, Trajectory)]
    merged = memory.store.merge_in(
        trajectories,
        [v for v in exported if isinstance(v, Procedure)],
        [v for v in exported if isinstance(v, Event)],
    )
    embedder, _ = memory.vectorizer.embedder(wait=60)
    if embedder is not None:
        memory.vectorizer.embed_missing(embedder)
    return _added(
        total,
        read=len(trajectories),
        stored=merged.trajectories,
        stored_before=len(trajectories) - merged.trajectories,
        added=merged.revisions,
        skipped=tuple(merged.conflicts),
    )


def export(memory: Memory) -> Iterator[str]:
    """The whole memory as JSON lines: every trajectory, every revision, every event. `import_files` reads it back."""
    yield own.header({"program": __version__, "memory": memory.store.id})
    values: Iterable[Trajectory | Procedure | Event] = itertools.chain(
        memory.store.all_trajectories(), memory.store.all_revisions(), memory.store.all_events()
    )
    yield from map(own.to_line, values)


# -- cold start ---------------------------------------------------------------------------------------------


class _Judged(NamedTuple):
    trajectory: Trajectory
    note: str

    @property
    def score(self) -> float:
        return -1.0 if self.trajectory.reward is None else self.trajectory.reward.score


def bootstrap(
    memory: Memory,
    paths: Iterable[Path],
    *,
    keep: int = 1,
    source_format: str | None = None,
    advance: Advance | None = None,
) -> list[Kept]:
    """Overcome a cold start: score several trajectories a task with the metric, keep the best, build from those.

    The metric is the judge: a reward that came along, then rules, then the LLM where one is configured. Equal scores
    are settled by the number of steps. What nobody can judge, and what failed, is not built from.

    Raises:
        BadInput: a file cannot be read.

    """
    items = itertools.chain.from_iterable(transcripts.read(p, source_format=source_format) for p in paths)
    judged: dict[str, list[_Judged]] = {}
    for trajectory in (i for i in items if isinstance(i, Trajectory)):
        judged.setdefault(keys.same_task_form(trajectory.task), []).append(_judge(memory, trajectory))
        if advance:
            advance(1)
    report: list[Kept] = []
    best: list[Trajectory] = []
    for group in judged.values():
        order = sorted(group, key=lambda j: (-j.score, len(j.trajectory.steps)))
        for rank, candidate in enumerate(order):
            succeeded = candidate.trajectory.succeeded is True and candidate.score >= 0
            report.append(_kept(candidate, rank, succeeded=succeeded, keep=keep))
            best += [candidate.trajectory] if report[-1].kept else []
    for start in range(0, len(best), CHUNK):
        memory.record_all(best[start : start + CHUNK], update_policy="validation")
    return report


def _judge(memory: Memory, trajectory: Trajectory) -> _Judged:
    try:
        reward = judge.judge(trajectory, rules=memory.rules, llm=memory.llm)
    except LLMFailed as error:
        return _Judged(trajectory, str(error))
    return _Judged(trajectory.model_copy(update={"reward": reward}), "")


def _kept(candidate: _Judged, rank: int, *, succeeded: bool, keep: int) -> Kept:
    trajectory, reward = candidate.trajectory, candidate.trajectory.reward
    if reward is None:
        reason = candidate.note or "nobody could judge it"
    elif not succeeded:
        reason = "it did not succeed"
    elif rank >= keep:
        reason = "another trajectory of this task scored higher or took fewer steps"
    else:
        reason = "the best of its task" if keep == 1 else f"among the best {keep} of its task"
    return Kept(
        task=trajectory.task,
        trajectory_id=trajectory.id,
        score=reward.score if reward else None,
        judged_by=reward.judged_by if reward else "",
        steps=len(trajectory.steps),
        kept=succeeded and rank < keep,
        reason=reason,
    )


# -- rebuild ------------------------------------------------------------------------------------------------


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

    """
    current = memory.store.rebuild_current()
    unfinished = list(memory.store.trajectories(memory.store.unfinished()).values())
    memory.record_all(unfinished)
    embedded = _embed_again(memory, advance) if embed else 0
    changes: list[Change] = []
    kept = 0
    for procedure in memory.list_procedures(limit=1_000_000) if distil else ():
        change = _distilled(memory, procedure, everything=everything)
        changes += [change] if change else []
        kept += change is None
        if advance:
            advance(1)
    return Rebuilt(
        current=current,
        finished=len(unfinished),
        embedded=embedded,
        distilled=tuple(changes),
        kept_as_they_are=kept,
    )


def _embed_again(memory: Memory, advance: Advance | None) -> int:
    embedder = memory.vectorizer.background.ready(600)
    if embedder is None:
        raise EmbedderError(f"No vectors can be made: {memory.vectorizer.background.reason}")
    procedures = memory.list_procedures(limit=1_000_000)
    vectors = memory.vectorizer.of_procedures(embedder, procedures, advance=advance) if procedures else {}
    memory.store.reembed(embedder.name, embedder.dimension, vectors)
    return len(vectors)


def _distilled(memory: Memory, procedure: Procedure, *, everything: bool) -> Change | None:
    """A new script from the exemplar's trajectory; None where there is nothing to build from or nothing changes."""
    corrected = any(r.change in {"revise", "restore"} for r in memory.store.history(procedure.id))
    trajectory = memory.store.trajectory(procedure.exemplar_id or "")
    if trajectory is None or procedure.status == "retired" or (corrected and not everything):
        return None
    draft = build.build(trajectory, policy=memory.settings.build, llm=memory.llm)
    change = revisions.redistilled(procedure, draft)
    if change is None:
        return None
    try:
        memory.store.apply(Commit(op_id=new_id("o"), procedures=(change.procedure,)))
    except StaleRevision:
        return None
    return change


def problems(memory: Memory) -> list[str]:
    """What is wrong with the memory, in words, each with its cure; empty when it is sound."""
    found = memory.store.check()
    try:
        _, reason = memory.vectorizer.embedder(wait=60)
    except MempError as error:
        reason = str(error)
    return found + ([reason] if reason else [])
