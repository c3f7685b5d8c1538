"""Edits of TOML texts that keep everything else byte for byte: one table is put at the end, or taken out.

As in `json_edit`, the result is read again and compared with what the same change of the data gives, and whatever is
not certain is refused. tomlkit 0.15.2 was weighed: it puts a new table between another one and the comment above that,
takes the comments below a table out with it, and does not give the same bytes back.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from memp_mcp.errors import BadInput

_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read(text: str) -> dict[str, Any]:
    """The data of a text.

    Raises:
        BadInput: it is no TOML; the message says where.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))  # which Codex skips, and an editor on Windows may write
    except tomllib.TOMLDecodeError as error:
        raise BadInput(str(error)) from None


def put(text: str, path: Sequence[str], table: Mapping[str, object]) -> str:
    """Set the table at *path*: what was there goes, and it comes last.

    Raises:
        BadInput: the text cannot be read, or is written in a form that has no room for another table.
    """
    text = drop(text, path)
    line = "\r\n" if "\r\n" in text else "\n"
    rows = [f"[{'.'.join(_key(part) for part in path)}]", *(f"{_key(k)} = {_value(v)}" for k, v in table.items())]
    parted = line if text else ""
    ended = line if text and not text.endswith("\n") else ""
    return _checked(f"{text}{ended}{parted}{line.join(rows)}{line}", _with(read(text), path, table))


def drop(text: str, path: Sequence[str]) -> str:
    """Take out the table at *path* with the tables below it; a text without it stays as it is.

    Raises:
        BadInput: the text cannot be read, or the table is written in a form that stands among others.
    """
    data = read(text)
    if not _has(data, path):
        return text
    while section := _section(path).search(text):
        following = _HEADER.search(text, section.end())
        lines = text[section.start() : following.start() if following else len(text)].splitlines(keepends=True)
        while not lines[-1].strip() or lines[-1].lstrip().startswith("#"):
            lines.pop()  # what stands below the table is about the next one, or about nothing in particular
        text = text[: section.start()] + text[section.start() + len("".join(lines)) :]
    return _checked(text, _without(data, path), _without(data, path, with_parents=True))


def _section(path: Sequence[str]) -> re.Pattern[str]:
    """The header of the table at *path*, or of one below it, with one empty line before it."""
    key = r"[ \t]*\.[ \t]*".join(rf"[\"']?{re.escape(part)}[\"']?" for part in path)
    return re.compile(rf"^(?:[ \t]*\r?\n)?[ \t]*\[[ \t]*{key}[ \t]*(?:\.[^\]\r\n]*)?\][^\r\n]*(?=\r?$)", re.MULTILINE)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    match value:
        case bool() | str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(_value(v) for v in value)}]"
        case dict():
            return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}" if value else "{}"
        case _:
            raise BadInput(f"{value!r} cannot be written again; change it by hand")


def _checked(new: str, *accepted: object) -> str:
    with suppress(BadInput):  # as when the tables are inline ones
        if read(new) in accepted:
            return new
    raise BadInput("the change cannot be made for certain without touching something else")


def _has(data: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def _with(data: Any, path: Sequence[str], value: object) -> object:
    known = data if isinstance(data, dict) else {}
    return {**known, path[0]: _with(known.get(path[0]), path[1:], value)} if path else value


def _without(data: Mapping[str, Any], path: Sequence[str], *, with_parents: bool = False) -> dict[str, Any]:
    """The data without what stands at *path*; and, if wanted, without the tables that held nothing else."""
    rest = dict(data)
    inner = _without(data[path[0]], path[1:], with_parents=with_parents) if len(path) > 1 else {}
    if inner or (len(path) > 1 and not with_parents):
        rest[path[0]] = inner
    else:
        del rest[path[0]]
    return rest
