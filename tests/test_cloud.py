"""The memory in a database of LanceDB Cloud, by a stand-in: what only its client does, and answers that are lost.

What a memory does in a bucket, it does there too: see test_bucket.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from bucket_writer import SHARED, start
from builders import lost, procedure, won
from cloud_stand_in import Cloud
from fakes import NoEmbedder

from memp_mcp.bucket import BucketStore
from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import StoreError
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Event
from memp_mcp.reflect import Report
from memp_mcp.rows import SCHEMAS
from memp_mcp.settings import DEFAULT_EMBEDDER, Settings


def opened(cloud: Cloud, home: Path) -> BucketStore:
    return BucketStore.connect(cloud.uri, home, lock_timeout=30)


def commit(op_id: str) -> Commit:
    event = Event(kind="evidence", procedure_id=procedure().id)
    return Commit(op_id=op_id, trajectory=won(op_id, "do it"), procedures=(procedure(op_id),), events=(event,))


def rows(store: BucketStore) -> dict[str, int]:
    return store.size().rows


def test_a_failure_is_corrected_and_found_by_meaning_and_by_words(
    cloud: Cloud, tmp_path: Path, embedder: BackgroundEmbedder
) -> None:
    settings = Settings(home=tmp_path / "home", store=cloud.uri)
    memory = Memory.open(settings, embedder=embedder)
    memory.record(won("polish the brass lamp", "take the cloth", "rub the lamp"))
    recall = memory.recall("make the lamp of brass shine")
    [found] = recall.matches
    failed = memory.record(
        lost("polish the brass lamp", "take the cloth", ("rub the lamp", "error: it is wet"), recall_id=recall.id)
    )
    memory.reflect(Report(error="it is wet", trajectory_id=failed.trajectory_id, correction="+s1: dry the lamp"))

    by_words = Memory.open(settings, embedder=NoEmbedder(DEFAULT_EMBEDDER)).recall("polish a brass lamp")

    assert recall.found == "hybrid"
    assert by_words.found == "lexical"
    assert [m.procedure.id for m in by_words.matches] == [found.procedure.id]
    assert "dry the lamp" in [s.text for s in by_words.matches[0].procedure.script]
    assert memory.stats().procedures
    assert memory.store.check() == []


def test_a_large_table_gets_its_indexes_and_the_service_does_the_rest(cloud: Cloud, tmp_path: Path) -> None:
    store = opened(cloud, tmp_path)
    store._tables._indexed_from = 10
    for number in range(16):
        store.apply(commit(str(number)))

    assert store._tables.indexed("procedure_versions") == {"version_id", "procedure_id", "op_id"}
    assert store._tables.indexed("procedures") == {"doc", "errors", "status", "project"}
    store.compact()  # neither warns that the client does nothing there
    store.erase()
    assert store.check() == []


@pytest.mark.parametrize("status", [409, 429, 503])
def test_a_write_that_is_turned_away_once_is_sent_again(cloud: Cloud, tmp_path: Path, status: int) -> None:
    store = opened(cloud, tmp_path)
    cloud.fail("procedure_versions/*insert", status)

    store.apply(commit("x"))

    assert rows(store) == {"trajectories": 1, "procedure_versions": 1, "procedures": 1, "events": 2}
    assert store.check() == []


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_write_that_was_done_and_not_answered_is_done_once(cloud: Cloud, tmp_path: Path, table: str) -> None:
    store = opened(cloud, tmp_path)
    cloud.fail(f"{table}/*insert", 500, done=True)

    store.apply(commit("x"))

    assert rows(store) == {"trajectories": 1, "procedure_versions": 1, "procedures": 1, "events": 2}
    assert store.check() == []


def test_a_recall_whose_note_was_not_answered_is_noted_once(cloud: Cloud, tmp_path: Path) -> None:
    store = opened(cloud, tmp_path)
    cloud.fail("events/*insert", 504, done=True)

    store.note_recall(Event(kind="recall", recall_id="r_1"), Event(kind="recalled", recall_id="r_1"))

    assert Counter(e.kind for e in store.all_events()) == {"recall": 1, "recalled": 1}
    assert rows(store)["events"] == 2


def test_a_turn_that_was_taken_and_not_answered_is_one_s_own(cloud: Cloud, tmp_path: Path) -> None:
    store = opened(cloud, tmp_path)
    for number in range(3):  # where it is taken, given back, and taken again by another
        cloud.fail("control/update", 500, done=True)
        store.apply(commit(str(number)))
    with store._writing():
        store._tables.lease._renewed -= 60
        cloud.fail("control/update", 500, done=True)
        store._tables.lease.renew()

    other = opened(cloud, tmp_path / "other")
    other.apply(commit("other"))

    assert rows(other)["procedure_versions"] == 4
    assert other.check() == []


@pytest.mark.parametrize(
    ("table", "done"),
    [
        ("trajectories", True),
        ("procedure_versions", False),
        ("procedure_versions", True),
        ("procedures", False),
        ("events", True),
    ],
)
def test_a_service_that_stays_away_is_told_of_and_the_same_again_finishes_what_was_begun(
    cloud: Cloud, tmp_path: Path, table: str, *, done: bool
) -> None:
    store = opened(cloud, tmp_path)
    once = commit("x")
    cloud.fail(f"{table}/*insert", 503, times=3, done=done)
    with pytest.raises(StoreError, match=r"503 Service Unavailable[\s\S]*try again"):
        store.apply(once)

    store.apply(once)

    assert rows(store) == {"trajectories": 1, "procedure_versions": 1, "procedures": 1, "events": 2}
    assert store.check() == []


@pytest.mark.parametrize(
    ("table", "done"), [("control", False), ("control", True), ("trajectories", True), ("events", False)]
)
def test_a_database_that_was_begun_is_finished_by_who_opens_it_next(
    cloud: Cloud, tmp_path: Path, table: str, *, done: bool
) -> None:
    cloud.fail(f"{table}/create", 500, done=done)
    if table != "control" or not done:  # a table of turns that is there will do
        with pytest.raises(StoreError, match="LANCEDB_API_KEY"):
            opened(cloud, tmp_path / "a")

    store = opened(cloud, tmp_path / "b")
    store.apply(commit("x"))

    assert store.check() == []


def test_four_processes_lose_nothing_while_every_tenth_answer_is_an_error(cloud: Cloud, tmp_path: Path) -> None:
    """Half of what is answered so was done; a process that is refused calls again, as its caller is told to."""
    names = ("a", "b", "c", "d")
    cloud.fail_each = 10
    writers = [start(cloud.uri, tmp_path, name, 1, "--again") for name in names]
    acknowledged = [line for writer in writers for line in writer.communicate(timeout=300)[0].split()]
    cloud.fail_each = 0
    store = opened(cloud, tmp_path / "reader")

    assert len(acknowledged) == 4
    assert Counter(p.title for p in store.history(SHARED)) == {f"by {name}": 1 for name in names}
    assert rows(store) == {"trajectories": 4, "procedure_versions": 4, "procedures": 1, "events": 12}
    assert all(store.applied(op_id) for op_id in acknowledged)
    assert store.check() == []


def test_a_wrong_key_is_refused_with_where_to_look(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANCEDB_API_KEY", "sk_of_somebody_else")
    with pytest.raises(StoreError, match=r"401[\s\S]*LANCEDB_API_KEY"):
        opened(cloud, tmp_path)

    monkeypatch.delenv("LANCEDB_API_KEY")
    with pytest.raises(StoreError, match=r"api_key is required[\s\S]*LANCEDB_API_KEY"):
        opened(cloud, tmp_path)
