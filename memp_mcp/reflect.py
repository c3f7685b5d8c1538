"""Reflecting: what was remembered is corrected after it failed (Memp's Adjustment), as an explicit act.

Failed steps are found by code, not by anybody's memory of them, and set beside the nearest success. With a diagnosis
or a correction, or with an LLM, the procedures concerned get a new revision; with neither they keep a tentative
pitfall, and the caller gets the evidence and the form in which to call again. A fault of the surroundings changes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import Field

from memp_mcp import adjust, evidence, hazards, keys, lookup, redact, revisions, update
from memp_mcp.errors import BadInput, LLMFailed, StaleRevision
from memp_mcp.llm import LLM
from memp_mcp.models import Change, Commit, Event, Procedure, Text, Trajectory, Value, procedure_id, stable_id
from memp_mcp.store import Store
from memp_mcp.vectors import Vectorizer

EMBED_WAIT = 60.0
ATTEMPTS = 5
LOOKED_UP = 4_000
"""Characters of a task by which others like it are found."""
MAX_DIAGNOSIS = 2_000
NEAR_TASK = 0.6
"""Share of a task's content words that a success must share to be shown as the nearest one."""

Fault = Literal["procedure", "surroundings", "unexplained"]


class Reflection(Value):
    """What a reflection led to, and the evidence that it rests on."""

    fault: Fault
    changes: tuple[Change, ...] = ()
    failed_steps: tuple[evidence.FailedStep, ...] = ()
    success: Trajectory | None = None
    concerned: tuple[Procedure, ...] = ()
    suggestion: str = ""
    notes: tuple[str, ...] = ()


class Report(Value):
    """A failure, as the caller tells it."""

    task: Text = Field(default="", description="What was attempted, where no trajectory was recorded.")
    trajectory_id: str | None = Field(default=None, description="The recorded failure.")
    recall_id: str | None = Field(default=None, description="The recall whose procedures were followed.")
    used: tuple[str, ...] = Field(default=(), description="Procedures that were followed, where it is not clear.")
    error: Text = Field(default="", description="The error text; found by code where a trajectory is given.")
    diagnosis: Text = Field(default="", description="Why it failed, in the caller's words.")
    correction: Text = Field(default="", description="What to do instead, in the form of adjust.CORRECTION_FORM.")
    project: str | None = Field(default=None, description="Whose memory; None: the settings' project.")
    client: Text = Field(default="", description="Who reflects.")


WITHHELD = (
    "Nothing was changed: what is remembered for this task was withheld at random (MEMP_HOLDOUT), so it did not fail. "
    "If you followed a procedure after all, name it in `used`."
)


class _Asked(NamedTuple):
    """One reflection as it was asked for, with everything that was looked up for it."""

    failure: adjust.Failure
    concerned: list[update.Used]
    recall_id: str
    diagnosis: str
    correction: adjust.Correction
    author: str
    project: str
    op_id: str
    withheld: bool
    """What the recall found was withheld, so that nothing which was shown has failed."""
    notes: list[str]
    """What could not be looked up."""

    @property
    def explained(self) -> bool:
        return bool(self.diagnosis) or self.correction != adjust.Correction()


