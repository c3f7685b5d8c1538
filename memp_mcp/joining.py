"""Joining the clients of this machine: their files changed, and changed back.

Where a client has a command of its own that puts in a server (`claude mcp add` and the like), it says what the entry
is: it is run in an empty folder of configuration, and what it writes there is put in here. In the user's own folder it
could not be shown before it is done, has no way back, and does more than asked: Claude Code's gives the machine an id
and migrates settings on the way. The hooks, which those commands do not know, are put in here alone.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from memp_mcp import entries
from memp_mcp.clients import CLIENTS, NAME, Command, Entry, Host, Part, is_there, parts
from memp_mcp.entries import Found, text_of
from memp_mcp.errors import BadInput
from memp_mcp.files import unfinished
from memp_mcp.redact import Redactor

_SHOWN_LINE = 300
_ADDED_AFTER = 20
"""Seconds that a client's own command may take; alone on a machine it is one."""
_QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
_NO_FILE = "There was no such file before memp-mcp install has made it.\n"
"""Kept in the place of one, which may have been empty, too."""
_PASSING = ("archive-v", "builds-v", "environments-v")  # the folders in which uv keeps environments for a while

_OF_UVX = (
    "It is started by uvx, from the package index: without it there, not at all, and for hooks, which are to answer at "
    "once, slowly. Better: `uv tool install` or `pipx install`, and then install from that one."
)

Change = Callable[[str, Path, str, tuple[Part, ...]], str]


class FileChange(NamedTuple):
    """A file of a client as it is and as it is to be; None is no file."""

    client: str
    file: Path
    old: str | None
    new: str | None

    @property
    def diff(self) -> str:
        """What changes, as a unified diff with a line of context, without the secrets that stand beside it."""
        (old, new), how = _in_lines(self.old or "", self.new or "")
        name_old, name_new = (os.devnull if t is None else f"{self.file}{how}" for t in (self.old, self.new))
        lines = difflib.unified_diff(old, new, name_old, name_new, lineterm="", n=1)
        clipped = (line if len(line) <= _SHOWN_LINE else f"{line[:_SHOWN_LINE]}…" for line in lines)
        return Redactor().text("\n".join(clipped))


def _in_lines(*texts: str) -> tuple[list[list[str]], str]:
    """The lines of files, and a remark: where JSON stands in one long line, in those in which a change can be seen."""
    lines = [text.splitlines() for text in texts]
    if any(len(line) > _SHOWN_LINE for of_one in lines for line in of_one):
        with suppress(ValueError):
            return [_laid_out(text) for text in texts], " (laid out to be read: what stands in it stays as it is)"
    return lines, ""


def _laid_out(text: str) -> list[str]:
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines() if text.strip() else []


# -- the command --------------------------------------------------------------------------------------------


def own_command(environ: Mapping[str, str], home: Path | None = None) -> Command:
    """How a client starts this program: by full paths, since programs with a window do not have the shell's PATH.

    The script that pip, pipx and uv install beside the interpreter; without one, the interpreter with the module, and
    -P, as the folder that a client starts it in is the user's project, whose files would go before the library's own.
    An environment of `uvx` does not last, so there it is uvx itself.

    Raises:
        BadInput: this runs from an environment that does not last, and there is no uvx.
    """
    where = str(home.expanduser().absolute()) if home is not None else ""
    if _passes(Path(sys.prefix)):
        uv = environ.get("UV", "")
        uvx = shutil.which("uvx", path=str(Path(uv).parent) if uv else environ.get("PATH"))
        if uvx is None:
            raise BadInput(
                f"This runs from {sys.prefix}, which does not last. Install it first, by `uv tool install memp-mcp` or "
                "`pipx install memp-mcp`, and let that one join the client."
            )
        return Command((uvx, "memp-mcp"), where)
    script = Path(sysconfig.get_path("scripts")) / ("memp-mcp.exe" if sys.platform == "win32" else "memp-mcp")
    if script.is_file():
        return Command((str(script),), where)
    return Command((sys.executable, "-P", "-m", "memp_mcp"), where)


def _passes(environment: Path) -> bool:
    """Whether an environment is one of `uvx` (seen with uv 0.13) or `pipx run`, which are cleared away some day."""
    of_pipx_run = "pipx" in environment.parts and "venvs" not in environment.parts
    return of_pipx_run or any(part.startswith(_PASSING) for part in environment.parts)


# -- changes ------------------------------------------------------------------------------------------------


