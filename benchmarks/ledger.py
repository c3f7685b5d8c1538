"""What the ledger costs: CPU seconds for `memp-mcp stats` to account for recorded episodes, beside reading them whole.

``python -m benchmarks.ledger --episodes 1000 10000 --out benchmarks/results/ledger.json``. The episodes are made up
(ten steps, a recall each, a procedure for every third, one episode in ten repairs one): only their size and number
matter here, nothing is learnt from them. They are written straight into a store, without embedder or judge.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import command_line, print_table, write_results
from memp_mcp import lookup
from memp_mcp.ledger import Figures, account, records_of
from memp_mcp.models import Commit, Event, Procedure, Reward, ScriptStep, Step, Trajectory, new_id
from memp_mcp.store import Store

SEED = 1
CHUNK = 500
ROUNDS = 5
STEPS = tuple(Step(action="go to desk 1", observation="On the desk 1 you see a lamp. " * 12) for _ in range(10))


class Cost(NamedTuple):
    """CPU seconds, the least of several rounds."""

    episodes: int
    ledger: float
    """Reading the records and accounting for them."""
    trajectories: float
    """Reading every trajectory whole, as the ledger does not."""


def measure(episodes: int) -> Cost:
    """Fill a store with that many episodes and account for them."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder))
        fill(store, episodes)
        return Cost(
            episodes,
            least(lambda: account(records_of(store), retire_below=0.5)),
            least(lambda: sum(1 for _ in store.all_trajectories())),
        )


def least(action: Callable[[], object]) -> float:
    """The CPU seconds of the quickest round: the others were disturbed."""
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        action()
        costs.append(time.process_time() - began)
    return min(costs)


def fill(store: Store, episodes: int) -> None:
    """Write the procedures, then recall after recall with the trajectory that followed it."""
    rng = random.Random(SEED)
    current = [procedure(number) for number in range(max(1, episodes // 3))]
    for start in range(0, len(current), CHUNK):
        store.apply(Commit(op_id=new_id("o"), procedures=tuple(current[start : start + CHUNK])))
    for start in range(0, episodes, CHUNK):
        made = list(commits(rng, current, range(start, min(episodes, start + CHUNK))))
        store.note(*(event for noted, _ in made for event in noted))
        store.apply(*(commit for _, commit in made))


def procedure(number: int) -> Procedure:
    """A procedure of ordinary size."""
    script = tuple(ScriptStep(name=f"s{i}", text=f"do thing {i} of {{place}}") for i in range(1, 7))
    return Procedure(title=f"Task {number}", when_to_use=f"Task {number}", script=script, exemplar=STEPS)


def commits(rng: random.Random, current: list[Procedure], numbers: range) -> Iterator[tuple[tuple[Event, ...], Commit]]:
    """Episodes: the events of each one's recall, and what recording it wrote."""
    for number in numbers:
        index = rng.randrange(len(current))
        used, recall_id = current[index], new_id("r")
        returned = (lookup.Returned(id=used.id, revision=used.revision),)
        noted = lookup.Noted(task=f"Task {number}", error="", returned=returned)
        recall = Event(id=recall_id, kind="recall", recall_id=recall_id, detail=noted.model_dump_json())
        score = float(rng.random() < 0.7)
        run = Trajectory(
            task=f"Task {number}",
            steps=STEPS,
            reward=Reward(score=score, judged_by="environment", verified=True),
            client=rng.choice(("claude-code", "codex", "qwen-code")),
            recall_id=recall_id,
            used=(used.id,),
        )
        kind = "revise" if rng.random() < 0.1 else "merge"
        current[index] = used.model_copy(update={"revision": used.revision + 1, "change": kind})
        use = Event.about(used, kind="used", trajectory_id=run.id, recall_id=recall_id, score=score, verified=True)
        evidence = lookup.evidence(run, used, client=run.client)
        yield (
            (recall, Event.about(used, kind="recalled", recall_id=recall_id)),
            Commit(
                op_id=run.id,
                trajectory=run,
                figures=Figures.of(run).model_dump_json(),
                procedures=(current[index],),
                events=(use, evidence),
            ),
        )


def main() -> None:
    """Measure each size, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    costs = [measure(episodes)._asdict() for episodes in options.episodes]
    print_table(costs)
    if options.out:
        write_results(options.out, command_line(), SEED, costs, packages=("pydantic",))


if __name__ == "__main__":
    main()
