"""The lean answers: within their budget, best first, and honest about what was cut."""

from __future__ import annotations

import json

import pytest
from builders import judged, procedure, steps, won
from hypothesis import given, settings
from hypothesis import strategies as st

from memp_mcp import answers
from memp_mcp.evidence import FailedStep
from memp_mcp.lookup import Known
from memp_mcp.memory import WITHHELD, Recall
from memp_mcp.models import Change, Counts, Pitfall, Procedure, Slot, Step, now
from memp_mcp.record import Recorded
from memp_mcp.reflect import Reflection
from memp_mcp.retrieve import Match


def recalled(*procedures: Procedure) -> Recall:
    matches = tuple(Match(procedure=p, score=1, relevance=1, counts=Counts(), why="similar task") for p in procedures)
    return Recall(id="r_000000000000", task="x", found="hybrid", matches=matches)


def large(size: int, lines: int) -> Procedure:
    return procedure(
        "t" * 100,
        ["s" * size] * lines,
        when_to_use="w" * 600,
        when_not_to_use="n" * size,
        preconditions=("p" * size,) * 3,
        check="c" * size,
        slots=(Slot(name="file", examples=("a", "b")),),
        pitfalls=(Pitfall(text="x" * size),) * lines,
        exemplar=steps(*[("do", "seen " * 50)] * 30),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4000), st.integers(1, 20), st.integers(1, 5), st.integers(200, 3000),
    st.sampled_from(["brief", "full"]),
)  # fmt: skip
def test_an_answer_keeps_to_its_budget(size: int, lines: int, count: int, budget: int, detail: str) -> None:
    recall = recalled(*(large(size, lines) for _ in range(count)))

    answer = answers.recall_answer(recall, detail=detail, budget=budget)  # type: ignore[arg-type]  # given as text

    assert answers.tokens(answer) <= budget
    assert [p.id for p in answer.procedures] == [m.procedure.id for m in recall.matches][: len(answer.procedures)]
    assert answer.procedures


def test_what_was_cut_is_said() -> None:
    first, second = large(20, 5), large(20, 5)

    answer = answers.recall_answer(recalled(first, second), detail="full", budget=900)

    assert "exemplars" in answer.note
    assert "get_procedure" in answer.note
    assert answers.recall_answer(recalled(procedure()), detail="brief", budget=900).note == ""


def test_empty_fields_are_left_out_and_text_and_data_agree() -> None:
    answer = answers.procedure_answer(Known(procedure(), Counts()), detail="brief")

    assert set(answers.as_data(answer)) == {"id", "revision", "title", "script"}
    assert json.loads(answers.as_text(answer)) == answers.as_data(answer)


def test_reliability_and_what_is_unproven_are_told() -> None:
    counts = Counts(recalled=3, uses=3, verified=2, successes=1, last_verified=now())
    told = procedure(
        script=("open {file}",),
        status="provisional",
        slots=(Slot(name="file", examples=("a.txt", "b.txt")), Slot(name="other", examples=("x",))),
        pitfalls=(Pitfall(text="mind it", error="E1: gone", tentative=True), Pitfall(text="E2 means no", error="E2")),
    )

    data = answers.as_data(answers.procedure_answer(Known(told, counts), detail="brief"))

    assert (data["uses"], data["verified"], data["successes"], data["status"]) == (3, 2, 1, "provisional")
    assert data["pitfalls"] == ["(unproven) mind it [E1: gone]", "(unproven) E2 means no"]
    assert data["slots"] == {"file": ["a.txt", "b.txt"]}
    assert data["last_verified"] == now().date().isoformat()


