"""The loop: recall, record, reflect, on the real store with the real embedder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from builders import judged, lost, steps, trajectory, won
from conftest import OpenMemory
from fakes import NoEmbedder, ScriptedLLM

from memp_mcp import answers, lookup
from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import BadInput, EmbedderError, NotFound
from memp_mcp.judge import load_rules
from memp_mcp.memory import ASK_TO_REFLECT, Memory
from memp_mcp.models import Procedure, Step, Trajectory
from memp_mcp.reflect import Report
from memp_mcp.settings import Settings
from memp_mcp.store import Store

PUBLISH = won("Publish version 1 of the shop", ("release build 1", "built"), ("release publish 1", "published"))
FAILED = lost(
    "Publish version 2 of the shop",
    ("release build 2", "built"),
    ("release publish 2", "error: not signed\n[exit code 1]"),
)


def only(memory: Memory) -> Procedure:
    [found] = memory.list_procedures()
    return found


# -- recall


def test_what_was_recorded_is_recalled_for_a_like_task_and_not_for_another(memory: Memory) -> None:
    memory.record(PUBLISH)

    found = memory.recall("publish the new version of the shop")

    assert found.found == "hybrid"
    assert [m.procedure.title for m in found.matches] == [PUBLISH.task]
    assert memory.recall("water the plants in the office").matches == ()


def test_an_empty_task_is_refused(memory: Memory) -> None:
    with pytest.raises(BadInput, match="one sentence"):
        memory.recall("  ")


@pytest.mark.parametrize("policy", ["random", "query", "avefact", "hybrid"])
def test_every_policy_recalls(open_memory: OpenMemory, policy: str) -> None:
    memory = open_memory(retrieve=policy)
    memory.record(PUBLISH)

    found = memory.recall(PUBLISH.task)

    assert found.found == policy
    assert len(found.matches) == 1


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [
        ("Развернуть сервис на сервере", "развернуть новый сервис"),
        ("部署服务到生产服务器", "把服务部署到服务器"),
        ("Den Server neu starten", "starte den Server neu"),
    ],
)
def test_tasks_in_other_languages_are_found(memory: Memory, recorded: str, asked: str) -> None:
    memory.record(won(recorded, "ssh server"))

    assert [m.procedure.title for m in memory.recall(asked).matches] == [recorded]


def test_a_recall_by_error_finds_what_helped_after_such_an_error(memory: Memory) -> None:
    memory.reflect(Report(task="Publish the shop", error="E77: artefact is not signed", diagnosis="sign it first"))

    found = memory.recall("release the blog", error="fatal E77: artefact is not signed (blog.zip)")

    assert [p.text for m in found.matches for p in m.procedure.pitfalls] == ["sign it first"]
    assert "same error" in found.matches[0].why


def test_a_recall_sees_the_callers_project_and_what_is_shared_and_nothing_else(memory: Memory) -> None:
    for project in ("", "shop", "blog"):
        memory.record(won("rotate the access key", f"rotate {project}", project=project))

    seen = {m.procedure.project for m in memory.recall("rotate the access key", project="shop", limit=9).matches}

    assert seen == {"", "shop"}
    assert {m.procedure.project for m in memory.recall("rotate the access key").matches} == {""}


def test_while_the_embedder_is_not_there_words_find_it_and_the_reason_is_told(open_memory: OpenMemory) -> None:
    memory = open_memory(background=NoEmbedder("none"), recall_wait=0.0)
    recorded = memory.record(PUBLISH)

    found = memory.recall("publish version 9 of the shop")

    assert found.found == "lexical"
    assert "no vectors" in found.reason
    assert [m.procedure.title for m in found.matches] == [PUBLISH.task]
    assert "by its words only" in recorded.notes[0]
    assert memory.stats().embedder_state.startswith("no vectors")


def test_vectors_that_were_missing_are_made_when_the_embedder_is_there(open_memory: OpenMemory) -> None:
    open_memory(background=NoEmbedder("none")).record(PUBLISH)

    found = open_memory().recall("make the newest shop available to customers: publish it")

    assert found.found == "hybrid"
    assert found.matches[0].relevance > 0.3


def test_vectors_of_another_embedder_are_never_mixed(open_memory: OpenMemory, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "memory")
    store.adopt("another-model", 8)
    memory = open_memory()

    assert memory.record(PUBLISH).changes[0].kind == "add"
    found = memory.recall(PUBLISH.task)

    assert found.found == "lexical"
    assert "another-model" in found.reason
    assert "rebuild --embed" in found.reason


# -- record


def test_the_same_trajectory_is_stored_once(memory: Memory) -> None:
    first, again = memory.record(PUBLISH), memory.record(PUBLISH.model_copy())

    assert (first.already_stored, again.already_stored) == (False, True)
    assert again.trajectory_id == first.trajectory_id
    assert again.reward == PUBLISH.reward
    assert len(memory.list_procedures()) == 1


def test_the_clients_key_stands_for_the_content(memory: Memory) -> None:
    memory.record(won("one telling", "do it", key="k1"))

    assert memory.record(won("another telling", "do it", key="k1")).already_stored


def test_an_outcome_without_evidence_is_the_callers_word(memory: Memory) -> None:
    recorded = memory.record(trajectory("tidy up", "rm notes.txt"))

    assert recorded.reward is not None
    assert (recorded.reward.judged_by, recorded.reward.verified) == ("caller", False)
    assert only(memory).status == "provisional"


def test_nobodys_judgement_is_no_reward(memory: Memory) -> None:
    assert memory.record(trajectory("tidy up", "rm notes.txt", outcome="unknown")).reward is None


def test_users_rules_judge_first(open_memory: OpenMemory, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nname = "greets"\nkind = "regex"\npattern = "hello"\nstep = "any"\n', encoding="utf-8")
    memory = open_memory(rules=load_rules(file))

    recorded = memory.record(trajectory("greet", ("echo", "hello"), outcome="unknown"))

    assert recorded.reward is not None
    assert recorded.reward.judged_by == "rule:greets"


def test_credit_goes_to_what_was_used(memory: Memory) -> None:
    memory.record(PUBLISH)
    recall = memory.recall(PUBLISH.task)

    recorded = memory.record(won("Publish version 3", "release build 3", "release publish 3", recall_id=recall.id))

    known = memory.get(only(memory).id)
    assert recorded.credited == (known.procedure.id,)
    assert "first of the recall" in recorded.notes[0]
    assert (known.counts.recalled, known.counts.uses, known.counts.successes) == (1, 1, 1)
    assert known.counts.last_verified is not None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"used": ("p_000000000000",)}, "No procedure"),
        ({"used": ("'; DROP TABLE x",)}, "not a procedure id"),
        ({"recall_id": "r_000000000000"}, "another memory"),
    ],
)
def test_unknown_ids_are_refused_and_nothing_is_stored(memory: Memory, more: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        memory.record(won("a task", "do it", **more))

    assert memory.list_procedures() == []
    assert list(memory.store.all_trajectories()) == []


def test_a_recall_of_another_memory_is_told_as_such(open_memory: OpenMemory) -> None:
    other = open_memory("other").recall("anything").id

    with pytest.raises(NotFound, match="another memory"):
        open_memory("mine").record(won("a task", "do it", recall_id=other))


def test_secrets_never_reach_the_disk(memory: Memory) -> None:
    secret = "ghp_" + "a1B2" * 9
    memory.record(won("push", (f"git push https://x:{secret}@example.org/r", "ok")))

    assert secret not in only(memory).model_dump_json()
    assert all(secret not in t.model_dump_json() for t in memory.store.all_trajectories())


def test_a_secret_in_the_reason_of_a_retirement_never_reaches_the_disk(memory: Memory) -> None:
    secret = "ghp_" + "a1B2" * 9
    memory.record(won("push", ("git push", "ok")))
    told = memory.retire(only(memory).id, reason=f"it prints {secret}")

    assert secret not in told.model_dump_json()
    assert all(secret not in p.model_dump_json() for p in memory.history(told.procedure.id))


def test_a_secret_in_the_name_of_a_project_or_client_never_reaches_the_disk(memory: Memory) -> None:
    secret = "ghp_" + "a1B2" * 9
    project, client = f"shop {secret}", f"agent {secret}"
    of_other = Report(task="pull", error="no remote", diagnosis="a typo", project=project, client=client)

    memory.record(won("push", ("git push", "ok"), project=project, client=client))
    recall = memory.recall("push", project=project, client=client)
    memory.reflect(of_other)
    memory.reflect(of_other.model_copy(update={"task": "push", "recall_id": recall.id}))

    assert [m.procedure.title for m in recall.matches] == ["push"], "a project is found by the name it was recorded by"
    stored = (*memory.store.all_trajectories(), *memory.store.all_revisions(), *memory.store.all_events())
    assert len(stored) > 5
    assert all(secret not in value.model_dump_json() for value in stored)
    files = [f for f in Path(memory.store.location).rglob("*") if f.is_file()]
    assert not [f for f in files if secret.encode() in f.read_bytes()]


def test_secrets_of_a_recall_never_reach_the_disk(memory: Memory) -> None:
    secret = "ghp_" + "a1B2" * 9

    recall = memory.recall(f"push with {secret}", error=f"denied: {secret}")

    [noted] = memory.store.events(kind="recall")
    assert recall.task == f"push with {secret}"
    assert secret not in noted.detail
    assert "denied" in noted.detail


def test_three_verified_failures_retire_a_procedure_and_restore_brings_it_back(memory: Memory) -> None:
    memory.record(PUBLISH)
    procedure_id = only(memory).id
    for run in range(3):
        memory.record(lost(f"Publish {run}", ("release build", "error: boom\n[exit code 1]"), used=(procedure_id,)))

    assert memory.get(procedure_id).procedure.status == "retired"
    assert memory.recall(PUBLISH.task).matches == ()

    memory.restore(procedure_id)

    assert memory.recall(PUBLISH.task).matches[0].procedure.id == procedure_id
    assert [r.change for r in memory.history(procedure_id)] == ["add", "retire", "restore"]


def test_threads_that_record_the_same_task_make_one_procedure(open_memory: OpenMemory) -> None:
    memories = [open_memory(), open_memory()]
    told = [won("Publish the shop", f"release publish {i}") for i in range(8)]
    threads = [threading.Thread(target=memories[i % 2].record, args=(t,)) for i, t in enumerate(told)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {t.id for t in memories[0].store.all_trajectories()} == {t.id for t in told}
    assert len(memories[0].store.events(kind="evidence")) == 8
    assert 1 <= len(memories[0].list_procedures()) <= 8
    assert memories[0].store.check() == []


@pytest.mark.parametrize("policy", ["vanilla", "validation"])
def test_other_policies_do_not_ask_to_reflect(open_memory: OpenMemory, policy: str) -> None:
    recorded = open_memory(update=policy).record(FAILED)

    assert ASK_TO_REFLECT not in recorded.notes


# -- hold-out


def held_out(memory: Memory, draw: float) -> Memory:
    """The same memory, of which half of the recalls are withheld, with each draw coming out like this."""
    settings = memory.settings.model_copy(update={"holdout": 0.5})
    held = Memory(memory.store, memory.vectorizer.background, settings, draw=lambda: draw)
    assert held.vectorizer.background.ready(60)
    return held


def test_a_recall_that_is_withheld_is_answered_with_an_id_and_why(memory: Memory) -> None:
    memory.record(PUBLISH)

    recall = held_out(memory, 0.1).recall(PUBLISH.task)

    assert (recall.found, recall.matches) == ("withheld", ())
    assert recall.id is not None
    assert "MEMP_HOLDOUT" in recall.reason


def test_a_recall_that_is_withheld_is_noted_with_what_it_would_have_returned(memory: Memory) -> None:
    memory.record(PUBLISH)

    held_out(memory, 0.1).recall(PUBLISH.task)

    [event] = memory.store.events(kind="recall")
    noted = lookup.noted(event)
    assert (noted.returned, noted.holdout) == ((), 0.5)
    assert [r.id for r in noted.withheld] == [only(memory).id]
    assert memory.get(only(memory).id).counts.recalled == 0


def test_a_recall_that_the_draw_lets_pass_is_noted_as_drawn(memory: Memory) -> None:
    memory.record(PUBLISH)

    recall = held_out(memory, 0.5).recall(PUBLISH.task)

    [event] = memory.store.events(kind="recall")
    assert len(recall.matches) == 1
    assert lookup.noted(event).holdout == 0.5


def test_what_finds_nothing_is_not_drawn(memory: Memory) -> None:
    recall = held_out(memory, 0.1).recall("water the plants")

    [event] = memory.store.events(kind="recall")
    assert recall.found == "hybrid"
    assert lookup.noted(event).holdout == 0


def test_whoever_is_stuck_on_an_error_is_always_helped(memory: Memory) -> None:
    memory.record(PUBLISH)

    assert len(held_out(memory, 0.1).recall(PUBLISH.task, error="not signed").matches) == 1


def test_without_a_hold_out_nothing_is_drawn(memory: Memory) -> None:
    def draw() -> float:
        raise AssertionError

    memory.record(PUBLISH)
    plain = Memory(memory.store, memory.vectorizer.background, memory.settings, draw=draw)

    assert plain.vectorizer.background.ready(60)
    assert len(plain.recall(PUBLISH.task).matches) == 1


def test_what_was_withheld_is_neither_credited_nor_to_be_corrected(memory: Memory) -> None:
    memory.record(PUBLISH)
    held = held_out(memory, 0.1)
    recall_id = held.recall(PUBLISH.task).id

    recorded = held.record(FAILED.model_copy(update={"recall_id": recall_id}))
    reflection = held.reflect(Report(trajectory_id=recorded.trajectory_id, correction="s1: release make {v}"))

    assert recorded.credited == ()
    assert ASK_TO_REFLECT not in recorded.notes
    assert reflection.changes == ()
    assert "withheld" in reflection.notes[0]
    assert memory.get(only(memory).id).counts.uses == 0


def test_a_failure_told_without_a_record_does_not_blame_what_was_withheld(memory: Memory) -> None:
    memory.record(PUBLISH)
    held = held_out(memory, 0.1)
    recall_id = held.recall(PUBLISH.task).id

    held.reflect(Report(task=PUBLISH.task, recall_id=recall_id, error="boom", diagnosis="it must be signed"))

    assert memory.store.events(kind="used") == []
    assert len(memory.history(only(memory).id)) == 1


def test_who_followed_a_procedure_although_it_was_withheld_may_say_so(memory: Memory) -> None:
    memory.record(PUBLISH)
    held = held_out(memory, 0.1)
    recall_id = held.recall(PUBLISH.task).id

    recorded = held.record(FAILED.model_copy(update={"recall_id": recall_id, "used": (only(memory).id,)}))

    assert recorded.credited == (only(memory).id,)
    assert recorded.notes[-1] == ASK_TO_REFLECT


def test_a_success_without_what_was_withheld_is_learnt_from(memory: Memory) -> None:
    memory.record(PUBLISH)
    held = held_out(memory, 0.1)

    recorded = held.record(
        PUBLISH.model_copy(update={"id": "t_00000000000000000001", "recall_id": held.recall(PUBLISH.task).id})
    )

    assert recorded.credited == ()
    assert [c.kind for c in recorded.changes] == ["merge"]


# -- reflect


def test_a_correction_revises_what_was_used_and_is_what_is_recalled_then(memory: Memory) -> None:
    memory.record(PUBLISH)
    recall = memory.recall(FAILED.task)
    recorded = memory.record(FAILED.model_copy(update={"recall_id": recall.id}))

    reflection = memory.reflect(
        Report(trajectory_id=recorded.trajectory_id, diagnosis="it must be signed", correction="+s1: release sign {v}")
    )

    assert recorded.notes[-1] == ASK_TO_REFLECT
    [change] = reflection.changes
    assert (change.kind, change.procedure.revision) == ("revise", 2)
    assert "+ s3: release sign {v}" in change.diff
    [match] = memory.recall(FAILED.task).matches
    assert [s.name for s in match.procedure.script] == ["s1", "s3", "s2"]
    assert match.counts.uses == 0


def test_without_an_explanation_the_evidence_is_given_and_a_tentative_pitfall_is_kept(memory: Memory) -> None:
    memory.record(PUBLISH)
    procedure_id = only(memory).id
    recorded = memory.record(FAILED.model_copy(update={"used": (procedure_id,)}))

    reflection = memory.reflect(Report(trajectory_id=recorded.trajectory_id))

    assert reflection.fault == "unexplained"
    assert [f.index for f in reflection.failed_steps] == [2]
    assert reflection.success is not None
    assert [p.id for p in reflection.concerned] == [procedure_id]
    assert only(memory).pitfalls[0].tentative


def test_a_failure_with_nothing_recalled_becomes_a_lesson_that_a_recall_finds(memory: Memory) -> None:
    memory.reflect(
        Report(task="Publish the shop", error="not signed", diagnosis="it must be signed", correction="sign\npublish")
    )

    [match] = memory.recall("publish the shop").matches

    assert match.procedure.status == "provisional"
    assert [s.text for s in match.procedure.script] == ["sign", "publish"]


def test_the_same_reflection_is_stored_once(memory: Memory) -> None:
    report = Report(task="Publish the shop", error="not signed", diagnosis="it must be signed")
    memory.reflect(report)

    again = memory.reflect(report)

    assert again.changes == () or again.changes[0].kind == "revise"
    assert len(memory.list_procedures()) == 1


def test_a_transient_fault_changes_nothing(memory: Memory) -> None:
    reflection = memory.reflect(Report(task="fetch it", error="curl: (28) Operation timed out after 30000 ms"))

    assert reflection.fault == "surroundings"
    assert memory.list_procedures() == []


def test_a_failure_told_by_reflecting_and_then_recorded_counts_once(memory: Memory) -> None:
    memory.record(PUBLISH)
    procedure_id = only(memory).id
    recall_id = memory.recall(PUBLISH.task).id
    memory.reflect(Report(task=FAILED.task, recall_id=recall_id, error="not signed", correction="s2: release ship {v}"))

    memory.record(FAILED.model_copy(update={"recall_id": recall_id, "used": (procedure_id,)}))
    memory.record(won("Publish 4", "release build 4", "release ship 4", recall_id=recall_id, used=(procedure_id,)))

    assert memory.get(procedure_id, revision=1).counts.uses == 1
    assert memory.get(procedure_id).counts.successes == 1


def test_a_use_of_a_script_that_was_revised_meanwhile_counts_for_that_script(memory: Memory) -> None:
    memory.record(PUBLISH)
    procedure_id = only(memory).id
    recall_id = memory.recall(PUBLISH.task).id
    memory.reflect(
        Report(task="elsewhere", used=(procedure_id,), error="not signed", correction="s2: release ship {v}")
    )

    memory.record(won("Publish 5", "release build 5", recall_id=recall_id, used=(procedure_id,)))

    assert memory.get(procedure_id, revision=1).counts.successes == 1
    assert memory.get(procedure_id).counts.uses == 0


def test_advice_goes_to_every_procedure_that_was_used(memory: Memory) -> None:
    memory.record(PUBLISH)
    memory.record(won("sweep the floor", "sweep"))
    ids = tuple(p.id for p in memory.list_procedures())

    changes = memory.reflect(
        Report(task="x", used=ids, error="boom", diagnosis="never on Fridays", correction="when not: Fridays")
    ).changes

    assert {c.procedure.id for c in changes} == set(ids)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (Report(error="x"), "trajectory_id"),
        (Report(task="x"), "error is empty"),
        (Report(task="x", error="y", trajectory_id="t_00000000000000000000"), "No trajectory"),
        (Report(task="x", error="y", correction="s1:"), "no text"),
    ],
)
def test_reports_that_cannot_be_used_are_refused_with_the_next_move(
    memory: Memory, report: Report, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        memory.reflect(report)


# -- an LLM


VERDICT: dict[str, object] = {"score": 0.0, "reason": "nothing was published"}
FIX: dict[str, object] = {
    "fault": "procedure",
    "diagnosis": "the artefact was not signed",
    "edits": [{"op": "insert_after", "step": "s1", "text": "release sign {v}"}],
    "pitfall": "publish refuses unsigned artefacts",
}


def with_procedure(open_memory: OpenMemory, *answers: dict[str, object] | str) -> tuple[Memory, Procedure]:
    plain = open_memory()
    plain.record(PUBLISH)
    return open_memory(llm=ScriptedLLM(*answers)), only(plain)


def test_with_an_llm_a_recorded_failure_is_reflected_on_at_once(open_memory: OpenMemory) -> None:
    memory, known = with_procedure(open_memory, FIX)

    recorded = memory.record(FAILED.model_copy(update={"used": (known.id,)}))

    assert [c.kind for c in recorded.changes] == ["revise"]
    revised = memory.get(known.id).procedure
    assert revised.author == "scripted:llm"
    assert [p.text for p in revised.pitfalls] == ["publish refuses unsigned artefacts"]


def test_an_llm_that_blames_the_surroundings_changes_nothing(open_memory: OpenMemory) -> None:
    memory, known = with_procedure(open_memory, {**FIX, "fault": "surroundings"})

    reflection = memory.reflect(Report(task="x", used=(known.id,), error="boom"))

    assert reflection.fault == "surroundings"
    assert memory.get(known.id).procedure.revision == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [("out of budget", "out of budget"), ({**FIX, "edits": [{"op": "drop", "step": "s9"}]}, "cannot be made")],
)
def test_an_llm_that_fails_leaves_the_script_as_it_was_and_says_so(
    open_memory: OpenMemory, answer: dict[str, object] | str, told: str
) -> None:
    memory, known = with_procedure(open_memory, answer)

    reflection = memory.reflect(Report(task="x", used=(known.id,), error="boom"))

    assert told in reflection.notes[0]
    assert memory.get(known.id).procedure.script == known.script


def test_an_llm_judges_and_builds_and_its_failures_are_told(open_memory: OpenMemory) -> None:
    memory = open_memory(llm=ScriptedLLM("no connection", "no connection"))

    recorded = memory.record(trajectory("tidy up", "rm notes.txt"))

    assert any("not judged by the LLM" in n for n in recorded.notes)
    assert any("script written by rules" in n for n in recorded.notes)
    assert memory.stats().llm == "scripted:llm"


# -- single procedures, bad input


def test_a_procedure_is_provisional_until_a_person_approves_it_and_then_says_so(memory: Memory) -> None:
    memory.record(PUBLISH.model_copy(update={"project": "shop"}))
    made = only(memory)
    assert made.status == "provisional"

    [change] = memory.approve(made.id, author="maria")

    assert (change.kind, change.reason) == ("promote", "approved by maria")
    approved = only(memory)
    assert (approved.status, approved.revision, approved.project) == ("active", 2, "shop")
    [told] = answers.recall_answer(memory.recall(PUBLISH.task, project="shop"), detail="brief", budget=900).procedures
    assert told.status == ""
    assert told.origin.endswith("approved by a person")
    with pytest.raises(BadInput, match=r"is active already\."):
        memory.approve(made.id)


def test_who_calls_itself_by_another_name_confirms_nothing_and_another_token_does(memory: Memory) -> None:
    for number, client in enumerate(("ann (codex)", "ann (claude-code)", "bob (codex)")):
        assert only(memory).status == "provisional" if number else not memory.list_procedures()
        memory.record(won("publish the shop", ("release publish", f"published {number}"), client=client))

    assert only(memory).status == "active"


def test_what_is_approved_and_shared_is_recalled_in_another_project(memory: Memory) -> None:
    memory.record(PUBLISH.model_copy(update={"project": "shop"}))
    made = only(memory)
    assert memory.recall(PUBLISH.task, project="blog").matches == ()

    changes = memory.approve(made.id, share=True)

    assert [c.reason for c in changes] == ["approved by user", "shared by user with all projects, from shop"]
    [match] = memory.recall(PUBLISH.task, project="blog").matches
    assert (match.procedure.id, match.procedure.status, match.procedure.project) == (made.id, "active", "")
    with pytest.raises(BadInput, match="active already, and shared by all"):
        memory.approve(made.id, share=True)


def test_sharing_alone_confirms_nothing_and_an_approved_procedure_can_still_be_shared(memory: Memory) -> None:
    memory.record(PUBLISH.model_copy(update={"project": "shop"}))
    made = only(memory)

    assert memory.share(made.id).procedure.status == "provisional"
    assert [m.procedure.id for m in memory.recall(PUBLISH.task, project="blog").matches] == [made.id]
    with pytest.raises(BadInput, match="shared by all projects already"):
        memory.share(made.id)

    memory.record(FAILED.model_copy(update={"task": "mop", "outcome": "success", "reward": judged(1), "project": "a"}))
    [other] = memory.list_procedures(project="a")
    memory.approve(other.id)
    assert [c.procedure.project for c in memory.approve(other.id, share=True)] == [""]


def test_only_what_is_there_and_not_retired_is_approved(memory: Memory) -> None:
    memory.record(PUBLISH)
    memory.retire(only(memory).id)

    with pytest.raises(BadInput, match="restore it first"):
        memory.approve(only(memory).id)
    for act in (memory.approve, memory.share):
        with pytest.raises(NotFound, match="No procedure"):
            act("p_000000000000")


def test_a_roll_back_of_the_script_leaves_a_shared_procedure_shared(memory: Memory) -> None:
    memory.record(PUBLISH.model_copy(update={"project": "shop"}))
    made = only(memory)
    memory.record(won(PUBLISH.task, "release publish 1", project="shop", used=(made.id,)))
    memory.reflect(Report(task=PUBLISH.task, error="E1", correction="s2: sign it", used=(made.id,), project="shop"))
    memory.share(made.id)

    for i in range(2):
        memory.record(lost(PUBLISH.task, (f"sign it {i}", "error: no"), project="shop", used=(made.id,)))

    rolled_back = memory.get(made.id).procedure
    assert (rolled_back.change, rolled_back.project) == ("roll_back", "")
    assert rolled_back.script == made.script


def test_forgetting_removes_the_procedure_and_the_trajectories_only_it_rests_on(memory: Memory) -> None:
    first = memory.record(PUBLISH)
    procedure_id = only(memory).id

    assert memory.forget(procedure_id) == (first.trajectory_id,)
    assert list(memory.store.all_trajectories()) == []
    with pytest.raises(NotFound):
        memory.get(procedure_id)


def test_revisions_can_be_told_apart_and_brought_back(memory: Memory) -> None:
    memory.record(PUBLISH)
    procedure_id = only(memory).id
    memory.reflect(Report(task="x", used=(procedure_id,), error="boom", correction="s1: release make {v}"))

    assert "+ s1: release make {v}" in memory.diff(procedure_id)
    assert memory.diff(procedure_id, 1, 1) == ""
    assert memory.diff(procedure_id, 0, 1).startswith("+ title")
    assert memory.restore(procedure_id, 1).procedure.script == memory.get(procedure_id, revision=1).procedure.script
    with pytest.raises(BadInput, match="Name the revision"):
        memory.restore(procedure_id)
    assert memory.retire(procedure_id).procedure.status == "retired"
    with pytest.raises(BadInput, match="restore brings it back"):
        memory.retire(procedure_id)
    with pytest.raises(NotFound, match="current revision"):
        memory.get(procedure_id, revision=99)


@pytest.mark.parametrize(
    "text",
    ["a\x00b", "lone \ud800 surrogate", "'; DROP TABLE procedures; --", '"quoted" AND 1=1', "😀 ﷽ \u202etxt", "%_\\"],
)
def test_any_text_is_stored_and_found(memory: Memory, text: str) -> None:
    recorded = memory.record(
        won(text, (text, text), feedback=text, client=text, model=text, project="", script=(text,))
    )

    assert memory.trajectory(recorded.trajectory_id).steps[0].action
    memory.recall(text, error=text, project=text)
    memory.reflect(Report(task=text, error=text, diagnosis=text, correction=f"pitfall: {text}"))
    assert memory.store.check() == []


def test_ten_thousand_steps_and_five_megabytes_are_stored(memory: Memory) -> None:
    many = Trajectory(task="a long run", steps=steps(*(f"step {i}" for i in range(10_000))), reward=judged(1))
    large = Trajectory(task="a large step", steps=(Step(action="cat log", observation="x" * 5_000_000),))

    assert len(memory.trajectory(memory.record(many).trajectory_id).steps) == 10_000
    assert len(memory.trajectory(memory.record(large).trajectory_id).steps[0].observation) == 5_000_000
    assert all(len(p.model_dump_json()) < 100_000 for p in memory.list_procedures())


def test_what_is_too_large_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="Split it"):
        Trajectory(task="x", steps=(Step(action="a"),) * 20_001)
    with pytest.raises(ValueError, match="Shorten"):
        Trajectory(task="x", steps=(Step(action="a", observation="x" * 8_000_001),))


def test_stats_add_up(memory: Memory) -> None:
    memory.record(PUBLISH)
    memory.recall(PUBLISH.task)
    memory.recall("water the plants")

    stats = memory.stats()

    assert (stats.procedures, stats.recalls, stats.recalls_with_nothing) == ({"provisional": 1}, 2, 1)
    assert stats.embedder_state == "ready"
    assert memory.ids_starting("p_", kind="procedure") == [only(memory).id]
    assert memory.ids_starting("t_", kind="trajectory") == [PUBLISH.id]


def test_a_memory_opens_from_its_settings(tmp_path: Path, embedder: BackgroundEmbedder) -> None:
    settings = Settings(home=tmp_path / "m", llm="openai:some-model", llm_base_url="http://127.0.0.1:9")

    memory = Memory.open(settings, embedder=embedder)

    assert memory.llm is not None
    assert memory.stats().llm_tokens_left == settings.llm_daily_tokens
    with pytest.raises(BadInput):
        Memory.open(Settings(home=tmp_path / "m", rules=tmp_path / "no-such.toml"), embedder=embedder)
    assert issubclass(EmbedderError, Exception)
