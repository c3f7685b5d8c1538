"""The lean answers: within their budget, best first, and honest about what was cut."""

from __future__ import annotations

import json

from builders import procedure, steps
from hypothesis import given, settings
from hypothesis import strategies as st

from memp_mcp import answers
from memp_mcp.lookup import Known
from memp_mcp.memory import Recall
from memp_mcp.models import Counts, Pitfall, Procedure, Slot, now
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
