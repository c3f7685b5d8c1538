"""A backup: the whole memory in one file that was read back before it got its name. `memp-mcp import` restores it."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from memp_mcp import transcripts
from memp_mcp.archive import export
from memp_mcp.errors import BadInput, MempError, StoreDamaged
from memp_mcp.files import unfinished
from memp_mcp.memory import Memory
from memp_mcp.models import Value
from memp_mcp.transcripts import Exported

NAME = "memp-%Y-%m-%dT%H%M%S.%fZ.jsonl.gz"
PATTERN = "memp-*Z.jsonl.gz"


class BackedUp(Value):
    """A backup that was made."""

    file: str
    values: dict[str, int]
    """How many of each kind were read back."""
    bytes: int
    removed: tuple[str, ...] = ()
    """Older backups that `keep` had no room for."""


def backup(memory: Memory, target: Path, *, keep: int | None = None) -> BackedUp:
    """Write the memory to a file, complete or not at all, and read it back before it gets its name.

    Args:
        memory: others may write to it meanwhile.
        target: a file that is not there yet; or a folder, in which the file is named for the moment.
        keep: how many backups may be in the folder, the latest of them; None: all.

    Raises:
        BadInput: the file is there already, or *keep* is given with a file.
        StoreDamaged: the memory cannot be read; nothing is left behind.
        OSError: the file cannot be written; nothing is left behind.

    """
    folder, name = _place(target, keep)
    with unfinished(folder / name) as place:
        with place.open("wb") as file:
            written = _write(memory, file)
        values = _read_back(place, written)
    removed = _remove_old(folder, keep)
    return BackedUp(file=str(folder / name), values=values, bytes=(folder / name).stat().st_size, removed=removed)


def _place(target: Path, keep: int | None) -> tuple[Path, str]:
    if target.is_dir():
        return target, datetime.now(UTC).strftime(NAME)
    if target.exists():
        raise BadInput(f"{target} is there already, and a backup replaces nothing. Name another file, or a folder.")
    if keep is not None:
        raise BadInput(f"{target} is no folder, and --keep is for a folder of backups. Make it first, or leave it out.")
    if target.suffix != ".gz":
        raise BadInput(f"{target} is no folder, and no name of a .gz file, which it would be. Make the folder first.")
    if not target.parent.is_dir():
        raise BadInput(f"There is no folder {target.parent}. Make it first.")
    return target.parent, target.name


def _write(memory: Memory, file: BinaryIO) -> str:
    """Write every line; returns the digest of them."""
    digest = hashlib.sha256()
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        try:
            for line in export(memory):
                told = line.encode() + b"\n"
                digest.update(told)
                packed.write(told)
        except StoreDamaged as error:
            raise StoreDamaged(
                f"There is no backup, for it would not be whole. {error} Run `memp-mcp repair` first; "
                "`memp-mcp export` saves what can be read as it is."
            ) from error
    return digest.hexdigest()


def _read_back(file: Path, written: str) -> dict[str, int]:
    """Read the file as an import would; returns how many values of each kind there are."""
    digest = hashlib.sha256()
    with gzip.open(file, "rb") as packed:
        for line in packed:
            digest.update(line)
    if digest.hexdigest() != written:
        raise MempError(f"What was written to {file.parent} is not what is read from it. Is the disk sound?")
    return dict(Counter(_kinds(file)))


def _kinds(file: Path) -> Iterator[str]:
    for value in transcripts.reading(file, source_format="own").values:
        if not isinstance(value, Exported):
            raise MempError(f"The backup could not be read back, and was not kept: {value}.")
        yield type(value.value).__name__.lower()


def _remove_old(folder: Path, keep: int | None) -> tuple[str, ...]:
    if keep is None:
        return ()
    old = sorted(folder.glob(PATTERN))[:-keep]
    for file in old:
        file.unlink()
    return tuple(file.name for file in old)
