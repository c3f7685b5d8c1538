"""A memory of any size out of real ALFWorld tasks: what recall and record are measured on.

The first procedures are tasks as they stand in the training games, in people's words and in the template's; when these
are used up (10,597 of them), further ones are made by putting other objects, places and rooms of the same data into
them, so that all texts differ. Each has the game's own walkthrough as its script. Vectors come from the embedder itself
and are kept in a cache folder, 10,000 tasks a file: 100,000 take half an hour of CPU.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import DATA
from memp_mcp import keys
from memp_mcp.embedder import load
from memp_mcp.lookup import evidence
from memp_mcp.models import Commit, Procedure, ScriptStep, Step, Trajectory, stable_id
from memp_mcp.settings import DEFAULT_EMBEDDER
from memp_mcp.store import Store, Vectors

Floats = NDArray[np.float32]

BLOCK = 10_000
SEED = 20_250_808
COMMITS = 1_000
"""Operations written at once."""
ROOMS = ("kitchen", "bedroom", "bathroom", "living room")
"""Of ALFWorld's scenes."""


class Task(NamedTuple):
    """A task in words, and how it was done."""

    text: str
    walkthrough: tuple[str, ...]


class Population(NamedTuple):
    """Tasks with the vectors of their texts and the means of the vectors of their key phrases, (tasks, 384) each."""

    tasks: list[Task]
    vectors: Floats
    phrases: Floats


def queries() -> list[str]:
    """Other games' tasks (valid_seen), in people's words and in the template's; none is in a population as it is."""
    others = games("valid_seen")
    return sorted(
        {text for game in others for text in (*game["human"], game["templ"])} - {t.text for t in real_tasks()}
    )


def population(size: int, cache_folder: Path, *, jobs: int = 1) -> Population:
    """The first *size* tasks with their vectors, embedded where the cache has them not, by *jobs* processes."""
    cache_folder.mkdir(parents=True, exist_ok=True)
    chosen = tasks(-(-size // BLOCK) * BLOCK)
    files = [cache_folder / f"{DEFAULT_EMBEDDER}-{SEED}-{start // BLOCK:03}.npz" for start in range(0, size, BLOCK)]
    missing = [(i, file) for i, file in enumerate(files) if not file.exists()]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:  # LanceDB does not like to be forked
        texts = [[t.text for t in chosen[i * BLOCK : (i + 1) * BLOCK]] for i, _ in missing]
        list(pool.map(_embed_block, texts, [file for _, file in missing]))
    blocks = [np.load(file) for file in files]
    vectors, phrases = (np.concatenate([block[name] for block in blocks])[:size] for name in ("vectors", "phrases"))
    return Population(chosen[:size], vectors, phrases)


def _embed_block(texts: Sequence[str], file: Path) -> None:
    embedder = load(DEFAULT_EMBEDDER)
    phrases = [keys.phrases(text) or (text,) for text in texts]
    number = {phrase: i for i, phrase in enumerate(dict.fromkeys(p for of_one in phrases for p in of_one))}
    made = embedder.embed(list(number))
    means = np.stack([made[[number[p] for p in of_one]].mean(0) for of_one in phrases])
    unfinished = file.with_suffix(".tmp.npz")
    np.savez(unfinished, vectors=embedder.embed(texts), phrases=means)
    unfinished.replace(file)


# -- tasks --------------------------------------------------------------------------------------------------


def tasks(size: int) -> list[Task]:
    """That many tasks, all in different words, always the same ones."""
    found = {task.text: task for task in real_tasks()[:size]}
    forms = _forms()
    rng = random.Random(SEED)
    while len(found) < size:
        task = rng.choice(forms)(rng)
        found.setdefault(task.text, task)
    return list(found.values())


@cache
def games(split: str) -> list[dict[str, Any]]:
    """ALFWorld games: `templ` and `human` tell the task, `o` and `r` the object and place, `walk` the way."""
    with lzma.open(DATA / "alfworld" / "human_tasks.json.xz") as packed:
        found: list[dict[str, Any]] = json.load(packed)[split]
    return found


@cache
def real_tasks() -> list[Task]:
    """What people and the template called the training games, each wording once, in a fixed random order."""
    found: dict[str, Task] = {}
    for game in games("train"):
        for text in (*game["human"], game["templ"]):
            if text.strip():
                found.setdefault(text.strip(), Task(text.strip(), tuple(game["walk"])))
    mixed = sorted(found.values())
    random.Random(SEED).shuffle(mixed)
    return mixed


def _forms() -> list[Any]:
    """The wordings that name their object, each as a function that puts another object, place and room into it."""
    known = games("train")
    objects, places = (sorted({_spaced(game[key]) for game in known}) for key in ("o", "r"))
    forms = []
    for game in known:
        for text in dict.fromkeys((*game["human"], game["templ"])):
            pattern = _naming(game["o"])
            if pattern.search(text):
                told = (text.strip().rstrip("."), pattern, _naming(game["r"]), tuple(game["walk"]), objects, places)
                forms.append(partial(_varied, *told))
    return forms


def _varied(
    text: str,
    of_object: re.Pattern[str],
    of_place: re.Pattern[str],
    walkthrough: tuple[str, ...],
    objects: Sequence[str],
    places: Sequence[str],
    rng: random.Random,
) -> Task:
    there = of_place.sub(rng.choice(places), text)
    room = rng.choice(("", *(f" in the {room}" for room in ROOMS)))
    return Task(of_object.sub(rng.choice(objects), there) + room, walkthrough)


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _naming(name: str) -> re.Pattern[str]:
    """Finds a thing in a text, written in one word or in several, in either number."""
    return re.compile(rf"\b{_spaced(name).replace(' ', ' ?')}(s|es)?\b", re.IGNORECASE)


# -- on disk ------------------------------------------------------------------------------------------------


def write(store: Store, people: Population) -> None:
    """Store a population: each task with its trajectory, its procedure and its event, many in one write."""
    store.adopt(DEFAULT_EMBEDDER, people.vectors.shape[1])
    for start in range(0, len(people.tasks), COMMITS):
        made = list(_commits(people, range(start, min(start + COMMITS, len(people.tasks)))))
        store.apply(*(commit for commit, _ in made), vectors={c.procedures[0].id: v for c, v in made})


def procedure_id(index: int) -> str:
    """The id of the procedure that the task with this number has."""
    return stable_id("p", str(SEED), str(index))[:14]


def _commits(people: Population, indices: range) -> Iterator[tuple[Commit, Vectors]]:
    for i in indices:
        task = people.tasks[i]
        steps = tuple(Step(action=action) for action in task.walkthrough)
        trajectory = Trajectory(task=task.text, steps=steps, outcome="success", key=f"population {i}")
        procedure = Procedure(
            id=procedure_id(i),
            title=task.text,
            when_to_use=task.text,
            script=tuple(ScriptStep(name=f"s{n}", text=action) for n, action in enumerate(task.walkthrough, 1)),
            exemplar=steps,
            exemplar_id=trajectory.id,
            tasks=(task.text,),
            keywords=keys.phrases(task.text),
            evidence=(trajectory.id,),
        )
        told = evidence(trajectory, procedure, client="benchmark")
        commit = Commit(op_id=trajectory.id, trajectory=trajectory, procedures=(procedure,), events=(told,))
        yield commit, Vectors(people.vectors[i].tolist(), people.phrases[i].tolist())
