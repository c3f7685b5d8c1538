"""Skills on disk and on the wire: which procedures are fit to be one, written into folders, and read back with drift.

Written is what has been verified and is active. A file that was edited by hand is never overwritten or removed unless
that is asked for, or the memory has taken over all of the edit; its digest tells. Read back, a skill is compared with
the procedure and the revision that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from memp_mcp import revisions, skills
from memp_mcp.errors import BadInput, NotFound
from memp_mcp.memory import Memory
from memp_mcp.models import Change, Commit, Counts, Procedure, Value, new_id, procedure_id
from memp_mcp.skills import Skill

ALL = 1_000_000
PAGE = 100
"""Procedures that one page of a listing looks at."""

EDITED = "edited by hand; `memp-mcp import` shows what the memory lacks of it, --force overwrites it"
UNVERIFIED = "what was edited is in the memory, and has no verified success yet"

Drift = Literal["new", "unchanged", "behind", "edited", "both", "retired", "forgotten", "unreadable"]
"""behind: the memory has a newer revision; edited: the file says something else; both: both have changed."""


class WrittenSkill(Value):
    """What became of one skill in an export."""

    name: str
    procedure_id: str
    revision: int
    done: Literal["written", "updated", "unchanged", "kept", "removed"]
    note: str = ""
    """Why it was kept."""


class ReadSkill(Value):
    """A skill that was read, how it stands to the memory, and what was done about it."""

    file: str
    name: str = ""
    drift: Drift
    procedure_id: str = ""
    revision: int = 0
    done: Literal["", "added", "revised"] = ""
    note: str = ""


class Page(NamedTuple):
    """Verified procedures, and where the next page begins; None: nowhere."""

    procedures: list[Procedure]
    next: int | None


# -- which procedures ---------------------------------------------------------------------------------------


def is_fit(procedure: Procedure, counts: Counts) -> bool:
    """Whether a procedure is not retired and its script, as it stands, has a verified success.

    Where its verified uses say nothing yet, the run counts that it was built from, if that was verified or a person
    approved it; a script that was changed later has to succeed anew.
    """
    first = procedure.counted_from == 1 and procedure.verified
    verified = counts.successes > 0 if counts.verified else first
    return procedure.status != "retired" and verified and bool(skills.script_of(procedure))


def fit(memory: Memory, procedures: Sequence[Procedure]) -> list[Procedure]:
    """Those of the procedures that are fit to be skills."""
    counts = memory.counts(procedures)
    return [p for p in procedures if is_fit(p, counts[p.id])]


def page(memory: Memory, offset: int = 0) -> Page:
    """The skills of the memory's project and those that are shared, the latest changed first, a page at a time."""
    found = memory.list_procedures(limit=PAGE, offset=offset)
    mine = [p for p in found if p.project in {memory.settings.own_project, ""}]
    return Page(fit(memory, mine), offset + PAGE if len(found) == PAGE else None)


def text_of(memory: Memory, name: str) -> str:
    """The SKILL.md of the skill with this name.

    Raises:
        NotFound: there is none; the procedure may have been revised, renamed, retired or forgotten.

    """
    found = memory.store.procedure(skills.id_in(name))
    if found is None or skills.name_of(found) != name or found.project not in {memory.settings.own_project, ""}:
        raise NotFound("skill", name, "skills/list names those that are served.")
    if not fit(memory, [found]):
        raise NotFound("skill", name, "Its procedure has no verified success as it stands; recall_procedure tells.")
    return skills.written(found, memory.store.id)


# -- out ----------------------------------------------------------------------------------------------------


