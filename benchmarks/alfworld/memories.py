"""What the agent is told before a game, by the task sentence alone.

Nothing; raw trajectories, found in one of the usual ways; or what the server recalls over MCP.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import numpy as np

from benchmarks.alfworld.agent import Told, things_of, told_by
from benchmarks.common import DATA, Wire
from memp_mcp.embedder import load
from memp_mcp.models import Trajectory
from memp_mcp.settings import DEFAULT_EMBEDDER
from memp_mcp.transcripts import read

AGENTINSTRUCT = DATA / "retrieval" / "agentinstruct_trajectories.json"
KNOWAGENT = tuple(DATA / "alfworld" / f"knowagent_llama2_13b_D{i}.jsonl.xz" for i in (0, 1))


class Recalled(NamedTuple):
    """What the agent is told, and its size in tokens (characters / 4)."""

    told: tuple[Told, ...] = ()
    tokens: int = 0


Recall = Callable[[str], Recalled]
"""From the task sentence to what is told."""


def nothing(_: str) -> Recalled:
    """No memory."""
    return Recalled()


def trajectories(*files: Path) -> list[Trajectory]:
    """The runs of these files, as the server's import reads them."""
    return [t for file in files for t in read(file) if isinstance(t, Trajectory)]


def raw(chosen: Sequence[Trajectory]) -> Recalled:
    """Trajectories as they are: the task, then actions with what came back."""
    text = "".join(t.task + "".join(f"{s.action}\n{s.observation}\n" for s in t.steps) for t in chosen)
    told = tuple(Told(t.task, tuple(s.action for s in t.steps)) for t in chosen)
    return Recalled(told, len(text) // 4)


def at_random(runs: Sequence[Trajectory], *, seed: int) -> Recall:
    """Any run."""
    chance = random.Random(seed)
    return lambda _: raw([chance.choice(runs)])


def by_bm25(runs: Sequence[Trajectory], *, limit: int) -> Recall:
    """The runs whose tasks have the most telling words in common."""
    index = bm25s.BM25()
    index.index([_words(t.task) for t in runs], show_progress=False)
    return lambda task: raw(_best(runs, index.get_scores(_words(task)), limit))


def by_embedding(runs: Sequence[Trajectory], *, limit: int) -> Recall:
    """ExpRAG: the runs whose tasks are nearest, by the server's own embedder."""
    embedder = load(DEFAULT_EMBEDDER)
    tasks = embedder.embed([t.task for t in runs])
    return lambda task: raw(_best(runs, tasks @ embedder.embed([task])[0], limit))


def _best(runs: Sequence[Trajectory], scores: Any, limit: int) -> list[Trajectory]:
    return [runs[i] for i in np.argsort(-scores, kind="stable")[:limit]]


def by_oracle(runs: Sequence[Trajectory], *, limit: int) -> Recall:
    """A ceiling: the shortest successful runs of the same type, with as many of the same things as there are."""
    won = sorted((t for t in runs if t.succeeded), key=lambda t: len(t.steps))

    def recall(task: str) -> Recalled:
        same = [t for t in won if type_of(t.task) == type_of(task)]
        return raw(sorted(same, key=lambda t: -len(set(things_of(t.task)) & set(things_of(task))))[:limit])

    return recall


def type_of(task: str) -> str:
    """What kind of task a sentence of the games states."""
    words = set(re.findall(r"[a-z]+", task.lower()))
    kinds = {"look": {"look", "examine"}, "two": {"two"}, "heat": {"hot", "heat"}, "cool": {"cool", "cold"}}
    return next((kind for kind, signs in kinds.items() if signs & words), "clean" if "clean" in words else "place")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


# -- the server -------------------------------------------------------------------------------------------------


def imported(home: Path, files: Sequence[Path], **policies: str) -> None:
    """Cold start: the server's own import, into a memory of its own."""
    options = [f"--{name}={value}" for name, value in policies.items()]
    command = [sys.executable, "-m", "memp_mcp", "import", "--home", str(home), *options, *map(str, files)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"MEMP_LOCK_TIMEOUT": "120"})


class Server:
    """The real server on one memory, over MCP; *settings* are its own, such as MEMP_RETRIEVE."""

    def __init__(self, home: Path, *, limit: int = 3, full: bool = False, **settings: Any) -> None:
        self._wire = Wire(MEMP_HOME=str(home), MEMP_RECALL_WAIT="60", **settings).open()
        self._limit = limit
        self._detail = "full" if full else "brief"

    def recall(self, task: str) -> Recalled:
        """What the server recalls for a task."""
        return self.asked(task)[0]

    def asked(self, task: str) -> tuple[Recalled, dict[str, Any]]:
        """What the server recalls for a task, and its whole answer."""
        answer = self.call("recall_procedure", task=task, limit=self._limit, detail=self._detail)
        told = tuple(told_by(p) for p in answer.get("procedures", ()))
        return Recalled(told, len(json.dumps(answer)) // 4), answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Any tool of the server."""
        return self._wire.call(tool, **arguments)

    def close(self) -> None:
        """End the server."""
        self._wire.__exit__(None, None, None)
