"""memp-mcp report: the ledger as one HTML page that needs nothing but a browser.

matplotlib draws the curves as SVG, which is put into the page (a plotly page carries megabytes of script). It draws in
stand-in colours; the page replaces them by its own, so that the curves follow a light or a dark surrounding.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from memp_mcp import __version__, sheets
from memp_mcp.errors import BadInput
from memp_mcp.intervals import Estimate
from memp_mcp.ledger import Account, Comparison, Ledger, Period, Tally
from memp_mcp.sheets import Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = "The report needs matplotlib and Jinja2: pip install 'memp-mcp[report]'."
LISTED = 25
"""Procedures in one table of the page; with --json, `memp-mcp report` tells all."""
COLOURS = {"#010101": "var(--ink)", "#020202": "var(--grid)", "#030303": "var(--with)", "#040404": "var(--without)"}
INK, GRID, WITH, WITHOUT = COLOURS


class Head(NamedTuple):
    """A figure at the head of the page."""

    name: str
    value: str
    note: str


class Curve(NamedTuple):
    """A drawn curve with its title and what it says to somebody who does not see it."""

    title: str
    said: str
    svg: str


class Listing(NamedTuple):
    """A table of procedures, and how many more there are."""

    sheet: Sheet
    more: int


def page(ledger: Ledger) -> str:
    """The page.

    Raises:
        BadInput: matplotlib or Jinja2 is not installed.

    """
    try:
        import jinja2  # noqa: PLC0415 - part of the extra `report`

        curves = _curves(ledger)
    except ModuleNotFoundError as missing:
        raise BadInput(MISSING) from missing
    source = files("memp_mcp").joinpath("report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    return template.render(
        heads=_heads(ledger),
        curves=curves,
        sheets=sheets.sheets(ledger),
        listings=_listings(ledger),
        empty=not ledger.all.episodes,
        version=__version__,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


# -- figures and tables -------------------------------------------------------------------------------------


def _heads(ledger: Ledger) -> list[Head]:
    compared, held = ledger.compared, ledger.holdout
    benefit, how = (held.compared, "by the hold-out") if held else (compared, "not by a draw")
    gain, saved = sheets.points(benefit.success), sheets.signed(benefit.steps)
    return [
        Head("episodes", f"{ledger.all.episodes:,}", f"{ledger.all.unverified:,} of them not verified"),
        Head("success with a procedure", *_parted(sheets.percent(compared.aided.success))),
        Head("success without", *_parted(sheets.percent(compared.unaided.success))),
        Head("difference in success", *_parted(gain.replace(" points", ""), "in percentage points", how)),
        Head("difference in steps", *_parted(saved, how)),
        Head(
            "procedures that pay", f"{ledger.verdicts.get('pays', 0):,}", f"of {sum(ledger.verdicts.values()):,} used"
        ),
    ]


def _parted(text: str, *notes: str) -> tuple[str, str]:
    """An estimate without its interval, and the interval with the notes."""
    value, _, interval = text.partition(" [")
    told = [f"95 %: {interval.removesuffix(']').replace(', ', ' to ')}"] if interval else []
    return value, ", ".join([*told, *notes])


def _listings(ledger: Ledger) -> list[Listing]:
    chosen: dict[str, Callable[[Account], bool]] = {
        "Procedures that pay": lambda a: a.verdict == "pays",
        "Procedures that do not pay": lambda a: a.verdict == "does not pay",
        "Not known yet": lambda a: a.verdict == "unknown" and a.all_counts.uses > 0,
        "Repaired": lambda a: a.repaired > 0,
        "Rolled back": lambda a: a.rolled_back > 0,
        "Retired": lambda a: a.status == "retired",
    }
    listings = []
    for title, fits in chosen.items():
        found = [a for a in ledger.procedures if fits(a)]
        sheet = sheets.procedures(ledger, found[:LISTED], f"{title}: {len(found)}")
        listings.append(Listing(sheet, len(found) - len(found[:LISTED])))
    return listings


# -- curves -------------------------------------------------------------------------------------------------


class _Plot(NamedTuple):
    """A curve to be drawn."""

    title: str
    unit: str
    of: Callable[[Tally], Estimate | None]
    scale: float = 1.0
    top: float | None = None


PLOTS = (
    _Plot("Success", "% of verified outcomes", lambda t: t.success, 100, 103),
    _Plot("Steps", "steps per episode", lambda t: t.steps),
    _Plot("Tokens", "tokens per episode", lambda t: t.tokens),
)


def _curves(ledger: Ledger) -> list[Curve]:
    if not ledger.periods:
        return []
    curves = [_curve(plot, ledger.periods) for plot in PLOTS]
    return [*curves, _coverage(ledger.periods)]


def _curve(plot: _Plot, periods: Sequence[Period]) -> Curve:
    def draw(axes: Axes) -> None:
        _line(axes, plot, periods, lambda c: c.aided, WITH, "with a procedure", "o")
        _line(axes, plot, periods, lambda c: c.unaided, WITHOUT, "without", "s")
        axes.set_ylabel(plot.unit)
        axes.set_ylim(bottom=0, top=plot.top)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, frameon=False, labelcolor=INK)

    said = f"{plot.title}, {plot.unit}, in the order of recording; the same figures are in the table Over time."
    return Curve(plot.title, said, _svg(draw))


def _line(
    axes: Axes,
    plot: _Plot,
    periods: Sequence[Period],
    side: Callable[[Comparison], Tally],
    colour: str,
    label: str,
    marker: str,
) -> None:
    points = [((p.first + p.last) / 2, e) for p in periods if (e := plot.of(side(p.compared)))]
    x = [at for at, _ in points]
    axes.plot(x, [plot.scale * e.value for _, e in points], marker, ls="-", color=colour, label=label, ms=4.5, lw=1.8)
    low, high = (
        [plot.scale * (e.value if end is None else end) for _, e in points for end in [pick(e)]] for pick in ENDS
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)


ENDS: tuple[Callable[[Estimate], float | None], ...] = (lambda e: e.low, lambda e: e.high)


def _coverage(periods: Sequence[Period]) -> Curve:
    def draw(axes: Axes) -> None:
        x = [(p.first + p.last) / 2 for p in periods]
        share = [100 * p.compared.aided.episodes / p.all.episodes for p in periods]
        axes.bar(x, share, width=[0.8 * (p.last - p.first + 1) for p in periods], color=WITH, alpha=0.85)
        axes.set_ylabel("% of episodes")
        axes.set_ylim(0, 103)

    said = "Share of the episodes for which a procedure was recalled, in the order of recording."
    return Curve("Episodes with a recalled procedure", said, _svg(draw))


def _svg(draw: Callable[[Axes], None]) -> str:
    """What is drawn as SVG, in colours of the page and with its text as text."""
    import matplotlib as mpl  # noqa: PLC0415 - part of the extra `report`; half a second
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    text = {"svg.fonttype": "none", "svg.hashsalt": "memp", "font.family": "sans-serif", "font.size": 10.5}
    inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK)
    with mpl.rc_context(cast("Any", text | inks)):  # its stubs know each name, but no dict that is put together
        figure = Figure(figsize=(4.6, 3), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[:].set_visible(False)
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        draw(axes)
        axes.set_xlabel("episodes recorded")
        axes.set_xlim(0)
        axes.locator_params(axis="y", nbins=5, integer=True)
        axes.locator_params(axis="x", nbins=6, integer=True, prune="lower")
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r'<g id="[^"]*"', "<g", out.getvalue())  # the same in every figure, and nothing refers to them
    for drawn, wanted in COLOURS.items():
        svg = svg.replace(drawn, wanted)
    return svg[svg.index("<svg") :]
