"""A damaged memory: what is wrong is found, what can be mended is mended, and nothing is destroyed by it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import procedure, won
from conftest import OpenMemory
from fakes import NoEmbedder

from memp_mcp.archive import export, import_files
from memp_mcp.backup import PATTERN, backup
from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import BadInput, StoreDamaged, StoreNewer
from memp_mcp.lookup import NO_WORDS
from memp_mcp.memory import Memory
from memp_mcp.models import Commit
from memp_mcp.reflect import Report
from memp_mcp.repair import Repaired, problems, repair
from memp_mcp.rows import TableName
from memp_mcp.settings import Settings
from memp_mcp.store import Store

TASKS = [f"{verb} the {thing}" for verb in ("publish", "water", "paint") for thing in ("shop", "garden")]


@pytest.fixture
def lived(open_memory: OpenMemory, tmp_path: Path, embedder: BackgroundEmbedder) -> Memory:
    """A memory with all indexes, which has been recorded and recalled."""
    store = Store.open(tmp_path / "memory", indexed_from=3, max_floats=0)
    return used(Memory(store, embedder, Settings(home=tmp_path / "memory")))


def used(memory: Memory) -> Memory:
    for task in TASKS:
        memory.record(won(task, f"go and {task}", "check it"))
    recall = memory.recall(TASKS[0])
    memory.record(won(f"{TASKS[0]} again", "go", recall_id=recall.id))
    return memory


def salvaged(memory: Memory) -> Memory:
    """The same memory as another process opens it for repair."""
    store = Store.open(memory.store.directory, salvage=True, indexed_from=3, max_floats=0)
    return Memory(store, memory.vectorizer.background, memory.settings)


def mended(memory: Memory) -> Repaired:
    """What another process does that repairs it."""
    return repair(memory.settings, embedder=memory.vectorizer.background)


def contents(memory: Memory) -> list[str]:
    return sorted(list(export(memory))[1:])


def files(memory: Memory, name: TableName, folder: str) -> list[Path]:
    """The table's files there, the oldest first."""
    found = (memory.store.directory / f"{name}.lance" / folder).rglob("*")
    return sorted((f for f in found if f.is_file()), key=lambda f: f.stat().st_mtime_ns)


