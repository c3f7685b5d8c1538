"""What a client's configuration says of this program: found in its text, put in and taken out. Texts → texts.

How each client writes an entry and a hook, `clients` knows; how a text is edited so that everything else in it stays,
`json_edit` and `toml_edit` do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from memp_mcp import json_edit, toml_edit
from memp_mcp.clients import CLIENTS, Entry, Host, Part, timeout
from memp_mcp.errors import BadInput

_OUR_HOOK = re.compile(r"""memp[-_]mcp(?:\.exe)?["']?\s+hook\s+\w+\s+--client\s""")
_OUR_WORD = re.compile(r"(?:^|[/\\\s])memp[-_]mcp(?:\.exe)?(?:$|[\s\[@=<>~!])")
_OUR_ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost|\[::1\]):8765/mcp/?")
_ADDRESSES = ("url", "httpUrl", "serverUrl")
_VERSION = {"version": 1}  # what a file of hooks begins with where they are flat
_REMOTE = {  # what the clients know of a server that is somewhere else, and a program has no use for
    *_ADDRESSES, "auth", "authProviderType", "bearer_token_env_var", "env_http_headers", "headers", "headersHelper",
    "http_headers", "oauth", "oauth_resource", "tcp",
}  # fmt: skip


class Found(NamedTuple):
    """What a client's configuration has: the entry of this name, and this program's hook of each event."""

    entry: Any
    hooks: Mapping[str, str]

    @property
    def ours(self) -> bool:
        """Whether the entry is of this program: it starts it, or is the address at which it serves."""
        return any(map(_OUR_WORD.search, self.command)) or bool(_OUR_ADDRESS.fullmatch(self.address))

    @property
    def address(self) -> str:
        """The address that the entry names instead of a command, or nothing."""
        entry = self.entry if isinstance(self.entry, dict) else {}
        return next((str(entry[name]) for name in _ADDRESSES if entry.get(name)), "")

    @property
    def command(self) -> tuple[str, ...]:
        """The words that the entry starts."""
        entry = self.entry if isinstance(self.entry, dict) else {}
        command = entry.get("command", "")
        arguments = entry.get("args")
        words = command if isinstance(command, list) else [command, *(arguments if isinstance(arguments, list) else [])]
        return tuple(str(word) for word in words if word)

    @property
    def home(self) -> str:
        """The directory of the memory that the entry sets, or nothing."""
        entry = self.entry if isinstance(self.entry, dict) else {}
        environ = entry.get("env") or entry.get("environment")
        return str(environ.get("MEMP_HOME", "")) if isinstance(environ, dict) else ""


def text_of(file: Path) -> str | None:
    """The text of a client's file; None where there is none.

    Raises:
        BadInput: it is no UTF-8.
        OSError: it cannot be read.
    """
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise BadInput(f"{file} stays as it is: it is no UTF-8. Save it as that and try again.") from None


def find(client: str, file: Path, text: str, wanted: Sequence[Part]) -> Found:
    """What a file of a client's configuration has of this program, or of another one under its name.

    Raises:
        BadInput: the text cannot be read.
    """
    data = _read(file, text)
    entry = _at(data, CLIENTS[client].path) if "server" in wanted else None
    hooks = {event: hook["command"] for event, _, hook in _own_hooks(data)} if "hooks" in wanted else {}
    return Found(entry, hooks)


def has_plugin(client: str, host: Host) -> bool:
    """Whether a client has the plugin that brings the server and the hooks; not if its settings cannot be read."""
    known = CLIENTS[client]
    if known.hooks is None or not known.plugin:
        return False
    with suppress(BadInput, OSError):
        file = known.hooks(host)
        return bool(_at(_read(file, text_of(file) or ""), ("enabledPlugins", known.plugin)))
    return False


def put(client: str, file: Path, text: str, found: Found) -> str:
    """Put an entry and hooks into the text of a file; what the entry has besides, and every other hook, stays.

    Raises:
        BadInput: the text cannot be read, or leaves no room for them.
    """
    if found.entry is not None:
        text = _put_entry(CLIENTS[client].path, file, text, found.entry)
    if not found.hooks:
        return text
    is_flat = CLIENTS[client].flat
    for event, line in reversed(tuple(found.hooks.items())):  # each comes first, so the last to come is on top
        wanted = {**({} if is_flat else {"type": "command"}), "command": line, "timeout": timeout(client, event)}
        own = [old for name, _, old in _own_hooks(_read(file, text)) if name == event]
        if own != [wanted]:
            stands = wanted if is_flat else {"hooks": [wanted]}
            text = json_edit.prepend(_without_hooks(text, event), ("hooks", event), stands)
    return _with_version(text) if is_flat else text