WORDS = st.text(min_size=1, max_size=30).filter(str.strip)
LONG = st.builds(lambda word, times: (word * times)[:4000], WORDS, st.sampled_from([1, 10, 400]))
REASONS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300)
"""Reasons are the program's own words."""
PROCEDURES = st.builds(
    lambda title, lines, prose, pitfalls, seen: procedure(
        title[:100].strip() or "x", lines, when_to_use=prose, when_not_to_use=prose[::-1], check=prose,
        preconditions=tuple(lines), author=title, status="provisional",
        slots=(Slot(name="file", examples=tuple(lines)),), exemplar=steps(*((line, prose) for line in seen)),
        pitfalls=tuple(Pitfall(text=p, error=prose) for p in pitfalls),
    ),
    LONG,
    st.lists(LONG.filter(str.strip), max_size=4),
    LONG,
    st.lists(LONG.filter(str.strip), max_size=4),
    st.lists(LONG.filter(str.strip), max_size=4),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.lists(PROCEDURES, max_size=10), REASONS, st.integers(200, 1500), st.sampled_from(["brief", "full"]),
)  # fmt: skip
def test_whatever_is_recalled_the_answer_keeps_to_its_budget(
    found: list[Procedure], reason: str, budget: int, detail: answers.Detail
) -> None:
    counts = Counts(recalled=10**6, uses=10**6, verified=10**6, successes=10**6, last_verified=now())
    matches = tuple(Match(procedure=p, score=1, relevance=1, counts=counts, why="similar task") for p in found)
    recall = Recall(id="r_000000000000", task="x", found="lexical", reason=reason,
                    matches=matches)  # fmt: skip

    answer = answers.recall_answer(recall, detail=detail, budget=budget)

    assert answers.tokens(answer) <= budget
    assert [p.id for p in answer.procedures] == [p.id for p in found][: len(answer.procedures)]
    assert bool(answer.procedures) == bool(found)
    if len(answer.procedures) < len(found):
        assert f"{len(found) - len(answer.procedures)} procedures" in answer.note


def test_characters_that_json_writes_as_six_fit_too() -> None:
    escaped = "\x01" * 200
    known = procedure(escaped, [escaped], author=escaped, pitfalls=(Pitfall(text=escaped),))

    answer = answers.recall_answer(recalled(known), detail="brief", budget=200)

    assert answers.tokens(answer) <= 200
    assert answer.procedures[0].id == known.id
    assert answer.procedures[0].title == escaped[:20]


def test_what_is_needed_least_goes_first() -> None:
    known = procedure(
        "Publish", [f"do part {i} of {{file}} now" for i in range(10)], slots=(Slot(name="file", examples=("a.txt",)),),
        preconditions=("on main " * 100,),
    )  # fmt: skip

    [shown] = answers.recall_answer(recalled(known), detail="brief", budget=200).procedures

    assert len(shown.script) == 10
    assert (shown.slots, shown.before) == ({}, [])


def test_a_procedure_without_script_keeps_the_beginning_of_its_exemplar() -> None:
    """Under the policy `trajectory` the steps are all there is; an answer without them would be none."""
    known = procedure(script=(), exemplar=steps(*[(f"do {i}", "seen " * 50) for i in range(30)]))

    [shown] = answers.recall_answer(recalled(known, known), detail="brief", budget=400).procedures

    assert shown.exemplar[0].startswith("do 0 -> seen")
    assert 1 < len(shown.exemplar) < 30


def test_nothing_relevant_is_an_answer_that_says_what_to_do() -> None:
    answer = answers.recall_answer(recalled(), detail="brief", budget=200)

    assert answer.procedures == []
    assert answer.note == answers.NOTHING


def test_what_is_withheld_is_told_whole_and_not_as_nothing_relevant() -> None:
    recall = Recall(id="r_3f2a9c0d1e4b", task="x", found="withheld", reason=WITHHELD)

    answer = answers.recall_answer(recall, detail="brief", budget=1500)

    assert (answer.recall_id, answer.found, answer.note) == ("r_3f2a9c0d1e4b", "withheld", WITHHELD)


def test_why_only_words_were_used_is_told() -> None:
    recall = recalled(procedure()).model_copy(update={"found": "lexical", "reason": "still loading"})

    assert answers.recall_answer(recall, detail="brief", budget=500).note == "still loading"


