"""argv + environment → Settings → serve | import | export | search | show …: the command line.

Exit codes: 0 done · 1 an error, said on stderr · 2 wrong usage · 3 nothing found · 4 `doctor` found something, or
`repair` left something.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table

from memp_mcp import __version__, commands
from memp_mcp.commands import FAILED, Answer
from memp_mcp.errors import MempError
from memp_mcp.models import BuildPolicy, RetrievePolicy, Status, UpdatePolicy
from memp_mcp.redact import keep_out_of_logs
from memp_mcp.settings import Settings
from memp_mcp.tokens import SCOPES

WIDTH = 200
"""Of tables that go to a file or another program."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of writing."""
Command = Callable[[argparse.Namespace, Settings], Answer]
AddCommand = Callable[[str, Command], argparse.ArgumentParser]


# -- the command line ---------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """All commands with their options; also what the README's table is tested against."""
    main = argparse.ArgumentParser(
        prog="memp-mcp", description="Procedural memory for AI agents. Without a command: an MCP server on stdio."
    )
    main.add_argument("--version", action="version", version=__version__)
    names = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Command) -> argparse.ArgumentParser:
        told = (run.__doc__ or "").partition("\n")[0].rstrip(".")
        text = told[:1].lower() + told[1:]
        added = names.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--home", type=_directory, metavar="DIR", help="directory of the memory (MEMP_HOME)")
        added.add_argument("--json", action="store_true", help="print data instead of text")
        return added

    _add_serving(command)
    _add_joining(command)
    _add_transfer(command)
    _add_reading(command)
    _add_changing(command)
    _add_upkeep(command)
    return main


def _add_serving(command: AddCommand) -> None:
    serve = command("serve", commands.serve)
    serve.add_argument("--http", action="store_true", help="streamable HTTP at /mcp")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; beyond loopback only with tokens")
    serve.add_argument("--port", type=_number(1, 65_535), default=8765)
    serve.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="Host header to accept")
    serve.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="Origin header to accept")
    serve.add_argument("--rate", help="requests of a token, or of an address without one, such as 600/minute")
    serve.add_argument("--stateless", action="store_true", help="keep no sessions: for several servers side by side")
    _add_token(command)
    hook = command("hook", commands.hook)
    hook.add_argument("event", help="its name: SessionStart, UserPromptSubmit, PostToolUse, Stop, SessionEnd …")
    hook.add_argument("--client", default="", help="claude-code, codex, qwen-code, gemini-cli or cursor")
    command("demo", commands.demo)


def _add_token(command: AddCommand) -> None:
    token = command("token", commands.token)
    token.add_argument("act", choices=["create", "list", "revoke"])
    token.add_argument("name", nargs="?", default="", help="whose token is made or revoked")
    token.add_argument(
        "--scope", choices=SCOPES, default="write", help="read: recall; write: record too; admin: forget"
    )
    token.add_argument("--namespace", default="", help="a memory of its own for its calls")
    token.add_argument("--days", type=_number(1), help="how long it is valid; without: until it is revoked")


def _add_joining(command: AddCommand) -> None:
    from memp_mcp.clients import CLIENTS  # noqa: PLC0415 - keeps --version quick

    added = command("install", commands.install)
    added.add_argument("--no-hooks", dest="hooks", action="store_false", help="the server alone")
    added.add_argument("--force", action="store_true", help="replace an entry of this name that is of another program")
    taken_out = command("uninstall", commands.uninstall)
    for one in (added, taken_out):
        one.add_argument("clients", nargs="+", choices=list(CLIENTS), metavar="CLIENT", help=", ".join(CLIENTS))
        one.add_argument("--dry-run", action="store_true", help="show what would change; change nothing")
    command("status", commands.status)


def _add_transfer(command: AddCommand) -> None:
    from memp_mcp.transcripts.places import PLACES  # noqa: PLC0415 - keeps --version quick

    files = command("import", commands.import_all)
    _add_files(files, at_least="*")
    files.add_argument(
        "--from", dest="clients", action="append", choices=list(PLACES), default=[], help="what this client has kept"
    )
    files.add_argument("--dry-run", action="store_true", help="show what would be learnt; store nothing")
    files.add_argument("--project", default="", help="project of what names none; auto: the folder worked in")
    files.add_argument("--build", choices=get_args(BuildPolicy), help="MEMP_BUILD for this import")
    files.add_argument("--update", choices=get_args(UpdatePolicy), help="MEMP_UPDATE for this import")
    files.add_argument("--revise", action="store_true", help="of skills: take over what was edited in their files")
    whole = command("export", commands.export)
    whole.add_argument("file", nargs="?", type=Path, help="without, or as -: stdout")
    whole.add_argument("--skills", type=Path, metavar="DIR", help="write verified procedures as Agent Skills into DIR")
    whole.add_argument(
        "--project", help="of skills: those of this project and what is shared; MEMP_PROJECT if not given"
    )
    whole.add_argument("--force", action="store_true", help="of skills: overwrite also what was edited by hand")
    saved = command("backup", commands.backup)
    saved.add_argument("target", type=Path, help="a .jsonl.gz file, or a folder for a series of them")
    saved.add_argument("--keep", type=_number(1), metavar="N", help="keep the latest N in the folder")
    cold = command("bootstrap", commands.bootstrap)
    _add_files(cold)
    cold.add_argument("--keep", type=_number(1), default=1, help="how many trajectories of a task to keep")


