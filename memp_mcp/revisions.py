"""Revisions: how a procedure becomes its next snapshot, and how two of them are told apart.

History is append-only. Each change, also retiring and rolling back, is one more complete snapshot.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from memp_mcp import evidence, keys
from memp_mcp.models import APPROVED, Change, ChangeKind, Pitfall, Procedure, ScriptStep, Source, now

MAX_PITFALLS = 8
UNEXPLAINED = "(cause not known yet)"
"""How a pitfall ends that only says that something failed."""
REPEATED_PITFALL = 0.85
"""Similarity from which on a pitfall repeats another, as in Honest Lying (arXiv 2605.29463)."""


def restored(current: Procedure, to: Procedure, *, author: str, reason: str) -> Change:
    """The procedure as it was at revision *to*, as a new revision; its counts go on from there."""
    snapshot = to.model_copy(
        update={
            "revision": current.revision,
            "author": author,
            "status": "provisional" if to.status == "retired" else to.status,
        }
    )
    return change(snapshot, "restore", reason, before=current)


def redistilled(procedure: Procedure, draft: Procedure) -> Change | None:
    """The procedure with what Build makes of its evidence today; None when that is what it says already."""
    fields = (
        "title",
        "when_to_use",
        "when_not_to_use",
        "preconditions",
        "script",
        "slots",
        "check",
        "exemplar",
        "author",
    )
    updates: dict[str, Any] = {name: getattr(draft, name) for name in fields}
    updates["pitfalls"] = with_pitfalls(procedure.pitfalls, draft.pitfalls)
    if rendered(procedure.model_copy(update=updates)) == rendered(procedure):
        return None
    return change(procedure, "revise", f"distilled again from {draft.exemplar_id} by {draft.author}", **updates)


def retired(procedure: Procedure, *, author: str, reason: str) -> Change:
    """Take a procedure out of recall; restorable."""
    return change(procedure, "retire", reason, status="retired", author=author)


def approved(procedure: Procedure, *, author: str) -> Change:
    """The procedure as one that a person has looked at and vouches for."""
    sources = (*procedure.sources[:1], Source(client=author, project=procedure.project, judged_by=APPROVED))
    return change(procedure, "promote", f"approved by {author}", status="active", sources=sources)


def shared(procedure: Procedure, *, author: str) -> Change:
    """The procedure for all projects."""
    return change(procedure, "promote", f"shared by {author} with all projects, from {procedure.project}", project="")


def for_project(revised: Change, project: str, new_id: str) -> Change:
    """A revision of what all projects share, as a procedure of one project: what is told in it stays in it."""
    shared_one = revised.procedure
    own = shared_one.model_copy(
        update={
            "id": new_id,
            "revision": 1,
            "counted_from": 1,
            "change": "add",
            "project": project,
            "status": "provisional",
            "sources": tuple(s.model_copy(update={"judged_by": ""}) for s in shared_one.sources[:1]),
            "reason": f"{shared_one.reason}; {shared_one.id} as corrected in this project",
        }
    )
    return Change(kind="add", procedure=own, reason=own.reason, diff=revised.diff)


def change(
    procedure: Procedure, kind: ChangeKind, reason: str, *, before: Procedure | None = None, **updates: Any
) -> Change:
    """The next revision of a procedure; one whose script differs starts counts of its own."""
    revision = procedure.revision + 1
    script = updates.get("script", procedure.script)
    new_counts = kind in {"revise", "merge"} and script != procedure.script
    updates |= {"revision": revision, "change": kind, "reason": reason, "created_at": now()}
    if new_counts:  # another script, which has yet to succeed
        updates["counted_from"] = revision
        updates.setdefault("status", "retired" if procedure.status == "retired" else "provisional")
    new = procedure.model_copy(update=updates)
    return Change(kind=kind, procedure=new, reason=reason, diff=diff(before or procedure, new))


def rendered(procedure: Procedure) -> list[str]:
    """A procedure as lines of text, as a diff shows it."""
    return [
        f"title: {procedure.title}",
        f"when: {procedure.when_to_use}",
        *([f"when not: {procedure.when_not_to_use}"] if procedure.when_not_to_use else []),
        *(f"before: {p}" for p in procedure.preconditions),
        *(f"{s.name}: {s.text}" for s in procedure.script),
        *([f"check: {procedure.check}"] if procedure.check else []),
        *(f"pitfall{'?' if p.tentative else ''}: {p.text}" for p in procedure.pitfalls),
        f"status: {procedure.status}",
        *([f"project: {procedure.project}"] if procedure.project else []),
    ]


def diff(old: Procedure | None, new: Procedure) -> str:
    """The lines that differ between two revisions, '-' before and '+' after; empty when nothing visible changed."""
    before = rendered(old) if old else []
    lines = difflib.ndiff(before, rendered(new))
    return "\n".join(line for line in lines if line[:1] in "+-")


def script_texts(script: Sequence[ScriptStep]) -> tuple[str, ...]:
    """The texts of a script, whatever its steps are called."""
    return tuple(s.text for s in script)


def with_steps_before(name: str, lines: Sequence[str], script: tuple[ScriptStep, ...]) -> tuple[ScriptStep, ...]:
    """A script with lines put in before the step of that name, under names that no step had."""
    place = next(i for i, step in enumerate(script) if step.name == name)
    new = (ScriptStep(name=f"s{number}", text=line) for number, line in enumerate(lines, next_number(script)))
    return (*script[:place], *new, *script[place:])


def next_number(script: Sequence[ScriptStep]) -> int:
    """The number of the next new step: s4 follows s1, s2, s3, in whatever order they stand."""
    return max((int(s.name[1:]) for s in script), default=0) + 1


def with_pitfalls(known: tuple[Pitfall, ...], new: Iterable[Pitfall]) -> tuple[Pitfall, ...]:
    """Add the pitfalls that do not repeat a known one; the oldest tentative ones make room."""
    kept = list(known)
    for pitfall in new:
        if not any(_same_pitfall(pitfall, k) for k in kept):
            kept.append(pitfall)
    while len(kept) > MAX_PITFALLS:
        kept.remove(next((p for p in kept if p.tentative), kept[0]))
    return tuple(kept)


def is_unexplained(pitfall: Pitfall) -> bool:
    """Whether a pitfall only says that something failed; it is no advice that a success could prove."""
    return pitfall.tentative and pitfall.text.endswith(UNEXPLAINED)


def _same_pitfall(one: Pitfall, other: Pitfall) -> bool:
    matcher = difflib.SequenceMatcher(
        None, keys.same_task_form(one.text), keys.same_task_form(other.text), autojunk=False
    )
    return matcher.ratio() >= REPEATED_PITFALL


def step_for(script: Sequence[ScriptStep], action: str) -> str | None:
    """The name of the script's step that this action carries out, or None if no step is like it."""
    head = evidence.head(action)
    done = {*keys.content_words(action), *keys.words(head)}
    best_name, best = None, 0.0
    for step in script:
        wanted, step_head = _wanted(step.text)
        share = len(wanted & done) / len(wanted) if wanted else 0.0
        score = share + 0.5 * (head.casefold() == step_head)
        if score > best:
            best_name, best = step.name, score
    return best_name if best >= 0.75 else None


@lru_cache(maxsize=1024)  # a run of thousands of steps is compared with the same few lines
def _wanted(line: str) -> tuple[frozenset[str], str]:
    """The content words of a script's line without its slots, and its verb."""
    return frozenset(keys.content_words(re.sub(r"\{\w+\}", " ", line))), evidence.head(line).casefold()
