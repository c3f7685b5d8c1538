"""One fixed agent for all arms, without an LLM: it reads the task, what comes back, and the admissible commands.

Everything it does is a plan: milestones (commands that change the world, without the numbers of things) and an order of
places to search. Its own plan comes from the words of the task, with no idea where things are or which appliance heats;
it searches the places of the room in the order in which the room lists them. A recalled procedure or trajectory gives
another plan, which it follows first: the things of the recalled task stand for those of this one, in their order;
commands other than walking, opening and looking are milestones; the places named are searched first; and where a
recalled verb is not admissible, an admissible command with the same arguments does. When the recalled plan is at its
end or cannot go on, the agent falls back to its own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

MOVES = frozenset({"go", "open", "close"})
LOOKS = frozenset({"look", "examine", "inventory", "help", "think"})
VERB_OF = {"hot": "heat", "heat": "heat", "cool": "cool", "cold": "cool", "clean": "clean"}
"""What a word of the task asks to be done with the thing."""
NO_THING = frozenset(VERB_OF) | {
    *("put", "place", "find", "look", "examine", "two", "some", "and", "then", "that", "is", "it", "them", "a", "an"),
    *("the", "at", "in", "on", "to", "under", "with", "by", "of", "from", "or"),
}
"""Words of a task or a command that name no thing."""
ANY = "*"

_INSTANCE = re.compile(r"\b[a-z]+ \d+")
_THING = re.compile(r"\{?([a-z]+)\}?(?: \d+)?")
_STUCK = re.compile(r"could not (\w+) (\w+): not in ([a-z, ]+)")


class Sight(Protocol):
    """What the agent is shown after a command."""

    @property
    def text(self) -> str:
        """What came back."""

    @property
    def commands(self) -> tuple[str, ...]:
        """What is admissible now."""

    @property
    def won(self) -> bool:
        """Whether the task is done."""


class Game(Protocol):
    """A game that can be played from the start by any sequence of commands."""

    def sight(self, commands: tuple[str, ...] = ()) -> Sight:
        """What is seen after these commands."""


class Milestone(NamedTuple):
    """A command that changes the world: its verb, the kinds of its arguments (ANY fits any kind), and its wording."""

    verb: str
    things: tuple[str, ...]
    wording: str = ""


class Told(NamedTuple):
    """One recalled procedure or trajectory: the task it was learnt from, its lines, and its pitfalls."""

    task: str
    lines: tuple[str, ...]
    pitfalls: tuple[str, ...] = ()


class Plan(NamedTuple):
    """Milestones in their order; for each the kinds of places to search first; and by verb the kinds to search last."""

    milestones: tuple[Milestone, ...]
    places: tuple[tuple[str, ...], ...]
    last: frozenset[tuple[str, str]] = frozenset()
    source: int | None = None
    """Which of what was recalled it follows; None: it is the agent's own."""


# -- reading --------------------------------------------------------------------------------------------------


def things_of(task: str) -> list[str]:
    """The things that a task sentence names, in their order."""
    return [w for w in re.findall(r"[a-z]+", task.lower()) if w not in NO_THING]


def lifted(command: str) -> Milestone:
    """A command without the numbers of its things; script lines, with slots in braces, likewise."""
    verb, _, rest = command.lower().strip().partition(" ")
    things: list[str] = []

    def place(match: re.Match[str]) -> str:
        if match[1] in NO_THING:
            return match[0]
        things.append(match[1])
        return "{}"

    wording = f"{verb} {_THING.sub(place, rest)}"
    return Milestone(verb, tuple(things), wording)


def own_plan(task: str) -> Plan:
    """What the words of the task ask for, where everything has yet to be found."""
    words = re.findall(r"[a-z]+", task.lower())
    things = things_of(task)
    if len(things) < 2:
        return Plan((), ())
    thing, target = things[0], things[-1]
    wanted = [Milestone("take", (thing, ANY))]
    wanted += [Milestone(VERB_OF[w], (thing, ANY)) for w in words if w in VERB_OF][:1]
    lights = "look" in words or "examine" in words
    wanted.append(Milestone("use", (target,)) if lights else Milestone("put", (thing, target)))
    milestones = tuple(wanted) * (2 if "two" in words else 1)
    return Plan(milestones, ((),) * len(milestones))


def recalled_plan(task: str, told: Sequence[Told]) -> Plan | None:
    """The first of what was recalled that can be aligned with the task; the others add places to search."""
    numbered = [(i, lines) for i, t in enumerate(told) if (lines := _aligned(task, t))]
    aligned = [lines for _, lines in numbered]
    deeds = [m for m in aligned[0] if m.verb not in MOVES | LOOKS] if aligned else []
    if not deeds:
        return None
    anywhere = tuple(m._replace(things=(*m.things[:1], ANY)) if m.verb == "take" else m for m in deeds)
    in_vain = frozenset(_in_vain(told, things_of(task)[0]))
    return Plan(anywhere, tuple(_places(m, aligned) for m in deeds), in_vain, numbered[0][0])


