"""Where clients keep their sessions, and what files a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from memp_mcp.transcripts import opencode

SUFFIXES = {".json", ".jsonl", ".traj", ".db", ".gz", ".xz"}


class Place(NamedTuple):
    """The folder of a client, and where in it the sessions are."""

    folder: Callable[[Mapping[str, str]], Path]
    patterns: tuple[str, ...]


class Source(NamedTuple):
    """A file to read; one that was not named by the user may be of no known format. *lacks* says why there is none."""

    path: Path
    named: bool
    lacks: str = ""


def _home(environ: Mapping[str, str], *names: str, default: str) -> Path:
    """The folder that the first set variable names, else one below the home directory."""
    named = next((environ[name] for name in names if environ.get(name, "").strip()), None)
    return Path(named or f"~/{default}").expanduser()


PLACES = {
    "claude-code": Place(lambda e: _home(e, "CLAUDE_CONFIG_DIR", default=".claude"), ("projects/**/*.jsonl",)),
    "codex": Place(
        lambda e: _home(e, "CODEX_HOME", default=".codex"),
        ("sessions/**/rollout-*.jsonl", "archived_sessions/**/rollout-*.jsonl"),
    ),
    "qwen-code": Place(
        lambda e: _home(e, "QWEN_RUNTIME_DIR", "QWEN_HOME", default=".qwen"),
        ("projects/*/chats/**/*.jsonl", "tmp/*/chats/**/*.json*"),
    ),
    "gemini-cli": Place(lambda e: _home(e, "GEMINI_CLI_HOME", default="") / ".gemini", ("tmp/*/chats/**/*.json*",)),
    "opencode": Place(
        lambda e: _home(e, "XDG_DATA_HOME", default=".local/share") / "opencode",
        ("storage/session/**/*.json", "opencode*.db"),
    ),
    "cursor": Place(
        lambda e: _home(e, "CURSOR_CONFIG_DIR", default=".cursor"), ("projects/*/agent-transcripts/**/*.jsonl",)
    ),
}


def kept_by(client: str, environ: Mapping[str, str]) -> list[Source]:
    """The sessions that a client has kept, the oldest first; where there are none, its folder with the reason."""
    place = PLACES[client]
    folder = place.folder(environ)
    files = {file for pattern in place.patterns for file in folder.glob(pattern) if file.is_file()}
    if not files:
        where = " or ".join(str(folder / pattern) for pattern in place.patterns)
        lacks = f"There are no sessions of {client} at {where}. Give the files or their folder instead."
        return [Source(folder, named=True, lacks=lacks)]
    return [Source(file, named=False) for file in sorted(files, key=lambda file: (file.stat().st_mtime, file))]


def below(paths: Iterable[Path]) -> Iterator[Source]:
    """Each file that is named, and those below a folder that may be transcripts, by name."""
    for path in paths:
        if not path.is_dir():
            yield Source(path, named=True)
            continue
        for file in sorted(path.rglob("*")):
            if file.suffix in SUFFIXES and file.is_file() and not opencode.is_part(file):
                yield Source(file, named=False)
