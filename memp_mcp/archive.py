"""The memory in bulk: transcripts in, the whole of it out and in again, a cold start, a rebuild from the evidence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from memp_mcp import __version__, build, judge, keys, lookup, redact, revisions, transcripts
from memp_mcp.errors import BadInput, EmbedderError, LLMFailed, MempError, NotFound, StaleRevision, StoreDamaged
from memp_mcp.memory import Memory
from memp_mcp.models import (
    BuildPolicy,
    Change,
    Commit,
    Event,
    Procedure,
    Trajectory,
    UpdatePolicy,
    Value,
    checked_id,
    new_id,
)
from memp_mcp.record import Recorded
from memp_mcp.transcripts import Exported, Skipped, own

ALL = 1_000_000
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
    """A trajectory that the bootstrap looked at, and whether it was kept; without a task a place that gave none."""

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
    learn = partial(memory.record_all, build_policy=build_policy, update_policy=update_policy, advance=advance)
    total = Imported()
    for path in paths:
        exported: list[Trajectory | Procedure | Event] = []
        for chunk in _chunks(transcripts.read(path, source_format=source_format)):
            sifted = _sifted(memory, path, chunk)
            exported += sifted.exported
            total = _learnt(total, learn(sifted.trajectories), sifted.skipped)
        if exported:
            total = _take_over(memory, exported, total)
    return total


class _Sifted(NamedTuple):
    """A chunk of a file by what is to be done with it."""

    trajectories: list[Trajectory]
    exported: list[Trajectory | Procedure | Event]
    skipped: list[str]


def _chunks(items: Iterable[Trajectory | Exported | Skipped]) -> Iterator[list[Trajectory | Exported | Skipped]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def _sifted(memory: Memory, path: Path, chunk: Iterable[Trajectory | Exported | Skipped]) -> _Sifted:
    sifted = _Sifted([], [], [])
    for item in chunk:
        try:
            match item:
                case Skipped():
                    sifted.skipped.append(str(item))
                case Exported():
                    sifted.exported.append(_fit_to_store(item.value))
                case Trajectory():
                    _check_ids(memory, item)
                    sifted.trajectories.append(item)
        except (BadInput, ValidationError) as error:
            sifted.skipped.append(f"{path}: {_called(item)}: {error}")
    return sifted


def _fit_to_store(value: Trajectory | Procedure | Event) -> Trajectory | Procedure | Event:
    """The value without secrets, if everything that looks for it later will be able to read it.

    An export of this program has no secrets left and stays as it is.

    Raises:
        BadInput: nobody could ever ask for it by such an id.
        pydantic.ValidationError: it says that something was recalled, but not what.

    """
    if isinstance(value, Trajectory):
        checked_id("trajectory", value.id)
        return redact.redact_trajectory(value)[0]
    clean = redact.redact_value(value)[0]
    if isinstance(clean, Procedure):
        checked_id("procedure", clean.id)
    elif clean.kind == "recall":
        lookup.noted(clean)
    return clean


def _check_ids(memory: Memory, trajectory: Trajectory) -> None:
    """Raise BadInput where a trajectory has, or speaks of, ids that this memory can do nothing with."""
    checked_id("trajectory", trajectory.id)
    if trajectory.recall_id:
        lookup.recalled(memory.store, trajectory.recall_id)
    for procedure_id in trajectory.used:
        lookup.known(memory.store, procedure_id)


def _called(item: Trajectory | Exported | Skipped) -> str:
    value = item.value if isinstance(item, Exported) else item
    return repr(value.task[:60]) if isinstance(value, Trajectory) else type(value).__name__.lower()


def _learnt(total: Imported, recorded: Sequence[Recorded], skipped: Sequence[str]) -> Imported:
    kinds = [c.kind for r in recorded for c in r.changes]
    before = sum(r.already_stored for r in recorded)
    return _added(
        total,
        read=len(recorded),
        stored=len(recorded) - before,
        stored_before=before,
        added=kinds.count("add"),
        merged=kinds.count("merge"),
        other_changes=len(kinds) - kinds.count("add") - kinds.count("merge"),
        skipped=tuple(skipped),
    )


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
        skipped=tuple(f"{i}: this memory has another history of it, which was kept" for i in merged.conflicts),
    )


def export(memory: Memory) -> Iterator[str]:
    """The whole memory as JSON lines: every trajectory, every revision, every event. `import_files` reads it back.

    Raises:
        StoreDamaged: something could not be read; raised at the end, after everything that could.

    """
    yield own.header({"program": __version__, "memory": memory.store.id})
    damaged: list[StoreDamaged] = []
    # What others speak of is written before them and read after them: so none is missing though somebody writes now.
    tables: tuple[Callable[[], Iterator[Trajectory | Procedure | Event]], ...] = (
        memory.store.all_events,
        memory.store.all_revisions,
        memory.store.all_trajectories,
    )
    for values in tables:
        try:
            yield from map(own.to_line, values())
        except StoreDamaged as error:
            damaged.append(error)
    if damaged:
        raise StoreDamaged(f"The export is complete but for what could not be read. {damaged[0]}") from damaged[0]


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
        BadInput: a file cannot be read, or is an exported memory. Nothing was stored.

    """
    judged: dict[str, list[_Judged]] = {}
    report: list[Kept] = []
    for path, item in ((p, i) for p in paths for i in transcripts.read(p, source_format=source_format)):
        match item:
            case Exported():
                raise BadInput(f"{path} is an exported memory. Take it over by `memp-mcp import`.")
            case Skipped():
                report.append(_not_kept(str(item)))
            case Trajectory():
                judged.setdefault(keys.same_task_form(item.task), []).append(_judge(memory, item))
                if advance:
                    advance(1)
    return report + _keep_best(memory, judged.values(), keep)


