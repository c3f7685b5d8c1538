"""The ledger as tables of text, for a terminal and for a page alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from memp_mcp.intervals import Estimate
from memp_mcp.ledger import Account, Aid, Comparison, Group, Ledger, Tally

NONE = "-"
AIDS: dict[Aid, str] = {
    "shown": "procedure recalled",
    "nothing": "recall found nothing",
    "withheld": "withheld at random",
    "none": "no recall",
}
FIGURES = ("episodes", "verified", "success", "steps", "tokens")
COMPARED = ("with: episodes", "success", "steps", "without: episodes", "success", "steps")
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
    return _estimate(mean, lambda v: f"{v:,.0f}" if abs(v) >= 100 else f"{v:.1f}", "")


def points(change: Estimate | None) -> str:
    """A difference of rates in percentage points, as ``+12 points [+3, +21]``."""
    return _estimate(change, lambda v: f"{100 * v:+.0f}", " points")


def signed(change: Estimate | None) -> str:
    """A difference of means, as ``-4.1 [-6.0, -2.2]``."""
    return _estimate(change, lambda v: f"{v:+,.0f}" if abs(v) >= 100 else f"{v:+.1f}", "")


def _estimate(estimate: Estimate | None, form: Callable[[float], str], unit: str) -> str:
    if estimate is None:
        return NONE
    text = form(estimate.value) + unit
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{form(estimate.low)}, {form(estimate.high)}]"


def sheets(ledger: Ledger) -> list[Sheet]:
    """All tables that have anything to say, but for the procedures."""
    made = [_by_aid(ledger), _holdout(ledger), _periods(ledger)]
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


def _compared(compared: Comparison) -> tuple[str, ...]:
    sides = (compared.aided, compared.unaided)
    return tuple(text for t in sides for text in (str(t.episodes), percent(t.success), number(t.steps)))


def _periods(ledger: Ledger) -> Sheet:
    rows = tuple(
        (f"{p.first} to {p.last}", f"{p.begun:%Y-%m-%d}", *_compared(p.compared))
        for p in ledger.periods
        if len(ledger.periods) > 1
    )
    return Sheet("Over time", "With and without a recalled procedure.", ("episodes", "from", *COMPARED), rows)


def _groups(title: str, what: str, groups: Sequence[Group]) -> Sheet:
    rows = tuple((g.name or "(not told)", *_compared(g.compared)) for g in groups)
    return Sheet(title, "With and without a recalled procedure.", (what, *COMPARED), rows)


PROCEDURE = ("procedure", "title", "status", "recalled", "uses", "success", "steps", "repaired", "verdict")


def procedures(ledger: Ledger, accounts: Iterable[Account], title: str = "Procedures") -> Sheet:
    """Procedures with what they did: uses over all their scripts, success since the script was last changed."""
    note = f"Yardstick: {100 * ledger.yardstick:.0f} %, {ledger.yardstick_from}. Success since the last repair."
    return Sheet(title, note, PROCEDURE, tuple(_procedure(a) for a in accounts))


def _procedure(account: Account) -> tuple[str, ...]:
    undone = f" ({account.rolled_back} rolled back)" if account.rolled_back else ""
    return (
        account.id,
        account.title,
        account.status,
        str(account.shown),
        str(account.all_counts.uses),
        percent(account.success),
        number(account.steps),
        f"{account.repaired}{undone}",
        account.verdict,
    )