def take_out(client: str, file: Path, text: str, wanted: Sequence[Part], before: str | None) -> str:
    """Take out what `put` has put in; an entry of another program stays.

    *before* is the text as it was then, if that is known. If nothing else has changed since, it is what comes back;
    else it tells which entry of another program was replaced, and which emptied objects and lists had been there.

    Raises:
        BadInput: the text cannot be read, or the entry cannot be taken out without touching something else.
    """
    found = find(client, file, text, wanted)
    if not found.ours:
        found = found._replace(entry=None)
    if before is not None:
        with suppress(BadInput):
            if put(client, file, before, found) == text:
                return before
    known = _read(file, before) if before else None
    if found.entry is not None:
        text = _drop_entry(CLIENTS[client].path, file, text, known)
    for event in found.hooks:
        text = _pruned(_without_hooks(text, event), ("hooks", event), known)
    return _without_version(text, known) if found.hooks and CLIENTS[client].flat else text


def wanted_entry(entry: Entry, present: Any) -> Entry:
    """The entry, with whatever else the present one says of this program."""
    if not Found(present, {}).ours:
        return entry
    present = {key: value for key, value in present.items() if _stays(key, value)}
    both = {
        k: {**present[k], **v} for k, v in entry.items() if isinstance(v, dict) and isinstance(present.get(k), dict)
    }
    return {**present, **entry, **both}


def _stays(key: str, value: object) -> bool:
    """Whether what a present entry says goes with a command, and does not switch it off."""
    match key:
        case "type":
            return value == "stdio"
        case "disabled":
            return value is not True
        case "enabled":
            return value is not False
    return key not in _REMOTE


def _is_toml(file: Path) -> bool:
    return file.suffix == ".toml"


def _read(file: Path, text: str) -> Any:
    return toml_edit.read(text) if _is_toml(file) else json_edit.read(text)


def _at(data: Any, path: Sequence[json_edit.Key]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _put_entry(path: tuple[str, ...], file: Path, text: str, entry: Entry) -> str:
    if _at(_read(file, text), path) == entry:
        return text
    return toml_edit.put(text, path, entry) if _is_toml(file) else json_edit.put(text, path, entry)


def _drop_entry(path: tuple[str, ...], file: Path, text: str, known: Any) -> str:
    replaced = _at(known, path)
    if replaced is not None:
        return _put_entry(path, file, text, replaced)
    if _is_toml(file):
        return toml_edit.drop(text, path)
    return _pruned(json_edit.drop(text, path), path[:-1], known)


def _own_hooks(data: Any) -> Iterator[tuple[str, tuple[json_edit.Key, ...], Entry]]:
    """The hooks that are ours: event, where it stands (with its group, if that holds nothing else), and itself."""
    for event, groups in _each(_at(data, ("hooks",))):
        for g, group in _each(groups):
            if _is_own_hook(group):
                yield str(event), ("hooks", event, g), group
            hooks = _at(group, ("hooks",))
            for h, hook in _each(hooks):
                if _is_own_hook(hook):
                    yield str(event), ("hooks", event, g, *(("hooks", h) if len(hooks) > 1 else ())), hook


def _is_own_hook(hook: Any) -> bool:
    line = _at(hook, ("command",))
    return isinstance(line, str) and _OUR_HOOK.search(line) is not None


def _each(value: Any) -> Iterable[tuple[json_edit.Key, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _without_hooks(text: str, event: str) -> str:
    """The text without our hooks for an event; from the last to the first, since each moves those behind it."""
    while own := [path for name, path, _ in _own_hooks(json_edit.read(text)) if name == event]:
        text = json_edit.drop(text, own[-1])
    return text


def _with_version(text: str) -> str:
    [(key, version)] = _VERSION.items()
    return text if key in json_edit.read(text) else json_edit.put(text, (key,), version)


def _without_version(text: str, known: Any) -> str:
    """The text without the version, where that was not known before and nothing else needs it."""
    [key] = _VERSION
    is_all = json_edit.read(text) == _VERSION
    return json_edit.drop(text, (key,)) if is_all and _at(known, (key,)) is None else text


def _pruned(text: str, path: Sequence[str], known: Any) -> str:
    """The text without the objects and lists that lead to *path*, where they are empty and were not known before."""
    data = json_edit.read(text)
    for depth in range(len(path), 0, -1):
        if _at(data, path[:depth]) not in ({}, []) or _at(known, path[:depth]) is not None:
            break
        text = json_edit.drop(text, path[:depth])
        data = json_edit.read(text)
    return text
