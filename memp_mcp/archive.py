"""The memory in bulk: transcripts in, the whole of it out and in again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial, reduce
from pathlib import Path
from typing import NamedTuple, TextIO

from pydantic import Field, ValidationError

from memp_mcp import __version__, judge, lookup, redact, transcripts, update
from memp_mcp.errors import BadInput, StoreDamaged
from memp_mcp.files import unfinished
from memp_mcp.memory import Memory
from memp_mcp.models import (
    BuildPolicy,
    Event,
    Procedure,
    Trajectory,
    UpdatePolicy,
    Value,
    checked_id,
)
from memp_mcp.rebuild import Advance, without_lost_ids
from memp_mcp.record import Recorded
from memp_mcp.settings import Settings
from memp_mcp.transcripts import Exported, Skipped, Unreadable, own
from memp_mcp.transcripts.places import Source, below, kept_by

CHUNK = 64
"""Trajectories written together: large enough to spread the cost of a commit, small enough to lose little to a kill."""

CHUNK_CHARACTERS = 16_000_000
"""Of the trajectories written together: two of the largest that can be stored."""
TASK_CHARACTERS = 100
"""Of a task that a preview shows."""
TOLD = 100
"""Reasons why places gave nothing that are told; all places are counted."""


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


def sources(paths: Iterable[Path], clients: Iterable[str], environ: Mapping[str, str]) -> list[Source]:
    """The files that an import reads: those that are named, those below a folder, those that a client keeps.

    Raises:
        BadInput: there are none at all.

    """
    files = [*below(paths), *(file for client in clients for file in kept_by(client, environ))]
    if all(file.lacks for file in files):
        nothing = "There is nothing to import. Name a file, a folder that holds some, or a client by --from."
        raise BadInput(" ".join(file.lacks for file in files) or nothing)
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
    for batch in _batches(read(paths, source_format=source_format, project=project, advance=advance)):
        sifted = _sifted(memory, batch, skips)
        exported += sifted.exported
        total = _added(_learnt(total, learn(sifted.trajectories)), unread=len(sifted.unread))
    if exported:
        total = _take_over(memory, exported, total, skips)
    return total.model_copy(update=skips.report())


class Piece(NamedTuple):
    """What was found in a file; Unreadable where it was named and nothing can be read of it."""

    path: Path
    format: str
    value: Trajectory | Exported | Skipped | Unreadable


class _Sifted(NamedTuple):
    """A batch by what is to be done with it."""

    trajectories: list[Trajectory]
    exported: list[Trajectory | Procedure | Event]
    unread: list[Path]


def read(
    paths: Iterable[Path | Source],
    *,
    source_format: str | None,
    project: str = "",
    advance: Advance | None = None,
) -> Iterator[Piece]:
    """What is in the files; *advance* is told of each."""
    for source in (p if isinstance(p, Source) else Source(p, named=True) for p in paths):
        yield from _pieces(source, source_format, project)
        if advance:
            advance(1)


def _pieces(source: Source, source_format: str | None, project: str) -> Iterator[Piece]:
    if source.lacks:
        yield Piece(source.path, "", Unreadable(source.path, source.lacks))
        return
    try:
        reading = transcripts.reading(source.path, source_format=source_format, project=project)
    except (Unreadable, OSError) as error:
        refused = error if isinstance(error, Unreadable) else Unreadable(source.path, f"{error.strerror or error}.")
        yield Piece(source.path, "", refused if source.named else Skipped(source.path, 1, refused.reason))
        return
    for value in reading.values:
        yield Piece(source.path, reading.format, value)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
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


def _sifted(memory: Memory, batch: Iterable[Piece], skips: _Skips) -> _Sifted:
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
    for piece in read(paths, source_format=source_format, project=project, advance=advance):
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


def _seen(piece: Piece, rules: Sequence[judge.Rule], policy: UpdatePolicy) -> Preview:
    if isinstance(piece.value, Trajectory):
        return _outlook(piece.value, rules, policy)
    return Preview(file="", exported=isinstance(piece.value, Exported), unread=isinstance(piece.value, Unreadable))


def _why_nothing(piece: Piece) -> tuple[str, str] | None:
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


def export_to(memory: Memory, file: Path) -> int:
    """Write the export to a file, which gets its name at the end: an earlier one stays until this one is there.

    Returns how many lines there are.

    Raises:
        StoreDamaged: not everything could be read; the rest is in the file.
        OSError: the file cannot be written; an earlier one is as it was.

    """
    is_pipe = file.exists() and not file.is_file()  # there is no place beside one
    with (
        nullcontext(file) if is_pipe else unfinished(file.resolve()) as place,
        place.open("w", encoding="utf-8") as out,
    ):
        count, damage = _lines_to(out, memory)
    if damage is not None:
        raise damage
    return count


def _lines_to(out: TextIO, memory: Memory) -> tuple[int, StoreDamaged | None]:
    """How many lines were written, and what could not be read, which is known only once the rest is written."""
    count = 0
    try:
        for line in export(memory):
            out.write(line + "\n")
            count += 1
    except StoreDamaged as error:
        return count, error
    return count, None
