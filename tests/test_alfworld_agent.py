"""The agent of the ALFWorld benchmark: what it makes of a task and of what it is told."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from benchmarks.alfworld.agent import (
    ANY,
    Agent,
    Milestone,
    Played,
    Told,
    lifted,
    own_plan,
    play,
    recalled_plan,
    things_of,
)

HEATED = Told(
    "put a hot cup in shelf",
    (
        "go to fridge",
        "take {cup} from fridge",
        "go to microwave",
        "heat {cup} with microwave",
        "put {cup} in/on {shelf}",
    ),
)


class Sight(NamedTuple):
    """What a step shows."""

    text: str
    commands: tuple[str, ...]
    won: bool


class Kitchen:
    """A room in the grammar of the games: heat the mug, which stands in *where*, and move it to the cabinet."""

    places = ("cabinet 1", "countertop 1", "fridge 1", "microwave 1")

    def __init__(self, where: str = "countertop 1") -> None:
        self.where = where

    def sight(self, commands: tuple[str, ...] = ()) -> Sight:
        """What is seen after these commands."""
        at, held, hot, mug = "", False, False, self.where
        text = f"You see a {', a '.join(self.places)}. Your task is to: put a hot mug in cabinet."
        for command in commands:
            allowed = self._allowed(at, held, mug)
            text = "Nothing happens."
            if command not in allowed:
                continue
            if command.startswith("go to"):
                at = command.removeprefix("go to ")
                text = f"You arrive at {at}. On the {at}, you see {'a mug 1' if at == mug else 'nothing'}."
            else:
                held = command.startswith(("take", "heat"))
                hot |= command.startswith("heat")
                mug = at if not held else ""
                text = "Done."
        return Sight(text, self._allowed(at, held, mug), hot and mug == "cabinet 1")

    def _allowed(self, at: str, held: bool, mug: str) -> tuple[str, ...]:  # noqa: FBT001 - a state, not an option
        deeds = [f"go to {p}" for p in self.places if p != at]
        deeds += [f"take mug 1 from {at}"] if at == mug else []
        deeds += [f"move mug 1 to {at}"] if held and at else []
        deeds += ["heat mug 1 with microwave 1"] if held and at == "microwave 1" else []
        return tuple(deeds)


def played(*told: Told, where: str = "countertop 1", literal: bool = False) -> Played:
    return play(Kitchen(where), Agent("put a hot mug in cabinet", told, literal=literal), budget=30)


@pytest.mark.parametrize(
    ("task", "things"),
    [
        ("put a hot mug in cabinet.", ["mug", "cabinet"]),
        ("find two book and put them in desk.", ["book", "desk"]),
        ("look at box under the desklamp.", ["box", "desklamp"]),
    ],
)
def test_the_things_of_a_task_are_what_is_left_without_verbs_and_small_words(task: str, things: list[str]) -> None:
    assert things_of(task) == things


def test_a_command_is_lifted_from_its_numbers_and_slots_and_keeps_its_wording() -> None:
    assert lifted("put mug 1 in/on cabinet 2") == Milestone("put", ("mug", "cabinet"), "put {} in/on {}")
    assert lifted("take {mug} from countertop") == Milestone("take", ("mug", "countertop"), "take {} from {}")


def test_its_own_plan_says_what_to_do_and_not_where() -> None:
    assert own_plan("put a hot mug in cabinet").milestones == (
        Milestone("take", ("mug", ANY)),
        Milestone("heat", ("mug", ANY)),
        Milestone("put", ("mug", "cabinet")),
    )


def test_recalled_things_stand_for_those_of_the_task_in_their_order() -> None:
    plan = recalled_plan("put a hot mug in cabinet", [HEATED])

    assert plan is not None
    assert [(m.verb, m.things) for m in plan.milestones] == [
        ("take", ("mug", ANY)),
        ("heat", ("mug", "microwave")),
        ("put", ("mug", "cabinet")),
    ]
    assert plan.places[0] == ("fridge",)
    assert plan.source == 0


def test_it_follows_the_first_that_can_be_aligned_and_says_which() -> None:
    elsewhere = Told("sweep the floor of the long hall", ("sweep floor",))

    assert played(elsewhere, HEATED, where="fridge 1").follows == 1


def test_what_speaks_of_more_things_than_the_task_is_not_followed() -> None:
    assert recalled_plan("put a hot mug in cabinet", [Told("sweep", ("sweep floor",))]) is None


def test_without_memory_it_searches_the_room_in_its_order_and_tries_every_place_for_the_deed() -> None:
    game = played()

    assert game.won
    assert [c for c, _ in game.steps][:3] == ["go to cabinet 1", "go to countertop 1", "take mug 1 from countertop 1"]
    assert game.follows is None


def test_with_a_procedure_it_goes_where_that_says_and_takes_the_verb_that_is_admissible() -> None:
    game = played(HEATED, where="fridge 1")

    assert [c for c, _ in game.steps] == [
        "go to fridge 1",
        "take mug 1 from fridge 1",
        "go to microwave 1",
        "heat mug 1 with microwave 1",
        "go to cabinet 1",
        "move mug 1 to cabinet 1",
    ]
    assert game.carried_out
    assert game.wasted == 0


def test_a_literal_agent_wastes_a_step_on_a_recalled_verb_that_is_not_understood() -> None:
    game = played(HEATED, where="fridge 1", literal=True)

    assert game.won
    assert game.wasted == 1
    assert ("put mug 1 in/on cabinet 1", "Nothing happens.") in game.steps


def test_where_a_procedure_is_wrong_about_the_place_it_goes_on_searching() -> None:
    assert played(HEATED, where="countertop 1").won


def test_places_in_which_others_looked_in_vain_come_last() -> None:
    lesson = Told(
        "put a hot mug in cabinet", ("take {mug} from shelf",), ("could not take mug: not in cabinet, shelf",)
    )

    assert next(c for c, _ in played(lesson).steps) == "go to countertop 1"


def test_a_lost_game_says_where_it_ended_and_where_it_looked() -> None:
    game = play(Kitchen("nowhere"), Agent("put a hot mug in cabinet"), budget=3)

    assert not game.won
    assert re.match(r"could not take mug: not in cabinet, countertop", game.stuck)
