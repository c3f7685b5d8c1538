"""Update and Adjustment: what an episode, and what a correction, changes."""

from __future__ import annotations

import pytest
from builders import lost, procedure, steps, trajectory, won
from fakes import ScriptedLLM
from hypothesis import given
from hypothesis import strategies as st

from memp_mcp import adjust, revisions
from memp_mcp.adjust import Correction, Edit, Failure, apply_edits, parse_correction
from memp_mcp.build import build, named
from memp_mcp.errors import BadInput
from memp_mcp.models import Change, Counts, Pitfall, Procedure, Trajectory
from memp_mcp.update import Episode, Neighbour, Used, decide, wants_draft

PUBLISH = procedure("Publish the app", ["run make build", "run make publish"])


def learn(
    told: Trajectory,
    *,
    used: tuple[Used, ...] = (),
    near: tuple[Procedure, ...] = (),
    policy: str = "adjustment",
    similarity: float = 0.5,
) -> list[Change]:
    draft = build(told, policy="proceduralization") if wants_draft(told, policy) else None  # type: ignore[arg-type]
    neighbours = tuple(Neighbour(p, similarity) for p in near)
    return decide(Episode(told, used, neighbours), draft, policy=policy)  # type: ignore[arg-type]  # given as text


# -- which policy learns from what


@pytest.mark.parametrize(
    ("policy", "outcome", "learns"),
    [("vanilla", "success", True), ("vanilla", "failure", True), ("validation", "success", True),
     ("validation", "failure", False), ("adjustment", "success", True), ("adjustment", "failure", False),
     ("adjustment", "unknown", False)],
)  # fmt: skip
def test_each_policy_adds_what_the_paper_says(policy: str, outcome: str, *, learns: bool) -> None:
    told = trajectory("do it", "step one", outcome=outcome)  # type: ignore[arg-type]  # given as text

    assert [c.kind for c in learn(told, policy=policy)] == (["add"] if learns else [])


def test_vanilla_adds_even_what_is_there_already() -> None:
    known = build(won("do it", "step one"), policy="proceduralization")

    assert [c.kind for c in learn(won("do it", "step one"), near=(known,), policy="vanilla")] == ["add"]


# -- success


def test_the_same_task_again_is_evidence_and_no_second_procedure() -> None:
    known = build(won("Publish the app", "run make build"), policy="proceduralization")

    [change] = learn(won("publish app.", "run make build"), near=(known,))

    assert change.kind == "merge"
    assert change.procedure == known


def test_a_like_task_done_the_same_way_is_merged_with_its_wording() -> None:
    known = build(won("start the web server", "systemctl start web"), policy="proceduralization")

    [change] = learn(won("launch our web server", "systemctl start web"), near=(known,), similarity=0.95)

    assert change.kind == "merge"
    assert change.procedure.tasks == ("start the web server", "launch our web server")
    assert change.procedure.counted_from == 1


def test_a_like_task_done_another_way_is_added() -> None:
    known = build(won("start the web server", "systemctl start web"), policy="proceduralization")

    [change] = learn(won("launch our web server", "docker compose up"), near=(known,), similarity=0.95)

    assert change.kind == "add"


def test_a_run_that_followed_what_it_used_is_evidence_for_that() -> None:
    [change] = learn(won("ship 2.0", "run make build", "run make publish"), used=(Used(PUBLISH),))

    assert (change.kind, change.procedure.id) == ("merge", PUBLISH.id)
    assert "ship 2.0" in change.procedure.tasks


def test_a_run_that_did_something_else_is_not_evidence_for_what_it_says_it_used() -> None:
    [change] = learn(won("ship 2.0", "kubectl apply -f x.yaml"), used=(Used(PUBLISH),))

    assert change.kind == "add"


def test_procedures_of_another_project_are_left_alone() -> None:
    known = build(won("Publish the app", "make", project="other"), policy="proceduralization")

    assert [c.kind for c in learn(won("Publish the app", "make"), near=(known,))] == ["add"]


