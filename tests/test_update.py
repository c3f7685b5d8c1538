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
from memp_mcp.update import MAX_TASKS, Episode, Neighbour, Used, decide, followed, wants_draft

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


def test_a_success_gives_a_lesson_its_script_which_is_verified_once() -> None:
    lesson = adjust.lesson(
        Failure("pack", "no such folder"), diagnosis="out is missing", correction=Correction(), author="a", project=""
    ).procedure

    [change] = learn(won("pack", "mkdir out", "cp a out"), near=(lesson,))

    assert (change.procedure.status, change.procedure.verified) == ("provisional", True)
    assert [s.text for s in change.procedure.script] == ["mkdir out", "cp a out"]
    assert [p.text for p in change.procedure.pitfalls] == ["out is missing"]


MUG = procedure("place the mug", ["go to shelf", "put {mug} in cabinet"])
MENDED = won(
    "place the mug",
    ("go to shelf 1", "here"),
    ("put mug 1 in cabinet 2", "Nothing happens."),
    ("move mug 1 to cabinet 2", "You move it."),
)


def test_a_run_that_mended_a_remembered_step_repairs_the_script_with_no_llm() -> None:
    [change] = learn(MENDED, near=(MUG,))

    assert change.kind == "revise"
    assert [(s.name, s.text.split()[0]) for s in change.procedure.script] == [("s1", "go"), ("s2", "move")]
    assert change.procedure.counted_from == change.procedure.revision == 2


def test_what_only_keeps_successes_corrects_nothing() -> None:
    [change] = learn(MENDED, near=(MUG,), policy="validation")

    assert change.kind == "merge"
    assert change.procedure.script == MUG.script


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


def test_where_the_nearest_success_did_the_same_it_suggests_nothing() -> None:
    success = won("ship", ("shopctl freeze on", "frozen"), ("shopctl freeze off", "thawed"))
    told = lost("ship", ("shopctl freeze on", "error: unknown command\n[exit code 1]"))

    assert adjust.suggestion(None, Failure("ship", "error", told, success)) == ""


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

    assert (gone.status, back.status, back.revision) == ("retired", "provisional", 3)


def test_two_steps_that_look_alike_are_told_apart_by_their_command() -> None:
    script = named(["copy report to archive", "delete report from archive"])

    assert revisions.step_for(script, "delete report from archive now") == "s2"
    assert revisions.step_for(script, "sing a song") is None
    assert revisions.step_for((), steps("x")[0].action) is None


# -- health, at its edges


def kinds(changes: list[Change]) -> list[str]:
    return [c.kind for c in changes]


FOLLOWED_IT = won("ship", "run make build", "run make publish")
LOST_IT = lost("ship", ("run make build", "error: x"))


@pytest.mark.parametrize(
    ("retire_uses", "retire_below", "before", "retired"),
    [(3, 0.5, (2, 0), True), (3, 0.5, (3, 2), False), (4, 0.5, (2, 0), False), (1, 0.5, (0, 0), True),
     (3, 0.0, (9, 0), False), (3, 0.9, (9, 8), True)],
)  # fmt: skip
def test_when_to_retire_can_be_set(
    retire_uses: int, retire_below: float, before: tuple[int, int], *, retired: bool
) -> None:
    changes = decide(
        Episode(LOST_IT, (Used(PUBLISH, verified(*before)),)), None, policy="adjustment",
        retire_uses=retire_uses, retire_below=retire_below,
    )  # fmt: skip

    assert kinds(changes) == (["retire"] if retired else [])


def test_every_procedure_that_was_used_is_judged_by_its_own_counts() -> None:
    other = procedure("Sign the app", ["sign it"])

    changes = learn(LOST_IT, used=(Used(PUBLISH, verified(2, 0)), Used(other, verified(2, 2))))

    assert [(c.kind, c.procedure.id) for c in changes] == [("retire", PUBLISH.id)]


def test_what_is_retired_stays_so_and_learns_nothing() -> None:
    gone = PUBLISH.model_copy(update={"status": "retired"})

    assert learn(LOST_IT, used=(Used(gone, verified(5, 0)),)) == []
    assert kinds(
        learn(won("Publish the app", "run make build", "run make publish"), used=(Used(gone),), near=(gone,))
    ) == ["add"]


