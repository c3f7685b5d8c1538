"""The observed state: a procedure is found, and kept apart from others, by what was seen before it."""

from __future__ import annotations

import pytest
from builders import procedure, steps, won
from conftest import OpenMemory

from memp_mcp import evidence, state
from memp_mcp.answers import procedure_answer
from memp_mcp.build import build
from memp_mcp.lookup import Known
from memp_mcp.memory import Memory
from memp_mcp.models import Counts, Procedure, RetrievePolicy
from memp_mcp.update import Episode, Neighbour, decide

TICKET = "The phone of the user has no service"

FLIGHT = won(
    TICKET,
    ("check_network()", "Airplane Mode: ON\nSIM: active\nSignal: none"),
    ("check_bill()", '{"bill": {"status": "Paid"}}'),
    ("toggle_airplane_mode()", "Airplane Mode is now OFF."),
    ("check_network()", "Airplane Mode: OFF\nSIM: active\nSignal: good"),
    ("check_bill()", '{"bill": {"status": "Paid"}}'),
)
CARD = won(
    TICKET,
    ("check_network()", "Airplane Mode: OFF\nSIM: missing\nSignal: none"),
    ("reseat_sim_card()", "SIM card re-seated."),
    ("check_network()", "Airplane Mode: OFF\nSIM: active\nSignal: good"),
)
OTHERS = [
    won(
        TICKET,
        ("check_network()", f"Airplane Mode: OFF\nSIM: active\n{name}: wrong\nSignal: none"),
        (f"mend_{name}()", "done"),
        ("check_network()", f"Airplane Mode: OFF\nSIM: active\n{name}: right\nSignal: good"),
    )
    for name in ("apn", "antenna", "contract")
]
LOCKED = won(
    TICKET,
    ("check_network()", "Airplane Mode: OFF\nSIM: locked\nSignal: none"),
    ("hand_over()", "done"),
)


def built(*runs: object) -> list[Procedure]:
    return [build(run, policy="proceduralization") for run in runs]  # type: ignore[arg-type]  # trajectories


def test_lines_are_statements_and_values_of_records_carry_their_names() -> None:
    record = '{"line": {"roaming": false, "ids": ["L1", "L2"]}, "due": 0.0}'
    text = f"Airplane Mode: ON\n  - sms\nBar: 5G | 80%\n{record}\n{{broken"

    assert state.lines(text) == (
        "Airplane Mode: ON", "sms", "Bar: 5G", "80%", "roaming: false", "ids: L1", "ids: L2", "due: 0.0", "{broken",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("action", "looks"),
    [("check_status_bar()", True), ("can_send_mms()", True), ("run_speed_test()", True), ("inventory", True),
     ('mcp__shop__get_order({"id": "W1"})', True), ("toggle_data()", False), ("reset_apn_settings()", False),
     ("go to cabinet 1", False), ("git status", False), ("Read: notes.md", False), ("run_tests()", False)],
)  # fmt: skip
def test_a_look_is_told_by_the_name_of_the_tool(action: str, looks: bool) -> None:  # noqa: FBT001 - the expected value
    assert evidence.observes(action) is looks


def test_what_the_same_look_showed_before_and_no_longer_after_is_the_precondition() -> None:
    [made] = built(FLIGHT)

    assert made.preconditions == ("Airplane Mode: ON", "Signal: none")
    assert made.check == "check_network() -> Airplane Mode: OFF; Signal: good"
    assert "status: Paid" in made.observed


def test_a_step_carries_the_lines_that_it_is_about_and_an_agent_reads_them() -> None:
    [made] = built(FLIGHT)
    answer = procedure_answer(Known(made, Counts()), detail="brief")

    assert answer.script == ["s1: toggle_airplane_mode() [when Airplane Mode: ON]"]
    assert answer.before == ["Signal: none"]


def test_a_script_of_the_callers_own_carries_them_too() -> None:
    [made] = built(FLIGHT.model_copy(update={"script": ("Ask the user to be patient", "toggle_airplane_mode()")}))

    assert [s.when for s in made.script] == [(), ("Airplane Mode: ON",)]


