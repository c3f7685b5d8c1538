"""Tokens: shown once, kept as hashes, for nobody else's eyes, and worth nothing once revoked or over."""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from memp_mcp.cli import main
from memp_mcp.errors import BadInput, NotFound, StoreDamaged
from memp_mcp.llm import Budget
from memp_mcp.models import now
from memp_mcp.store import Store
from memp_mcp.tokens import Tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "tokens.json"


def test_a_token_is_known_by_itself_and_the_file_does_not_hold_it(file: Path) -> None:
    tokens = Tokens(file)
    secret = tokens.create("ann", scope="write", namespace="shop")

    known = Tokens(file).of(secret)

    assert known is not None
    assert (known.name, known.scopes, known.namespace) == ("ann", ("read", "write"), "shop")
    assert re.fullmatch(r"memp_[\w-]{43}", secret)
    assert secret not in file.read_text()
    assert secret[5:] not in file.read_text()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_nobody_else_may_read_the_file(file: Path) -> None:
    Tokens(file).create("ann", scope="read")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_whoever_makes_the_home_of_a_memory_makes_it_for_its_owner_alone(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("of a token", "of the ledger", "of the store")]
    before = os.umask(0o022)
    try:
        Tokens(homes[0] / "tokens.json").create("ann", scope="read")
        Budget(1000, homes[1] / "llm_tokens.json").charge(1)
        Store.open(homes[2])
    finally:
        os.umask(before)

    assert [stat.S_IMODE(home.stat().st_mode) for home in homes] == [0o700] * 3


@pytest.mark.parametrize("wrong", ["", "memp_", "memp_" + "A" * 43, "\ud800", "x" * 100_000])
def test_no_other_text_is_a_token(file: Path, wrong: str) -> None:
    tokens = Tokens(file)
    tokens.create("ann", scope="admin")

    assert tokens.of(wrong) is None


def test_a_revoked_token_is_unknown_at_once_to_a_server_that_runs(file: Path) -> None:
    running, console = Tokens(file), Tokens(file)
    kept, lost = console.create("ann", scope="read"), console.create("bob", scope="read")
    assert running.of(lost)

    console.revoke("bob")

    assert running.of(lost) is None
    assert running.of(kept)


def test_tokens_are_asked_for_even_after_the_last_was_revoked(file: Path) -> None:
    tokens = Tokens(file)
    assert not tokens.exist
    tokens.create("ann", scope="read")
    tokens.revoke("ann")

    assert tokens.exist
    assert tokens.all() == []


def test_a_token_whose_days_are_over_is_unknown(file: Path) -> None:
    tokens = Tokens(file)
    secret = tokens.create("ann", scope="read", days=1)
    assert tokens.of(secret)
    in_time, over = now().isoformat()[:10], (now() - timedelta(days=2)).isoformat()[:10]
    text = file.read_text()
    made = tokens.all()[0].expires_at
    assert made is not None
    file.write_text(text.replace(made.isoformat()[:10], over).replace(in_time, over))

    assert Tokens(file).of(secret) is None


def test_names_are_used_once_and_are_plain(file: Path) -> None:
    tokens = Tokens(file)
    tokens.create("ann", scope="read")

    with pytest.raises(BadInput, match="already"):
        tokens.create("ann", scope="read")
    for name, namespace in (("Ann!", ""), ("", ""), ("bob", "../etc"), ("bob", "a/b")):
        with pytest.raises(BadInput, match="lower-case letters"):
            tokens.create(name, scope="read", namespace=namespace)
    with pytest.raises(BadInput, match="year 10000"):
        tokens.create("bob", scope="read", days=10_000_000)
    with pytest.raises(NotFound, match="token list"):
        tokens.revoke("bob")
    assert [t.name for t in tokens.all()] == ["ann"]


def test_a_damaged_file_lets_nobody_in_and_is_left_as_it_is(file: Path) -> None:
    tokens = Tokens(file)
    tokens.create("ann", scope="read")
    file.write_text("[{")

    for act in (tokens.all, lambda: tokens.of("x"), lambda: tokens.create("bob", scope="read")):
        with pytest.raises(StoreDamaged, match="nobody is let in"):
            act()
    assert file.read_text() == "[{"


def run(capsys: pytest.CaptureFixture[str], home: Path, *argv: str) -> tuple[int, str, str]:
    code = main([*argv, "--home", str(home)], {})
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_shows_a_token_once_and_lists_it_without(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(capsys, tmp_path, "token", "list")[:2] == (3, "no tokens\n")
    made = json.loads(run(capsys, tmp_path, "token", "create", "ann", "--json", "--scope", "read", "--days", "7")[1])
    code, listed, _ = run(capsys, tmp_path, "token", "list")

    assert code == 0
    assert "ann" in listed
    assert made["token"] not in listed
    assert Tokens(tmp_path / "tokens.json").of(made["token"])
    assert run(capsys, tmp_path, "token", "create", "ann")[0] == 1
    assert run(capsys, tmp_path, "token", "revoke", "ann")[:2] == (0, "ann lets nobody in any more\n")
    assert not Tokens(tmp_path / "tokens.json").of(made["token"])
    assert "token list" in run(capsys, tmp_path, "token", "revoke", "ann")[2]


def test_tokens_may_be_kept_elsewhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["token", "create", "ann"], {"MEMP_TOKENS": str(tmp_path / "t.json")}) == 0

    assert capsys.readouterr().out.startswith("memp_")
    assert [t.scope for t in Tokens(tmp_path / "t.json").all()] == ["write"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--host", "0.0.0.0"], "is not a loopback address, and without tokens"),  # noqa: S104 - to be refused
        (["--rate", "often"], "is no rate limit. Write it as 600/minute"),
    ],
)
def test_a_door_that_cannot_be_is_refused_before_anything_is_served(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str], told: str
) -> None:
    code, _, err = run(capsys, tmp_path, "serve", "--http", *argv)

    assert code == 1
    assert told in err