class Reflector:
    """Reflects on failures in one store."""

    def __init__(self, store: Store, vectorizer: Vectorizer, llm: LLM | None) -> None:
        self._store = store
        self._vectorizer = vectorizer
        self._llm = llm

    def reflect(self, report: Report, *, project: str) -> Reflection:
        """Reflect on one failure, in *project* where neither it nor its trajectory names one; see Memory.reflect."""
        if len(report.diagnosis) > MAX_DIAGNOSIS:
            raise BadInput(
                f"The diagnosis has {len(report.diagnosis):,} characters, at most {MAX_DIAGNOSIS:,} are kept: say in "
                "one or two sentences which step failed and why."
            )
        report, project = redact.redact_value(report)[0], redact.Redactor().text(project)
        for _ in range(ATTEMPTS - 1):
            with suppress(StaleRevision):
                return self._reflect(self._asked(report, project))
        return self._reflect(self._asked(report, project))

    def _asked(self, report: Report, project: str) -> _Asked:
        trajectory = lookup.trajectory(self._store, report.trajectory_id) if report.trajectory_id else None
        if report.project is not None:
            project = report.project
        elif trajectory is not None:
            project = trajectory.project
        elif recalled := self._store.events(kind="recall", recall_id=report.recall_id or "none"):
            project = recalled[0].project
        if trajectory is not None and trajectory.project not in {"", project}:
            raise BadInput(f"{trajectory.id} is of another project than {project!r}: leave out `project`.")
        notes: list[str] = []
        failure = self._failure(report.task.strip(), trajectory, report.error.strip(), project, notes)
        recall_id = report.recall_id or (trajectory.recall_id if trajectory else None) or ""
        diagnosis, correction = report.diagnosis.strip(), report.correction.strip()
        withheld = bool(recall_id) and lookup.is_withheld(self._store, recall_id)
        told = (failure.task, failure.error, trajectory.id if trajectory else "", recall_id, diagnosis, correction)
        return _Asked(
            failure=failure,
            concerned=self._concerned(failure, recall_id, report.used, project, notes, withheld=withheld),
            recall_id=recall_id,
            diagnosis=diagnosis,
            correction=adjust.parse_correction(correction),
            author=report.client or "caller",
            project=project,
            op_id=stable_id("o", "reflect", *told, project, *report.used),
            withheld=withheld,
            notes=notes,
        )

    def _reflect(self, asked: _Asked) -> Reflection:
        if self._store.applied(asked.op_id):
            return _stored_before(asked)
        if asked.withheld and not asked.concerned:
            return _reflection(asked, "surroundings", (), WITHHELD)
        if not asked.explained and evidence.transient(asked.failure.error):
            return _surroundings(asked, f"({evidence.transient(asked.failure.error)})")
        if not asked.explained and self._llm is not None and asked.concerned:
            return self._by_llm(asked, self._llm)
        return self._by_caller(asked)

    # -- what the failure is, and about which procedures -----------------------------------------------------

    def _failure(
        self, task: str, trajectory: Trajectory | None, error: str, project: str, notes: list[str]
    ) -> adjust.Failure:
        if trajectory is None and not task:
            raise BadInput("Say what failed: give trajectory_id (from record_trajectory) or task, and the error text.")
        task = trajectory.task if trajectory else task
        if not error and trajectory is not None:
            error = last_error(trajectory)
        if not error:
            raise BadInput("The error is empty: give the error text, or say what was wrong with the result.")
        search = partial(self._store.similar_trajectories, task, succeeded=True, projects={project, ""}, limit=5)
        successes = lookup.by_words(search, notes)
        near = (t for t in successes if keys.coverage(task[:LOOKED_UP], t.task[:LOOKED_UP]) >= NEAR_TASK)
        return adjust.Failure(task, hazards.without_orders(error), trajectory, next(near, None))

    def _concerned(
        self,
        failure: adjust.Failure,
        recall_id: str,
        used: Sequence[str],
        project: str,
        notes: list[str],
        *,
        withheld: bool,
    ) -> list[update.Used]:
        """The procedures that were used; else the recall's first; else the one for this very task, if any: a guess."""
        ids = list(used or (failure.trajectory.used if failure.trajectory else ()))
        if not ids and recall_id:
            ids = [p.id for p in lookup.recalled(self._store, recall_id)[:1]]
        guessed = not ids and not withheld
        if guessed:
            form = keys.same_task_form(failure.task)
            search = partial(self._store.lexical, failure.task[:500], projects={project}, limit=8)
            near = lookup.by_words(search, notes)
            ids = [p.id for p, _ in near if form in {keys.same_task_form(t) for t in p.tasks}][:1]
        known = [lookup.known(self._store, pid).procedure for pid in dict.fromkeys(ids)]
        if away := [p.id for p in known if p.project and project not in {"", p.project}]:
            raise BadInput(
                f"{', '.join(away)} belongs to another project than {project!r}, and a correction would carry over "
                "what failed here. Record how it goes here: a success makes a procedure of this project."
            )
        return [lookup.used(self._store, p)._replace(assumed=guessed) for p in known]

    # -- who explains it -------------------------------------------------------------------------------------

    def _by_llm(self, asked: _Asked, llm: LLM) -> Reflection:
        op_id = stable_id("o", asked.op_id, llm.name)  # of the question: the answer would be another one each time
        if self._store.applied(op_id):
            return _stored_before(asked)
        try:
            answer = adjust.ask_for_adjustment(asked.concerned[0], asked.failure, llm)
        except LLMFailed as error:
            return self._by_caller(asked, str(error))
        if answer.fault == "surroundings":
            return _surroundings(asked, f"{llm.name}: {answer.diagnosis}")
        correction = adjust.Correction(
            edits=tuple(answer.edits),
            pitfalls=(answer.pitfall,) if answer.pitfall else (),
            when_not_to_use=answer.when_not_to_use,
        )
        judged = asked._replace(diagnosis=answer.diagnosis, correction=correction, author=llm.name, op_id=op_id)
        try:
            changes = [self._revision(asked.concerned[0], judged)]
        except BadInput as error:
            return self._by_caller(asked, f"{llm.name} proposed an edit that cannot be made: {error}")
        return self._apply(judged, changes, "procedure")

    def _by_caller(self, asked: _Asked, *notes: str) -> Reflection:
        fault: Fault = "procedure" if asked.explained else "unexplained"
        if not asked.concerned:
            return self._apply(asked, [self._lesson(asked)], fault, *notes)
        if asked.explained:
            return self._apply(asked, self._revisions(asked), fault, *notes)
        # What all projects share is not told what failed in one of them, as long as nobody has said why.
        own = [u for u in asked.concerned if u.procedure.project or not asked.project]
        tentative = [adjust.tentative_pitfall(u, asked.failure) for u in own]
        return self._apply(asked, [c for c in tentative if c is not None], fault, *notes)

    def _revisions(self, asked: _Asked) -> list[Change]:
        """Edits by name belong to the procedure that has those steps, the first one used; the advice goes to all.

        How another task goes than the one that was remembered is no edit of that, and is kept beside it.
        """
        first, *others = asked.concerned
        remarks = asked._replace(correction=asked.correction._replace(edits=(), plain=()))
        if adjust.tells_of_another_task(first, asked.failure, asked.correction):
            return [self._lesson(asked), *(self._revision(u, remarks) for u in asked.concerned if remarks.explained)]
        return [self._revision(first, asked), *(self._revision(o, remarks) for o in others if remarks.explained)]

    def _lesson(self, asked: _Asked) -> Change:
        change = adjust.lesson(
            asked.failure,
            diagnosis=asked.diagnosis,
            correction=asked.correction,
            author=asked.author,
            project=asked.project,
        )
        new = change.procedure.model_copy(update={"id": procedure_id(self._store.id, asked.op_id)})
        return change.model_copy(update={"procedure": new})

    def _revision(self, used: update.Used, asked: _Asked) -> Change:
        history = self._store.history(used.procedure.id)
        change = adjust.revise(
            used,
            asked.failure,
            diagnosis=asked.diagnosis,
            correction=asked.correction,
            author=asked.author,
            rejected=[r for r, after in pairwise(history) if after.change == "roll_back"],
        )
        if asked.project and not used.procedure.project:
            own_id = procedure_id(self._store.id, stable_id("o", asked.op_id, used.procedure.id))
            return revisions.for_project(change, asked.project, own_id)
        return _revived(used.procedure, change)

    # -- what is kept ----------------------------------------------------------------------------------------

    def _apply(self, asked: _Asked, changes: Sequence[Change], fault: Fault, *notes: str) -> Reflection:
        new = [c.procedure for c in changes if c.kind == "add"]
        embedder, _ = self._vectorizer.embedder(wait=EMBED_WAIT) if new else (None, "")
        vectors = self._vectorizer.of_procedures(embedder, new) if embedder else {}
        commit = Commit(
            op_id=asked.op_id,
            procedures=tuple(c.procedure for c in changes),
            events=(*self._blame(asked), *_evidence(asked, new)),
        )
        [applied] = self._store.apply(commit, vectors=vectors)
        if not applied:
            return _stored_before(asked)
        return _reflection(asked, fault, changes, *notes)

    def _blame(self, asked: _Asked) -> tuple[Event, ...]:
        """Failed uses to count, unless a recorded trajectory has been counted for them already."""
        if asked.failure.trajectory is not None or not asked.recall_id:
            return ()
        uses = self._store.events(kind="used", recall_id=asked.recall_id)
        counted = {e.procedure_id for e in uses if e.trajectory_id and e.score is not None and e.score < 0.5}
        return tuple(_failed_use(asked, u) for u in asked.concerned if u.procedure.id not in counted)


