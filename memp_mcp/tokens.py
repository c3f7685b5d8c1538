"""Bearer tokens for a team: made, listed, revoked. The file holds their hashes; the tokens themselves are shown once.

SHA-256 without a salt is enough for 256 random bits: there is nothing to guess, as there is with a password.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

import filelock
from pydantic import Field, TypeAdapter, ValidationError

from memp_mcp.errors import BadInput, NotFound, StoreBusy, StoreDamaged
from memp_mcp.models import Value, now
from memp_mcp.settings import make_private

Scope = Literal["read", "write", "admin"]
"""What a token may do: recall and look up; also record and reflect; also forget."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_MARK = "memp_"
"""How every token begins, so that scanners for secrets can know it."""


class Token(Value):
    """What is kept of a token."""

    name: Annotated[str, Field(pattern=_NAME)]
    sha256: Annotated[str, Field(min_length=64, max_length=64, repr=False)]
    scope: Scope
    namespace: Annotated[str, Field(pattern=f"{_NAME}|^$")] = ""
    created_at: datetime
    expires_at: datetime | None = None

    @property
    def scopes(self) -> Sequence[Scope]:
        """Its scope and those that it includes."""
        return SCOPES[: SCOPES.index(self.scope) + 1]

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now()


_TOKENS = TypeAdapter(list[Token])


class Tokens:
    """The tokens in a file, which is read again when it has changed: a revoked token stops working at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: tuple[object, list[Token]] = (None, [])

    @property
    def exist(self) -> bool:
        """Whether a token was ever made here; even when all are revoked, nobody is let in without one."""
        return self._file.exists()

    def all(self) -> list[Token]:
        """Every token, the latest last.

        Raises:
            StoreDamaged: the file cannot be read.
        """
        try:
            seen = self._file.stat()
            mark = (seen.st_mtime_ns, seen.st_ino, seen.st_size)
            if self._read[0] != mark:
                self._read = (mark, _TOKENS.validate_json(self._file.read_bytes()))
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            raise StoreDamaged(
                f"{self._file} cannot be read, so nobody is let in. Put it back from a copy, or remove it and make new "
                "tokens with `memp-mcp token create`."
            ) from error
        return self._read[1]

    def create(self, name: str, *, scope: Scope, namespace: str = "", days: int | None = None) -> str:
        """Make a token, valid for *days* or until it is revoked; returns it, for the only time.

        Raises:
            BadInput: there is a token of this name already, or a name cannot be used.
        """
        secret = _MARK + secrets.token_urlsafe(32)
        made = now()
        try:
            token = Token(
                name=name,
                sha256=_hashed(secret),
                scope=scope,
                namespace=namespace,
                created_at=made,
                expires_at=None if days is None else made + timedelta(days=days),
            )
        except (ValidationError, OverflowError) as error:
            raise BadInput(
                "A token's name and its namespace are made of lower-case letters, digits, - and _, 63 at most, and its "
                "days have to end before the year 10000."
            ) from error

        def added(tokens: list[Token]) -> list[Token]:
            if any(t.name == name for t in tokens):
                raise BadInput(f"There is a token {name!r} already. Choose another name, or revoke that one first.")
            return [*tokens, token]

        self._change(added)
        return secret

    def revoke(self, name: str) -> None:
        """Make a token invalid from now on.

        Raises:
            NotFound: there is none of this name.
        """

        def without(tokens: list[Token]) -> list[Token]:
            if all(t.name != name for t in tokens):
                raise NotFound("token", name, "`memp-mcp token list` shows the names.")
            return [t for t in tokens if t.name != name]

        self._change(without)

    def of(self, secret: str) -> Token | None:
        """The valid token that this is, or None; takes as long for a wrong one as for a right one."""
        hashed = _hashed(secret)
        found = [t for t in self.all() if hmac.compare_digest(t.sha256, hashed)]
        return found[0] if found and not found[0].expired else None

    def _change(self, change: Callable[[list[Token]], list[Token]]) -> None:
        make_private(self._file.parent)
        try:
            with filelock.FileLock(f"{self._file}.lock", timeout=10):
                self._write(change(self.all()))
        except filelock.Timeout as error:
            raise StoreBusy(f"{self._file} is locked by another process. Try again, or end that process.") from error

    def _write(self, tokens: list[Token]) -> None:
        fresh = self._file.with_name(f"{self._file.name}.new")
        with suppress(FileNotFoundError):
            fresh.unlink()  # left by a process that died; its mode might be another
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_TOKENS.dump_json(tokens, indent=1))
            file.flush()
            os.fsync(descriptor)
        fresh.replace(self._file)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
