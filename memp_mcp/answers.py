"""The lean answers of the tools: what an agent reads, within a budget of tokens. Empty fields are left out.

Most clients show a model either the structured or the text content of a result, so both carry the same data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from memp_mcp import hazards
from memp_mcp.adjust import CORRECTION_FORM
from memp_mcp.build import cut, first_line
from memp_mcp.lookup import Known
from memp_mcp.memory import Recall
from memp_mcp.models import APPROVED, Change, Counts, Procedure, Reward, ScriptStep, Source, Step
from memp_mcp.record import Recorded
from memp_mcp.reflect import Reflection

CHARACTERS_A_TOKEN = 4
MAX_REASON = 200
MAX_NAME = 40

Detail = Literal["brief", "full"]


class ProcedureAnswer(BaseModel):
    """A procedure, as recalled."""

    id: str
    revision: int
    title: str
    when: str = ""
    when_not: str = ""
    before: list[str] = []
    script: list[str] = []
    slots: dict[str, list[str]] = {}
    pitfalls: list[str] = []
    check: str = ""
    exemplar: list[str] = []
    uses: int = 0
    verified: int = 0
    successes: int = 0
    last_verified: str = ""
    status: str = ""
    origin: str = ""
    dangers: list[str] = []
    by: str = ""
    why: str = ""


class RecallAnswer(BaseModel):
    """recall_procedure's answer."""

    recall_id: str = ""
    found: str
    procedures: list[ProcedureAnswer] = []
    note: str = ""


class RewardAnswer(BaseModel):
    """Who judged a trajectory, and how."""

    score: float
    judged_by: str
    verified: bool
    reason: str = ""


class ChangeAnswer(BaseModel):
    """One change made to the memory."""

    kind: str
    id: str
    revision: int
    reason: str
    diff: str = ""


class RecordAnswer(BaseModel):
    """record_trajectory's answer."""

    trajectory_id: str
    stored: Literal["now", "before"]
    reward: RewardAnswer | None = None
    credited: list[str] = []
    changes: list[ChangeAnswer] = []
    notes: list[str] = []


class ReflectAnswer(BaseModel):
    """reflect_failure's answer."""

    fault: str
    changes: list[ChangeAnswer] = []
    failed_steps: list[str] = []
    concerned: dict[str, list[str]] = {}
    nearest_success: list[str] = []
    call_again: dict[str, str] = {}
    notes: list[str] = []


class RevisionAnswer(BaseModel):
    """One line of a procedure's history."""

    revision: int
    change: str
    reason: str = ""
    by: str = ""


class GetAnswer(BaseModel):
    """get_procedure's answer."""

    procedure: ProcedureAnswer
    history: list[RevisionAnswer] = []
    evidence: list[str] = []


class ForgetAnswer(BaseModel):
    """forget_procedure's answer."""

    forgotten: str
    trajectories: list[str] = Field(default=[], description="Removed with it.")


def as_data(answer: BaseModel) -> dict[str, object]:
    """The answer as JSON data, without its empty fields."""
    return answer.model_dump(mode="json", exclude_defaults=True)


def as_text(answer: BaseModel) -> str:
    """The same data as compact JSON."""
    return json.dumps(as_data(answer), ensure_ascii=False, separators=(",", ":"))


def tokens(answer: BaseModel) -> int:
    """The size of an answer in tokens, by the rule of thumb of four characters each."""
    return len(as_text(answer)) // CHARACTERS_A_TOKEN


# -- recall -------------------------------------------------------------------------------------------------

NOTHING = "Nothing relevant is remembered: work it out, then call record_trajectory so that the next agent need not."


def recall_answer(recall: Recall, *, detail: Detail, budget: int) -> RecallAnswer:
    """A recall within *budget* tokens: best first; what did not fit is named in the note."""
    procedures = [procedure_answer(Known(m.procedure, m.counts), detail=detail, why=m.why) for m in recall.matches]
    notes = [cut(recall.reason, MAX_REASON)] if recall.reason else []
    if not procedures and recall.found != "withheld":
        notes.append(NOTHING)
    answer = RecallAnswer(recall_id=recall.id or "", found=recall.found, procedures=procedures, note="; ".join(notes))
    return _within(answer, budget)


