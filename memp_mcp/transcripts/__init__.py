"""Transcripts of other programs, one file a format, read into trajectories.

The format is told from the content, never from the file's name; .xz and .gz are opened on the way. What cannot be
read is passed over, with its reason, and the rest goes on: the same file read twice gives the same ids, so importing
it again after a repair stores only what is new.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memp_mcp.errors import BadInput
from memp_mcp.models import Trajectory
from memp_mcp.transcripts import alfworld, messages, own
from memp_mcp.transcripts.own import Exported

__all__ = ["FORMATS", "Exported", "Format", "Skipped", "read"]

LOOK_AHEAD = 200
"""Lines that may be unreadable at the head of a file before it counts as of no known format."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A place that gave nothing: the file, the line (the first is 1) and why."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Format:
    """What is known about one format: its look in a sentence, and how a parsed document becomes values."""

    summary: str
    recognises: Callable[[object], bool]
    parts: Callable[[Any], list[Any]]  # Any: each takes the documents that it recognises
    parse: Callable[[Any, str], Trajectory | Exported]


FORMATS: dict[str, Format] = {
    "own": Format("memp-mcp's own JSONL, also a whole exported memory", own.recognises, own.parts, own.parse),
    "messages": Format("OpenAI-style message lists", messages.recognises, messages.parts, messages.parse),
    "alfworld": Format(
        "ALFWorld runs of AgentInstruct or KnowAgent", alfworld.recognises, alfworld.parts, alfworld.parse
    ),
}


def read(path: Path, *, source_format: str | None = None) -> Iterator[Trajectory | Exported | Skipped]:
    """Read *path* piece by piece, in its own order.

    Args:
        path: JSON or JSONL in one of FORMATS, plain or packed with xz or gzip.
        source_format: its name in FORMATS; told from the content when None.

    Yields:
        What was found, and a Skipped for each line or trajectory that cannot be used.

    Raises:
        BadInput: there is no such file or format, or the content is of no known format. Raised on the first `next`.
    """
    chosen = None if source_format is None else _format(source_format)
    unread: list[Skipped] = []
    number = 0
    for number, value in _documents(_file(path)):
        if chosen is None and not isinstance(value, Skipped):
            chosen = next((known for known in FORMATS.values() if known.recognises(value)), None)
        if chosen is not None:
            yield from unread
            unread = []
            yield from [value] if isinstance(value, Skipped) else _values(chosen, value, path, number)
        else:
            unread.append(value if isinstance(value, Skipped) else Skipped(path, number, "It is of no known format."))
            if len(unread) >= LOOK_AHEAD:
                break
    if number == 0:
        yield Skipped(path, 1, "The file is empty.")
    if unread:
        raise BadInput(f"{path} cannot be read: {unread[0].reason} {_known()}")


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise BadInput(f"There is no format {name!r}. {_known()}")
    return FORMATS[name]


def _known() -> str:
    return "Known formats: " + "; ".join(f"{name} ({known.summary})" for name, known in FORMATS.items()) + "."


def _file(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"{path} is not a file. Give the path of a transcript.")
    return path


def _values(known: Format, document: object, path: Path, number: int) -> Iterator[Trajectory | Exported | Skipped]:
    if not known.recognises(document):
        yield Skipped(path, number, "It is JSON, but not of the format of this file.")
        return
    parts = known.parts(document)
    for position, part in enumerate(parts, 1):
        try:
            yield known.parse(part, path.name)
        except (BadInput, ValidationError) as error:
            where = f"Trajectory {position}: " if len(parts) > 1 else ""
            yield Skipped(path, number, where + _reason(error))


def _reason(error: BadInput | ValidationError) -> str:
    if isinstance(error, BadInput):
        return str(error)
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}".removeprefix(": ") for p in problems[:3])
    return f"{told}; and {len(problems) - 3} more." if len(problems) > 3 else f"{told}."


def _documents(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's JSON with its number, or the whole file's when its first line is not complete by itself."""
    first = True
    for number, line in _lines(path):
        document = line if isinstance(line, Skipped) else _parsed(line, path, number)
        if first and isinstance(document, Skipped) and not isinstance(whole := _whole(path), Skipped):
            yield number, whole
            return
        first = False
        yield number, document


def _parsed(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Skipped(path, number, f"It is not complete JSON: {error}.")


def _whole(path: Path) -> Any:
    texts = [line for _, line in _lines(path)]
    damaged = next((text for text in texts if isinstance(text, Skipped)), None)
    return damaged or _parsed("".join(map(str, texts)), path, 1)


def _lines(path: Path) -> Iterator[tuple[int, str | Skipped]]:
    """The lines that are not blank; the last is a Skipped when the file cannot be read to its end."""
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        yield number + 1, Skipped(path, number + 1, f"The rest of the file cannot be read: {error}.")


def _opened(path: Path) -> io.TextIOWrapper:
    with path.open("rb") as file:
        magic = file.read(6)
    opener: Any = lzma.open if magic == b"\xfd7zXZ\x00" else gzip.open if magic[:2] == b"\x1f\x8b" else open
    return io.TextIOWrapper(opener(path, "rb"), encoding="utf-8-sig", errors="replace", newline="\n")
