"""How long a recall takes over stdio, in memories of 1,000 procedures and more; and what an index costs in quality.

``python -m benchmarks.recall --cache DIR`` (Linux; needs ../shared/data or TEST_DATA). Beside each recall, in turns
with it so that a busy moment of the machine hits all alike: the embedding of the same query alone, and an exact scan of
the same vectors by numpy. recall@10 is the share of the ten procedures that an exact scan finds which the store finds
too. ``--large`` adds 1,000,000 procedures: hours of embedding the first time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Wire, command_line, cpu_seconds, median, percentiles, print_table, write_results
from benchmarks.population import SEED, Population, population, procedure_id, queries, write
from memp_mcp import keys
from memp_mcp.embedder import Embedder, load
from memp_mcp.retrieve import CANDIDATES
from memp_mcp.settings import DEFAULT_EMBEDDER
from memp_mcp.store import Store
from memp_mcp.tables import VectorColumn

SIZES = (1_000, 10_000, 100_000)
LARGE = 1_000_000
COLUMNS: tuple[VectorColumn, ...] = ("vector", "phrases")


class Turn(NamedTuple):
    """What one query took, in milliseconds."""

    recall: float
    recall_cpu: float
    """CPU of the whole server process."""
    embedding: float
    scan: float


def measure(size: int, people: Population, asked: Sequence[str], embedder: Embedder) -> dict[str, Any]:
    """Time *asked* on a memory of that size, and see what its index finds."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        store = Store.open(Path(home))
        write(store, people)
        written = time.perf_counter() - began
        turns = _turns(home, people, asked, embedder)
        found = {f"recall@10 of {column}": _found(store, people, asked, embedder, column) for column in COLUMNS}
    return {"procedures": size, **_ratios(turns), **found, **_milliseconds(turns), "seconds to write": written}


def _turns(home: str, people: Population, asked: Sequence[str], embedder: Embedder) -> list[Turn]:
    with Wire(MEMP_HOME=home) as server:
        server.open()
        while server.call("recall_procedure", task="anything at all")["found"] != "hybrid":
            time.sleep(0.1)
        for query in asked[:5]:  # first touches: files are mapped, caches filled
            server.call("recall_procedure", task=query)
        return [_turn(server, people, query, embedder, number) for number, query in enumerate(asked[5:])]


def _turn(server: Wire, people: Population, query: str, embedder: Embedder, number: int) -> Turn:
    vector = embedder.embed([query])[0]
    cpu: list[float] = []

    def recall() -> None:
        before = cpu_seconds(server.pid)
        server.call("recall_procedure", task=query)
        cpu.append(cpu_seconds(server.pid) - before)

    work: list[Callable[[], object]] = [
        recall,
        lambda: embedder.embed([query]),
        lambda: nearest(people.vectors, vector, CANDIDATES),
    ]
    spent = [0.0] * 3
    for place in range(3):  # another goes first each time
        which = (number + place) % 3
        began = time.perf_counter()
        work[which]()
        spent[which] = 1000 * (time.perf_counter() - began)
    return Turn(spent[0], 1000 * cpu[0], spent[1], spent[2])


def nearest(vectors: NDArray[np.float32], query: NDArray[np.float32], limit: int) -> list[int]:
    """The rows whose dot product with the query is highest, best first, by an exact scan."""
    scores = vectors @ query
    best = np.argpartition(-scores, min(limit, len(scores) - 1))[:limit]
    return [int(i) for i in best[np.argsort(-scores[best])]]


def _found(store: Store, people: Population, asked: Sequence[str], embedder: Embedder, column: VectorColumn) -> float:
    """The share of the ten nearest that the store finds, as a recall asks it; a tie at the tenth place is found."""
    store.adopt(embedder.name, embedder.dimension)
    vectors = people.vectors if column == "vector" else people.phrases
    number = {procedure_id(i): i for i in range(len(people.tasks))}
    shares = []
    for query in asked:
        texts = [query] if column == "vector" else list(keys.phrases(query) or (query,))
        wanted = embedder.embed(texts).mean(0)
        scores = vectors @ wanted
        tenth = scores[nearest(vectors, wanted, 10)[-1]] - 1e-5
        got = store.dense(wanted.tolist(), column=column, projects={""}, limit=CANDIDATES)[:10]
        shares.append(sum(scores[number[p.id]] >= tenth for p, _ in got) / 10)
    return float(np.mean(shares))


def _ratios(turns: Sequence[Turn]) -> dict[str, float]:
    recall, embedding, scan = (median([getattr(t, name) for t in turns]) for name in ("recall", "embedding", "scan"))
    cpu = median([t.recall_cpu for t in turns])
    return {
        "recall / (embedding + scan)": recall / (embedding + scan),
        "CPU of recall / (embedding + scan)": cpu / (embedding + scan),
        "ms above 1.3 x": recall - 1.3 * (embedding + scan),
    }


def _milliseconds(turns: Sequence[Turn]) -> dict[str, float]:
    told: dict[str, float] = {}
    for name in Turn._fields:
        of_it = percentiles([getattr(t, name) for t in turns])
        told |= {f"{name} {p}": ms for p, ms in of_it.items() if p == "p50" or name == "recall"}
    return told


def main() -> None:
    """Measure each size, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="procedures (default: %(default)s)")
    parser.add_argument("--large", action="store_true", help=f"measure {LARGE:,} too")
    parser.add_argument("--queries", type=int, default=205, help="of which five warm up (default: %(default)s)")
    parser.add_argument("--cache", type=Path, required=True, help="where the vectors are kept between runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes that embed (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args()
    sizes = sorted({*given.sizes, *([LARGE] if given.large else [])})
    everybody = population(sizes[-1], given.cache, jobs=given.jobs)
    embedder, asked = load(DEFAULT_EMBEDDER), queries()
    np.random.default_rng(SEED).shuffle(asked)
    rows = []
    for size in sizes:
        people = Population(everybody.tasks[:size], everybody.vectors[:size], everybody.phrases[:size])
        rows.append(measure(size, people, asked[: given.queries], embedder))
        print_table(rows[-1:])
    print_table(rows)
    if given.out:
        write_results(given.out, command_line(), SEED, rows)


if __name__ == "__main__":
    main()
