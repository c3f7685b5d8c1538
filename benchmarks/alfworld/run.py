"""Does an agent do better with this memory? ALFWorld, one fixed agent without an LLM, the memory behind MCP.

``python -m benchmarks.alfworld.run`` plays the games of ``valid_seen`` in every arm and writes results/alfworld.json,
one row a game; ``--split valid_train`` is what the agent and the server's defaults were developed on.

Cold start: the server imports the 336 runs of GPT-4 (AgentInstruct) and the 1,020 of Llama-2-13B (KnowAgent, among them
lost ones) and is then only asked. Streams: it starts from nothing, and each game is recalled for, played, recorded and,
where lost, reflected on before the next. Drift: what was learnt in the old grammar (``put X in/on Y``) meets the games'
(``move X to Y``). Games whose room and task both occur in an imported run are left out. A game that is not won within
the budget costs the budget. One play of 50 steps gives the figures for 30 and 50, except in the streams, where what is
remembered depends on the budget: they are played once for each.
"""

from __future__ import annotations

import argparse
import functools
import json
import lzma
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from benchmarks.alfworld.agent import Agent, Played, Told, play
from benchmarks.alfworld.games import Entry, Games
from benchmarks.alfworld.memories import (
    AGENTINSTRUCT,
    KNOWAGENT,
    Recall,
    Recalled,
    Server,
    at_random,
    by_bm25,
    by_embedding,
    by_oracle,
    imported,
    nothing,
    trajectories,
)
from benchmarks.common import DATA, RESULTS, command_line, print_table, write_results

BUDGET = 50
BUDGETS = (30, 50)
SEEDS = (0, 1, 2)
RESAMPLES = 10_000
GAMES = DATA / "alfworld" / "games.jsonl.xz"
POLICIES = ("vanilla", "validation", "adjustment")
NONE = "no memory"
SERVER = "server, k=3"
"""The arm with the server's defaults, which the others are compared with."""


class Row(NamedTuple):
    """One game in one arm."""

    game: str
    won: bool
    steps: int
    wasted: int
    tokens: int
    followed: bool

    def within(self, budget: int) -> tuple[bool, int]:
        """Whether it was won within the budget, and the steps it took or the budget."""
        won = self.won and self.steps <= budget
        return won, self.steps if won else budget


Arms = dict[str, list[Row]]


# -- games ----------------------------------------------------------------------------------------------------


@functools.cache
def _games(cache: Path) -> Games:
    return Games(GAMES, cache)


def without_leaks(entries: Sequence[Entry], games: Games) -> list[Entry]:
    """The games without those whose room and task both occur in a run that is imported."""
    known = {_task(t["name"]) for file in KNOWAGENT for t in _lines(file)}
    rooms = {(_places(r["state_action_pairs"][0]["state"]), _plain(r["task_description"])) for r in _agentinstruct()}
    return [e for e in entries if _task(e.name) not in known and (_room(e, games), _plain(e.task)) not in rooms]


def _room(entry: Entry, games: Games) -> frozenset[str]:
    game = games.game(entry)
    first = game.sight()
    game.save()
    return _places(first.text)


def _task(name: str) -> str:
    return name.split("/", maxsplit=1)[0]  # type, things and room


def _plain(task: str) -> str:
    return task.strip(" .").lower()


