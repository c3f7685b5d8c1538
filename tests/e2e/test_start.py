"""A client that starts the program as a subprocess cannot tell the front from the server behind it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

TESTS = Path(__file__).parents[1]
SECONDS = 60
META = "io.modelcontextprotocol/"
CLIENT = {"name": "the client", "version": "1"}
ENVELOPE = {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": {}, META + "clientInfo": CLIENT}
ALONE = "import sys; sys.path.insert(0, sys.argv[1]); import stand_in; stand_in.application().run()"
CATALOGUE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import stand_in;"
    "from memp_mcp.catalogue import catalogue; sys.stdout.buffer.write(catalogue(stand_in.application()).encode())"
)
HEAVY = ("mcp", "pydantic", "anyio", "numpy", "lancedb", "pyarrow", "torch", "sentence_transformers", "anthropic")


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def request(request_id: object, method: str, **params: object) -> bytes:
    return line({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def enveloped(request_id: object, method: str, **params: object) -> bytes:
    return request(request_id, method, _meta=ENVELOPE, **params)


def initialize(version: str = "2025-11-25") -> bytes:
    return request("hello", "initialize", protocolVersion=version, capabilities={}, clientInfo=CLIENT)


INITIALIZED = line({"jsonrpc": "2.0", "method": "notifications/initialized"})


class Program:
    """A started server, and the client's ends of its streams."""

    def __init__(self, command: list[str], home: Path) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"MEMP_HOME": str(home)},
        )
        self.answers = _lines(self.process.stdout)
        self.log = _lines(self.process.stderr)

    def say(self, *lines: bytes) -> None:
        """Send *lines* without waiting for anything."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(lines))

    def hear(self) -> dict[str, Any]:
        """Wait for the next answer."""
        answer = self.answers.get(timeout=SECONDS)
        assert answer is not None, "the server has closed the connection"
        message: dict[str, Any] = json.loads(answer)
        return message

    def ask(self, *lines: bytes) -> list[dict[str, Any]]:
        """Send one line after the other, each after the answer to the one before, and return the answers."""
        said = []
        for each in lines:
            self.say(each)
            said.append(self.hear())
        return said

    def hang_up(self) -> None:
        """Close the server's stdin; once is enough."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def exit_code(self) -> int:
        """Wait for the end of the process."""
        return self.process.wait(SECONDS)

    def complaints(self) -> str:
        """Return what is left of stderr once the process has ended."""
        return b"".join(iter(lambda: self.log.get(timeout=SECONDS) or b"", b"")).decode()


def _lines(stream: IO[bytes] | None) -> queue.Queue[bytes | None]:
    """Read *stream* in a thread, so that a test can wait for a line with a limit; None marks its end."""
    assert stream is not None
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        with stream:
            for each in stream:
                lines.put(each)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("front") / "catalogue.json"
    path.write_bytes(subprocess.run([sys.executable, "-c", CATALOGUE, TESTS], check=True, capture_output=True).stdout)
    return path


class Starter:
    """Starts servers, and ends what is left of them after the test."""

    def __init__(self, catalogue: Path, home: Path) -> None:
        self._home = home
        self._stand_in = [sys.executable, str(TESTS / "behind_front.py"), str(catalogue)]
        self._started: list[Program] = []

    def stand_in(self, *arguments: str, under: tuple[str, ...] = ()) -> Program:
        """Start the stand-in behind the front; with *under*, as the child of another Python program."""
        return self.command(*under, *self._stand_in, *arguments)

    def command(self, *command: str) -> Program:
        """Start any command."""
        self._started.append(Program(list(command), self._home))
        return self._started[-1]

    def end(self) -> None:
        """Kill what still runs."""
        for program in self._started:
            program.process.kill()
            program.process.wait(SECONDS)
            program.hang_up()


