"""The commands of the command line: each asks the memory, and tells what it found as data and as lines.

The first line of each one's docstring is its help.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from memp_mcp.errors import BadInput, StoreDamaged
from memp_mcp.front import serve_stdio
from memp_mcp.models import Procedure
from memp_mcp.settings import Settings
from memp_mcp.tokens import Tokens

if TYPE_CHECKING:
    from memp_mcp.clients import Host
    from memp_mcp.joining import FileChange
    from memp_mcp.memory import Memory
    from memp_mcp.sheets import Sheet
    from memp_mcp.transcripts.places import Source

OK, FAILED, USAGE, NOTHING, UNSOUND = range(5)
SHOWN_SKIPS = 10


class Answer(NamedTuple):
    """What a command found: as data for --json, as lines for a person, and the exit code."""

    data: Any
    lines: Sequence[str | Table]
    code: int = OK
    problem: str = ""
    """What went wrong beside it: said on stderr, and then the exit code is that of an error."""


Command = Callable[[argparse.Namespace, Settings], Answer]

# -- serving ------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace, settings: Settings) -> Answer:
    """Serve MCP on stdio, or with --http on a port."""
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
    told = f"memp-mcp serves http://{options.host}:{options.port}{web.PATH} {asked}\n"
    serve(lambda: sys.stderr.write(told))
    return Answer(None, [])


def hook(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - it reads what it needs itself
    """What a client's hook runs at an event of its session: recall, record."""
    from memp_mcp.hook import main as hook  # noqa: PLC0415 - ends the process

    hook([options.event, "--client", options.client, *(["--home", str(options.home)] if options.home else [])])