def _places(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\b[a-z]+ \d+", text.split("Your task", maxsplit=1)[0]))


def _agentinstruct() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(AGENTINSTRUCT.read_text())["trajectories"]
    return runs


def _lines(file: Path) -> list[dict[str, Any]]:
    with lzma.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


# -- cold start -------------------------------------------------------------------------------------------------


def cold_start(entries: Sequence[Entry], homes: Path, cache: Path) -> Arms:
    """Every arm on every game; what is recalled is settled before the games are played."""
    told: dict[str, dict[str, Recalled]] = {}
    for name, recall in _raw_arms().items():
        told[name] = {e.path: recall(e.task) for e in entries}
    for name, home, settings in _server_arms(homes):
        server = Server(home, **settings)
        told[name] = {e.path: server.recall(e.task) for e in entries}
        server.close()
    jobs = [(e, {arm: recalled[e.path] for arm, recalled in told.items()}, cache, False) for e in entries]
    return _played(jobs)


def _raw_arms() -> dict[str, Recall]:
    runs = trajectories(AGENTINSTRUCT, *KNOWAGENT)
    won = [t for t in runs if t.succeeded]
    return {
        NONE: nothing,
        **{f"random trajectory, seed {seed}": at_random(runs, seed=seed) for seed in SEEDS},
        **{
            f"{name}{told}, k={k}": by(of, limit=k)
            for name, by in (("raw BM25", by_bm25), ("ExpRAG", by_embedding))
            for told, of in (("", runs), (", successes only", won))
            for k in (1, 3)
        },
        "oracle of the same type, k=1": by_oracle(runs, limit=1),
        "oracle of the same type, k=3": by_oracle(runs, limit=3),
    }


def _server_arms(homes: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    both = [AGENTINSTRUCT, *KNOWAGENT]
    learnt = {
        "both": (both, {}),
        "script": (both, {"build": "script"}),
        "trajectory": (both, {"build": "trajectory"}),
        "vanilla": (both, {"update": "vanilla"}),
        "gpt-4": ([AGENTINSTRUCT], {}),
        "llama": (list(KNOWAGENT), {}),
    }
    for name, (files, policies) in learnt.items():
        imported(homes / name, files, **policies)
    arms: list[tuple[str, str, dict[str, Any]]] = [
        ("server, k=1", "both", {"limit": 1}),
        (SERVER, "both", {"limit": 3}),
        ("server, k=5", "both", {"limit": 5}),
        ("build = script, k=3", "script", {}),
        ("build = trajectory, k=3", "trajectory", {"full": True}),
        ("update = vanilla, k=3", "vanilla", {}),
        ("retrieve = random, k=3", "both", {"MEMP_RETRIEVE": "random"}),
        ("retrieve = query, k=3", "both", {"MEMP_RETRIEVE": "query"}),
        ("retrieve = avefact, k=3", "both", {"MEMP_RETRIEVE": "avefact"}),
        ("learnt from GPT-4 only, k=3", "gpt-4", {}),
        ("learnt from Llama-2-13B only, k=3", "llama", {}),
    ]
    return [(name, homes / home, settings) for name, home, settings in arms]


def _played(jobs: Sequence[tuple[Entry, Mapping[str, Recalled], Path, bool]]) -> Arms:
    arms: Arms = {}
    with ProcessPoolExecutor() as pool:
        for rows in pool.map(_play_arms, jobs):
            for arm, row in rows.items():
                arms.setdefault(arm, []).append(row)
    return arms


def _play_arms(job: tuple[Entry, Mapping[str, Recalled], Path, bool]) -> dict[str, Row]:
    entry, told, cache, literal = job
    game = _games(cache).game(entry)
    rows = {}
    for arm, recalled in told.items():
        played = play(game, Agent(entry.task, recalled.told, literal=literal), budget=BUDGET)
        rows[arm] = _row(entry, played, recalled)
    game.save()
    return rows


def _row(entry: Entry, played: Played, recalled: Recalled) -> Row:
    followed = played.follows is not None
    return Row(entry.name, played.won, len(played.steps), played.wasted, recalled.tokens, followed)


# -- streams --------------------------------------------------------------------------------------------------


Streams = dict[str, list[list[Row]]]
"""By update policy, for each order of the games the rows in the order of play."""


def streams(
    entries: Sequence[Entry], homes: Path, cache: Path, *, budget: int, seeds: Sequence[int] = SEEDS
) -> Streams:
    """One memory from nothing for each update policy and order of the games, and the agent without any."""
    jobs = [(policy, seed, entries, homes, cache, budget) for seed in seeds for policy in POLICIES]
    found: Streams = {policy: [] for policy in POLICIES}
    alone = _played([(e, {NONE: Recalled()}, cache, False) for e in entries])[NONE]
    with ProcessPoolExecutor() as pool:
        for (policy, *_), rows in zip(jobs, pool.map(_stream, jobs), strict=True):
            found[policy].append(rows)
    return {NONE: [[alone[i] for i in _order(len(entries), seed)] for seed in seeds], **found}


def _order(games: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).permutation(games)]


def _stream(job: tuple[str, int, Sequence[Entry], Path, Path, int]) -> list[Row]:
    policy, seed, entries, homes, cache, budget = job
    server = Server(homes / f"stream-{policy}-{seed}-{budget}", MEMP_UPDATE=policy)
    reflects = policy == "adjustment"
    rows = [
        _learn(server, entries[i], cache, literal=False, reflects=reflects, budget=budget)
        for i in _order(len(entries), seed)
    ]
    server.close()
    return rows


def _learn(server: Server, entry: Entry, cache: Path, *, literal: bool, reflects: bool, budget: int = BUDGET) -> Row:
    """Recall, play, record with the game's own verdict, and reflect on a loss."""
    recalled, answer = server.asked(entry.task)
    game = _games(cache).game(entry)
    played = play(game, Agent(entry.task, recalled.told, literal=literal), budget=budget)
    game.save()
    used = [answer["procedures"][played.follows]["id"]] if played.carried_out and played.follows is not None else []
    recorded = server.call(
        "record_trajectory",
        task=entry.task,
        steps=[{"action": action, "observation": seen} for action, seen in played.steps],
        outcome="success" if played.won else "failure",
        reward=float(played.won),
        **({"recall_id": answer["recall_id"], "used": used} if used else {}),
    )
    if reflects and not played.won:
        server.call(
            "reflect_failure",
            trajectory_id=recorded["trajectory_id"],
            error=f"not done within {budget} steps",
            diagnosis=played.stuck,
            correction="\n".join(played.known[:5]),
        )
    return _row(entry, played, recalled)


# -- drift ----------------------------------------------------------------------------------------------------


def drift(entries: Sequence[Entry], others: Sequence[Entry], homes: Path, cache: Path) -> dict[str, Any]:
    """Wasted steps of a literal agent with old memories, before and after it has played some games and recorded them.

    After: the same games again, and other games before and after.
    """
    home = homes / "drift"
    imported(home, [AGENTINSTRUCT])
    found = {"before": _literally(entries, home, cache), "other games, before": _literally(others, home, cache)}
    server = Server(home)
    for entry in entries:
        _learn(server, entry, cache, literal=True, reflects=True)
    server.close()
    found |= {"after": _literally(entries, home, cache), "other games, after": _literally(others, home, cache)}
    return {when: _drift_figures(*figures) for when, figures in found.items()}


def _literally(entries: Sequence[Entry], home: Path, cache: Path) -> tuple[list[Row], list[Told]]:
    server = Server(home)
    recalled = {e.path: server.recall(e.task) for e in entries}
    server.close()
    rows = _played([(e, {"literal": recalled[e.path]}, cache, True) for e in entries])["literal"]
    return rows, [r.told[0] for r in recalled.values() if r.told]


def _drift_figures(rows: Sequence[Row], first: Sequence[Told]) -> dict[str, float]:
    places = [t for t in first if any(line.startswith(("put ", "move ")) for line in t.lines)]
    new = [t for t in places if not any(line.startswith("put ") for line in t.lines)]
    return {
        "games": len(rows),
        "wasted a game": _mean(r.wasted for r in rows),
        "games with a wasted step": _mean(r.wasted > 0 for r in rows),
        "won": _mean(r.within(BUDGET)[0] for r in rows),
        "steps": _mean(r.within(BUDGET)[1] for r in rows),
        "recalled scripts in the games' grammar": round(len(new) / len(places), 3) if places else 0.0,
    }


# -- figures --------------------------------------------------------------------------------------------------


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean([float(v) for v in values])), 3)