@pytest.fixture
def start(catalogue: Path, tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(catalogue, tmp_path)
    yield starter
    starter.end()


def who(answer: dict[str, Any]) -> tuple[str, str]:
    content = answer["result"]["structuredContent"]
    return content["name"], content["protocol"]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-11-25"])
def test_after_the_hand_over_the_server_knows_who_called_initialize(start: Starter, version: str) -> None:
    program = start.stand_in()
    program.ask(initialize(version))
    program.say(INITIALIZED)
    listed, called = program.ask(request(1, "tools/list"), request("call", "tools/call", name="who"))
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["who", "loud", "stuck"]
    assert (called["id"], who(called)) == ("call", ("the client", version))


def test_after_the_hand_over_the_server_knows_who_sent_the_envelope(start: Starter) -> None:
    program = start.stand_in()
    _, called = program.ask(enveloped(1, "server/discover"), enveloped(2, "tools/call", name="who"))
    assert who(called) == ("the client", "2026-07-28")


LIST = request("list", "tools/list")
CALL = request("call", "tools/call", name="who")
LONG = request("long", "tools/call", name="loud", arguments={"text": "x" * 1_000_000})
LATIN = request("latin", "tools/call", name="loud", arguments={"text": "@@"}).replace(b"@@", b"\xe9\xff")
CONVERSATIONS: dict[str, list[bytes]] = {
    "everything at once": [initialize(), INITIALIZED, LIST, CALL, request("p", "prompts/list")],
    "initialize and at once a call": [initialize(), CALL],
    "an envelope and at once a call": [enveloped(1, "tools/list"), enveloped("call", "tools/call", name="who")],
    "discover, then initialize": [enveloped("d", "server/discover"), initialize(), CALL],
    "initialize, then discover": [initialize(), enveloped("d", "server/discover"), CALL],
    "a list before initialize": [LIST, initialize(), CALL],
    "a ping before anything": [request(1, "ping"), initialize(), CALL],
    "a ping, then discover": [request(1, "ping"), enveloped("d", "server/discover")],
    "initialized without initialize": [INITIALIZED, CALL],
    "initialize twice": [initialize("2024-11-05"), initialize("2025-06-18").replace(b"hello", b"again"), CALL],
    "a version nobody knows": [initialize("1999-01-01"), CALL],
    "a later envelope": [enveloped("d", "server/discover").replace(b"2026-07", b"2027-07")],
    "Windows line ends": [each.replace(b"\n", b"\r\n") for each in (initialize(), INITIALIZED, LIST, CALL)],
    "a long line": [initialize(), INITIALIZED, LONG, CALL],
    "a long line first": [request("hello" + "o" * 100_000, "ping"), initialize(), CALL],
    "bytes that are no text": [initialize(), LATIN, CALL],
    "garbage, blank lines and batches": [
        b"\n",
        b"garbage\n",
        b"\xff\xfe\n",
        b"[" + LIST[:-1] + b"]\n",
        initialize(),
        CALL,
    ],
    "errors": [initialize(), request(1, "tools/lost"), request(2, "tools/list", cursor=[]), request(3, "tools/call")],
}


def answers_to_requests(program: Program, count: int) -> list[dict[str, Any]]:
    """So many of them. What is no message is answered too, with no id, which the SDK's server alone does not do."""
    said: list[dict[str, Any]] = []
    while len(said) < count:
        said += [answer for answer in [program.hear()] if answer["id"] is not None]
    return sorted(said, key=lambda each: str(each["id"]))


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_answer_is_the_one_that_the_server_alone_would_give(start: Starter, name: str) -> None:
    lines = CONVERSATIONS[name]
    requests = sum(each.startswith(b"{") and b'"id"' in each for each in lines)
    programs = start.stand_in(), start.command(sys.executable, "-c", ALONE, str(TESTS))
    for program in programs:
        program.say(*lines)
    said = [answers_to_requests(program, requests) for program in programs]
    for program in programs:
        program.hang_up()
        assert program.exit_code() == 0
        while (line := program.answers.get(timeout=SECONDS)) is not None:
            assert json.loads(line)["id"] is None, "more answers than requests"
    assert said[0] == said[1]


def test_what_a_tool_prints_never_reaches_the_wire(start: Starter) -> None:
    program = start.stand_in()
    _, answer = program.ask(initialize(), request(1, "tools/call", name="loud", arguments={"text": "printed"}))
    assert answer["result"]["structuredContent"] == {"result": 7}
    assert program.log.get(timeout=SECONDS) == b"printed\n"


def test_a_client_that_hangs_up_at_once_leaves_no_trace(start: Starter) -> None:
    program = start.stand_in()
    program.hang_up()
    assert (program.exit_code(), program.complaints()) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="the shell's way to close a stream")
def test_a_server_without_stdin_has_nobody_to_serve(start: Starter, catalogue: Path) -> None:
    shell = 'exec "$@" <&-'
    command = [sys.executable, str(TESTS / "behind_front.py"), str(catalogue)]
    program = start.command("/bin/sh", "-c", shell, "sh", *command)
    assert (program.exit_code(), program.complaints()) == (0, "")


@pytest.mark.usefixtures("unmeasured")
def test_a_client_that_hangs_up_while_the_server_loads_leaves_no_trace(start: Starter) -> None:
    program = start.stand_in()
    program.ask(initialize(), LIST)
    program.hang_up()
    assert (program.exit_code(), program.complaints()) == (0, "")


@pytest.mark.usefixtures("unmeasured")
def test_a_client_that_hangs_up_during_a_call_ends_the_server(start: Starter) -> None:
    program = start.stand_in()
    program.ask(initialize())
    program.say(CALL)
    program.hang_up()
    assert (program.exit_code(), program.complaints()) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="there nobody can tell before the rest is read")
@pytest.mark.usefixtures("unmeasured")
def test_a_client_that_hangs_up_does_not_wait_for_a_server_that_loads_for_its_call(start: Starter) -> None:
    program = start.stand_in("--endless")
    program.ask(initialize())
    program.say(CALL, CALL)
    assert program.log.get(timeout=SECONDS) == b"loading\n"
    program.hang_up()
    assert (program.exit_code(), program.complaints()) == (0, "")


