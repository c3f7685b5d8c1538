"""Update: one episode becomes changes of the memory (Memp §3.3, eq. 7). Pure decisions; nothing here touches the disk.

Three policies: **vanilla** adds every trajectory and takes no notice of how it went, **validation** adds successes
only, **adjustment** adds successes and revises what failed. A revision is a small delta on named steps with counts of
its own; when it does worse than its parent it is rolled back, and what keeps failing is retired (Memp's code: hits >= 3
and successes / hits < 0.5).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from memp_mcp import build, evidence, hazards, keys, revisions, state
from memp_mcp.models import (
    Change,
    ChangeKind,
    Counts,
    Pitfall,
    Procedure,
    ScriptStep,
    Source,
    Step,
    Trajectory,
    UpdatePolicy,
)

MAX_TASKS = 8
MAX_EVIDENCE = 50
ROLL_BACK_USES = 2
"""Rolling back needs less evidence than retiring: the parent takes over at once and the revision stays on record."""
SAME_TASK = 0.92
"""Cosine of two task texts from which on they may be one procedure, if their scripts agree as well."""
SAME_SCRIPT = 0.8
WAYS = 3
"""Of doing the same task: a further one is merged into the one that is most like it."""
FOLLOWED = 0.6
"""Share of a script that a run has to carry out to be evidence for the procedure that it says it used."""


_VALUE = re.compile(r"\{\w+\}|\b\d+\b")


class Used(NamedTuple):
    """A procedure that was followed: as it is now, what its counts were before, and its last other script, if any.

    ``superseded`` means that somebody revised the script after it had been recalled: the use counts for the script
    that was followed, and says nothing about the current one. ``assumed`` means that the caller did not name it. Being
    the first of the recall is enough to count the use, and not to trust the procedure for it; being for the very same
    task is enough to warn of a failure, and not to change what nobody has followed.
    """

    procedure: Procedure
    counts: Counts = Counts()
    parent: Procedure | None = None
    parent_counts: Counts = Counts()
    superseded: bool = False
    assumed: bool = False


class Neighbour(NamedTuple):
    """A procedure near a task, with the similarity of the two."""

    procedure: Procedure
    similarity: float


class Episode(NamedTuple):
    """A trajectory with its reward, the procedures that were used for it and those near its task (Memp eq. 6)."""

    trajectory: Trajectory
    used: tuple[Used, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


# -- one episode --------------------------------------------------------------------------------------------


def decide(
    episode: Episode,
    draft: Procedure | None,
    *,
    policy: UpdatePolicy,
    retire_uses: int = 3,
    retire_below: float = 0.5,
) -> list[Change]:
    """What one recorded episode changes: first the health of what was used, then what is learnt anew.

    Args:
        episode: The trajectory with its reward, and the procedures around it.
        draft: What Build made of the trajectory; None where the policy learns nothing from it.
        policy: vanilla | validation | adjustment; a draft that the policy does not want is an error of the caller.
        retire_uses: Verified uses before a procedure can be retired.
        retire_below: Success rate below which it is.

    """
    changes = [c for used in episode.used for c in _health(used, episode.trajectory, retire_uses, retire_below)]
    if policy != "adjustment":  # the others neither retire nor roll back
        changes = [c for c in changes if c.kind == "promote"]
    if draft is not None:
        touched = {c.procedure.id: c.procedure for c in changes}
        changes.append(_learn(draft, episode, touched, policy))
    return changes


def wants_draft(trajectory: Trajectory, policy: UpdatePolicy) -> bool:
    """Whether this policy builds a procedure from this trajectory at all."""
    if not trajectory.steps and not trajectory.script:
        return False
    return policy == "vanilla" or trajectory.succeeded is True


def _health(used: Used, trajectory: Trajectory, retire_uses: int, retire_below: float) -> list[Change]:
    procedure, counts = used.procedure, counted(used.counts, trajectory)
    if used.superseded or procedure.status == "retired" or not is_verified(trajectory):
        return []
    if counts.verified >= ROLL_BACK_USES and _is_worse(counts, used.parent_counts):
        return [_roll_back(procedure, counts, used.parent, used.parent_counts)] if used.parent else []
    if counts.verified >= retire_uses and counts.successes < retire_below * counts.verified:
        reason = f"{counts.successes} successes in {counts.verified} verified uses"
        return [revisions.change(procedure, "retire", reason, status="retired")]
    if not trajectory.succeeded or (used.assumed and followed(procedure.script, trajectory.steps) < FOLLOWED):
        return []
    return _promoted(procedure, trajectory)


def _promoted(procedure: Procedure, trajectory: Trajectory) -> list[Change]:
    """A procedure that an episode has followed with success: confirmed by it, and shared if the project is another."""
    updates: dict[str, Any] = confirmed(procedure, trajectory, recalled=True)
    settled = tuple(_settled(p) for p in procedure.pitfalls)
    if settled != procedure.pitfalls:
        updates["pitfalls"] = settled
    reason = "an episode that followed it succeeded"
    if procedure.project and trajectory.project not in {"", procedure.project}:
        updates["project"] = ""
        reason += " in a second project, so that it is shared by all"
    return [revisions.change(procedure, "promote", reason, **updates)] if updates else []


def confirmed(procedure: Procedure, trajectory: Trajectory, *, recalled: bool) -> dict[str, Any]:
    """What a verified success says for a procedure that is provisional, as fields to update; empty: nothing new.

    It confirms it if it is another, independent episode: with other content, and either *recalled* (the procedure was
    there before it) or done the same way by another client. One client that tells of its own success twice has told it
    once.
    """
    if procedure.status != "provisional":
        return {}
    told = Source.of(trajectory)
    first = procedure.sources[0] if procedure.sources else None
    if first is None:
        return {"status": "active", "sources": (told,)}
    alike = followed(procedure.script, trajectory.steps) >= FOLLOWED
    independent = recalled or (told.client != first.client and alike)
    if told.content != first.content and independent:
        return {"status": "active", "sources": (first, told)}
    return {} if procedure.verified else {"sources": (told,)}


def _settled(pitfall: Pitfall) -> Pitfall:
    return pitfall if revisions.is_unexplained(pitfall) else pitfall.model_copy(update={"tentative": False})


def _is_worse(counts: Counts, parent: Counts) -> bool:
    """Whether a revision does worse than its parent did: by rate, and by the estimate that allows for few uses."""
    if not parent.verified:
        return False
    rates = counts.successes * parent.verified < parent.successes * counts.verified
    return rates and counts.utility < parent.utility


def _roll_back(procedure: Procedure, counts: Counts, parent: Procedure, parent_counts: Counts) -> Change:
    reason = (
        f"revision {procedure.counted_from} had {counts.successes} successes in {counts.verified} verified uses, worse "
        f"than revision {parent.counted_from} with {parent_counts.successes} in {parent_counts.verified}"
    )
    kept = ("revision", "evidence", "pitfalls", "tasks", "keywords", "project")
    snapshot = parent.model_copy(update={name: getattr(procedure, name) for name in kept})
    return revisions.change(snapshot, "roll_back", reason, before=procedure)


def counted(counts: Counts, trajectory: Trajectory) -> Counts:
    """The counts as they are once this trajectory is among them."""
    verified = is_verified(trajectory)
    success = verified and bool(trajectory.succeeded)
    return counts.model_copy(
        update={
            "uses": counts.uses + 1,
            "verified": counts.verified + verified,
            "successes": counts.successes + success,
        }
    )


def is_verified(trajectory: Trajectory) -> bool:
    """Whether the outcome counts: judged by evidence, and not the fault of the surroundings."""
    if trajectory.reward is None or not trajectory.reward.verified:
        return False
    return trajectory.reward.succeeded or not spoilt_by_surroundings(trajectory)


def spoilt_by_surroundings(trajectory: Trajectory) -> bool:
    """Whether a failed run ended with a time-out, the network, a missing permission or the like."""
    failed = evidence.failed_steps(trajectory)
    if failed:
        return evidence.transient(failed[-1].error) is not None
    ending = (*(s.observation for s in trajectory.steps[-1:]), trajectory.feedback)
    return any(evidence.transient(text) for text in ending)


# -- success: add or merge ----------------------------------------------------------------------------------


def _learn(draft: Procedure, episode: Episode, touched: dict[str, Procedure], policy: UpdatePolicy) -> Change:
    twin = None if policy == "vanilla" else find_twin(draft, episode)
    twin = touched.get(twin.id, twin) if twin else None
    if twin is None or twin.status == "retired":  # by this very episode: what worked must not go down with it
        reason = f"no procedure for this task yet; built from {draft.evidence[-1]}"
        return Change(kind="add", procedure=draft.model_copy(update={"reason": reason}), reason=reason)
    return _merge(twin, draft, episode.trajectory, mends=policy == "adjustment")


def find_twin(draft: Procedure, episode: Episode) -> Procedure | None:
    """The procedure that this draft only repeats, if any: one that was used and followed, or the same task again.

    Another way to do the same task is no repetition: up to WAYS of them are kept beside each other.
    """
    form = keys.same_task_form(draft.embedded_text)
    used = [u.procedure for u in episode.used if not u.superseded and _fits(u.procedure, draft)]
    near = sorted(episode.neighbours, key=lambda n: -n.similarity)
    same = [n.procedure for n in near if form in _forms(n.procedure) and _fits(n.procedure, draft)]
    like = (
        n.procedure
        for n in near
        if n.similarity >= SAME_TASK
        and script_similarity(draft, n.procedure) >= SAME_SCRIPT
        and _fits(n.procedure, draft)
    )
    done = [p for p in used if followed(p.script, episode.trajectory.steps) >= FOLLOWED]
    twin = next((p for p in (*done, *same) if not _is_another_way(p, draft, episode.trajectory)), None)
    if twin is None and len(same) >= WAYS:
        twin = max(same, key=lambda p: script_similarity(draft, p))
    return twin or next(like, None)


def _is_another_way(other: Procedure, draft: Procedure, trajectory: Trajectory) -> bool:
    """Whether a run did a step of the same verb with other things, so that to merge it would lose how.

    Only lines that rules made of commands can tell: what a model words is never the same twice. A step that failed and
    was mended is a repair of the way that is known.
    """
    if (other.author, draft.author) != ("rules", "rules"):
        return False
    known = [_told(s) for s in repair(other.script, trajectory, draft)]
    return any(_contradicts(_told(s), known) for s in draft.script)


def _told(step: ScriptStep) -> tuple[str, frozenset[str]]:
    """The verb of a line, and its words, with one word for every number and whatever stands in a slot."""
    text = _VALUE.sub("value", step.text)
    return evidence.head(text).casefold(), frozenset(keys.content_words(text))


def _contradicts(line: tuple[str, frozenset[str]], known: Sequence[tuple[str, frozenset[str]]]) -> bool:
    alike = [words for verb, words in known if verb == line[0]]
    return bool(alike) and not any(line[1] <= words or words <= line[1] for words in alike)


def _fits(other: Procedure, draft: Procedure) -> bool:
    """Whether it may be the same procedure: of the same project, and not for another state, whatever the task says."""
    alive = other.project == draft.project and other.status != "retired"
    return alive and not _is_more_dangerous(other, draft) and not state.contradict(_known(other), _known(draft))


def _is_more_dangerous(other: Procedure, draft: Procedure) -> bool:
    """Whether it does harm that this run did without, unconfirmed: planted, it would swallow the run."""
    lines, done = ([s.text for s in p.script] + [s.action for s in p.exemplar] for p in (other, draft))
    return other.status == "provisional" and bool(hazards.introduced(lines, done))


def _known(procedure: Procedure) -> state.Known:
    return state.Known(procedure.observed, procedure.preconditions)


def followed(script: Sequence[ScriptStep], steps: Sequence[Step]) -> float:
    """Which share of a script's steps a run has carried out, in [0, 1]."""
    done = {revisions.step_for(script, s.action) for s in steps} - {None}
    return len(done) / len(script) if script else 0.0