def test_a_success_that_comes_too_late_for_its_procedure_is_learnt_all_the_same() -> None:
    """It would be lost if it were merged into the procedure that is retired in the same breath."""
    retired, added = learn(FOLLOWED_IT, used=(Used(PUBLISH, verified(5, 0)),))

    assert (retired.kind, added.kind) == ("retire", "add")
    assert added.procedure.id != PUBLISH.id
    assert added.procedure.verified


def test_a_revision_is_judged_from_its_second_verified_use_on() -> None:
    assert learn(LOST_IT, used=(Used(revised(), verified(0, 0), PUBLISH, verified(3, 3)),)) == []


def test_a_revision_of_a_script_that_nobody_verified_is_not_rolled_back() -> None:
    assert learn(LOST_IT, used=(Used(revised(), verified(1, 0), PUBLISH, Counts(uses=9)),)) == []


@pytest.mark.parametrize(
    "told",
    [trajectory("ship", ("run make", "error: x"), outcome="failure"), lost("ship", ("curl x", "curl: (28) timed out"))],
    ids=["unverified", "transient"],
)
def test_thin_evidence_rolls_nothing_back(told: Trajectory) -> None:
    assert learn(told, used=(Used(revised(), verified(5, 0), PUBLISH, verified(3, 3)),)) == []


def test_a_roll_back_keeps_what_was_learnt_since_and_says_why() -> None:
    since = revised().model_copy(update={"tasks": ("Publish the app", "ship it"), "keywords": ("ship",)})

    [change] = learn(LOST_IT, used=(Used(since, verified(1, 0), PUBLISH, verified(3, 3)),))

    assert change.procedure.tasks == since.tasks
    assert change.procedure.keywords == since.keywords
    assert "0 successes in 2 verified uses, worse than revision 1 with 3 in 3" in change.reason
    assert "+ s2: run make publish" in change.diff


def test_a_success_proves_advice_but_no_open_question() -> None:
    noted = adjust.tentative_pitfall(Used(PUBLISH), Failure("ship", "error: not signed"))
    assert noted is not None
    both = noted.procedure.model_copy(update={"pitfalls": (*noted.procedure.pitfalls, Pitfall(text="sign it first"))})

    promoted, *_ = learn(FOLLOWED_IT, used=(Used(both),))
    nothing_to_prove = learn(FOLLOWED_IT, used=(Used(noted.procedure),))

    assert [p.tentative for p in promoted.procedure.pitfalls] == [True, False]
    assert kinds(nothing_to_prove) == ["merge"]


def test_an_unverified_success_proves_nothing() -> None:
    tried = PUBLISH.model_copy(update={"pitfalls": (Pitfall(text="sign it"),), "status": "provisional"})

    changes = learn(trajectory("ship", "run make build", "run make publish"), used=(Used(tried),))

    assert kinds(changes) == ["merge"]
    assert changes[0].procedure.status == "provisional"


def test_what_is_promoted_and_learnt_from_in_one_episode_is_two_revisions_in_a_row() -> None:
    tried = PUBLISH.model_copy(update={"status": "provisional"})

    promoted, merged = learn(won("ship 2.0", "run make build", "run make publish"), used=(Used(tried),))

    assert (promoted.procedure.revision, merged.procedure.revision) == (2, 3)
    assert merged.procedure.status == "active"


def test_the_decision_names_the_ending_of_a_run_without_failed_steps_too() -> None:
    """Where no step failed by itself, the last observation and the caller's words tell whose fault it was."""
    spoilt = lost("ship", "run make build", feedback="the network was down: connection reset by peer")

    assert learn(spoilt, used=(Used(PUBLISH, verified(5, 0)),)) == []
    assert kinds(learn(lost("ship", "run make build"), used=(Used(PUBLISH, verified(5, 0)),))) == ["retire"]


# -- merging, at its edges


def test_only_a_verified_run_replaces_the_exemplar_of_a_verified_one() -> None:
    known = build(won("pack", "mkdir out", "cp a out", "cp b out"), policy="proceduralization")

    unverified = learn(trajectory("pack", "cp a b out"), near=(known,))
    longer = learn(won("pack", "mkdir out", "cp a out", "cp b out", "cp c out"), near=(known,))

    assert [c.procedure.exemplar for c in (*unverified, *longer)] == [known.exemplar] * 2


