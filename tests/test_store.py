"""The memory on disk: what is written is written whole, once and for good, and is found again."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from memp_mcp.errors import EmbedderError, StaleRevision, StoreBusy, StoreDamaged, StoreFull, StoreNewer
from memp_mcp.faults import committed
from memp_mcp.models import Commit, Counts, Event, Pitfall, Procedure, Reward, Step, Trajectory, new_id, storable
from memp_mcp.rows import TableName, version_row
from memp_mcp.store import Store, Vectors
from memp_mcp.tables import METRICS, Tables
from memp_mcp.tally import Tally
from memp_mcp.waiting import Waiting

START = datetime(2026, 1, 1, tzinfo=UTC)
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=())) | st.sampled_from(
    ["'", "''", "' OR true --", '"', "\\", "%", "_", "id\x00", "\ud800", "🜁", "a' OR 'a'='a", "); DROP TABLE x", "`id`"]
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "memory")


def trajectory(task: str = "Put a hot apple in the fridge", **given: object) -> Trajectory:
    told = {"task": task, "steps": [{"action": "go to fridge 1"}], "outcome": "success", **given}
    return Trajectory.model_validate(told)


def procedure(title: str = "Heat, then chill", **given: object) -> Procedure:
    return Procedure.model_validate({"title": title, "when_to_use": "Something is to be heated.", **given})


def revised(old: Procedure, **changes: object) -> Procedure:
    return old.model_copy(update={"revision": old.revision + 1, **changes})


def save(store: Store, *procedures: Procedure) -> list[bool]:
    return store.apply(Commit(op_id=new_id("o"), procedures=procedures))


def learnt(store: Store, task: str = "Put a hot apple in the fridge") -> tuple[Trajectory, Procedure]:
    told, made = trajectory(task), procedure(tasks=(task,))
    evidence = Event(kind="evidence", procedure_id=made.id, trajectory_id=told.id)
    assert store.apply(Commit(op_id=told.id, trajectory=told, procedures=(made,), events=(evidence,))) == [True]
    return told, made


# --- opening


def test_an_opened_memory_is_the_same_when_it_is_opened_again(store: Store) -> None:
    told, made = learnt(store)
    again = Store.open(store.directory)
    assert again.id == store.id
    assert again.trajectory(told.id) == told
    assert again.procedure(made.id) == made


def test_a_memory_of_a_newer_format_is_refused_and_left_as_it_is(store: Store) -> None:
    path = store.directory / "meta.json"
    newer = json.dumps({**json.loads(path.read_text()), "format": 2, "program": "9.0", "shards": 3})
    path.write_text(newer)
    with pytest.raises(StoreNewer, match=r"format 2.*memp-mcp 9\.0.*Upgrade"):
        Store.open(store.directory)
    with pytest.raises(StoreNewer):
        save(store, procedure())
    assert path.read_text() == newer


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "one"}', "\xff"])
def test_an_unreadable_format_file_is_refused_with_the_way_out(store: Store, text: str) -> None:
    (store.directory / "meta.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreDamaged, match=r"memp-mcp doctor.*memp-mcp export"):
        Store.open(store.directory)
    assert (store.directory / "meta.json").read_bytes() == text.encode("latin-1")


def test_tables_without_their_format_file_are_not_taken_for_an_empty_memory(store: Store) -> None:
    learnt(store)
    (store.directory / "meta.json").unlink()
    with pytest.raises(StoreDamaged, match=r"no meta\.json"):
        Store.open(store.directory)


def test_a_memory_whose_making_was_interrupted_is_made_when_it_is_opened_again(store: Store) -> None:
    (store.directory / "meta.json").unlink()
    shutil.rmtree(store.directory / "events.lance" / "_versions")
    shutil.rmtree(store.directory / "trajectories.lance")
    again = Store.open(store.directory)
    learnt(again)
    assert again.check() == []


def test_an_unreadable_table_is_refused_and_can_still_be_opened_to_save_the_rest(store: Store) -> None:
    told, made = learnt(store)
    break_table(store, "events")
    with pytest.raises(StoreDamaged, match=r"memp-mcp doctor.*memp-mcp export"):
        Store.open(store.directory)
    salvaged = Store.open(store.directory, salvage=True)
    assert list(salvaged.all_trajectories()) == [told]
    assert list(salvaged.all_revisions()) == [made]
    assert [p for p in salvaged.check() if "The table events cannot be read" in p and "memp-mcp repair" in p]


def break_table(store: Store, name: str) -> None:
    for manifest in (store.directory / f"{name}.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"")


def test_a_file_where_the_memory_should_be_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "memory"):
        with pytest.raises(StoreFull, match="is not a directory"):
            Store.open(place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_vanished_directory_is_said_to_be_gone_and_is_not_made_again(store: Store) -> None:
    shutil.rmtree(store.directory)
    for act in (lambda: save(store, procedure()), lambda: store.procedure("p_0"), store.events):
        with pytest.raises(StoreDamaged, match="is gone"):
            act()
    assert not store.directory.exists()


# --- applying


def test_an_operation_is_written_as_a_whole(store: Store) -> None:
    told, made = learnt(store)
    assert store.trajectory(told.id) == told
    assert store.procedure(made.id) == made
    assert store.history(made.id) == [made]
    assert [e.kind for e in store.events(trajectory_id=told.id)] == ["evidence", "recorded"]
    assert store.stored([told.id, "t_unknown"]) == {told.id}


def test_an_operation_is_applied_once(store: Store) -> None:
    told, made = learnt(store)
    assert store.apply(Commit(op_id=told.id, trajectory=told, procedures=(made,))) == [False]
    commit = Commit(op_id="o_1", procedures=(revised(made),))
    assert store.apply(commit, commit) == [True, False]
    assert [p.revision for p in store.history(made.id)] == [1, 2]


def test_a_change_decided_on_an_old_revision_is_refused_and_nothing_of_the_call_is_written(store: Store) -> None:
    _, made = learnt(store)
    save(store, revised(made))
    before = store.size().rows
    other, told = procedure("Something else"), trajectory("Another task")
    fine = Commit(op_id="o_fine", trajectory=told, procedures=(other,))
    for stale in (made, revised(made), revised(revised(revised(made)))):
        with pytest.raises(StaleRevision) as caught:
            store.apply(fine, Commit(op_id="o_stale", procedures=(stale,)))
        assert (caught.value.current, caught.value.expected) == (2, stale.revision - 1)
    assert store.size().rows == before


def test_a_revision_of_an_unknown_procedure_is_refused(store: Store) -> None:
    with pytest.raises(StaleRevision):
        save(store, procedure(revision=2))


def test_commits_of_one_call_may_build_on_each_other(store: Store) -> None:
    first = procedure()
    second = revised(first, title="Second")
    assert (
        store.apply(Commit(op_id="o_1", procedures=(first,)), Commit(op_id="o_2", procedures=(second,))) == [True] * 2
    )
    assert store.procedure(first.id) == second
    assert store.revision(first.id, 1) == first
    assert store.revision(first.id, 3) is None


def test_the_same_trajectory_in_two_operations_is_one_row(store: Store) -> None:
    told = trajectory()
    store.apply(Commit(op_id="o_1", trajectory=told), Commit(op_id="o_2", trajectory=told))
    store.apply(Commit(op_id="o_3", trajectory=told))
    assert list(store.all_trajectories()) == [told]


def test_an_operation_that_died_after_its_trajectory_is_finished_by_the_next_try(store: Store) -> None:
    told, made = trajectory(), procedure()
    commit = Commit(op_id=told.id, trajectory=told, procedures=(made,))
    die_after(store, commit, "trajectories")
    assert store.unfinished() == [told.id]
    assert store.stored([told.id]) == set()
    assert store.apply(commit) == [True]
    assert store.unfinished() == []
    assert store.procedure(made.id) == made


def test_an_operation_that_died_after_its_revisions_is_finished_with_those(store: Store) -> None:
    told, made, other = trajectory(), procedure(), procedure("Decided differently in the second try")
    die_after(store, Commit(op_id=told.id, trajectory=told, procedures=(made,)), "procedure_versions")
    assert store.procedure(made.id) is None
    assert store.apply(Commit(op_id=told.id, trajectory=told, procedures=(other,))) == [False]
    assert store.list_procedures() == [made]
    assert store.check() == []


def test_what_a_dead_process_left_half_way_is_brought_up_to_date_on_opening(store: Store) -> None:
    _, made = learnt(store)
    later = revised(made, title="Later")
    die_after(store, Commit(op_id="o_1", procedures=(later,)), "procedure_versions")
    assert [p for p in store.check() if "old revision" in p]
    assert Store.open(store.directory).procedure(made.id) == later
    assert store.procedure(made.id) == later


def test_what_a_dead_process_left_half_way_is_seen_by_a_process_that_goes_on(store: Store) -> None:
    _, made = learnt(store)
    later = revised(made, title="Later")
    die_after(store, Commit(op_id="o_1", procedures=(later,)), "procedure_versions")
    with pytest.raises(StaleRevision):
        save(store, revised(made))
    assert store.procedure(made.id) == later
    save(store, revised(later))


def test_what_a_failed_write_left_half_way_is_finished_by_the_next_one(store: Store) -> None:
    _, made = learnt(store)
    later = revised(made, title="Later")

    def fail_half_way() -> None:
        with store._writing():
            store._tables.add("procedure_versions", [version_row(later, "o_1")])
            raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(StoreFull):
        fail_half_way()

    assert (store.directory / "writing").exists()
    save(store, procedure("Another"))
    assert store.procedure(made.id) == later
    assert not (store.directory / "writing").exists()


def test_a_write_that_failed_before_it_wrote_anything_leaves_no_mark(store: Store) -> None:
    _, made = learnt(store)

    with pytest.raises(StaleRevision):
        save(store, revised(revised(made)))

    assert not (store.directory / "writing").exists()


def die_after(store: Store, commit: Commit, table: str) -> None:
    """Leave on disk what a process leaves that dies after writing *table*."""
    trajectory_only = Commit(op_id="o_dead", trajectory=commit.trajectory)
    if commit.trajectory:
        store.apply(trajectory_only)
        store._tables.delete("events", "kind = 'recorded'")
    if table == "procedure_versions":
        store._tables.add("procedure_versions", [version_row(p, commit.op_id) for p in commit.procedures])
    (store.directory / "writing").touch()


def test_a_memory_that_is_behind_and_cannot_be_written_is_read_as_it_is(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    _, made = learnt(store)
    die_after(store, Commit(op_id="o_1", procedures=(revised(made),)), "procedure_versions")
    with store._locked():
        again = Store.open(store.directory, lock_timeout=0.05)
    assert again.procedure(made.id) == made
    assert "older revision for now" in caplog.text


def test_writers_wait_for_each_other_and_then_say_who_is_in_the_way(store: Store) -> None:
    other = Store.open(store.directory, lock_timeout=0.05)
    with store._locked(), pytest.raises(StoreBusy, match="MEMP_LOCK_TIMEOUT"):
        save(other, procedure())
    with other._writing(), ThreadPoolExecutor(1) as pool, pytest.raises(StoreBusy):
        pool.submit(save, other, procedure()).result()
    assert save(other, procedure()) == [True]


def test_eight_threads_lose_nothing(store: Store) -> None:
    shared = procedure("Everybody's")
    save(store, shared)

    def work(worker: int) -> None:
        for i in range(4):
            learnt(store, f"Task {i} of {worker}")
            revise_until_won(store, shared.id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert store.size().rows["trajectories"] == 32
    assert [p.revision for p in store.history(shared.id)] == list(range(1, 34))
    assert store.check() == []


def revise_until_won(store: Store, procedure_id: str) -> None:
    while True:
        current = store.procedure(procedure_id)
        assert current is not None
        try:
            save(store, revised(current))
        except StaleRevision:
            continue
        return


def test_a_lost_race_of_commits_is_run_again_and_other_errors_are_not() -> None:
    tries: list[str] = []

    def action() -> str:
        tries.append("try")
        if len(tries) < 3:
            raise RuntimeError("lance error: Retryable commit conflict for version 3")
        return "done"

    assert committed(action) == "done"
    with pytest.raises(RuntimeError, match="other"):
        committed(lambda: (_ for _ in ()).throw(RuntimeError("other")))


def test_a_reader_that_is_overtaken_by_a_clean_up_reads_again(store: Store) -> None:
    learnt(store)
    tries: list[str] = []

    def count(table: object) -> int:
        tries.append("try")
        if len(tries) == 1:
            raise RuntimeError("lance error: Not found: data/0.lance")
        return int(table.count_rows())  # type: ignore[attr-defined] # lancedb's own table

    assert store._tables._read("trajectories", count) == 1


# --- embedder


def test_the_first_embedder_is_recorded_and_another_is_refused_with_both_ways_out(store: Store) -> None:
    assert store.embedder is None
    store.adopt("mini", 2)
    store.adopt("mini", 2)
    assert Store.open(store.directory).embedder == ("mini", 2)
    for name, dimension in (("maxi", 2), ("mini", 3)):
        with pytest.raises(EmbedderError, match=r"embedded with 'mini'.*rebuild --embed.*MEMP_EMBEDDER=mini"):
            store.adopt(name, dimension)


def test_similarity_is_the_cosine_for_vectors_and_the_dot_product_for_phrases(store: Store) -> None:
    store.adopt("mini", 2)
    near, far = procedure("near"), procedure("far")
    vectors = {near.id: Vectors([2, 0], [0.5, 0]), far.id: Vectors([0, 3], [0, 0.5])}
    store.apply(Commit(op_id="o_1", procedures=(near, far)), vectors=vectors)
    assert store.dense([5, 0], projects=[""], limit=5) == [(near, 1.0), (far, 0.0)]
    assert store.dense([1, 0.5], column="phrases", projects=[""], limit=5) == [(near, 0.5), (far, 0.25)]


def test_procedures_without_a_vector_are_listed_until_they_get_one(store: Store) -> None:
    made, gone = procedure(), procedure(status="retired")
    save(store, made, gone)
    assert store.without_vectors() == [made]
    store.adopt("mini", 2)
    assert store.without_vectors() == [made]
    assert [p for p in store.check() if "no vector" in p]
    store.set_vectors({made.id: Vectors([1, 0], [1, 0])})
    store.set_vectors({})
    assert store.without_vectors() == []
    assert [p for p, _ in store.dense([1, 0], projects=[""], limit=5)] == [made]


def test_a_revision_without_new_vectors_keeps_the_old_ones(store: Store) -> None:
    store.adopt("mini", 2)
    made = procedure()
    store.apply(Commit(op_id="o_1", procedures=(made,)), vectors={made.id: Vectors([1, 0], [1, 0])})
    later = revised(made)
    save(store, later)
    assert store.dense([1, 0], projects=[""], limit=5) == [(later, 1.0)]


@pytest.mark.parametrize("vector", [[1.0], [1.0, 2.0, 3.0], [float("nan"), 0.0], [0.0, float("inf")]])
def test_a_vector_of_the_wrong_length_or_not_finite_is_refused(store: Store, vector: list[float]) -> None:
    store.adopt("mini", 2)
    made = procedure()
    for vectors in (Vectors(vector, [1, 0]), Vectors([1, 0], vector)):
        with pytest.raises(EmbedderError, match="all finite"):
            store.apply(Commit(op_id="o_1", procedures=(made,)), vectors={made.id: vectors})
    with pytest.raises(EmbedderError, match="The query"):
        store.dense(vector, projects=[""], limit=1)
    assert store.list_procedures() == []


def test_vectors_cannot_be_used_before_their_embedder_is_named(store: Store) -> None:
    with pytest.raises(EmbedderError, match="adopt"):
        store.dense([1.0], projects=[""], limit=1)


def test_a_memory_embedded_anew_takes_no_vectors_of_the_embedder_before(store: Store) -> None:
    store.adopt("mini", 2)
    made, other = procedure(), procedure("Other")
    save(store, made, other)
    Store.open(store.directory).reembed("maxi", 2, {made.id: Vectors([0, 1], [0, 1])})
    with pytest.raises(EmbedderError, match="embedded with 'maxi'"):
        store.set_vectors({made.id: Vectors([1, 0], [1, 0])})
    with pytest.raises(EmbedderError, match="embedded with 'maxi'"):
        store.dense([1, 0], projects=[""], limit=1)
    assert store.without_vectors() == [other]


def test_an_interrupted_re_embedding_is_noticed_and_done_again(store: Store) -> None:
    store.adopt("mini", 2)
    made = procedure()
    save(store, made)
    store._write_meta(store._meta().model_copy(update={"pending": "maxi"}))
    for act in (lambda: store.dense([1, 0], projects=[""], limit=1), lambda: store.adopt("mini", 2)):
        with pytest.raises(EmbedderError, match="rebuild --embed"):
            act()
    assert store.lexical("heated", projects=[""], limit=1)
    assert [p for p in store.check() if "interrupted" in p]
    store.reembed("maxi", 3, {made.id: Vectors([0, 1, 0], [0, 1, 0])})
    assert store.dense([0, 1, 0], projects=[""], limit=1) == [(made, 1.0)]
    assert store.check() == []


def test_two_processes_may_name_the_first_embedder_at_the_same_time(store: Store) -> None:
    names = ["mini", "maxi", "mini", "maxi"]
    barrier = threading.Barrier(len(names))

    def adopt(name: str) -> str:
        other = Store.open(store.directory)
        barrier.wait()
        try:
            other.adopt(name, 2)
        except EmbedderError:
            return "refused"
        return name

    with ThreadPoolExecutor(len(names)) as pool:
        outcomes = sorted(pool.map(adopt, names))
    assert store.embedder is not None
    assert outcomes == sorted([store.embedder[0]] * 2 + ["refused"] * 2)


# --- finding

ENGLISH = procedure("Repair failing tests of the parser in snake_case_name and foo.bar")
GERMAN = procedure("Verzeichnisse löschen und die Straße größer zeichnen")
RUSSIAN = procedure("Как удалить большой файл из каталога")
CHINESE = procedure("如何修复数据库连接超时错误 and restart nginx")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("repairing a test", ENGLISH),
        ("PARSERS", ENGLISH),
        ("case_name", ENGLISH),
        ("bar", ENGLISH),
        ("Ich möchte ein Verzeichnisse löschen", GERMAN),
        ("groesser größer", GERMAN),
        ("strasse Straße", GERMAN),
        ("удалить файл", RUSSIAN),
        ("ФАЙЛ", RUSSIAN),
        ("数据库", CHINESE),
        ("请修复超时", CHINESE),
        ("restarting NGINX", CHINESE),
    ],
)
def test_words_are_found_in_four_languages(languages: Store, words: str, found: Procedure) -> None:
    hits = languages.lexical(words, projects=[""], limit=5)
    assert hits[0][0] == found
    assert hits[0][1] > 0


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(tmp_path_factory.mktemp("languages"))
    save(store, ENGLISH, GERMAN, RUSSIAN, CHINESE)
    return store


@given(ANY_TEXT)
@settings(deadline=None, max_examples=60)
def test_any_text_can_be_searched_for(languages: Store, text: str) -> None:
    assert len(languages.lexical(text, projects=["", text], limit=5)) <= 4
    assert languages.similar_trajectories(text, succeeded=True, projects=[text], limit=5) == []


def test_errors_are_searched_in_pitfalls_only(store: Store) -> None:
    made = procedure("About timeouts", pitfalls=(Pitfall(text="Wait longer", error="psycopg.OperationalError"),))
    save(store, made)
    assert [p for p, _ in store.lexical("OperationalError", column="errors", projects=[""], limit=5)] == [made]
    assert store.lexical("timeouts", column="errors", projects=[""], limit=5) == []
    assert store.lexical("OperationalError", projects=[""], limit=5) == []


def test_the_retired_and_other_projects_are_not_found(store: Store) -> None:
    store.adopt("mini", 1)
    mine, shared, other = procedure(project="mine"), procedure(), procedure(project="other")
    retired = procedure(status="retired", project="mine")
    everything = (mine, shared, other, retired)
    vectors = {p.id: Vectors([1], [1]) for p in everything}
    store.apply(Commit(op_id="o_1", procedures=everything), vectors=vectors)
    visible = {mine.id, shared.id}
    scope = ["mine", ""]
    assert {p.id for p, _ in store.dense([1], projects=scope, limit=9)} == visible
    assert {p.id for p, _ in store.lexical("heated", projects=scope, limit=9)} == visible
    assert {p.id for p in store.sample(projects=scope, limit=9, seed=0)} == visible
    assert store.sample(projects=[], limit=9, seed=0) == []


def test_a_random_choice_is_the_same_for_the_same_seed(store: Store) -> None:
    save(store, *(procedure(f"Number {i}") for i in range(9)))
    choices = [store.sample(projects=[""], limit=3, seed=seed) for seed in (1, 1, 2)]
    assert choices[0] == choices[1] != choices[2]
    assert all(len(c) == 3 for c in choices)


def test_procedures_are_listed_the_latest_changed_first(store: Store) -> None:
    made = [procedure(f"{i}", created_at=START + timedelta(days=i), project="p" * (i % 2)) for i in range(5)]
    save(store, *made)
    assert store.list_procedures() == made[::-1]
    assert store.list_procedures(limit=2, offset=1) == [made[3], made[2]]
    assert store.list_procedures(project="p") == [made[3], made[1]]
    assert store.list_procedures(project="p", status="retired") == []


def test_similar_trajectories_are_those_known_to_have_ended_that_way(store: Store) -> None:
    won, lost = trajectory("Heat the mug", steps=[{"action": "a"}]), trajectory("Heat the mug", outcome="failure")
    unknown, elsewhere = trajectory("Heat the mug", outcome="unknown"), trajectory("Heat the mug", project="x")
    long = trajectory("word " * 2000 + "heat")
    commits = [Commit(op_id=t.id, trajectory=t) for t in (won, lost, unknown, elsewhere, long)]
    store.apply(*commits)
    assert store.similar_trajectories("heating mugs", succeeded=True, projects=[""], limit=9) == [won]
    assert store.similar_trajectories("heating mugs", succeeded=False, projects=[""], limit=9) == [lost]


def test_ids_are_completed_in_their_order(store: Store) -> None:
    told, _ = learnt(store)
    save(store, *(procedure(id=f"p_{i:012}") for i in (2, 1, 10)))
    assert store.ids_starting("p_00000000000", kind="procedure", limit=5) == ["p_000000000001", "p_000000000002"]
    assert store.ids_starting("t_", kind="trajectory", limit=5) == [told.id]
    assert store.ids_starting("%", kind="procedure", limit=5) == []


# --- indexes

SIZE = 60


@pytest.fixture
def indexed(tmp_path: Path) -> Store:
    """A memory with more procedures than it takes to have an index, and too many to hold their vectors."""
    store = Store.open(tmp_path / "indexed", indexed_from=SIZE // 2, max_floats=0)
    store.adopt("mini", 8)
    save_in_a_row(store, range(SIZE))
    return store


def save_in_a_row(store: Store, numbers: Iterable[int], **given: object) -> list[Procedure]:
    made = [procedure(f"Number {i}", id=f"p_{i:012}", **given) for i in numbers]
    vectors = {p.id: direction(i) for p, i in zip(made, numbers, strict=True)}
    store.apply(Commit(op_id=new_id("o"), procedures=tuple(made)), vectors=vectors)
    return made


def nearest(store: Store, number: int, **given: object) -> list[int]:
    # As many as there are, so that all are compared by their vectors: one bit a dimension says nothing of so few.
    scope = {"projects": [""], "limit": 2 * SIZE, **given}
    return [int(p.id.removeprefix("p_")) for p, _ in store.dense(direction(number).vector, **scope)]  # type: ignore[arg-type] # as the test gives them


def test_a_large_memory_finds_by_its_index_what_a_scan_finds(indexed: Store) -> None:
    assert {"vector", "phrases", "status", "project", "doc", "errors"} <= indexed._tables.indexed("procedures")
    assert {"version_id", "procedure_id", "op_id"} <= indexed._tables.indexed("procedure_versions")
    small = Store.open(indexed.directory.parent / "small")
    small.adopt("mini", 8)
    save_in_a_row(small, range(SIZE))
    assert "vector" not in small._tables.indexed("procedures")
    for number in (0, 17, SIZE - 1):
        assert nearest(indexed, number) == nearest(small, number)
    assert indexed.check() == []


def test_vectors_that_are_held_are_those_of_the_latest_commit_of_any_process(store: Store) -> None:
    store.adopt("mini", 8)
    save_in_a_row(store, range(9))
    assert nearest(store, 4)[0] == 4
    other = Store.open(store.directory)
    other.adopt("mini", 8)
    [late] = save_in_a_row(other, [50])
    assert nearest(store, 50)[0] == 50
    save(other, revised(late, status="retired"))
    other.forget("p_000000000004")
    assert nearest(store, 50) == [8, 7, 6, 5, 3, 2, 1, 0]


def test_words_find_the_same_whether_or_not_vectors_are_held(store: Store) -> None:
    def found(text: str) -> dict[str, tuple[int, float]]:
        return {p.id: (p.revision, score) for p, score in store.lexical(text, projects=[""], limit=20)}

    store.adopt("mini", 8)
    rows = save_in_a_row(store, range(9))
    without = found("number")
    nearest(store, 4)
    nearest(store, 4)  # now they are held
    assert store._resident.is_ready()
    assert found("number") == without

    other = Store.open(store.directory)
    save(other, revised(rows[4], title="Number four"))
    assert found("four")[rows[4].id][0] == 2
    unembedded = procedure("Number sixty")
    save(other, unembedded)
    nearest(store, 4)
    nearest(store, 4)
    assert store._resident.is_ready()
    assert found("sixty").keys() == {unembedded.id}
    assert found("number").keys() == {unembedded.id, *(p.id for p in rows)}


def test_what_came_after_the_index_is_found_too(indexed: Store) -> None:
    save_in_a_row(indexed, [100])
    assert indexed._tables._scanned("procedures")["vector"] == 1
    assert nearest(indexed, 100)[0] == 100


def test_a_memory_that_has_grown_by_half_without_its_index_brings_it_up_to_date(indexed: Store) -> None:
    save_in_a_row(indexed, range(SIZE, 2 * SIZE))
    assert indexed._tables._scanned("procedures")["vector"] == 0
    assert nearest(indexed, 2 * SIZE)[0] == 2 * SIZE - 1


def test_an_index_finds_neither_other_projects_nor_the_retired(indexed: Store) -> None:
    save_in_a_row(indexed, [200], project="mine")
    save_in_a_row(indexed, [201], project="other")
    save_in_a_row(indexed, [202], status="retired", project="mine")
    indexed.compact()
    assert nearest(indexed, 201, projects=["mine", ""])[:2] == [200, SIZE - 1]
    assert nearest(indexed, 201, projects=["mine"]) == [200]


def test_an_index_of_vectors_that_came_apart_does_not_keep_fragments_apart(indexed: Store) -> None:
    """Each time it is brought up to date it gets another segment, and fragments are merged within one alone."""
    for number in range(SIZE, SIZE + 45):
        save_in_a_row(indexed, [number])
        indexed._tables._table("procedures").optimize()
    assert indexed.size().fragments["procedures"] <= 33
    assert nearest(indexed, SIZE + 44)[0] == SIZE + 44


def test_a_memory_whose_vectors_are_held_has_no_index_of_them(tmp_path: Path) -> None:
    store = Store.open(tmp_path, indexed_from=SIZE // 2)
    store.adopt("mini", 8)
    save_in_a_row(store, range(SIZE))
    assert store._tables.indexed("procedures") == {"doc", "errors", "status", "project"}
    assert nearest(store, 17)[0] == 17


def test_a_memory_embedded_anew_has_a_new_index(indexed: Store) -> None:
    ids = [p.id for p in indexed.list_procedures()]
    indexed.reembed("maxi", 12, {i: direction(int(i.removeprefix("p_")), 12) for i in ids})
    assert indexed._tables._scanned("procedures")["vector"] == 0
    assert indexed.dense(direction(59, 12).vector, projects=[""], limit=1)[0][0].id == "p_000000000059"


def test_what_is_forgotten_is_in_no_index_any_more(indexed: Store) -> None:
    [secret] = save_in_a_row(indexed, [300], pitfalls=(Pitfall(text="Qzxsecretword"),))
    indexed.note(Event(kind="used", procedure_id=secret.id, counted_from=1))
    indexed.compact()
    assert files_with(indexed, secret.id)
    indexed.forget(secret.id)
    gone = {f.parts[len(indexed.directory.parts)] for f in files_with(indexed, secret.id)}
    assert gone == {"events.lance"}  # that it was forgotten
    assert files_with(indexed, "qzxsecretword") == []
    assert 300 not in nearest(indexed, 300)
    assert {"vector", "phrases", "status", "project"} <= indexed._tables.indexed("procedures")


def test_a_large_memory_without_an_embedder_has_no_index_of_vectors(tmp_path: Path) -> None:
    store = Store.open(tmp_path, indexed_from=3)
    save(store, *(procedure(f"Number {i}") for i in range(9)))
    assert store._tables.indexed("procedures") == {"doc", "errors", "status", "project"}
    store.adopt("mini", 8)
    save(store, procedure("without a vector"))
    assert "vector" not in store._tables.indexed("procedures")


def test_a_text_that_was_read_before_it_was_revised_elsewhere_is_read_again(indexed: Store) -> None:
    other = Store.open(indexed.directory)
    old = indexed.lexical("number 17", projects=[""], limit=1)[0][0]
    later = revised(old, title="Number 17, revised", created_at=START)
    save(other, later)
    assert indexed.lexical("number 17", projects=[""], limit=1)[0][0] == later


# --- events


def test_a_procedure_that_a_compaction_has_moved_is_found_where_it_is(indexed: Store) -> None:
    hits = indexed.worded("number 17", projects=[""], limit=3)
    other = Store.open(indexed.directory)
    save(other, procedure("another"))
    other.compact()
    indexed._read_lately = {}
    assert set(indexed.found(hits)) == {hit.id for hit in hits}


def test_counts_are_made_from_distinct_events_and_start_again_with_a_new_script(store: Store) -> None:
    def used(score: float | None, *, verified: bool = True, counted_from: int = 1, day: int = 0) -> Event:
        at = START + timedelta(days=day)
        return Event(kind="used", procedure_id="p_1", counted_from=counted_from, score=score, verified=verified, at=at)

    success = used(1.0, day=3)
    recalled = Event(kind="recalled", procedure_id="p_1", counted_from=1)
    ignored = Event(kind="evidence", procedure_id="p_1", counted_from=1)
    store.note(recalled, success, success, used(0.5, day=1), used(0.4), used(None), used(1.0, verified=False), ignored)
    store.note(success, used(0.0, counted_from=2))
    store.note()
    assert store.counts(["p_1", "p_2"]) == {
        "p_1": {
            1: Counts(recalled=1, uses=5, verified=4, successes=2, last_verified=START + timedelta(days=3)),
            2: Counts(uses=1, verified=1),
        },
        "p_2": {},
    }


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["note", "recall", "apply", "forget", "compact", "ask"]))))
@settings(deadline=None, max_examples=25)
def test_counts_that_a_process_holds_are_those_of_the_events_whoever_wrote_them(
    tmp_path_factory: pytest.TempPathFactory, happened: list[tuple[bool, str]]
) -> None:
    one = Store.open(tmp_path_factory.mktemp("counted"))
    other = Store.open(one.directory)
    for mine, what in [*happened, (True, "ask")]:
        store = one if mine else other
        event = Event(kind="used", procedure_id="p_1", counted_from=1, score=1.0, verified=True, at=START)
        match what:
            case "note":
                store.note(event, event)
            case "recall":
                store.note_recall(Event(kind="recalled", procedure_id="p_1", counted_from=1))
            case "apply":
                store.apply(Commit(op_id=new_id("o"), events=(event,)))
            case "forget":
                store.forget("p_1")
            case "compact":
                store.compact()
        fresh = Store.open(one.directory)
        assert one.counts(["p_1"]) == other.counts(["p_1"]) == fresh.counts(["p_1"])


def test_a_process_that_counts_more_events_than_it_holds_asks_the_table(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "many")
    store._tally = Tally(store._tables, max_events=2)
    for n in range(1, 5):
        store.note_recall(Event(kind="recalled", procedure_id="p_1", counted_from=1))
        assert store.counts(["p_1"])["p_1"][1].recalled == n


def waiting(store: Store) -> list[Path]:
    return sorted((store.directory / "waiting").iterdir())


def test_a_recall_that_waits_is_seen_by_others_and_taken_in_within_a_second(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "noted")
    event = Event(kind="recall", recall_id="r_1", at=START)
    store.note_recall(event)
    other = Store.open(store.directory)
    assert other.events() == other.events(recall_id="r_1") == list(other.all_events()) == [event]
    assert not other.events(recall_id="r_2")
    assert waiting(store)
    timer = store._taking_in
    assert timer is not None
    timer.join()
    assert (store._taking_in, waiting(store)) == (None, [])
    assert other.events() == list(other.all_events()) == [event]
    folder = str(store.directory / "events.lance" / "data")
    assert {f for f in store._tables._synced["events"] if f.startswith(folder)}


def test_a_recall_does_not_wait_for_those_who_write(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "noted")
    other = Store.open(store.directory, lock_timeout=0.01)
    event = Event(kind="recall", recall_id="r_1", at=START)
    with store._writing():
        other.note_recall(event)
        with pytest.raises(StoreBusy):
            other.note(event)
    assert other.events() == [event]


def test_whoever_writes_next_takes_in_what_a_dead_process_left(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "noted")
    left = Event(kind="recalled", procedure_id="p_1", counted_from=1)
    Waiting(store.directory).add(left)
    cut_off = store.directory / "waiting" / "e_1.jsonl"
    cut_off.write_bytes(b"")
    torn = store.directory / "waiting" / "e_2.jsonl"
    torn.write_bytes(b'{"kind": "rec')
    assert store.counts(["p_1"])["p_1"][1].recalled == 1
    store.note(Event(kind="forgotten"))
    assert waiting(store) == [torn], "a later program may be able to read it"
    assert store.counts(["p_1"])["p_1"][1].recalled == 1
    assert len(store.events()) == 2


def test_what_was_taken_in_by_one_who_died_before_saying_so_counts_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "noted")
    event = Event(kind="recalled", procedure_id="p_1", counted_from=1)
    store.note(event)
    Waiting(store.directory).add(event)
    assert store.counts(["p_1"])["p_1"][1].recalled == 1
    assert store.events() == list(store.all_events()) == [event]
    store.note(event)
    assert not waiting(store)
    assert store.counts(["p_1"])["p_1"][1].recalled == 1


def test_what_cannot_be_taken_in_goes_on_waiting_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(tmp_path / "noted")
    event = Event(kind="recall", recall_id="r_1", at=START)
    store.note_recall(event)
    timer = store._taking_in
    assert timer is not None
    moved = store.directory.rename(tmp_path / "moved")
    timer.join()
    assert "still waits" in caplog.text
    with pytest.raises(StoreDamaged, match="is gone"):
        store.note_recall(event)
    assert Store.open(moved).events() == [event]


def test_events_are_found_by_what_they_are_about_oldest_first(store: Store) -> None:
    late = Event(kind="recall", recall_id="r_1", at=START + timedelta(days=1))
    early = Event(kind="recalled", recall_id="r_1", procedure_id="p_1", at=START)
    store.note(late, early)
    assert store.events(recall_id="r_1") == [early, late]
    assert store.events(recall_id="r_1", kind="recall") == [late]
    assert store.events(procedure_id="p_1") == [early]
    assert list(store.all_events()) == [early, late]


# --- any text


@given(ANY_TEXT, ANY_TEXT)
@settings(deadline=None, max_examples=40)
def test_any_text_comes_back_as_it_was_stored(texts: Store, one: str, two: str) -> None:
    told = Trajectory(
        task="x" + one,
        steps=(Step(action="y" + two, observation=one, thought=two),),
        reward=Reward(score=0.5, reason=one, judged_by="user" + two, verified=True, feedback=(one, two)),
        feedback=two,
        project=one,
        client=two,
        key=one,
    )
    made = procedure("t" + one, when_to_use=two, pitfalls=(Pitfall(text="p" + one, error=two),), project=one, check=two)
    event = Event(kind="recall", detail=one, client=two, project=one)
    texts.apply(Commit(op_id=new_id("o") + one, trajectory=told, procedures=(made,), events=(event,)))
    stored = texts.trajectory(told.id)
    assert stored is not None
    assert stored.model_copy(update={"created_at": told.created_at}) == told
    assert texts.procedure(made.id) == made
    assert texts.history(made.id) == [made]
    assert event in texts.events(kind="recall")


@given(ANY_TEXT, ANY_TEXT)
@settings(deadline=None, max_examples=40)
def test_no_text_gets_out_of_a_filter(texts: Store, one: str, two: str) -> None:
    mine, other = (Event(kind="recall", recall_id=i, procedure_id=new_id("p")) for i in (clean(one), clean(two)))
    texts.note(mine, other)
    found = texts.events(recall_id=one)
    assert mine in found
    assert {e.recall_id for e in found} == {clean(one)}
    assert texts.counts([one]) == {one: {}}
    assert texts.procedures([one, two]) == {}
    assert {p.project for p in texts.list_procedures(project=two)} <= {clean(two)}
    assert texts.ids_starting("p_" + one, kind="procedure", limit=1) == [] or not one.strip("0123456789abcdef")


def clean(text: str) -> str:
    return str(storable(text))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("texts"))


# --- any order


class AnyOrder(RuleBasedStateMachine):
    """A memory and what a person would expect of it, walked through any order of acts."""

    procedures = Bundle("procedures")

    def __init__(self, directory: Path, limits: dict[str, Any]) -> None:
        super().__init__()
        self.directory, self.limits = directory / new_id("m"), limits
        self.reopen()
        self.expected: dict[str, list[Procedure]] = {}
        self.told: dict[str, Trajectory] = {}
        self.uses: dict[str, int] = {}

    @rule(target=procedures, text=ANY_TEXT)
    def learn(self, text: str) -> str:
        """Record a trajectory that becomes a procedure; the second try changes nothing."""
        told, made = trajectory("x" + text, key=new_id("k")), procedure("x" + text)
        vectors = {made.id: direction(len(self.told))}
        assert self.store.apply(Commit(op_id=told.id, trajectory=told, procedures=(made,)), vectors=vectors) == [True]
        assert self.store.apply(Commit(op_id=told.id, trajectory=told, procedures=(made,))) == [False]
        self.expected[made.id] = [made]
        self.told[told.id] = told
        return made.id

    @rule(of=procedures, status=st.sampled_from(["active", "retired"]))
    def revise(self, of: str, status: str) -> None:
        """Change, retire or restore."""
        later = revised(self.expected[of][-1], status=status)
        save(self.store, later)
        self.expected[of].append(later)

    @rule(of=procedures)
    def revise_too_late(self, of: str) -> None:
        """Decide on a revision that is no longer the current one."""
        with pytest.raises(StaleRevision):
            save(self.store, self.expected[of][-1])

    @rule(of=procedures)
    def die_between_history_and_current_row(self, of: str) -> None:
        """Crash, and come back."""
        later = revised(self.expected[of][-1], title="After a crash")
        die_after(self.store, Commit(op_id=new_id("o"), procedures=(later,)), "procedure_versions")
        self.expected[of].append(later)
        self.reopen()

    @rule(of=procedures)
    def use(self, of: str) -> None:
        """Count once what is said twice."""
        event = Event(kind="used", procedure_id=of, counted_from=1)
        self.store.note(event)
        self.store.note(event)
        self.uses[of] = self.uses.get(of, 0) + 1

    @rule(of=consumes(procedures))
    def forget(self, of: str) -> None:
        """Remove for good."""
        self.store.forget(of)
        del self.expected[of]
        self.uses.pop(of, None)

    @rule()
    def compact(self) -> None:
        """Merge the files."""
        self.store.compact()

    @rule()
    def reopen(self) -> None:
        """Start another process."""
        self.store = Store.open(self.directory, **self.limits)
        self.store.adopt("mini", 8)

    @rule()
    def rebuild(self) -> None:
        """Make the current rows anew."""
        assert self.store.rebuild_current() == len(self.expected)

    @invariant()
    def everything_is_as_expected(self) -> None:
        """What is read is what was written."""
        current = {i: history[-1] for i, history in self.expected.items()}
        assert self.store.procedures(self.expected.keys()) == current
        assert {p.id for p in self.store.all_revisions()} == current.keys()
        assert all(self.store.history(i) == history for i, history in self.expected.items())
        counts = self.store.counts(self.expected.keys())
        assert {i: c[1].uses for i, c in counts.items() if c} == self.uses
        assert {t.id for t in self.store.all_trajectories()} == self.told.keys()
        visible = {i: p for i, p in current.items() if p.status != "retired"}
        assert dict(found(self.store.lexical("something heated", projects=[""], limit=99))) == visible
        for column in METRICS:
            near = self.store.dense(direction(0).vector, column=column, projects=[""], limit=99)
            assert dict(found(near)) == visible


def found(hits: Sequence[tuple[Procedure, float]]) -> list[tuple[str, Procedure]]:
    return [(p.id, p) for p, _ in hits]


def direction(number: int, dimension: int = 8) -> Vectors:
    """A unit vector that leans a little further from the first axis the higher the number."""
    vector = [math.cos(number / 100)] + [math.sin(number / 100) / math.sqrt(dimension - 1)] * (dimension - 1)
    return Vectors(vector, vector)


@pytest.mark.parametrize("limits", [{}, {"indexed_from": 1, "max_floats": 0}], ids=["small", "large"])
def test_any_order_of_acts_keeps_the_memory_sound(tmp_path: Path, limits: dict[str, Any]) -> None:
    run_state_machine_as_test(
        lambda: AnyOrder(tmp_path, limits),  # type: ignore[arg-type] # any callable that makes one will do
        settings=settings(deadline=None, max_examples=6, stateful_step_count=15),
    )


# --- forgetting


def test_what_is_forgotten_is_in_no_file_any_more(store: Store) -> None:
    secret, evidence = (
        procedure("Qzxsecretword", pitfalls=(Pitfall(text="Qzxsecretword"),)),
        trajectory("Qzxsecretword"),
    )
    store.apply(Commit(op_id=evidence.id, trajectory=evidence, procedures=(secret,)))
    for i in range(30):  # a file in which little is deleted is not rewritten by compaction alone
        save(store, procedure(f"Number {i}"))
    store.compact()
    assert files_with(store, "Qzxsecretword")
    store.forget(secret.id, evidence=[evidence.id])
    assert files_with(store, "qzxsecretword") == files_with(store, "Qzxsecretword") == []
    assert store.procedure(secret.id) is None
    assert store.trajectory(evidence.id) is None
    assert store.history(secret.id) == []
    assert [e.kind for e in store.events(procedure_id=secret.id)] == ["forgotten"]
    assert len(store.list_procedures()) == 30
    assert store.check() == []


def files_with(store: Store, text: str) -> list[Path]:
    return [p for p in store.directory.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_a_forgotten_trajectory_can_be_recorded_again(store: Store) -> None:
    told, made = learnt(store)
    other, _ = learnt(store, "Another task")
    store.forget(made.id, evidence=[told.id])
    assert store.stored([told.id, other.id]) == {other.id}
    assert store.apply(Commit(op_id=told.id, trajectory=told)) == [True]
    assert store.stored([told.id]) == {told.id}


def test_forgetting_that_died_half_way_is_finished_by_forgetting_again(store: Store) -> None:
    _, made = learnt(store)
    store._tables.delete("procedure_versions", "true")
    again = Store.open(store.directory)
    assert [p for p in again.check() if "no history" in p]
    assert again.procedure(made.id) == made
    again.forget(made.id)
    assert again.check() == []


# --- in bulk


def test_an_export_taken_in_is_the_same_memory_and_nothing_twice(store: Store, tmp_path: Path) -> None:
    for i in range(3):
        _, made = learnt(store, f"Task {i}")
        save(store, revised(made, created_at=made.created_at - timedelta(days=1)))
    copy = Store.open(tmp_path / "copy")
    for taken in ("first", "again"):
        result = copy.merge_in(store.all_trajectories(), store.all_revisions(), store.all_events())
        counted = (result.trajectories, result.revisions, result.events)
        assert (counted, result.kept) == (((3, 6, 9), 0) if taken == "first" else ((0, 0, 0), 18))
    assert list(copy.all_trajectories()) == list(store.all_trajectories())
    assert list(copy.all_revisions()) == list(store.all_revisions())
    assert list(copy.all_events()) == list(store.all_events())
    assert copy.list_procedures() == store.list_procedures()
    assert copy.check() == []


def test_another_history_under_the_same_id_is_not_mixed_with_ours(store: Store, tmp_path: Path) -> None:
    ours, longer = procedure(), procedure("Ours, and known further there")
    save(store, ours, longer)
    save(store, revised(ours, title="As we revised it"))
    theirs = [ours, revised(ours, title="As they did"), revised(revised(ours))]
    further = [longer, revised(longer)]
    result = store.merge_in([], [*theirs, *further], [])
    assert (result.revisions, result.kept, result.conflicts) == (1, 4, (ours.id,))
    assert [p.title for p in store.history(ours.id)] == [ours.title, "As we revised it"]
    assert store.procedure(longer.id) == further[-1]


def test_everything_is_streamed_oldest_first_however_much_it_is(store: Store) -> None:
    told = [trajectory(f"Task {i}", created_at=START - timedelta(days=i)) for i in range(70)]
    store.apply(*(Commit(op_id=t.id, trajectory=t) for t in told))
    assert list(store.all_trajectories()) == told[::-1]


def test_current_rows_are_made_anew_from_the_history(store: Store) -> None:
    store.adopt("mini", 1)
    first, second, gone = procedure(), procedure("Second"), procedure("Gone")
    vectors = {p.id: Vectors([1], [1]) for p in (first, second)}
    store.apply(Commit(op_id="o_1", procedures=(first, second, gone)), vectors=vectors)
    store._tables.delete("procedure_versions", f"procedure_id = '{gone.id}'")
    die_after(store, Commit(op_id="o_2", procedures=(revised(second),)), "procedure_versions")
    assert store.rebuild_current() == 2
    assert store.procedures([first.id, second.id, gone.id]) == {first.id: first, second.id: revised(second)}
    assert [p.id for p in store.without_vectors()] == [second.id]


@pytest.mark.parametrize("embedded", [True, False])
def test_an_unreadable_table_of_current_rows_is_made_anew(store: Store, *, embedded: bool) -> None:
    if embedded:
        store.adopt("mini", 1)
    _, made = learnt(store)
    break_table(store, "procedures")
    salvaged = Store.open(store.directory, salvage=True)
    assert [p for p in salvaged.check() if "procedures cannot be read" in p and "memp-mcp repair" in p]
    assert salvaged.rebuild_current() == 1
    again = Store.open(store.directory)
    assert again.procedure(made.id) == made
    assert again.lexical("heated", projects=[""], limit=1)
    assert again.without_vectors() == [made]


# --- upkeep


def test_the_cost_of_a_memory_does_not_grow_with_the_number_of_its_commits(store: Store) -> None:
    made = procedure()
    save(store, made)
    for i in range(120):
        store.note(Event(kind="used", procedure_id=made.id, counted_from=1, detail=str(i)))
    for manifest in (store.directory / "events.lance" / "_versions").glob("*.manifest"):
        os.utime(manifest, (0, 0))  # an hour later, as far as the store can tell
    store.note(Event(kind="recall"))
    size = store.size()
    assert size.rows["events"] == 122
    assert size.fragments["events"] <= 33
    assert size.bytes < 2_000_000
    assert store.counts([made.id])[made.id][1].uses == 120


def test_an_explicit_compaction_leaves_one_version_of_each_table(store: Store) -> None:
    for i in range(3):
        learnt(store, f"Task {i}")
    store.compact()
    size = store.size()
    assert set(size.versions.values()) == {1}
    assert set(size.fragments.values()) == {1}
    assert store.check() == []


def test_duplicates_and_lost_indexes_are_reported_with_their_mending(store: Store) -> None:
    told, made = learnt(store)
    table = store._tables._table("procedures")
    table.add(table.search().to_arrow())
    table.drop_index("doc_idx")
    assert store.check() == ["The indexes of procedures on doc cannot be used. Run `memp-mcp repair`."]
    store.compact()
    assert store.check() == [f"1 ids are in procedures more than once, such as {made.id}. Run `memp-mcp repair`."]
    assert store.rebuild_current() == 1
    assert store.check() == []
    events = store._tables._table("events")
    events.add(events.search().to_arrow())
    assert "in events more than once" in "\n".join(store.check())
    assert store.stored([told.id]) == {told.id}


def test_a_destroyed_index_is_reported_and_rebuilt(store: Store) -> None:
    learnt(store)
    for file in (store.directory / "trajectories.lance" / "_indices").rglob("*.lance"):
        file.write_bytes(b"")
    again = Store.open(store.directory)
    assert any("trajectories on task cannot be used" in p for p in again.check())
    again.compact()
    assert again.check() == []


# --- the disk


@contextmanager
def mounted(target: Path, *options: str, read_only: bool = False) -> Iterator[None]:
    """Mount something, or skip with the reason."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", *options, str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(target)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


