"""Secrets that are stored already are found by a later detector, and are then nowhere in the files."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import procedure, won
from conftest import OpenMemory

from memp_mcp import cli
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Event, Procedure, Trajectory, stable_id
from memp_mcp.scrub import Scrubbed, scrub
from memp_mcp.store import Store

Fill = Callable[[Memory], str]


def token(seed: int = 1) -> str:
    """A token that looks like one of GitHub, put together at run time."""
    return "gh" + "p_" + "".join(random.Random(seed).choices(string.ascii_letters, k=36))


def dirty_run(secret: str, number: int = 0) -> Trajectory:
    """As it was stored by a program whose detector did not know such secrets."""
    return won(f"push branch {number} with {secret}", (f"git push https://x:{secret}@host/{number}", f"used {secret}"))


def dirty_procedure(run: Trajectory, secret: str) -> Procedure:
    return procedure(
        f"push with {secret}", [f"git push https://x:{secret}@host"], evidence=(run.id,), id=f"p_{run.id[2:14]}"
    )


def everything(memory: Memory) -> list[Trajectory | Procedure | Event]:
    """All that is stored."""
    return [*memory.store.all_trajectories(), *memory.store.all_revisions(), *memory.store.all_events()]


def fill(memory: Memory, secret: str, count: int = 1) -> list[str]:
    """Store runs, procedures in two revisions, and events that hold the secret, past the detector."""
    commits = []
    for number in range(count):
        run = dirty_run(secret, number)
        first = dirty_procedure(run, secret)
        second = first.model_copy(update={"revision": 2, "check": f"echo {secret}"})
        event = Event(id=stable_id("e", run.id), kind="evidence", trajectory_id=run.id, detail=f"with {secret}")
        commits += [
            Commit(op_id=run.id, trajectory=run, procedures=(first,), events=(event,)),
            Commit(op_id=f"{run.id}-2", procedures=(second,)),
        ]
    memory.store.apply(*commits)
    return [c.trajectory.id for c in commits if c.trajectory]


def in_files(home: Path, secret: str) -> list[str]:
    """The files that hold any part of the secret that would do."""
    return [p.name for p in home.rglob("*") if p.is_file() and secret[-20:].encode() in p.read_bytes()]


def test_what_is_scrubbed_is_in_no_table_and_no_file(memory: Memory) -> None:
    secret = token()
    [trajectory_id] = fill(memory, secret)
    assert in_files(memory.store.directory, secret)

    done = scrub(memory)

    assert (done.trajectories, done.revisions, done.events) == (1, 2, 1)
    assert done.slots == {"GITHUB_TOKEN": 13}
    assert in_files(memory.store.directory, secret) == []
    run = memory.trajectory(trajectory_id)
    assert run.steps[0].action == "git push https://x:${GITHUB_TOKEN}@host/0"
    [known] = memory.list_procedures()
    assert [r.script[0].text for r in memory.history(known.id)] == ["git push https://x:${GITHUB_TOKEN}@host"] * 2
    assert known == memory.history(known.id)[-1]
    assert memory.store.check() == []


def test_scrubbing_loses_nothing_else(memory: Memory) -> None:
    memory.record(won("publish the shop", "release build", "release publish"))
    memory.recall("publish the shop")
    before = everything(memory)
    fill(memory, token(), 3)

    scrub(memory)

    after = everything(memory)
    assert all(value in after for value in before)
    assert memory.recall("publish the shop").matches


def test_a_dry_run_counts_and_changes_nothing(memory: Memory) -> None:
    secret = token()
    fill(memory, secret)
    before = list(memory.store.all_revisions())

    found = scrub(memory, dry_run=True)

    assert (found.trajectories, found.revisions, found.events) == (1, 2, 1)
    assert list(memory.store.all_revisions()) == before
    assert secret not in found.model_dump_json()


def test_a_memory_that_is_clean_stays_as_it_is(memory: Memory) -> None:
    memory.record(won("publish the shop", "release build"))
    before = list(memory.store.all_revisions())

    done = scrub(memory)

    assert (done.trajectories, done.revisions, done.events, done.slots) == (0, 0, 0, {})
    assert list(memory.store.all_revisions()) == before


@pytest.mark.parametrize("after", [1, 40, 75, 110])
def test_a_scrub_that_dies_half_way_is_finished_by_running_it_again(memory: Memory, after: int) -> None:
    secret = token()
    ids = fill(memory, secret, 40)
    seen = 0

    def die(done: int) -> None:
        nonlocal seen
        seen += done
        if seen >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scrub(memory, advance=die)
    assert memory.store.trajectories(ids).keys() == set(ids)
    scrub(memory)

    assert in_files(memory.store.directory, secret) == []
    assert memory.store.trajectories(ids).keys() == set(ids)
    assert scrub(memory, dry_run=True) == Scrubbed(
        bytes_before=memory.store.size().bytes, bytes_after=memory.store.size().bytes
    )
    assert memory.store.check() == []


def test_files_are_rewritten_even_if_the_tables_are_clean_already(memory: Memory) -> None:
    """As after a kill between replacing the last value and rewriting the files."""
    secret = token()
    fill(memory, secret)
    memory.store.replace(list(_clean(memory)))

    scrub(memory)

    assert in_files(memory.store.directory, secret) == []


def _clean(memory: Memory) -> list[Trajectory]:
    from memp_mcp.redact import redact_value  # noqa: PLC0415 - what scrub does before it dies

    return [redact_value(t, derived=frozenset({"content_hash"}))[0] for t in memory.store.all_trajectories()]


def test_a_table_with_all_its_indexes_is_scrubbed_too(open_memory: OpenMemory, tmp_path: Path) -> None:
    secret = token()
    memory = open_memory()
    memory.store = Store.open(tmp_path / "memory", indexed_from=10)
    fill(memory, secret, 30)
    memory.store.compact()

    done = scrub(memory)

    assert (done.trajectories, done.revisions, done.events) == (30, 60, 30)
    assert in_files(memory.store.directory, secret) == []
    assert memory.store.check() == []


def test_the_command_says_what_it_did_and_no_secret(memory: Memory, capsys: pytest.CaptureFixture[str]) -> None:
    secret = token()
    fill(memory, secret)
    environ = {"MEMP_HOME": str(memory.store.directory)}

    assert cli.main(["scrub", "--dry-run"], environ) == 0
    dry = capsys.readouterr().out
    assert cli.main(["scrub"], environ) == 0
    out = capsys.readouterr().out

    assert "secrets in 1 trajectories, 2 revisions and 1 events" in dry
    assert "GITHUB_TOKEN: 13" in dry
    assert "cleaned 1 trajectories" in out
    assert "Restart the servers" in out
    assert secret not in dry + out
