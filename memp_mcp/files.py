"""Files that are there as a whole or not at all, and that what was written is on the disk."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unfinished(file: Path) -> Iterator[Path]:
    """A place beside *file*, which gets its name at the end, and on the disk: what has the name stays until then.

    It has the mode of what it replaces; a new one is its owner's alone. If anything is raised, nothing is left of it.

    Raises:
        OSError: it cannot be written; *file*, which the error names, is as it was.

    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=".memp-", suffix=".unfinished", dir=file.parent)
        os.close(descriptor)
        place = Path(name)
        try:
            if file.exists():
                place.chmod(stat.S_IMODE(file.stat().st_mode))
            yield place
            sync_file(place)
            place.replace(file)
            sync_folder(file.parent)
        finally:
            place.unlink(missing_ok=True)
    except OSError as error:
        error.filename = str(file)  # which a write does not tell, and a user wants to know
        raise


def sync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the folder's entries are on the disk, where the system can do that (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
