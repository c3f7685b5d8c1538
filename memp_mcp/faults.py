"""What LanceDB and the file system raise, as the error that says what to do; a commit that lost a race is run again."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from memp_mcp.errors import StoreDamaged, StoreError, StoreFull

T = TypeVar("T")


@contextmanager
def explained(directory: Path | str) -> Iterator[None]:
    """Raise what LanceDB and the file system raise as the StoreError that says what to do about it."""
    try:
        with without_panic():
            yield
    except (RuntimeError, OSError, ValueError) as error:
        raise _explanation(error, directory) from error


@contextmanager
def without_panic() -> Iterator[None]:
    """Raise as a RuntimeError, which it raises at most damaged files, what LanceDB panics at in some."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "RustPanic":  # there is no module from which to import it
            raise RuntimeError(str(error)) from error
        raise


LOOK = "Run `memp-mcp doctor`"
_UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EDQUOT}


def _explanation(error: Exception, directory: Path | str) -> StoreError:
    text = str(error.__cause__ or error)  # that LanceDB's client has given up is less than why
    if isinstance(directory, str):
        cloud = "the database and its LANCEDB_API_KEY, LANCEDB_REGION or LANCEDB_HOST"
        bucket = "the bucket and its credentials (AWS_ACCESS_KEY_ID, AWS_REGION, …)"
        return StoreError(
            f"The memory in {directory} cannot be used: {first_line(text)}. Everything acknowledged so far is kept. "
            f"Check the network, {cloud if directory.startswith('db://') else bucket}, and try again."
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return StoreFull(f"{directory} is not a directory. Set MEMP_HOME to a directory that can be written.")
    if getattr(error, "errno", None) in _UNWRITABLE or any(f"(os error {code})" in text for code in _UNWRITABLE):
        return StoreFull(
            f"{directory} cannot be written: {first_line(text)}. Everything acknowledged so far is kept. "
            "Free some space, or set MEMP_HOME to a directory that can be written, and try again."
        )
    if not directory.is_dir():
        return StoreDamaged(f"{directory} is gone. Put it back and restart, or set MEMP_HOME to where the memory is.")
    return StoreDamaged(
        f"The memory in {directory} cannot be read: {first_line(text)}. It was left as it is. "
        f"{LOOK} to see what is wrong, `memp-mcp repair` to mend it, `memp-mcp export` to save what can still be read."
    )


_SOURCE = re.compile(r",? ?/\S+\.rs:\d+:\d+")
"""Where in LanceDB's own code an error was raised; it adds that each time it passes one on."""


def first_line(text: str) -> str:
    """The first line of what was raised, without the places in LanceDB's own code."""
    line = _SOURCE.sub("", text.strip().partition("\n")[0])
    return line if len(line) <= 300 else line[:300] + "…"


_CONFLICTS = ("ommit conflict", "Too many concurrent writers", "Incompatible transaction")
_ATTEMPTS = 8


def committed(action: Callable[[], T]) -> T:
    """Run *action* again while a commit loses a race; inside the lock only a foreign program can cause one."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return action()
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _CONFLICTS):
                raise
            time.sleep(0.02 * 2**attempt)
    return action()