def test_a_shorter_verified_run_becomes_the_exemplar() -> None:
    known = build(won("pack", "mkdir out", "cp a out", "cp b out"), policy="proceduralization")

    [change] = learn(won("pack", "cp a b out"), near=(known,))

    assert [s.action for s in change.procedure.exemplar] == ["cp a b out"]
    assert change.procedure.counted_from == 1


def test_a_success_gives_a_lesson_its_script_and_makes_it_active() -> None:
    lesson = adjust.lesson(
        Failure("pack", "no such folder"), diagnosis="out is missing", correction=Correction(), author="a", project=""
    ).procedure

    [change] = learn(won("pack", "mkdir out", "cp a out"), near=(lesson,))

    assert change.procedure.status == "active"
    assert [s.text for s in change.procedure.script] == ["mkdir out", "cp a out"]
    assert [p.text for p in change.procedure.pitfalls] == ["out is missing"]


def test_a_run_that_mended_a_remembered_step_repairs_the_script_with_no_llm() -> None:
    known = procedure("place the mug", ["go to shelf", "put {mug} in cabinet"])
    told = won(
        "place the mug",
        ("go to shelf 1", "here"),
        ("put mug 1 in cabinet 2", "Nothing happens."),
        ("move mug 1 to cabinet 2", "You move it."),
    )

    [change] = learn(told, near=(known,))

    assert change.kind == "revise"
    assert [(s.name, s.text.split()[0]) for s in change.procedure.script] == [("s1", "go"), ("s2", "move")]
    assert change.procedure.counted_from == change.procedure.revision == 2


# -- health


def verified(uses: int, successes: int) -> Counts:
    return Counts(uses=uses, verified=uses, successes=successes)


def test_what_fails_in_more_than_half_of_three_verified_uses_is_retired() -> None:
    [change] = learn(lost("ship", ("run make build", "error: x")), used=(Used(PUBLISH, verified(2, 1)),))

    assert (change.kind, change.procedure.status) == ("retire", "retired")


@pytest.mark.parametrize(
    "told",
    [
        trajectory("ship", ("run make", "error: x"), outcome="failure"),
        lost("ship", ("curl x", "curl: (28) Operation timed out")),
    ],
    ids=["unverified", "transient"],
)
def test_thin_evidence_retires_nothing(told: Trajectory) -> None:
    assert learn(told, used=(Used(PUBLISH, verified(5, 0)),)) == []


def test_two_verified_uses_retire_nothing() -> None:
    assert learn(lost("ship", ("run make", "error: x")), used=(Used(PUBLISH, verified(1, 0)),)) == []


def revised() -> Procedure:
    corrected = parse_correction("s2: run make ship\npitfall: mind the gap")
    return adjust.revise(
        Used(PUBLISH), Failure("ship", "error"), diagnosis="", correction=corrected, author="a"
    ).procedure


def test_a_revision_that_does_worse_than_its_parent_is_rolled_back_and_keeps_its_pitfalls() -> None:
    used = Used(revised(), verified(1, 0), PUBLISH, verified(3, 2))

    [change] = learn(lost("ship", ("run make build", "error: x")), used=(used,))

    assert change.kind == "roll_back"
    assert change.procedure.script == PUBLISH.script
    assert (change.procedure.revision, change.procedure.counted_from) == (3, 1)
    assert [p.text for p in change.procedure.pitfalls] == ["mind the gap"]


def test_a_revision_that_does_as_badly_as_its_parent_stays() -> None:
    used = Used(revised(), verified(1, 0), PUBLISH, verified(3, 0))

    assert learn(lost("ship", ("run make build", "error: x")), used=(used,)) == []


def test_a_success_settles_what_was_tentative() -> None:
    tried = PUBLISH.model_copy(update={"pitfalls": (Pitfall(text="sign it"),), "status": "provisional"})

    first, _ = learn(won("ship", "run make build", "run make publish"), used=(Used(tried),))

    assert (first.kind, first.procedure.status) == ("promote", "active")
    assert not first.procedure.pitfalls[0].tentative


def test_a_script_that_is_no_longer_current_is_not_judged() -> None:
    superseded = Used(PUBLISH, verified(9, 0), superseded=True)

    assert learn(lost("ship", ("run make", "error: x")), used=(superseded,)) == []


