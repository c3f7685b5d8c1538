"""The README's tables of figures, written from the results, so that none of them is typed by hand.

``python -m benchmarks.readme`` puts each table between its marks (``<!-- NAME -->`` and ``<!-- / -->``);
``--check`` only says whether they stand there already, as the checks of the project ask.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
EMBEDDER = "all-MiniLM-L6-v2"

Results = Mapping[str, Any]


@functools.cache
def told(name: str) -> Results:
    """The results of one benchmark, as it wrote them."""
    found: Results = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# -- learning -------------------------------------------------------------------------------------------------


def alfworld_arms(results: Results) -> str:
    """Every arm: games won and steps at both budgets, tokens told, games lost that are won without memory."""
    head = ("arm", "won in 30", "steps", "won in 50", "steps", "tokens", "lost by it")
    rows = [
        (
            _mine(arm["arm"]),
            _percent(arm["won in 30"]),
            arm["steps of 30"],
            _percent(arm["won in 50"]),
            arm["steps of 50"],
            arm["tokens"],
            _percent(arm["lost by it"], 1),
        )
        for arm in results["arms"]
    ]
    own = results["walkthrough"]["steps"]
    return table(head, [*rows, ("the games' own walkthroughs", "100 %", own, "100 %", own, "", "")])


def alfworld_compared(results: Results) -> str:
    """The server at k=3 and k=1 against the others, at both budgets."""
    head = ("memp-mcp against", "k", *PAIRED)
    rows = [
        (line["against"].removesuffix(f", k={k}"), k, *_paired(line))
        for k, name in ((3, "compared"), (1, "compared at k=1"))
        for line in results[name]
    ]
    return table(head, rows)


PAIRED = ("steps allowed", "games won more", "games", "p (McNemar)", "steps fewer [95 %]")


def _paired(line: Mapping[str, Any]) -> tuple[Any, ...]:
    fewer = f"{line['steps fewer']} [{line['95 % of steps'].replace(' … ', ', ')}]"
    return line["budget"], _percent(line["won more"], 1, sign=True), line["games"], line["p"], fewer


def alfworld_types(results: Results) -> str:
    """Games won and mean steps within 30, by task type."""
    lines = results["by type, won / steps in 30"]
    return table([_mine(name) for name in lines[0]], [list(line.values()) for line in lines])


def alfworld_streams(results: Results) -> str:
    """Update policies on a stream of games from an empty memory."""
    parts = ("all games", "last third")
    told = (f"{part}: {what}" for part in parts for what in ("won in 30", "steps", "won in 50", "steps"))
    head = ("update", *told, "lost by it")
    rows = [
        (
            line["update"],
            *(
                cell
                for part in parts
                for budget in (30, 50)
                for cell in (_percent(line[f"{part}: won in {budget}"]), line[f"{part}: steps of {budget}"])
            ),
            _percent(line["lost by it"], 1),
        )
        for line in results["streams"]
    ]
    return table(head, rows)


def alfworld_policies(results: Results) -> str:
    """The update policies against each other, game by game."""
    rows = [(line["update"], line["against"], *_paired(line)) for line in results["streams compared"]]
    return table(("update", "against", *PAIRED), rows)


def alfworld_drift(results: Results) -> str:
    """Wasted steps of a literal agent before and after the memory has been adjusted."""
    head = (
        "memory from the old grammar",
        "games",
        "wasted steps a game",
        "games with any",
        "recalled in the new grammar",
        "won in 50",
        "steps",
    )
    rows = [
        (
            when,
            line["games"],
            f"{line['wasted a game']:.2f}",
            _percent(line["games with a wasted step"]),
            _percent(line["recalled scripts in the games' grammar"]),
            _percent(line["won"]),
            f"{line['steps']:.1f}",
        )
        for when, line in results["drift"].items()
    ]
    return table(head, rows)


def telecom(results: Results) -> str:
    """Tickets solved, calls used, and tickets lost that are solved without a memory, by arm."""
    head = ("arm", "solved", "lost by it", "calls of 40")
    rows = [
        (_mine(name), f"{line['solved']:.3g} of {line['of']}", f"{_lost(results, name):.2g}", f"{line['calls']:.1f}")
        for name, line in results["summary"].items()
    ]
    return table(head, rows)


def _lost(results: Results, arm: str) -> float:
    """Tickets that are solved without a memory and not in this arm; the mean over its seeds."""
    alone = results["rows"]["no memory"]
    seeds = [rows for name, rows in results["rows"].items() if name.split(", seed ")[0] == arm]
    return statistics.fmean(sum(alone[t]["solved"] and not rows[t]["solved"] for t in rows) for rows in seeds)


def telecom_compared(results: Results) -> str:
    """The server with the observed state against the others, ticket by ticket."""
    head = ("memp-mcp, observed state, against", "k", "tickets", "p (McNemar)", "calls fewer [95 %]")
    rows = []
    for k in (3, 1):
        ours = f"server, observed state, k={k} vs "
        others = (name.removeprefix(ours) for name in results["comparisons"] if name.startswith(ours))
        for other in others:
            line = results["comparisons"][ours + other]
            low, high = line["calls_95"]
            fewer = f"{-line['calls']:.1f} [{-high:.1f}, {-low:.1f}]"
            tickets = f"+{line['won']} −{line['lost']}"  # noqa: RUF001 - a minus sign
            rows.append((other.replace("server", "memp-mcp"), k, tickets, f"{line['p']:.2g}", fewer))
    return table(head, rows)


# -- retrieval ------------------------------------------------------------------------------------------------


def retrieval(results: Results) -> str:
    """Every policy in all four directions: right type, the very task first, the very task among five."""
    sets = {name: policies for name, policies in results[EMBEDDER].items() if name.startswith("ALFRED")}
    head = ("policy", *(re.sub(r"ALFRED, | \(.*", "", name) for name in sets))
    return table(head, [(p, *(_cells(policies[p]) for policies in sets.values())) for p in next(iter(sets.values()))])


def proced_mem_bench(results: Results) -> str:
    """Every policy on the procedural retrieval benchmark, over all queries and by tier."""
    sets = {name: policies for name, policies in results[EMBEDDER].items() if name.startswith("Proced-mem-bench")}
    head = ("policy", *(name.removeprefix("Proced-mem-bench, ") for name in sets))
    return table(head, [(p, *(_cells(policies[p]) for policies in sets.values())) for p in next(iter(sets.values()))])


def not_first(results: Results) -> str:
    """Every cell, of all sets and embedders, in which the hybrid is not first."""
    rows = [
        (name, re.sub(r" \(.*", "", title), column, _thousandths(hybrid), _thousandths(best), first)
        for name, sets in results.items()
        for title, policies in sets.items()
        for column, found in policies["hybrid"].items()
        for hybrid, (best, first) in [(found["value"], max((p[column]["value"], n) for n, p in policies.items()))]
        if best > hybrid
    ]
    return table(("embedder", "set", "figure", "hybrid", "first", "by"), rows)


def development(results: Results) -> str:
    """The hybrid as it is and with other constants, on the training games that were kept out."""
    sets = {name: policies for name, policies in results[EMBEDDER].items() if re.match("ALFRED|.*, all", name)}
    policies = [name for name in next(iter(sets.values())) if name.startswith("hybrid")]
    head = ("policy", *(re.sub(r"ALFRED, | \(.*", "", name) for name in sets))
    return table(head, [(p, *(_cells(sets[s][p]) for s in sets)) for p in policies])


def floor(results: Results) -> str:
    """What is refused as shipped, by memory and kind of text, with the default embedder."""
    head = ("memory of", "texts", "", "count", 'answered "nothing relevant"')
    memories = results[EMBEDDER]["memories"]
    rows = [
        (memory, row["texts"], row["kind"], row["count"], _percent(row["refused_shipped"], 1))
        for memory, found in memories.items()
        for row in found
    ]
    kinds = [(m, "each kind weighing the same", "unrelated", "", _percent(_refused(r), 1)) for m, r in memories.items()]
    return table(head, [*rows, *kinds])


def embedders(results: Results) -> str:
    """The hybrid with each embedder that the project supports."""
    sets = [name for name in results[EMBEDDER] if name.startswith("ALFRED")]
    head = ("hybrid with", *(re.sub(r"ALFRED, | \(.*", "", name) for name in sets))
    return table(head, [(name, *(_cells(found[s]["hybrid"]) for s in sets)) for name, found in results.items()])


def _cells(line: Mapping[str, Mapping[str, float]]) -> str:
    return " / ".join(_thousandths(value["value"]) for value in line.values())


def _thousandths(share: float) -> str:
    return f"{share:.3f}".lstrip("0")


# -- speed and cost -------------------------------------------------------------------------------------------


def figures(rows: Sequence[Results], columns: Sequence[str] = ()) -> str:
    """Rows of figures as a table; numbers to three significant digits."""
    chosen = columns or list(rows[0])
    return table(chosen, [[_number(row.get(c)) for c in chosen] for row in rows])


def _number(value: object) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case float() | int() if abs(value) >= 1000:
            return f"{value:,.0f}"
        case float() | int():
            return f"{value:.3g}"
    return str(value)


def record(results: Results) -> str:
    """Acknowledgement, import, disk and memory, one line each."""
    told_first = {
        "acknowledgement": ("record / bare commit", "CPU of record / bare commit", "record ms p50", "record ms p95"),
        "import": ("import / embedding (CPU)", "trajectories per CPU second"),
        "disk": ("MB per 1,000 procedures, compacted", "MB per 1,000 procedures, as written"),
        "memory": ("calls", "MB idle", "MB after", "MB after, not of files"),
    }
    rows = [(what, name, _number(results[what][name])) for what, names in told_first.items() for name in names]
    return table(("", "figure", ""), rows)


def starts(results: Results) -> str:
    """What a start costs, and which peers could not be measured, with their reasons."""
    without = [f"Not measured: {name}, {reason}" for name, reason in results["without"].items()]
    return "\n\n".join([figures(results["rows"]), *without])


def context(results: Results) -> str:
    """What the tools and a loop cost."""
    listed = [
        {"said": row["said"], "tokens p50": row["tokens"], "word pieces p50": row["word pieces"]}
        for row in results["tools"]
    ]
    return figures([*listed, *results["loop"]], list(results["loop"][0]))


RECALLED = (
    "procedures",
    "recall / (embedding + scan)",
    "ms above 1.3 x",
    "recall p50",
    "recall p95",
    "recall p99",
    "embedding p50",
    "scan p50",
    "recall@10 of vector",
)

# -- safety ---------------------------------------------------------------------------------------------------


def secrets(results: Results) -> str:
    """Recall on planted secrets and false positives on real texts, by detector."""
    head = ("detector", "planted", "kinds", "found", "real texts", "of them changed")
    counts = ("planted", "kinds")
    rows = [
        (
            r["detector"],
            *(_number(r[c]) for c in counts),
            _percent(r["found"], 1),
            *(_number(r[c]) for c in ("real texts", "of them changed")),
        )
        for r in results["rows"]
    ]
    return table(head, rows)


def held_out(results: Results) -> str:
    """Recall on kinds that the detector was never tuned on."""
    rows = results["held out"]
    planted = sum(r["planted"] for r in rows)
    by_name, bare = (_percent(sum(r[way] for r in rows) / planted) for way in ("found by name", "found bare"))
    return (
        f"Of {planted} secrets of {len(rows)} other kinds, which it was never tuned on, it finds {by_name} where they "
        f"are given to the variable that their vendor documents, and {bare} where they stand in a text without a name."
    )


def poison(results: Results) -> str:
    """What planted records win, by attack, with and without the defence."""
    shares = (
        "first place",
        "first place, of the guessed queries",
        "first place, unflagged harm",
        "of what was recalled",
    )
    rows = [(r["attack"], r["defence"], *(_percent(r[s]) for s in shares)) for r in results["rows"]]
    return table(("attack", "defence", *shares), rows)


def flagged(results: Results) -> str:
    """How many actions of real runs are called dangerous."""
    real = results["real actions"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in real["by reason"].items())
    return f"Of {real['actions']:,} actions of real coding runs {real['flagged']} are flagged ({reasons or 'none'})."


# -- words ----------------------------------------------------------------------------------------------------


def _percent(share: float, digits: int = 0, *, sign: bool = False) -> str:
    return f"{100 * share:{'+' if sign else ''}.{digits}f} %"


def _mine(name: str) -> str:
    return f"**{name.replace('server', 'memp-mcp')}**" if name.startswith("server") else name


# -- claims ---------------------------------------------------------------------------------------------------


def claims() -> str:
    """What the README says first, each with the command that says it."""
    return table(("what", "figure", "by"), [*_of_learning(), *_of_finding(), *_of_keeping(), *_of_cost()])


def _of_learning() -> list[tuple[str, str, str]]:
    arms = {arm["arm"]: arm for arm in told("alfworld")["results"]["arms"]}
    won = [_percent(arms[name]["won in 30"]) for name in ("server, k=3", "no memory", "raw BM25, k=3")]
    tickets = told("telecom")["results"]["summary"]
    solved = [f"{tickets[name]['solved']:g}" for name in ("server, observed state, k=3", "no memory")]
    by_text = [tickets[f"server, ticket only, k={k}"]["solved"] for k in (1, 3, 5)]
    by_text_alone = " to ".join(f"{n:g}" for n in sorted({min(by_text), max(by_text)}))
    of = tickets["no memory"]["of"]
    return [
        (
            "ALFWorld games that one and the same agent wins within 30 steps",
            f"{won[0]}, without a memory {won[1]}, with BM25 over the same runs {won[2]}",
            "`python -m benchmarks.alfworld.run`",
        ),
        (
            "games that it costs: won in 50 steps without it and not with it",
            _percent(arms["server, k=3"]["lost by it"], 1),
            "the same",
        ),
        (
            "τ²-bench telecom tickets solved within 40 calls",
            f"{solved[0]} of {of}, without a memory {solved[1]}, by the ticket's text alone {by_text_alone}",
            "`python -m benchmarks.telecom.run`",
        ),
    ]


def _of_finding() -> list[tuple[str, str, str]]:
    sets = told("retrieval")["results"]["embedders"][EMBEDDER]
    words = next(policies for name, policies in sets.items() if "human → template" in name)
    hybrid, plain = (words[p]["P@1 type"]["value"] for p in ("hybrid", "BM25 on the task"))
    memories = told("floor")["results"][EMBEDDER]["memories"]
    chosen_on, other = (_percent(_refused(rows), 1) for rows in memories.values())
    lost = _percent(max(r["refused_shipped"] for rows in memories.values() for r in rows if r["kind"] == "related"), 1)
    return [
        (
            "tasks in people's own words for which the first procedure is of the right kind, remembered in other words",
            f"{_percent(hybrid)}, where BM25 finds {_percent(plain)}",
            "`python -m benchmarks.retrieval`",
        ),
        (
            'requests from elsewhere that are answered "nothing relevant", each kind weighing the same',
            f"{chosen_on}, by a memory that the floor was not chosen on {other}; of the related ones at most {lost}",
            "`python -m benchmarks.floor`",
        ),
    ]


def _refused(rows: Iterable[Mapping[str, Any]]) -> float:
    """Of what a memory is not about; each kind of text weighs the same."""
    return statistics.fmean(r["refused_shipped"] for r in rows if r["kind"] == "unrelated")


def _of_keeping() -> list[tuple[str, str, str]]:
    soak = {row["what"]: row["figure"] for row in told("soak")["results"]["soak"]}
    lost = soak["acknowledged trajectories lost"] + soak["acknowledged revisions lost"]
    return [
        (
            f"acknowledged writes lost when {_number(soak['servers'])} servers on one memory are killed at any moment",
            f"{_number(lost)} of {_number(soak['acknowledged writes'])}, by {_number(soak['killed'])} kills",
            "`python -m benchmarks.soak --writes 5000 --kills 100`",
        ),
    ]


def _of_cost() -> list[tuple[str, str, str]]:
    started = {row["process start until answered"]: row["CPU s, median"] for row in told("start")["results"]["rows"]}
    official = next(seconds for name, seconds in started.items() if "server-memory" in name)
    tools = {row["said"]: row["tokens"] for row in told("context")["results"]["tools"]}
    hook = next(r for r in told("hook")["results"]["rows"] if r["process"] == "a prompt that finds something")
    return [
        (
            "CPU until the MCP handshake is answered",
            f"{started['memp-mcp: initialize, tools/list']:.2g} s, the official memory server {official:.2g} s",
            "`python -m benchmarks.start`",
        ),
        (
            "prompts that the hook answers within its 300 ms, process start included",
            f"{_percent(hook['in time'])}, the median in {1000 * hook['wall s, p50']:.0f} ms",
            "`python -m benchmarks.hook`",
        ),
        (
            "the five tools, in the prompt of every client that lists them",
            f"{_number(tools['tools/list'])} tokens",
            "`python -m benchmarks.context`",
        ),
    ]


TABLES: dict[str, Callable[[], str]] = {
    "claims": claims,
    "alfworld-arms": lambda: alfworld_arms(told("alfworld")["results"]),
    "alfworld-compared": lambda: alfworld_compared(told("alfworld")["results"]),
    "alfworld-types": lambda: alfworld_types(told("alfworld")["results"]),
    "alfworld-streams": lambda: alfworld_streams(told("alfworld")["results"]),
    "alfworld-policies": lambda: alfworld_policies(told("alfworld")["results"]),
    "alfworld-drift": lambda: alfworld_drift(told("alfworld")["results"]),
    "telecom": lambda: telecom(told("telecom")["results"]),
    "telecom-compared": lambda: telecom_compared(told("telecom")["results"]),
    "start": lambda: starts(told("start")["results"]),
    "ends": lambda: figures(told("ends")["results"]["rows"]),
    "hook": lambda: figures(told("hook")["results"]["rows"]),
    "recall": lambda: figures(told("recall")["results"], RECALLED),
    "record": lambda: record(told("record")["results"]),
    "growth": lambda: figures(told("growth")["results"]["growth"]),
    "growth-bars": lambda: figures(told("growth")["results"]["bars of growth"]),
    "soak": lambda: figures(told("soak")["results"]["soak"]),
    "soak-latency": lambda: figures(told("soak")["results"]["latency"]),
    "sharing": lambda: figures(told("sharing")["results"]["sharing"]),
    "import": lambda: figures(told("team")["results"]["import"]),
    "context": lambda: context(told("context")["results"]),
    "retrieval": lambda: retrieval(told("retrieval")["results"]["embedders"]),
    "proced-mem-bench": lambda: proced_mem_bench(told("retrieval")["results"]["embedders"]),
    "not-first": lambda: not_first(told("retrieval")["results"]["embedders"]),
    "development": lambda: development(told("retrieval-development")["results"]["embedders"]),
    "floor": lambda: floor(told("floor")["results"]),
    "secrets": lambda: secrets(told("secrets")["results"]),
    "held-out": lambda: held_out(told("secrets")["results"]),
    "poison": lambda: poison(told("poison")["results"]),
    "flagged": lambda: flagged(told("poison")["results"]),
    "embedders": lambda: embedders(told("retrieval")["results"]["embedders"]),
}


def filled(text: str) -> str:
    """The README with every table that it has marks for, from the results as they are."""
    for name, write in TABLES.items():
        if place := re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- / -->)", text, re.DOTALL):
            text = f"{text[: place.start()]}{write()}\n{text[place.end() :]}"
    return text


def main() -> None:
    """Write the tables into the README, or check that they are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a table is another")
    options = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if options.check and after != before:
        sys.exit("The README's tables are not those of benchmarks/results: run python -m benchmarks.readme.")
    README.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
