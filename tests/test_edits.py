"""Edits of configurations: whatever the text is, what was put in comes out again and the rest is not touched."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memp_mcp import entries, json_edit, toml_edit
from memp_mcp.entries import Found
from memp_mcp.errors import BadInput

EXAMPLES = 60
TEXTS = st.text(alphabet='ab"\\\né{}[],:/*#', max_size=6)
KEYS = st.sampled_from(["mcpServers", "memp", "hooks", "Stop", "a", "b c", "ü", '"', ""])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
OBJECTS = st.dictionaries(KEYS, JSON, max_size=5)
STYLES = st.sampled_from([None, 0, 1, 2, 4, "\t"])
REMARKS = st.sampled_from(["", " ", "\n", "/* x, } */", '// { "\n', "\n  // y\n  ", "/**/ "])


@settings(deadline=None, max_examples=EXAMPLES)
@given(OBJECTS, STYLES, st.sampled_from(["\n", "\r\n"]))
def test_any_json_survives_having_a_server_and_a_hook_put_in_and_taken_out(
    data: dict[str, Any], style: int | str | None, line: str
) -> None:
    text = json.dumps(data, indent=style)
    _survives(text.replace("\n", line), "qwen-code", Path("settings.json"))


@settings(deadline=None, max_examples=EXAMPLES)
@given(OBJECTS, st.data())
def test_any_json_with_comments_survives_too(data: dict[str, Any], draw: st.DataObject) -> None:
    strings = re.compile(r'("(?:[^"\\]|\\.)*")')
    pieces = strings.split(json.dumps(data))
    marked = (p if i % 2 else "".join(_marked(p, draw)) for i, p in enumerate(pieces))

    _survives("".join(marked), "qwen-code", Path("settings.json"))


def test_a_comment_does_not_swallow_what_comes_after_what_is_taken_out() -> None:
    text = '{"a": 1, // one\n "memp": {}, "b": 2}'

    assert json_edit.drop(text, ("memp",)) == '{"a": 1, // one\n "b": 2}'
    assert json_edit.drop('{"a": 1, // one\n "memp": {}}', ("memp",)) == '{"a": 1 // one\n}'


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "line 1, column 2: a name in double quotes"),
        ('{"a"}', "line 1, column 5: a colon"),
        ('{\n  "a": "\\x"}', "line 2, column 8: a value"),
        ("[1 2]", "line 1, column 4: a comma or ]"),
        ("{} {}", "line 1, column 4: nothing more"),
        ("[" * 200, "line 1, column 101: less depth"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(text: str, where: str) -> None:
    with pytest.raises(BadInput, match=re.escape(where)):
        json_edit.read(text)


def test_what_is_not_there_cannot_be_taken_out() -> None:
    assert json_edit.drop('{"a": 1}', ("b", "c")) == '{"a": 1}'


def test_a_name_that_is_there_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot be made for certain"):
        json_edit.drop('{"memp": 1, "memp": 2}', ("memp",))


def _marked(piece: str, draw: st.DataObject) -> Iterator[str]:
    for token in re.findall(r"[^\s,:\[\]{}]+|.", piece):
        yield draw.draw(REMARKS) + token


def _survives(text: str, client: str, file: Path) -> None:
    entry = {"command": "memp-mcp", "args": []}
    hooks = {"Stop": "memp-mcp hook Stop --client x", "SessionEnd": "memp-mcp hook SessionEnd --client x"}
    data = _read(file, text)
    try:
        joined = entries.put(client, file, text, Found(entry, hooks))
    except BadInput:
        return  # as where a server is a number
    found = entries.find(client, file, joined, ("server", "hooks"))
    assert (found.entry, found.hooks) == (entry, hooks)
    assert entries.put(client, file, joined, Found(entry, hooks)) == joined
    assert entries.take_out(client, file, joined, ("server", "hooks"), text) == text or "memp" in str(data)
    alone = entries.take_out(client, file, joined, ("server", "hooks"), None)
    assert _without_empty(_read(file, alone)) == _without_empty(_without_memp(data))


def _read(file: Path, text: str) -> Any:
    return tomllib.loads(text) if file.suffix == ".toml" else json_edit.read(text)


def _without_memp(data: dict[str, Any]) -> dict[str, Any]:
    servers = data.get("mcpServers")
    return {**data, "mcpServers": {k: v for k, v in servers.items() if k != "memp"}} if servers else data


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """The data without what is there for its content alone, where it has none."""
    hooks = data.get("hooks")
    kept = {k: v for k, v in hooks.items() if v != []} if isinstance(hooks, dict) else hooks
    return {k: v for k, v in {**data, "hooks": kept}.items() if v or k not in {"mcpServers", "hooks"}}


@settings(deadline=None, max_examples=EXAMPLES)
@given(JSON, STYLES)
def test_json_is_read_as_the_standard_library_reads_it(data: Any, style: int | str | None) -> None:
    assert json_edit.read(json.dumps(data, indent=style)) == data
    assert json_edit.read("\ufeff" + json.dumps(data, ensure_ascii=False)) == data


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.text(alphabet='{}[]",:/* \n\\tru01-.e', max_size=14))
def test_json_that_the_standard_library_refuses_is_refused_unless_for_comments_and_commas(text: str) -> None:
    try:
        data = json.loads(text)
    except ValueError:
        if "/" not in text and not re.search(r",\s*[\]}]", text) and text.strip():
            with pytest.raises(BadInput, match=r"line \d+, column \d+"):
                json_edit.read(text)
    else:
        assert json_edit.read(text) == data


TOML_KEYS = st.sampled_from(["mcp_servers", "memp", "a", "b-1", "c"])
TOML_PLAIN = st.booleans() | st.integers(-(2**60), 2**60) | st.sampled_from(["", "# x", "[a]", 'q"\\', "é"])
TOML_FLAT = st.dictionaries(TOML_KEYS, TOML_PLAIN | st.lists(TOML_PLAIN, max_size=2), max_size=3)
TOML = st.lists(st.tuples(st.lists(TOML_KEYS, min_size=1, max_size=3), TOML_FLAT, REMARKS), max_size=4)


@settings(deadline=None, max_examples=EXAMPLES)
@given(TOML_FLAT, TOML)
def test_any_toml_survives_having_a_server_put_in_and_taken_out(
    root: dict[str, Any], tables: list[tuple[list[str], dict[str, Any], str]]
) -> None:
    lines = _toml(root)
    for path, table, remark in tables:
        lines += [f"# {' '.join(remark.split())}", f"[{'.'.join(path)}]  # about it", *_toml(table), ""]
    text = "\n".join(lines)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # as where a table is there twice
    entry = {"command": "memp-mcp", "args": ["x"], "env": {"A B": "ü\n"}}
    try:
        joined = toml_edit.put(text, ("mcp_servers", "memp"), entry)
    except BadInput:
        return  # as where it is in a table that is written on one line
    assert tomllib.loads(joined)["mcp_servers"]["memp"] == entry
    assert toml_edit.put(joined, ("mcp_servers", "memp"), entry) == joined
    left = toml_edit.drop(joined, ("mcp_servers", "memp"))
    if "memp" not in data.get("mcp_servers", {}):
        assert left == text + ("" if text.endswith("\n") or not text else "\n")


def _toml(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]
