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
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from memp_mcp import __version__
from memp_mcp.errors import BadInput, MempError
from memp_mcp.front import serve_stdio
from memp_mcp.models import BuildPolicy, Procedure, RetrievePolicy, Status, UpdatePolicy
from memp_mcp.redact import keep_out_of_logs
from memp_mcp.settings import Settings
from memp_mcp.tokens import SCOPES, Tokens

if TYPE_CHECKING:
    from memp_mcp.clients import Host
    from memp_mcp.joining import FileChange
    from memp_mcp.memory import Memory
    from memp_mcp.sheets import Sheet
    from memp_mcp.transcripts.places import Source

OK, FAILED, USAGE, NOTHING, UNSOUND = range(5)
SHOWN_SKIPS = 10
AddCommand = Callable[[str, "Command", str], argparse.ArgumentParser]


class Answer(NamedTuple):
    """What a command found: as data for --json, as lines for a person, and the exit code."""

    data: Any
    lines: Sequence[str | Table]
    code: int = OK


Command = Callable[[argparse.Namespace, Settings], Answer]

# -- serving ------------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp import serving  # noqa: PLC0415 - keeps --version quick

    if not options.http:
        serve_stdio(lambda: serving.on_stdio(lambda: settings))
    from memp_mcp import web  # noqa: PLC0415 - imports the SDK

    tokens = Tokens(settings.token_file)
    door = web.Door(
        host=options.host,
        port=options.port,
        hosts=options.allow_host,
        origins=options.allow_origin,
        rate=options.rate,
        stateless=options.stateless,
        tokens=tokens if tokens.exist else None,
    )
    serve = serving.on_http(settings, door)
    asked = "with tokens" if door.tokens else "without tokens, to this machine alone"
    sys.stderr.write(f"memp-mcp serves http://{options.host}:{options.port}{web.PATH} {asked}\n")
    serve()
    return Answer(None, [])