def export_skills(
    memory: Memory, folder: Path, *, project: str | None = None, force: bool = False
) -> list[WrittenSkill]:
    """Write each verified procedure as a skill into *folder*, and take away those of ours that are verified no more.

    Args:
        memory: Whose procedures.
        folder: Where skills are looked for, such as ``.claude/skills``; what else is in it stays as it is.
        project: Only its procedures and the shared ones; None: all.
        force: Overwrite, or remove, also what was edited by hand.

    Raises:
        OSError: something cannot be written.

    """
    every = fit(memory, memory.list_procedures(limit=ALL))
    chosen = sorted((p for p in every if project is None or p.project in {project, ""}), key=skills.name_of)
    current = {skills.name_of(p) for p in every}
    done = [_put(memory, folder, p, force=force) for p in chosen]
    for file, skill in _readable(folder):
        if skill.memory == memory.store.id and file.parent.name not in current:
            fit_now = next((p for p in every if p.id == skill.procedure_id), None)
            done.append(_withdrawn(memory, file, skill, fit_now, force=force))
    return done


def _put(memory: Memory, folder: Path, procedure: Procedure, *, force: bool) -> WrittenSkill:
    name = skills.name_of(procedure)
    file = folder / name / skills.FILE
    text = skills.written(procedure, memory.store.id)
    before = _text(file) if file.exists() else None
    told = WrittenSkill(name=name, procedure_id=procedure.id, revision=procedure.revision, done="unchanged")
    if before == text:
        return told
    if before is not None and not force and not _may_go(memory, procedure, before):
        return told.model_copy(update={"done": "kept", "note": EDITED})
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{skills.FILE}.new")
    new.write_bytes(text.encode())
    new.replace(file)  # whole or not at all: a client may be reading
    return told.model_copy(update={"done": "written" if before is None else "updated"})


def _may_go(memory: Memory, procedure: Procedure | None, text: str) -> bool:
    """Whether a file can be written anew or removed without losing an edit: the memory has taken over all of it."""
    if not skills.is_edited(text):
        return True
    try:
        skill = skills.read(text.encode())
    except BadInput:
        return False
    if procedure is None or skill.procedure_id != procedure.id or skill.content != skills.content_of(procedure):
        return False
    made_of = next((r for r in memory.store.history(procedure.id) if r.revision == skill.revision), None)
    return made_of is not None and skills.beside(text) == skills.beside(skills.written(made_of, memory.store.id))


def _withdrawn(memory: Memory, file: Path, skill: Skill, fit_now: Procedure | None, *, force: bool) -> WrittenSkill:
    """Take away a skill that is none any more; *fit_now* is its procedure where that has another name now."""
    told = WrittenSkill(name=file.parent.name, procedure_id=skill.procedure_id, revision=skill.revision, done="removed")
    if skill.edited and not force and not _may_go(memory, fit_now, _text(file)):
        current = memory.store.procedure(skill.procedure_id)
        waits = current is not None and current.status != "retired" and _may_go(memory, current, _text(file))
        return told.model_copy(update={"done": "kept", "note": UNVERIFIED if waits else EDITED})
    file.unlink()
    if not any(file.parent.iterdir()):
        file.parent.rmdir()
    return told


def _readable(folder: Path) -> list[tuple[Path, Skill]]:
    found = []
    for file in files_in([folder]):
        try:
            found.append((file, skills.read(file.read_bytes())))
        except BadInput:  # nothing that we wrote
            continue
    return found


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")


# -- in -----------------------------------------------------------------------------------------------------


def files_in(paths: Iterable[Path]) -> list[Path]:
    """The SKILL.md that each path is, that lies in it, or that lie in the folders in it."""
    found: list[Path] = []
    for path in paths:
        if path.name == skills.FILE and path.is_file():
            found.append(path)
        elif (path / skills.FILE).is_file():
            found.append(path / skills.FILE)
        else:
            found += sorted(file for file in path.glob(f"*/{skills.FILE}") if file.is_file())
    return found


