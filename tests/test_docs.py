"""The README and the example configuration tell the truth of the program."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import memp_mcp
from memp_mcp.cli import parser
from memp_mcp.settings import PREFIX, Settings
from memp_mcp.transcripts import FORMATS
from memp_mcp.transcripts.places import PLACES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = README.split(f"\n{heading}\n", 1)[1]
    rows = [line for line in section.split("\n## ", 1)[0].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def tools() -> list[dict[str, Any]]:
    catalogue = json.loads((ROOT / "memp_mcp" / "catalogue.json").read_text(encoding="utf-8"))
    listing = next(json.dumps(r["tools"]) for r in catalogue["results"] if "tools" in r)
    found: list[dict[str, Any]] = json.loads(listing)
    return found


def test_the_tool_table_names_the_tools_their_arguments_and_what_they_answer() -> None:
    rows = [
        [t["name"], ", ".join(_arguments(t["inputSchema"])), ", ".join(t["outputSchema"]["properties"])]
        for t in tools()
    ]

    assert table("## Tools") == rows


def _arguments(schema: dict[str, Any]) -> list[str]:
    return [name if name in schema["required"] else f"{name}?" for name in schema["properties"]]


def test_the_settings_table_names_every_setting_with_its_default_and_meaning() -> None:
    rows = [
        [f"{PREFIX}{name.upper()}", "" if field.default in {None, ""} else str(field.default), field.description]
        for name, field in Settings.model_fields.items()
    ]

    assert table("## Settings") == rows


def test_the_command_table_names_every_command_with_its_help() -> None:
    [commands] = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]

    assert table("## Commands") == [[f"memp-mcp {c.dest}", c.help] for c in commands._choices_actions]


def test_the_table_of_imports_names_every_format_and_every_client() -> None:
    rows = table("## Import")

    assert [row[:2] for row in rows] == [[name, known.summary] for name, known in FORMATS.items()]
    assert {row[0] for row in rows if row[2]} == set(PLACES)


def test_the_map_names_every_module() -> None:
    modules = {p.name for p in (ROOT / "memp_mcp").glob("*.py")} - {"__init__.py"}

    mentioned = set(re.findall(r"\b(\w+\.py)\b", memp_mcp.__doc__ or ""))
    assert mentioned == modules
    assert all(f"`{m}`" in README for m in modules)


def test_the_example_configuration_starts_this_program_and_stands_in_the_readme() -> None:
    text = (ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8")

    assert json.loads(text)["mcpServers"]["memp"]["command"] == "memp-mcp"
    assert text.strip() in README


def test_every_figure_file_that_the_readme_cites_is_committed() -> None:
    cited = set(re.findall(r"benchmarks/results/[\w.-]+", README))

    assert cited
    assert all((ROOT / path).is_file() for path in cited)