def demo(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - a throw-away memory of its own
    """Watch one agent fail and a second succeed, on a throw-away memory."""
    from memp_mcp.demo import run  # noqa: PLC0415 - imports the SDK's client

    run(print)
    return Answer(None, [])


# -- tokens -------------------------------------------------------------------------------------------------


def token(options: argparse.Namespace, settings: Settings) -> Answer:
    """Make, list or revoke the bearer tokens that serve --http asks for."""
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


def import_all(options: argparse.Namespace, settings: Settings) -> Answer:
    """Learn from transcripts or skills, or take over an exported memory."""
    from memp_mcp.archive import import_files, sources  # noqa: PLC0415 - imports LanceDB
    from memp_mcp.skill_folders import files_in  # noqa: PLC0415 - as above

    if found := files_in(options.files):
        return _import_skills(options, settings, found)
    if options.revise:
        raise BadInput("--revise is for skills, and there are none here.")
    files = sources(options.files, options.clients, os.environ)
    if options.dry_run:
        return _import_preview(options, settings, files)
    with _progress("importing", total=len(files)) as advance:
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
    if done.unknown:
        line += f"; {done.unknown} of unknown outcome"
    return Answer(done, [line, *_skips(done.skips, done.skipped)], problem=_unread(done.unread))


def _unread(count: int) -> str:
    return f"{count:,} of what was named could not be read; what was skipped tells why." if count else ""


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
    named = {str(file) for path in options.files for file in (path, path / "SKILL.md")}
    unread = sum(d.drift == "unreadable" and d.file in named for d in done)
    return Answer(done, [*lines, *told, *hint], problem=_unread(unread))


def _import_preview(options: argparse.Namespace, settings: Settings, files: Sequence[Source]) -> Answer:
    from memp_mcp.archive import preview  # noqa: PLC0415 - imports LanceDB

    with _progress("reading", total=len(files)) as advance:
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
        lines += [f"{task.verdict:>14}  by {task.judged_by or 'nobody'}: {task.task}" for task in seen.tasks]
    return Answer(found, [*lines, *_skips(total.skips, total.skipped)], problem=_unread(total.unread))


def _skips(count: int, reasons: Sequence[str]) -> list[str]:
    """How many places gave nothing, with the first reasons."""
    told = [f"skipped {reason}" for reason in reasons[:SHOWN_SKIPS]]
    return told + ([f"{count:,} places skipped in all"] if count > len(told) else [])


def export(options: argparse.Namespace, settings: Settings) -> Answer:
    """Write the whole memory as JSON lines, or what is verified as skills."""
    from memp_mcp.archive import export, export_to  # noqa: PLC0415 - imports LanceDB

    if options.skills:
        return _export_skills(options, settings)
    if options.project is not None or options.force:
        raise BadInput("--project and --force are for --skills DIR; a file holds the whole memory.")
    memory = _open(settings, salvage=True)
    if options.file in {None, Path("-")}:
        for line in export(memory):
            sys.stdout.write(line + "\n")
        return Answer(None, [])
    lines = export_to(memory, options.file)
    return Answer({"lines": lines}, [f"{lines} lines written to {options.file}"])


def _export_skills(options: argparse.Namespace, settings: Settings) -> Answer:
    from memp_mcp.skill_folders import export_skills  # noqa: PLC0415 - imports LanceDB

    if options.file:
        raise BadInput("Say either a file, for the whole memory, or --skills with a folder.")
    project = settings.own_project if options.project is None else options.project
    done = export_skills(_open(settings), options.skills, project=project, force=options.force)
    lines = [f"{d.done:>10}  {options.skills / d.name}" for d in done]
    hints = [f"kept: {note}" for note in dict.fromkeys(d.note for d in done if d.note)]
    nothing = f"no procedure {f'of {project} or ' if project else ''}shared by all has a verified success"
    return Answer(done, [*lines, *hints] or [nothing], OK if done else NOTHING)


def backup(options: argparse.Namespace, settings: Settings) -> Answer:
    """Write the whole memory to a new file, read back; import restores it."""
    from memp_mcp.backup import backup  # noqa: PLC0415 - imports LanceDB

    done = backup(_open(settings, salvage=True), options.target, keep=options.keep)
    line = f"{done.file}: {_counted(done.values)}, {done.bytes:,} bytes, read back"
    return Answer(done, [line, *(f"removed {name}" for name in done.removed)])


def bootstrap(options: argparse.Namespace, settings: Settings) -> Answer:
    """Cold start: score several trajectories a task, keep the best."""
    from memp_mcp.bootstrap import bootstrap  # noqa: PLC0415 - imports LanceDB

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


def search(options: argparse.Namespace, settings: Settings) -> Answer:
    """Recall procedures for a task."""
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
        told = answer.note.replace(answers.NOTHING, "Nothing relevant is remembered.")  # the rest is said to agents
        return Answer(answers.as_data(answer), [told], NOTHING)
    how = f"found by {recall.found}" + (f" ({recall.reason})" if recall.reason else "")
    return Answer(answers.as_data(answer), [how, table])


def listing(options: argparse.Namespace, settings: Settings) -> Answer:
    """List procedures, the latest changed first."""
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
        is_all = not (options.status or options.project or options.offset)
        hint = "; `memp-mcp import --from CLIENT` learns from the sessions that a client has kept" if is_all else ""
        return Answer(found, [f"no procedures{hint}"], NOTHING)
    return Answer(found, [table])


def show(options: argparse.Namespace, settings: Settings) -> Answer:
    """Show a procedure or trajectory in full."""
    from memp_mcp import answers  # noqa: PLC0415 - imports LanceDB

    memory = _open(settings)
    if options.id.startswith("t_"):
        trajectory = memory.trajectory(options.id)
        return Answer(trajectory, [trajectory.model_dump_json(indent=2, exclude_defaults=True)])
    known = memory.get(options.id, revision=options.revision)
    answer = answers.get_answer(known, memory.history(options.id))
    return Answer(answers.as_data(answer), [json.dumps(answers.as_data(answer), indent=2, ensure_ascii=False)])


def history(options: argparse.Namespace, settings: Settings) -> Answer:
    """All revisions of a procedure."""
    revisions = _open(settings).history(options.id)
    table = _table("rev", "when", "change", "by", "reason")
    for r in revisions:
        table.add_row(str(r.revision), f"{r.created_at:%Y-%m-%d %H:%M}", r.change, r.author, r.reason)
    return Answer(revisions, [table])


def diff(options: argparse.Namespace, settings: Settings) -> Answer:
    """What changed between two revisions; by default the last two."""
    text = _open(settings).diff(options.id, options.old, options.new)
    return Answer({"diff": text}, [text or "no difference that a reader would see"])


def restore(options: argparse.Namespace, settings: Settings) -> Answer:
    """Bring back an earlier revision or a retired procedure."""
    return _changed(_open(settings).restore(options.id, options.revision))


def retire(options: argparse.Namespace, settings: Settings) -> Answer:
    """Take a procedure out of recall; restorable."""
    return _changed(_open(settings).retire(options.id, reason=options.reason))


def approve(options: argparse.Namespace, settings: Settings) -> Answer:
    """Vouch for a procedure, so that it is no longer provisional."""
    changes = _open(settings).approve(options.id, share=options.share)
    told = [_changed(change) for change in changes]
    return Answer(changes, [line for answer in told for line in answer.lines])


def share(options: argparse.Namespace, settings: Settings) -> Answer:
    """Let all projects recall a procedure that was recorded in one."""
    return _changed(_open(settings).share(options.id))


def _changed(change: Any) -> Answer:
    new: Procedure = change.procedure
    line = f"{new.id} is at revision {new.revision}, {new.status}: {change.reason}"
    return Answer(change, [line, change.diff] if change.diff else [line])


def forget(options: argparse.Namespace, settings: Settings) -> Answer:
    """Remove a procedure for good, with the trajectories only it rests on."""
    gone = _open(settings).forget(options.id)
    lines = [f"{options.id} is gone, with {len(gone)} trajectories", *_kept_aside(settings)]
    return Answer({"forgotten": options.id, "trajectories": gone}, lines)


def _kept_aside(settings: Settings) -> list[str]:
    kept = settings.directory / "damaged"
    told = f"{kept} holds what a repair replaced, perhaps this too: delete it if it must be gone"
    return [told] if kept.exists() else []


def stats(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    """The memory in figures, and what it is worth."""
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


def report(options: argparse.Namespace, settings: Settings) -> Answer:
    """What the memory is worth, as one page with curves."""
    from memp_mcp import report  # noqa: PLC0415 - imports LanceDB

    found = _open(settings).ledger()
    options.html.write_text(report.page(found), encoding="utf-8")
    return Answer(found, [f"written to {options.html}"])


def compact(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    """Compact the tables now; it also happens by itself."""
    memory = _open(settings)
    before = memory.store.size()
    memory.store.compact()
    after = memory.store.size()
    line = f"{before.bytes:,} -> {after.bytes:,} bytes"
    return Answer({"before": before.model_dump(), "after": after.model_dump()}, [line])


def scrub(options: argparse.Namespace, settings: Settings) -> Answer:
    """Take out of what is stored the secrets that the detector knows today."""
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
            *_kept_aside(settings),
        ]
    return Answer(done, lines)


def rebuild(options: argparse.Namespace, settings: Settings) -> Answer:
    """Derive again what can be derived from the evidence."""
    from memp_mcp.rebuild import rebuild  # noqa: PLC0415 - imports LanceDB

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


def doctor(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    """Look for what is wrong and say how to mend it."""
    from memp_mcp.repair import problems, told, unopened  # noqa: PLC0415 - imports LanceDB

    try:
        found = problems(_open(settings, salvage=True))
    except StoreDamaged as error:  # by then it has not even been opened
        found = [unopened(error)]
    lines = told(found) or ["The memory is sound."]
    return Answer({"problems": found}, lines, UNSOUND if found else OK)


def install(options: argparse.Namespace, settings: Settings) -> Answer:
    """Join clients of this machine: the server and, where they have them, hooks."""
    from memp_mcp import joining  # noqa: PLC0415 - keeps --version quick

    command = joining.own_command(os.environ, settings.directory if "home" in settings.model_fields_set else None)
    changes = joining.install(options.clients, command, _host(), hooks=options.hooks, force=options.force)
    answer = _written(options, changes)
    advice = joining.advice(command, options.clients, changes, _host())
    return answer if options.dry_run else answer._replace(lines=[*answer.lines, *advice])


def uninstall(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - is about no memory
    """Take out of clients what install has put in."""
    from memp_mcp import joining  # noqa: PLC0415 - keeps --version quick

    answer = _written(options, joining.uninstall(options.clients, _host()))
    return answer._replace(lines=[*answer.lines, *joining.left(options.clients, _host())])


def _written(options: argparse.Namespace, changes: Sequence[FileChange]) -> Answer:
    """Shows what is to change, and then changes it."""
    from memp_mcp import joining  # noqa: PLC0415 - keeps --version quick

    for change in changes if not options.json else ():
        sys.stdout.write(f"{change.diff}\n\n" if change.diff else "")
    sys.stdout.flush()
    if not options.dry_run:
        joining.carry_out(*changes)
    data = [{"client": c.client, "file": str(c.file), "diff": c.diff, "written": not options.dry_run} for c in changes]
    if not changes:
        return Answer(data, ["nothing to change"])
    if options.dry_run:
        return Answer(data, ["nothing is changed yet: without --dry-run it will be"])
    return Answer(data, [joining.done(c) for c in changes])


def _host() -> Host:
    from memp_mcp.clients import Host  # noqa: PLC0415 - keeps --version quick

    return Host(os.environ, sys.platform)


def status(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    """The clients of this machine: joined or not, and when last heard of."""
    from memp_mcp import joined  # noqa: PLC0415 - keeps --version quick

    found, problem = joined.states(_host(), settings.directory)
    table = _table(*joined.COLUMNS)
    for state in found:
        table.add_row(*joined.row(state))
    lines: list[str | Table] = [table] if found else ["none of the clients that this program knows is on this machine"]
    return Answer(found, [*lines, *([problem] if problem else [])], OK if found else NOTHING)


def repair(options: argparse.Namespace, settings: Settings) -> Answer:  # noqa: ARG001 - has no options
    """Mend what is wrong, as far as it can be mended; what is replaced is kept."""
    from memp_mcp.repair import repair, told  # noqa: PLC0415 - imports LanceDB

    repaired = repair(settings)
    done = [f"+ {line}" for line in repaired.done] or ["There was nothing to mend."]
    return Answer(repaired, [*done, *told(repaired.left)], UNSOUND if repaired.left else OK)


def _open(settings: Settings, *, salvage: bool = False) -> Memory:
    from memp_mcp.memory import Memory  # noqa: PLC0415 - imports LanceDB: two seconds

    return Memory.open(settings, salvage=salvage)


# -- what is printed ------------------------------------------------------------------------------------------


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@contextmanager
def _progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where a person sees it and a pipe does not; *total* is None where nobody knows it."""
    columns = (SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int) -> None:
            progress.advance(task, done)

        yield advance