# -- corrections


def test_a_correction_names_steps_remarks_and_plain_lines() -> None:
    parsed = parse_correction(
        "s2: use make ship\n+s1: sign it\n-s3\npitfall: beware\nwhen not: on Fridays\ncheck: ok\nrest"
    )

    assert [(e.op, e.step, e.text) for e in parsed.edits] == [
        ("replace", "s2", "use make ship"), ("insert_after", "s1", "sign it"), ("drop", "s3", ""),
    ]  # fmt: skip
    assert (parsed.plain, parsed.pitfalls) == (("rest",), ("beware",))
    assert (parsed.when_not_to_use, parsed.check) == ("on Fridays", "ok")


def test_a_correction_is_a_small_delta() -> None:
    with pytest.raises(BadInput, match="at most 5"):
        parse_correction("\n".join(f"s{i}: x" for i in range(1, 8)))


def test_a_line_without_text_is_refused_with_the_form() -> None:
    with pytest.raises(BadInput, match="One change a line"):
        parse_correction("s2:")


@given(st.text())
def test_a_correction_is_read_or_refused(text: str) -> None:
    try:
        parse_correction(text)
    except BadInput:
        return


def test_edits_leave_the_names_of_other_steps_alone() -> None:
    script = named(["a", "b", "c"])

    edited = apply_edits(
        script,
        [Edit(op="insert_after", step="s1", text="x"), Edit(op="insert_after", step="s1", text="y"),
         Edit(op="drop", step="s2"), Edit(op="replace", step="s3", text="C"),
         Edit(op="insert_after", step="s0", text="first")],
        "p_x",
    )  # fmt: skip

    assert [(s.name, s.text) for s in edited] == [("s6", "first"), ("s1", "a"), ("s4", "x"), ("s5", "y"), ("s3", "C")]


def test_an_unknown_step_is_refused_naming_those_there_are() -> None:
    with pytest.raises(BadInput, match="its steps are s1, s2"):
        apply_edits(PUBLISH.script, [Edit(op="drop", step="s9")], PUBLISH.id)


@given(
    st.lists(st.builds(Edit, op=st.sampled_from(["replace", "insert_after", "drop"]),
                       step=st.sampled_from(["s0", "s1", "s2", "s3"]), text=st.just("t")), max_size=5)
)  # fmt: skip
def test_names_stay_unique_whatever_is_edited(edits: list[Edit]) -> None:
    try:
        names = [s.name for s in apply_edits(PUBLISH.script, edits, "p_x")]
    except BadInput:
        return
    assert len(names) == len(set(names))


FAILED = lost("ship", ("run make build", "ok"), ("run make publish", "error: not signed\n[exit code 1]"))


def test_a_plain_line_replaces_the_step_that_failed() -> None:
    change = adjust.revise(
        Used(PUBLISH), Failure("ship", "error: not signed", FAILED), diagnosis="it must be signed",
        correction=parse_correction("run make sign\nrun make publish --signed"), author="agent",
    )  # fmt: skip

    assert [(s.name, s.text) for s in change.procedure.script] == [
        ("s1", "run make build"), ("s2", "run make sign"), ("s3", "run make publish --signed"),
    ]  # fmt: skip
    assert "- s2: run make publish" in change.diff
    assert change.procedure.counted_from == 2
    assert change.procedure.pitfalls[0].error == "error: not signed"


def test_a_plain_line_is_appended_where_no_step_is_to_blame() -> None:
    change = adjust.revise(
        Used(PUBLISH), Failure("ship", "the page was empty"), diagnosis="",
        correction=parse_correction("purge the cache"), author="agent",
    )  # fmt: skip

    assert [s.text for s in change.procedure.script][-1] == "purge the cache"
    assert change.procedure.pitfalls[0].text == "Do this instead: purge the cache"


def test_remarks_change_no_script_and_start_no_new_counts() -> None:
    change = adjust.revise(
        Used(PUBLISH), Failure("ship", "error"), diagnosis="only for releases",
        correction=parse_correction("when not: for drafts\ncheck: the page shows it"), author="agent",
    )  # fmt: skip

    assert change.procedure.script == PUBLISH.script
    assert change.procedure.counted_from == 1
    assert (change.procedure.when_not_to_use, change.procedure.check) == ("for drafts", "the page shows it")


