"""The stand-in server behind the front on stdio: ``python behind_front.py CATALOGUE [--broken | --endless]``."""

from __future__ import annotations

import sys
import threading
from functools import partial
from pathlib import Path

from memp_mcp.front import Serve, serve_stdio


def load() -> Serve:
    """Load what the front does without."""
    from stand_in import application  # noqa: PLC0415 - imports the SDK

    from memp_mcp.stdio import serve  # noqa: PLC0415 - imports the SDK

    return partial(serve, application())


def broken() -> Serve:
    """Fail to load."""
    raise RuntimeError("the model file is gone")


def endless() -> Serve:
    """Load and load."""
    sys.stderr.write("loading\n")
    sys.stderr.flush()
    threading.Event().wait()
    raise AssertionError


LOADS = {"--broken": broken, "--endless": endless}
serve_stdio(LOADS.get(sys.argv[-1], load), Path(sys.argv[1]))