def all_bytes(folder: Path) -> set[bytes]:
    return {f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_sound_memory_is_left_as_it_is(lived: Memory) -> None:
    before = contents(lived)

    repaired = mended(lived)

    assert (repaired.done, repaired.left) == ((), ())
    assert contents(lived) == before
    assert not (lived.store.directory / "damaged").exists()


@pytest.mark.parametrize("name", ["events", "procedures", "procedure_versions", "trajectories"])
def test_broken_indexes_are_found_and_built_anew_and_the_export_does_without_them(
    lived: Memory, name: TableName
) -> None:
    before = contents(lived)
    for file in files(lived, name, "_indices"):
        file.write_bytes(b"")

    assert contents(salvaged(lived)) == before
    assert all("memp-mcp repair" in p and name in p for p in salvaged(lived).store.check())
    repaired = mended(lived)

    assert ["nothing was lost" in line for line in repaired.done] == [True]
    assert repaired.left == ()
    assert contents(lived) == before
    assert salvaged(lived).recall(TASKS[1]).matches


def test_without_its_full_text_a_memory_is_searched_by_meaning_and_says_so(open_memory: OpenMemory) -> None:
    memory = used(open_memory())
    for file in files(memory, "procedures", "_indices"):
        file.unlink()

    recall = open_memory().recall(TASKS[1])

    assert recall.matches
    assert "by meaning alone" in recall.reason
    assert "memp-mcp repair" in recall.reason
    with pytest.raises(StoreDamaged, match="memp-mcp repair"):
        open_memory(background=NoEmbedder("none"), recall_wait=0.0).recall(TASKS[1])


def test_without_its_full_text_a_memory_goes_on_learning_and_says_what_it_could_not_look_up(
    open_memory: OpenMemory, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = used(open_memory())
    for name in ("procedures", "trajectories"):
        for file in files(memory, name, "_indices"):
            file.write_bytes(b"no index")
    other = open_memory()

    recorded = other.record(won("boil the eggs", "boil"))
    reflection = other.reflect(Report(task="feed the cat", error="no cat", correction="call the cat"))

    assert recorded.notes == (NO_WORDS,)
    assert reflection.notes == (NO_WORDS,)
    assert other.recall("boil the eggs").matches[0].procedure.id == recorded.changes[0].procedure.id
    assert "WARN" not in capfd.readouterr().err, "LanceDB says it a dozen times"


def test_an_error_does_not_tell_where_in_the_source_of_lancedb_it_was_raised(open_memory: OpenMemory) -> None:
    memory = used(open_memory())
    for file in files(memory, "events", "data"):
        file.write_bytes(b"no data")

    with pytest.raises(StoreDamaged) as caught:
        list(open_memory().store.all_events())

    assert "cannot be read: " in str(caught.value)
    assert ".rs:" not in str(caught.value)


@pytest.mark.parametrize("name", ["events", "procedures", "procedure_versions", "trajectories"])
def test_a_version_that_cannot_be_opened_is_set_aside_for_the_one_before(lived: Memory, name: TableName) -> None:
    before = set(contents(lived))
    latest = lived.store._tables.manifests(name)[0]
    latest.write_bytes(b"torn")

    with pytest.raises(StoreDamaged, match="memp-mcp doctor"):
        Store.open(lived.store.directory)
    repaired = mended(lived)

    assert "could not be opened" in repaired.done[0]
    assert repaired.left == ()
    assert len(before - set(contents(salvaged(lived)))) <= 3  # at most what the last commit wrote
    assert b"torn" in all_bytes(lived.store.directory / "damaged")


@pytest.mark.parametrize("name", ["events", "procedures", "procedure_versions", "trajectories"])
def test_rows_of_an_unreadable_file_come_back_from_where_else_they_are(lived: Memory, name: TableName) -> None:
    """A compaction has written them to one file; the versions before it still have them in theirs."""
    before = set(contents(lived))
    for _ in range(2):  # the first one brings the indexes up to date, which fragments must be to be merged
        lived.store._tables._table(name).optimize()
    files(lived, name, "data")[-1].write_bytes(b"torn")

    assert any(name in p and "cannot be read" in p for p in salvaged(lived).store.check())
    repaired = mended(lived)

    assert repaired.left == ()
    assert set(contents(salvaged(lived))) == before
    assert b"torn" in all_bytes(lived.store.directory / "damaged")
    assert [m.procedure.title for m in salvaged(lived).recall(TASKS[1]).matches][:1] == [TASKS[1]]


def test_what_is_in_no_other_file_is_lost_and_said_to_be(memory: Memory) -> None:
    kept, lost = (memory.record(won(task, f"go and {task}")).trajectory_id for task in TASKS[:2])
    files(memory, "trajectories", "data")[-1].write_bytes(b"torn")

    repaired = mended(memory)

    assert "1 of 2 rows are lost" in repaired.done[0]
    assert salvaged(memory).store.trajectories([kept, lost]).keys() == {kept}


def test_a_file_at_which_lancedb_panics_is_found_and_mended_as_any_other(memory: Memory) -> None:
    for task in TASKS:
        memory.record(won(task, f"go and {task}", "check it"))
    memory.store.compact()
    [torn] = files(memory, "trajectories", "data")
    content = bytearray(torn.read_bytes())
    content[content.index(b'\0{"task"') - 6] += 16  # in the length of a text
    torn.write_bytes(content)

    assert any("trajectories cannot be read" in p and "panicked" in p for p in salvaged(memory).store.check())
    with pytest.raises(StoreDamaged, match="memp-mcp repair"):
        list(salvaged(memory).store.all_trajectories())
    assert "6 of 6 rows are lost" in mended(memory).done[0]
    assert salvaged(memory).store.check() == []


def test_a_lost_history_begins_again_with_what_is_current(lived: Memory) -> None:
    current = {p.id: p for p in lived.list_procedures()}
    lived.store.compact()
    [only] = files(lived, "procedure_versions", "data")
    only.write_bytes(b"torn")

    repaired = mended(lived)

    assert any("current revision in it again" in line for line in repaired.done)
    assert repaired.left == ()
    assert {p.id: p for p in salvaged(lived).list_procedures()} == current
    assert all(salvaged(lived).history(i) == [p] for i, p in current.items())


def test_a_table_of_which_no_version_can_be_opened_is_left_for_somebody_who_knows_better(lived: Memory) -> None:
    for manifest in lived.store._tables.manifests("events"):
        manifest.write_bytes(b"torn")
    before = sorted(f.name for f in files(lived, "events", "_versions"))

    repaired = mended(lived)

    [left] = repaired.left
    assert "events cannot be read" in left
    assert "memp-mcp repair" not in left
    assert "memp-mcp export" in left
    assert sorted(f.name for f in files(lived, "events", "_versions")) == before


def test_where_procedures_and_their_history_are_gone_the_trajectories_are_left(lived: Memory) -> None:
    kept = {t.id for t in lived.store.all_trajectories()}
    for name in ("procedures", "procedure_versions"):
        shutil.rmtree(lived.store.directory / f"{name}.lance")

    repaired = mended(lived)

    memory = Memory.open(lived.settings, embedder=lived.vectorizer.background)
    assert repaired.left == ()
    assert {t.id for t in memory.store.all_trajectories()} == kept
    assert memory.record(won("mow the lawn", "go and mow")).changes


@pytest.mark.parametrize("name", ["events", "procedures", "procedure_versions", "trajectories"])
def test_a_table_that_is_gone_is_made_anew_from_what_the_others_say(lived: Memory, name: TableName) -> None:
    current = {p.id: p for p in lived.list_procedures()}
    shutil.rmtree(lived.store.directory / f"{name}.lance")
    with pytest.raises(StoreDamaged, match="memp-mcp doctor"):
        Store.open(lived.store.directory)

    repaired = mended(lived)

    assert f"{name}: the table was not there" in repaired.done[0]
    assert repaired.left == ()
    assert {p.id: p for p in salvaged(lived).list_procedures()} == current
    assert salvaged(lived).recall(TASKS[1]).found == "hybrid"
    assert salvaged(lived).recall(TASKS[1]).matches


def test_rows_that_are_there_twice_are_there_once_again(lived: Memory) -> None:
    before = contents(lived)
    for name in ("events", "trajectories", "procedure_versions", "procedures"):
        table = lived.store._tables._table(name)
        table.add(table.search().limit(2).to_arrow())
    assert len([p for p in salvaged(lived).store.check() if "more than once" in p]) == 4

    assert mended(lived).left == ()
    assert contents(lived) == before
    assert salvaged(lived).store.size().rows == {
        "trajectories": 7,
        "procedure_versions": len(list(lived.store.all_revisions())),
        "procedures": len(lived.list_procedures()),
        "events": len(list(lived.store.all_events())),
    }


def test_what_a_dead_process_has_begun_is_finished(lived: Memory) -> None:
    made = lived.list_procedures()
    told = won("feed the cat", "open the tin")
    lived.store.apply(Commit(op_id="o_dead", trajectory=told))
    lived.store._tables.delete("events", f"trajectory_id = '{told.id}'")  # it died before its marker,
    lived.store._tables.delete("procedure_versions", f"procedure_id = '{made[0].id}'")  # in the middle of forgetting,
    lived.store._tables.delete("procedures", f"id = '{made[1].id}'")  # before it wrote the current row,
    bare = procedure("without a vector")
    lived.store.apply(Commit(op_id="o_bare", procedures=(bare,)))  # and before it knew its embedder
    assert len(salvaged(lived).store.check()) == 4

    repaired = mended(lived)

    assert repaired.left == ()
    again = salvaged(lived)
    assert again.store.procedure(made[0].id) is None
    assert again.store.procedure(made[1].id) == made[1]
    assert again.store.unfinished() == []
    assert [m.procedure.id for m in again.recall("without a vector").matches][:1] == [bare.id]


def test_an_embedding_that_was_broken_off_is_done_again(lived: Memory) -> None:
    meta = lived.store._meta()
    lived.store._write_meta(meta.model_copy(update={"pending": meta.embedder}))
    assert any("interrupted" in p for p in problems(salvaged(lived)))

    repaired = mended(lived)

    assert "embedded anew" in repaired.done[0]
    assert repaired.left == ()
    assert salvaged(lived).recall(TASKS[0]).found == "hybrid"


@pytest.mark.parametrize("text", [None, "", "{", '{"format": "one"}'])
def test_a_format_file_that_is_gone_or_torn_is_written_anew_and_vectors_are_made_again(
    lived: Memory, text: str | None
) -> None:
    before = contents(lived)
    meta = lived.store.directory / "meta.json"
    meta.unlink()
    if text is not None:
        meta.write_text(text)
    with pytest.raises(StoreDamaged):
        salvaged(lived)

    repaired = mended(lived)

    assert repaired.left == ()
    assert "meta.json was written anew" in repaired.done[0]
    assert contents(salvaged(lived)) == before
    assert salvaged(lived).recall(TASKS[0]).found == "hybrid"
    assert text is None or text.encode() in all_bytes(lived.store.directory / "damaged")


def test_what_a_newer_program_wrote_is_not_repaired(lived: Memory) -> None:
    meta = lived.store.directory / "meta.json"
    newer = meta.read_text().replace('"format": 1', '"format": 2')
    meta.write_text(newer)

    with pytest.raises(StoreNewer):
        mended(lived)
    assert meta.read_text() == newer


# --- backup


def test_a_backup_restores_to_an_equal_memory(open_memory: OpenMemory, tmp_path: Path) -> None:
    lived = used(open_memory())  # without an index, which finds what is near, but not always in its order
    lived.retire(lived.list_procedures()[0].id)
    done = backup(lived, tmp_path / "memory.jsonl.gz")
    restored = open_memory("restored")

    import_files(restored, [Path(done.file)])

    assert contents(restored) == contents(lived)
    assert done.values["trajectory"] == 7
    ids = [p.id for p in lived.list_procedures()]
    assert restored.list_procedures() == lived.list_procedures()
    assert restored.store.counts(ids) == lived.store.counts(ids)
    assert [restored.history(i) for i in ids] == [lived.history(i) for i in ids]
    for task in TASKS:
        one, other = (m.recall(task, limit=5).matches for m in (lived, restored))
        assert [(m.procedure, m.counts, round(m.score, 4)) for m in one] == [
            (m.procedure, m.counts.model_copy(update={"recalled": n.counts.recalled}), round(m.score, 4))
            for m, n in zip(other, one, strict=True)
        ]


def test_a_folder_keeps_the_latest_backups(lived: Memory, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "mine.jsonl.gz").write_bytes(b"")

    made = [Path(backup(lived, folder, keep=2).file) for _ in range(3)]

    assert sorted(folder.glob(PATTERN)) == made[1:]
    assert (folder / "mine.jsonl.gz").exists()


def test_a_backup_replaces_nothing_and_says_what_it_needs(lived: Memory, tmp_path: Path) -> None:
    there = tmp_path / "there.gz"
    there.write_bytes(b"mine")
    for target, keep, told in (
        (there, None, "is there already"),
        (tmp_path / "x.gz", 1, "--keep"),
        (tmp_path / "x.txt", None, "no name of a .gz file"),
        (tmp_path / "no" / "x.gz", None, "There is no folder"),
    ):
        with pytest.raises(BadInput, match=told):
            backup(lived, target, keep=keep)
    assert there.read_bytes() == b"mine"


def test_a_memory_that_cannot_be_read_has_no_backup_and_leaves_no_half_of_one(lived: Memory, tmp_path: Path) -> None:
    files(lived, "events", "data")[-1].write_bytes(b"torn")
    folder = tmp_path / "backups"
    folder.mkdir()

    with pytest.raises(StoreDamaged, match="memp-mcp repair"):
        backup(salvaged(lived), folder)
    assert list(folder.iterdir()) == []
