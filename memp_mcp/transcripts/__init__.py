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
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from memp_mcp.errors import BadInput
from memp_mcp.models import Trajectory
from memp_mcp.transcripts import (
    alfworld,
    anthropic_messages,
    atif,
    claude_code,
    codex,
    cursor,
    gemini_cli,
    messages,
    opencode,
    own,
    qwen_code,
    swe_agent,
    tau_bench,
)
from memp_mcp.transcripts.found import Documents, Found, Located, Skipped, in_project, reason
from memp_mcp.transcripts.own import Exported

__all__ = [
    "FORMATS",
    "Exported",
    "Format",
    "Located",
    "Reading",
    "Skipped",
    "Unreadable",
    "episodes",
    "read",
    "reading",
]

LOOK_AHEAD = 200
"""Lines at the head of a file among which one has to show its format."""

WHOLE_BYTES = 500_000_000
"""Of a file that is one document, as it lies there: that has to be read as a whole, lines are read one by one."""


@dataclass(frozen=True, slots=True)
class Format:
    """What is known about one format: its look in a sentence, and how the documents of a file become values."""

    summary: str
    recognises: Callable[[object], bool]
    read: Callable[[Documents, Path], Iterator[Found]]


class Reading(NamedTuple):
    """A file that is being read: the name of its format in FORMATS, and what is found in it."""

    format: str
    values: Iterator[Trajectory | Exported | Skipped]


class Unreadable(BadInput):
    """A file of which nothing can be read, and why."""

    def __init__(self, path: Path, reason: str, way_out: str = "") -> None:
        self.reason = reason
        self.advice = f"{reason} {way_out}".rstrip()
        super().__init__(f"{path} cannot be read: {self.advice}")


def _each(
    recognises: Callable[[object], bool],
    parts: Callable[[Any], list[Any]],  # Any: each takes the documents that it recognises
    parse: Callable[[Any, str], Found],
) -> Callable[[Documents, Path], Iterator[Found]]:
    """A reader of formats in which every document stands by itself."""

    def read(documents: Documents, path: Path) -> Iterator[Found]:
        for number, document in documents:
            if isinstance(document, Skipped):
                yield document
            elif not recognises(document):
                yield Skipped(path, number, "It is JSON, but not of the format of this file.")
            else:
                yield from _parsed_parts(parse, parts(document), path, number)

    return read


def _parsed_parts(parse: Callable[[Any, str], Found], parts: list[Any], path: Path, number: int) -> Iterator[Found]:
    for position, part in enumerate(parts, 1):
        try:
            yield parse(part, path.name)
        except (BadInput, ValidationError) as error:
            where = f"Trajectory {position}: " if len(parts) > 1 else ""
            yield Skipped(path, number, where + reason(error))


# In the order in which a document is shown to them.
FORMATS: dict[str, Format] = {
    "own": Format(
        "memp-mcp's own JSONL, also a whole exported memory",
        own.recognises,
        _each(own.recognises, own.parts, own.parse),
    ),
    "claude-code": Format("sessions of Claude Code", claude_code.recognises, claude_code.read),
    "codex": Format("rollouts of Codex", codex.recognises, codex.read),
    "qwen-code": Format("sessions of Qwen Code", qwen_code.recognises, qwen_code.read),
    "gemini-cli": Format("sessions of Gemini CLI", gemini_cli.recognises, gemini_cli.read),
    "opencode": Format("sessions of opencode: files, database or export", opencode.recognises, opencode.read),
    "cursor": Format("agent transcripts of Cursor", cursor.recognises, cursor.read),
    "anthropic": Format(
        "message lists of Anthropic's Messages API", anthropic_messages.recognises, anthropic_messages.read
    ),
    "tau-bench": Format(
        "results of tau-bench and tau2-bench",
        tau_bench.recognises,
        _each(tau_bench.recognises, tau_bench.parts, tau_bench.parse),
    ),
    "messages": Format(
        "OpenAI-style message lists, also of mini-swe-agent",
        messages.recognises,
        _each(messages.recognises, messages.parts, messages.parse),
    ),
    "atif": Format("ATIF runs, as of Harbor and Terminal-Bench", atif.recognises, atif.read),
    "swe-agent": Format(".traj files of SWE-agent", swe_agent.recognises, swe_agent.read),
    "alfworld": Format(
        "ALFWorld runs of AgentInstruct or KnowAgent",
        alfworld.recognises,
        _each(alfworld.recognises, alfworld.parts, alfworld.parse),
    ),
}