def test_a_run_that_never_looks_twice_has_a_state_but_no_preconditions() -> None:
    [made] = built(LOCKED)

    assert (made.preconditions, made.observed) == ((), ("Airplane Mode: OFF", "SIM: locked", "Signal: none"))


def test_a_run_without_looks_has_neither() -> None:
    assert state.conditions(steps("go to shelf 1", ("take mug 1", "You take it."))) == state.Conditions()


def test_a_step_that_names_what_a_symptom_was_looked_at_with_is_about_it() -> None:
    run = steps(("check_apn_settings()", "MMSC: Not Set"), "reset_apn_settings()", ("check_apn_settings()", "MMSC: x"))

    assert state.whens(["reset_apn_settings()", "wave()"], run, state.conditions(run).symptoms) == [
        ("MMSC: Not Set",),
        (),
    ]


def test_the_same_ticket_in_another_state_is_another_procedure() -> None:
    one, other = built(FLIGHT, CARD)
    [change] = decide(Episode(CARD, (), (Neighbour(one, 1.0),)), other, policy="adjustment")

    assert change.kind == "add"


def test_the_same_ticket_in_the_same_state_is_one_procedure() -> None:
    [one] = built(FLIGHT)
    again = FLIGHT.model_copy(update={"key": "again"})
    [change] = decide(Episode(again, (), (Neighbour(one, 1.0),)), build(again, policy="script"), policy="adjustment")

    assert (change.kind, change.procedure.id) == ("merge", one.id)


def test_a_state_that_contradicts_a_precondition_counts_against_it() -> None:
    known = [state.Known((), ("Airplane Mode: ON",)), state.Known((), ("SIM: missing",)), state.Known((), ())]
    fits = state.fits("Airplane Mode: OFF\nBattery: full", known)

    assert (fits[0] or 0) < (fits[1] or 0)
    assert fits[2] is None


def test_a_line_that_every_state_has_says_nothing() -> None:
    known = [state.Known(("Wi-Fi: on", "SIM: locked"), ()), state.Known(("Wi-Fi: on", "SIM: active"), ())]
    locked, active = state.fits("Wi-Fi: on\nSIM: locked", known)

    assert (locked or 0) > (active or 0)


def test_the_next_one_named_is_the_one_that_adds_something() -> None:
    both = ("Airplane Mode: ON", "SIM: missing")
    known = [state.Known(both, both[:1]), state.Known(both, both[:1]), state.Known(both, both[1:])]

    assert state.in_turn("Airplane Mode: ON\nSIM: missing", known, [1.0, 0.9, 0.7]) == [0, 2, 1]


@pytest.mark.parametrize("policy", ["query", "avefact", "hybrid"])
@pytest.mark.parametrize(
    ("seen", "step"),
    [("Airplane Mode: ON\nSIM: active\nSignal: none", "toggle_airplane_mode()"),
     ("Airplane Mode: OFF\nSIM: missing\nSignal: none", "reseat_sim_card()"),
     ("Airplane Mode: OFF\nSIM: locked\nSignal: none", "hand_over()")],
)  # fmt: skip
def test_a_recall_with_the_observed_state_finds_what_was_done_in_it(
    open_memory: OpenMemory, policy: RetrievePolicy, seen: str, step: str
) -> None:
    memory = open_memory()
    for run in (FLIGHT, CARD, LOCKED, *OTHERS):
        memory.record(run)
    [first, *_] = memory.recall(TICKET, error=seen, policy=policy).matches

    assert step in [s.text for s in first.procedure.script]


def test_a_procedure_that_has_met_the_state_is_found_whatever_the_task_is_called(memory: Memory) -> None:
    memory.record(FLIGHT)
    seen = "Airplane Mode: ON\nSIM: active\nSignal: none"

    assert memory.recall("Help grandma with her handset", error=seen).matches
    assert not memory.recall("Help grandma with her knitting", error="the needle broke").matches


def test_a_procedure_without_a_state_is_ranked_by_its_pitfalls_as_before() -> None:
    assert state.fits("Error: no such file", [state.Known(p.observed, p.preconditions) for p in (procedure(),)]) == [
        None
    ]
