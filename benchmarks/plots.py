"""The plots of the README, drawn from the results that are in results/.

``python -m benchmarks.plots`` (needs the extra ``benchmarks``) writes results/*.svg. What was measured is in the JSON
files; nothing is computed here but means over bins and 95 % intervals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import RESULTS
from memp_mcp.intervals import rate

MINE, OTHER, PALE = "#0b6e4f", "#8a8f98", "#c9ccd1"
COLOURS = {"vanilla": "#8a8f98", "validation": "#3b7dd8", "adjustment": MINE}
BIN = 20


def alfworld_arms(results: Mapping[str, Any]) -> Figure:
    """Games won within 30 steps, by arm, with Wilson intervals."""
    shown = [
        "no memory",
        "random trajectory, seed 0",
        "ExpRAG, k=3",
        "raw BM25, k=3",
        "server, k=1",
        "server, k=3",
        "server, k=5",
    ]
    rows = results["rows"]
    found = [rate(sum(r["won"] and r["steps"] <= 30 for r in rows[arm]), len(rows[arm])) for arm in shown]
    figure, axes = _sheet(5.6, 2.9)
    for place, (arm, share) in enumerate(zip(shown, found, strict=True)):
        if share is None or share.low is None or share.high is None:
            continue
        axes.barh(place, 100 * share.value, color=MINE if arm.startswith("server") else PALE, height=0.66)
        axes.plot([100 * share.low, 100 * share.high], [place, place], color="#333", lw=1)
        axes.text(100 * share.high + 1.5, place, f"{100 * share.value:.0f} %", va="center")
    axes.set_yticks(range(len(shown)), [a.replace("server", "memp-mcp") for a in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 109)
    axes.set_xlabel(f"% of {results['games']} ALFWorld games won within 30 steps")
    return figure


def alfworld_streams(results: Mapping[str, Any]) -> Figure:
    """Steps a game while the memory learns from nothing, by update policy: means over consecutive games."""
    figure, axes = _sheet(5.6, 2.9)
    of_budget = results["stream rows"]["50"]
    alone = np.mean([r["steps"] if r["won"] else 50 for r in of_budget["no memory"][0]])
    for policy, orders in of_budget.items():
        if policy not in COLOURS:
            continue
        steps = np.array([[r["steps"] if r["won"] else 50 for r in rows] for rows in orders], dtype=float)
        bins = [steps[:, i : i + BIN].mean() for i in range(0, steps.shape[1] - BIN + 1, BIN)]
        middles = [i + BIN / 2 for i in range(0, steps.shape[1] - BIN + 1, BIN)]
        axes.plot(middles, bins, "o-", color=COLOURS[policy], ms=4, lw=1.8, label=policy)
    axes.axhline(float(alone), color="#333", lw=1, ls=":", label="no memory (mean)")
    axes.set_xlabel(f"games played, {len(orders)} orders, from an empty memory")
    axes.set_ylabel("steps a game (lost: 50)")
    axes.set_ylim(0, 1.1 * float(alone))
    axes.legend(frameon=False, ncols=2)
    return figure


PLOTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Figure]]] = {
    "alfworld-arms": ("alfworld", alfworld_arms),
    "alfworld-streams": ("alfworld", alfworld_streams),
}


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def main(folder: Path = RESULTS, names: Sequence[str] = tuple(PLOTS)) -> None:
    """Draw every plot whose results are there."""
    for name in names:
        source, draw = PLOTS[name]
        figure = draw(json.loads((folder / f"{source}.json").read_text())["results"])
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        print(f"{name}.svg")


if __name__ == "__main__":
    main()
