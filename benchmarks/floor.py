"""Where does relevance end? The floor of an embedder, from real texts (needs ../shared/data or TEST_DATA).

Memory: the 336 ALFWorld tasks of AgentInstruct. Related queries: what people wrote for other games of the same six
kinds (ALFRED annotations) and the development queries of Proced-mem-bench. Unrelated: travel plans, software issues,
prompts from real coding sessions, and the requests below. Recall takes the best match, so the best cosine counts.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memp_mcp.embedder import Embedder, load

DATA = Path(os.environ.get("TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
REFUSED = 0.95
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

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


def main() -> None:
    """Print the table; with --out write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args()
    embedder = load(given.embedder)
    memory = embedder.embed(_memory())
    related = {name: _best(embedder, memory, read()) for name, read in RELATED.items()}
    unrelated = {name: _best(embedder, memory, read()) for name, read in UNRELATED.items()}
    result = {"embedder": embedder.name, "floor_in_code": embedder.floor} | _figures(related, unrelated)
    print(_table(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def _memory() -> list[str]:
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
RELATED: dict[str, Read] = {"human goals": _human_goals, "development queries": _development_queries}
UNRELATED: dict[str, Read] = {
    "travel plans": _travel_plans,
    "software issues": _software_issues,
    "coding prompts": _coding_prompts,
    "requests": _requests,
}
Best = NDArray[np.float32]


def _best(embedder: Embedder, memory: Best, queries: list[str]) -> Best:
    best: Best = (embedder.embed(queries) @ memory.T).max(axis=1)
    return best


def _figures(related: dict[str, Best], unrelated: dict[str, Best]) -> dict[str, object]:
    """Each kind of text weighs the same, however many there are of it."""
    candidates = np.arange(0, 1, 0.01)
    refused = [np.mean([(best < floor).mean() for best in unrelated.values()]) for floor in candidates]
    floor = float(candidates[int(np.argmax(np.array(refused) >= REFUSED))])
    rows = [_row(name, "related", best, floor) for name, best in related.items()]
    rows += [_row(name, "unrelated", best, floor) for name, best in unrelated.items()]
    return {"floor": round(floor, 2), "rows": rows}


def _row(name: str, kind: str, best: Best, floor: float) -> dict[str, object]:
    percentiles = {f"p{p}": round(float(np.percentile(best, p)), 3) for p in PERCENTILES}
    refused = round(float((best < floor).mean()), 3)
    return {"texts": name, "kind": kind, "count": len(best)} | percentiles | {"refused": refused}


def _table(result: dict[str, object]) -> str:
    rows = result["rows"]
    assert isinstance(rows, list)  # noqa: S101 - it was built above
    lines = [f"{result['embedder']}: floor {result['floor']} (in code: {result['floor_in_code']}), best cosine by text"]
    lines.append(" | ".join(rows[0]))
    lines += [" | ".join(map(str, row.values())) for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
