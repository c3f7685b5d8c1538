"""The ledger as tables of text, for a terminal and for a page alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from memp_mcp.intervals import Estimate
from memp_mcp.ledger import Account, Aid, Comparison, Group, Ledger, Tally, Verdict
from memp_mcp.models import ChangeKind

NONE = "-"
K = TypeVar("K")
AIDS: dict[Aid, str] = {
    "shown": "recalled",
    "nothing": "nothing found",
    "withheld": "withheld",
    "none": "no recall",
}
VERDICTS: dict[Verdict, str] = {"pays": "pays", "does not pay": "does not pay", "unknown": "unknown"}
CHANGED: dict[ChangeKind, str] = {"revise": "repaired", "roll_back": "rolled back", "retire": "retired"}
FIGURES = ("episodes", "verified", "success", "steps", "tokens")
COMPARED = ("with", "success", "steps", "without", "success", "steps")
COMPARED_NOTE = "Episodes with and without a recalled procedure, their success and steps."
INTERVALS = "In brackets: 95 % interval."


class Sheet(NamedTuple):
    """A titled table; its first column names the rows."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def percent(share: Estimate | None) -> str:
    """A rate, as ``83 % [70, 91]``."""
    return _estimate(share, lambda v: f"{100 * v:.0f}", " %")


def number(mean: Estimate | None) -> str:
    """A mean, as ``12.3 [10.8, 13.8]``."""
    return _estimate(mean, lambda v: f"{v:{_form(mean)}}", "")


def points(change: Estimate | None) -> str:
    """A difference of rates in percentage points, as ``+12 points [+3, +21]``."""
    return _estimate(change, lambda v: f"{100 * v:+.0f}", " points")


def signed(change: Estimate | None) -> str:
    """A difference of means, as ``-4.1 [-6.0, -2.2]``."""
    return _estimate(change, lambda v: f"{v:+{_form(change)}}", "")


def _form(estimate: Estimate | None) -> str:
    """As many decimals as say something: one for small numbers, the same for both ends of the interval."""
    return ",.0f" if estimate is not None and abs(estimate.value) >= 100 else ",.1f"


def bare(estimate: Estimate | None) -> Estimate | None:
    """The estimate without its interval, where a table has no room for it."""
    return None if estimate is None else estimate.model_copy(update={"low": None, "high": None})


def _estimate(estimate: Estimate | None, form: Callable[[float], str], unit: str) -> str:
    if estimate is None:
        return NONE
    text = form(estimate.value) + unit
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{form(estimate.low)}, {form(estimate.high)}]"


def sheets(ledger: Ledger) -> list[Sheet]:
    """All tables that have anything to say, but for the procedures; what compares like with like comes first."""
    made = [_holdout(ledger), _by_aid(ledger), _periods(ledger)]
    made += [_groups("By client", "client", ledger.clients), _groups("By model", "model", ledger.models)]
    return [sheet for sheet in made if sheet.rows]


def _figures(tally: Tally) -> tuple[str, ...]:
    verified = str(tally.episodes - tally.unverified)
    return (str(tally.episodes), verified, percent(tally.success), number(tally.steps), number(tally.tokens))


def _by_aid(ledger: Ledger) -> Sheet:
    rows = [(name, *_figures(ledger.by_aid[aid])) for aid, name in AIDS.items() if aid in ledger.by_aid]
    if len(rows) > 1:
        rows.append(("all", *_figures(ledger.all)))
    note = f"Success is of verified outcomes; tokens are characters / 4. {INTERVALS}"
    if ledger.imported:
        note += f" {ledger.imported:,} imported episodes are left out."
    return Sheet("With and without a procedure", note, ("episode", *FIGURES), tuple(rows))


def _holdout(ledger: Ledger) -> Sheet:
    columns = ("recalls", "drawn", *FIGURES)
    if ledger.holdout is None:
        return Sheet("Hold-out", "", columns, ())
    held, compared = ledger.holdout, ledger.holdout.compared
    shares = ", ".join(f"{share:g}" for share in held.shares)
    difference = ("", "", "", points(compared.success), signed(compared.steps), signed(compared.tokens))
    rows = (
        ("shown", str(held.shown), *_figures(compared.aided)),
        ("withheld", str(held.withheld), *_figures(compared.unaided)),
        ("difference", *difference),
    )
    note = f"What the memory is worth, by intention to treat: a draw decided (MEMP_HOLDOUT {shares}). {INTERVALS}"
    return Sheet("Hold-out", note, columns, rows)


def _compared(compared: Comparison, success: Callable[[Estimate | None], str] = percent) -> tuple[str, ...]:
    sides = (compared.aided, compared.unaided)
    return tuple(text for t in sides for text in (str(t.episodes), success(t.success), number(bare(t.steps))))


def _periods(ledger: Ledger) -> Sheet:
    rows = tuple(
        (f"{p.first} to {p.last}", f"{p.begun:%Y-%m-%d}", *_compared(p.compared, lambda e: percent(bare(e))))
        for p in ledger.periods
        if len(ledger.periods) > 1
    )
    return Sheet("Over time", COMPARED_NOTE, ("episodes", "from", *COMPARED), rows)


def _groups(title: str, what: str, groups: Sequence[Group]) -> Sheet:
    rows = tuple((g.name or "(not told)", *_compared(g.compared)) for g in groups)
    return Sheet(title, COMPARED_NOTE, (what, *COMPARED), rows)


PROCEDURE = ("procedure", "title", "uses", "success", "steps", "repaired", "verdict")


def procedures(ledger: Ledger, accounts: Iterable[Account], title: str = "Procedures") -> Sheet:
    """Procedures with what they did: uses over all their scripts, success since the script was last changed."""
    note = (
        f"Success since the last repair; the yardstick is {100 * ledger.yardstick:.0f} %, {ledger.yardstick_from}. "
        f"Verdicts: {_told(ledger.verdicts, VERDICTS)}. Changes: {_told(ledger.changes, CHANGED)}."
    )
    return Sheet(title, note, PROCEDURE, tuple(_procedure(a) for a in accounts))


def _told(counts: Mapping[K, int], names: Mapping[K, str]) -> str:
    return ", ".join(f"{name} {counts.get(key, 0):,}" for key, name in names.items())


def _procedure(account: Account) -> tuple[str, ...]:
    undone = f", {account.rolled_back} undone" if account.rolled_back else ""
    return (
        account.id,
        account.title,
        str(account.all_counts.uses),
        percent(account.success),
        number(bare(account.steps)),
        f"{account.repaired}{undone}",
        "retired" if account.status == "retired" else account.verdict,
    )
