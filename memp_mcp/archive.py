"""The memory in bulk: transcripts in, the whole of it out and in again, a cold start, a rebuild from the evidence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from memp_mcp import __version__, build, judge, keys, lookup, redact, revisions, transcripts, update
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
from memp_mcp.settings import Settings
from memp_mcp.transcripts import Exported, Skipped, Unreadable, own
from memp_mcp.transcripts.places import Source, below, kept_by

ALL = 1_000_000
CHUNK = 64
"""Trajectories written together: large enough to spread the cost of a commit, small enough to lose little to a kill."""

CHUNK_CHARACTERS = 16_000_000
"""Of the trajectories written together: two of the largest that can be stored."""
TASK_CHARACTERS = 100
"""Of a task that a preview shows."""
TOLD = 100
"""Reasons why places gave nothing that are told; all places are counted."""

Advance = Callable[[int], None]


class Imported(Value):
    """What an import did."""

    read: int = 0
    stored: int = 0
    stored_before: int = 0
    added: int = 0
    merged: int = 0
    other_changes: int = 0
    unknown: int = Field(default=0, description="How many of those stored nobody could judge.")
    skipped: tuple[str, ...] = Field(default=(), description="Why places gave nothing: each reason, the first place.")
    skips: int = Field(default=0, description="How many places gave nothing.")
    unread: int = Field(default=0, description="How many of the files that were named gave nothing at all.")


class Learnable(Value):
    """A trajectory that a procedure would be built from or merged into."""

    task: str = Field(description="In one line, shortened.")
    verdict: str = Field(description="success, failure or unknown.")
    judged_by: str = Field(description="Empty: by nobody.")


class Preview(Value):
    """What an import of a file would find in it."""

    file: str
    format: str = Field(default="", description="Empty: of no known format.")
    trajectories: int = 0
    steps: int = 0
    success: int = 0
    failure: int = 0
    unknown: int = 0
    learnt: int = Field(default=0, description="Trajectories that a procedure would be built from or merged into.")
    tasks: tuple[Learnable, ...] = Field(default=(), description="Those, in the order of the file.")
    exported: int = Field(default=0, description="Values of an exported memory.")
    skipped: tuple[str, ...] = Field(default=(), description="Why places gave nothing: each reason, the first place.")
    skips: int = Field(default=0, description="How many places gave nothing.")
    unread: int = Field(default=0, description="1 for a file that was named and gave nothing at all.")


class _Skips:
    """Places that gave nothing, by the reason."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, place: str, reason: str) -> None:
        """Count a place."""
        self._counts[reason] += 1
        if len(self._places) < TOLD:
            self._places.setdefault(reason, place)

    def report(self) -> dict[str, object]:
        """As fields of Imported or Preview."""
        told = tuple(self._told(place, reason) for reason, place in self._places.items())
        return {"skipped": told, "skips": self._counts.total()}

    def _told(self, place: str, reason: str) -> str:
        count = self._counts[reason]
        return f"{place}: {reason}" if count == 1 else f"{place}, and {count - 1:,} more places: {reason}"


_FIGURES = [name for name, field in Preview.model_fields.items() if field.annotation is int]


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


def sources(paths: Iterable[Path], clients: Iterable[str], environ: Mapping[str, str]) -> list[Source]:
    """The files that an import reads: those that are named, those below a folder, those that a client keeps.

    Raises:
        BadInput: a client has kept none, or nothing at all is named.

    """
    files = [*below(paths), *(file for client in clients for file in kept_by(client, environ))]
    if not files:
        raise BadInput("There is nothing to import. Name a file, a folder that holds some, or a client by --from.")
    return files