def _aligned(task: str, told: Told) -> list[Milestone]:
    """The recalled lines with the things of this task in the place of those of the recalled one."""
    there, here = things_of(told.task), things_of(task)
    if len(there) != len(here):
        return []
    stands_for = dict(zip(there, here, strict=True))
    lines = [lifted(line) for line in told.lines]
    return [m._replace(things=tuple(stands_for.get(t, t) for t in m.things)) for m in lines if m.things]


def _places(milestone: Milestone, recalled: Iterable[Sequence[Milestone]]) -> tuple[str, ...]:
    """Where the recalled runs did this, first; then where they went before it."""
    did: list[str] = []
    went: list[str] = []
    for lines in recalled:
        for index, line in enumerate(lines):
            if line.verb == milestone.verb and line.things[:1] == milestone.things[:1]:
                did += line.things[1:]
                went += [t for m in reversed(lines[:index]) if m.verb == "go" for t in m.things]
                break
    return tuple(dict.fromkeys([*did, *went]))


def _in_vain(told: Iterable[Told], thing: str) -> Iterator[tuple[str, str]]:
    """Where others could not do it, as their pitfalls say; where a thing is not, is told of that thing alone."""
    for pitfall in (p for t in told for p in t.pitfalls):
        for verb, other, kinds in _STUCK.findall(pitfall):
            if verb != "take" or other == thing:
                yield from ((verb, kind) for kind in kinds.split(", "))


def told_by(procedure: Mapping[str, object]) -> Told:
    """A procedure of recall_procedure's answer, as the agent reads it: its script, or its exemplar if that is all."""
    lines = _texts(procedure, "script") or _texts(procedure, "exemplar")
    without_names = (re.sub(r"^s\d+: ", "", line).split(" -> ")[0] for line in lines)
    return Told(str(procedure.get("title", "")), tuple(without_names), tuple(_texts(procedure, "pitfalls")))


def _texts(procedure: Mapping[str, object], field: str) -> list[str]:
    found = procedure.get(field)
    return [str(line) for line in found] if isinstance(found, list) else []


# -- acting ---------------------------------------------------------------------------------------------------


