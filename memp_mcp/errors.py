"""What can go wrong, as the caller sees it. The text of an error is the way out of it.

MempError
├── BadInput            an argument cannot be used as it is
│   └── NotFound        an id that this memory does not have
├── StoreError          the memory on disk cannot be used
│   ├── StoreBusy       another process holds the lock for too long
│   ├── StoreNewer      written by a later version of the program
│   ├── StoreDamaged    a table or the format file cannot be read
│   └── StoreFull       no space, or a directory that cannot be written
├── StaleRevision       somebody else revised the procedure first
├── EmbedderError       the embedder cannot be loaded, or does not fit the memory
└── LLMFailed           the LLM gave no usable answer; nothing was changed
"""

from __future__ import annotations


class MempError(Exception):
    """Root of all errors that this package raises on purpose."""


class BadInput(MempError):
    """An argument cannot be used; the message names it and says what would be accepted."""


class NotFound(BadInput):
    """An id that this memory does not have."""

    def __init__(self, kind: str, wanted: str, hint: str) -> None:
        self.kind = kind
        self.wanted = wanted
        super().__init__(f"No {kind} {wanted!r} in this memory. {hint}")


class StoreError(MempError):
    """The memory on disk cannot be used; what is stored is left as it is."""


class StoreBusy(StoreError):
    """Another process held the write lock for longer than the time-out."""


class StoreNewer(StoreError):
    """The memory was written by a later version of the program."""


class StoreDamaged(StoreError):
    """A table or the format file cannot be read."""


class StoreFull(StoreError):
    """Nothing can be written: no space left, or a read-only directory."""


class StaleRevision(MempError):
    """A change was decided on a revision that is no longer the current one."""

    def __init__(self, procedure_id: str, expected: int, current: int) -> None:
        self.procedure_id = procedure_id
        self.expected = expected
        self.current = current
        super().__init__(
            f"Procedure {procedure_id!r} is at revision {current}, the change was decided on {expected}. Decide again."
        )


class EmbedderError(MempError):
    """The embedder cannot be loaded, or does not fit the vectors of this memory."""


class LLMFailed(MempError):
    """The LLM gave no usable answer. Nothing in the memory was changed."""

    def __init__(self, llm: str, reason: str) -> None:
        self.llm = llm
        self.reason = reason
        super().__init__(f"{llm} gave no usable answer: {reason}. The memory is as it was; try again or go on without.")