def install(
    names: Iterable[str], command: Command, host: Host, *, hooks: bool, force: bool = False
) -> list[FileChange]:
    """The changes that put this program into the configurations of these clients; nothing is written yet.

    The memory stays where a present entry says, unless *command* names a home. Without *hooks*, or where a plugin
    brings them, those that are there are taken out. An entry of another program is replaced only by *force*.

    Raises:
        BadInput: a client is not on this machine, another program has the entry, or one of the client's files cannot
            be read or changed for certain.
    """
    changes: list[FileChange] = []
    for name in dict.fromkeys(names):
        _require(name, host)
        own = command if command.home else command._replace(home=_home_of(name, host))
        with_hooks = hooks and not entries.has_plugin(name, host)
        put_in = partial(_with_it, command=own, host=host, hooks=with_hooks, force=force)
        changes += _changes(name, host, put_in)
    return changes


def uninstall(names: Iterable[str], host: Host) -> list[FileChange]:
    """The changes that take this program out of the configurations of these clients; nothing is written yet.

    Raises:
        BadInput: one of the files cannot be read or changed for certain.
    """
    return [change for name in dict.fromkeys(names) for change in _changes(name, host, _without_it)]


def left(names: Iterable[str], host: Host) -> list[str]:
    """What `uninstall` leaves, since somebody else has put it there."""
    lines = []
    for name in dict.fromkeys(names):
        file, wanted = _server(name, host)
        found = entries.find(name, file, text_of(file) or "", wanted)
        if found.entry is not None and not found.ours:
            lines.append(f"{file} keeps its entry {NAME}: it is of {_program(found)}.")
        if entries.has_plugin(name, host):
            lines.append(f"{CLIENTS[name].title} keeps the plugin {CLIENTS[name].plugin}: /plugin takes that out.")
    return lines


def carry_out(*changes: FileChange) -> None:
    """Write what changes say: each file as a whole, with the mode that it has, through a link to its target.

    The file as it was before this program was put in is kept beside it; where there was none, that says so. Once this
    program is out, it goes: it may hold secrets, and would only be out of date.

    Raises:
        BadInput: one of the files may not be written, so that none was; or somebody else has changed it since it was
            read.
        OSError: it cannot be written.
    """
    for change in changes:
        _require_writable(change.file)
    for change in changes:
        _carry_out(change)


def _require_writable(file: Path) -> None:
    """Refuse a file that is read-only, though it could be replaced: somebody wants it so, or keeps it elsewhere."""
    for place in (file, file.parent, file.resolve().parent):
        if place.exists() and not os.access(place, os.W_OK):
            raise BadInput(
                f"{place} is read-only, so nothing was changed. Make it writable and try again, or edit {file} by hand "
                "as the README shows."
            )


def _carry_out(change: FileChange) -> None:
    client, file, old, new = change
    if text_of(file) != old:
        raise BadInput(f"{file} has been changed by somebody else just now. Try again.")
    mode = 0o600 if old is None else stat.S_IMODE(file.stat().st_mode)
    joined = _has_it(client, file, new or "")
    if joined and not _has_it(client, file, old or ""):
        _write(_backup(file), _NO_FILE if old is None else old, mode)
    if new is None:
        file.resolve().unlink(missing_ok=True)
    elif new != old:
        _write(file.resolve(), new, mode)
    if not joined:
        _backup(file).unlink(missing_ok=True)


def _changes(name: str, host: Host, change: Change) -> list[FileChange]:
    changes = []
    for file, wanted in parts(name, host).items():
        old = text_of(file)
        try:
            new = change(name, file, old or "", wanted)
        except BadInput as error:
            raise BadInput(
                f"{file} stays as it is: {error}. Put that right and try again, or edit it by hand as the README shows."
            ) from None
        made_by_us = new.strip() in {"", "{}"} and text_of(_backup(file)) == _NO_FILE
        is_none = made_by_us or (old is None and not new)
        left_over = _backup(file).exists() and not _has_it(name, file, new)
        if new != (old or "") or left_over:
            changes.append(FileChange(name, file, old, None if is_none else new))
    return changes


def _with_it(
    client: str,
    file: Path,
    text: str,
    wanted: tuple[Part, ...],
    *,
    command: Command,
    host: Host,
    hooks: bool,
    force: bool,
) -> str:
    entry, lines = None, {}
    if "server" in wanted:
        found = entries.find(client, file, text, wanted)
        if found.entry is not None and not found.ours and not force:
            raise BadInput(f"its entry {NAME} is of {_program(found)}, which --force would replace")
        entry = entries.wanted_entry(_entry(client, command, host), found.entry)
    if "hooks" in wanted and hooks:
        lines = {event: command.hook(client, event, host.platform) for event in CLIENTS[client].events}
    elif "hooks" in wanted:
        text = entries.take_out(client, file, text, ("hooks",), _before(client, file, wanted))
    return entries.put(client, file, text, Found(entry, lines))


