"""The memory on object storage, by a real S3 API on loopback, and in LanceDB Cloud, by a stand-in: nothing is lost."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bucket_writer import SHARED, start
from builders import procedure, won
from cloud_stand_in import Cloud
from conftest import OpenMemory

from memp_mcp.archive import export, import_files
from memp_mcp.bucket import BucketStore, Lease
from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import BadInput, StoreBusy, StoreError
from memp_mcp.memory import Memory
from memp_mcp.models import Commit
from memp_mcp.repair import repair
from memp_mcp.rows import version_row
from memp_mcp.settings import Settings


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server with a bucket."""
    program = shutil.which("moto_server") or str(Path(sys.executable).with_name("moto_server"))
    if not Path(program).is_file():
        pytest.skip("no S3 server: pip install 'moto[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield _with_bucket(f"http://127.0.0.1:{port}", server)
        finally:
            server.kill()


def _with_bucket(url: str, server: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        try:
            urllib.request.urlopen(urllib.request.Request(f"{url}/memory", method="PUT"), timeout=30).close()  # noqa: S310 - our own server
        except OSError:
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        else:
            return url
        break
    pytest.fail("the S3 server does not answer")


@pytest.fixture(params=["bucket", "database"])
def uri(request: pytest.FixtureRequest) -> str:
    """A place for one test, in a bucket and in a database, with the environment that leads there."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def database(cloud: Cloud) -> str:
    """A database."""
    return cloud.uri


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A place in a bucket."""
    environ = {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return f"s3://memory/{tmp_path.name}"


def opened(uri: str, home: Path) -> BucketStore:
    return BucketStore.connect(uri, home, lock_timeout=60)


def test_four_processes_that_begin_on_an_empty_bucket_lose_nothing(uri: str, tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    writers = [start(uri, tmp_path, name, 3) for name in names]
    acknowledged = [line for writer in writers for line in writer.communicate(timeout=300)[0].split()]
    store = opened(uri, tmp_path / "reader")

    assert len(acknowledged) == 12
    assert [p.revision for p in store.history(SHARED)] == list(range(1, 13))
    assert Counter(p.title for p in store.history(SHARED)) == {f"by {name}": 3 for name in names}
    assert len(list(store.all_trajectories())) == 12
    assert Counter(e.kind for e in store.all_events()) == {"recorded": 12, "evidence": 12, "recall": 12}
    assert all(store.applied(op_id) for op_id in acknowledged)
    assert store.check() == []


def test_who_makes_an_empty_bucket_s_table_of_turns_second_puts_back_what_the_first_has_made(
    bucket: str, tmp_path: Path
) -> None:
    """LanceDB 0.40 looks whether a table is there and commits later, so that the second can replace the first's."""

    class Late:
        def __init__(self, db: Any) -> None:
            self._db = db

        def create_table(self, name: str, rows: object) -> object:
            return self._db.create_table(name, rows, mode="overwrite")

        def open_table(self, name: str) -> object:
            return self._db.open_table(name)

    first = opened(bucket, tmp_path / "a")
    first.apply(Commit(op_id="before", procedures=(procedure("before"),)))
    late = opened(bucket, tmp_path / "b")._tables
    late._db = Late(late._db)

    meta = late.control().read()["meta"]

    assert meta[0]
    assert meta == first._control.read()["meta"]
    first.apply(Commit(op_id="after", procedures=(procedure("after"),)))
    again = opened(bucket, tmp_path / "c")
    assert again.id == first.id
    assert {p.title for p in again.list_procedures()} == {"before", "after"}
    assert again.check() == []


def test_processes_that_make_the_table_of_turns_at_once_share_one(bucket: str, tmp_path: Path) -> None:
    def begin(number: int) -> BucketStore:
        time.sleep(number * 0.004)  # apart as far as it takes LanceDB to look and to commit
        return opened(bucket, tmp_path / str(number))

    with ThreadPoolExecutor(8) as several:
        stores = list(several.map(begin, range(8)))

    assert len({store.id for store in stores}) == 1
    assert len({store._control.read()["made"] for store in stores}) == 1


def test_the_turn_of_a_writer_that_died_is_taken_over(uri: str, tmp_path: Path) -> None:
    dead = start(uri, tmp_path, "a", 3, "--die")
    acknowledged = dead.communicate(timeout=120)[0].split()
    store = opened(uri, tmp_path / "b")
    store._tables.lease._seconds = 1.0

    store.apply(Commit(op_id="mine", procedures=(procedure("mine"),)))

    assert dead.returncode == 9
    assert acknowledged == ["a-0", "a-1"]
    assert all(store.applied(op_id) for op_id in [*acknowledged, "mine"])
    assert store.check() == []


def test_who_has_lost_its_turn_writes_no_more(uri: str, tmp_path: Path) -> None:
    store, other = opened(uri, tmp_path / "a"), opened(uri, tmp_path / "b")
    other._tables.lease._seconds = 0.0

    def write_too_late() -> None:
        with store._writing():
            other.apply(Commit(op_id="theirs", procedures=(procedure("theirs"),)))
            store._tables.lease._renewed -= 60
            store._tables.add("events", [{"id": "e_1", "kind": "recall"}])

    with pytest.raises(StoreBusy, match="try again"):
        write_too_late()

    assert [p.title for p in store.list_procedures()] == ["theirs"]
    store.apply(Commit(op_id="mine", procedures=(procedure("mine"),)))
    assert store.check() == []


def test_of_two_that_write_the_same_revision_one_is_told_to_try_again(uri: str, tmp_path: Path) -> None:
    """Nobody can, while the lease holds; when a single commit outlasts it, this is what is left."""
    store = opened(uri, tmp_path / "a")
    store.apply(Commit(op_id="first", procedures=(procedure("first", id=SHARED),)))
    late = procedure("late", id=SHARED)

    with pytest.raises(StoreBusy, match="Try again"), store._writing():
        store._tables.add("procedure_versions", [version_row(late, "late")])

    assert [p.title for p in store.history(SHARED)] == ["first"]
    assert not store.applied("late")
    assert store.check() == []


def test_turns_exclude_each_other(uri: str, tmp_path: Path) -> None:
    """A counter that is read and written under the lease comes out right, though nothing else guards it."""
    control = opened(uri, tmp_path / "x")._control
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        lease = Lease(control)
        for _ in range(5):
            lease.take(60)
            number = int(counter.read_text())
            time.sleep(0.01)  # long enough for another to come in between, if it could
            counter.write_text(str(number + 1))
            lease.give_back()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counter.read_text() == "20"


def test_a_waiting_writer_says_who_it_waits_for(uri: str, tmp_path: Path) -> None:
    store, other = opened(uri, tmp_path / "a"), BucketStore.connect(uri, tmp_path / "b", lock_timeout=0.5)

    with store._writing(), pytest.raises(StoreBusy, match=f"Other writers held the memory in {uri}"):
        other.apply(Commit(op_id="x", procedures=(procedure(),)))


def test_what_one_machine_records_another_recalls(uri: str, tmp_path: Path, embedder: BackgroundEmbedder) -> None:
    def memory(name: str) -> Memory:
        return Memory.open(Settings(home=tmp_path / name, store=uri), embedder=embedder)

    one, other = memory("one"), memory("other")
    recorded = one.record(won("sweep the floor", "take the broom", "sweep"))
    recall = other.recall("sweep the floor")
    [found] = recall.matches
    other.record(
        won("sweep the floor again", "take the broom", "sweep", recall_id=recall.id, used=(found.procedure.id,))
    )

    assert recall.found == "hybrid"
    assert one.get(found.procedure.id).counts.successes == 1
    assert one.stats().directory == uri
    assert one.trajectory(recorded.trajectory_id).task == "sweep the floor"
    other.store.compact()
    assert one.recall("sweep the floor").matches
    other.forget(found.procedure.id)
    give_up = time.monotonic() + 60  # what another machine has written is seen after a second
    while one.recall("sweep the floor").matches:
        assert time.monotonic() < give_up
    assert one.store.check() == []
    assert repair(Settings(home=tmp_path / "other", store=uri), embedder=embedder).done == ()


def test_a_memory_moves_between_a_directory_and_a_bucket(
    uri: str, tmp_path: Path, open_memory: OpenMemory, embedder: BackgroundEmbedder
) -> None:
    local = open_memory()
    local.record(won("sweep the floor", "take the broom", "sweep"))
    file = tmp_path / "memory.jsonl"
    file.write_text("\n".join(export(local)), encoding="utf-8")
    shared = Memory.open(Settings(home=tmp_path / "home", store=uri), embedder=embedder)

    import_files(shared, [file])

    assert list(export(shared))[1:] == list(export(local))[1:]


def test_a_storage_that_cannot_be_reached_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    for name, value in {"ALLOW_HTTP": "true", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "REGION": "r"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)

    with pytest.raises(StoreError, match="credentials"):
        BucketStore.connect("s3://memory/x", tmp_path)


def test_namespaces_are_folders_of_the_bucket() -> None:
    settings = Settings(home=Path("/h"), store="s3://memory/team/")

    assert settings.of_namespace("guests").store == "s3://memory/team/namespaces/guests"
    assert settings.of_namespace("guests").home == Path("/h/namespaces/guests")
    assert settings.of_namespace("") == settings
    with pytest.raises(BadInput, match="no folders for namespaces"):
        settings.model_copy(update={"store": "db://team"}).of_namespace("guests")