def test_the_exemplar_is_shown_in_full_only() -> None:
    known = Known(procedure(exemplar=(Step(action="make", observation="  built\n"), Step(action="wait"))), Counts())

    assert answers.procedure_answer(known, detail="full").exemplar == ["make -> built", "wait"]
    assert answers.procedure_answer(known, detail="brief").exemplar == []


# -- the other answers


def test_a_record_tells_its_reward_its_changes_and_what_nobody_judged() -> None:
    change = Change(kind="add", procedure=procedure(), reason="new", diff="+ s1: x" * 1000)
    reward = judged(0.0).model_copy(update={"reason": "x" * 1000})

    data = answers.as_data(
        answers.record_answer(Recorded(trajectory_id="t_1", reward=reward, credited=("p_1",), changes=(change,)))
    )
    unknown = answers.as_data(answers.record_answer(Recorded(trajectory_id="t_1")))

    assert data["stored"] == "now"
    assert data["reward"]["score"] == 0.0  # type: ignore[index]  # JSON data
    assert len(answers.as_text(answers.record_answer(Recorded(trajectory_id="t_1", changes=(change,))))) < 2000
    assert "notes" not in data
    assert unknown["notes"] == ["outcome unknown: nobody judged it"]


def test_what_was_stored_before_is_not_said_to_be_unjudged() -> None:
    again = answers.record_answer(Recorded(trajectory_id="t_1", already_stored=True, notes=("stored before",)))

    assert answers.as_data(again) == {"trajectory_id": "t_1", "stored": "before", "notes": ["stored before"]}


UNEXPLAINED = Reflection(
    fault="unexplained",
    failed_steps=(FailedStep(index=2, action="publish", error="not signed"),),
    concerned=(procedure(),),
    success=won("publish", *[f"do {i}" for i in range(20)]),
)


def test_an_unexplained_failure_is_answered_with_the_evidence_and_the_call_to_make() -> None:
    answer = answers.reflect_answer(UNEXPLAINED, trajectory_id="t_1", recall_id=None)

    assert answer.failed_steps == ["2: publish -> not signed"]
    assert list(answer.concerned.values()) == [["s1: build it", "s2: publish it"]]
    assert answer.nearest_success[0].startswith("t_")
    assert answer.nearest_success[1:] == [f"do {i}" for i in range(8, 20)]
    assert (answer.call_again["trajectory_id"], "recall_id" in answer.call_again) == ("t_1", False)
    assert "s3: new text" in answer.call_again["correction"]


@pytest.mark.parametrize("fault", ["procedure", "surroundings"])
def test_an_explained_failure_needs_no_evidence(fault: str) -> None:
    explained = UNEXPLAINED.model_copy(update={"fault": fault, "notes": ("done",)})

    assert answers.as_data(answers.reflect_answer(explained, trajectory_id=None, recall_id=None)) == {
        "fault": fault, "notes": ["done"],
    }  # fmt: skip


def test_a_suggestion_takes_the_place_of_the_form() -> None:
    suggested = UNEXPLAINED.model_copy(update={"suggestion": "s2: sign", "success": None})

    answer = answers.reflect_answer(suggested, trajectory_id=None, recall_id="r_1")

    assert (answer.call_again["correction"], answer.call_again["recall_id"]) == ("s2: sign", "r_1")
    assert answer.nearest_success == []


def test_a_procedure_is_shown_with_its_latest_history() -> None:
    history = [procedure(revision=i, reason=f"because {i}", author="a", change="revise") for i in range(1, 31)]
    known = Known(procedure(evidence=tuple(f"t_{i}" for i in range(30))), Counts())

    answer = answers.get_answer(known, history)

    assert [h.revision for h in answer.history] == list(range(11, 31))
    assert answer.evidence == [f"t_{i}" for i in range(20, 30)]
