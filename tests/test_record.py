"""Recording in a memory that others write at the same time, and what one commit of many trajectories sees."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest
from builders import lost, trajectory, won
from conftest import OpenMemory
from fakes import ScriptedLLM
from pydantic import BaseModel

from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import BadInput, NotFound, StaleRevision, StoreBusy
from memp_mcp.memory import ASK_TO_REFLECT, Memory
from memp_mcp.models import Commit, Procedure, Trajectory
from memp_mcp.reflect import Report
from memp_mcp.settings import Settings
from memp_mcp.store import Store, Vectors

A = TypeVar("A", bound=BaseModel)
SWEEP = won("sweep the floor", "take the broom", "sweep")
SHORTER = won("sweep the floor", "sweep")


class Raced(Store):
    """The real store; somebody else is faster, each time."""

    faster: Callable[[], object] | None = None
    races = 0

    def apply(self, *commits: Commit, vectors: Mapping[str, Vectors] | None = None) -> list[bool]:
        """See Store.apply."""
        if self.faster and self.races:
            self.races -= 1
            self.faster()
        return super().apply(*commits, vectors=vectors)


class Meddling(ScriptedLLM):
    """While it thinks, somebody else changes the memory."""

    meddle: Callable[[], object]

    def ask(self, prompt: str, answer: type[A], *, system: str = "") -> A:
        """See ScriptedLLM.ask."""
        self.meddle()
        return super().ask(prompt, answer, system=system)


def only(memory: Memory) -> Procedure:
    [found] = memory.list_procedures()
    return found


@pytest.fixture
def raced(tmp_path: Path, embedder: BackgroundEmbedder) -> tuple[Memory, Raced]:
    store = Raced.open(tmp_path / "memory")
    return Memory(store, embedder, Settings(home=tmp_path / "memory")), store


def test_a_decision_that_came_too_late_is_taken_again(raced: tuple[Memory, Raced], open_memory: OpenMemory) -> None:
    memory, store = raced
    other = open_memory()
    other.record(SWEEP)
    store.faster, store.races = lambda: other.retire(only(other).id), 1

    recorded = memory.record(SHORTER)

    assert [c.kind for c in recorded.changes] == ["add"], "the first decision was to merge into what is retired now"
    assert sorted(p.status for p in memory.list_procedures()) == ["provisional", "retired"]


def test_a_decision_that_always_comes_too_late_stores_nothing_and_says_so(
    raced: tuple[Memory, Raced], open_memory: OpenMemory
) -> None:
    memory, store = raced
    other = open_memory()
    other.record(SWEEP)
    titles = iter(range(100))

    def revise() -> None:
        now = only(other)
        new = now.model_copy(update={"revision": now.revision + 1, "title": str(next(titles))})
        other.store.apply(Commit(op_id=new.title, procedures=(new,)))

    store.faster, store.races = revise, 100
    before = {t.id for t in memory.store.all_trajectories()}

    with pytest.raises(StaleRevision, match="Decide again"):
        memory.record(SHORTER)

    assert {t.id for t in memory.store.all_trajectories()} == before
    assert memory.store.check() == []


def test_a_trajectory_that_another_process_stored_meanwhile_is_told_as_stored_before(
    raced: tuple[Memory, Raced], open_memory: OpenMemory
) -> None:
    memory, store = raced
    other = open_memory()
    store.faster, store.races = lambda: other.record(SWEEP), 1

    both = memory.record_all([SWEEP, won("brew tea", "boil water")])

    assert [r.already_stored for r in both] == [True, False]
    assert both[0].reward == SWEEP.reward
    assert len(memory.store.events(kind="evidence")) == 2
    assert memory.store.check() == []


def test_eight_threads_on_two_memories_store_each_trajectory_once_with_exact_counts(open_memory: OpenMemory) -> None:
    memories = [open_memory(), open_memory()]
    memories[0].record(SWEEP)
    known = only(memories[0])
    told = [won("sweep the floor", "take the broom", "sweep", key=str(i), used=(known.id,)) for i in range(8)]
    threads = [threading.Thread(target=memories[i % 2].record, args=(t,)) for i, t in enumerate(told)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {t.id for t in memories[0].store.all_trajectories()} == {SWEEP.id, *(t.id for t in told)}
    counts = memories[1].get(only(memories[1]).id).counts
    assert (counts.uses, counts.verified, counts.successes) == (8, 8, 8)
    assert memories[0].store.check() == []


def test_the_same_trajectory_from_eight_threads_is_recorded_by_one_of_them(open_memory: OpenMemory) -> None:
    memories = [open_memory(), open_memory()]
    fresh: list[bool] = []
    threads = [
        threading.Thread(target=lambda m: fresh.append(not m.record(SWEEP).already_stored), args=(memories[i % 2],))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(fresh) == 1
    assert len(fresh) == 8
    assert only(memories[0]).revision == 1
    assert len(memories[0].store.events(kind="evidence")) == 1


def test_trajectories_of_one_commit_see_what_the_earlier_ones_have_done(memory: Memory) -> None:
    memory.record(SWEEP)
    procedure_id = only(memory).id
    failed = [lost(f"sweep room {i}", ("sweep", "error: no broom"), used=(procedure_id,)) for i in "abc"]

    recorded = memory.record_all(failed)

    assert [[c.kind for c in r.changes] for r in recorded] == [[], [], ["retire"]]
    assert memory.get(procedure_id).procedure.reason == "0 successes in 3 verified uses"


def test_the_same_trajectory_twice_in_one_commit_is_stored_once(memory: Memory) -> None:
    assert [r.already_stored for r in memory.record_all([SWEEP, SWEEP])] == [False, True]
    assert memory.record_all([]) == []


def test_like_tasks_of_one_commit_make_one_procedure(memory: Memory) -> None:
    first, second = memory.record_all([SWEEP, SHORTER])

    assert [c.kind for c in (*first.changes, *second.changes)] == ["add", "merge"]
    assert [s.action for s in only(memory).exemplar] == ["sweep"]
    assert [r.revision for r in memory.history(only(memory).id)] == [1, 2]


def test_like_tasks_of_two_projects_stay_apart(memory: Memory) -> None:
    memory.record_all([SWEEP, SWEEP.model_copy(update={"project": "shop", "id": "t_" + "0" * 20})])

    assert sorted(p.project for p in memory.list_procedures()) == ["", "shop"]


def test_what_is_known_is_answered_while_others_hold_the_memory(
    tmp_path: Path, memory: Memory, embedder: BackgroundEmbedder
) -> None:
    memory.record(SWEEP)
    waiting = Memory(Store.open(tmp_path / "memory", lock_timeout=0.05), embedder, memory.settings)
    waiting.vectorizer.embedder(wait=60)

    with memory.store._writing():
        assert waiting.record(SWEEP).already_stored
        with pytest.raises(StoreBusy, match="Try again"):
            waiting.record(SHORTER)

    assert len(list(memory.store.all_trajectories())) == 1
    assert not waiting.record(SHORTER).already_stored


def test_a_procedure_forgotten_while_the_script_was_written_stores_nothing(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.record(SWEEP)
    procedure_id = only(memory).id
    llm = Meddling("busy")
    llm.meddle = lambda: memory.forget(procedure_id)

    with pytest.raises(NotFound, match="No procedure"):
        open_memory(llm=llm).record(won("brew tea", "boil water", used=(procedure_id,)))

    assert list(memory.store.all_trajectories()) == []


def test_what_was_recorded_is_told_though_the_reflection_on_it_failed(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.record(SWEEP)
    procedure_id = only(memory).id

    def revise() -> None:
        memory.retire(procedure_id)
        memory.restore(procedure_id)

    answer: dict[str, object] = {"fault": "procedure", "diagnosis": "no broom", "pitfall": "fetch a broom"}
    llm = Meddling(*[answer] * 5)
    llm.meddle = revise

    recorded = open_memory(llm=llm).record(lost("sweep it", ("sweep", "error: no broom"), used=(procedure_id,)))

    assert not recorded.already_stored
    assert "recorded, but not reflected on" in recorded.notes[-2]
    assert recorded.notes[-1] == ASK_TO_REFLECT
    assert memory.trajectory(recorded.trajectory_id).task == "sweep it"


def test_a_failure_that_the_llm_could_not_explain_is_the_callers_to_explain(open_memory: OpenMemory) -> None:
    open_memory().record(SWEEP)
    memory = open_memory(llm=ScriptedLLM("out of budget"))

    recorded = memory.record(lost("sweep it", ("sweep", "error: no broom"), used=(only(memory).id,)))

    assert "out of budget" in recorded.notes[0]
    assert recorded.notes[-1] == ASK_TO_REFLECT


def test_an_llm_judges_what_no_rule_can(open_memory: OpenMemory) -> None:
    memory = open_memory(llm=ScriptedLLM({"score": 0.8, "reason": "it is clean", "feedback": []}, "busy"))

    recorded = memory.record(trajectory("sweep", "sweep", outcome="unknown"))

    assert recorded.reward is not None
    assert (recorded.reward.score, recorded.reward.judged_by) == (0.8, "llm:scripted:llm")
    assert only(memory).sources[0].judged_by == "llm:scripted:llm"


def test_what_was_only_claimed_is_verified_by_a_verified_success(memory: Memory) -> None:
    memory.record(trajectory("sweep the floor", "take the broom", "sweep"))
    before = only(memory).verified

    memory.record(won("sweep the floor", "take the broom", "sweep well"))

    assert (before, only(memory).verified, only(memory).status) == (False, True, "provisional")


def test_a_success_of_another_client_confirms_a_procedure_and_one_of_the_same_client_does_not(memory: Memory) -> None:
    memory.record(won("sweep the floor", "take the broom", "sweep", client="codex"))
    memory.record(won("sweep the floor", "take the broom", "sweep well", client="codex"))
    alone = only(memory).status

    memory.record(won("sweep the floor", "take the broom", "sweep well", client="claude-code"))

    assert (alone, only(memory).status) == ("provisional", "active")
    assert [s.client for s in only(memory).sources] == ["codex", "claude-code"]


def test_a_client_that_recalls_what_it_did_and_succeeds_again_confirms_it(memory: Memory) -> None:
    memory.record(won("sweep the floor", "take the broom", "sweep", client="codex"))
    recall = memory.recall("sweep the floor")

    memory.record(won("sweep the floor", "take the broom", "sweep it all", client="codex", recall_id=recall.id))

    assert only(memory).status == "active"


def test_the_same_run_told_again_under_another_name_confirms_nothing(memory: Memory) -> None:
    memory.record(won("sweep the floor", "take the broom", "sweep", client="codex"))

    memory.record(won("sweep the floor", "take the broom", "sweep", client="claude-code", key="again"))

    assert only(memory).status == "provisional"


def test_what_was_recalled_and_not_followed_is_not_confirmed_by_a_success_that_did_not_name_it(memory: Memory) -> None:
    memory.record(won("sweep the floor", "take the broom", "sweep", client="codex"))
    known, recall = only(memory), memory.recall("sweep the floor")

    memory.record(won("sweep the floor", "call the cleaners", client="claude-code", recall_id=recall.id))

    assert memory.get(known.id).procedure.status == "provisional"
    assert memory.get(known.id).counts.successes == 1


@pytest.mark.parametrize(
    ("policy", "told", "kinds"),
    [
        ("vanilla", lost("brew tea", ("boil", "error: dry")), ["add"]),
        ("validation", lost("brew tea", ("boil", "error: dry")), []),
        ("adjustment", lost("brew tea", ("boil", "error: dry")), []),
        ("vanilla", SWEEP, ["add"]),
        ("validation", SWEEP, ["merge"]),
        ("adjustment", SWEEP, ["merge"]),
    ],
)
def test_each_policy_learns_what_it_says(
    open_memory: OpenMemory, policy: str, told: Trajectory, kinds: list[str]
) -> None:
    memory = open_memory(update=policy)
    memory.record(SWEEP.model_copy(update={"id": "t_" + "0" * 20}))

    assert [c.kind for c in memory.record(told).changes] == kinds


@pytest.mark.parametrize(
    ("policy", "script", "exemplar"), [("trajectory", 0, 2), ("script", 2, 0), ("proceduralization", 2, 2)]
)
def test_each_build_policy_keeps_what_it_says(open_memory: OpenMemory, policy: str, script: int, exemplar: int) -> None:
    memory = open_memory(build=policy)
    memory.record(SWEEP)

    assert (len(only(memory).script), len(only(memory).exemplar)) == (script, exemplar)


def test_a_revision_that_does_worse_is_rolled_back_and_not_proposed_again(memory: Memory) -> None:
    memory.record(SWEEP)
    procedure_id = only(memory).id
    memory.record(won("sweep the hall", "take the broom", "sweep", used=(procedure_id,)))

    worse = Report(task="x", used=(procedure_id,), error="dusty", correction="s2: blow the dust away")
    memory.reflect(worse)

    for room in ("attic", "cellar"):
        memory.record(lost(f"sweep the {room}", ("blow the dust away", "error: dusty"), used=(procedure_id,)))

    now = memory.get(procedure_id)
    assert now.procedure.change == "roll_back"
    assert [s.text for s in now.procedure.script] == ["take the broom", "sweep"]
    assert now.counts.successes == 1
    with pytest.raises(BadInput, match="rolled back because it did worse"):
        memory.reflect(worse.model_copy(update={"task": "y"}))


def test_a_recording_that_is_tried_again_makes_the_same_procedure_and_another_store_makes_its_own(
    open_memory: OpenMemory, tmp_path: Path
) -> None:
    first = open_memory("first")
    shutil.copytree(tmp_path / "first", tmp_path / "retried")
    told = won("sweep the floor", "sweep")

    made = [m.record(told).changes[0].procedure.id for m in (first, open_memory("retried"), open_memory("other"))]

    assert made[0] == made[1] != made[2]