def figures(arms: Arms) -> list[dict[str, Any]]:
    """One line an arm: success and steps at both budgets, tokens, and what the memory cost in games."""
    return [_figure(name, rows, arms[NONE]) for name, rows in arms.items()]


def _figure(name: str, rows: Sequence[Row], without: Sequence[Row]) -> dict[str, Any]:
    line: dict[str, Any] = {"arm": name}
    for budget in BUDGETS:
        line[f"won in {budget}"] = _mean(r.within(budget)[0] for r in rows)
        line[f"steps of {budget}"] = round(float(np.mean([r.within(budget)[1] for r in rows])), 1)
    line["tokens"] = round(float(np.mean([r.tokens for r in rows])))
    line["followed"] = _mean(r.followed for r in rows)
    harmed = [a for a, b in zip(without, rows, strict=True) if a.within(BUDGET)[0] and not b.within(BUDGET)[0]]
    line["lost by it"] = round(len(harmed) / len(rows), 3)
    return line


def compared(mine: Sequence[Row], others: Sequence[Row], budget: int) -> dict[str, Any]:
    """One arm against another, game by game: exact McNemar test and bootstrap intervals of the differences."""
    pairs = [(a.within(budget), b.within(budget)) for a, b in zip(mine, others, strict=True)]
    gained, lost = sum(a and not b for (a, _), (b, _) in pairs), sum(b and not a for (a, _), (b, _) in pairs)
    won = np.array([float(a) - float(b) for (a, _), (b, _) in pairs])
    steps = np.array([float(a) - float(b) for (_, a), (_, b) in pairs])
    return {
        "budget": budget,
        "won more": round(float(won.mean()), 3),
        "95 %": _interval(won),
        "games": f"+{gained} −{lost}",  # noqa: RUF001 - a minus sign
        "p": float(f"{binomtest(gained, gained + lost).pvalue:.2g}") if gained + lost else 1.0,
        "steps fewer": round(-float(steps.mean()), 1),
        "95 % of steps": _interval(-steps, digits=1),
    }


