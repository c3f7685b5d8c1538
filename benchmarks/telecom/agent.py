"""One fixed agent without a model, for every arm of the telecom benchmark.

It reads the ticket, runs the read-only tools once (diagnosis), follows what it was given, if anything, and explores
with the calls that are left. What it may do comes from the tools' own schemas: arguments are ids, numbers and names
that the ticket or an earlier answer contains. It stops on the check that the ticket names (a message can be sent, the
speed is excellent, there is signal), and hands over to a human when there is nothing left to try. Every call counts,
also those that verify; it never sees the task's hidden assertions.

Its common sense is small and the same in all arms: a setting that reads off, no, none, missing or overdue is suspicious
(or on, where the tool's description says that it disconnects or reduces something); suspicious settings are changed
first, and of the rest what took the signal away or improved nothing is undone.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.telecom.world import Tool, World

HAND_OVER = "transfer_to_human_agents"
DIAGNOSES = 24
"""Most calls that the diagnosis may take; it takes some twenty."""
_WRONG = re.compile(r"\b(?:off|no|not|none|missing|false|disabled|overdue|suspended)\b", re.IGNORECASE)
_ON = re.compile(r"\b(?:on|yes|true|enabled|connected)\b", re.IGNORECASE)
MOST_GB = 2.0
"""The operator's policy, which the agent may read: at most 2 GB are refuelled."""
_REFUSED = re.compile(r"Error|Failed|Cannot|No |You do not|.{0,40}\balready\b")
_HARMFUL = re.compile(r"\b(?:disconnects|reduces|limits|stops)\b")
_OPPOSITES = {"enable": "disable", "disable": "enable", "connect": "disconnect", "disconnect": "connect"}
_GRADES = ("failed", "Very Poor", "(Poor", "(Fair", "(Good", "(Excellent")
_COMMON = {
    "a", "an", "the", "of", "or", "and", "to", "for", "your", "you", "phone", "s", "on", "off", "is", "are", "it",
    "this", "that", "in", "mode", "status", "set", "toggles",
}  # fmt: skip
_COMMON |= {word[:6] for word in _COMMON}


_OWNERS: dict[str, tuple[str, ...]] = {}
"""Which tools a line is about, as far as it was worked out; the tools are the same for all tickets."""


class OutOfCalls(Exception):
    """The budget is spent."""


class Call(NamedTuple):
    """A tool with its arguments."""

    tool: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """As it is written in a trajectory."""
        return f"{self.tool}({json.dumps(dict(self.arguments)) if self.arguments else ''})"


Recalled = Sequence[tuple[Call, tuple[str, ...]]]
"""A remembered run as the agent reads it: calls, each with the lines that call for it, if that is known."""


def parsed(action: str) -> Call | None:
    """The call that an action's text stands for; None if it is none."""
    found = re.match(r"(\w+)\((.*)\)", action, re.DOTALL)
    if found is None:
        return None
    try:
        arguments = json.loads(found[2] or "{}")
    except ValueError:
        return None
    return Call(found[1], tuple(_frozen(a) for a in arguments.items()))


class Goal(NamedTuple):
    """The check that a ticket names: which tool, and what its answer has to say."""

    tool: str
    wanted: re.Pattern[str]


def goal_of(ticket: str) -> Goal:
    """The check by which this ticket wants to be judged; its last sentences name it."""
    if "MMS message" in ticket:
        return Goal("can_send_mms", re.compile(r"can send"))
    if "speed test" in ticket:
        return Goal("run_speed_test", re.compile(r"\(Excellent\)"))
    return Goal("check_status_bar", re.compile(r"Poor|Fair|Good|Excellent"))


