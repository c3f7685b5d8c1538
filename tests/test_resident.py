"""What a process holds of the vectors is what LanceDB would find, whatever this process and others have done."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memp_mcp.models import Commit, Procedure, new_id
from memp_mcp.resident import MAX_FLOATS
from memp_mcp.store import Store, Vectors
from memp_mcp.tables import METRICS, Findable

DIMENSION = 8
ALL: Any = {"projects": ["", "mine"], "limit": 1_000}


class World:
    """Two processes on one directory, of which one is asked, and what is in their memory."""

    def __init__(self, home: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked, self.other = opened(home), opened(home)
        self.by_lancedb = opened(home, max_floats=0)
        self.there: dict[str, Procedure] = {}

    def vectors(self) -> Vectors:
        """Random ones, so that no two procedures are equally near."""
        return Vectors(*([self.random.gauss(0, 1) for _ in range(DIMENSION)] for _ in METRICS))

    def write(self, *procedures: Procedure, bare: bool = False) -> None:
        """By one of the two."""
        store = self.random.choice([self.asked, self.other])
        vectors = None if bare else {p.id: self.vectors() for p in procedures}
        store.apply(Commit(op_id=new_id("o"), procedures=procedures), vectors=vectors)
        self.there |= {p.id: p for p in procedures}

    def revise(self, *, bare: bool = False, **changes: object) -> None:
        """One of them; *bare*, it keeps its vectors."""
        old = self.random.choice(list(self.there.values()))
        self.write(old.model_copy(update={"revision": old.revision + 1, **changes}), bare=bare)

    def write_one_by_one(self) -> None:
        """More than a table keeps in files of their own."""
        for _ in range(40):
            self.write(new())

    def forget(self) -> None:
        """One of them, or two when another one comes in between."""
        for _ in range(self.random.randint(1, 2)):
            gone = self.random.choice(list(self.there))
            self.random.choice([self.asked, self.other]).forget(gone)
            del self.there[gone]
            self.write(new())

    def embed_anew(self) -> None:
        """All but one, which keeps none."""
        vectors = {i: self.vectors() for i in list(self.there)[1:]}
        store = self.random.choice([self.asked, self.other])
        store.reembed("mini", DIMENSION, vectors)

    def differs(self) -> str:
        """What the held vectors find otherwise than LanceDB does; nothing, when they are alike."""
        for column, vector in zip(METRICS, self.vectors(), strict=True):
            held, found = (s.near(vector, column=column, **ALL) for s in (self.asked, self.by_lancedb))
            if [hit[:3] for hit in held] != [hit[:3] for hit in found]:
                return f"{column}: {held} != {found}"
            if [hit.score for hit in held] != pytest.approx([hit.score for hit in found], abs=1e-5):
                return f"{column}: scores"
        return "" if self.asked._resident.is_ready() else "nothing is held"


def opened(home: Path, *, max_floats: int = MAX_FLOATS) -> Store:
    store = Store.open(home, max_floats=max_floats)
    store.adopt("mini", DIMENSION)
    return store


def new(**given: object) -> Procedure:
    return Procedure.model_validate({"title": "Chill", "when_to_use": "It is hot.", "project": "mine", **given})


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    world = World(tmp_path, getattr(request, "param", 0))
    world.write(*(new() for _ in range(12)))
    world.differs()
    return world


@pytest.mark.parametrize("world", range(4), indirect=True)
def test_what_is_held_is_what_lancedb_finds_whatever_is_written_and_by_whom(world: World) -> None:
    deeds: dict[str, Callable[[], Any]] = {
        "a new one": lambda: world.write(new()),
        "some at once": lambda: world.write(*(new(project=p) for p in ("", "mine", "other"))),
        "one without vectors": lambda: world.write(new(), bare=True),
        "its vectors": lambda: world.other.set_vectors({i: world.vectors() for i in list(world.there)[-2:]}),
        "a revision": world.revise,
        "a revision with the same vectors": lambda: world.revise(bare=True, title="Cool"),
        "a retired one": lambda: world.revise(bare=True, status="retired"),
        "one that is back": lambda: world.revise(bare=True, status="active"),
        "many, one by one": world.write_one_by_one,
        "compaction": world.other.compact,
        "one less": world.forget,
        "the current rows made anew": world.other.rebuild_current,
        "all vectors made anew": world.embed_anew,
    }
    order = [*deeds, *deeds]
    world.random.shuffle(order)
    for deed in order:
        deeds[deed]()
        assert not world.differs(), deed


def test_after_a_commit_only_what_it_changed_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    findable = world.asked._tables.findable

    def counted(*args: Any, **given: Any) -> Findable:
        found = findable(*args, **given)
        read.append(len(found.columns["id"]) + len(found.others))
        return found

    monkeypatch.setattr(world.asked._tables, "findable", counted)
    for _ in range(3):
        world.write(new())
        world.differs()
    world.revise(status="retired")
    world.differs()
    assert read == [1, 1, 1, 1]


def test_a_table_that_was_thrown_away_and_made_anew_is_read_anew(world: World) -> None:
    """Its rows stand where those of the old one stood, and there are as many."""
    for _ in range(5):
        world.write(new())
    assert not world.differs()
    kept = world.other.procedures(list(world.there))
    world.other._tables.make("procedures")
    world.other._tables.give_vectors(DIMENSION)
    world.other.rebuild_current()
    world.other.set_vectors({i: world.vectors() for i in reversed(list(kept))})
    assert not world.differs()
    assert len(world.asked.near([1.0] * DIMENSION, **ALL)) == len(kept)