def _all_compared(arms: Arms, mine: str, others: Sequence[str]) -> list[dict[str, Any]]:
    return [{"against": other, **compared(arms[mine], arms[other], budget)} for other in others for budget in BUDGETS]


def _interval(values: np.ndarray[Any, np.dtype[np.float64]], digits: int = 3) -> str:
    chance = np.random.default_rng(0)
    means = values[chance.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{low:.{digits}f} … {high:.{digits}f}"


def by_type(arms: Arms, entries: Sequence[Entry], names: Sequence[str]) -> list[dict[str, Any]]:
    """Success and steps by task type, for a few arms."""
    table = []
    for kind in dict.fromkeys(e.type for e in entries):
        chosen = [i for i, e in enumerate(entries) if e.type == kind]
        line: dict[str, Any] = {"type": kind, "games": len(chosen)}
        for name in names:
            ends = [arms[name][i].within(30) for i in chosen]
            line[name] = f"{_mean(w for w, _ in ends):.2f} / {np.mean([s for _, s in ends]):.1f}"
        table.append(line)
    return table


def of_streams(found: Mapping[int, Streams]) -> list[dict[str, Any]]:
    """One line a policy: all games of all orders, their last third, and what it cost in games, by budget."""
    table = []
    for policy in next(iter(found.values())):
        line: dict[str, Any] = {"update": policy}
        for part, cut in (("all games", 0), ("last third", 2)):
            for budget, of_budget in found.items():
                rows = [r for order in of_budget[policy] for r in order[cut * len(order) // 3 :]]
                line[f"{part}: won in {budget}"] = _mean(r.within(budget)[0] for r in rows)
                line[f"{part}: steps of {budget}"] = round(float(np.mean([r.within(budget)[1] for r in rows])), 1)
        without, rows = (_in_a_row(found[BUDGET][name]) for name in (NONE, policy))
        line["lost by it"] = _mean(
            a.within(BUDGET)[0] and not b.within(BUDGET)[0] for a, b in zip(without, rows, strict=True)
        )
        table.append(line)
    return table


def policies_compared(found: Mapping[int, Streams]) -> list[dict[str, Any]]:
    """The update policies against each other; a game occurs in each order, so that p is somewhat too small."""
    pairs = [("adjustment", "validation"), ("validation", "vanilla"), ("adjustment", "vanilla"), ("adjustment", NONE)]
    return [
        {"update": one, "against": other, **compared(_in_a_row(rows[one]), _in_a_row(rows[other]), budget)}
        for one, other in pairs
        for budget, rows in found.items()
    ]


def _in_a_row(orders: Sequence[Sequence[Row]]) -> list[Row]:
    return [row for order in orders for row in order]


# -- report ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Play all arms, print the tables, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="valid_seen", choices=["valid_seen", "valid_train"])
    parser.add_argument("--every", type=int, default=1, help="only each Nth game")
    parts = ["cold", "streams", "drift"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="the others' results are kept")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="orders of the streams' games")
    parser.add_argument("--cache", type=Path, help="keeps translations and what commands lead to between runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "alfworld.json")
    options = parser.parse_args()
    command = command_line()  # the games' translator takes sys.argv for its own
    if not GAMES.is_file():
        sys.exit(f"{GAMES} is not there: set TEST_DATA to a folder with alfworld/ and retrieval/.")
    kept = json.loads(options.out.read_text())["results"] if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        results = _run(options, Path(folder), options.cache or Path(folder) / "games")
    results["commands"] = kept.get("commands", {}) | dict.fromkeys(options.parts, command)
    packages = ["alfworld", "bm25s", "textworld", "fast-downward-textworld", "scipy"]
    write_results(options.out, command, options.seeds, kept | results, packages=packages)


def _run(options: argparse.Namespace, folder: Path, cache: Path) -> dict[str, Any]:
    games = _games(cache)
    entries = without_leaks(games.split(options.split), games)[:: options.every]
    results: dict[str, Any] = {"split": options.split, "games": len(entries)}
    if "cold" in options.parts:
        arms = cold_start(entries, folder, cache)
        results |= _reported(arms, entries)
    if "streams" in options.parts:
        played = games.split(options.split)[:: options.every]
        found = {b: streams(played, folder, cache, budget=b, seeds=options.seeds) for b in BUDGETS}
        results |= {"streams": of_streams(found), "streams compared": policies_compared(found)}
        results["stream rows"] = {
            budget: {policy: [[r._asdict() for r in o] for o in orders] for policy, orders in of_budget.items()}
            for budget, of_budget in found.items()
        }
        print_table(results["streams"])
        print_table(results["streams compared"])
    if "drift" in options.parts:
        others = without_leaks(games.split("valid_train" if options.split == "valid_seen" else "valid_seen"), games)
        results["drift"] = drift(entries, others[:: 2 * options.every], folder, cache)
        print_table([{"": when, **figure} for when, figure in results["drift"].items()])
    return results


def _reported(arms: Arms, entries: Sequence[Entry]) -> dict[str, Any]:
    walkthrough = float(np.mean([len(e.walkthrough) for e in entries]))
    told: dict[str, Any] = {
        "arms": figures(arms),
        "walkthrough": {"won": 1.0, "steps": round(walkthrough, 1)},
        "compared": _all_compared(arms, SERVER, _others(3)),
        "compared at k=1": _all_compared(arms, "server, k=1", _others(1)),
        "by type, won / steps in 30": by_type(arms, entries, [NONE, *_others(3)[2:4], "server, k=1", SERVER]),
        "rows": {arm: [r._asdict() for r in rows] for arm, rows in arms.items()},
    }
    for table in ("arms", "compared", "by type, won / steps in 30"):
        print_table(told[table])
    print(f"The games' own walkthroughs take {walkthrough:.1f} steps.")
    return told


def _others(k: int) -> list[str]:
    """What the server is compared with, where it tells *k* procedures: as many trajectories."""
    raw = [f"{name}{told}, k={k}" for told in ("", ", successes only") for name in ("raw BM25", "ExpRAG")]
    return [NONE, "random trajectory, seed 0", *raw]


if __name__ == "__main__":
    main()