def read(
    path: Path, *, source_format: str | None = None, project: str = ""
) -> Iterator[Trajectory | Exported | Skipped]:
    """Read *path* piece by piece, in its own order; `reading`, begun on the first `next`.

    Yields:
        What was found, and a Skipped for each line or trajectory that cannot be used.
    """
    yield from reading(path, source_format=source_format, project=project).values


def reading(path: Path, *, source_format: str | None = None, project: str = "") -> Reading:
    """Find out what *path* is, and begin to read it.

    Args:
        path: JSON or JSONL in one of FORMATS, plain or packed with xz or gzip, or a database of opencode.
        source_format: its name in FORMATS; told from the content when None.
        project: of the trajectories that name none; "auto" takes the name of the folder that the agent worked in,
            where the transcript tells it.

    Raises:
        Unreadable: there is no such file, or the content is of no known format.
        BadInput: there is no such format.
    """
    name, found = _recognised(path, source_format)
    return Reading(name, in_project(found, project))


def episodes(path: Path, *, source_format: str) -> Iterator[Located]:
    """The episodes of a client's session, in its own order, as they stand now.

    Raises:
        BadInput: there is no such file or format.
    """
    _, found = _recognised(path, source_format)
    return (value for value in found if isinstance(value, Located))


def _recognised(path: Path, source_format: str | None) -> tuple[str, Iterator[Found]]:
    if source_format is not None and source_format not in FORMATS:
        raise BadInput(f"There is no format {source_format!r}. {_known()}")
    if not path.is_file():
        raise Unreadable(path, "It is not a file.", "Give the path of a transcript.")
    documents = _documents(path)
    head: list[tuple[int, Any]] = []
    for number, document in documents:
        head.append((number, document))
        name = source_format or _name(document)
        if name:
            return name, FORMATS[name].read(chain(head, documents), path)
        if len(head) >= LOOK_AHEAD:
            break
    if not head:
        return "", iter([Skipped(path, 1, "The file is empty.")])
    first = head[0][1].reason if isinstance(head[0][1], Skipped) else "It is of no known format."
    raise Unreadable(path, first, _known())


def _name(document: object) -> str | None:
    return next((name for name, known in FORMATS.items() if known.recognises(document)), None)


def _known() -> str:
    return "Known formats: " + "; ".join(f"{name} ({known.summary})" for name, known in FORMATS.items()) + "."


def _documents(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's JSON with its number, or the whole file's when its first line is not complete by itself."""
    if _begins(path, opencode.SQLITE):
        yield from _database(path)
        return
    lines = _parsed_lines(path)
    first = next(lines, None)
    if first is None:
        return
    if isinstance(first[1], Skipped):
        whole = _whole(path)
        if not isinstance(whole, Skipped):
            yield first[0], whole
            return
        first = (first[0], whole if path.stat().st_size > WHOLE_BYTES else first[1])
    yield first
    yield from lines


def _parsed_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(path):
        for document in [line] if isinstance(line, Skipped) else _parsed(line, path, number):
            yield number, document


def _database(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        for number, session in enumerate(opencode.sessions(path), 1):
            yield number, session
    except sqlite3.Error as error:
        yield number + 1, Skipped(path, number + 1, f"It is no database of opencode: {error}.")


def _parsed(text: str, path: Path, number: int) -> list[Any]:
    """The document on a line, or those that a torn write has left on it one behind the other."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError) as error:
        return _glued(text) or [Skipped(path, number, f"It is not complete JSON: {error}.")]


def _glued(text: str) -> list[Any]:
    decoder = json.JSONDecoder()
    documents: list[Any] = []
    at = 0
    try:
        while text.startswith("{", at):
            document, at = decoder.raw_decode(text, at)
            documents.append(document)
    except (ValueError, RecursionError):
        return []
    return documents if not text[at:].strip() else []


def _whole(path: Path) -> Any:
    if (size := path.stat().st_size) > WHOLE_BYTES:
        return Skipped(path, 1, f"It has {size:,} bytes; as a single document {WHOLE_BYTES:,} are read.")
    texts = [line for _, line in _lines(path)]
    damaged = next((text for text in texts if isinstance(text, Skipped)), None)
    return damaged or _parsed("".join(map(str, texts)), path, 1)[0]


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
    opener: Any = lzma.open if _begins(path, b"\xfd7zXZ\x00") else gzip.open if _begins(path, b"\x1f\x8b") else open
    return io.TextIOWrapper(opener(path, "rb"), encoding="utf-8-sig", errors="replace", newline="\n")


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
