"""The ALFWorld games of the data folder, played by TextWorld's own engine, ten times cheaper than out of the box.

Nothing of the games' logic is touched. Three things are computed once instead of at every step: the grammar's parse,
the translation of the PDDL problem, and the wording of a command, which depends on its arguments alone; and contexts of
the grammar, whose values nobody changes, are copied without copying those. Since the games are deterministic, what a
sequence of commands leads to is remembered for the next arm that plays the same game.
"""

from __future__ import annotations

import functools
import json
import lzma
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import fast_downward
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld import EnvInfos
from textworld.envs.pddl import PddlEnv, textgen
from textworld.logic import Rule

TASK = "@@TASK@@"

textgen._parse_and_convert = functools.cache(textgen._parse_and_convert)  # noqa: SLF001 - asked the same few things over and over
Rule.parse_conjunctive_query = staticmethod(functools.cache(Rule.parse_conjunctive_query))
_translate = fast_downward.pddl2sas


def _copy_context(context: dict[str, Any]) -> dict[str, Any]:
    return context | {"variables": dict(context["variables"]), "mapping": dict(context["mapping"])}


textgen.copy_context = _copy_context


class Sight(NamedTuple):
    """What the agent is shown: the text that came back, the commands that are admissible now, and whether it won."""

    text: str
    commands: tuple[str, ...]
    won: bool


class Entry(NamedTuple):
    """A game as the data holds it."""

    path: str
    task: str
    walkthrough: tuple[str, ...]
    problem: str

    @property
    def type(self) -> str:
        """One of the six task types, such as pick_heat_then_place_in_recep."""
        return self.name.split("-")[0]

    @property
    def room(self) -> str:
        """The number of the floor plan that the game is played in."""
        return self.name.split("/")[0].rsplit("-", 1)[1]

    @property
    def name(self) -> str:
        """What other collections call this game: type, things, room and trial."""
        return "/".join(self.path.split("/")[1:3])


class Games:
    """All games of one file; a game is compiled when it is first played."""

    def __init__(self, file: Path, cache: Path) -> None:
        with lzma.open(file, "rt") as lines:
            shared = json.loads(next(lines))
            rows = [json.loads(line) for line in lines]
        self._shared = {"pddl_domain": shared["pddl_domain"], "grammar": shared["grammar_template"]}
        self._cache = cache
        self.entries = [Entry(r["path"], r["task"].strip(), tuple(r["walkthrough"]), r["pddl_problem"]) for r in rows]

    def split(self, name: str) -> list[Entry]:
        """The games of train, valid_train or valid_seen."""
        return [e for e in self.entries if e.path.startswith(f"{name}/")]

    def game(self, entry: Entry) -> Game:
        """A game to be played, with what is known of it from earlier plays."""
        return Game(self._shared | {"pddl_problem": entry.problem}, entry, self._cache)


class Game:
    """One game; can be played from the start by any sequence of commands."""

    def __init__(self, data: dict[str, str], entry: Entry, cache: Path) -> None:
        self._data = data
        self._task = entry.task
        self._file = cache / f"{entry.path.replace('/', '__')}.pickle"
        self._sights: dict[tuple[str, ...], Sight] = _load(self._file) or {}
        self._saved = len(self._sights)
        self._env: Any = None
        self._at: tuple[str, ...] | None = None

    def sight(self, commands: tuple[str, ...] = ()) -> Sight:
        """What is seen after these commands."""
        if commands not in self._sights:
            self._sights[commands] = self._played(commands)
        return self._sights[commands]

    def save(self) -> None:
        """Keep what was seen for later plays."""
        if len(self._sights) > self._saved:
            _save(self._file, self._sights)

    def _played(self, commands: tuple[str, ...]) -> Sight:
        if self._env is None:
            self._env = AlfredDemangler(_Env(EnvInfos(won=True, admissible_commands=True)))
            self._env.unwrapped.translations = self._file.with_suffix(".sas")
            self._env.load(self._data)
        if commands and self._at == commands[:-1]:
            state, _, _ = self._env.step(commands[-1])
        else:
            state = self._env.reset()
            for command in commands:
                state, _, _ = self._env.step(command)
        self._at = commands
        text = state.feedback.strip().replace(TASK, self._task)
        return Sight(text, tuple(state.admissible_commands), bool(state.won))


class _Env(PddlEnv):  # type: ignore[misc]  # textworld has no types
    """TextWorld's environment with the wording of commands and the translation of the problem remembered."""

    translations: Path

    def load(self, data: dict[str, str]) -> None:
        translation = _load(self.translations) or _translate(data["pddl_domain"], data["pddl_problem"], verbose=False)
        _save(self.translations, translation)
        # Asked for a second, optimized translation too, which only replanning would use.
        fast_downward.pddl2sas = lambda *_, **__: translation
        self._worded: dict[Any, str] = {}
        super().load(data)
        self._derive = self._logic.grammar.derive
        self._logic.grammar.derive = self._derived

    def reset(self) -> Any:
        translation = _load(self.translations)
        fast_downward.pddl2sas = lambda *_, **__: translation
        return super().reset()

    def _derived(self, start: str, context: dict[str, Any]) -> str:
        if start.startswith("#"):  # feedback: it depends on the state
            return str(self._derive(start, context))
        wording = (start, tuple((p.name, v.name) for p, v in context["mapping"].items()))
        if wording not in self._worded:
            self._worded[wording] = self._derive(start, context)
        return self._worded[wording]


def _load(file: Path) -> Any:
    return pickle.loads(file.read_bytes()) if file.exists() else None  # noqa: S301 - written by this program


def _save(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")  # another arm may play the same game
    part.write_bytes(pickle.dumps(value))
    part.replace(file)
