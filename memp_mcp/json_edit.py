"""Edits of JSON texts that keep everything else byte for byte: comments, trailing commas, order, indentation.

A text is read into spans; an edit is a splice between them, and its result is read again and compared with what the
same change of the data gives. A text that cannot be read, or a splice that gives anything else, is refused. What is put
in stands first in its object or list, so that no other line changes and taking it out is the exact reverse.

The grammar is RFC 8259 with the two liberties that editors take in their settings: ``//`` and ``/* */`` comments, and a
comma after the last element. Two libraries were weighed (November 2026): jsonc-edit starts Node.js and installs an npm
package on its first call, and jsoncgx is under the GPL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from memp_mcp.errors import BadInput

_SKIPPED = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_PLAIN = re.compile(r"(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.+-])", re.ASCII)
_REST_OF_LINE = re.compile(r"[ \t]*(?://[^\r\n]*)?(?=\r?\n)")
_BLANKS = re.compile(r"[ \t]*")
_DEEPEST = 100

Key = str | int


class Span(NamedTuple):
    """A value and where it stands; of an object or list also what it holds, by key or index.

    *start* is where its key begins, if it has one, and *begin* where the value itself does.
    """

    data: Any
    start: int
    begin: int
    end: int
    held: Mapping[Key, Span]

    def at(self, path: Sequence[Key]) -> Span | None:
        """What stands at *path* below this value, if anything does."""
        found: Span | None = self
        for key in path:
            found = found.held.get(key) if found else None
        return found


def read(text: str) -> Any:
    """The data of a text; of an empty one, None.

    Raises:
        BadInput: it is no JSON, not even with comments; the message says where.
    """
    return _Reader(text).whole().data


def put(text: str, path: Sequence[str], value: object) -> str:
    """Set what stands at *path*, making the objects that lead to it. A text without a value gets an object.

    Raises:
        BadInput: the text cannot be read, or something else than an object is in the way.
    """
    root = _Reader(text).whole()
    if root.begin == root.end:
        ended = _line_end(text) if "//" in text.rpartition("\n")[2] else ""
        text = f"{text}{ended}{{}}\n"
        root = _Reader(text).whole()
    if found := root.at(path):
        new = text[: found.begin] + _rendered(text, root, value, like=found) + text[found.end :]
        return _checked(new, _with(root.data, path, value))
    depth = max(i for i in range(len(path)) if root.at(path[:i]))
    holder = root.at(path[:depth])
    if holder is None or not isinstance(holder.data, dict):
        raise BadInput(f"{'.'.join(path[:depth]) or 'the whole'} is no object")
    member = _with(None, path[depth + 1 :], value)
    return _checked(_with_first(text, root, holder, member, key=path[depth]), _with(root.data, path, value))


def prepend(text: str, path: Sequence[str], value: object) -> str:
    """Put *value* first into the list at *path*, making the list and what leads to it.

    Raises:
        BadInput: the text cannot be read, or something else than a list is there.
    """
    root = _Reader(text).whole()
    found = root.at(path)
    if found is None:
        return put(text, path, [value])
    if not isinstance(found.data, list):
        raise BadInput(f"{'.'.join(path)} is no list")
    return _checked(_with_first(text, root, found, value), _with(root.data, path, [value, *found.data]))


def drop(text: str, path: Sequence[Key]) -> str:
    """Take out what stands at *path*; a text without it stays as it is.

    Raises:
        BadInput: the text cannot be read.
    """
    root = _Reader(text).whole()
    holder, found = root.at(path[:-1]), root.at(path)
    if holder is None or found is None:
        return text
    new = text
    for begin, end in sorted(_cuts(text, holder, found), reverse=True):
        new = new[:begin] + new[end:]
    return _checked(_closed(new, path[:-1]), _without(root.data, path))


# -- reading ------------------------------------------------------------------------------------------------


class _Reader:
    """Reads one text into spans."""

    def __init__(self, text: str) -> None:
        self._text = text

    def whole(self) -> Span:
        begin = self.skip(1 if self._text.startswith("\ufeff") else 0)
        if begin == len(self._text):
            return Span(None, begin, begin, begin, {})
        found = self._value(begin, begin, 0)
        rest = self.skip(found.end)
        return found if rest == len(self._text) else self._wrong(rest, "nothing more")

    def skip(self, at: int) -> int:
        """Where the white space and the comments from *at* on end."""
        blank = _SKIPPED.match(self._text, at)
        return blank.end() if blank else at

    def _value(self, start: int, begin: int, depth: int) -> Span:
        if self._text.startswith(("{", "["), begin):
            return self._holder(start, begin, depth) if depth < _DEEPEST else self._wrong(begin, "less depth")
        token = _STRING.match(self._text, begin) or _PLAIN.match(self._text, begin)
        if token is None:
            self._wrong(begin, "a value")
        return Span(self._decoded(token), start, begin, token.end(), {})

    def _holder(self, start: int, begin: int, depth: int) -> Span:
        text, held = self._text, dict[Key, Span]()
        is_object = text[begin] == "{"
        closing = "}" if is_object else "]"
        at = self.skip(begin + 1)
        while not text.startswith(closing, at):
            key, value_at = self._key(at) if is_object else (len(held), at)
            held[key] = self._value(at, value_at, depth + 1)
            at = self.skip(held[key].end)
            if text.startswith(",", at):
                at = self.skip(at + 1)
            elif not text.startswith(closing, at):
                self._wrong(at, f"a comma or {closing}")
        data = {k: v.data for k, v in held.items()} if is_object else [v.data for v in held.values()]
        return Span(data, start, begin, at + 1, held)

    def _key(self, at: int) -> tuple[Key, int]:
        token = _STRING.match(self._text, at)
        if token is None:
            self._wrong(at, "a name in double quotes")
        colon = self.skip(token.end())
        if not self._text.startswith(":", colon):
            self._wrong(colon, "a colon")
        return self._decoded(token), self.skip(colon + 1)

    def _decoded(self, token: re.Match[str]) -> Any:
        try:
            return json.loads(token[0])
        except ValueError:
            self._wrong(token.start(), "a value")

    def _wrong(self, at: int, wanted: str) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        raise BadInput(f"line {line}, column {column}: {wanted} was expected")


# -- splicing -----------------------------------------------------------------------------------------------


def _with_first(text: str, root: Span, holder: Span, value: object, *, key: str | None = None) -> str:
    """The text with a value put in front of what an object or list holds, in the style of what stands there."""
    inside = holder.begin + 1
    first = min((held.start for held in holder.held.values()), default=holder.end - 1)
    name = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
    before = text[inside:first]
    if holder.held and "\n" not in before:
        return f"{text[:first]}{name}{json.dumps(value, ensure_ascii=False)}, {text[first:]}"
    line, outer = _line_end(text), _margin(text, holder.begin)
    indent = before.rpartition("\n")[2] if holder.held else ""
    indent = indent if indent and not indent.strip() else outer + _unit(text, root)
    entry = f"{line}{indent}{name}{_lines(text, root, value, indent)}"
    if not holder.held:
        rest = text[first:] if before.strip() == "" else before + text[first:]
        return text[:inside] + entry + (f"{line}{outer}{rest}" if before.strip() == "" else rest)
    remark = _REST_OF_LINE.match(text, inside)
    at = remark.end() if remark else inside
    return f"{text[:at]}{entry},{text[at:]}"


def _cuts(text: str, holder: Span, found: Span) -> list[tuple[int, int]]:
    """What has to go with a value: the beginning of its line, and one comma."""
    comma = _Reader(text).skip(found.end)
    if text.startswith(",", comma):
        own_line, begin = _line_of(text, holder, found, comma + 1)
        end = comma + 1 if own_line else _BLANKS.match(text, comma + 1).end()  # type: ignore[union-attr]  # matches ""
        return [(begin, found.end), (comma, end)]
    own_line, begin = _line_of(text, holder, found, found.end)
    before = max((held.end for held in holder.held.values() if held.end <= found.start), default=None)
    if before is None:
        return [(begin, found.end)]
    comma = _Reader(text).skip(before)
    begin = begin if own_line else max(comma + 1, len(text[: found.start].rstrip(" \t")))
    return [(comma, comma + 1), (begin, found.end)]


def _line_of(text: str, holder: Span, found: Span, end: int) -> tuple[bool, int]:
    """Whether a value is the first on its line, and where what goes with it begins.

    That is the end of the line before, unless this is what ends a comment in it and more follows on the value's line.
    """
    line = text.rfind("\n", holder.begin, found.start)
    if line < 0 or text[line : found.start].strip():
        return False, found.start
    before = text[text.rfind("\n", 0, line) + 1 : line]
    if "//" in before and not _REST_OF_LINE.match(text, end):
        return True, line + 1
    return True, line - before.endswith("\r")


def _closed(text: str, path: Sequence[Key]) -> str:
    """The text with the object or list at *path* closed up if nothing is left in it, not even a comment."""
    found = _Reader(text).whole().at(path)
    if found is None or text[found.begin + 1 : found.end - 1].strip():
        return text
    return text[: found.begin + 1] + text[found.end - 1 :]


def _rendered(text: str, root: Span, value: object, *, like: Span) -> str:
    if "\n" in text[like.begin : like.end]:
        return _lines(text, root, value, _margin(text, like.start))
    return json.dumps(value, ensure_ascii=False)


def _lines(text: str, root: Span, value: object, indent: str) -> str:
    lines = json.dumps(value, ensure_ascii=False, indent=_unit(text, root)).split("\n")
    return f"{_line_end(text)}{indent}".join(lines)


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str, root: Span) -> str:
    """What one level of depth is indented by: as the first thing in the text is, else two spaces."""
    first = min((held.start for held in root.held.values()), default=root.begin)
    return _margin(text, first) or "  "


def _margin(text: str, at: int) -> str:
    """The white space that the line of *at* begins with."""
    blanks = _BLANKS.match(text, text.rfind("\n", 0, at) + 1)
    return blanks[0] if blanks else ""


# -- checking -----------------------------------------------------------------------------------------------


def _checked(new: str, wanted: object) -> str:
    if read(new) != wanted:
        raise BadInput("the change cannot be made for certain without touching something else")
    return new


def _with(data: Any, path: Sequence[str], value: object) -> Any:
    if not path:
        return value
    known = data or {}
    return {**known, path[0]: _with(known.get(path[0]), path[1:], value)}


def _without(data: Any, path: Sequence[Key]) -> Any:
    """The data without what stands at *path*."""
    copy: Any = data.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = _without(copy[path[0]], path[1:])
    return copy