def test_what_was_rolled_back_is_not_tried_again() -> None:
    with pytest.raises(BadInput, match="rolled back"):
        adjust.revise(
            Used(PUBLISH), Failure("ship", "error"), diagnosis="", correction=parse_correction("s2: run make ship"),
            author="a", rejected=[revised()],
        )  # fmt: skip


def test_an_unexplained_failure_leaves_one_tentative_pitfall_that_an_explanation_replaces() -> None:
    failure = Failure("ship", "error: not signed", FAILED)
    noted = adjust.tentative_pitfall(Used(PUBLISH), failure)
    assert noted is not None
    again = adjust.tentative_pitfall(Used(noted.procedure), failure)
    explained = adjust.revise(
        Used(noted.procedure), failure, diagnosis="it must be signed", correction=Correction(), author="a"
    )

    assert noted.procedure.pitfalls[0].tentative
    assert again is None
    assert [p.text for p in explained.procedure.pitfalls] == ["it must be signed"]


def test_a_lesson_can_be_found_by_task_and_by_error() -> None:
    change = adjust.lesson(
        Failure("ship", "error: not signed", FAILED), diagnosis="", correction=parse_correction("sign\n+s1: publish"),
        author="a", project="shop",
    )  # fmt: skip

    assert change.procedure.status == "provisional"
    assert [s.text for s in change.procedure.script] == ["sign", "publish"]
    assert "not signed" in change.procedure.searched_errors
    assert change.procedure.project == "shop"


def test_the_nearest_success_suggests_a_correction_in_the_exact_form() -> None:
    success = won("ship", ("run make build", "ok"), ("run make publish --signed", "published"))

    assert (
        adjust.suggestion(Used(PUBLISH), Failure("ship", "error", FAILED, success)) == "s2: run make publish --signed"
    )
    assert adjust.suggestion(None, Failure("ship", "error", FAILED, success)) == "run make publish --signed"
    assert adjust.suggestion(None, Failure("ship", "error", FAILED)) == ""
    assert adjust.suggestion(None, Failure("ship", "error", FAILED, won("ship", "dance"))) == ""


def test_an_llm_is_shown_the_failed_steps_that_code_found() -> None:
    llm = ScriptedLLM({"fault": "procedure", "diagnosis": "not signed", "edits": []})

    answer = adjust.ask_for_adjustment(Used(PUBLISH), Failure("ship", "error", FAILED, FAILED), llm)

    assert answer.fault == "procedure"
    assert "step 2: run make publish" in llm.prompts[0]
    assert "s2: run make publish" in llm.prompts[0]


# -- revisions


def test_pitfalls_are_bounded_and_tentative_ones_make_room() -> None:
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet"]
    known = tuple(Pitfall(text=f"{w} " * 5, tentative=i == 3) for i, w in enumerate(words[:8]))

    kept = revisions.with_pitfalls(known, [Pitfall(text="kilo lima mike", tentative=False)])

    assert len(kept) == 8
    assert not any(p.tentative for p in kept)


def test_distilling_again_changes_only_what_is_different() -> None:
    draft = build(won("Publish the app", "run make all"), policy="proceduralization")

    change = revisions.redistilled(PUBLISH, draft)

    assert change is not None
    assert [s.text for s in change.procedure.script] == ["run make all"]
    assert revisions.redistilled(change.procedure, draft) is None


def test_a_retired_procedure_is_restored_as_a_new_revision() -> None:
    gone = revisions.retired(PUBLISH, author="user", reason="old").procedure

    back = revisions.restored(gone, gone, author="user", reason="needed").procedure

    assert (gone.status, back.status, back.revision) == ("retired", "active", 3)


def test_two_steps_that_look_alike_are_told_apart_by_their_command() -> None:
    script = named(["copy report to archive", "delete report from archive"])

    assert revisions.step_for(script, "delete report from archive now") == "s2"
    assert revisions.step_for(script, "sing a song") is None
    assert revisions.step_for((), steps("x")[0].action) is None