class Agent:
    """Plays one game: asked for the next command after each sight.

    ``literal`` makes it try a recalled command in its own wording first, as an agent does that sees no list of
    admissible commands; what is refused is not tried again in this game.
    """

    def __init__(self, task: str, told: Sequence[Told] = (), *, literal: bool = False) -> None:
        plan = recalled_plan(task, told)
        self.follows = plan.source if plan else None
        self._done = 0
        self._recalled = len(plan.milestones) if plan else 0
        self.wasted = 0
        self.deeds: list[Milestone] = []
        self.stuck: Milestone | None = None
        self._plans = [plan, own_plan(task)] if plan else [own_plan(task)]
        self._literal = literal
        self._many = "two" in task.split()
        self._step = 0
        self._room: list[str] = []
        self._at = ""
        self._visited: set[str] = set()
        self._tried: set[str] = set()
        self._seen: dict[str, str] = {}
        self._held = ""
        self._settled: set[str] = set()
        self._refused: set[str] = set()

    def carried_out(self, *, won: bool) -> bool:
        """Whether what was recalled was really followed: to its end, or as far as it took to win."""
        return self._done > 0 and (won or self._done >= self._recalled)

    @property
    def searched(self) -> list[str]:
        """The kinds of places in which what the agent is stuck at could not be done."""
        return list(dict.fromkeys(_kind(p) for p in self._room if p in self._tried))

    def act(self, sight: Sight) -> str:
        """The next command."""
        if not self._room:
            self._room = _INSTANCE.findall(sight.text.split("Your task")[0])
        while self._plans:
            plan = self._plans[0]
            while self._step < len(plan.milestones):
                self.stuck = plan.milestones[self._step]
                command = self._towards(self.stuck, sight.commands)
                if command:
                    return command
                self._next()  # nowhere left to look for it
            self._fall_back()
        return "look"

    def saw(self, command: str, sight: Sight) -> None:
        """Take in what came back."""
        if sight.text.startswith("Nothing happens"):
            self._refused.add(lifted(command).wording)
            self.wasted += 1
            return
        verb, things = command.split(maxsplit=1)[0], _INSTANCE.findall(command)
        if verb in {"go", "open"}:
            self._look_around(things[0], sight.text)
        elif verb not in LOOKS and verb != "close":
            self.deeds += [Milestone("go", (_kind(self._at),), f"go to {_kind(self._at)}"), lifted(command)]
            self._done += len(self._plans) > 1
            self._note_deed(verb, things[0])

    def _look_around(self, place: str, text: str) -> None:
        self._at = place
        if f"The {place} is closed" not in text:
            self._visited.add(place)
            self._tried.add(place)
        elsewhere = {t: p for t, p in self._seen.items() if p != place}
        here = set(re.findall(r"\ba ([a-z]+ \d+)", text)) - {place}
        self._seen = elsewhere | dict.fromkeys(here, place)

    def _note_deed(self, verb: str, thing: str) -> None:
        self._next()
        if verb == "take":
            self._held = thing
            self._seen.pop(thing, None)
        elif self._held and verb in {"put", "move"}:
            self._settled.add(self._held)
            self._held = ""

    def _next(self) -> None:
        self._step += 1
        self._tried = set()

    def _fall_back(self) -> None:
        """On to the own plan, from the milestone that what is held allows."""
        self._plans.pop(0)
        self._step = 0
        self._tried = set()
        if not self._many:
            self._settled = set()  # it was put there, and that has not won: it was not done as the task wants it
        if self._plans and self._held:
            milestones = self._plans[0].milestones
            self._step = next((i for i, m in enumerate(milestones) if m.verb != "take"), 0)

    def _towards(self, milestone: Milestone, commands: Sequence[str]) -> str:
        """The deed itself if it can be done here, else a step on the way to where it may be; empty: given up."""
        deed = self._deed(milestone, commands)
        if deed:
            return self._in_recalled_words(milestone, deed) or deed
        if milestone.verb == "take" and self._held and _kind(self._held) == milestone.things[0]:
            return ""
        return self._search(milestone, commands)

    def _deed(self, milestone: Milestone, commands: Sequence[str]) -> str:
        fitting = [c for c in commands if self._fits(milestone, c)]
        exact = [c for c in fitting if c.split()[0] == milestone.verb]
        return next(iter(exact or fitting), "")

    def _fits(self, milestone: Milestone, command: str) -> bool:
        """Whether a command is of the same verb, or any deed, on things of the same kinds that are not settled."""
        verb, kinds, _ = lifted(command)
        if verb in MOVES | LOOKS or len(kinds) != len(milestone.things):
            return False
        if verb != milestone.verb and (ANY in milestone.things or verb in {"take", *VERB_OF.values()}):
            return False
        if any(want not in {ANY, kind} for want, kind in zip(milestone.things, kinds, strict=True)):
            return False
        return not set(_INSTANCE.findall(command)[:1]) & self._settled

    def _in_recalled_words(self, milestone: Milestone, deed: str) -> str:
        """The recalled wording of a deed, if the agent goes by it and it has not been refused."""
        things = _INSTANCE.findall(deed)
        if not self._literal or milestone.wording.count("{}") != len(things) or milestone.wording in self._refused:
            return ""
        return milestone.wording.format(*things)

    def _search(self, milestone: Milestone, commands: Sequence[str]) -> str:
        if f"open {self._at}" in commands and self._at not in self._tried:
            return f"open {self._at}"
        plan = self._plans[0]
        sought = milestone.things[0] if milestone.verb in {"take", "use"} else ""
        known = [p for t, p in self._seen.items() if _kind(t) == sought and t not in self._settled]
        kinds = (*milestone.things[1:], *plan.places[self._step])
        named = [p for kind in kinds for p in self._room if _kind(p) == kind]
        movable = all(_kind(p) != milestone.things[-1] for p in self._room)
        everywhere = movable and (ANY in milestone.things or len(milestone.things) == 1)
        rest = sorted(self._room, key=lambda p: (milestone.verb, _kind(p)) in plan.last) if everywhere else []
        been = self._visited if milestone.verb == "take" else self._tried
        ways = [*known, *(p for p in (*named, *rest) if p not in been)]
        return next((f"go to {p}" for p in ways if p != self._at and f"go to {p}" in commands), "")


def _kind(thing: str) -> str:
    return thing.rsplit(" ", 1)[0]


class Played(NamedTuple):
    """One game as it was played."""

    won: bool
    steps: tuple[tuple[str, str], ...]
    wasted: int
    follows: int | None
    """Which of what was recalled was followed, the first that could be aligned with the task; None: none could."""
    carried_out: bool
    """Whether it was followed to its end, or as far as it took to win."""
    known: tuple[str, ...]
    """What was done before anything was put away, as script lines: in a lost game that much was right."""
    stuck: str
    """Where a lost game ended, in words."""


def play(game: Game, agent: Agent, *, budget: int) -> Played:
    """Play until the game is won or the budget of steps is spent."""
    commands: tuple[str, ...] = ()
    steps: list[tuple[str, str]] = []
    sight = game.sight()
    while len(commands) < budget and not sight.won:
        command = agent.act(sight)
        commands = (*commands, command)
        sight = game.sight(commands)
        agent.saw(command, sight)
        steps.append((command, sight.text))
    stuck = agent.stuck if not sight.won else None
    ended = f"could not {stuck.verb} {stuck.things[0]}: not in {', '.join(agent.searched)}" if stuck else ""
    found = itertools.takewhile(lambda m: m.verb not in {"put", "move"}, agent.deeds)
    known = tuple(dict.fromkeys(m.wording.format(*m.things) for m in found))
    return Played(sight.won, tuple(steps), agent.wasted, agent.follows, agent.carried_out(won=sight.won), known, ended)