def _hook(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - it reads what it needs itself
    from memp_mcp.hook import main as hook  # noqa: PLC0415 - ends the process

    hook([options.event, "--client", options.client, *(["--home", str(options.home)] if options.home else [])])


def _demo(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - a throw-away memory of its own
    from memp_mcp.demo import run  # noqa: PLC0415 - imports the SDK's client

    run(print)
    return Answer(None, [])


# -- tokens -------------------------------------------------------------------------------------------------


def _token(options: argparse.Namespace, settings: Settings) -> Answer:
    tokens = Tokens(settings.token_file)
    match options.act:
        case "create":
            return _token_made(options, tokens)
        case "revoke":
            tokens.revoke(options.name)
            return Answer({"revoked": options.name}, [f"{options.name} lets nobody in any more"])
        case _:
            return _token_list(tokens)


def _token_made(options: argparse.Namespace, tokens: Tokens) -> Answer:
    secret = tokens.create(options.name, scope=options.scope, namespace=options.namespace, days=options.days)
    told = (
        "This is the only time that it is shown. Clients send it as `Authorization: Bearer …`; a server that runs "
        "without tokens has to be started again to ask for them."
    )
    return Answer({"name": options.name, "token": secret}, [secret, told])


def _token_list(tokens: Tokens) -> Answer:
    found = tokens.all()
    table = _table("name", "scope", "namespace", "made", "until")
    for t in found:
        until = "it is revoked" if t.expires_at is None else f"{t.expires_at:%Y-%m-%d}{' (over)' if t.expired else ''}"
        table.add_row(t.name, t.scope, t.namespace, f"{t.created_at:%Y-%m-%d}", until)
    data = [t.model_dump(mode="json", exclude={"sha256"}) for t in found]
    return Answer(data, [table] if found else ["no tokens"], OK if found else NOTHING)


# -- commands -----------------------------------------------------------------------------------------------


def _import(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.archive import import_files, sources  # noqa: PLC0415 - imports LanceDB
    from memp_mcp.skill_folders import files_in  # noqa: PLC0415 - as above

    if found := files_in(options.files):
        return _import_skills(options, settings, found)
    if options.revise:
        raise BadInput("--revise is for skills, and there are none here.")
    files = sources(options.files, options.clients, os.environ)
    if options.dry_run:
        return _import_preview(options, settings, files)
    with _progress("importing") as advance:
        done = import_files(
            _open(settings),
            files,
            source_format=options.format,
            project=options.project,
            build_policy=options.build,
            update_policy=options.update,
            advance=advance,
        )
    line = (
        f"{done.read} read, {done.stored} stored, {done.stored_before} stored before; {done.added} procedures added, "
        f"{done.merged} merged into one that was there, {done.other_changes} other changes"
    )
    return Answer(done, [line, *_skips(done.skips, done.skipped)])


def _import_skills(options: argparse.Namespace, settings: Settings, found: Sequence[Path]) -> Answer:
    from memp_mcp.skill_folders import files_in, import_skills  # noqa: PLC0415 - imports LanceDB

    if options.clients or not all(files_in([path]) for path in options.files):
        raise BadInput("Some of these are skills and some are not. Import them by two commands.")
    if options.format or options.build or options.update:
        raise BadInput("--format, --build and --update are for transcripts, and these are skills.")
    done = import_skills(
        _open(settings), found, project=options.project, revise=options.revise, dry_run=options.dry_run
    )
    lines = [f"{d.done or d.drift:>10}  {d.procedure_id:<14}  {d.file}" for d in done]
    told = [f"\n{d.name or d.file}: {d.drift}\n{d.note}" for d in done if d.note and d.drift != "new"]
    hint = ["\nTake the edits over by --revise."] if any(d.drift == "edited" and not d.done for d in done) else []
    return Answer(done, [*lines, *told, *hint])


def _import_preview(options: argparse.Namespace, settings: Settings, files: Sequence[Source]) -> Answer:
    from memp_mcp.archive import preview  # noqa: PLC0415 - imports LanceDB

    with _progress("reading") as advance:
        found, total = preview(
            settings,
            files,
            source_format=options.format,
            project=options.project,
            update_policy=options.update,
            advance=advance,
        )
    figures = ("trajectories", "steps", "success", "failure", "unknown", "learnt", "skips")
    lines = ["".join(f"{name:>14}" for name in ("format", *figures)) + "  file"]
    for seen in (*found, total):
        row = (seen.format, *(getattr(seen, figure) for figure in figures))
        lines.append("".join(f"{cell:>14}" for cell in row) + f"  {seen.file}")
    return Answer(found, [*lines, *_skips(total.skips, total.skipped)])


def _skips(count: int, reasons: Sequence[str]) -> list[str]:
    """How many places gave nothing, with the first reasons."""
    told = [f"skipped {reason}" for reason in reasons[:SHOWN_SKIPS]]
    return told + ([f"{count:,} places skipped in all"] if count > len(told) else [])


def _export(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.archive import export  # noqa: PLC0415 - imports LanceDB

    if options.skills:
        return _export_skills(options, settings)
    if options.project is not None or options.force:
        raise BadInput("--project and --force are for --skills DIR; a file holds the whole memory.")
    lines = 0
    memory = _open(settings, salvage=True)  # before the file: an earlier export outlives a memory that cannot be opened
    with options.file.open("w", encoding="utf-8") if options.file else nullcontext(sys.stdout) as out:
        for line in export(memory):
            out.write(line + "\n")
            lines += 1
    return Answer({"lines": lines}, [f"{lines} lines written to {options.file}"] if options.file else [])


def _export_skills(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.skill_folders import export_skills  # noqa: PLC0415 - imports LanceDB

    if options.file:
        raise BadInput("Say either a file, for the whole memory, or --skills with a folder.")
    done = export_skills(_open(settings), options.skills, project=options.project, force=options.force)
    lines = [f"{d.done:>10}  {options.skills / d.name}" for d in done]
    kept = any(d.done == "kept" for d in done)
    hint = ["kept: edited by hand; `memp-mcp import` shows how, --force overwrites it"] if kept else []
    return Answer(done, [*lines, *hint] or ["no procedure has a verified success"], OK if done else NOTHING)


def _backup(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.backup import backup  # noqa: PLC0415 - imports LanceDB

    done = backup(_open(settings, salvage=True), options.target, keep=options.keep)
    line = f"{done.file}: {_counted(done.values)}, {done.bytes:,} bytes, read back"
    return Answer(done, [line, *(f"removed {name}" for name in done.removed)])


def _bootstrap(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.archive import bootstrap  # noqa: PLC0415 - imports LanceDB

    with _progress("judging") as advance:
        report = bootstrap(
            _open(settings), options.files, keep=options.keep, source_format=options.format, advance=advance
        )
    table = _table("kept", "score", "steps", "judged by", "task", "why")
    for kept in report:
        score = "" if kept.score is None else f"{kept.score:.2f}"
        mark = "yes" if kept.kept else ""
        table.add_row(mark, score, str(kept.steps), kept.judged_by, kept.task[:60], kept.reason)
    total = f"{sum(k.kept for k in report)} of {len(report)} trajectories kept"
    return Answer(report, [table, total], OK if report else NOTHING)


def _search(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp import answers  # noqa: PLC0415 - imports LanceDB

    looked_up = settings.model_copy(update={"holdout": 0.0})  # a person's question is no episode to experiment on
    recall = _open(looked_up).recall(
        options.task,
        error=options.error,
        limit=options.limit,
        project=options.project,
        policy=options.retrieve,
        client="cli",
    )
    answer = answers.recall_answer(recall, detail="brief", budget=1_000_000)
    table = _table("id", "rev", "score", "cosine", "title", "uses", "why")
    for match in recall.matches:
        found, counts = match.procedure, match.counts
        uses = f"{counts.successes}/{counts.verified} of {counts.uses}"
        table.add_row(
            found.id, str(found.revision), f"{match.score:.3f}", f"{match.relevance:.2f}", found.title, uses, match.why
        )
    if not recall.matches:
        return Answer(answers.as_data(answer), [answer.note], NOTHING)
    how = f"found by {recall.found}" + (f" ({recall.reason})" if recall.reason else "")
    return Answer(answers.as_data(answer), [how, table])


def _list(options: argparse.Namespace, settings: Settings) -> Answer:
    memory = _open(settings)
    found = memory.list_procedures(
        status=options.status, project=options.project, limit=options.limit, offset=options.offset
    )
    counts = memory.counts(found)
    table = _table("id", "rev", "status", "project", "title", "uses", "verified", "successes")
    for p in found:
        c = counts[p.id]
        table.add_row(
            p.id, str(p.revision), p.status, p.project, p.title, str(c.uses), str(c.verified), str(c.successes)
        )
    if not found:
        return Answer(found, ["no procedures"], NOTHING)
    return Answer(found, [table])


def _show(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp import answers  # noqa: PLC0415 - imports LanceDB

    memory = _open(settings)
    if options.id.startswith("t_"):
        trajectory = memory.trajectory(options.id)
        return Answer(trajectory, [trajectory.model_dump_json(indent=2, exclude_defaults=True)])
    known = memory.get(options.id, revision=options.revision)
    answer = answers.get_answer(known, memory.history(options.id))
    return Answer(answers.as_data(answer), [json.dumps(answers.as_data(answer), indent=2, ensure_ascii=False)])


def _history(options: argparse.Namespace, settings: Settings) -> Answer:
    revisions = _open(settings).history(options.id)
    table = _table("rev", "when", "change", "by", "reason")
    for r in revisions:
        table.add_row(str(r.revision), f"{r.created_at:%Y-%m-%d %H:%M}", r.change, r.author, r.reason)
    return Answer(revisions, [table])


def _diff(options: argparse.Namespace, settings: Settings) -> Answer:
    text = _open(settings).diff(options.id, options.old, options.new)
    return Answer({"diff": text}, [text or "no difference that a reader would see"])


def _restore(options: argparse.Namespace, settings: Settings) -> Answer:
    return _changed(_open(settings).restore(options.id, options.revision))


def _retire(options: argparse.Namespace, settings: Settings) -> Answer:
    return _changed(_open(settings).retire(options.id, reason=options.reason))


def _approve(options: argparse.Namespace, settings: Settings) -> Answer:
    changes = _open(settings).approve(options.id, share=options.share)
    told = [_changed(change) for change in changes]
    return Answer(changes, [line for answer in told for line in answer.lines])


def _share(options: argparse.Namespace, settings: Settings) -> Answer:
    return _changed(_open(settings).share(options.id))


def _changed(change: Any) -> Answer:
    new: Procedure = change.procedure
    line = f"{new.id} is at revision {new.revision}, {new.status}: {change.reason}"
    return Answer(change, [line, change.diff] if change.diff else [line])


def _forget(options: argparse.Namespace, settings: Settings) -> Answer:
    gone = _open(settings).forget(options.id)
    lines = [f"{options.id} is gone, with {len(gone)} trajectories"]
    if (kept := settings.directory / "damaged").exists():
        lines.append(f"{kept} holds what a repair replaced, perhaps this too: delete it if it must be gone")
    return Answer({"forgotten": options.id, "trajectories": gone}, lines)


def _stats(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    from memp_mcp import sheets  # noqa: PLC0415 - imports LanceDB

    memory = _open(settings)
    memory.vectorizer.background.ready(30)
    stats = memory.stats()
    table = _table("figure", "value")
    table.add_row("size", f"{stats.size.bytes / 1e6:,.1f} MB: {_counted(stats.size.rows)}")
    for name, value in stats.model_dump(mode="json", exclude={"ledger", "size"}).items():
        table.add_row(name.replace("_", " "), _counted(value) if isinstance(value, dict) else str(value))
    told = [*sheets.sheets(stats.ledger), sheets.procedures(stats.ledger, stats.ledger.procedures)]
    return Answer(stats, [table, *(line for sheet in told if sheet.rows for line in _sheet(sheet))])


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items()) or "none"


def _sheet(sheet: Sheet) -> list[str | Table]:
    table = _table(*sheet.columns)
    table.columns[0].no_wrap = True
    for row in sheet.rows:
        table.add_row(*row)
    return [f"\n{sheet.title}. {sheet.note}", table]


def _report(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp import report  # noqa: PLC0415 - imports LanceDB

    found = _open(settings).ledger()
    options.html.write_text(report.page(found), encoding="utf-8")
    return Answer(found, [f"written to {options.html}"])


def _compact(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    memory = _open(settings)
    before = memory.store.size()
    memory.store.compact()
    after = memory.store.size()
    line = f"{before.bytes:,} -> {after.bytes:,} bytes"
    return Answer({"before": before._asdict(), "after": after._asdict()}, [line])


def _scrub(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.scrub import scrub  # noqa: PLC0415 - imports LanceDB

    with _progress("scrubbing") as advance:
        done = scrub(_open(settings), dry_run=options.dry_run, advance=advance)
    found = f"{done.trajectories} trajectories, {done.revisions} revisions and {done.events} events"
    lines = [
        f"{'secrets in' if options.dry_run else 'cleaned'} {found}",
        *(f"  {s}: {n}" for s, n in done.slots.items()),
    ]
    if not options.dry_run:
        lines += [
            f"all files rewritten, {done.bytes_before:,} -> {done.bytes_after:,} bytes",
            "Restart the servers that are running: they may hold what they have read. Backups keep what they have.",
        ]
    return Answer(done, lines)


def _rebuild(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.archive import rebuild  # noqa: PLC0415 - imports LanceDB

    with _progress("rebuilding") as advance:
        done = rebuild(
            _open(settings, salvage=True),
            embed=options.embed,
            distil=options.distil,
            everything=options.all,
            advance=advance,
        )
    line = (
        f"{done.current} current procedures written again, {done.finished} unfinished trajectories finished, "
        f"{done.embedded} embedded, {len(done.distilled)} distilled anew"
    )
    return Answer(done, [line])


def _doctor(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    from memp_mcp.repair import problems  # noqa: PLC0415 - imports LanceDB

    found = problems(_open(settings, salvage=True))
    lines = [f"- {p}" for p in found] or ["The memory is sound."]
    return Answer({"problems": found}, lines, UNSOUND if found else OK)


def _install(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp import joining  # noqa: PLC0415 - keeps --version quick

    command = joining.own_command(os.environ, settings.directory if "home" in settings.model_fields_set else None)
    changes = joining.install(options.clients, command, _host(), hooks=options.hooks)
    answer = _written(options, changes)
    return answer if options.dry_run else answer._replace(lines=[*answer.lines, *joining.advice(changes, _host())])


def _uninstall(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - is about no memory
    from memp_mcp import joining  # noqa: PLC0415 - keeps --version quick

    return _written(options, joining.uninstall(options.clients, _host()))


def _written(options: argparse.Namespace, changes: Sequence[FileChange]) -> Answer:
    """Shows what is to change, and then changes it."""
    from memp_mcp import joining  # noqa: PLC0415 - keeps --version quick

    for change in changes if not options.json else ():
        sys.stdout.write(f"{change.diff}\n\n")
    sys.stdout.flush()
    for change in changes if not options.dry_run else ():
        joining.carry_out(change)
    data = [{"client": c.client, "file": str(c.file), "diff": c.diff, "written": not options.dry_run} for c in changes]
    if options.dry_run:
        return Answer(data, ["nothing is changed"])
    return Answer(data, [joining.done(c) for c in changes] or ["nothing to change"])


def _host() -> Host:
    from memp_mcp.clients import Host  # noqa: PLC0415 - keeps --version quick

    return Host(os.environ, sys.platform)


def _status(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    from memp_mcp import joining  # noqa: PLC0415 - keeps --version quick

    found, problem = joining.states(_host(), settings.directory)
    table = _table(*joining.COLUMNS)
    for state in found:
        table.add_row(*joining.row(state))
    lines: list[str | Table] = [table] if found else ["none of the clients that this program knows is on this machine"]
    return Answer(found, [*lines, *([problem] if problem else [])], OK if found else NOTHING)


def _repair(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    from memp_mcp.repair import repair  # noqa: PLC0415 - imports LanceDB

    repaired = repair(settings)
    done = [f"+ {line}" for line in repaired.done] or ["There was nothing to mend."]
    return Answer(repaired, [*done, *(f"- {line}" for line in repaired.left)], UNSOUND if repaired.left else OK)


def _open(settings: Settings, *, salvage: bool = False) -> Memory:
    from memp_mcp.memory import Memory  # noqa: PLC0415 - imports LanceDB: two seconds

    return Memory.open(settings, salvage=salvage)


# -- the command line ---------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """All commands with their options; also what the README's table is tested against."""
    main = argparse.ArgumentParser(
        prog="memp-mcp", description="Procedural memory for AI agents. Without a command: an MCP server on stdio."
    )
    main.add_argument("--version", action="version", version=__version__)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--home", type=Path, help="directory of the memory (MEMP_HOME)")
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
    serve = command("serve", _serve, "serve MCP on stdio, or with --http on a port")
    serve.add_argument("--http", action="store_true", help="streamable HTTP at /mcp")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; beyond loopback only with tokens")
    serve.add_argument("--port", type=_number(1, 65_535), default=8765)
    serve.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="Host header to accept")
    serve.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="Origin header to accept")
    serve.add_argument("--rate", help="requests of a token, or of an address without one, such as 600/minute")
    serve.add_argument("--stateless", action="store_true", help="keep no sessions: for several servers side by side")
    _add_token(command)
    hook = command("hook", _hook, "what a client's hook runs at an event of its session: recall, record")
    hook.add_argument("event", help="its name: SessionStart, UserPromptSubmit, PostToolUse, Stop, SessionEnd …")
    hook.add_argument("--client", default="", help="claude-code, codex, qwen-code or gemini-cli")
    command("demo", _demo, "watch one agent fail and a second succeed, on a throw-away memory")


def _add_token(command: AddCommand) -> None:
    token = command("token", _token, "make, list or revoke the bearer tokens that serve --http asks for")
    token.add_argument("act", choices=["create", "list", "revoke"])
    token.add_argument("name", nargs="?", default="", help="whose token is made or revoked")
    token.add_argument(
        "--scope", choices=SCOPES, default="write", help="read: recall; write: record too; admin: forget"
    )
    token.add_argument("--namespace", default="", help="a memory of its own for its calls")
    token.add_argument("--days", type=_number(1), help="how long it is valid; without: until it is revoked")


def _add_joining(command: AddCommand) -> None:
    from memp_mcp.clients import CLIENTS  # noqa: PLC0415 - keeps --version quick

    added = command("install", _install, "join clients of this machine: the server and, where they have them, hooks")
    added.add_argument("--no-hooks", dest="hooks", action="store_false", help="the server alone")
    taken_out = command("uninstall", _uninstall, "take out of clients what install has put in")
    for one in (added, taken_out):
        one.add_argument("clients", nargs="+", choices=list(CLIENTS), metavar="CLIENT", help=", ".join(CLIENTS))
        one.add_argument("--dry-run", action="store_true", help="show what would change; change nothing")
    command("status", _status, "the clients of this machine: joined or not, and when last heard of")


def _add_transfer(command: AddCommand) -> None:
    from memp_mcp.transcripts.places import PLACES  # noqa: PLC0415 - keeps --version quick

    files = command("import", _import, "learn from transcripts or skills, or take over an exported memory")
    _add_files(files, at_least="*")
    files.add_argument(
        "--from", dest="clients", action="append", choices=list(PLACES), default=[], help="what this client has kept"
    )
    files.add_argument("--dry-run", action="store_true", help="show what would be learnt; store nothing")
    files.add_argument("--project", default="", help="project of what names none; auto: the folder worked in")
    files.add_argument("--build", choices=get_args(BuildPolicy), help="MEMP_BUILD for this import")
    files.add_argument("--update", choices=get_args(UpdatePolicy), help="MEMP_UPDATE for this import")
    files.add_argument("--revise", action="store_true", help="of skills: take over what was edited in their files")
    whole = command("export", _export, "write the whole memory as JSON lines, or what is verified as skills")
    whole.add_argument("file", nargs="?", type=Path)
    whole.add_argument("--skills", type=Path, metavar="DIR", help="write verified procedures as Agent Skills into DIR")
    whole.add_argument("--project", help="of skills: only of this project, and what is shared")
    whole.add_argument("--force", action="store_true", help="of skills: overwrite also what was edited by hand")
    saved = command("backup", _backup, "write the whole memory to a new file, read back; import restores it")
    saved.add_argument("target", type=Path, help="a .jsonl.gz file, or a folder for a series of them")
    saved.add_argument("--keep", type=_number(1), metavar="N", help="keep the latest N in the folder")
    cold = command("bootstrap", _bootstrap, "cold start: score several trajectories a task, keep the best")
    _add_files(cold)
    cold.add_argument("--keep", type=_number(1), default=1, help="how many trajectories of a task to keep")


def _add_reading(command: AddCommand) -> None:
    search = command("search", _search, "recall procedures for a task")
    search.add_argument("task")
    search.add_argument("--error", default="", help="an error met in the middle of the task")
    search.add_argument("--limit", type=_number(1), default=5)
    search.add_argument("--project", help="besides what is shared")
    search.add_argument("--retrieve", choices=get_args(RetrievePolicy), help="MEMP_RETRIEVE for this search")
    listing = command("list", _list, "list procedures, the latest changed first")
    listing.add_argument("--status", choices=get_args(Status))
    listing.add_argument("--project")
    listing.add_argument("--limit", type=_number(1), default=50)
    listing.add_argument("--offset", type=_number(0), default=0)
    show = _with_id(command("show", _show, "show a procedure or trajectory in full"), "procedure or trajectory id")
    show.add_argument("--revision", type=_number(1))
    _with_id(command("history", _history, "all revisions of a procedure"))
    diff = _with_id(command("diff", _diff, "what changed between two revisions; by default the last two"))
    diff.add_argument("old", nargs="?", type=_number(1))
    diff.add_argument("new", nargs="?", type=_number(1))
    command("stats", _stats, "the memory in figures, and what it is worth")
    report = command("report", _report, "what the memory is worth, as one page with curves")
    report.add_argument("--html", type=Path, required=True, metavar="FILE", help="the page, which needs nothing else")


def _add_changing(command: AddCommand) -> None:
    restore = _with_id(command("restore", _restore, "bring back an earlier revision or a retired procedure"))
    restore.add_argument("--revision", type=_number(1))
    retire = _with_id(command("retire", _retire, "take a procedure out of recall; restorable"))
    retire.add_argument("--reason", default="retired by hand")
    approve = _with_id(command("approve", _approve, "vouch for a procedure, so that it is no longer provisional"))
    approve.add_argument("--share", action="store_true", help="and let all projects recall it")
    _with_id(command("share", _share, "let all projects recall a procedure that was recorded in one"))
    _with_id(command("forget", _forget, "remove a procedure for good, with the trajectories only it rests on"))


def _add_upkeep(command: AddCommand) -> None:
    command("compact", _compact, "compact the tables now; it also happens by itself")
    scrub = command("scrub", _scrub, "take out of what is stored the secrets that the detector knows today")
    scrub.add_argument("--dry-run", action="store_true", help="count them by kind; change nothing")
    rebuild = command("rebuild", _rebuild, "derive again what can be derived from the evidence")
    rebuild.add_argument("--embed", action="store_true", help="all vectors, by the embedder of the settings")
    rebuild.add_argument("--distil", action="store_true", help="scripts, by the build policy and LLM of the settings")
    rebuild.add_argument("--all", action="store_true", help="with --distil: also what a reflection has corrected")
    command("doctor", _doctor, "look for what is wrong and say how to mend it")
    command("repair", _repair, "mend what is wrong, as far as it can be mended; what is replaced is kept")


def _add_files(command: argparse.ArgumentParser, at_least: str = "+") -> None:
    from memp_mcp.transcripts import FORMATS  # noqa: PLC0415 - keeps --version quick

    command.add_argument(
        "files", nargs=at_least, type=Path, metavar="FILE", help="JSON or JSONL, plain, .gz or .xz, or a folder of them"
    )
    command.add_argument("--format", choices=list(FORMATS), help="told from the content when not given")


def _with_id(command: argparse.ArgumentParser, text: str = "procedure id") -> argparse.ArgumentParser:
    command.add_argument("id", help=text)
    return command


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
    return answer.code


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
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for line in answer.lines:
        console.print(line)


def _plain(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    return [_plain(d) for d in data] if isinstance(data, list) else data


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where a person sees it and a pipe does not."""
    columns = (SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def advance(done: int) -> None:
            progress.advance(task, done)

        yield advance
