"""Retrieve: which remembered procedures fit a task (Memp §3.2).

Four policies: **random** (the baseline), **query** (cosine of the task texts), **avefact** (mean similarity of key
phrases) and **hybrid**: cosine and full text fused, then what uses the commands that the task names, or those of the
best ones, then what has worked before. A vector takes a task for a bag of words (arXiv 2511.21730), near whatever is
about the same things; full text and the commands that a procedure uses tell what is done with them. Pure: candidates
in, matches out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from memp_mcp import evidence, hazards, keys, state
from memp_mcp.models import Counts, Procedure, RetrievePolicy, Value

CANDIDATES = 32
"""Rows asked for from each view; what 64 would change is in benchmarks/results/retrieval-development.json."""

WEIGHTS = {"dense": 0.45, "words": 0.45, "asked": 0.4, "commands": 0.1}
"""Of the cosine and of full text, each scaled to [0, 1] within its list, of using the commands that the task names, and
of the likeness of commands; chosen on development data (benchmarks/retrieval.py --development)."""
TRUST_IN_WORDS = 3
"""Power of the share of the task's words that the best procedures contain: full text of which the best list covers half
is worth an eighth. A template covers all of them and words decide; free wording covers few and vectors do."""
LOOKED_AT = 5
BEST = 8
"""Procedures whose commands a procedure's own are compared with."""
ALIKE = 1e-4
"""Values of a view that differ by less are the same: rounding must not decide between equal texts."""
ERROR_WEIGHT = 1.2 * sum(WEIGHTS.values())
"""More than the most that a task alone can score: whoever is stuck on an error asks about the error."""
UTILITY_WEIGHT = 0.2
"""What lies between a procedure that always works and one that never does; by choice, not by measurement."""
UNPROVEN = 0.1
"""What a procedure is put back by that nobody has verified: a lesson from a failure, a success only claimed.

One that was verified once goes by its fit alone, however provisional: in a young memory that is nearly every one.
How much it is, is by choice, not by measurement.
"""
HAZARDOUS = 2 * UNPROVEN
"""What a procedure is put back by that does something dangerous and that one source alone vouches for; by choice."""
OF_ONE_SOURCE = 0.5
"""Share of the places, rounded up, that one source may have with what it alone vouches for, while another source has
something that is relevant too."""
_QUOTED = re.compile(r"`([^`]+)`")
COVERED = 0.6
"""Share of a task's content words from which on a procedure is about it whatever the vectors say."""
COVERED_ALONE = 0.5
"""The same where words are all there is."""


class Candidate(NamedTuple):
    """A procedure with what each view says about it; None where a view did not return it."""

    procedure: Procedure
    dense: float | None = None
    words: float | None = None
    phrases: float | None = None
    errors: float | None = None


class Match(Value):
    """A procedure with its score: what a recall returns."""

    procedure: Procedure
    score: float
    relevance: float
    counts: Counts
    why: str


Views = Mapping[str, Sequence[tuple[Procedure, float]]]
"""The lists of the views: dense, words, phrases, errors; each best first."""


def gather(views: Views) -> list[Candidate]:
    """Join the lists of the views into one candidate a procedure."""
    found: dict[str, Candidate] = {}
    for view, rows in views.items():
        for procedure, value in rows:
            known = found.get(procedure.id) or Candidate(procedure)
            found[procedure.id] = Candidate(**{**known._asdict(), view: value})
    return list(found.values())


def rank(
    candidates: Sequence[Candidate],
    *,
    task: str,
    error: str = "",
    policy: RetrievePolicy,
    floor: float | None,
    counts: Mapping[str, Counts] | None,
    project: str = "",
    limit: int = 3,
) -> list[Match]:
    """Order candidates for a task, best first, without those that are not about it.

    Args:
        candidates: What the views returned.
        task: The task at hand.
        error: The error in the middle of it, if that is what help is sought for.
        policy: How to rank; random keeps the order of the candidates and knows no floor.
        floor: Cosine below which a procedure is not relevant; None where there are no vectors to compare.
        counts: Verified outcomes by procedure id; None: no notice is taken of outcomes, as under *vanilla*.
        project: The caller's own project: its procedures go first among equals.
        limit: How many to return at most.

    """
    if policy == "random":
        return [_match(c, 0.0, counts, "random") for c in candidates[:limit]]
    relevant = [c for c in candidates if is_relevant(c, task=task, error=error, floor=floor)]
    scores = _scores(relevant, policy, task=task, error=error)
    for index, candidate in enumerate(relevant):
        if policy == "hybrid":
            scores[index] -= HAZARDOUS if _is_hazardous(candidate.procedure) else 0.0
        if policy == "hybrid" and counts is not None:
            scores[index] += _standing(candidate.procedure, counts)
        if project and candidate.procedure.project == project:
            scores[index] += 1e-3
    order = sorted(range(len(relevant)), key=lambda i: (-round(scores[i], 6), _among_equals(relevant[i].procedure)))
    if error:
        order = [
            order[i] for i in state.in_turn(error, _known([relevant[i] for i in order]), [scores[i] for i in order])
        ]
    if policy == "hybrid":
        order = _spread(order, [c.procedure for c in relevant], limit)
    return [_match(relevant[i], scores[i], counts, _why(relevant[i])) for i in order[:limit]]


