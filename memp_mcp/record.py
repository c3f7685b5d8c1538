"""Recording: a trajectory is judged, what it used is credited, and what it teaches is added to the memory.

Drafts are made first (redaction, judge, build, vectors: whatever is slow); then the decision is taken on the store as
it is and committed with compare-and-set. When somebody else was faster, only the decision is taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from memp_mcp import build, judge, lookup, redact, update, vectors
from memp_mcp.errors import LLMFailed, StaleRevision
from memp_mcp.ledger import Figures
from memp_mcp.llm import LLM
from memp_mcp.models import (
    BuildPolicy,
    Change,
    Commit,
    Counts,
    Event,
    Procedure,
    Reward,
    Trajectory,
    UpdatePolicy,
    Value,
    procedure_id,
    stable_id,
)
from memp_mcp.settings import Settings
from memp_mcp.store import Store, Vectors
from memp_mcp.vectors import Vectorizer

NEIGHBOURS = 8
ATTEMPTS = 8
EMBED_WAIT = 60.0
"""Seconds that a write waits for the embedder: a first start may have to read its weights from a cold disk."""


class Recorded(Value):
    """What a recorded trajectory led to."""

    trajectory_id: str
    already_stored: bool = False
    reward: Reward | None = None
    succeeded: bool | None = None
    credited: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


class _Draft(NamedTuple):
    """All that can be settled about a trajectory without looking at what is stored now."""

    trajectory: Trajectory
    recalled: list[Procedure]
    procedure: Procedure | None
    vectors: Vectors | None
    notes: list[str]
    assumed: bool
    """What was used is not the caller's word: it is the first of the recall."""


@dataclass
class _Pending:
    """What the earlier trajectories of one commit are about to change, so that the later ones see it."""

    procedures: dict[str, Procedure] = field(default_factory=dict)
    counts: dict[tuple[str, int], Counts] = field(default_factory=dict)
    vectors: dict[str, Vectors] = field(default_factory=dict)


class _Decided(NamedTuple):
    commit: Commit
    recorded: Recorded


