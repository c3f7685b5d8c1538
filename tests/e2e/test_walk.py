"""The whole way on real input: 336 real trajectories, real clients over stdio, a failure, a correction, a recall.

`python tests/e2e/test_walk.py` prints the walk; the README shows it.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import Implementation

DATA = Path(os.environ.get("TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
IDS = re.compile(r"\b[pt]_[0-9a-f]{12,20}\b")
Say = Callable[[str], None]


def command(home: Path, *argv: str) -> str:
    """Run one command of the program on the memory at *home*."""
    environ = {**os.environ, "MEMP_HOME": str(home)}
    run = [sys.executable, "-m", "memp_mcp", *argv]
    return subprocess.run(run, env=environ, capture_output=True, text=True, check=True).stdout.strip()


def client(home: Path, name: str) -> Client:
    """A client with a server process of its own."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "memp_mcp"], env={"MEMP_HOME": str(home)})
    return Client(server, client_info=Implementation(name=name, version="1"), mode="auto")


async def call(agent: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await agent.call_tool(tool, arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] = result.structured_content or {}
    return answer


def held_out() -> list[tuple[str, str]]:
    """Task sentences of games that the 336 trajectories do not contain, with their type; templates and people's."""
    with lzma.open(DATA / "alfworld" / "human_tasks.json.xz") as file:
        tasks = json.load(file)["valid_seen"]
    return [(text, t["tt"]) for t in tasks[::10] for text in (t["templ"], t["human"][0])]


VERBS = {
    "pick_heat_then_place_in_recep": "heat", "pick_cool_then_place_in_recep": "cool",
    "pick_clean_then_place_in_recep": "clean", "look_at_obj_in_light": "use",
}  # fmt: skip


async def walk(home: Path, say: Say) -> dict[str, Any]:  # noqa: PLR0915 - a story is read from top to bottom
    """Import, recall for held-out tasks, record, fail, reflect, and recall the correction from another client."""
    say("$ memp-mcp import agentinstruct_trajectories.json")
    say(command(home, "import", str(DATA / "retrieval" / "agentinstruct_trajectories.json")))
    seen: dict[str, Any] = {"right": 0, "asked": 0}
    async with client(home, "claude-code") as claude:
        for task, kind in held_out():
            found = await call(claude, "recall_procedure", task=task, limit=1)
            script = " ".join(found.get("procedures", [{}])[0].get("script", []))
            seen["asked"] += kind in VERBS
            seen["right"] += kind in VERBS and VERBS[kind] in script
        say(f"held-out tasks: a fitting script came first for {seen['right']} of {seen['asked']}")
        task = "put a hot mug in the cabinet"
        recall = await call(claude, "recall_procedure", task=task)
        [first, *_] = recall["procedures"]
        say(f"\nclaude-code recalls for {task!r}: {first['id']} {first['title']}")
        say("  " + "\n  ".join(first["script"]))
        steps = [
            {"action": "take mug 1 from countertop 1", "observation": "You pick up the mug 1."},
            {"action": "heat mug 1 with microwave 1", "observation": "You heat the mug 1."},
            {"action": "put mug 1 in/on cabinet 1", "observation": "Nothing happens."},
        ]
        failed = await call(
            claude, "record_trajectory", task=task, steps=steps, outcome="failure", reward=0,
            recall_id=recall["recall_id"], used=[first["id"]],
        )  # fmt: skip
        say(f"claude-code follows it in a newer world and fails: {steps[-1]['action']} -> Nothing happens.")
        [wrong] = [line for line in first["script"] if ": put " in line]
        right = wrong.replace(": put ", ": move ").replace(" in/on ", " to ")
        reflected = await call(
            claude, "reflect_failure", trajectory_id=failed["trajectory_id"], error="Nothing happens.",
            diagnosis="put X in/on Y is not understood any more", correction=right,
        )  # fmt: skip
        say("claude-code reflects:\n  " + reflected["changes"][0]["diff"].replace("\n", "\n  "))
    async with client(home, "codex-mcp-client") as codex:
        again = await call(codex, "recall_procedure", task=task)
        found_again = next(p for p in again["procedures"] if p["id"] == first["id"])
        say(f"\ncodex, another process, recalls {found_again['id']} revision {found_again['revision']}")
        done = [
            {"action": "take mug 1 from countertop 1", "observation": "You pick up the mug 1."},
            {"action": "heat mug 1 with microwave 1", "observation": "You heat the mug 1."},
            {"action": "move mug 1 to cabinet 1", "observation": "You move the mug 1 to the cabinet 1."},
        ]
        won = await call(
            codex, "record_trajectory", task=task, steps=done, outcome="success", reward=1,
            recall_id=again["recall_id"], used=[first["id"]],
        )  # fmt: skip
        say("codex succeeds: " + "; ".join(f"{c['kind']} {c['id']}: {c['reason']}" for c in won["changes"]))
    async with client(home, "qwen-cli-mcp-client-memp") as qwen:
        shown = await call(qwen, "get_procedure", id=first["id"])
        say("\nqwen sees the history: " + ", ".join(f"{h['revision']} {h['change']}" for h in shown["history"]))
    return {**seen, "revised": found_again, "shown": shown, "corrected": right}


@pytest.mark.anyio
async def test_a_correction_by_one_client_reaches_another_on_real_data(tmp_path: Path) -> None:
    if not DATA.is_dir():  # noqa: ASYNC240 - before anything runs
        pytest.skip(f"no real data: {DATA} is not there; set TEST_DATA")

    told: list[str] = []
    seen = await walk(tmp_path / "memory", told.append)

    assert seen["right"] / seen["asked"] >= 0.7
    assert seen["revised"]["revision"] == 2
    assert seen["corrected"] in seen["revised"]["script"]
    assert "put X in/on Y is not understood any more" in seen["revised"]["pitfalls"][0]
    assert seen["shown"]["procedure"]["successes"] == 1
    readme = Path(__file__).parents[2] / "README.md"
    assert IDS.sub("<id>", "\n".join(told)) in IDS.sub("<id>", readme.read_text(encoding="utf-8"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(walk, Path(folder) / "memory", print)