@pytest.mark.usefixtures("unmeasured")
def test_a_client_that_hangs_up_does_not_leave_a_server_that_is_busy(start: Starter) -> None:
    program = start.stand_in()
    _busy(program)
    program.hang_up()
    assert (program.exit_code(), program.complaints()) == (0, "")


def _answered(program: Program) -> None:
    program.ask(initialize())


def _loading(program: Program) -> None:
    program.ask(initialize(), LIST)


def _busy(program: Program) -> None:
    program.say(initialize(), request(1, "tools/call", name="stuck"))
    program.hear()
    assert program.log.get(timeout=SECONDS) == b"stuck\n"


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "memp_mcp.front":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["memp-mcp"]
from memp_mcp.__main__ import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal is a TerminateProcess")
def test_a_server_that_is_interrupted_before_it_has_begun_says_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, stdin=subprocess.PIPE, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal is a TerminateProcess")
@pytest.mark.parametrize("when", [_answered, _loading, _busy])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("unmeasured")
def test_a_signal_ends_the_server_at_once(
    start: Starter, when: Callable[[Program], None], number: signal.Signals
) -> None:
    program = start.stand_in()
    when(program)
    program.process.send_signal(number)
    assert (program.exit_code(), program.complaints()) == (128 + number, "")


@pytest.mark.parametrize("when", [_answered, _busy])
@pytest.mark.usefixtures("unmeasured")
def test_a_client_that_no_longer_listens_ends_the_server_quietly(
    start: Starter, when: Callable[[Program], None]
) -> None:
    relay = (  # takes the server's stdout, passes on what it hears, and stops listening when told to
        "import subprocess, sys\n"
        "server = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
        "sys.stdout.buffer.write(server.stdout.readline()); sys.stdout.flush()\n"
        "server.stdout.close()\n"
        "sys.stdout.write('closed\\n'); sys.stdout.flush()\n"
        "sys.exit(server.wait())\n"
    )
    program = start.stand_in(under=(sys.executable, "-c", relay))
    when(program)
    assert program.answers.get(timeout=SECONDS) == b"closed\n"
    program.say(request("unheard", "ping"))
    assert (program.exit_code(), program.complaints()) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="there nothing tells that a parent is gone")
def test_a_server_whose_client_was_killed_does_not_stay_behind(start: Starter) -> None:
    client = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    program = start.stand_in(under=(sys.executable, "-c", client))
    program.ask(initialize())
    program.process.kill()
    assert program.exit_code() == -signal.SIGKILL
    assert program.answers.get(timeout=SECONDS) is None  # the server has let go of the wire; its stdin is still open


def test_a_server_that_cannot_be_loaded_says_why_and_ends(start: Starter) -> None:
    program = start.stand_in("--broken")
    program.ask(initialize())
    program.say(CALL)
    assert program.exit_code() == 1
    assert program.complaints().endswith("RuntimeError: the model file is gone\n")


def imported(complaints: str) -> set[str]:
    """Return the top-level packages in the report of ``python -X importtime``."""
    return {each.rsplit("|", 1)[1].strip().split(".")[0] for each in complaints.splitlines() if "|" in each}


def test_nothing_heavy_is_imported_before_the_handshake_is_answered(start: Starter) -> None:
    program = start.command(sys.executable, "-X", "importtime", "-m", "memp_mcp")
    program.ask(initialize(), request(1, "prompts/list"))
    program.hang_up()
    assert program.exit_code() == 0
    names = imported(program.complaints())
    assert "memp_mcp" in names
    assert not names & set(HEAVY)


@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"])
def test_the_program_answers_both_eras(start: Starter, method: str) -> None:
    legacy, modern = (start.command(sys.executable, "-m", "memp_mcp") for _ in range(2))
    hello, listed = legacy.ask(initialize(), request(1, method))
    found, listed_again = modern.ask(enveloped(1, "server/discover"), enveloped(2, method))
    assert hello["result"]["serverInfo"]["name"] == found["result"]["_meta"][META + "serverInfo"]["name"]
    assert listed["result"].items() <= listed_again["result"].items()


def test_the_program_hands_over_to_its_server(start: Starter) -> None:
    program = start.command(sys.executable, "-m", "memp_mcp")
    *_, called = program.ask(initialize(), request(1, "tools/list"), request(2, "tools/call", name="none"))
    assert called["result"]["isError"]
    assert "none" in called["result"]["content"][0]["text"]
    program.hang_up()
    assert program.exit_code() == 0


def test_arguments_lead_to_the_command_line(start: Starter) -> None:
    program = start.command(sys.executable, "-m", "memp_mcp", "--help")
    assert (program.exit_code(), program.complaints()) == (0, "")
    assert (program.answers.get(timeout=SECONDS) or b"").startswith(b"usage: memp-mcp")