def script_similarity(one: Procedure, other: Procedure) -> float:
    """How far two scripts agree line by line, in [0, 1]; 0 where one of them has none."""
    left, right = ([keys.same_task_form(_VALUE.sub("value", s.text)) for s in p.script] for p in (one, other))
    return difflib.SequenceMatcher(None, left, right, autojunk=False).ratio() if left and right else 0.0


def _merge(twin: Procedure, draft: Procedure, trajectory: Trajectory, *, mends: bool) -> Change:
    updates: dict[str, Any] = {}
    if len(twin.tasks) < MAX_TASKS and not {keys.same_task_form(t) for t in draft.tasks} <= _forms(twin):
        updates["tasks"] = (*twin.tasks, *draft.tasks)
        updates["keywords"] = tuple(dict.fromkeys([*twin.keywords, *draft.keywords]))[:16]
    if draft.exemplar and is_verified(trajectory) and _is_better_exemplar(draft, twin):
        updates |= {"exemplar": draft.exemplar, "exemplar_id": draft.exemplar_id, "check": draft.check or twin.check}
    pitfalls = revisions.with_pitfalls(twin.pitfalls, draft.pitfalls)
    if pitfalls != twin.pitfalls:
        updates["pitfalls"] = pitfalls
    if is_verified(trajectory):
        updates |= confirmed(twin, trajectory, recalled=False)
    script = twin.script or draft.script
    repaired = repair(script, trajectory, draft) if mends else script
    if repaired != twin.script:  # this run is the first that did it so
        updates |= {"script": repaired, "status": "provisional"}
        updates["slots"] = (*twin.slots, *(s for s in draft.slots if s.name not in {t.name for t in twin.slots}))
    if not updates:
        return Change(kind="merge", procedure=twin, reason="done the same way again; counted as evidence")
    updates["evidence"] = tuple(dict.fromkeys([*twin.evidence, *draft.evidence]))[-MAX_EVIDENCE:]
    kind: ChangeKind = "revise" if twin.script and repaired != twin.script else "merge"
    reason = f"learnt more about the same task from {trajectory.id}: {', '.join(sorted(updates.keys() - {'evidence'}))}"
    return revisions.change(twin, kind, reason, **updates)


def _is_better_exemplar(draft: Procedure, twin: Procedure) -> bool:
    """Whether a verified run should be the exemplar: the first verified one, then a shorter one."""
    return not twin.exemplar or not twin.verified or len(draft.exemplar) < len(twin.exemplar)


def _forms(procedure: Procedure) -> set[str]:
    return {keys.same_task_form(t) for t in procedure.tasks}


def repair(script: tuple[ScriptStep, ...], trajectory: Trajectory, draft: Procedure) -> tuple[ScriptStep, ...]:
    """Mend the script's steps that failed in this run by what worked there, as the run itself shows."""
    for mended in build.mended(trajectory.steps):
        name = revisions.step_for(script, mended.failed.action)
        known = revisions.script_texts(script)
        lines = [line for line in build.script_lines(mended.remedy, draft.slots) if line not in known]
        if name is None or not lines:
            continue
        if mended.tried_again:
            script = revisions.with_steps_before(name, lines, script)
        else:
            script = tuple(s.model_copy(update={"text": lines[0]}) if s.name == name else s for s in script)
    return script