def _within(answer: RecallAnswer, budget: int) -> RecallAnswer:
    """Take away what is needed least until the answer fits; the note says how much of what went."""
    cuts: Counter[str] = Counter()
    note = answer.note
    while tokens(answer) > budget and (part := _cut_once(answer)):
        cuts[part] += 1
        told = ", ".join(f"{n} {what}" for what, n in cuts.items())
        answer.note = "; ".join(filter(None, [note, f"cut to fit: {told}; see get_procedure"]))
    return answer


def _cut_once(answer: RecallAnswer) -> str:
    """Take one thing away and name it: exemplars from the last upwards, then procedures, then parts of the first one.

    Where there is no script, the exemplar is all that a procedure says, and is shortened like one.
    """
    last = next((p for p in reversed(answer.procedures) if p.exemplar and p.script), None)
    if last is not None:
        last.exemplar = []
        return "exemplars"
    if len(answer.procedures) > 1:
        answer.procedures.pop()
        return "procedures"
    return "lines" if answer.procedures and _shorten(answer.procedures[0]) else ""


def _shorten(procedure: ProcedureAnswer) -> bool:
    """Take away the least needed part that is left of a procedure; False when only its name is."""
    if _cleared(procedure, "slots", "before"):
        return True
    lists = [lines for lines in (procedure.script, procedure.pitfalls, procedure.exemplar) if lines]
    for lines in sorted(lists, key=lambda ls: -sum(map(len, ls))):
        if len(lines) > 1:
            lines.pop()
            return True
    if _cleared(procedure, "when_not", "check", "when"):
        return True
    for lines in lists:
        if len(lines[0]) > 120:
            lines[0] = cut(lines[0], 80)
            return True
    if _cleared(procedure, "by", "why", "pitfalls", "exemplar", "script", "dangers", "origin"):
        return True
    shorter = procedure.title[:20]  # JSON writes some characters as six
    procedure.title, whole = shorter, procedure.title
    return shorter != whole


def _cleared(procedure: ProcedureAnswer, *fields: str) -> bool:
    """Empty the first of these fields that says anything; False when none does."""
    for field in fields:
        value = getattr(procedure, field)
        if value:
            setattr(procedure, field, type(value)())
            return True
    return False


def step_line(step: ScriptStep) -> str:
    """A line of a script, with the observed lines that call for it."""
    return f"{step.name}: {step.text}" + (f" [when {' / '.join(step.when)}]" if step.when else "")


def procedure_answer(known: Known, *, detail: Detail, why: str = "") -> ProcedureAnswer:
    """One procedure with its reliability; with *full* also the steps of its shortest verified run."""
    procedure, counts = known
    brief = detail == "brief" and bool(procedure.script)
    return ProcedureAnswer(
        id=procedure.id,
        revision=procedure.revision,
        title=procedure.title,
        when=procedure.when_to_use if procedure.when_to_use != procedure.title else "",
        when_not=procedure.when_not_to_use,
        before=[p for p in procedure.preconditions if not any(p in s.when for s in procedure.script)],
        script=[step_line(s) for s in procedure.script],
        slots={s.name: list(s.examples) for s in procedure.slots if _explains(procedure, s.name, s.examples)},
        pitfalls=[_pitfall_line(p.text, p.error, tentative=p.tentative) for p in procedure.pitfalls],
        check=procedure.check,
        exemplar=[] if brief else step_lines(procedure.exemplar),
        origin=_origin(procedure),
        dangers=list(hazards.of_procedure(procedure)),
        by="" if procedure.author in {"rules", *(s.told for s in procedure.sources[:1])} else procedure.author,
        why=why,
        **_reliability(procedure, counts),
    )


def _reliability(procedure: Procedure, counts: Counts) -> dict[str, object]:
    return {
        "uses": counts.uses,
        "verified": counts.verified,
        "successes": counts.successes,
        "last_verified": counts.last_verified.date().isoformat() if counts.last_verified else "",
        "status": "" if procedure.status == "active" else procedure.status,
    }


