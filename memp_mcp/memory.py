"""Memory: recall, record, reflect, and what people do with a memory besides. The one deep object.

Stages decide (judge, build, retrieve, update), the memory acts: it fetches what they need, lets them decide on values,
and hands their changes to the store as one commit. No LLM call and no embedding happens inside the store's lock.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, Self

from memp_mcp import lookup, redact, retrieve, revisions
from memp_mcp.bucket import BucketStore
from memp_mcp.embedder import BackgroundEmbedder, Embedder
from memp_mcp.errors import BadInput, EmbedderError, MempError, StoreDamaged, StoreError
from memp_mcp.judge import Rule, load_rules
from memp_mcp.ledger import Ledger, account, records_of
from memp_mcp.llm import LLM, connect
from memp_mcp.lookup import Known
from memp_mcp.models import (
    BuildPolicy,
    Change,
    Commit,
    Counts,
    Event,
    Procedure,
    RetrievePolicy,
    Status,
    Text,
    Trajectory,
    UpdatePolicy,
    Value,
    new_id,
    stable_id,
)
from memp_mcp.reading import Hit
from memp_mcp.record import Recorded, Recorder
from memp_mcp.reflect import Reflection, Reflector, Report, last_error
from memp_mcp.retrieve import Match
from memp_mcp.settings import Settings
from memp_mcp.store import Store
from memp_mcp.upkeep import StoreSize
from memp_mcp.vectors import Vectorizer

log = logging.getLogger(__name__)

ASK_TO_REFLECT = (
    "It failed: call reflect_failure with this trajectory_id, your diagnosis and a correction, "
    "so that the next agent does not fail there too."
)

LOOKED_UP = 4_000
"""Characters of a task that a recall looks at; the rest would cost time and say the same."""
LOOKED_UP_STATE = 8_000
"""The same of an error or an observed state, which consists of many lines."""

DAMAGED_WORDS = "by meaning alone, since the index of the words cannot be read: run `memp-mcp repair`"
WITHHELD = (
    "Withheld at random, to measure what this memory is worth (MEMP_HOLDOUT): work it out, then call record_trajectory "
    "with this recall_id. Do not recall this task again."
)
DRAW = random.SystemRandom().random
STATS_PROCEDURES = 20
"""Procedures that the figures name; `memp-mcp report` shows more."""

Found = Literal["hybrid", "query", "avefact", "random", "lexical"]


class Recall(Value):
    """The answer to a recall: what was found, how, and the id by which its use can be reported."""

    id: str | None
    task: Text
    found: Found | Literal["withheld"]
    reason: str = ""
    matches: tuple[Match, ...] = ()


class Stats(Value):
    """The memory in figures."""

    directory: str
    size: StoreSize
    procedures: dict[str, int]
    recalls: int
    recalls_with_nothing: int
    recalls_withheld: int
    uses: int
    verified_uses: int
    verified_successes: int
    embedder: str
    embedder_state: str
    llm: str
    llm_tokens_today: int
    llm_tokens_left: int
    ledger: Ledger


class _Chosen(NamedTuple):
    """What a recall found, by whether it is shown; the share that is withheld, where a draw decided."""

    shown: tuple[Match, ...]
    withheld: tuple[Match, ...]
    holdout: float


class Memory:
    """The procedural memory that agents share. Thread-safe; several processes may hold one on the same directory."""

    def __init__(
        self,
        store: Store,
        embedder: BackgroundEmbedder,
        settings: Settings,
        *,
        llm: LLM | None = None,
        rules: Sequence[Rule] = (),
        draw: Callable[[], float] = DRAW,
    ) -> None:
        self._draw = draw
        self.store = store
        self.settings = settings
        self.llm = llm
        self.rules = tuple(rules)
        self._searching = ThreadPoolExecutor(max_workers=4, thread_name_prefix="search")
        self.vectorizer = Vectorizer(store, embedder)
        self._recorder = Recorder(store, self.vectorizer, settings, llm, rules)
        self._reflector = Reflector(store, self.vectorizer, llm)

    @classmethod
    def open(cls, settings: Settings, *, embedder: BackgroundEmbedder | None = None, salvage: bool = False) -> Self:
        """Open the memory that the settings describe; the embedder starts to load in the background.

        With *salvage*, a damaged memory is opened for what can still be read.

        Raises:
            StoreError: the memory on disk cannot be used.
            BadInput: the LLM or the rules file of the settings cannot be used.

        """
        embedder = embedder or BackgroundEmbedder(settings.embedder)
        embedder.start()
        directory = settings.directory
        rules = load_rules(settings.rules or directory / "rules.toml", required=settings.rules is not None)
        llm = None
        if settings.llm:
            llm = connect(
                settings.llm,
                base_url=settings.llm_base_url,
                api_key=settings.llm_api_key,
                timeout=settings.llm_timeout,
                daily_tokens=settings.llm_daily_tokens,
                ledger=directory / "llm_tokens.json",
            )
        timeout = settings.lock_timeout
        store = (
            BucketStore.connect(settings.store, directory, lock_timeout=timeout, salvage=salvage)
            if settings.store
            else Store.open(directory, lock_timeout=timeout, salvage=salvage)
        )
        return cls(store, embedder, settings, llm=llm, rules=rules)

    # -- recall ----------------------------------------------------------------------------------------------

    def recall(
        self,
        task: str,
        *,
        error: str = "",
        limit: int = 3,
        project: str | None = None,
        policy: RetrievePolicy | None = None,
        client: str = "",
    ) -> Recall:
        """Find the procedures that fit a task, or that helped after an error in the middle of one.

        Args:
            task: The task at hand, in a sentence.
            error: The error text, when help against it is wanted.
            limit: How many procedures at most.
            project: Whose procedures besides the shared ones; None: the settings' project.
            policy: How to find them; None: the settings' policy.
            client: Who asks.

        Raises:
            BadInput: the task is empty, or nothing is asked for.

        """
        if not task.strip():
            raise BadInput("The task is empty: say in one sentence what you are about to do.")
        if limit < 1:
            raise BadInput(f"The limit is {limit}: ask for at least one procedure.")
        policy = policy or self.settings.retrieve
        told = (task.strip()[:LOOKED_UP], error.strip()[:LOOKED_UP_STATE], self._scope(project), client)
        read, seen, scope, client = map(redact.Redactor().text, told)
        embedder, views, reason = self._looked_up(read, seen, policy, scope)
        candidates = retrieve.gather(views)
        found: Found = policy if embedder or policy == "random" else "lexical"
        matches = retrieve.rank(
            candidates,
            task=read,
            error=seen,
            policy="hybrid" if found == "lexical" else found,
            floor=self._floor(embedder) if embedder else None,
            counts=self._outcomes(c.procedure for c in candidates),
            project=scope,
            limit=limit,
        )
        chosen = self._chosen(matches, seen)
        recall_id, trouble = self._note_recall(read, seen, chosen, scope, client)
        if chosen.withheld and recall_id:  # what cannot be noted would be withheld in vain
            return Recall(id=recall_id, task=task, found="withheld", reason=WITHHELD)
        why = "; ".join(filter(None, (reason, trouble)))
        return Recall(id=recall_id, task=task, found=found, reason=why, matches=tuple(matches))

    def _looked_up(
        self, task: str, error: str, policy: RetrievePolicy, project: str
    ) -> tuple[Embedder | None, retrieve.Views, str]:
        """What was asked for vectors, what each view found, and why there are no vectors where there are none."""
        if policy == "random":
            seed = int(stable_id("s", task)[2:10], 16)
            chosen = self.store.sample(projects={project, ""}, limit=retrieve.CANDIDATES, seed=seed)
            return None, {"words": [(p, 0.0) for p in chosen]}, ""
        worded = self._searched_by_words(
            {"words": task, "errors": error} if policy == "hybrid" else {"errors": error}, project
        )
        embedder, reason = self.vectorizer.embedder_for(task, wait=self.settings.recall_wait)
        near: dict[str, list[Hit]] = {}
        if embedder is not None:
            try:
                near = self._near(embedder, task, policy, project)
            except EmbedderError as changed:  # another process has begun to embed the memory anew in this very moment
                embedder, reason = None, str(changed)
        if embedder is None and "words" not in worded:
            worded |= self._searched_by_words({"words": task}, project)
        searched, damage = _what_was_found(worded, needed=embedder is None)
        hits = near | searched
        procedures = self.store.found([hit for of_view in hits.values() for hit in of_view])
        views = {v: [(procedures[h.id], h.score) for h in found if h.id in procedures] for v, found in hits.items()}
        return embedder, views, "; ".join(filter(None, (reason, damage)))

    def _searched_by_words(self, texts: Mapping[str, str], project: str) -> dict[str, Future[list[Hit]]]:
        """Full text goes on while the task is embedded: LanceDB works outside the GIL."""
        scope = {project, ""}

        def search(text: str, column: Literal["doc", "errors"]) -> list[Hit]:
            return self.store.worded(text, column=column, projects=scope, limit=retrieve.CANDIDATES)

        columns: dict[str, Literal["doc", "errors"]] = {"words": "doc", "errors": "errors"}
        return {view: self._searching.submit(search, text, columns[view]) for view, text in texts.items() if text}

    def _near(self, embedder: Embedder, task: str, policy: RetrievePolicy, project: str) -> dict[str, list[Hit]]:
        scope, limit = {project, ""}, retrieve.CANDIDATES
        if policy != "avefact":
            vector = embedder.embed([task])[0].tolist()
            return {"dense": self.store.near(vector, projects=scope, limit=limit)}
        asked = self.vectorizer.of_task(embedder, task)
        return {
            "dense": self.store.near(asked.vector, projects=scope, limit=limit),
            "phrases": self.store.near(asked.phrases, column="phrases", projects=scope, limit=limit),
        }

    def _floor(self, embedder: Embedder) -> float:
        return embedder.floor if self.settings.floor is None else self.settings.floor

    def _scope(self, project: str | None) -> str:
        return self.settings.own_project if project is None else project

    def _outcomes(self, procedures: Iterable[Procedure]) -> dict[str, Counts] | None:
        """What came of them; vanilla, the paper's baseline, takes no notice of that."""
        return None if self.settings.update == "vanilla" else _since_changed(procedures, self.store.settled_counts)

    def _chosen(self, matches: Sequence[Match], error: str) -> _Chosen:
        """Whether what was found is shown: all of it, but for the share that MEMP_HOLDOUT withholds at random.

        Whoever is stuck is always helped: the run has begun already, so that it would tell little about the memory,
        and it is the one in which a missing answer costs most.
        """
        holdout = self.settings.holdout if matches and not error else 0.0
        if holdout and self._draw() < holdout:
            return _Chosen((), tuple(matches), holdout)
        return _Chosen(tuple(matches), (), holdout)

    def _note_recall(self, task: str, error: str, chosen: _Chosen, project: str, client: str) -> tuple[str | None, str]:
        """Write down what was recalled, so that its use can be credited. A memory that cannot write still answers."""
        recall_id = new_id("r")
        noted = lookup.Noted(
            task=task[:1000],
            error=error[:500],
            returned=_returned(chosen.shown),
            withheld=_returned(chosen.withheld),
            holdout=chosen.holdout,
        )
        recall = Event(
            id=recall_id,
            kind="recall",
            recall_id=recall_id,
            client=client,
            project=project,
            detail=noted.model_dump_json(exclude_defaults=True),
        )
        recalled = [
            Event.about(m.procedure, kind="recalled", recall_id=recall_id, client=client, project=project)
            for m in chosen.shown
        ]
        try:
            self.store.note_recall(recall, *recalled)
        except StoreError as error_:
            log.warning("recall not noted: %s", error_)
            return None, f"this recall could not be written down, so it has no id ({error_})"
        return recall_id, ""

    # -- record and reflect ----------------------------------------------------------------------------------

    def record(
        self,
        trajectory: Trajectory,
        *,
        build_policy: BuildPolicy | None = None,
        update_policy: UpdatePolicy | None = None,
    ) -> Recorded:
        """Learn from one episode: judge it, credit what was used, and change the memory accordingly.

        A failure is credited and kept as evidence. With the policy *adjustment* it is also reflected on: at once where
        an LLM is configured, else by asking the caller to do so.

        Raises:
            NotFound: the recall id or a used id is not of this memory.
            StoreError: nothing could be written; nothing was.

        """
        [recorded] = self.record_all([trajectory], build_policy=build_policy, update_policy=update_policy)
        adjusts = (update_policy or self.settings.update) == "adjustment"
        if not adjusts or recorded.already_stored or recorded.succeeded is not False:
            return recorded
        if not recorded.credited and trajectory.recall_id and lookup.is_withheld(self.store, trajectory.recall_id):
            return recorded  # what was withheld did not fail
        if self.llm is None:
            return recorded.model_copy(update={"notes": (*recorded.notes, ASK_TO_REFLECT)})
        return self._adjusted(recorded)

    def _adjusted(self, recorded: Recorded) -> Recorded:
        stored = lookup.trajectory(self.store, recorded.trajectory_id)
        error = last_error(stored) or (stored.reward.reason if stored.reward else "") or "the task was not achieved"
        report = Report(trajectory_id=stored.id, error=error, project=stored.project, client=stored.client)
        try:
            reflection = self.reflect(report)
        except MempError as trouble:  # what was recorded stays recorded, and its caller has to hear so
            told = (f"It was recorded, but not reflected on: {trouble}", ASK_TO_REFLECT)
            return recorded.model_copy(update={"notes": (*recorded.notes, *told)})
        asked = (ASK_TO_REFLECT,) if reflection.fault == "unexplained" else ()
        return recorded.model_copy(
            update={
                "changes": (*recorded.changes, *reflection.changes),
                "notes": (*recorded.notes, *reflection.notes, *asked),
            }
        )

    def record_all(
        self,
        trajectories: Sequence[Trajectory],
        *,
        build_policy: BuildPolicy | None = None,
        update_policy: UpdatePolicy | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> list[Recorded]:
        """Record several trajectories with one write, as an import does; failures are credited and kept."""
        return self._recorder.record(
            trajectories,
            build_policy=build_policy or self.settings.build,
            update_policy=update_policy or self.settings.update,
            advance=advance,
        )

    def reflect(self, report: Report) -> Reflection:
        """Correct what was remembered after it failed (Memp's Adjustment), as an explicit act.

        Raises:
            BadInput: neither a task nor a trajectory is given, or the correction cannot be carried out.
            NotFound: an id is not of this memory.

        """
        return self._reflector.reflect(report, project=self.settings.own_project)

    # -- single procedures -----------------------------------------------------------------------------------

    def get(self, procedure_id: str, *, revision: int | None = None) -> Known:
        """A procedure as it is, or as it was at a revision, with its counts.

        Raises:
            NotFound: there is no such procedure or revision.

        """
        return lookup.known(self.store, procedure_id, revision=revision)

    def trajectory(self, trajectory_id: str) -> Trajectory:
        """A stored trajectory.

        Raises:
            NotFound: there is none with this id.

        """
        return lookup.trajectory(self.store, trajectory_id)

    def counts(self, procedures: Iterable[Procedure]) -> dict[str, Counts]:
        """The counts of each procedure since its script was last changed, by id."""
        return _since_changed(procedures, self.store.counts)

    def history(self, procedure_id: str) -> list[Procedure]:
        """All revisions of a procedure, oldest first."""
        self.get(procedure_id)
        return self.store.history(procedure_id)

    def diff(self, procedure_id: str, old: int | None = None, new: int | None = None) -> str:
        """What changed between two revisions; by default between the last two."""
        after = self.get(procedure_id, revision=new).procedure
        before = after.revision - 1 if old is None else old
        return revisions.diff(self.get(procedure_id, revision=before).procedure if before else None, after)

    def restore(self, procedure_id: str, revision: int | None = None, *, author: str = "user") -> Change:
        """Bring back an earlier revision, or a retired procedure as it was before it was retired.

        Raises:
            BadInput: no revision is named, and the procedure is not retired.
            NotFound: there is no such procedure or revision.

        """
        current = self.get(procedure_id).procedure
        if revision is None:
            if current.status != "retired":
                raise BadInput(
                    f"{procedure_id} is not retired. Name the revision that is to come back; its history lists them."
                )
            live = [r for r in self.store.history(procedure_id) if r.status != "retired"]
            to = live[-1] if live else current
        else:
            to = self.get(procedure_id, revision=revision).procedure
        change = revisions.restored(current, to, author=author, reason=f"restored revision {to.revision}")
        if current.status == "retired":  # on the counts that retired it, even a success would retire it again
            fresh = {"counted_from": change.procedure.revision}
            change = change.model_copy(update={"procedure": change.procedure.model_copy(update=fresh)})
        return self._by_hand(change)

    def retire(self, procedure_id: str, *, reason: str = "retired by hand", author: str = "user") -> Change:
        """Take a procedure out of recall; `restore` brings it back.

        Raises:
            BadInput: it is retired already.
            NotFound: there is no such procedure.

        """
        current = self.get(procedure_id).procedure
        if current.status == "retired":
            raise BadInput(f"{procedure_id} is retired already; restore brings it back, forget removes it for good.")
        return self._by_hand(revisions.retired(current, author=author, reason=redact.Redactor().text(reason)))

    def approve(self, procedure_id: str, *, share: bool = False, author: str = "user") -> list[Change]:
        """Vouch for a procedure as a person: it is no longer provisional; with *share* it is for all projects as well.

        Raises:
            BadInput: it is retired, or there is nothing left to approve or share.
            NotFound: there is no such procedure.

        """
        current = self.get(procedure_id).procedure
        if current.status == "retired":
            raise BadInput(f"{procedure_id} is retired: restore it first, then approve it.")
        if current.status == "active" and not (share and current.project):
            raise BadInput(f"{procedure_id} is active already{', and shared by all' if share else ''}.")
        changes = []
        if current.status != "active":
            changes.append(self._by_hand(revisions.approved(current, author=author)))
        if share and current.project:
            changes.append(self.share(procedure_id, author=author))
        return changes

    def share(self, procedure_id: str, *, author: str = "user") -> Change:
        """Let all projects recall a procedure that was recorded in one; a revision in a project undoes nothing of it.

        Raises:
            BadInput: it is shared by all already.
            NotFound: there is no such procedure.

        """
        current = self.get(procedure_id).procedure
        if not current.project:
            raise BadInput(f"{procedure_id} is shared by all projects already.")
        return self._by_hand(revisions.shared(current, author=author))

    def _by_hand(self, change: Change) -> Change:
        self.store.apply(Commit(op_id=new_id("o"), procedures=(change.procedure,)))
        return change

    def forget(self, procedure_id: str) -> tuple[str, ...]:
        """Remove a procedure for good: its revisions, its counts, and the trajectories that only it rests on.

        Returns:
            The ids of the trajectories that went with it.

        """
        own = {t for r in self.history(procedure_id) for t in r.evidence}
        own |= {e.trajectory_id for e in self.store.events(kind="evidence", procedure_id=procedure_id)}
        gone = {t for t in own if not self._supports_another(t, procedure_id)}
        self.store.forget(procedure_id, evidence=gone)
        return tuple(sorted(gone))

    def _supports_another(self, trajectory_id: str, procedure_id: str) -> bool:
        events = self.store.events(kind="evidence", trajectory_id=trajectory_id)
        return any(e.procedure_id != procedure_id for e in events)

    def list_procedures(
        self, *, status: Status | None = None, project: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[Procedure]:
        """Procedures, the latest changed first."""
        return self.store.list_procedures(status=status, project=project, limit=limit, offset=offset)

    def ids_starting(self, prefix: str, *, kind: Literal["procedure", "trajectory"], limit: int = 200) -> list[str]:
        """Ids that start with *prefix*, for completion: of the settings' project and of what is shared."""
        return self.store.ids_starting(prefix, kind=kind, limit=limit, projects={self.settings.own_project, ""})

    def ledger(self) -> Ledger:
        """What the recorded episodes say about how well this memory serves."""
        return account(records_of(self.store), retire_below=self.settings.retire_below)

    def stats(self, *, projects: Collection[str] | None = None) -> Stats:
        """The memory in figures; it names procedures of these *projects* only, where any are given."""
        records = records_of(self.store)
        recalls, used = [r.noted for r in records.recalls.values()], records.uses
        _, trouble = self.vectorizer.embedder(wait=0)
        budget = self.llm.budget if self.llm else None
        return Stats(
            directory=self.store.location,
            size=self.store.size(),
            procedures=self.store.statuses(),
            recalls=len(recalls),
            recalls_with_nothing=sum(not (r.returned or r.withheld) for r in recalls),
            recalls_withheld=sum(bool(r.withheld) for r in recalls),
            uses=len(used),
            verified_uses=sum(e.verified for e in used),
            verified_successes=sum(e.verified and (e.score or 0) >= 0.5 for e in used),
            embedder=self.vectorizer.background.name,
            embedder_state=trouble or "ready",
            llm=self.llm.name if self.llm else "",
            llm_tokens_today=budget.spent() if budget else 0,
            llm_tokens_left=budget.left() if budget else 0,
            ledger=account(records, retire_below=self.settings.retire_below).brief(STATS_PROCEDURES, projects),
        )


def _what_was_found(worded: Mapping[str, Future[list[Hit]]], *, needed: bool) -> tuple[dict[str, list[Hit]], str]:
    """What full text found, and what is wrong with it; where there are vectors, a damaged index is not *needed*."""
    found: dict[str, list[Hit]] = {}
    damage = ""
    for view, searching in worded.items():
        try:
            found[view] = searching.result()
        except StoreDamaged as error:
            if needed:
                raise
            log.warning("%s", error)
            damage = DAMAGED_WORDS
    return found, damage


def _since_changed(
    procedures: Iterable[Procedure], counted: Callable[[Collection[str]], Mapping[str, Mapping[int, Counts]]]
) -> dict[str, Counts]:
    wanted = {p.id: p.counted_from for p in procedures}
    counts = counted(wanted.keys())
    return {pid: counts.get(pid, {}).get(start, Counts()) for pid, start in wanted.items()}


def _returned(matches: Iterable[Match]) -> tuple[lookup.Returned, ...]:
    return tuple(lookup.Returned(id=m.procedure.id, revision=m.procedure.revision) for m in matches)
