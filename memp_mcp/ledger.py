"""The benefit ledger: what the recorded episodes say about how well the memory serves (Memp asks for such a measure).

Success rates count verified outcomes alone (`update.is_verified`); the others are counted beside them. Tokens are
estimated as a quarter of the characters of all thoughts, actions and observations. Whether a recall was asked for, and
whether it found something, is not left to chance: episodes with and without a procedure differ in more than that.
Only the hold-out compares like with like, since there a draw decided.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from math import isqrt
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import ValidationError

from memp_mcp import intervals, update
from memp_mcp.intervals import Estimate
from memp_mcp.lookup import Noted, noted
from memp_mcp.models import ChangeKind, Counts, Event, Status, Text, Trajectory, Value
from memp_mcp.reading import Brief
from memp_mcp.store import Store

CHARACTERS_A_TOKEN = 4
PERIODS = 12
PERIOD_EPISODES = 2
"""A period has at least so many times as many episodes as there are periods: a young memory has few and short ones."""
BASELINE_EPISODES = 10
"""Verified episodes without a procedure from which on their success rate is what a procedure has to beat."""
CHANGES: tuple[ChangeKind, ...] = ("revise", "roll_back", "retire", "restore")
READ_AT_ONCE = 32
ASKED_AGAIN = timedelta(hours=1)
"""How long a recall for the same task by the same client belongs to the run that first asked."""

Aid = Literal["shown", "nothing", "withheld", "none"]
"""What an episode had of the memory: a procedure, a recall that found nothing, one that was withheld, no recall."""
Verdict = Literal["pays", "does not pay", "unknown"]
K = TypeVar("K")


class Figures(Value):
    """What the ledger asks about a trajectory; noted when it is recorded, so that no trajectory is read for it."""

    model: Text
    imported: bool
    steps: int
    characters: int
    verified: bool
    succeeded: bool | None
    recall_id: str
    used: bool

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """The figures of a judged and credited trajectory."""
        return cls(
            model=trajectory.model,
            imported=bool(trajectory.source),
            steps=len(trajectory.steps),
            characters=sum(len(s.action) + len(s.thought) + len(s.observation) for s in trajectory.steps),
            verified=update.is_verified(trajectory),
            succeeded=trajectory.succeeded,
            recall_id=trajectory.recall_id or "",
            used=bool(trajectory.used),
        )


class Episode(NamedTuple):
    """One recorded episode in figures."""

    at: datetime
    trajectory_id: str
    client: str
    model: str
    recall_id: str
    aid: Aid
    live: bool
    """Whether this memory was at hand: an imported transcript without a recall says nothing about its benefit."""
    steps: int
    tokens: float
    verified: bool
    succeeded: bool | None


class Recall(NamedTuple):
    """One recall as it was noted."""

    at: datetime
    client: str
    noted: Noted


class Records(NamedTuple):
    """Everything that the ledger is made from."""

    episodes: Sequence[Episode]
    """Oldest first."""
    recalls: Mapping[str, Recall]
    uses: Sequence[Event]
    procedures: Mapping[str, Brief]
    """Those that were ever recalled, used or changed."""
    changes: Sequence[Brief]


class Tally(Value):
    """A group of episodes."""

    episodes: int
    unverified: int
    success: Estimate | None
    """Share of the verified ones."""
    steps: Estimate | None
    tokens: Estimate | None


class Comparison(Value):
    """Episodes that had a procedure, those that had none, and the first minus the second."""

    aided: Tally
    unaided: Tally
    success: Estimate | None
    steps: Estimate | None
    tokens: Estimate | None


class Period(Value):
    """A stretch of consecutive episodes."""

    first: int
    """Number of its first episode, from 1."""
    last: int
    begun: datetime
    ended: datetime
    all: Tally
    compared: Comparison


class Group(Value):
    """The episodes of one client or one model."""

    name: str
    compared: Comparison


class Holdout(Value):
    """What the memory is worth, by intention to treat: a draw decided which recalls were answered.

    Several shares over time are compared each within itself. An agent that does not record its failures spoils this
    too: the number of recalls that no episode followed is therefore told for both.
    """

    shares: tuple[float, ...]
    shown: int
    """Recalls that the draw let pass."""
    withheld: int
    compared: Comparison


class Account(Value):
    """What one procedure did."""

    id: str
    title: str
    project: str = ""
    revision: int
    status: Status
    shown: int
    withheld: int
    counts: Counts
    """Since its script was last changed."""
    all_counts: Counts
    """Over all its scripts."""
    success: Estimate | None
    steps: Estimate | None
    verdict: Verdict
    repaired: int = 0
    rolled_back: int = 0
    retired: int = 0
    restored: int = 0


class Ledger(Value):
    """The benefit of a memory in figures."""

    imported: int
    """Episodes that are left out of all other figures, since they ran without this memory."""
    all: Tally
    by_aid: dict[Aid, Tally]
    compared: Comparison
    holdout: Holdout | None
    periods: tuple[Period, ...]
    clients: tuple[Group, ...]
    models: tuple[Group, ...]
    yardstick: float
    """Success rate that a procedure has to beat in order to pay."""
    yardstick_from: str
    verdicts: dict[Verdict, int]
    """Of procedures that were used."""
    changes: dict[ChangeKind, int]
    """Revisions of each kind, of all procedures."""
    procedures: tuple[Account, ...]
    """Those that were ever recalled, used or changed; the most used first."""

    def brief(self, procedures: int, projects: Collection[str] | None = None) -> Self:
        """The same with fewer procedures, and of these projects only where any are given."""
        told = [a for a in self.procedures if projects is None or a.project in projects]
        return self.model_copy(update={"procedures": tuple(told[:procedures])})


# -- reading ------------------------------------------------------------------------------------------------


def records_of(store: Store) -> Records:
    """Read what the ledger is made from; trajectories are read only where they were recorded without figures."""
    recalls = {e.recall_id: Recall(e.at, e.client, noted(e)) for e in store.events(kind="recall")}
    uses = store.events(kind="used")
    changes = store.changes(CHANGES)
    named = {p.id for r in recalls.values() for p in (*r.noted.returned, *r.noted.withheld)}
    named |= {e.procedure_id for e in uses} | {c.id for c in changes}
    return Records(
        episodes=list(_episodes(store, recalls)),
        recalls=recalls,
        uses=uses,
        procedures={b.id: b for b in store.briefs(named)},
        changes=changes,
    )


def _episodes(store: Store, recalls: Mapping[str, Recall]) -> Iterator[Episode]:
    recorded = [e for e in store.events(kind="recorded") if e.trajectory_id]
    figures = {e.trajectory_id: f for e in recorded if (f := _told(e))}
    untold = [e.trajectory_id for e in recorded if e.trajectory_id not in figures]
    for start in range(0, len(untold), READ_AT_ONCE):
        found = store.trajectories(untold[start : start + READ_AT_ONCE])
        figures |= {i: Figures.of(t) for i, t in found.items()}
    for event in recorded:
        if told := figures.get(event.trajectory_id):
            recall = recalls.get(told.recall_id)
            yield _episode(event, told, recall.noted if recall else None)


def _episode(recorded: Event, told: Figures, recall: Noted | None) -> Episode:
    return Episode(
        at=recorded.at,
        trajectory_id=recorded.trajectory_id,
        client=recorded.client,
        model=told.model,
        recall_id=told.recall_id,
        aid=_aid(told, recall),
        live=recall is not None or not told.imported,
        steps=told.steps,
        tokens=told.characters / CHARACTERS_A_TOKEN,
        verified=told.verified,
        succeeded=told.succeeded,
    )


def _aid(told: Figures, recall: Noted | None) -> Aid:
    if recall is not None and recall.withheld:
        return "withheld"
    if told.used or (recall is not None and recall.returned):
        return "shown"
    return "none" if recall is None else "nothing"


def _told(recorded: Event) -> Figures | None:
    try:
        return Figures.model_validate_json(recorded.detail)
    except ValidationError:  # by an earlier version, or by another program's export
        return None


# -- accounting ---------------------------------------------------------------------------------------------


def account(records: Records, *, retire_below: float) -> Ledger:
    """What the records say.

    Args:
        records: See `records_of`.
        retire_below: The success rate that a procedure has to beat as long as too few episodes ran without any.

    """
    live = [e for e in records.episodes if e.live]
    compared = _split(live)
    yardstick, source = _yardstick(compared.unaided, retire_below)
    accounts = _accounts(records, yardstick)
    return Ledger(
        imported=len(records.episodes) - len(live),
        all=_tally(live),
        by_aid={aid: _tally(group) for aid, group in sorted(_grouped(live, lambda e: e.aid).items())},
        compared=compared,
        holdout=_holdout(live, records.recalls),
        periods=tuple(_periods(live)),
        clients=_groups(live, lambda e: e.client),
        models=_groups(live, lambda e: e.model),
        yardstick=yardstick,
        yardstick_from=source,
        verdicts=dict(Counter(a.verdict for a in accounts if a.all_counts.uses)),
        changes=dict(Counter(c.change for c in records.changes)),
        procedures=tuple(accounts),
    )


def _tally(episodes: Sequence[Episode]) -> Tally:
    verified = [e for e in episodes if e.verified]
    return Tally(
        episodes=len(episodes),
        unverified=len(episodes) - len(verified),
        success=intervals.rate(sum(e.succeeded is True for e in verified), len(verified)),
        steps=intervals.mean([e.steps for e in episodes]),
        tokens=intervals.mean([e.tokens for e in episodes]),
    )


def _split(episodes: Sequence[Episode]) -> Comparison:
    aided = [e for e in episodes if e.aid == "shown"]
    return _compared([(aided, [e for e in episodes if e.aid != "shown"])])


def _compared(strata: Sequence[tuple[Sequence[Episode], Sequence[Episode]]]) -> Comparison:
    tallies = [(_tally(aided), _tally(unaided)) for aided, unaided in strata]
    return Comparison(
        aided=_tally([e for aided, _ in strata for e in aided]),
        unaided=_tally([e for _, unaided in strata for e in unaided]),
        success=intervals.difference(*((a.success, u.success) for a, u in tallies)),
        steps=intervals.difference(*((a.steps, u.steps) for a, u in tallies)),
        tokens=intervals.difference(*((a.tokens, u.tokens) for a, u in tallies)),
    )


def _grouped(episodes: Iterable[Episode], key: Callable[[Episode], K]) -> dict[K, list[Episode]]:
    groups: dict[K, list[Episode]] = defaultdict(list)
    for episode in episodes:
        groups[key(episode)].append(episode)
    return groups


def _groups(episodes: Sequence[Episode], key: Callable[[Episode], str]) -> tuple[Group, ...]:
    largest_first = sorted(_grouped(episodes, key).items(), key=lambda named: (-len(named[1]), named[0]))
    return tuple(Group(name=name, compared=_split(group)) for name, group in largest_first)


def _periods(episodes: Sequence[Episode]) -> Iterator[Period]:
    """Equally many episodes each, so that every point of a curve rests on as much as the next."""
    count = min(PERIODS, max(1, isqrt(len(episodes) // PERIOD_EPISODES))) if episodes else 0
    for index in range(count):
        first, last = index * len(episodes) // count, (index + 1) * len(episodes) // count
        part = episodes[first:last]
        yield Period(
            first=first + 1,
            last=last,
            begun=part[0].at,
            ended=part[-1].at,
            all=_tally(part),
            compared=_split(part),
        )


def _holdout(episodes: Sequence[Episode], recalls: Mapping[str, Recall]) -> Holdout | None:
    drawn = [r.noted for r in recalls.values() if r.noted.holdout]
    if not drawn:
        return None
    arms: dict[float, tuple[list[Episode], list[Episode]]] = {n.holdout: ([], []) for n in drawn}
    for recall, episode in _followed(episodes, recalls):
        arms[recall.holdout][bool(recall.withheld)].append(episode)
    withheld = sum(bool(n.withheld) for n in drawn)
    return Holdout(
        shares=tuple(sorted(arms)),
        shown=len(drawn) - withheld,
        withheld=withheld,
        compared=_compared([arms[share] for share in sorted(arms)]),
    )


def _followed(episodes: Sequence[Episode], recalls: Mapping[str, Recall]) -> Iterator[tuple[Noted, Episode]]:
    """The drawn recalls with the episode that followed each.

    Who is not answered, or is stuck, asks again for the same task and may record the episode with that recall's id. It
    belongs to the first one all the same: otherwise those who struggle would leave the group that was withheld from.
    """
    asked: dict[tuple[str, str], Recall] = {}
    recalled = ((r.at, 0, r, None) for r in recalls.values())
    recorded = ((e.at, 1, recalls[e.recall_id], e) for e in episodes if e.recall_id in recalls)
    for _, _, recall, episode in sorted((*recalled, *recorded), key=lambda moment: moment[:2]):
        task = (recall.client, recall.noted.task)
        first = asked.get(task)
        if episode is None:
            if recall.noted.holdout and (first is None or recall.at - first.at > ASKED_AGAIN):
                asked[task] = recall
        elif first is not None:
            yield asked.pop(task).noted, episode


# -- procedures ---------------------------------------------------------------------------------------------


def _yardstick(unaided: Tally, retire_below: float) -> tuple[float, str]:
    if unaided.success is not None and unaided.success.n >= BASELINE_EPISODES:
        return unaided.success.value, f"success of the {unaided.success.n} verified episodes without a procedure"
    told = f"MEMP_RETIRE_BELOW, until {BASELINE_EPISODES} verified episodes without a procedure are recorded"
    return retire_below, told


def _accounts(records: Records, yardstick: float) -> list[Account]:
    shown = Counter(p.id for r in records.recalls.values() for p in r.noted.returned)
    withheld = Counter(p.id for r in records.recalls.values() for p in r.noted.withheld)
    steps = {e.trajectory_id: e.steps for e in records.episodes}
    uses: dict[str, list[Event]] = defaultdict(list)
    changes: dict[str, Counter[ChangeKind]] = defaultdict(Counter)
    for event in records.uses:
        uses[event.procedure_id].append(event)
    for change in records.changes:
        changes[change.id][change.change] += 1
    accounts = [
        _account(brief, uses[i], steps, yardstick).model_copy(
            update={
                "shown": shown[i],
                "withheld": withheld[i],
                "repaired": changes[i]["revise"],
                "rolled_back": changes[i]["roll_back"],
                "retired": changes[i]["retire"],
                "restored": changes[i]["restore"],
            }
        )
        for i, brief in records.procedures.items()
    ]
    return sorted(accounts, key=lambda a: (-a.all_counts.uses, -a.shown, a.id))


def _account(brief: Brief, uses: Sequence[Event], steps: Mapping[str, int], yardstick: float) -> Account:
    counts = _counts([u for u in uses if u.counted_from == brief.counted_from])
    success = intervals.rate(counts.successes, counts.verified)
    return Account(
        id=brief.id,
        title=brief.title,
        project=brief.project,
        revision=brief.revision,
        status=brief.status,
        shown=0,
        withheld=0,
        counts=counts,
        all_counts=_counts(uses),
        success=success,
        steps=intervals.mean([steps[u.trajectory_id] for u in uses if u.trajectory_id in steps]),
        verdict=_verdict(success, yardstick),
    )


def _counts(uses: Sequence[Event]) -> Counts:
    """As the store counts them: a success is a verified use with a score of ½ or more."""
    verified = [u for u in uses if u.verified]
    won = [u for u in verified if u.score is not None and u.score >= 0.5]
    return Counts(
        uses=len(uses),
        verified=len(verified),
        successes=len(won),
        last_verified=max((u.at for u in won), default=None),
    )


def _verdict(success: Estimate | None, yardstick: float) -> Verdict:
    """Only what its whole interval says: a few lucky or unlucky uses are no verdict."""
    if success is None or success.low is None or success.high is None:
        return "unknown"
    if success.low > yardstick:
        return "pays"
    return "does not pay" if success.high < yardstick else "unknown"