def _origin(procedure: Procedure) -> str:
    """Where a procedure comes from and who has seen it succeed, in one line."""
    if not procedure.sources:
        return ""
    first, last = procedure.sources[0], procedure.sources[-1]
    project = f"project {_name(procedure.project)}" if procedure.project else ""
    parts = [_name(first.told), project, first.at.date().isoformat(), _verified_by(last, procedure)]
    return ", ".join(filter(None, parts))


def _verified_by(last: Source, procedure: Procedure) -> str:
    if last.judged_by == APPROVED and procedure.status == "active":
        return "approved by a person"
    if not last.judged_by:
        return "unverified"
    said = f"verified by {_name(last.judged_by)}"
    changed = procedure.status == "provisional" and procedure.counted_from > 1
    return f"{said}, changed since" if changed else said


def _name(text: str) -> str:
    """A name that somebody gave itself, short and on one line."""
    return " ".join(text.split())[:MAX_NAME]


def _explains(procedure: Procedure, name: str, examples: Sequence[str]) -> bool:
    """A slot that is used in the script and does not say the same as its only example."""
    used = any(f"{{{name}}}" in s.text for s in procedure.script)
    return used and [e.casefold() for e in examples] != [name]


def _pitfall_line(text: str, error: str, *, tentative: bool) -> str:
    line = text if not error or first_line(error)[:60] in text else f"{text} [{cut(first_line(error), 160)}]"
    return f"(unproven) {line}" if tentative else line


def step_lines(steps: Sequence[Step]) -> list[str]:
    """Steps as lines `action -> observation`."""
    return [f"{s.action} -> {cut(s.observation.strip(), 300)}" if s.observation.strip() else s.action for s in steps]


# -- the others ---------------------------------------------------------------------------------------------


def record_answer(recorded: Recorded) -> RecordAnswer:
    """What a recorded trajectory led to."""
    unknown = recorded.reward is None and not recorded.already_stored
    return RecordAnswer(
        trajectory_id=recorded.trajectory_id,
        stored="before" if recorded.already_stored else "now",
        reward=_reward_answer(recorded.reward),
        credited=list(recorded.credited),
        changes=[change_answer(c) for c in recorded.changes],
        notes=[*recorded.notes, *(["outcome unknown: nobody judged it"] if unknown else [])],
    )


def _reward_answer(reward: Reward | None) -> RewardAnswer | None:
    if reward is None:
        return None
    return RewardAnswer(
        score=reward.score, judged_by=reward.judged_by, verified=reward.verified, reason=cut(reward.reason, 300)
    )


def change_answer(change: Change) -> ChangeAnswer:
    """One change with its diff."""
    return ChangeAnswer(
        kind=change.kind,
        id=change.procedure.id,
        revision=change.procedure.revision,
        reason=change.reason,
        diff=cut(change.diff, 1500),
    )


def reflect_answer(reflection: Reflection, *, trajectory_id: str | None, recall_id: str | None) -> ReflectAnswer:
    """What a reflection led to; where nobody has explained the failure yet, the evidence and how to call again."""
    answer = ReflectAnswer(
        fault=reflection.fault,
        changes=[change_answer(c) for c in reflection.changes],
        notes=list(reflection.notes),
    )
    if reflection.fault != "unexplained":
        return answer
    answer.failed_steps = [f"{f.index}: {cut(f.action, 300)} -> {f.error}" for f in reflection.failed_steps]
    answer.concerned = {p.id: [f"{s.name}: {s.text}" for s in p.script] for p in reflection.concerned}
    if reflection.success is not None:
        answer.nearest_success = [reflection.success.id, *step_lines(reflection.success.steps[-12:])]
    given = {"trajectory_id": trajectory_id, "recall_id": recall_id}
    answer.call_again = {
        **{name: value for name, value in given.items() if value},
        "error": "the same error",
        "diagnosis": "why it failed, naming the failed step",
        "correction": reflection.suggestion or CORRECTION_FORM,
    }
    return answer


def get_answer(known: Known, history: Sequence[Procedure]) -> GetAnswer:
    """A procedure in full, with its history."""
    return GetAnswer(
        procedure=procedure_answer(known, detail="full"),
        history=[
            RevisionAnswer(revision=r.revision, change=r.change, reason=cut(r.reason, 200), by=r.author)
            for r in history[-20:]
        ],
        evidence=list(known.procedure.evidence[-10:]),
    )
