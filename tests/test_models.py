"""The words of the house as values: what they accept, what they derive, and that ids stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
from builders import procedure, steps, trajectory, won
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from memp_mcp import models
from memp_mcp.errors import BadInput, LLMFailed, NotFound, StaleRevision
from memp_mcp.models import (
    Counts,
    Outcome,
    Pitfall,
    Reward,
    Source,
    Step,
    Trajectory,
    caller,
    checked_id,
    new_id,
    stable_id,
    storable,
)

ANY_CHARACTER = st.text(st.characters(exclude_categories=()), max_size=30)
"""Also lone surrogates and NUL, which st.text() leaves out."""


@given(ANY_CHARACTER)
def test_any_text_becomes_storable_and_what_was_storable_stays(text: str) -> None:
    made = storable(text)

    assert isinstance(made, str)
    assert "\x00" not in made
    assert made.encode().decode() == made
    assert storable(made) == made
    if text.isascii() and "\x00" not in text:
        assert made == text


def test_a_lone_surrogate_is_replaced_once_and_a_pair_is_one_character() -> None:
    assert storable("a\ud800b\x00c\udfff") == "a\ufffdb\ufffdc\ufffd"
    assert storable("\ud83d\ude00") == "\U0001f600"


def test_what_is_no_text_is_left_to_the_validation() -> None:
    assert storable(7) == 7
    with pytest.raises(ValidationError, match="valid string"):
        Step.model_validate({"action": 7})


@given(ANY_CHARACTER, ANY_CHARACTER, ANY_CHARACTER)
def test_a_trajectory_takes_any_text_and_is_the_same_after_a_round_trip(task: str, seen: str, told: str) -> None:
    taken = Trajectory(task=f"do {task}", steps=(Step(action=f"run {seen}", observation=seen),), feedback=told)

    assert Trajectory.model_validate_json(taken.model_dump_json()) == taken


@pytest.mark.parametrize("blank", ["", "   ", "\n\t"])
def test_an_empty_task_or_action_is_refused(blank: str) -> None:
    with pytest.raises(ValidationError, match="must not be empty"):
        Trajectory(task=blank, steps=())
    with pytest.raises(ValidationError, match="must not be empty"):
        Step(action=blank)


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_reward_outside_its_range_is_refused(score: float) -> None:
    with pytest.raises(ValidationError, match="score"):
        Reward(score=score, judged_by="user", verified=True)


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Trajectory.model_validate({"task": "x", "steps": [], "otcome": "success"})


def test_too_many_steps_are_refused_with_the_limit() -> None:
    with pytest.raises(ValidationError, match="20,001 steps; the limit is 20,000"):
        Trajectory(task="x", steps=steps("a") * 20_001)


@pytest.mark.parametrize(
    "large", [{"steps": (Step(action="a", observation="x" * 8_000_001),)}, {"feedback": "x" * 8_000_001},
              {"script": ("x" * 8_000_001,)}]
)  # fmt: skip
def test_too_much_text_is_refused_wherever_it_stands(large: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="the limit is 8,000,000"):
        Trajectory.model_validate({"task": "x", "steps": (), **large})


# -- ids


def test_the_same_content_has_the_same_id_whenever_and_wherever_it_was_told() -> None:
    one, other = won("pack", "tar x"), won("pack", "tar x", source="import.jsonl")

    assert one.id == other.id
    assert one.content_hash == other.content_hash
    assert won("pack", "tar y").id != one.id


def test_the_clients_key_stands_for_the_content_of_that_client() -> None:
    one = won("pack", "tar x", client="codex", key="k1")

    assert won("unpack", "tar y", client="codex", key="k1").id == one.id
    assert won("pack", "tar x", client="claude", key="k1").id != one.id
    assert won("pack", "tar x", client="codex", key="k2").id != one.id


@given(st.lists(ANY_CHARACTER, max_size=4))
def test_an_id_made_from_content_is_always_the_same_and_well_formed(parts: list[str]) -> None:
    made = stable_id("t", *parts)

    assert made == stable_id("t", *parts)
    assert checked_id("trajectory", made) == made


def test_an_id_survives_versions_of_the_program() -> None:
    """What is stored under an id today is looked up by it for ever."""
    assert stable_id("t", "content", "abc") == "t_7ad70e912963c93fa877"


def test_fresh_ids_are_well_formed_and_differ() -> None:
    made = {new_id("p") for _ in range(200)}

    assert len(made) == 200
    assert all(checked_id("procedure", one) == one for one in made)


@pytest.mark.parametrize(
    "wrong", ["", "p_", "p_xyz", "t_0a1b2c3d4e5f", "p_0a1b2c3d4e5f'; DROP", "p_0A1B2C3D4E5F", "\x00"]
)
def test_what_is_no_id_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(BadInput, match="p_3f2a9c0d1e4b"):
        checked_id("procedure", wrong)


# -- what is derived


@pytest.mark.parametrize(
    ("outcome", "reward", "succeeded"),
    [("success", None, True), ("failure", None, False), ("partial", None, False), ("unknown", None, None),
     ("success", 0.2, False), ("failure", 0.5, True)],
)  # fmt: skip
def test_a_reward_outranks_the_stated_outcome(
    outcome: Outcome, reward: float | None, *, succeeded: bool | None
) -> None:
    assert trajectory("x", "do", outcome=outcome, reward=reward).succeeded is succeeded


def test_utility_starts_in_the_middle_and_moves_with_verified_outcomes_alone() -> None:
    assert Counts().utility == 0.5
    assert Counts(uses=9, recalled=9).utility == 0.5
    assert Counts(uses=2, verified=2, successes=2).utility == 0.75
    assert Counts(uses=3, verified=3, successes=1).failures == 2


def test_the_searched_texts_name_each_thing_once() -> None:
    known = procedure(
        "brew tea", when_to_use="brew tea", keywords=("tea", "kettle"),
        pitfalls=(Pitfall(text="plug it in", error="no power"), Pitfall(text="plug it in", error="")),
    )  # fmt: skip

    assert known.searched_text == "brew tea\ntea kettle"
    assert known.searched_errors == "no power\nplug it in"


@pytest.mark.parametrize(
    ("fields", "embedded"),
    [({}, "brew tea"), ({"tasks": (), "when_to_use": "tea is wanted"}, "tea is wanted"),
     ({"tasks": (), "when_to_use": ""}, "brew tea"), ({"tasks": ("make me some tea",)}, "make me some tea")],
)  # fmt: skip
def test_the_task_it_was_learnt_from_stands_for_a_procedure(fields: dict[str, Any], embedded: str) -> None:
    assert procedure("brew tea", **fields).embedded_text == embedded


@pytest.mark.parametrize(
    ("token", "told", "shown", "source"),
    [("ann", "codex", "ann (codex)", "ann"), ("ann", "", "ann", "ann"), ("", "codex", "codex", "codex"),
     ("", "Claude (Desktop)", "Claude (Desktop)", "Claude (Desktop)"), ("ann", "x (eve)", "ann (x (eve))", "ann")],
)  # fmt: skip
def test_a_source_is_who_the_token_names_whatever_the_client_calls_itself(
    token: str, told: str, shown: str, source: str
) -> None:
    """As it is stored, so that other versions of the program read it too."""
    made = Source.model_validate_json(Source.of(won("x", "y", client=caller(token, told))).model_dump_json())

    assert (made.told, made.client) == (shown, source)
    assert f'"client":"{shown}"' in made.model_dump_json()


def test_moments_are_in_utc() -> None:
    assert models.now().utcoffset() is not None
    assert str(models.now().tzinfo) == "UTC"


def test_errors_carry_their_data_and_name_the_next_move() -> None:
    missing, stale = NotFound("procedure", "p_1", "Recall again."), StaleRevision("p_1", 2, 3)
    failed = LLMFailed("scripted:llm", "no budget")

    assert (missing.kind, missing.wanted, str(missing)) == (
        "procedure", "p_1", "No procedure 'p_1' in this memory. Recall again.",
    )  # fmt: skip
    assert (stale.procedure_id, stale.expected, stale.current) == ("p_1", 2, 3)
    assert "Decide again" in str(stale)
    assert (failed.llm, failed.reason) == ("scripted:llm", "no budget")
    assert "try again" in str(failed)