def _standing(procedure: Procedure, counts: Mapping[str, Counts]) -> float:
    """What a procedure gains by what came of it, or loses."""
    worked = UTILITY_WEIGHT * (counts.get(procedure.id, Counts()).utility - 0.5)
    return worked if procedure.verified else worked - UNPROVEN


def _is_hazardous(procedure: Procedure) -> bool:
    """Whether it does something dangerous that nobody but its own source has confirmed."""
    if procedure.is_vouched_for:
        return False
    texts = (*(s.text for s in procedure.script), *(s.action for s in procedure.exemplar), procedure.check)
    return any(hazards.hazards(text) for text in texts)


def _spread(order: Sequence[int], procedures: Sequence[Procedure], limit: int) -> list[int]:
    """The order in which no source fills the list with what it alone vouches for, while another has something relevant.

    A source is who recorded it, and in which project. What another one or a person has confirmed counts for no source;
    where there is one source only, nothing changes.
    """
    if len({_first_source(p) for p in procedures}) < 2:
        return list(order[:limit])
    most = math.ceil(limit * OF_ONE_SOURCE)
    left, taken = list(order), Counter[tuple[str, str]]()
    chosen: list[int] = []
    while left and len(chosen) < limit:
        best = next((i for i in left if not _is_full(procedures[i], taken, most)), left[0])
        left.remove(best)
        chosen.append(best)
        if source := _only_source(procedures[best]):
            taken[source] += 1
    return chosen


def _is_full(procedure: Procedure, taken: Mapping[tuple[str, str], int], most: int) -> bool:
    source = _only_source(procedure)
    return source is not None and taken.get(source, 0) >= most


def _only_source(procedure: Procedure) -> tuple[str, str] | None:
    """Who alone vouches for a procedure; None where somebody else has confirmed it."""
    return None if procedure.is_vouched_for else _first_source(procedure)


def _first_source(procedure: Procedure) -> tuple[str, str] | None:
    first = next(iter(procedure.sources), None)
    return (first.client, first.project) if first else None


def _among_equals(procedure: Procedure) -> tuple[int, int, tuple[str, ...], str]:
    """What is done more often goes first, then what is shorter; the rest gives the same order in every memory."""
    texts = tuple(s.text for s in procedure.script)
    return -len(procedure.evidence), len(texts), texts, procedure.id


def is_relevant(candidate: Candidate, *, task: str, error: str, floor: float | None) -> bool:
    """Whether a procedure is about the task, or has met the error; a wrong procedure costs more than none."""
    if error and _has_met(candidate.procedure, error):
        return True
    covered = keys.coverage(task, candidate.procedure.searched_text)
    if floor is None:
        return covered >= COVERED_ALONE
    return (candidate.dense or 0.0) >= floor or (covered >= COVERED and len(keys.word_set(task)) > 1)


def _has_met(procedure: Procedure, error: str) -> bool:
    """Whether a pitfall speaks of this error: most words of one are in the other, however long either is."""
    if keys.coverage(error, "\n".join(procedure.pitfall_lines)) >= COVERED:
        return True
    return any(keys.coverage(p.error, error) >= COVERED for p in procedure.pitfalls)


def _scores(candidates: Sequence[Candidate], policy: RetrievePolicy, *, task: str, error: str) -> list[float]:
    match policy:
        case "query":
            totals = scaled([c.dense for c in candidates])
        case "avefact":
            totals = scaled([c.phrases for c in candidates])
        case _:
            totals = _fused(candidates, task)
    if error:
        for i, value in enumerate(error_scores(candidates, error)):
            totals[i] += ERROR_WEIGHT * value
    return totals


def error_scores(candidates: Sequence[Candidate], error: str) -> list[float]:
    """How far each has met the error, in [0, 1]; where a state is remembered, how well it fits the observed one."""
    met = scaled([c.errors for c in candidates])
    fits = state.fits(error, _known(candidates))
    if not any(fits):
        return met
    return [m if f is None else f for m, f in zip(met, scaled(fits), strict=True)]