def _not_kept(reason: str) -> Kept:
    return Kept(task="", trajectory_id="", score=None, judged_by="", steps=0, kept=False, reason=reason)


def _keep_best(memory: Memory, groups: Iterable[list[_Judged]], keep: int) -> list[Kept]:
    report: list[Kept] = []
    best: list[Trajectory] = []
    for group in groups:
        order = sorted(group, key=lambda j: (-j.score, len(j.trajectory.steps)))
        for rank, candidate in enumerate(order):
            succeeded = candidate.trajectory.succeeded is True and candidate.score >= 0
            report.append(_kept(candidate, rank, succeeded=succeeded, keep=keep))
            best += [candidate.trajectory] if report[-1].kept else []
    for start in range(0, len(best), CHUNK):
        memory.record_all(best[start : start + CHUNK], update_policy="validation")
    return report


def _judge(memory: Memory, trajectory: Trajectory) -> _Judged:
    trajectory = redact.redact_trajectory(trajectory)[0]  # an LLM is not to see what may not be stored
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
        MempError: the LLM failed; what had been distilled before stays so.

    """
    current = memory.store.rebuild_current()
    finished = _finish(memory)
    embedded = _embed_again(memory, advance) if embed else 0
    procedures = memory.list_procedures(limit=ALL) if distil else []
    changes = _distil(memory, procedures, everything=everything, advance=advance)
    return Rebuilt(
        current=current,
        finished=finished,
        embedded=embedded,
        distilled=tuple(changes),
        kept_as_they_are=len(procedures) - len(changes),
    )


def _finish(memory: Memory) -> int:
    """Learn from the trajectories that a process which died had only stored."""
    unfinished = memory.store.trajectories(memory.store.unfinished(limit=ALL)).values()
    memory.record_all([_without_lost_ids(memory, t) for t in unfinished])
    return len(unfinished)


def _without_lost_ids(memory: Memory, trajectory: Trajectory) -> Trajectory:
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


def _embed_again(memory: Memory, advance: Advance | None) -> int:
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


def problems(memory: Memory) -> list[str]:
    """What is wrong with the memory, in words, each with its cure; empty when it is sound."""
    found = memory.store.check()
    try:
        _, reason = memory.vectorizer.embedder(wait=60)
    except MempError as error:
        reason = str(error)
    return found + ([reason] if reason else [])