def import_files(
    memory: Memory,
    paths: Iterable[Path | Source],
    *,
    source_format: str | None = None,
    project: str = "",
    build_policy: BuildPolicy | None = None,
    update_policy: UpdatePolicy | None = None,
    advance: Advance | None = None,
) -> Imported:
    """Record the trajectories of transcripts, and take over whole exported memories; each content once.

    What is read is written in batches, across the files: an import that is broken off keeps those, and when it is run
    again it passes over them. *project* is that of `transcripts.reading`. *advance* is told of each file.

    Raises:
        BadInput: there is no such format.

    """
    learn = partial(memory.record_all, build_policy=build_policy, update_policy=update_policy)
    total = Imported()
    skips = _Skips()
    exported: list[Trajectory | Procedure | Event] = []
    for batch in _batches(_read(paths, source_format=source_format, project=project, advance=advance)):
        sifted = _sifted(memory, batch, skips)
        exported += sifted.exported
        total = _added(_learnt(total, learn(sifted.trajectories)), unread=len(sifted.unread))
    if exported:
        total = _take_over(memory, exported, total, skips)
    return total.model_copy(update=skips.report())


class _Piece(NamedTuple):
    """What was found in a file; Unreadable where it was named and nothing can be read of it."""

    path: Path
    format: str
    value: Trajectory | Exported | Skipped | Unreadable


class _Sifted(NamedTuple):
    """A batch by what is to be done with it."""

    trajectories: list[Trajectory]
    exported: list[Trajectory | Procedure | Event]
    unread: list[Path]


def _read(
    paths: Iterable[Path | Source],
    *,
    source_format: str | None,
    project: str = "",
    advance: Advance | None = None,
) -> Iterator[_Piece]:
    """What is in the files; *advance* is told of each."""
    for source in (p if isinstance(p, Source) else Source(p, named=True) for p in paths):
        yield from _pieces(source, source_format, project)
        if advance:
            advance(1)


def _pieces(source: Source, source_format: str | None, project: str) -> Iterator[_Piece]:
    try:
        reading = transcripts.reading(source.path, source_format=source_format, project=project)
    except (Unreadable, OSError) as error:
        refused = error if isinstance(error, Unreadable) else Unreadable(source.path, f"{error.strerror or error}.")
        yield _Piece(source.path, "", refused if source.named else Skipped(source.path, 1, refused.reason))
        return
    for value in reading.values:
        yield _Piece(source.path, reading.format, value)


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += _size(piece.value)
        if len(batch) >= CHUNK or size >= CHUNK_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(value: object) -> int:
    return sum(len(s.action) + len(s.observation) for s in value.steps) if isinstance(value, Trajectory) else 0


def _sifted(memory: Memory, batch: Iterable[_Piece], skips: _Skips) -> _Sifted:
    sifted = _Sifted([], [], [])
    for piece in batch:
        try:
            match piece.value:
                case Unreadable(advice=advice):
                    sifted.unread.append(piece.path)
                    skips.add(str(piece.path), advice)
                case Skipped(path, line, reason):
                    skips.add(f"{path}:{line}", reason)
                case Exported(value):
                    sifted.exported.append(_fit_to_store(value))
                case Trajectory() as told:
                    sifted.trajectories.append(_fit_to_record(memory, told, piece.format))
        except (BadInput, ValidationError) as error:
            skips.add(f"{piece.path}: {_called(piece.value)}", str(error))
    return sifted


def _fit_to_record(memory: Memory, trajectory: Trajectory, source_format: str) -> Trajectory:
    """The trajectory with ids that this memory knows: a client may have asked another one.

    Raises:
        BadInput: the project's own format names an id that is unknown, which somebody has to look into.

    """
    if source_format != "own":
        return without_lost_ids(memory, trajectory)
    _check_ids(memory, trajectory)
    return trajectory