class Agent:
    """The agent at work on one ticket, with a budget of calls."""

    def __init__(self, world: World, *, budget: int) -> None:
        self.world = world
        self.budget = budget
        self.steps: list[dict[str, Any]] = []
        self.calls = 0
        self.seen: dict[Call, str] = {}
        self.kept: list[Call] = []
        self.given_up: set[Call] = set()
        self.goal = goal_of(world.ticket)
        self.solved = False
        self.handed_over = False

    # -- calls -----------------------------------------------------------------------------------------------

    def spend(self) -> None:
        """Take one call from the budget; the last one is kept for handing over."""
        if self.calls >= self.budget - 1:
            raise OutOfCalls
        self.calls += 1

    def call(self, call: Call) -> bool:
        """Do it and note it; False when the tool refused."""
        self.spend()
        return self._do(call)

    def _do(self, call: Call) -> bool:
        answer = self.world.call(call.tool, dict(call.arguments))
        failed = answer.failed or (not self.world.tools[call.tool].reads and bool(_REFUSED.match(answer.text)))
        self.steps.append({"action": str(call), "observation": answer.text, "failed": failed})
        if self.world.tools[call.tool].reads:
            self.seen[call] = answer.text
        if not failed:
            self._last = answer.text
        return not failed

    def check(self) -> bool:
        """Run the ticket's own check, unless the last answer shows that there is no signal at all."""
        call = Call(self.goal.tool)
        self.call(call)
        self.solved = bool(self.goal.wanted.search(self.seen[call]))
        return self.solved

    def hand_over(self) -> None:
        """Give up: one call, which the budget always has left."""
        self.calls += 1
        self._do(Call(HAND_OVER, (("summary", "I cannot fix the issue."),)))
        self.kept.append(Call(HAND_OVER, (("summary", "I cannot fix the issue."),)))
        self.handed_over = True

    # -- diagnosis -------------------------------------------------------------------------------------------

    def diagnose(self) -> None:
        """Call every read-only tool once, as far as its arguments are known; the ticket's own line among the ids."""
        done: set[str] = set()
        for _ in range(3):  # what one tool shows is what another one asks for
            for tool in self.world.tools.values():
                if tool.reads and tool.name not in done and self._looked(tool):
                    done.add(tool.name)

    def _looked(self, tool: Tool) -> bool:
        for call in self.groundings(tool):
            if len(self.seen) >= DIAGNOSES:
                return False
            if call not in self.seen:
                self.call(call)
            if tool.name != "get_details_by_id" or self._phone() in self.seen.get(call, ""):
                return True
        return False

    def state(self) -> str:
        """All that the read-only tools have said, the latest of each."""
        return "\n".join(sorted(dict.fromkeys(self.seen.values()), key=len))

    # -- what can be done ------------------------------------------------------------------------------------

    def groundings(self, tool: Tool) -> Iterator[Call]:
        """The calls of a tool whose required arguments are known by now, the likeliest first."""
        choices: list[list[tuple[str, Any]]] = []
        for name in tool.required:
            values = self._values(name, tool.parameters[name], tool)
            choices.append([(name, v) for v in values])
        yield from _combined(tool.name, choices)

    def _values(self, name: str, schema: dict[str, Any], tool: Tool) -> list[Any]:
        if "enum" in schema:
            return list(schema["enum"])
        if schema.get("type") == "object":
            return [{}] if all("default" in p for p in schema.get("properties", {}).values()) else []
        if schema.get("type") == "number":
            return [float(n) for n in re.findall(r"([\d.]+) ?GB", self.world.ticket)] or [MOST_GB]
        return self._texts(name, tool)

    def _texts(self, name: str, tool: Tool) -> list[str]:
        match name:
            case "phone_number":
                return [self._phone()]
            case "app_name":
                return sorted(self._apps(), key=lambda app: app not in self.world.ticket)
            case "permission":
                return self._permissions(tool)
            case _:
                return self._ids(name)

    def _phone(self) -> str:
        found = re.search(r"\b\d{3}-\d{3}-\d{4}\b", self.world.ticket)
        return found.group() if found else ""

    def _apps(self) -> list[str]:
        listed = re.findall(r"installed on the phone: (.+)", self.state())
        return [app.strip() for line in listed for app in line.split(",")]

    def _permissions(self, tool: Tool) -> list[str]:
        """Those that a refusal has listed; before that, those that the description names as examples."""
        listed = re.findall(r"available permissions: \[(.+?)\]", " ".join(s["observation"] for s in self.steps))
        if listed:
            return re.findall(r"'(\w+)'", listed[-1])
        named = re.search(r"like access to ([\w, ]+)", tool.description)
        return [w for w in re.findall(r"\w+", named[1]) if w != "or"] if named else []

    def _ids(self, name: str) -> list[str]:
        """Ids that were seen under this name; of several lines the one with the ticket's phone number."""
        phone = f'"phone_number": "{self._phone()}"'
        own = [text for text in self.seen.values() if phone in text]
        texts = [*own, *self.seen.values()]
        if name == "id":
            return [i for text in texts for found in _matches(r'"line_ids": \[(.*?)\]', text) for i in _quoted(found)]
        if name == "bill_id":
            found = [_matches(r'"bill_id": "(\w+)".*?"status": "(\w+)"', text) for text in self.seen.values()]
            bills = [bill for pairs in found for bill in pairs]
            return list(dict.fromkeys(bill for bill, status in bills if status == "Overdue"))
        return list(dict.fromkeys(i for text in texts for i in _matches(rf'"{name}": "(\w+)"', text)))[:1]

    def review(self) -> None:
        """Find out, after the work and whatever the budget, what of it was needed and what it has changed.

        What can be undone is undone, and left so where the check still holds without it; then all is looked at again.
        """
        self.budget = sys.maxsize
        for call in list(self.kept) if self.solved else ():
            if not self._undone(call):
                continue
            if self.check():
                self.kept.remove(call)
            else:
                self.call(call)
        for call in list(self.seen):
            self.call(call)

    # -- following what was recalled -------------------------------------------------------------------------

    def follow(self, recalled: Sequence[Recalled]) -> None:
        """Do what was recalled, the best first, as far as it applies here; check after each procedure.

        A step applies if a line that calls for it is seen here; where no step of a procedure names such lines, all do.
        The agent hands over only if the best match did, and only after the rest.
        """
        for procedure in recalled:
            calls = [c for c in self._applying(procedure) if c not in self.kept and c.tool != HAND_OVER]
            for call in calls:
                if self.call(call):
                    self.kept.append(call)
            if calls and self.check():
                return
        if recalled and any(call.tool == HAND_OVER for call, _ in recalled[0]):
            self.hand_over()

    def _applying(self, procedure: Recalled) -> list[Call]:
        here = {_plain(line) for line in self._lines()}
        blind = not any(when for _, when in procedure)
        return [c for c, when in procedure if self._repairs_by(c) and (blind or any(_plain(w) in here for w in when))]

    def _repairs_by(self, call: Call) -> bool:
        return call.tool in self.world.tools and not self.world.tools[call.tool].reads

    # -- repairs ---------------------------------------------------------------------------------------------

    def explore(self) -> None:
        """Mend all that looks suspicious, then check; then try what is left one by one, undoing what changes nothing.

        Twice, since one repair may need another.
        """
        for call in self._open():
            if self._suspicious(call) and self.call(call):
                self.kept.append(call)
        if self.kept and self.check():
            return
        for _ in range(2):
            self.given_up.clear()
            for call in self._open():
                if call not in self.kept and self._helped(call):
                    return

    def _open(self) -> Iterator[Call]:
        """Repairs not yet made in this round, looked up anew each time, as answers show new values."""
        done = {*self.kept, *self.given_up}
        while left := [c for c in self._repairs() if c not in done]:
            done.add(left[0])
            yield left[0]

    def _repairs(self) -> list[Call]:
        tools = [t for t in self.world.tools.values() if not t.reads and t.name != HAND_OVER]
        found = []
        for tool in tools:
            calls = list(self.groundings(tool))
            found += calls[:1] if any("enum" in p for p in tool.parameters.values()) else calls
        return found

    def _suspicious(self, call: Call) -> bool:
        """Whether a line that was seen is about this repair and reads wrong by what the tool says of itself.

        Wrong is off, no, missing and the like; for a tool that disconnects or reduces something, wrong is on.
        """
        return any(call.tool in self._owners(line) and self._reads_wrong(line, call) for line in self._lines())

    def _reads_wrong(self, line: str, call: Call) -> bool:
        harmful = call.tool.startswith("toggle") and _HARMFUL.search(self.world.tools[call.tool].description)
        return bool(_ON.search(line) if harmful else _WRONG.search(line)) and not call.tool.startswith("disable")

    def _lines(self) -> list[str]:
        return [line for text in self.seen.values() for line in _split(text)]

    def _owners(self, line: str) -> tuple[str, ...]:
        """The tools that a line is about: whose name and first sentence have most words in common with it."""
        if line not in _OWNERS:
            words = set(_words(line))
            shared = {t.name: len(words & _told(t)) for t in self.world.tools.values() if not t.reads}
            most = max(2, *shared.values())
            _OWNERS[line] = tuple(name for name, n in shared.items() if n == most)
        return _OWNERS[line]

    def _helped(self, call: Call) -> bool:
        """Make one repair and check; what took the signal away or changed nothing is undone."""
        before = self._health()
        if not self.call(call):
            return False
        if self._signal() or not before[0]:
            self.check()
        if self.solved or self._health() > before or not self._undone(call):
            self.kept.append(call)
        return self.solved

    def _signal(self) -> bool:
        """Whether the status bar last showed a signal."""
        bars = [m for s in self.steps for m in _matches(r"Status Bar: (.+)", s["observation"])]
        return bool(bars) and not re.search(r"Airplane Mode|No Signal", bars[-1])

    def _health(self) -> tuple[bool, int]:
        """How things stand: whether there is a signal, and the grade of the last check."""
        told = self.seen.get(Call(self.goal.tool), "")
        return self._signal(), max((i for i, grade in enumerate(_GRADES) if grade in told), default=0)

    def _undone(self, call: Call) -> bool:
        """Take it back, where its name says how: the same toggle again, or its opposite."""
        verb, _, rest = call.tool.partition("_")
        inverse = call.tool if verb == "toggle" else f"{_OPPOSITES.get(verb, '')}_{rest}"
        if inverse not in self.world.tools:
            return False
        self.call(Call(inverse, call.arguments))
        if inverse != call.tool:
            self.given_up.add(Call(inverse, call.arguments))
        return True


