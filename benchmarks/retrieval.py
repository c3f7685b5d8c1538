"""Which policy finds the right procedure? Every retrieve policy on real tasks (needs ../shared/data or TEST_DATA).

Two sets. ALFRED: one procedure for each of the 988 task sentences of the training games, looked up by what people and
templates call the tasks of other games; right is a procedure of the same task type (and, stricter, of the same object
and place). Proced-mem-bench (arXiv 2511.21730): its 336 trajectories, the 14 development queries with graded
judgements, relevant from 6 of 10 upwards. The shipped weights of the hybrid were chosen by these tables.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import platform
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from memp_mcp import build, retrieve
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Procedure, Step, Trajectory, new_id
from memp_mcp.settings import Settings
from memp_mcp.transcripts import read

DATA = Path(os.environ.get("TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
DEPTH = 64
RELEVANT = 6.0

Ranking = Sequence[str]
Ranker = Callable[[Memory, str], Ranking]


def _by_policy(policy: Any) -> Ranker:
    def ranked(memory: Memory, task: str) -> Ranking:
        embedder, _ = memory.vectorizer.embedder(wait=60)
        candidates = retrieve.gather(memory._views(task, "", policy, "", embedder))  # noqa: SLF001 - measures a stage
        matches = retrieve.rank(candidates, task=task, policy=policy, floor=-1.0, counts={}, limit=DEPTH)
        return [m.procedure.id for m in matches]

    return ranked


def _by_words(memory: Memory, task: str) -> Ranking:
    return [p.id for p, _ in memory.store.lexical(task, projects={""}, limit=DEPTH)]


RANKERS: dict[str, Ranker] = {
    "random": _by_policy("random"),
    "BM25 alone": _by_words,
    "query": _by_policy("query"),
    "avefact": _by_policy("avefact"),
    "hybrid": _by_policy("hybrid"),
}


def _fresh_memory(folder: Path) -> Memory:
    return Memory.open(Settings(home=folder))


# -- ALFRED ------------------------------------------------------------------------------------------------------


def alfred(folder: Path) -> dict[str, dict[str, float]]:
    """P@1 by task type, P@1 of the very task and hit@5 of it, for human and template queries."""
    with lzma.open(DATA / "alfworld" / "human_tasks.json.xz") as file:
        tasks = json.load(file)
    memory = _fresh_memory(folder)
    wanted = _store_templates(memory, tasks["train"])
    queries = [(kind, text, _label(t)) for t in tasks["valid_seen"] for kind, text in _wordings(t)]
    return {
        name: _alfred_scores(((kind, label, ranker(memory, text)) for kind, text, label in queries), wanted)
        for name, ranker in RANKERS.items()
    }


def _label(task: Mapping[str, Any]) -> tuple[str, str, str]:
    return task["tt"], task["o"], task["r"]


def _wordings(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("template", task["templ"]), *(("human", text) for text in task["human"])]


def _store_templates(memory: Memory, tasks: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str, str]]:
    by_text = {t["templ"]: t for t in tasks}
    procedures = {text: _built(t) for text, t in by_text.items()}
    embedder, reason = memory.vectorizer.embedder(wait=60)
    if embedder is None:
        sys.exit(reason)
    vectors = memory.vectorizer.of_procedures(embedder, list(procedures.values()))
    commits = (Commit(op_id=new_id("o"), procedures=(p,)) for p in procedures.values())
    memory.store.apply(*commits, vectors=vectors)
    return {p.id: _label(by_text[text]) for text, p in procedures.items()}


def _built(task: Mapping[str, Any]) -> Procedure:
    steps = tuple(Step(action=a) for a in task["walk"])
    return build.build(Trajectory(task=task["templ"], steps=steps, outcome="success"), policy="proceduralization")


def _alfred_scores(
    rankings: Iterable[tuple[str, tuple[str, str, str], Ranking]], labels: Mapping[str, tuple[str, str, str]]
) -> dict[str, float]:
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for kind, label, ranking in rankings:
        found = [labels[i] for i in ranking[:5]]
        hits = (1.0, bool(found) and found[0][0] == label[0], bool(found) and found[0] == label, label in found)
        totals[kind] = [a + b for a, b in zip(totals[kind], hits, strict=True)]
    names = ("P@1 type", "P@1 task", "hit@5 task")
    return {
        f"{kind} {name}": round(value / n, 3)
        for kind, (n, *values) in totals.items()
        for name, value in zip(names, values, strict=True)
    }


# -- Proced-mem-bench ----------------------------------------------------------------------------------------------


def proced_mem_bench(folder: Path) -> dict[str, dict[str, float]]:
    """MAP, nDCG@10, P@1 and R@5 over the development queries; one procedure a trajectory."""
    memory = _fresh_memory(folder)
    file = DATA / "retrieval" / "agentinstruct_trajectories.json"
    names = [t["task_instance_id"] for t in json.loads(file.read_text())["trajectories"]]
    trajectories = [t for t in read(file) if isinstance(t, Trajectory)]
    name_of = dict(zip((t.id for t in trajectories), names, strict=True))
    recorded = memory.record_all(trajectories, update_policy="vanilla")
    built = {c.procedure.id: name_of[r.trajectory_id] for r in recorded for c in r.changes}
    queries = json.loads((DATA / "retrieval" / "queries_dev.json").read_text())["queries"]
    return {
        name: _mean([_graded(q, [built[i] for i in ranker(memory, q["query_text"])]) for q in queries])
        for name, ranker in RANKERS.items()
    }


def _graded(query: Mapping[str, Any], ranking: Sequence[str]) -> dict[str, float]:
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


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(sum(r[name] for r in rows) / len(rows), 3) for name in rows[0]}


# -- report ----------------------------------------------------------------------------------------------------------


def _print(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(next(iter(table.values())))
    print(f"\n| {title} | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |")


def main() -> None:
    """Run both sets, print the tables, and write them with the versions that made them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set TEST_DATA to a folder with alfworld/ and retrieval/.")
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "alfred": alfred(Path(folder) / "alfred"),
            "proced_mem_bench_dev": proced_mem_bench(Path(folder) / "proced"),
        }
    for title, table in results.items():
        _print(title, table)
    if options.out:
        versions = {"memp-mcp": version("memp-mcp"), "lancedb": version("lancedb"), "python": platform.python_version()}
        facts = {"command": "python benchmarks/retrieval.py", "versions": versions, "weights": retrieve.WEIGHTS}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
