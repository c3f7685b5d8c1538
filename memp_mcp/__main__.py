"""python -m memp_mcp, and the memp-mcp command: an MCP server on stdio without arguments, else a command line."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # that of typing costs a hook three milliseconds
if TYPE_CHECKING:
    from memp_mcp.front import Serve


def main() -> int:
    """Run what the arguments ask for; return the exit code."""
    if sys.argv[1:2] == ["hook"] and not {"-h", "--help"} & set(sys.argv):
        from memp_mcp.hook import main as hook  # noqa: PLC0415 - a client waits for it at each prompt

        hook(sys.argv[2:])
    import signal  # noqa: PLC0415 - not for the hooks

    # What is ended before it has begun ends without a word; Python's own handler would print where it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from memp_mcp.front import serve_stdio  # noqa: PLC0415 - not for the hooks

    if sys.argv[1:] in ([], ["serve"]):  # both start at once, and tell by each call what is wrong with the settings
        serve_stdio(_load)
    from memp_mcp.cli import main as command  # noqa: PLC0415 - costs more than the whole handshake

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a command cleans up
    return command(sys.argv[1:])


def _load() -> Serve:
    from memp_mcp.serving import stdio_server  # noqa: PLC0415 - what the front spares the client's first second

    return stdio_server()


if __name__ == "__main__":
    sys.exit(main())