def test_the_first_verified_run_replaces_an_exemplar_that_nobody_verified_even_a_shorter_one() -> None:
    known = build(trajectory("pack", "cp a b out"), policy="proceduralization")
    told = won("pack", "mkdir out", "cp a out", "cp b out")

    [change] = learn(told, near=(known,))

    assert change.procedure.exemplar_id == told.id
    assert change.procedure.verified


def test_evidence_and_wordings_are_bounded() -> None:
    known = build(won("pack 0 things", "tar x"), policy="proceduralization")
    words = ["red", "green", "blue", "black", "white", "pink", "brown", "grey", "gold", "lime"]
    for word in words:
        known = learn(won(f"pack {word} boxes", "tar x"), near=(known,), similarity=0.99)[-1].procedure

    assert len(known.tasks) == MAX_TASKS
    assert known.tasks[0] == "pack 0 things"


def test_the_nearest_of_several_twins_is_taken() -> None:
    near, far = (build(won(t, "systemctl start web"), policy="proceduralization") for t in ("start web", "launch web"))
    draft = build(won("start up the web server", "systemctl start web"), policy="proceduralization")

    told = won("start up the web server", "systemctl start web")
    [change] = decide(Episode(told, (), (Neighbour(far, 0.93), Neighbour(near, 0.97))), draft, policy="adjustment")

    assert change.procedure.id == near.id


def test_scripts_that_are_not_there_are_not_alike() -> None:
    bare = procedure("start the web", script=())

    assert kinds(learn(won("start the server", "systemctl start web"), near=(bare,), similarity=0.99)) == ["add"]


def test_a_run_follows_a_script_by_the_share_of_its_steps() -> None:
    assert followed(PUBLISH.script, FOLLOWED_IT.steps) == 1.0
    assert followed(PUBLISH.script, steps("run make build", "sing")) == 0.5
    assert followed((), FOLLOWED_IT.steps) == 0.0


def test_a_repair_keeps_the_names_of_all_steps_and_explains_its_slots() -> None:
    known = procedure("place the mug", ["go to shelf", "put {cup} in cabinet", "look around"])
    told = won(
        "place the mug",
        ("put mug 1 in cabinet 2", "Nothing happens."),
        ("move mug 1 to cabinet 2", "You move it."),
    )

    [change] = learn(told, near=(known,))

    assert [s.name for s in change.procedure.script] == ["s1", "s2", "s3"]
    assert change.procedure.script[1].text == "move {mug} to cabinet 2"
    assert "mug" in {s.name for s in change.procedure.slots}
    assert [p.text for p in change.procedure.pitfalls] == [
        "`put mug 1 in cabinet 2` failed; `move mug 1 to cabinet 2` worked."
    ]


def test_what_a_step_turned_out_to_need_is_put_before_it_once() -> None:
    known = procedure("start the app", ["git pull", "python app.py", "curl localhost"])
    told = won(
        "start the app",
        ("git pull", "Already up to date."),
        ("python app.py", "ModuleNotFoundError: No module named 'rich'"),
        ("pip install rich", "Successfully installed rich"),
        ("python app.py", "started"),
        ("curl localhost", "hello"),
    )

    [change] = learn(told, near=(known,))

    script = [(s.name, s.text) for s in change.procedure.script]
    assert script == [("s1", "git pull"), ("s4", "pip install rich"), ("s2", "python app.py"), ("s3", "curl localhost")]
    [again] = learn(told, near=(change.procedure,))
    assert again.procedure.script == change.procedure.script


def test_what_mends_a_step_that_the_script_lacks_or_has_mended_already_repairs_nothing() -> None:
    known = procedure("place the mug", ["move {mug} to cabinet 2", "look around"])
    told = won("place the mug", ("put mug 1 in cabinet 2", "Nothing happens."), ("move mug 1 to cabinet 2", "done"))

    [change] = learn(told, near=(known,))

    assert change.kind == "merge"
    assert change.procedure.script == known.script


def test_a_trajectory_without_steps_teaches_nothing_and_one_with_a_script_does() -> None:
    assert not wants_draft(Trajectory(task="x", steps=(), outcome="success"), "vanilla")
    assert wants_draft(Trajectory(task="x", steps=(), script=("do it",), outcome="success"), "adjustment")


def test_tasks_without_words_are_not_taken_for_one_another() -> None:
    known = build(won("🚀", "run it"), policy="proceduralization")

    assert kinds(learn(won("🔥", "stop that"), near=(known,))) == ["add"]
    assert kinds(learn(won("🚀", "run it"), near=(known,))) == ["merge"]
