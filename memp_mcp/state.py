"""The observed state: what read-only steps have shown, line by line, and what a run has changed of it.

Where tasks are worded alike, the state tells them apart: the same ticket is solved by other steps when *Airplane Mode*
is *ON* than when it is *OFF*. What a look showed before a repair and no longer after it is the symptom (a
precondition); what it showed only afterwards is the check. Values count, so lines are compared whole, not by words.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memp_mcp import evidence, hazards, keys
from memp_mcp.models import Step

MAX_LINES = 120
MAX_LINE = 160
ADDS = 5.0
"""Weight of the symptoms that a procedure adds to those named before it; chosen on train tickets of τ²-bench."""
_SETTING = re.compile(r"(.{2,80}?)(?::\s+|\s+is\s+)(.+)")
_ABOUT = 0.5
"""Share of a line's words that an action has to name for the line to be about it."""
_VALUES = frozenset({
    "on", "off", "yes", "no", "true", "false", "enabled", "disabled", "active", "inactive", "none", "null", "now",
    "currently", "turned", "not",
})  # fmt: skip
"""Words that say how a setting is, not which it is."""


class Conditions(NamedTuple):
    """What a run tells about the state that it was for.

    ``observed`` is all that was seen before the first change; ``symptoms`` are the lines that the run has made go
    away, each with the look that showed it; ``check`` says how to see that it worked, or nothing.
    """

    observed: tuple[str, ...] = ()
    symptoms: tuple[tuple[str, str], ...] = ()
    check: str = ""


def lines(text: str) -> tuple[str, ...]:
    """The statements of an observed state: lines and the cells of a bar; of JSON, each value with its name."""
    found = (" ".join(part.strip(" -*•\t").split()) for part in _parts(text))
    return tuple(dict.fromkeys(line[:MAX_LINE] for line in found if len(line) > 1))


def _parts(text: str) -> Iterator[str]:
    for line in text.splitlines():
        values = _json_values(line)
        yield from values if values is not None else re.split(r"\s\|\s", line)


def _json_values(line: str) -> list[str] | None:
    if not line.lstrip().startswith(("{", "[")):
        return None
    try:
        return list(_leaves("", json.loads(line)))
    except ValueError:
        return None


def _leaves(name: str, value: object) -> Iterator[str]:
    match value:
        case dict():
            for inner, content in value.items():
                yield from _leaves(str(inner), content)
        case list():
            for content in value:
                yield from _leaves(name, content)
        case _:
            yield f"{name}: {json.dumps(value) if not isinstance(value, str) else value}"


# -- what a run has changed -----------------------------------------------------------------------------------


def conditions(steps: Sequence[Step]) -> Conditions:
    """Read the state that a run was for off its own looks; empty where it never looked before it changed something."""
    looks: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    changes = []
    for i, step in enumerate(steps):
        if evidence.observes(step.action):
            looks.setdefault(step.action, []).append((i, _safe(lines(step.observation))))
        elif evidence.failure(step) is None:
            changes.append(i)
    if not changes:
        return Conditions()
    before = (shown for seen in looks.values() for i, shown in seen if i < changes[0])
    first = [line for shown in sorted(before, key=len) for line in shown]  # a long record would crowd out the rest
    twice = {look: seen for look, seen in looks.items() if seen[0][0] < changes[0] < seen[-1][0]}
    symptoms = {line: look for look, seen in twice.items() for line in seen[0][1] if line not in seen[-1][1]}
    return Conditions(
        observed=tuple(dict.fromkeys(first))[:MAX_LINES],
        symptoms=tuple(symptoms.items())[:MAX_LINES],
        check=_check(twice),
    )


def _safe(observed: Iterable[str]) -> tuple[str, ...]:
    """The lines without what would do harm in a script: somebody else has written them."""
    return tuple(line for line in observed if not hazards.hazards(line))