def _entry(client: str, command: Command, host: Host) -> Entry:
    """The entry that starts *command*, as the client's own command writes it; without that, as `clients` knows it."""
    known = CLIENTS[client]
    program = shutil.which(known.program, path=host.environ.get("PATH", ""))
    if known.adding is None or program is None:
        return known.entry(command)
    with tempfile.TemporaryDirectory(prefix="memp-", ignore_cleanup_errors=True) as empty:
        there = Host({**host.environ, **_QUIET, known.adding.folder: empty}, host.platform)
        with suppress(OSError, subprocess.SubprocessError, BadInput):
            _asked([program, *known.adding.words(command)], there.environ, empty)
            file, wanted = _server(client, there)
            theirs = entries.find(client, file, text_of(file) or "", wanted)
            if theirs.command == command.words and theirs.home == command.home:
                return {**known.entry(command), **theirs.entry}
    return known.entry(command)


def _asked(words: list[str], environ: Mapping[str, str], folder: str) -> None:
    nothing = subprocess.DEVNULL
    subprocess.run(  # noqa: S603 - the client's own program, found as the shell would find it
        words, env=environ, cwd=folder, stdin=nothing, stdout=nothing, stderr=nothing, timeout=_ADDED_AFTER, check=True
    )


def _without_it(client: str, file: Path, text: str, wanted: tuple[Part, ...]) -> str:
    return entries.take_out(client, file, text, wanted, _before(client, file, wanted))


def _backup(file: Path) -> Path:
    return file.with_name(f"{file.name}.before-{NAME}")


def _before(client: str, file: Path, wanted: tuple[Part, ...]) -> str | None:
    """The file as it was before this program was put in, if that was kept and can still be read; no file is empty."""
    text = text_of(_backup(file))
    if text == _NO_FILE:
        return ""
    with suppress(BadInput):
        return text if text is None or not _has_it(client, file, text, wanted) else None
    return None


def _has_it(client: str, file: Path, text: str, wanted: tuple[Part, ...] = ("server", "hooks")) -> bool:
    found = entries.find(client, file, text, wanted)
    return found.ours or bool(found.hooks)


def _server(name: str, host: Host) -> tuple[Path, tuple[Part, ...]]:
    """The file of a client that has the entry of the server, and what it gets."""
    return next(iter(parts(name, host).items()))


def _program(found: Found) -> str:
    """What an entry of another program starts or asks, to be shown."""
    return Redactor().text(found.address or " ".join(found.command)) or "another program"


def _home_of(name: str, host: Host) -> str:
    """The directory of the memory that a client's present entry names."""
    file, wanted = _server(name, host)
    with suppress(BadInput):
        found = entries.find(name, file, text_of(file) or "", wanted)
        return found.home if found.ours else ""
    return ""


def _require(name: str, host: Host) -> None:
    if not is_there(name, host):
        known = CLIENTS[name]
        raise BadInput(
            f"{known.title} is not on this machine: there is neither {known.folder(host)} nor a command "
            f"`{known.program}`. Start it once, then try again."
        )


def _write(file: Path, text: str, mode: int) -> None:
    """Put a text in the place of a file at once, so that whoever reads it has the one or the other."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(file) as place:
        place.write_bytes(text.encode("utf-8"))
        place.chmod(mode)


def done(change: FileChange) -> str:
    """What has been written, and where the file is kept as it was."""
    if change.new == change.old:
        return f"{_backup(change.file)} is gone, since this program was out already"
    if change.new is None:
        return f"{change.file} is gone, since install has made it and nothing else is in it"
    kept = _backup(change.file)
    return f"{change.file} is written" + (
        f"; as it was before: {kept.name}" if text_of(kept) not in {None, _NO_FILE} else ""
    )


def advice(command: Command, names: Iterable[str], changes: Sequence[FileChange], host: Host) -> list[str]:
    """What is left to do by hand, once this program is in."""
    lines = [_OF_UVX] if changes and len(command.words) > 1 and Path(command.words[0]).stem == "uvx" else []
    lines += [
        f"{CLIENTS[name].title} has the plugin {CLIENTS[name].plugin}, which brings server and hooks: the hooks "
        f"are left out, but the tools come twice. One is enough: `memp-mcp uninstall {name}`, or /plugin."
        for name in dict.fromkeys(names)
        if entries.has_plugin(name, host)
    ]
    lines += [f"Restart {title}." for title in dict.fromkeys(CLIENTS[change.client].title for change in changes)]
    for client, file, _, new in changes:
        known = CLIENTS[client]
        is_of_hooks = known.hooks is not None and known.hooks(host) == file
        if is_of_hooks and known.advice and _has_it(client, file, new or "", ("hooks",)):
            lines.append(known.advice)
    return lines
