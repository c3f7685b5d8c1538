"""Retrieve: which candidates are relevant, and in which order."""

from __future__ import annotations

import pytest
from builders import procedure

from memp_mcp.models import Counts, Pitfall
from memp_mcp.retrieve import Candidate, gather, rank, scaled, trust_in_words

BAKE = procedure("bake bread", ["heat the oven"])
BREW = procedure("brew tea", ["boil water"])


def titles(*candidates: Candidate, task: str = "bake bread", **more: object) -> list[str]:
    options: dict[str, object] = {"policy": "hybrid", "floor": 0.3, "counts": {}, **more}
    return [m.procedure.title for m in rank(candidates, task=task, **options)]  # type: ignore[arg-type]  # given as text


def test_views_are_joined_by_procedure() -> None:
    [one] = gather({"dense": [(BAKE, 0.9)], "words": [(BAKE, 4.0)], "phrases": [(BAKE, 0.5)], "errors": [(BAKE, 1.0)]})

    assert (one.dense, one.words, one.phrases, one.errors) == (0.9, 4.0, 0.5, 1.0)


def test_each_policy_looks_at_its_own_view() -> None:
    one, other = Candidate(BAKE, dense=0.9, phrases=0.1), Candidate(BREW, dense=0.4, phrases=0.8)

    assert titles(one, other, policy="query")[0] == "bake bread"
    assert titles(one, other, policy="avefact")[0] == "brew tea"
    assert titles(other, one, policy="random") == ["brew tea", "bake bread"]


def test_what_is_under_the_floor_and_shares_no_words_is_nothing() -> None:
    assert titles(Candidate(BREW, dense=0.2, words=3.0)) == []


def test_words_alone_are_enough_when_they_cover_the_task() -> None:
    assert titles(Candidate(BAKE, words=3.0)) == ["bake bread"]
    assert titles(Candidate(BAKE, words=3.0), task="bake a cake for Maria", floor=None) == []
    assert titles(Candidate(BAKE, words=3.0), task="bake rye bread", floor=None) == ["bake bread"]


def test_one_shared_word_is_not_a_task() -> None:
    assert titles(Candidate(BAKE, words=3.0, dense=0.1), task="bread") == []


def test_verified_outcomes_decide_among_equals() -> None:
    one, other = Candidate(BAKE, dense=0.8), Candidate(procedure("bake bread"), dense=0.8)
    good = {other.procedure.id: Counts(uses=4, verified=4, successes=4)}

    assert (
        rank([one, other], task="bake bread", policy="hybrid", floor=0.3, counts=good)[0].procedure == other.procedure
    )


def test_the_callers_own_project_goes_first_among_equals() -> None:
    shared, own = Candidate(BAKE, dense=0.8), Candidate(procedure("bake bread", project="kitchen"), dense=0.8)

    found = rank([shared, own], task="bake bread", policy="hybrid", floor=0.3, counts={}, project="kitchen")

    assert found[0].procedure.project == "kitchen"


def test_a_pitfall_that_met_the_error_is_found_whatever_the_task() -> None:
    met = procedure("brew tea", pitfalls=(Pitfall(text="plug it in", error="kettle: no power"),))
    long_error = "Traceback …\n  File x, line 3\nKettleError: kettle: no power at socket 7 of the kitchen"

    assert titles(Candidate(met, errors=2.0), task="make breakfast", error=long_error) == ["brew tea"]
    assert titles(Candidate(met, errors=2.0), task="make breakfast", error="disk is full") == []


def test_full_text_is_trusted_as_far_as_it_covers_the_task() -> None:
    covering, partly = Candidate(BAKE, dense=0.5, words=9.0), Candidate(BREW, dense=0.5, words=1.0)

    assert trust_in_words([covering], "bake bread") == 1.0
    assert trust_in_words([partly], "brew strong coffee today") == pytest.approx(1 / 64)
    assert trust_in_words([Candidate(BREW, words=1.0)], "anything") == 1.0
    assert trust_in_words([Candidate(BREW, dense=0.5)], "anything") == 0.0


def test_scaling_is_by_list_and_a_single_value_is_the_best() -> None:
    assert scaled([None, 2.0, 4.0, 3.0]) == [0.0, 0.0, 1.0, 0.5]
    assert scaled([None, 7.0]) == [0.0, 1.0]
    assert scaled([None]) == [0.0]


def test_a_match_says_why() -> None:
    [match] = rank([Candidate(BAKE, dense=0.9, words=1.0)], task="bake bread", policy="hybrid", floor=0.3, counts={})

    assert (match.why, match.relevance) == ("similar task, same words", 0.9)
    [match] = rank([Candidate(BAKE, phrases=0.9)], task="bake bread", policy="hybrid", floor=0.3, counts={})
    assert match.why == "same key phrases"
