"""What a server process does without: parts of libraries that nothing asks for, memory that nobody would give back."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

_M_ARENA_MAX = -8
"""Of mallopt(3)."""
_M_MMAP_THRESHOLD = -3
_LARGE = 512 << 10


class _OnDemand(ModuleType):
    """A package whose own code runs when a name of it is first asked for; its submodules are imported without that."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment] # narrower no more
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def on_demand(package: str) -> None:
    """Run a package's own code only when a name of it is asked for, if it is not imported yet."""
    spec = importlib.util.find_spec(package)
    if package not in sys.modules and spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _OnDemand
        sys.modules[package] = module


def few_arenas() -> None:
    """Let threads share two arenas of memory; glibc gives eight to a core, each of which keeps what it once held.

    What is large stays out of them: glibc puts into them whatever is smaller than what was once freed, up to 32 MB.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return to the system what was freed; glibc keeps most of it."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_what_is_loaded() -> None:
    """Have the garbage collector pass over what is there now, which is libraries: they cost it 5 ms a recall. Once."""
    if not gc.get_freeze_count():
        gc.freeze()