@functools.cache
def _split(text: str) -> tuple[str, ...]:
    """The statements of an answer: lines, the cells of a bar, the values of a record."""
    return tuple(part for part in re.split(r"\n|, (?=\")| \| |[{}\[\]]+", text) if part.strip())


def _words(text: str) -> list[str]:
    """The words of a text, cut to six letters so that *enabled* meets *enables*."""
    return [w[:6] for w in re.findall(r"[a-z0-9]+", text.lower().replace("wi-fi", "wifi").replace("_", " "))]


def _told(tool: Tool) -> set[str]:
    """The words of a tool's name and of the first sentence of its description, without what every tool says."""
    return set(_words(f"{tool.name} {tool.description.split('.')[0]}")) - _COMMON


def _combined(tool: str, choices: Sequence[list[tuple[str, Any]]]) -> Iterator[Call]:
    if not choices:
        yield Call(tool)
    elif len(choices) == 1:
        yield from (Call(tool, (_frozen(a),)) for a in choices[0])
    else:
        yield from (
            Call(tool, (_frozen(first), *rest.arguments))
            for first in choices[0]
            for rest in _combined(tool, choices[1:])
        )


def _frozen(argument: tuple[str, Any]) -> tuple[str, Any]:
    name, value = argument
    return name, _Empty() if value == {} else value


class _Empty(dict[str, Any]):
    """An empty object that can be part of a key."""

    def __hash__(self) -> int:  # type: ignore[override] # it is never filled
        return 0


def _plain(text: str) -> str:
    return " ".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])


@functools.cache
def _matches(pattern: str, text: str) -> tuple[Any, ...]:
    """What a pattern finds in a text; the same answers are asked about again and again."""
    return tuple(re.findall(pattern, text))


def _quoted(text: str) -> list[str]:
    return re.findall(r'"(\w+)"', text)
