"""The README's tables of figures, written from the results, so that none of them is typed by hand.

``python -m benchmarks.readme`` puts each table between its marks (``<!-- NAME -->`` and ``<!-- / -->``);
``--check`` only says whether they stand there already, as the checks of the project ask.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
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
    """The server at k=3 and k=1 against the others, within 30 steps."""
    head = ("memp-mcp against", "k", "games won more", "games", "p (McNemar)", "steps fewer [95 %]")
    rows = [
        (
            line["against"],
            k,
            _percent(line["won more"], 1, sign=True),
            line["games"],
            line["p"],
            f"{line['steps fewer']} [{line['95 % of steps'].replace(' … ', ', ')}]",
        )
        for k, name in ((3, "compared"), (1, "compared at k=1"))
        for line in results[name]
        if line["budget"] == 30
    ]
    return table(head, rows)


def alfworld_types(results: Results) -> str:
    """Games won and mean steps within 30, by task type."""
    lines = results["by type, won / steps in 30"]
    return table([_mine(name) for name in lines[0]], [list(line.values()) for line in lines])


def alfworld_streams(results: Results) -> str:
    """Update policies on a stream of games from an empty memory."""
    parts = ("all games", "last third")
    head = ("update", *(f"{part}: {what}" for part in parts for what in ("won in 30", "steps", "won in 50", "steps")))
    rows = [
        (
            line["update"],
            *(
                cell
                for part in parts
                for budget in (30, 50)
                for cell in (_percent(line[f"{part}: won in {budget}"]), line[f"{part}: steps of {budget}"])
            ),
        )
        for line in results["streams"]
    ]
    return table(head, rows)


def alfworld_drift(results: Results) -> str:
    """Wasted steps of a literal agent before and after the memory has been adjusted."""
    head = (
        "memory from the old grammar",
        "games",
        "wasted steps a game",
        "games with any",
        "recalled in the new grammar",
    )
    rows = [
        (
            when,
            line["games"],
            f"{line['wasted a game']:.2f}",
            _percent(line["games with a wasted step"]),
            _percent(line["recalled scripts in the games' grammar"]),
        )
        for when, line in results["drift"].items()
    ]
    return table(head, rows)


def telecom(results: Results) -> str:
    """Tickets solved and calls used, by arm."""
    head = ("arm", "solved", "calls of 40")
    rows = [
        (_mine(name), f"{line['solved']:.3g} of {line['of']}", f"{line['calls']:.1f}")
        for name, line in results["summary"].items()
    ]
    return table(head, rows)


def telecom_compared(results: Results) -> str:
    """The server with the observed state against the others, ticket by ticket."""
    head = ("memp-mcp, observed state, against", "k", "tickets", "p (McNemar)", "calls fewer [95 %]")
    others = ("no memory", "nearest run by text (ExpRAG), seed 0", "nearest run by words (BM25), seed 0")
    rows = []
    for k in (3, 1):
        for other in (*others, f"server, ticket only, k={k}"):
            line = results["comparisons"][f"server, observed state, k={k} vs {other}"]
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
    """Every policy on the procedural retrieval benchmark."""
    policies = next(v for name, v in results[EMBEDDER].items() if name.startswith("Proced-mem-bench, all"))
    names = list(next(iter(policies.values())))
    return table(("policy", *names), [(p, *(f"{line[n]['value']:.3f}" for n in names)) for p, line in policies.items()])


def embedders(results: Results) -> str:
    """The hybrid with each embedder that the project supports."""
    sets = [name for name in results[EMBEDDER] if name.startswith("ALFRED")]
    head = ("hybrid with", *(re.sub(r"ALFRED, | \(.*", "", name) for name in sets))
    return table(head, [(name, *(_cells(found[s]["hybrid"]) for s in sets)) for name, found in results.items()])


def _cells(line: Mapping[str, Mapping[str, float]]) -> str:
    return " / ".join(f"{value['value']:.3f}".lstrip("0") or "0" for value in line.values())


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
        "memory": ("calls", "MiB idle", "MiB after", "after, not of files"),
    }
    rows = [(what, name, _number(results[what][name])) for what, names in told_first.items() for name in names]
    return table(("", "figure", ""), rows)


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
    return table(("what", "figure", "by"), [*_of_learning(), *_of_finding(), *_of_cost()])


def _of_learning() -> list[tuple[str, str, str]]:
    arms = {arm["arm"]: arm for arm in told("alfworld")["results"]["arms"]}
    won = [_percent(arms[name]["won in 30"]) for name in ("server, k=3", "no memory", "raw BM25")]
    tickets = told("telecom")["summary"]
    solved = [
        f"{tickets[name]['solved']:g}"
        for name in ("server, observed state, k=3", "no memory", "nearest run by text (ExpRAG)")
    ]
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
            f"{solved[0]} of {of}, without a memory {solved[1]}, with the run of the nearest ticket {solved[2]}",
            "`python -m benchmarks.telecom.run`",
        ),
    ]


def _of_finding() -> list[tuple[str, str, str]]:
    sets = told("retrieval")["results"][EMBEDDER]
    words = next(policies for name, policies in sets.items() if "human → template" in name)
    hybrid, plain = (words[p]["P@1 type"]["value"] for p in ("hybrid", "BM25 on the task"))
    memories = told("floor")["results"][EMBEDDER]["memories"].values()
    refused = _percent(min(_refused(rows, "unrelated") for rows in memories), 1)
    lost = _percent(max(_refused(rows, "related") for rows in memories), 1)
    return [
        (
            "tasks in people's own words for which the first procedure is of the right kind, remembered in other words",
            f"{_percent(hybrid)}, where BM25 finds {_percent(plain)}",
            "`python -m benchmarks.retrieval`",
        ),
        (
            'requests from elsewhere that are answered "nothing relevant"',
            f"{refused}, and of the related ones {lost}",
            "`python -m benchmarks.floor`",
        ),
    ]


def _refused(rows: Iterable[Mapping[str, Any]], kind: str) -> float:
    of_kind = [r for r in rows if r["kind"] == kind]
    return float(sum(r["refused_shipped"] * r["count"] for r in of_kind) / sum(r["count"] for r in of_kind))


def _of_cost() -> list[tuple[str, str, str]]:
    started = {row["process start until answered"]: row["CPU s, median"] for row in told("start")["results"]["rows"]}
    official = next(seconds for name, seconds in started.items() if "server-memory" in name)
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
            "under 1,500 tokens",
            "`pytest tests/test_server.py`",
        ),
    ]


TABLES: dict[str, Callable[[], str]] = {
    "claims": claims,
    "alfworld-arms": lambda: alfworld_arms(told("alfworld")["results"]),
    "alfworld-compared": lambda: alfworld_compared(told("alfworld")["results"]),
    "alfworld-types": lambda: alfworld_types(told("alfworld")["results"]),
    "alfworld-streams": lambda: alfworld_streams(told("alfworld")["results"]),
    "alfworld-drift": lambda: alfworld_drift(told("alfworld")["results"]),
    "telecom": lambda: telecom(told("telecom")),
    "telecom-compared": lambda: telecom_compared(told("telecom")),
    "start": lambda: figures(told("start")["results"]["rows"]),
    "hook": lambda: figures(told("hook")["results"]["rows"]),
    "recall": lambda: figures(told("recall")["results"], RECALLED),
    "record": lambda: record(told("record")["results"]),
    "growth": lambda: figures(told("growth")["results"]["growth"]),
    "growth-bars": lambda: figures(told("growth")["results"]["bars of growth"]),
    "soak": lambda: figures(told("soak")["results"]["soak"]),
    "soak-latency": lambda: figures(told("soak")["results"]["latency"]),
    "sharing": lambda: figures(told("sharing")["results"]["sharing"]),
    "import": lambda: figures(told("team")["results"]["import"]),
    "context": lambda: figures(told("context")["results"]["loop"]),
    "retrieval": lambda: retrieval(told("retrieval")["results"]),
    "proced-mem-bench": lambda: proced_mem_bench(told("retrieval")["results"]),
    "secrets": lambda: secrets(told("secrets")["results"]),
    "held-out": lambda: held_out(told("secrets")["results"]),
    "poison": lambda: poison(told("poison")["results"]),
    "flagged": lambda: flagged(told("poison")["results"]),
    "embedders": lambda: embedders(told("retrieval")["results"]),
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