def test_a_full_disk_is_said_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        store = Store.open(tmp_path / "memory")
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(2_000_000))
        told: list[Trajectory] = []
        with pytest.raises(StoreFull, match="Free some space"):
            write_until_it_fails(store, told)
        assert told
        assert store.stored([t.id for t in told]) == {t.id for t in told}
        ballast.unlink()
        again = Store.open(tmp_path / "memory")
        assert save(again, procedure("Once more")) == [True]
        assert len(again.stored([t.id for t in told])) == len(told)


def write_until_it_fails(store: Store, acknowledged: list[Trajectory]) -> None:
    for i in range(500):
        one = trajectory(f"Task {i}", feedback=os.urandom(20_000).hex())
        store.apply(Commit(op_id=one.id, trajectory=one, procedures=(procedure(f"{i}"),)))
        acknowledged.append(one)


def test_a_read_only_directory_is_read_and_a_write_says_what_is_wrong(store: Store) -> None:
    told, made = learnt(store)
    with mounted(store.directory, "--bind", str(store.directory), read_only=True):
        again = Store.open(store.directory)
        assert again.trajectory(told.id) == told
        assert [p for p, _ in again.lexical("heated", projects=[""], limit=1)] == [made]
        with pytest.raises(StoreFull, match="MEMP_HOME"):
            save(again, procedure())
        with pytest.raises(StoreFull, match="MEMP_HOME"):
            Store.open(store.directory / "new")