class Recorder:
    """Records trajectories into one store."""

    def __init__(
        self, store: Store, vectorizer: Vectorizer, settings: Settings, llm: LLM | None, rules: Sequence[judge.Rule]
    ) -> None:
        self._store = store
        self._vectorizer = vectorizer
        self._settings = settings
        self._llm = llm
        self._rules = rules

    def record(
        self,
        trajectories: Sequence[Trajectory],
        *,
        build_policy: BuildPolicy,
        update_policy: UpdatePolicy,
        advance: Callable[[int], None] | None = None,
    ) -> list[Recorded]:
        """Record trajectories with one write; the same content, or the same client-given key, is stored once."""
        clean = [redact.redact_trajectory(t)[0] for t in trajectories]
        stored = self._store.stored({t.id for t in clean})
        new = {t.id: t for t in clean if t.id not in stored}
        drafts = [self._draft(t, build_policy, update_policy, advance) for t in new.values()]
        done = {r.trajectory_id: r for r in self._commit(self._with_vectors(drafts), update_policy)}
        return [done.pop(t.id) if t.id in done else self._stored_before(t.id) for t in clean]

    def _stored_before(self, trajectory_id: str) -> Recorded:
        known = self._store.trajectory(trajectory_id)
        return Recorded(
            trajectory_id=trajectory_id,
            already_stored=True,
            reward=known.reward if known else None,
            succeeded=known.succeeded if known else None,
            notes=("This trajectory was stored before; nothing was changed.",),
        )

    # -- before the decision ---------------------------------------------------------------------------------

    def _draft(
        self,
        trajectory: Trajectory,
        build_policy: BuildPolicy,
        update_policy: UpdatePolicy,
        advance: Callable[[int], None] | None,
    ) -> _Draft:
        recalled = lookup.recalled(self._store, trajectory.recall_id) if trajectory.recall_id else []
        used, notes = self._whom_to_credit(trajectory, recalled)
        assumed = not trajectory.used
        reward = self._judged(trajectory, notes)
        trajectory = trajectory.model_copy(update={"used": used, "reward": reward})
        procedure = None
        if update.wants_draft(trajectory, update_policy):
            built = self._built(trajectory, build_policy, recalled, notes)
            procedure = built.model_copy(update={"id": procedure_id(self._store.id, trajectory.id)})
        if advance:
            advance(1)
        return _Draft(trajectory, recalled, procedure, None, notes, assumed)

    def _whom_to_credit(
        self, trajectory: Trajectory, recalled: Sequence[Procedure]
    ) -> tuple[tuple[str, ...], list[str]]:
        """Those that the caller names; else the first of the recall, as Memp does.

        A transcript has no caller to say it, and what a hook has put into a prompt nobody may have looked at: there the
        run itself shows what it followed.
        """
        for used_id in trajectory.used:
            lookup.known(self._store, used_id)
        if trajectory.used or not recalled:
            return tuple(dict.fromkeys(trajectory.used)), []
        if trajectory.source:
            return tuple(p.id for p in recalled if update.followed(p.script, trajectory.steps) >= update.FOLLOWED), []
        first = recalled[0].id
        return (first,), [f"credited {first}, the first of the recall, since `used` was not given"]

    def _judged(self, trajectory: Trajectory, notes: list[str]) -> Reward | None:
        try:
            return judge.judge(trajectory, rules=self._rules, llm=self._llm)
        except LLMFailed as error:
            notes.append(f"not judged by the LLM: {error}")
            return judge.judge(trajectory, rules=self._rules, llm=None)

    def _built(
        self, trajectory: Trajectory, policy: BuildPolicy, recalled: Sequence[Procedure], notes: list[str]
    ) -> Procedure:
        try:
            return build.build(trajectory, policy=policy, llm=self._llm, recalled=recalled)
        except LLMFailed as error:
            notes.append(f"script written by rules: {error}")
            return build.build(trajectory, policy=policy, llm=None, recalled=recalled)

    def _with_vectors(self, drafts: list[_Draft]) -> list[_Draft]:
        built = [d.procedure for d in drafts if d.procedure]
        if not built:
            return drafts
        embedder, reason = self._vectorizer.embedder(wait=EMBED_WAIT)
        if embedder is None:
            for draft in drafts:
                draft.notes.append(f"found by its words only until it is embedded ({reason})")
            return drafts
        made = self._vectorizer.of_procedures(embedder, built)
        return [d._replace(vectors=made[d.procedure.id]) if d.procedure else d for d in drafts]

    # -- the decision ----------------------------------------------------------------------------------------

    def _commit(self, drafts: Sequence[_Draft], policy: UpdatePolicy) -> list[Recorded]:
        if not drafts:
            return []
        for _ in range(ATTEMPTS - 1):
            with suppress(StaleRevision):
                return self._try_to_commit(drafts, policy)
        return self._try_to_commit(drafts, policy)

    def _try_to_commit(self, drafts: Sequence[_Draft], policy: UpdatePolicy) -> list[Recorded]:
        """Decide on what is stored now and write it; what another process has stored meanwhile is left out."""
        pending = _Pending()
        decided = [self._decide(draft, policy, pending) for draft in drafts]
        applied = self._store.apply(*(d.commit for d in decided), vectors=pending.vectors)
        return [d.recorded for d, fresh in zip(decided, applied, strict=True) if fresh]

    def _decide(self, draft: _Draft, policy: UpdatePolicy, pending: _Pending) -> _Decided:
        trajectory = draft.trajectory
        used = tuple(u for pid in trajectory.used if (u := self._used(pid, draft, pending)))
        episode = update.Episode(trajectory, used, self._neighbours(draft, pending))
        changes = update.decide(
            episode,
            draft.procedure,
            policy=policy,
            retire_uses=self._settings.retire_uses,
            retire_below=self._settings.retire_below,
        )
        for u in (u for u in used if not u.superseded):
            pending.counts[u.procedure.id, u.procedure.counted_from] = update.counted(u.counts, trajectory)
        revisions = []
        for procedure in (c.procedure for c in changes):
            if self._is_new(procedure, pending, used, episode.neighbours):
                revisions.append(procedure)
            pending.procedures[procedure.id] = procedure
            if draft.procedure and draft.vectors and procedure.id == draft.procedure.id:
                pending.vectors[procedure.id] = draft.vectors
        events = (*_credits(trajectory, used), *_evidence(trajectory, changes))
        recorded = Recorded(
            trajectory_id=trajectory.id,
            reward=trajectory.reward,
            succeeded=trajectory.succeeded,
            credited=tuple(u.procedure.id for u in used),
            changes=tuple(changes),
            notes=tuple(draft.notes),
        )
        commit = Commit(
            op_id=trajectory.id,
            trajectory=trajectory,
            figures=Figures.of(trajectory).model_dump_json(),
            procedures=tuple(revisions),
            events=events,
        )
        return _Decided(commit, recorded)

    def _is_new(
        self,
        procedure: Procedure,
        pending: _Pending,
        used: Sequence[update.Used],
        near: Sequence[update.Neighbour],
    ) -> bool:
        """Whether this is a revision to be stored; a merge that only adds evidence leaves the procedure as it is."""
        known = [pending.procedures.get(procedure.id), *(u.procedure for u in used), *(n.procedure for n in near)]
        return not any(k and k.id == procedure.id and k.revision == procedure.revision for k in known)

    def _used(self, used_id: str, draft: _Draft, pending: _Pending) -> update.Used | None:
        """The procedure that this trajectory speaks about, in the script that was followed; None if counted already."""
        current = pending.procedures.get(used_id) or lookup.known(self._store, used_id).procedure
        followed = next((p for p in draft.recalled if p.id == used_id), current)
        if self._reflected_on(draft.trajectory.recall_id, used_id):
            # The agent has reported this failure by reflect_failure; what came after it followed the new revision.
            if draft.trajectory.succeeded is False:
                return None
        elif followed.counted_from != current.counted_from:
            return update.Used(followed, superseded=True)
        used = lookup.used(self._store, current)._replace(assumed=draft.assumed)
        return used._replace(counts=pending.counts.get((current.id, current.counted_from), used.counts))

    def _reflected_on(self, recall_id: str | None, used_id: str) -> bool:
        if not recall_id:
            return False
        events = self._store.events(kind="used", recall_id=recall_id, procedure_id=used_id)
        return any(not e.trajectory_id for e in events)

    def _neighbours(self, draft: _Draft, pending: _Pending) -> tuple[update.Neighbour, ...]:
        procedure = draft.procedure
        if procedure is None:
            return ()
        found: dict[str, update.Neighbour] = {}
        scope = {procedure.project}
        text = procedure.embedded_text[:500]
        search = partial(self._store.lexical, text, projects=scope, limit=NEIGHBOURS)
        for near, _ in lookup.by_words(search, draft.notes):
            found[near.id] = update.Neighbour(pending.procedures.get(near.id, near), 0.0)
        if draft.vectors is not None:
            for near, close in self._store.dense(draft.vectors.vector, projects=scope, limit=NEIGHBOURS):
                found[near.id] = update.Neighbour(pending.procedures.get(near.id, near), close)
        for other in pending.procedures.values():
            there, here = pending.vectors.get(other.id), draft.vectors
            close = vectors.similarity(there, here) if there and here else 0.0
            found.setdefault(other.id, update.Neighbour(other, close))
        return tuple(found.values())


def _credits(trajectory: Trajectory, used: Sequence[update.Used]) -> tuple[Event, ...]:
    """Uses to count: of the script that is current, by ids that a retry makes again."""
    verified = update.is_verified(trajectory)
    return tuple(
        Event.about(
            u.procedure,
            id=stable_id("e", "used", trajectory.id, u.procedure.id),
            kind="used",
            trajectory_id=trajectory.id,
            recall_id=trajectory.recall_id or "",
            score=trajectory.reward.score if trajectory.reward else None,
            verified=verified,
            client=trajectory.client,
            project=trajectory.project,
        )
        for u in used
    )


def _evidence(trajectory: Trajectory, changes: Sequence[Change]) -> tuple[Event, ...]:
    """Which procedures this trajectory stands behind."""
    supported = (c.procedure for c in changes if c.kind in {"add", "merge", "revise"})
    return tuple(lookup.evidence(trajectory, p, client=trajectory.client) for p in supported)
