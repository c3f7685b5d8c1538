"""A hook finds a server that answers, whatever else lies in the folder, and nobody else does."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memp_mcp import local

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
SECONDS = 30.0


def soon() -> float:
    return time.monotonic() + SECONDS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def endpoint(home: Path) -> Iterator[local.Endpoint]:
    listening = local.listen(home, lambda question: {"heard": question})
    yield listening
    listening.close()


def sockets(home: Path) -> list[Path]:
    return sorted(Path(local.folder(home)).glob("*.sock"))


def test_a_question_is_answered_by_the_server_of_the_same_memory(home: Path, endpoint: local.Endpoint) -> None:
    answer = local.ask(home, {"event": "Stop", "told": "grüße"}, until=soon())

    assert answer == {"heard": {"event": "Stop", "told": "grüße"}}
    assert local.ask(home / "other", {}, until=soon()) is None


def test_a_server_that_has_closed_is_not_found(home: Path, endpoint: local.Endpoint) -> None:
    endpoint.close()

    assert (sockets(home), local.ask(home, {}, until=soon())) == ([], None)


def test_only_the_owner_can_come_near(home: Path, endpoint: local.Endpoint) -> None:
    [path] = sockets(home)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def dead(path: Path) -> None:
    """What a server that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_what_dead_servers_left_is_passed_over_and_swept_by_the_next(home: Path, endpoint: local.Endpoint) -> None:
    [alive] = sockets(home)
    stale = alive.with_name("1.sock")
    dead(stale)

    assert local.ask(home, {}, until=soon()) == {"heard": {}}
    assert stale.exists(), "a hook sweeps nothing"

    local.listen(home, lambda _: {}).close()
    assert not stale.exists()


def test_a_server_that_hangs_is_passed_over(home: Path, endpoint: local.Endpoint) -> None:
    [alive] = sockets(home)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(alive.with_name("1.sock")))
        hanging.listen()
        os.utime(alive, (1, 1))  # so that the other is asked first

        assert local.ask(home, {}, until=time.monotonic() + 3) == {"heard": {}}


def test_a_server_that_passes_leaves_the_question_to_the_next(home: Path, endpoint: local.Endpoint) -> None:
    [ready] = sockets(home)
    ready = ready.rename(ready.with_name("1.sock"))  # for two servers in one process
    os.utime(ready, (1, 1))
    starting = local.listen(home, lambda _: dict(local.PASS))

    assert local.ask(home, {}, until=soon()) == {"heard": {}}

    ready.unlink()
    assert local.ask(home, {}, until=soon()) is None
    starting.close()


def test_whoever_talks_nonsense_disturbs_nobody(home: Path, endpoint: local.Endpoint) -> None:
    [path] = sockets(home)
    for nonsense in (b"\n", b"[]\n", b"{\n", b"\xff\n", b'"x"\n'):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(nonsense)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(SECONDS)
            assert b"".join(iter(lambda: client.recv(100), b"")) == b"memp\n"

    assert local.ask(home, {}, until=soon()) == {"heard": {}}


def test_a_path_too_long_for_a_socket_is_replaced_by_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")  # noqa: S108 - short, which is the point
    home = tmp_path / ("deep" * 20) / ("er" * 20)
    home.mkdir(parents=True)
    listening = local.listen(home, lambda _: {"ok": True})
    run = Path(local.folder(home))
    try:
        assert home not in run.parents
        assert local.ask(home, {}, until=soon()) == {"ok": True}
    finally:
        listening.close()
        run.rmdir()


def test_a_folder_of_somebody_else_is_refused(home: Path) -> None:
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    (home / "run").symlink_to(elsewhere)

    with pytest.raises(PermissionError, match="not a folder of this user"):
        local.listen(home, lambda _: {})
    assert local.ask(home, {}, until=soon()) is None


def test_without_unix_sockets_a_token_opens_a_port_of_loopback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_UNIX", False)
    monkeypatch.setattr(local, "_SUFFIX", "port")
    listening = local.listen(home, lambda _: {"ok": True})
    [file] = (home / "run").glob("*.port")
    try:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert local.ask(home, {}, until=soon()) == {"ok": True}

        file.write_text(json.dumps(json.loads(file.read_text()) | {"token": "guessed"}))
        assert local.ask(home, {}, until=soon()) is None
    finally:
        listening.close()
