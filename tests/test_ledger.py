"""The ledger: what the recorded episodes say about the benefit of the memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from builders import lost, procedure, trajectory, won
from conftest import OpenMemory

from memp_mcp.ledger import Episode, Figures, Ledger, Records, account, records_of
from memp_mcp.memory import STATS_PROCEDURES, Memory
from memp_mcp.models import Commit, Event, Step, Trajectory
from memp_mcp.reflect import Report

TASK = "Publish the shop"
TIMED_OUT = "curl: (28) Operation timed out after 30000 ms"


def success(memory: Memory, ledger: Ledger | None = None) -> tuple[float | None, float | None]:
    """The success rates with and without a procedure."""
    compared = (ledger or memory.ledger()).compared
    aided, unaided = compared.aided.success, compared.unaided.success
    return aided.value if aided else None, unaided.value if unaided else None


def learnt(memory: Memory) -> str:
    """Make the memory know one procedure, from an import, and return its id."""
    memory.record(won(TASK, "release build", "release publish", source="runs.json"))
    [known] = memory.list_procedures()
    return known.id


def recalled(memory: Memory, made: Trajectory) -> Trajectory:
    """The trajectory as that of somebody who recalled first."""
    recall = memory.recall(made.task, client=made.client)
    return made.model_copy(update={"recall_id": recall.id})


def test_an_empty_memory_has_a_ledger(memory: Memory) -> None:
    found = memory.ledger()

    assert (found.all.episodes, found.periods, found.procedures, found.holdout) == (0, (), (), None)
    assert found.all.success is None


def test_episodes_are_told_apart_by_what_they_had_of_the_memory(memory: Memory) -> None:
    learnt(memory)
    memory.record(recalled(memory, won(TASK, "release build 2")))
    memory.record(recalled(memory, lost("water the plants", "pour")))
    memory.record(lost("sweep the floor", "sweep"))

    found = memory.ledger()

    assert {aid: tally.episodes for aid, tally in found.by_aid.items()} == {"shown": 1, "nothing": 1, "none": 1}
    assert success(memory, found) == (1.0, 0.0)
    assert found.compared.success is not None
    assert found.compared.success.value == 1


def test_who_names_a_procedure_had_it_even_without_a_recall(memory: Memory) -> None:
    memory.record(won(TASK, "release build 2", used=(learnt(memory),)))

    assert memory.ledger().by_aid["shown"].episodes == 1


def test_steps_and_tokens_are_told_with_and_without(memory: Memory) -> None:
    learnt(memory)
    told = Step(action="a" * 4, thought="t" * 8, observation="o" * 12)
    memory.record(recalled(memory, won(TASK).model_copy(update={"steps": (told,)})))
    memory.record(lost("sweep the floor", *["sweep 1234"] * 4))

    compared = memory.ledger().compared

    assert compared.steps is not None
    assert compared.tokens is not None
    assert (compared.steps.value, compared.tokens.value) == (1 - 4, (24 - 40) / 4)


def test_only_verified_outcomes_count_for_success_and_the_others_are_counted_beside_them(memory: Memory) -> None:
    memory.record(won("mop", "mop"))
    memory.record(trajectory("claim to mop", "mop", outcome="success"))
    memory.record(lost("fetch it", ("curl x", TIMED_OUT), ("curl y", TIMED_OUT)))

    found = memory.ledger().all

    assert (found.episodes, found.unverified) == (3, 2)
    assert found.success is not None
    assert (found.success.value, found.success.n) == (1.0, 1)


def test_imported_runs_without_this_memory_are_left_out(memory: Memory) -> None:
    learnt(memory)

    found = memory.ledger()

    assert (found.imported, found.all.episodes) == (1, 0)


def test_episodes_recorded_without_figures_are_read_themselves(memory: Memory) -> None:
    made = lost("sweep", "sweep", "sweep again", model="some-model")
    memory.store.apply(Commit(op_id=made.id, trajectory=made))

    found = memory.ledger()

    assert found.all.steps is not None
    assert (found.all.steps.value, found.models[0].name) == (2, "some-model")


def test_clients_and_models_are_told_apart_the_busiest_first(memory: Memory) -> None:
    for run in range(3):
        memory.record(won(f"mop {run}", "mop", client="codex" if run else "qwen", model="a" if run else "b"))

    found = memory.ledger()

    assert [(g.name, g.compared.unaided.episodes) for g in found.clients] == [("codex", 2), ("qwen", 1)]
    assert [g.name for g in found.models] == ["a", "b"]


def test_time_is_cut_into_equally_many_episodes_in_the_order_of_recording(memory: Memory) -> None:
    runs = [lost(f"mop {n}", "mop") for n in range(4)] + [won(f"mop {n}", "mop") for n in range(4, 8)]
    memory.store.apply(*(_stored(t) for t in runs[:4]))
    memory.store.apply(*(_stored(t) for t in runs[4:]))

    first, second = memory.ledger().periods

    assert (first.first, first.last, second.first, second.last) == (1, 4, 5, 8)
    assert [p.all.success and p.all.success.value for p in (first, second)] == [0.0, 1.0]
    assert first.begun <= first.ended <= second.begun


@pytest.mark.parametrize(("episodes", "periods", "least"), [(1, 1, 1), (7, 1, 7), (60, 5, 12), (1_000, 12, 83)])
def test_a_young_memory_has_few_short_periods_and_an_old_one_twelve(episodes: int, periods: int, least: int) -> None:
    recorded = [_episode(n) for n in range(episodes)]

    found = account(Records(recorded, {}, [], {}, []), retire_below=0.5).periods

    assert (len(found), min(p.all.episodes for p in found)) == (periods, least)


def _episode(number: int) -> Episode:
    return Episode(
        at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
        trajectory_id=f"t_{number}",
        client="codex",
        model="m",
        recall_id="",
        aid="none",
        live=True,
        steps=2,
        tokens=10.0,
        verified=True,
        succeeded=True,
    )


def _stored(made: Trajectory) -> Commit:
    return Commit(op_id=made.id, trajectory=made, figures=Figures.of(made).model_dump_json())


# -- procedures


def used(memory: Memory, procedure_id: str, *runs: Trajectory) -> Ledger:
    """The ledger after these runs have used the procedure."""
    for run in runs:
        memory.record(run.model_copy(update={"used": (procedure_id,)}))
    return memory.ledger()


def runs_of(successes: int, failures: int, first: int = 0) -> list[Trajectory]:
    """Verified runs, each with a content of its own."""
    return [
        won(f"{TASK} {n}", f"release build {n}") if n < first + successes else lost(f"{TASK} {n}", f"release ship {n}")
        for n in range(first, first + successes + failures)
    ]


@pytest.mark.parametrize(
    ("successes", "failures", "verdict"), [(4, 0, "pays"), (3, 0, "unknown"), (2, 2, "unknown"), (0, 4, "does not pay")]
)
def test_a_procedure_gets_a_verdict_from_its_whole_interval(
    open_memory: OpenMemory, successes: int, failures: int, verdict: str
) -> None:
    memory = open_memory(update="validation", retire_uses=99)
    procedure_id = learnt(memory)

    found = used(memory, procedure_id, *runs_of(successes, failures))

    [told] = [a for a in found.procedures if a.id == procedure_id]
    assert (told.verdict, told.counts.verified, found.yardstick) == (verdict, successes + failures, 0.5)
    assert "MEMP_RETIRE_BELOW" in found.yardstick_from
    assert found.verdicts[told.verdict] == 1


def test_the_yardstick_is_what_episodes_without_a_procedure_achieve_once_there_are_enough(memory: Memory) -> None:
    for n in range(10):
        memory.record((won if n < 8 else lost)(f"mop room {n}", f"mop {n}"))

    found = memory.ledger()

    assert found.yardstick == 0.8
    assert "10 verified episodes" in found.yardstick_from


def test_repairs_roll_backs_and_retirements_are_told_of_each_procedure(open_memory: OpenMemory) -> None:
    memory = open_memory()
    procedure_id = learnt(memory)
    used(memory, procedure_id, *runs_of(3, 0))
    memory.reflect(Report(task=TASK, used=(procedure_id,), error="not signed", correction="s2: release ship it"))
    used(memory, procedure_id, *runs_of(0, 2, first=10))
    memory.retire(procedure_id)

    found = memory.ledger()

    [told] = [a for a in found.procedures if a.id == procedure_id]
    assert (told.repaired, told.rolled_back, told.retired, told.restored) == (1, 1, 1, 0)
    assert (told.status, told.all_counts.uses, told.counts.uses) == ("retired", 5, 3)
    assert found.changes == {"revise": 1, "roll_back": 1, "retire": 1}


def test_a_text_that_looks_like_a_change_is_none(memory: Memory) -> None:
    memory.record(won('say "change":"retire"', 'echo "change":"retire"'))

    assert memory.ledger().changes == {}


def test_a_forgotten_procedure_is_in_no_account_and_its_episode_in_no_figure(memory: Memory) -> None:
    memory.record(recalled(memory, won(TASK, "release build")))
    [known] = memory.list_procedures()
    memory.record(recalled(memory, won(TASK, "release build")))
    memory.forget(known.id)

    found = memory.ledger()

    assert found.procedures == ()
    assert found.all.episodes == 0


# -- hold-out


def drawn(memory: Memory, draws: Sequence[float]) -> Memory:
    """The same memory with its next draws given."""
    held = Memory(
        memory.store,
        memory.vectorizer.background,
        memory.settings.model_copy(update={"holdout": 0.5}),
        draw=iter(draws).__next__,
    )
    assert held.vectorizer.background.ready(60)
    return held


def test_the_hold_out_compares_episodes_of_recalls_that_were_drawn(memory: Memory) -> None:
    learnt(memory)
    memory.record(recalled(memory, won(TASK, "before the hold-out")))
    held = drawn(memory, [0.9, 0.9, 0.1, 0.1])
    for n, made in enumerate([won, won, lost]):
        held.record(recalled(held, made(TASK, *[f"release build {n}"] * (n + 1))))
    held.recall(TASK)

    found = held.ledger().holdout

    assert found is not None
    assert (found.shares, found.shown, found.withheld) == ((0.5,), 2, 2)
    assert (found.compared.aided.episodes, found.compared.unaided.episodes) == (2, 1)
    assert found.compared.success is not None
    assert found.compared.steps is not None
    assert (found.compared.success.value, found.compared.steps.value) == (1.0, 1.5 - 3)


def test_a_recall_that_several_episodes_name_counts_once(memory: Memory) -> None:
    learnt(memory)
    held = drawn(memory, [0.1])
    recall_id = held.recall(TASK).id
    for n in range(3):
        held.record(lost(TASK, f"release build {n}", recall_id=recall_id))

    found = held.ledger().holdout

    assert found is not None
    assert found.compared.unaided.episodes == 1


@pytest.mark.parametrize("error", ["", "not signed"])
def test_who_was_withheld_from_and_asks_again_stays_in_that_group(memory: Memory, error: str) -> None:
    """Those who struggle would leave it otherwise, and what was withheld would seem to be worth less."""
    learnt(memory)
    held = drawn(memory, [0.1, 0.9])
    held.recall(TASK)
    again = held.recall(TASK, error=error)
    held.record(lost(TASK, "release build", recall_id=again.id))

    found = held.ledger().holdout

    assert found is not None
    assert len(again.matches) == 1
    assert (found.compared.aided.episodes, found.compared.unaided.episodes) == (0, 1)


def test_a_later_run_of_the_same_task_has_a_draw_of_its_own(memory: Memory) -> None:
    learnt(memory)
    held = drawn(memory, [0.1, 0.9])
    for n in range(2):
        held.record(won(TASK, f"release build {n}", recall_id=held.recall(TASK).id))

    found = held.ledger().holdout

    assert found is not None
    assert (found.compared.aided.episodes, found.compared.unaided.episodes) == (1, 1)


def test_a_withheld_recall_is_no_recall_that_found_nothing(memory: Memory) -> None:
    procedure_id = learnt(memory)
    held = drawn(memory, [0.1])
    held.recall(TASK)
    held.recall("water the plants")

    stats = held.stats()

    assert (stats.recalls, stats.recalls_with_nothing, stats.recalls_withheld) == (2, 1, 1)
    [told] = [a for a in stats.ledger.procedures if a.id == procedure_id]
    assert (told.shown, told.withheld) == (0, 1)


def test_stats_name_a_few_procedures_and_the_ledger_all(memory: Memory) -> None:
    for n in range(STATS_PROCEDURES + 2):
        memory.store.note(Event(kind="used", procedure_id=f"p_{n:012}"))
        memory.store.apply(Commit(op_id=f"o{n}", procedures=(procedure(id=f"p_{n:012}"),)))

    assert len(memory.ledger().procedures) == STATS_PROCEDURES + 2
    assert len(memory.stats().ledger.procedures) == STATS_PROCEDURES


def test_an_account_needs_no_store_once_the_records_are_read(memory: Memory) -> None:
    memory.record(won("mop", "mop"))
    records = records_of(memory.store)

    assert account(records, retire_below=0.5) == memory.ledger()
