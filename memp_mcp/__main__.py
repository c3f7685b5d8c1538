"""python -m memp_mcp, and the memp-mcp command: an MCP server on stdio without arguments, else a command line."""

from __future__ import annotations

import sys
from functools import partial

from memp_mcp.front import Serve, serve_stdio


def main() -> int:
    """Run what the arguments ask for; return the exit code."""
    if sys.argv[1:] in ([], ["serve"]):  # both start at once, and tell by each call what is wrong with the settings
        serve_stdio(_load)
    from memp_mcp.cli import main as command  # noqa: PLC0415 - costs more than the whole handshake

    return command(sys.argv[1:])


def _load() -> Serve:
    from memp_mcp.cli import stdio_application  # noqa: PLC0415 - what the front spares the client's first second
    from memp_mcp.stdio import serve  # noqa: PLC0415 - imports the SDK

    return partial(serve, stdio_application())


if __name__ == "__main__":
    sys.exit(main())