def _known(candidates: Sequence[Candidate]) -> list[state.Known]:
    return [state.Known(c.procedure.observed, c.procedure.preconditions) for c in candidates]


def _fused(candidates: Sequence[Candidate], task: str) -> list[float]:
    in_words = WEIGHTS["words"] * trust_in_words(candidates, task)
    both = zip(scaled([c.dense for c in candidates]), scaled([c.words for c in candidates]), strict=True)
    totals = [WEIGHTS["dense"] * dense + in_words * words for dense, words in both]
    procedures = [c.procedure for c in candidates]
    totals = [t + WEIGHTS["asked"] * does for t, does in zip(totals, does_what_is_asked(procedures, task), strict=True)]
    order = sorted(range(len(candidates)), key=lambda i: (-totals[i], procedures[i].id))
    alike = likeness(procedures, [procedures[i] for i in order[:BEST]])
    return [total + WEIGHTS["commands"] * like for total, like in zip(totals, alike, strict=True)]


def does_what_is_asked(procedures: Sequence[Procedure], task: str) -> list[float]:
    """Which share of the commands that the task names each uses, in [0, 1]: of those that there are.

    Who says *heat the mug* wants something heated; what is done with mugs is near, and most of it is something else.
    Where there are several sources, what one alone uses is no command: it could use every word as one.
    """
    wanted = keys.word_set(task)
    used = [_commands(p) | _replaced(p) for p in procedures]
    sources: dict[str, set[object]] = {}
    for procedure, commands in zip(procedures, used, strict=True):
        for command in commands:
            sources.setdefault(command, set()).add(_only_source(procedure))
    enough = min(2, len({source for known in sources.values() for source in known}))
    named = {c for c, known in sources.items() if len(known) >= enough and keys.word_set(c) & wanted}
    return [len(named & commands) / len(named) if named else 0.0 for commands in used]


def likeness(procedures: Sequence[Procedure], best: Sequence[Procedure]) -> list[float]:
    """How much the commands of each procedure are those of the best ones, in [0, 1]: the mean of their Jaccard indexes.

    What most of the best ones do is probably what is to be done; one that does something else is near by its things.
    """
    done = [_commands(p) for p in best]
    return [sum(_jaccard(own, others) for others in done) / len(done) for own in map(_commands, procedures)]


def _commands(procedure: Procedure) -> frozenset[str]:
    lines = [s.action for s in procedure.exemplar] or [s.text for s in procedure.script]
    return frozenset(_command(line) for line in lines)


def _replaced(procedure: Procedure) -> frozenset[str]:
    """The commands that it is known to have done otherwise since: who names one means what is done now."""
    return frozenset(_command(line) for p in procedure.pitfalls for line in _QUOTED.findall(p.text))


@lru_cache(maxsize=4096)  # the same procedures are candidates again and again
def _command(action: str) -> str:
    return evidence.head(action)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0


def trust_in_words(candidates: Sequence[Candidate], task: str) -> float:
    """How far full text is to be trusted for this task, in [0, 1]: by what the best of its list cover of the task.

    Where there is nothing else, it is trusted.
    """
    if all(c.dense is None for c in candidates):
        return 1.0
    found = sorted((c for c in candidates if c.words is not None), key=lambda c: -(c.words or 0.0))[:LOOKED_AT]
    covered = max((keys.coverage(task, c.procedure.searched_text) for c in found), default=0.0)
    return float(covered**TRUST_IN_WORDS)


def scaled(values: Sequence[float | None]) -> list[float]:
    """Scale a view's values to [0, 1] (min-max); what the view did not return gets 0, a single value 1."""
    present = [v for v in values if v is not None]
    if not present:
        return [0.0] * len(values)
    low, high = min(present), max(present)
    if high - low < ALIKE:
        return [0.0 if v is None else 1.0 for v in values]
    return [0.0 if v is None else (v - low) / (high - low) for v in values]


def _match(candidate: Candidate, score: float, counts: Mapping[str, Counts] | None, why: str) -> Match:
    return Match(
        procedure=candidate.procedure,
        score=round(score, 4),
        relevance=round(candidate.dense or 0.0, 3),
        counts=(counts or {}).get(candidate.procedure.id, Counts()),
        why=why,
    )


def _why(candidate: Candidate) -> str:
    seen = {"similar task": candidate.dense, "same words": candidate.words, "same error": candidate.errors}
    return ", ".join(name for name, value in seen.items() if value is not None) or "same key phrases"