def last_error(trajectory: Trajectory) -> str:
    """The error text that a failed trajectory ends with, as far as code can tell; the caller's feedback otherwise."""
    failed = evidence.failed_steps(trajectory)
    return failed[-1].error if failed else trajectory.feedback


def _revived(before: Procedure, change: Change) -> Change:
    """Put a retired procedure whose script was corrected on trial again: nobody would find the correction otherwise.

    What it was once verified for has failed since.
    """
    if before.status != "retired" or change.procedure.script == before.script:
        return change
    unverified = tuple(s.model_copy(update={"judged_by": ""}) for s in before.sources)
    after = change.procedure.model_copy(update={"status": "provisional", "sources": unverified})
    return change.model_copy(update={"procedure": after, "diff": revisions.diff(before, after)})


def _surroundings(asked: _Asked, why: str) -> Reflection:
    note = f"Nothing was changed: a fault of the surroundings, not of the procedure {why}. Try again; if the procedure "
    return _reflection(asked, "surroundings", (), note + "is at fault after all, call again with a diagnosis.")


def _stored_before(asked: _Asked) -> Reflection:
    fault: Fault = "procedure" if asked.explained else "unexplained"
    return _reflection(asked, fault, (), "This reflection was stored before; nothing was changed.")


def _reflection(asked: _Asked, fault: Fault, changes: Sequence[Change], *notes: str) -> Reflection:
    return Reflection(
        fault=fault,
        changes=tuple(changes),
        failed_steps=tuple(asked.failure.failed_steps[-5:]),
        success=asked.failure.success,
        concerned=tuple(u.procedure for u in asked.concerned),
        suggestion=adjust.suggestion(asked.concerned[0] if asked.concerned else None, asked.failure),
        notes=(*asked.notes, *notes),
    )


def _failed_use(asked: _Asked, used: update.Used) -> Event:
    return Event.about(
        used.procedure,
        id=stable_id("e", "reflected", asked.recall_id, used.procedure.id),
        kind="used",
        recall_id=asked.recall_id,
        score=0.0,
        verified=evidence.transient(asked.failure.error) is None,
        client=asked.author,
        project=asked.project,
    )


def _evidence(asked: _Asked, new: Sequence[Procedure]) -> tuple[Event, ...]:
    trajectory = asked.failure.trajectory
    return () if trajectory is None else tuple(lookup.evidence(trajectory, p, client=asked.author) for p in new)