def without_last_looks(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps up to the last change, where the looks after it have shown what the run has changed."""
    last = max((i for i, s in enumerate(steps) if not evidence.observes(s.action)), default=len(steps) - 1)
    return tuple(steps[: last + 1] if conditions(steps).symptoms else steps)


def _check(twice: dict[str, list[tuple[int, tuple[str, ...]]]]) -> str:
    """The look that was taken most often and has changed, with what it showed in the end."""
    gained = {look: [n for n in seen[-1][1] if n not in seen[0][1]] for look, seen in twice.items()}
    changed = [look for look in twice if gained[look]]
    if not changed:
        return ""
    asked = max(changed, key=lambda look: len(twice[look]))
    return f"{asked} -> {'; '.join(gained[asked][:3])}"


def whens(texts: Sequence[str], steps: Sequence[Step], symptoms: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """For each line of a script, the symptoms that it is about: by the words that it and its answer share with them.

    A symptom goes to the line that names most of it, to several if they name it alike; where none does, to those that
    name what it was looked at with.
    """
    told = [_told(text, steps) for text in texts]
    found: list[list[str]] = [[] for _ in texts]
    for line, look in symptoms:
        for owner in _owners(line, told) or _owners(look, told):
            found[owner].append(line)
    return [tuple(owned) for owned in found]


def _told(text: str, steps: Sequence[Step]) -> set[str]:
    """The words of a script's line and of the beginning of its answer; a whole record would be about anything."""
    answer = next((s.observation for s in reversed(steps) if s.action == text), "")
    return {*keys.content_words(text), *keys.content_words(answer.strip().partition("\n")[0][:MAX_LINE])}


def _owners(line: str, told: Sequence[set[str]]) -> list[int]:
    setting = _SETTING.fullmatch(line)
    words = set(keys.content_words(setting[1] if setting else line))
    name = (words - _VALUES) or words
    scores = [(len(name & t) / len(name) if name else 0.0, len(words & t)) for t in told]
    best = max(scores, default=(0.0, 0))
    return [i for i, s in enumerate(scores) if s == best] if best[0] >= _ABOUT else []


# -- how alike two states are ---------------------------------------------------------------------------------


class Known(NamedTuple):
    """A remembered state: what was observed, and which lines of it the procedure has made go away."""

    observed: Sequence[str]
    symptoms: Sequence[str]


def fits(now: str, known: Sequence[Known]) -> list[float | None]:
    """How well each remembered state fits the present one, in [-1, 2]; None where no state is remembered.

    The sum of two: the cosine of the states, where a line counts the more the fewer of *known* have it; and the share
    of the symptoms that are there now, less the share that the present state contradicts (*ON* where it was *OFF*).
    """
    present = set(map(str.casefold, lines(now)))
    settings = _settings(present)
    states = [{x.casefold() for x in (*k.observed, *k.symptoms)} for k in known]
    seen = Counter(line for s in states for line in s)
    weight = {line: math.log((1 + len(known)) / n) for line, n in seen.items()}
    return [
        _cosine(present, s, weight) + _held({x.casefold() for x in k.symptoms}, present, settings) if s else None
        for k, s in zip(known, states, strict=True)
    ]


def in_turn(now: str, known: Sequence[Known], scores: Sequence[float]) -> list[int]:
    """The order in which to name them: each next one by its score and by what it adds.

    What it adds is the share of the present symptoms that it knows and those before it do not; *scores* are about 1
    apart. So a few procedures together cover a state that none of them has met as a whole.
    """
    present = set(map(str.casefold, lines(now)))
    seen = Counter(x for k in known for x in {x.casefold() for x in (*k.observed, *k.symptoms)})
    met = [{x for s in k.symptoms if (x := s.casefold()) in present} for k in known]
    worth = {x: math.log((1 + len(known)) / seen[x]) ** 2 for m in met for x in m}
    total = 1.0 + sum(worth.values())
    order: list[int] = []
    left = list(range(len(known)))
    while left:
        best = max(left, key=lambda i: scores[i] + ADDS * sum(worth[x] for x in met[i]) / total)
        left.remove(best)
        order.append(best)
        worth |= dict.fromkeys(met[best], 0.0)
    return order


def _cosine(one: set[str], other: set[str], weight: dict[str, float]) -> float:
    """Cosine of two sets of weighted lines; a line that no remembered state has says nothing about any of them."""
    shared, left, right = (sum(weight.get(x, 0.0) ** 2 for x in s) for s in (one & other, one, other))
    return shared / math.sqrt(left * right) if left and right else 0.0


def _held(symptoms: set[str], present: set[str], settings: dict[str, set[str]]) -> float:
    if not symptoms:
        return 0.0
    return (len(symptoms & present) - sum(_contradicted(x, settings) for x in symptoms)) / len(symptoms)


def contradict(one: Known, other: Known) -> bool:
    """Whether two cases are not one: they share no symptom, or one of either has another value in the other's state."""
    left, right = ({x.casefold() for x in k.symptoms} for k in (one, other))
    if one.observed and other.observed and (left or right) and left.isdisjoint(right):
        return True
    pairs = ((one, other), (other, one))
    return any(_contradicted(x.casefold(), _settings_of(b)) for a, b in pairs for x in a.symptoms)


def _settings_of(known: Known) -> dict[str, set[str]]:
    return _settings(x.casefold() for x in (*known.observed, *known.symptoms))


def _settings(present: Iterable[str]) -> dict[str, set[str]]:
    """The values seen for each setting; one that was seen with several says nothing."""
    found: dict[str, set[str]] = {}
    for line in present:
        if setting := _SETTING.fullmatch(line):
            found.setdefault(setting[1], set()).add(setting[2])
    return found


def _contradicted(symptom: str, settings: dict[str, set[str]]) -> bool:
    setting = _SETTING.fullmatch(symptom)
    values = settings.get(setting[1], set()) if setting else set()
    return len(values) == 1 and setting is not None and setting[2] not in values
