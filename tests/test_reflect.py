"""Reflecting on failures: who is blamed, how often, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from builders import lost, trajectory, won
from conftest import OpenMemory
from fakes import ScriptedLLM

from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import BadInput
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Procedure
from memp_mcp.reflect import Report
from memp_mcp.store import Store, Vectors

SHIP = won("Ship the shop", "release build", "release check", "release publish")
ERROR = "error: not signed"
FIX: dict[str, object] = {
    "fault": "procedure",
    "diagnosis": "the artefact was not signed",
    "edits": [{"op": "insert_after", "step": "s1", "text": "release sign"}],
    "pitfall": "publish refuses unsigned artefacts",
}


def only(memory: Memory) -> Procedure:
    [found] = memory.list_procedures()
    return found


def script(memory: Memory) -> list[str]:
    return [s.text for s in only(memory).script]


@pytest.fixture
def shipped(memory: Memory) -> Memory:
    """A memory that knows how to ship."""
    memory.record(SHIP)
    return memory


# -- once


@pytest.mark.parametrize("correction", ["-s2", "s2: release verify", "+s1: release sign", "release sign"])
def test_a_reflection_that_is_told_again_changes_nothing(shipped: Memory, correction: str) -> None:
    report = Report(task=SHIP.task, used=(only(shipped).id,), error=ERROR, correction=correction)
    first = shipped.reflect(report)

    again = shipped.reflect(report)

    assert [c.kind for c in first.changes] == ["revise"]
    assert again.changes == ()
    assert again.notes == ("This reflection was stored before; nothing was changed.",)
    assert only(shipped).revision == 2


def test_a_reflection_that_another_process_stored_meanwhile_changes_nothing(
    tmp_path: Path, open_memory: OpenMemory, embedder: BackgroundEmbedder
) -> None:
    other = open_memory()
    report = Report(task="brew tea", error="error: dry", diagnosis="fill it")

    class Raced(Store):
        def apply(self, *commits: Commit, vectors: Mapping[str, Vectors] | None = None) -> list[bool]:
            other.reflect(report)
            return super().apply(*commits, vectors=vectors)

    memory = Memory(Raced.open(tmp_path / "memory"), embedder, other.settings)

    assert memory.reflect(report).changes == ()
    assert only(memory).revision == 1


def test_a_lesson_that_is_told_again_stays_one_lesson(memory: Memory) -> None:
    report = Report(task="brew tea", error="error: dry", correction="-s1\nboil water")
    memory.reflect(report)

    again = memory.reflect(report)

    assert (again.fault, again.changes) == ("procedure", ())
    assert only(memory).revision == 1


def test_an_llm_is_asked_once_about_one_failure(open_memory: OpenMemory) -> None:
    open_memory().record(SHIP)
    llm = ScriptedLLM(FIX, {**FIX, "diagnosis": "something else"})
    memory = open_memory(llm=llm)
    report = Report(task=SHIP.task, used=(only(memory).id,), error=ERROR)

    first, again = memory.reflect(report), memory.reflect(report)

    assert (len(first.changes), len(again.changes)) == (1, 0)
    assert len(llm.prompts) == 1
    assert only(memory).revision == 2


def test_what_an_llm_could_not_explain_is_explained_later(open_memory: OpenMemory) -> None:
    open_memory().record(SHIP)
    report = Report(task=SHIP.task, used=(only(open_memory()).id,), error=ERROR)
    failed = open_memory(llm=ScriptedLLM("out of budget")).reflect(report)

    told_by_caller = open_memory().reflect(report.model_copy(update={"diagnosis": "it must be signed"}))

    assert [c.kind for c in failed.changes] == ["pitfall"]
    assert [c.kind for c in told_by_caller.changes] == ["revise"]
    assert [p.text for p in only(open_memory()).pitfalls] == ["it must be signed"]


# -- who is blamed


@pytest.mark.parametrize("recorded_first", [True, False])
def test_a_failure_both_recorded_and_reflected_on_counts_once(shipped: Memory, *, recorded_first: bool) -> None:
    recall_id = shipped.recall(SHIP.task).id
    told = lost("Ship it", ("release publish", ERROR), recall_id=recall_id)
    report = Report(task="Ship it", error=ERROR, recall_id=recall_id)

    if recorded_first:
        shipped.record(told)
    shipped.reflect(report)
    if not recorded_first:
        shipped.record(told)

    counts = shipped.get(only(shipped).id).counts
    assert (counts.uses, counts.verified, counts.successes) == (1, 1, 0)


def test_a_success_after_reflecting_credits_what_the_reflection_made_of_it(shipped: Memory) -> None:
    recall_id = shipped.recall(SHIP.task).id
    shipped.reflect(Report(task="Ship it", error=ERROR, recall_id=recall_id, correction="+s2: release sign"))

    shipped.record(won("Ship it", "release build", "release check", "release sign", recall_id=recall_id))

    procedure_id = only(shipped).id
    assert shipped.get(procedure_id).counts.successes == 1
    assert shipped.get(procedure_id, revision=1).counts.failures == 1
    assert not any(p.tentative for p in only(shipped).pitfalls), "the advice has worked"


def test_the_first_of_the_recall_is_what_failed_where_nobody_says_which(shipped: Memory) -> None:
    recall_id = shipped.recall(SHIP.task).id

    reflection = shipped.reflect(Report(task="anything", error=ERROR, recall_id=recall_id))

    assert [p.id for p in reflection.concerned] == [only(shipped).id]


def test_a_recall_that_returned_nothing_leads_to_a_lesson(memory: Memory) -> None:
    recall_id = memory.recall("brew tea").id

    [change] = memory.reflect(Report(task="brew tea", error="dry", recall_id=recall_id)).changes

    assert (change.kind, change.procedure.status) == ("add", "provisional")
    assert memory.recall("brew tea").matches[0].procedure.id == change.procedure.id


def test_a_transient_fault_is_no_failure_of_the_procedure_even_if_somebody_explains_it(shipped: Memory) -> None:
    recall_id = shipped.recall(SHIP.task).id
    fault = "curl: (28) Operation timed out after 30000 ms"

    silent = shipped.reflect(Report(task=SHIP.task, recall_id=recall_id, error=fault))
    shipped.reflect(Report(task=SHIP.task, recall_id=recall_id, error=fault, diagnosis="the mirror must be set"))

    assert (silent.fault, silent.changes) == ("surroundings", ())
    assert "call again with a diagnosis" in silent.notes[0]
    assert shipped.get(only(shipped).id, revision=1).counts.verified == 0


def failed_three_times(memory: Memory) -> str:
    """The id of the third failure, with which the procedure that was followed is retired."""
    ids = (only(memory).id,)
    runs = [lost(f"Ship {where}", ("release publish", ERROR), used=ids) for where in ("here", "there", "elsewhere")]
    return [memory.record(run).trajectory_id for run in runs][-1]


def test_a_retired_procedure_is_on_trial_again_once_its_script_is_corrected(shipped: Memory) -> None:
    last = failed_three_times(shipped)
    assert only(shipped).status == "retired"

    [change] = shipped.reflect(Report(trajectory_id=last, correction="+s2: release sign")).changes

    assert "- status: retired" in change.diff
    [match] = shipped.recall(SHIP.task).matches
    assert (match.procedure.status, match.counts.uses) == ("provisional", 0)


def test_a_retired_procedure_stays_retired_where_only_a_warning_is_added(shipped: Memory) -> None:
    last = failed_three_times(shipped)

    shipped.reflect(Report(trajectory_id=last, diagnosis="it cannot work"))

    assert (only(shipped).status, len(only(shipped).pitfalls)) == ("retired", 1)


def test_a_procedure_restored_by_hand_is_not_retired_by_its_next_success(shipped: Memory) -> None:
    failed_three_times(shipped)
    shipped.restore(only(shipped).id)

    steps = ("release build", "release check", "release publish")
    shipped.record(won("Ship the rest", *steps, used=(only(shipped).id,)))

    known = shipped.get(only(shipped).id)
    assert (known.procedure.status, known.counts.successes) == ("active", 1)


# -- where it is kept


@pytest.mark.parametrize("given", [None, "blog"])
def test_a_lesson_belongs_to_the_project_of_its_trajectory(memory: Memory, given: str | None) -> None:
    recorded = memory.record(lost("brew tea", ("boil", "error: dry"), project="blog"))

    memory.reflect(Report(trajectory_id=recorded.trajectory_id, project=given, diagnosis="fill it"))

    assert only(memory).project == "blog"


@pytest.mark.parametrize("given", ["shop", ""])
def test_a_failure_in_one_project_is_no_lesson_for_another(memory: Memory, given: str) -> None:
    recorded = memory.record(lost("brew tea", ("boil", "error: dry"), project="blog"))

    with pytest.raises(BadInput, match="another project"):
        memory.reflect(Report(trajectory_id=recorded.trajectory_id, project=given, diagnosis="fill it"))

    assert memory.list_procedures() == []


def test_a_correction_of_what_is_shared_stays_in_the_project_that_it_was_made_in(memory: Memory) -> None:
    memory.record(won("brew tea", "fill the kettle", "boil the water"))
    shared = only(memory)
    report = Report(
        task="brew tea", used=(shared.id,), project="blog", error="error: no tea at plot 7",
        diagnosis="plot 7 has no tea", correction="s2: boil the water of plot 7",
    )  # fmt: skip

    [change] = memory.reflect(report).changes

    assert (change.kind, change.procedure.project, change.procedure.status) == ("add", "blog", "provisional")
    assert memory.get(shared.id).procedure == shared
    assert [m.procedure.id for m in memory.recall("brew tea", project="shop").matches] == [shared.id]
    recalled = memory.recall("brew tea", project="blog").matches
    assert {m.procedure.id for m in recalled} == {shared.id, change.procedure.id}


def test_what_nobody_has_explained_is_not_noted_on_what_other_projects_share(memory: Memory) -> None:
    memory.record(won("brew tea", "fill the kettle", "boil the water"))
    shared = only(memory)

    memory.reflect(Report(task="brew tea", used=(shared.id,), project="blog", error="error: no tea at plot 7"))

    assert only(memory) == shared


def test_a_procedure_of_another_project_is_not_corrected_from_here(memory: Memory) -> None:
    memory.record(won("brew tea", "fill the kettle", "boil the water", project="blog"))

    with pytest.raises(BadInput, match="another project"):
        memory.reflect(Report(task="tea", used=(only(memory).id,), project="shop", error="e", diagnosis="d"))


def test_a_reflection_on_a_recall_is_of_the_project_that_was_recalled_in(memory: Memory) -> None:
    recall = memory.recall("brew tea", project="blog")

    memory.reflect(Report(task="brew tea", recall_id=recall.id, error="dry", diagnosis="fill it"))

    assert only(memory).project == "blog"


def test_a_lesson_without_a_trajectory_belongs_to_the_project_of_the_settings(open_memory: OpenMemory) -> None:
    memory = open_memory(project="shop")

    memory.reflect(Report(task="brew tea", error="dry"))

    assert only(memory).project == "shop"
    assert only(memory).evidence == ()


def test_a_lesson_rests_on_its_trajectory_and_goes_with_it(memory: Memory) -> None:
    recorded = memory.record(lost("brew tea", ("boil", "error: dry")))
    memory.reflect(Report(trajectory_id=recorded.trajectory_id))

    assert memory.forget(only(memory).id) == (recorded.trajectory_id,)


def test_the_lesson_becomes_a_procedure_when_somebody_succeeds(memory: Memory) -> None:
    memory.reflect(Report(task="brew tea", error="dry", diagnosis="fill the kettle first"))

    memory.record(won("Brew the tea.", "fill the kettle", "boil"))

    assert (only(memory).verified, len(only(memory).script)) == (True, 2)
    assert [p.text for p in only(memory).pitfalls] == ["fill the kettle first"]


# -- evidence


def test_the_evidence_shows_the_failed_steps_the_nearest_success_and_what_it_did_instead(shipped: Memory) -> None:
    recorded = shipped.record(lost("Ship the shop now", ("release build", "ok"), ("release publish --now", ERROR)))

    reflection = shipped.reflect(Report(trajectory_id=recorded.trajectory_id))

    assert [(f.index, f.error) for f in reflection.failed_steps] == [(2, ERROR)]
    assert reflection.success is not None
    assert reflection.success.id == SHIP.id
    assert "release publish" in reflection.suggestion


def test_a_success_at_something_else_is_not_shown(shipped: Memory) -> None:
    assert shipped.reflect(Report(task="water the plants of the shop", error="wilted")).success is None


def test_feedback_is_the_error_where_no_step_has_failed(memory: Memory) -> None:
    recorded = memory.record(trajectory("brew tea", "boil", outcome="failure", feedback="it was cold"))

    memory.reflect(Report(trajectory_id=recorded.trajectory_id))

    assert "it was cold" in only(memory).pitfalls[0].text


# -- what cannot be used


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"correction": "s9: release sign"}, "its steps are s1, s2, s3"),
        ({"correction": "-s1\n-s2\n-s3"}, "drops every step"),
        ({"correction": "\n".join(f"+s1: {i}" for i in range(9))}, "small delta"),
        ({"correction": "+s1: " + "x" * 500}, "500 characters|505 characters"),
        ({"diagnosis": "x" * 2_001}, "one or two sentences"),
        ({"recall_id": "r_000000000000"}, "another memory"),
        ({"recall_id": "t_000000000000"}, "not a recall id"),
        ({"used": ("p_000000000000",)}, "No procedure"),
        ({"trajectory_id": "p_000000000000"}, "not a trajectory id"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_stored(
    shipped: Memory, more: dict[str, object], message: str
) -> None:
    before = shipped.store.size().rows

    with pytest.raises(BadInput, match=message):
        shipped.reflect(
            Report.model_validate({"task": SHIP.task, "error": ERROR, "used": (only(shipped).id,), **more})
            if "recall_id" not in more
            else Report.model_validate({"task": SHIP.task, "error": ERROR, **more})
        )

    assert shipped.store.size().rows == before
    assert script(shipped) == ["release build", "release check", "release publish"]


# -- a guess


def test_a_procedure_that_nobody_says_was_followed_keeps_its_steps_and_is_told_the_advice(shipped: Memory) -> None:
    failed = shipped.record(lost(SHIP.task, ("kubectl apply -f shop.yaml", "error: unable to connect")))
    before = script(shipped)

    told = shipped.reflect(
        Report(trajectory_id=failed.trajectory_id, error="nothing was shipped", correction="release login")
    )

    assert [p.id for p in told.concerned] == [only(shipped).id]
    assert script(shipped) == before
    assert only(shipped).status == "provisional"
    assert [p.text for p in only(shipped).pitfalls] == ["Do this instead: release login"]


def test_a_step_that_failed_is_mended_where_the_same_task_has_it_even_by_a_guess(shipped: Memory) -> None:
    failed = shipped.record(lost(SHIP.task, "release build", ("release check", "error: no such command")))

    shipped.reflect(Report(trajectory_id=failed.trajectory_id, correction="release verify"))

    assert script(shipped) == ["release build", "release verify", "release publish"]


# -- another task


def test_how_another_task_goes_is_kept_beside_the_procedure_that_was_followed_for_it(shipped: Memory) -> None:
    used = only(shipped)
    failed = shipped.record(lost("Ship the blog", "release build", "release check", used=(used.id,)))

    told = shipped.reflect(
        Report(
            trajectory_id=failed.trajectory_id,
            error="nothing is online",
            diagnosis="a blog is rendered first",
            correction="hugo build\nrsync public/ www:",
        )
    )

    assert [c.kind for c in told.changes] == ["add", "revise"]
    lesson, warned = (c.procedure for c in told.changes)
    assert [s.text for s in lesson.script] == ["hugo build", "rsync public/ www:"]
    assert lesson.tasks == ("Ship the blog",)
    assert warned.id == used.id
    assert warned.script == used.script
    assert [p.text for p in warned.pitfalls] == ["a blog is rendered first"]


def test_a_step_of_a_procedure_that_failed_at_another_task_is_mended_in_it(shipped: Memory) -> None:
    used = only(shipped)
    run = lost("Ship the blog", "release build", ("release check", "error: no such command"), used=(used.id,))
    failed = shipped.record(run)

    shipped.reflect(Report(trajectory_id=failed.trajectory_id, correction="release verify"))

    assert script(shipped) == ["release build", "release verify", "release publish"]
