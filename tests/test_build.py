"""Build: what becomes of a trajectory, by each policy, and without any LLM."""

from __future__ import annotations

import pytest
from builders import procedure, steps, trajectory, won
from fakes import ScriptedLLM

from memp_mcp.build import MAX_EXEMPLAR_STEPS, build, excerpt, find_slots, mended, named, with_slots, without_recalled
from memp_mcp.errors import LLMFailed
from memp_mcp.models import Step

KITCHEN = won(
    "put a clean mug in cabinet",
    ("go to shelf 1", "On the shelf 1, you see a statue 3."),
    ("go to shelf 2", "On the shelf 2, you see a mug 1."),
    ("take mug 1 from shelf 2", "You pick up the mug 1 from the shelf 2."),
    ("go to sinkbasin 1", "On the sinkbasin 1, you see nothing."),
    ("clean mug 1 with sinkbasin 1", "You clean the mug 1 using the sinkbasin 1."),
    ("go to cabinet 3", "The cabinet 3 is closed."),
    ("put mug 1 in cabinet 3", "Nothing happens."),
    ("move mug 1 to cabinet 3", "You move the mug 1 to the cabinet 3."),
)


def script(of: object) -> list[str]:
    return [s.text for s in of.script]  # type: ignore[attr-defined]  # a Procedure


def test_rules_leave_out_dead_ends_and_failures_and_name_what_changes() -> None:
    built = build(KITCHEN, policy="proceduralization")

    assert script(built) == [
        "go to shelf",
        "take {mug} from shelf",
        "go to sinkbasin",
        "clean {mug} with sinkbasin",
        "go to {cabinet}",
        "move {mug} to {cabinet}",
    ]
    assert built.when_to_use == "put a clean {mug} in {cabinet}"
    assert built.author == "rules"
    assert built.status == "active"


def test_a_failure_that_the_run_mended_becomes_a_pitfall() -> None:
    [pitfall] = build(KITCHEN, policy="proceduralization").pitfalls

    assert pitfall.text == "`put mug 1 in cabinet 3` failed; `move mug 1 to cabinet 3` worked."
    assert pitfall.error == "Nothing happens."
    assert not pitfall.tentative


def test_a_fault_of_the_surroundings_becomes_no_pitfall() -> None:
    flaky = steps(
        ("curl https://example.org/feed", "curl: (28) Operation timed out"), ("curl -4 https://example.org/feed", "ok")
    )

    assert mended(flaky) == []


def test_the_policy_trajectory_keeps_the_steps_verbatim_and_no_script() -> None:
    built = build(KITCHEN, policy="trajectory")

    assert built.script == ()
    assert [s.action for s in built.exemplar] == [s.action for s in KITCHEN.steps]


def test_the_policy_script_keeps_no_exemplar() -> None:
    built = build(KITCHEN, policy="script")

    assert built.exemplar == ()
    assert built.exemplar_id is None
    assert built.script


def test_the_callers_script_goes_first_without_its_numbering() -> None:
    given = KITCHEN.model_copy(update={"script": ("1. find it", "- clean it", "s3: place it")})

    built = build(given, policy="proceduralization", llm=ScriptedLLM())

    assert script(built) == ["find it", "clean it", "place it"]


def test_an_llm_writes_the_script_where_there_is_one() -> None:
    llm = ScriptedLLM(
        {
            "title": "Clean and place",
            "when_to_use": "an object is to be cleaned and put somewhere",
            "script": ["find {object}", "clean {object}", "move {object} to {place}"],
            "pitfalls": [{"advice": "`put` is not understood, use `move`", "error": "Nothing happens."}],
            "keywords": ["clean object"],
        }
    )

    built = build(KITCHEN, policy="proceduralization", llm=llm)

    assert script(built) == ["find {object}", "clean {object}", "move {object} to {place}"]
    assert built.author == "scripted:llm"
    assert built.keywords[0] == "clean object"
    assert built.pitfalls[0].text.startswith("`put`")
    assert "Nothing happens." in llm.prompts[0]


def test_a_failed_llm_is_told_to_the_caller() -> None:
    with pytest.raises(LLMFailed, match="no budget"):
        build(KITCHEN, policy="proceduralization", llm=ScriptedLLM("no budget"))


def test_typed_values_become_slots() -> None:
    taken = steps(
        "git checkout 3f2a9c0d1e4b",
        "cat /tmp/build-77/log.txt",
        "ls /home/maria/project",
        "report --date 2026-11-22 --run 123e4567-e89b-12d3-a456-426614174000",
    )

    names = {s.name for s in find_slots("check the build", taken)}

    assert names == {"hash", "temporary_path", "home", "date", "uuid"}


def test_a_command_that_the_task_names_is_no_slot() -> None:
    assert find_slots("clean the mug", steps("clean mug 1 with sinkbasin 1"))[0].examples == ("mug",)


def test_slots_replace_the_longest_value_first() -> None:
    slots = find_slots("deploy api-gateway of api", steps("push api-gateway", "push api"))

    assert with_slots("push api-gateway then api", slots) == "push {api_gateway} then {api}"


def test_calls_of_the_memorys_own_tools_are_no_evidence() -> None:
    told = steps(("mcp__memp__recall_procedure {}", "…"), "make", ("record_trajectory(…)", "stored"))

    assert [s.action for s in without_recalled(told, ())] == ["make"]


def test_a_step_that_only_prints_what_was_recalled_is_no_evidence() -> None:
    known = procedure(script=("Run make build", "Run make publish"))
    told = steps(("cat notes", "1. Run make build\n2. Run make publish"), ("make build", "ok"))

    assert [s.action for s in without_recalled(told, [known])] == ["make build"]


def test_a_trajectory_of_nothing_but_recalls_still_gives_a_procedure() -> None:
    built = build(trajectory("look it up", "recall_procedure x"), policy="proceduralization")

    assert built.script == ()
    assert built.status == "provisional"
    assert built.check == ""


def test_a_long_run_is_excerpted_with_its_gap_marked() -> None:
    shown = excerpt([Step(action=f"do {i}", observation="x" * 5000) for i in range(200)])

    assert len(shown) == MAX_EXEMPLAR_STEPS + 1
    assert "160 steps left out" in shown[MAX_EXEMPLAR_STEPS // 2].action
    assert all(len(s.observation) < 700 for s in shown)


def test_an_unverified_success_is_provisional() -> None:
    assert build(trajectory("a task", "do it"), policy="proceduralization").status == "provisional"


def test_names_follow_the_order_of_the_lines_that_say_something() -> None:
    assert [(s.name, s.text) for s in named(["* a", "", "2) b"])] == [("s1", "a"), ("s2", "b")]