def preview(
    settings: Settings,
    paths: Iterable[Path | Source],
    *,
    source_format: str | None = None,
    project: str = "",
    update_policy: UpdatePolicy | None = None,
    advance: Advance | None = None,
) -> tuple[list[Preview], Preview]:
    """What an import would find in each file, and in all of them; it stores nothing and makes no memory.

    Outcomes are judged by the rules; an LLM is not asked. *advance* is told of each file.

    Raises:
        BadInput: there is no such format, or the rules of the settings cannot be used.

    """
    rules = judge.load_rules(settings.rules or settings.directory / "rules.toml", required=settings.rules is not None)
    policy = update_policy or settings.update
    found: dict[Path, Preview] = {}
    tasks: dict[Path, list[Learnable]] = defaultdict(list)
    skips: dict[Path | None, _Skips] = defaultdict(_Skips)
    for piece in _read(paths, source_format=source_format, project=project, advance=advance):
        before = found.get(piece.path, Preview(file=str(piece.path), format=piece.format))
        seen = _seen(piece, rules, policy)
        found[piece.path] = _both(before, seen)
        tasks[piece.path] += seen.tasks
        if why := _why_nothing(piece):
            for part in (piece.path, None):
                skips[part].add(*why)
    total = reduce(_both, found.values(), Preview(file="in all"))
    files = [
        seen.model_copy(update={"tasks": tuple(tasks[path]), **skips[path].report()}) for path, seen in found.items()
    ]
    return files, total.model_copy(update=skips[None].report())


def _seen(piece: _Piece, rules: Sequence[judge.Rule], policy: UpdatePolicy) -> Preview:
    if isinstance(piece.value, Trajectory):
        return _outlook(piece.value, rules, policy)
    return Preview(file="", exported=isinstance(piece.value, Exported), unread=isinstance(piece.value, Unreadable))


def _why_nothing(piece: _Piece) -> tuple[str, str] | None:
    """The place that gave nothing, and why."""
    match piece.value:
        case Unreadable(advice=advice):
            return str(piece.path), advice
        case Skipped(path, line, reason):
            return f"{path}:{line}", reason
        case _:
            return None


def _both(one: Preview, other: Preview) -> Preview:
    return one.model_copy(update={name: getattr(one, name) + getattr(other, name) for name in _FIGURES})


def _outlook(trajectory: Trajectory, rules: Sequence[judge.Rule], policy: UpdatePolicy) -> Preview:
    clean = redact.redact_trajectory(trajectory)[0]
    judged = clean.model_copy(update={"reward": judge.judge(clean, rules=rules)})
    learnt = update.wants_draft(judged, policy)
    return Preview(
        file="",
        trajectories=1,
        steps=len(clean.steps),
        success=judged.succeeded is True,
        failure=judged.succeeded is False,
        unknown=judged.succeeded is None,
        learnt=learnt,
        tasks=(_learnable(judged),) if learnt else (),
    )


def _learnable(judged: Trajectory) -> Learnable:
    verdict = {True: "success", False: "failure", None: "unknown"}[judged.succeeded]
    task = " ".join(judged.task.split())
    shown = task if len(task) <= TASK_CHARACTERS else f"{task[: TASK_CHARACTERS - 1]}…"
    return Learnable(task=shown, verdict=verdict, judged_by=judged.reward.judged_by if judged.reward else "")


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


def _called(item: object) -> str:
    value = item.value if isinstance(item, Exported) else item
    return repr(value.task[:60]) if isinstance(value, Trajectory) else type(value).__name__.lower()


def _learnt(total: Imported, recorded: Sequence[Recorded]) -> Imported:
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
        unknown=sum(r.succeeded is None and not r.already_stored for r in recorded),
    )


def _added(total: Imported, **more: int) -> Imported:
    return total.model_copy(update={name: getattr(total, name) + value for name, value in more.items()})


def _take_over(
    memory: Memory, exported: list[Trajectory | Procedure | Event], total: Imported, skips: _Skips
) -> Imported:
    trajectories = [v for v in exported if isinstance(v, Trajectory)]
    merged = memory.store.merge_in(
        trajectories,
        [v for v in exported if isinstance(v, Procedure)],
        [v for v in exported if isinstance(v, Event)],
    )
    embedder, _ = memory.vectorizer.embedder(wait=60)
    if embedder is not None:
        memory.vectorizer.embed_missing(embedder)
    for conflict in merged.conflicts:
        skips.add(conflict, "this memory has another history of it, which was kept")
    return _added(
        total,
        read=len(trajectories),
        stored=merged.trajectories,
        stored_before=len(trajectories) - merged.trajectories,
        added=merged.revisions,
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
    for path, _, item in _read(below(paths), source_format=source_format):
        match item:
            case Unreadable():
                raise item
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