def _add_reading(command: AddCommand) -> None:
    search = command("search", commands.search)
    search.add_argument("task")
    search.add_argument("--error", default="", help="an error met in the middle of the task")
    search.add_argument("--limit", type=_number(1), default=5)
    search.add_argument("--project", help="besides what is shared")
    search.add_argument("--retrieve", choices=get_args(RetrievePolicy), help="MEMP_RETRIEVE for this search")
    listing = command("list", commands.listing)
    listing.add_argument("--status", choices=get_args(Status))
    listing.add_argument("--project")
    listing.add_argument("--limit", type=_number(1), default=50)
    listing.add_argument("--offset", type=_number(0), default=0)
    show = _with_id(command("show", commands.show), "procedure or trajectory id")
    show.add_argument("--revision", type=_number(1))
    _with_id(command("history", commands.history))
    diff = _with_id(command("diff", commands.diff))
    diff.add_argument("old", nargs="?", type=_number(1))
    diff.add_argument("new", nargs="?", type=_number(1))
    command("stats", commands.stats)
    report = command("report", commands.report)
    report.add_argument("--html", type=Path, required=True, metavar="FILE", help="the page, which needs nothing else")


def _add_changing(command: AddCommand) -> None:
    restore = _with_id(command("restore", commands.restore))
    restore.add_argument("--revision", type=_number(1))
    retire = _with_id(command("retire", commands.retire))
    retire.add_argument("--reason", default="retired by hand")
    approve = _with_id(command("approve", commands.approve))
    approve.add_argument("--share", action="store_true", help="and let all projects recall it")
    _with_id(command("share", commands.share))
    _with_id(command("forget", commands.forget))


def _add_upkeep(command: AddCommand) -> None:
    command("compact", commands.compact)
    scrub = command("scrub", commands.scrub)
    scrub.add_argument("--dry-run", action="store_true", help="count them by kind; change nothing")
    rebuild = command("rebuild", commands.rebuild)
    rebuild.add_argument("--embed", action="store_true", help="all vectors, by the embedder of the settings")
    rebuild.add_argument("--distil", action="store_true", help="scripts, by the build policy and LLM of the settings")
    rebuild.add_argument("--all", action="store_true", help="with --distil: also what a reflection has corrected")
    command("doctor", commands.doctor)
    command("repair", commands.repair)


def _add_files(command: argparse.ArgumentParser, at_least: str = "+") -> None:
    from memp_mcp.transcripts import FORMATS  # noqa: PLC0415 - keeps --version quick

    command.add_argument(
        "files", nargs=at_least, type=Path, metavar="FILE", help="JSON or JSONL, plain, .gz or .xz, or a folder of them"
    )
    command.add_argument("--format", choices=list(FORMATS), help="told from the content when not given")


def _with_id(command: argparse.ArgumentParser, text: str = "procedure id") -> argparse.ArgumentParser:
    command.add_argument("id", help=text)
    return command


def _directory(text: str) -> Path:
    if not text:  # as of a variable that is not set: the folder of the moment is no memory
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


def _number(least: int, most: int = sys.maxsize) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            upwards = f"{least} to {most}" if most < sys.maxsize else f"{least} upwards"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {upwards}")
        return int(text)

    return number


def main(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(argv)
    try:
        return _run(options, os.environ if environ is None else environ)
    except MempError as error:
        return _failed(str(error), as_json=options.json)
    except OSError as error:
        return _unwritten(error, as_json=options.json)
    except KeyboardInterrupt:
        # What LanceDB was about to await is dropped as this exception is let go, which Python would tell on stderr.
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
        return _failed("interrupted; what was reported as stored is stored", as_json=options.json)


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # what is remembered has no fewer characters where the locale has
    settings = Settings.from_env(environ, home=options.home)
    keep_out_of_logs()
    logging.basicConfig(level=settings.log_level, stream=sys.stderr, format="%(levelname)s %(message)s")
    answer: Answer = options.run(options, settings)
    _print(answer, as_json=options.json)
    sys.stdout.flush()
    return _failed(answer.problem, as_json=options.json) if answer.problem else answer.code


def _unwritten(error: OSError, *, as_json: bool) -> int:
    if error.filename is None:  # a write failed: what stdout still holds must not fail again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return FAILED  # the reader has seen enough
    return _failed(": ".join(filter(None, [error.strerror or str(error), error.filename])), as_json=as_json)


def _failed(message: str, *, as_json: bool) -> int:
    sys.stderr.write((json.dumps({"error": message}) if as_json else f"memp-mcp: {message}") + "\n")
    return FAILED


def _print(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        if answer.data is not None:
            sys.stdout.write(json.dumps(_plain(answer.data), ensure_ascii=False) + "\n")
        return
    # where nobody sees it a line is as wide as it likes: a program looks for whole ids and titles
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, width=width)
    for line in answer.lines:
        console.print(_Harmless(line))


class _Harmless(NamedTuple):
    """What is printed, less the control characters of recorded text: a terminal would do what they say."""

    line: str | Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.line, options):
            yield Segment(_CONTROL.sub("\ufffd", segment.text), segment.style, segment.control)


def _plain(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    return [_plain(d) for d in data] if isinstance(data, list) else data