def import_skills(
    memory: Memory, paths: Iterable[Path], *, project: str = "", revise: bool = False, dry_run: bool = False
) -> list[ReadSkill]:
    """Read skills: one that is not known becomes a provisional procedure, a known one is compared with the memory.

    Args:
        memory: Where they are looked up.
        paths: Files and folders, as `files_in` takes them.
        project: Of the procedures that are new.
        revise: Take an edit over as a revision where the memory has not moved on since the file was written.
        dry_run: Tell how they stand, and change nothing.

    """
    done = [_taken_in(memory, file, project=project, revise=revise, dry_run=dry_run) for file in files_in(paths)]
    if any(d.done for d in done):
        embedder, _ = memory.vectorizer.embedder(wait=60)
        if embedder is not None:
            memory.vectorizer.embed_missing(embedder)
    return done


class _Standing(NamedTuple):
    """How a skill stands to the memory: the change that would make the memory say what the file says, if any would."""

    drift: Drift
    procedure_id: str
    change: Change | None = None
    note: str = ""


def _taken_in(memory: Memory, file: Path, *, project: str, revise: bool, dry_run: bool) -> ReadSkill:
    try:
        skill = skills.read(file.read_bytes())
    except BadInput as error:
        return ReadSkill(file=str(file), drift="unreadable", note=str(error))
    found = _standing(memory, skill, project)
    wanted = found.drift == "new" or (found.drift == "edited" and revise)
    if found.change and wanted and not dry_run:
        memory.store.apply(Commit(op_id=new_id("o"), procedures=(found.change.procedure,)))
        done: Literal["added", "revised"] = "added" if found.drift == "new" else "revised"
        revision = found.change.procedure.revision
        return _told(file, skill, found).model_copy(update={"done": done, "revision": revision})
    return _told(file, skill, found)


def _told(file: Path, skill: Skill, found: _Standing) -> ReadSkill:
    return ReadSkill(
        file=str(file),
        name=skill.name,
        drift=found.drift,
        procedure_id=found.procedure_id,
        revision=skill.revision,
        note=found.note or (found.change.diff if found.change else ""),
    )


def _standing(memory: Memory, skill: Skill, project: str) -> _Standing:
    """Compare what the file says with the memory now, and with the revision that the file was made of."""
    own = procedure_id(memory.store.id, f"skill:{skill.procedure_id or skill.name}")
    current = memory.store.procedure(skill.procedure_id) or memory.store.procedure(own)
    if current is None:
        return _unknown(memory, skill, own, project)
    if current.status == "retired":
        return _Standing(
            "retired", current.id, note=f"{current.reason}; `memp-mcp restore {current.id}` brings it back"
        )
    history = [(r, skills.content_of(r)) for r in memory.store.history(current.id)]
    now = history[-1][1]
    if skill.content == now:
        return _Standing("unchanged", current.id)
    earlier = next((r for r, content in reversed(history) if skill.content == content), None)
    if earlier is not None:
        return _Standing("behind", current.id, note=revisions.diff(earlier, current))
    updates = skills.taken_over(current, skill.content)
    change = revisions.change(current, "revise", skills.reason_of(skill, "edited"), author=skills.AUTHOR, **updates)
    base = next((content for r, content in reversed(history) if _is_base(skill, r)), None)
    return _Standing("edited" if now == base else "both", current.id, change)


def _is_base(skill: Skill, revision: Procedure) -> bool:
    """Whether the file was made of this revision, or this revision of the file."""
    made_of = skill.procedure_id == revision.id and skill.revision == revision.revision
    return made_of or revision.reason in {skills.reason_of(skill, "new"), skills.reason_of(skill, "edited")}


def _unknown(memory: Memory, skill: Skill, own_id: str, project: str) -> _Standing:
    for known in (skill.procedure_id, own_id):
        if known and memory.store.events(kind="forgotten", procedure_id=known):
            return _Standing("forgotten", known, note="forgotten for good; without its metadata it is another skill")
    new = skills.procedure_of(skill, procedure_id=own_id, project=project)
    return _Standing(
        "new", own_id, Change(kind="add", procedure=new, reason=new.reason, diff=revisions.diff(None, new))
    )