FILE_LIMIT = """
import resource, sys
from pathlib import Path
from memp_mcp.errors import StoreFull
from memp_mcp.models import Commit, Step, Trajectory
from memp_mcp.store import Store
import os
store = Store.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
t = Trajectory(task="Too large", steps=(Step(action="x", observation=os.urandom(200_000).hex()),))
try:
    store.apply(Commit(op_id=t.id, trajectory=t))
except StoreFull as error:
    print("StoreFull", error)
"""


@pytest.mark.usefixtures("unmeasured")
def test_a_limit_on_file_sizes_counts_as_a_full_disk(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(store.directory)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("StoreFull"), done
    assert store.check() == []


QUIET = """
import sys
from pathlib import Path
from memp_mcp.models import Commit, Event, Procedure
from memp_mcp.store import Store, Vectors
store = Store.open(Path(sys.argv[1]))
store.adopt("mini", 2)
p = Procedure(title="Heat", when_to_use="to heat")
store.apply(Commit(op_id="o", procedures=(p,)), vectors={p.id: Vectors([1, 0], [1, 0])})
store.note(*(Event(kind="used", procedure_id=p.id) for _ in range(3)))
store.lexical("heat", projects=[""], limit=3)
store.dense([1, 0], projects=[""], limit=3)
store.forget(p.id)
store.compact()
assert store.check() == []
"""


def test_nothing_is_written_to_stdout_or_stderr(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", QUIET, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_compaction_that_fails_does_not_fail_the_write(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    class Unlucky(Tables):
        def _ragged(self, name: TableName) -> bool:  # noqa: ARG002 - as in the parent
            return True

        def _compact(self, name: TableName, keep: timedelta) -> None:  # noqa: ARG002 - as in the parent
            raise RuntimeError("lance error: No space left on device (os error 28)")

    store._tables = Unlucky(store.directory)
    assert save(store, procedure()) == [True]
    assert "Could not compact" in caplog.text


ENDS_IN_A_WRITE = """
import sys
import threading
from pathlib import Path
from memp_mcp import store
from memp_mcp.models import Event
from memp_mcp.tables import Tables
begun, add = threading.Event(), Tables.add
def add_and_tell(self, name, rows):
    begun.set()
    add(self, name, rows)
memory = store.Store.open(Path(sys.argv[1]))
Tables.add, store.TAKEN_IN_AFTER = add_and_tell, 0
memory.note_recall(Event(kind="recalled", procedure_id="p_1", counted_from=1))
assert begun.wait(60)
"""


def test_a_process_that_ends_while_recalls_are_taken_in_ends_well(tmp_path: Path) -> None:
    for _ in range(4):  # where it does not, one in three is aborted
        command = [sys.executable, "-c", ENDS_IN_A_WRITE, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert Store.open(tmp_path).counts(["p_1"])["p_1"][1].recalled == 4
