"""What the front says must equal what the SDK's server says; where it is not sure, it must say nothing."""

from __future__ import annotations

import copy
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pytest
import stand_in
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mcp.server import MCPServer

from memp_mcp.catalogue import catalogue, main
from memp_mcp.front import Serve, converse
from memp_mcp.handshake import Handshake
from memp_mcp.server import build_server
from memp_mcp.stdio import serve

HANDSHAKES = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
META = "io.modelcontextprotocol/"
CLIENT = {"name": "client", "version": "1.0", "title": "Ein Kunde", "websiteUrl": None}
CAPABILITIES = {
    "roots": {"listChanged": True},
    "sampling": {"tools": {}},
    "elicitation": {"form": {}, "url": {}},
    "tasks": {"list": {}, "cancel": {}, "requests": {"sampling": {"createMessage": {}}}},
    "experimental": {"vendor": {"depth": [1, {"two": None}]}},
    "extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}},
}
ENVELOPE = {
    META + "protocolVersion": "2026-07-28",
    META + "clientCapabilities": CAPABILITIES,
    META + "clientInfo": CLIENT,
    "progressToken": 3,
    "vendor/key": {"any": ["thing"]},
}
STAND_IN = catalogue(stand_in.application())


def request(method: str, request_id: object = 1, /, **params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def initialize(version: str = "2025-06-18", **changed: object) -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": CAPABILITIES, "clientInfo": CLIENT} | changed
    return request("initialize", "hello", **params)


def discover(method: str = "server/discover", request_id: object = "d", /, **changed: object) -> dict[str, Any]:
    return request(method, request_id, _meta=ENVELOPE | changed)


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def notification(name: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": f"notifications/{name}"}


INITIALIZED = notification("initialized")


class Connection:
    """The client's end of a connection to the SDK's server."""

    def __init__(self, said: BinaryIO, heard: BinaryIO) -> None:
        self.said, self.heard = said, heard

    def ask(self, *lines: bytes) -> dict[Any, dict[str, Any]]:
        """Send *lines*, then pings until nothing more can come; return the answers to *lines* by id."""
        self.said.writelines(lines)
        answers: dict[Any, dict[str, Any]] = {}
        for last in ("end 1", "end 2", "end 3"):  # requests run side by side, so the last asked may be answered first
            self.said.write(line(request("ping", last)))
            self.said.flush()
            while (answer := json.loads(self.heard.readline()))["id"] != last:
                answers[answer["id"]] = answer
        return answers


@contextmanager
def connected(application: MCPServer[Any]) -> Iterator[Connection]:
    server_in, client_out = os.pipe()
    client_in, server_out = os.pipe()
    streams = os.fdopen(server_in, "rb"), os.fdopen(server_out, "wb")
    thread = threading.Thread(target=serve, args=(application, *streams))
    thread.start()
    with os.fdopen(client_in, "rb") as heard:
        with os.fdopen(client_out, "wb") as said:
            yield Connection(said, heard)
        thread.join()


def no_memory() -> NoReturn:
    raise AssertionError("the handshake must not open the memory")


def front(text: str = STAND_IN) -> Handshake:
    return Handshake(json.loads(text))


@pytest.fixture(scope="module", params=["stand-in", "memp"])
def application(request: pytest.FixtureRequest) -> MCPServer[Any]:
    return stand_in.application() if request.param == "stand-in" else build_server(no_memory)


@pytest.mark.parametrize("version", HANDSHAKES)
def test_after_initialize_the_front_says_what_the_sdk_says(application: MCPServer[Any], version: str) -> None:
    lines = [line(initialize(version)), line(INITIALIZED)]
    lines += [line(request(method, n)) for n, method in enumerate((*LISTS, "ping"))]
    handshake = front(catalogue(application))
    said = [json.loads(answer) for each in lines if (answer := handshake.answer(each))]
    with connected(application) as connection:
        expected = connection.ask(*lines)
    assert [answer["id"] for answer in said] == ["hello", 0, 1, 2, 3, 4]
    assert said == [expected[answer["id"]] for answer in said]


def test_with_an_envelope_the_front_says_what_the_sdk_says(application: MCPServer[Any]) -> None:
    lines = [line(discover(method, n)) for n, method in enumerate(("server/discover", *LISTS))]
    handshake = front(catalogue(application))
    said = [json.loads(handshake.answer(each) or b"null") for each in lines]
    with connected(application) as connection:
        expected = connection.ask(*lines)
    assert said == [expected[n] for n in range(len(lines))]


def test_the_committed_catalogue_is_what_the_server_says_today() -> None:
    assert main(["--check"]) == 0, "run: python -m memp_mcp.catalogue"


def test_the_catalogue_knows_a_file_that_is_out_of_date_and_writes_it_anew(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.json"
    assert main(["--check"], path) == 1
    assert main([], path) == 0
    assert main(["--check"], path) == 0
    path.write_text(path.read_text(encoding="utf-8").replace("recall", "recoil"), encoding="utf-8")
    assert main(["--check"], path) == 1


def test_an_unknown_version_is_answered_with_the_latest_handshake() -> None:
    answer = json.loads(front().answer(line(initialize("1999-01-01"))) or b"")
    assert answer["result"]["protocolVersion"] == HANDSHAKES[-1]


@pytest.mark.parametrize("request_id", [0, -5, 2**52, "", "seven", "Ünïcödé ✓", "7"])
def test_an_id_comes_back_as_it_was(request_id: object) -> None:
    answer = json.loads(front().answer(line(request("ping", request_id))) or b"")
    assert (answer["id"], type(answer["id"])) == (request_id, type(request_id))


def test_windows_line_ends_make_no_difference() -> None:
    assert front().answer(line(initialize()).replace(b"\n", b"\r\n")) == front().answer(line(initialize()))


NOT_CERTAIN: dict[str, tuple[list[Any], Any]] = {
    "a call": ([initialize()], request("tools/call", name="who")),
    "an unknown method": ([initialize()], request("tools/lost")),
    "a cursor": ([initialize()], request("tools/list", cursor="x")),
    "a list before initialize": ([], request("tools/list")),
    "a list after a ping only": ([request("ping")], request("tools/list")),
    "a second initialize": ([initialize()], initialize()),
    "initialize after discover": ([discover()], initialize()),
    "discover after initialize": ([initialize()], discover()),
    "discover after a ping": ([request("ping")], discover()),
    "a ping after discover": ([discover()], request("ping")),
    "a list without envelope after discover": ([discover()], request("tools/list")),
    "an envelope of another version": ([], discover(**{META + "protocolVersion": "2027-01-01"})),
    "an envelope of a handshake version": ([], discover("tools/list", **{META + "protocolVersion": "2025-11-25"})),
    "an envelope whose version is a number": ([], discover(**{META + "protocolVersion": 2026})),
    "an envelope without capabilities": ([], request("tools/list", _meta={META + "protocolVersion": "2026-07-28"})),
    "an envelope with a nameless client": ([], discover(**{META + "clientInfo": {}})),
    "an envelope with a log level": ([], discover(**{META + "logLevel": "debug"})),
    "half an envelope": ([initialize()], request("tools/list", _meta={META + "clientInfo": CLIENT})),
    "a stamped initialize": ([], initialize(_meta=ENVELOPE)),
    "discover with parameters": ([], {**discover(), "params": {"_meta": ENVELOPE, "more": 1}}),
    "meta that is no object": ([initialize()], request("tools/list", _meta=[])),
    "a progress token that is no token": ([initialize()], request("tools/list", _meta={"progressToken": 1.5})),
    "a key of meta that may mean something": ([initialize()], request("tools/list", _meta={"traceparent": "00"})),
    "initialize without a client": ([], request("initialize", protocolVersion="2025-06-18", capabilities={})),
    "initialize with more": ([], initialize(more=1)),
    "a version that is no text": ([], initialize(protocolVersion=20250618)),
    "a client with icons": ([], initialize(clientInfo={**CLIENT, "icons": []})),
    "a client whose title is no text": ([], initialize(clientInfo={**CLIENT, "title": 1})),
    "a client that is no object": ([], initialize(clientInfo="me")),
    "capabilities that are no object": ([], initialize(capabilities=None)),
    "a capability that is a flag": ([], initialize(capabilities={"sampling": True})),
    "a capability with a number in it": ([], initialize(capabilities={"sampling": {"tools": 1}})),
    "an extension that is a flag": ([], initialize(capabilities={"extensions": {"a/b": True}})),
    "listChanged that is no flag": ([], initialize(capabilities={"roots": {"listChanged": "yes"}})),
    "an answer": ([], {"jsonrpc": "2.0", "id": 1, "result": {}}),
    "an old JSON-RPC": ([], {**request("ping"), "jsonrpc": "1.0"}),
    "parameters in a list": ([], {**request("ping"), "params": [1]}),
    "parameters that are a flag": ([], {**request("ping"), "params": False}),
    "a method that is no text": ([], {**request("ping"), "method": 1}),
    "a batch": ([], [request("ping")]),
    "an id that is a float": ([], request("ping", 1.0)),
    "an id that is a flag": ([], request("ping", True)),  # noqa: FBT003 - data
    "an id that is null": ([], request("ping", None)),
    "an id beyond what every parser keeps": ([], request("ping", 2**60)),
    "a notification it does not know": ([initialize()], notification("roots/list_changed")),
    "initialized twice": ([initialize(), INITIALIZED], INITIALIZED),
    "a blank line": ([], b"\n"),
    "no JSON": ([], b"hello\n"),
    "bytes that are no text": ([], line(request("ping", "x")).replace(b"x", b"\xff")),
    "a carriage return in the middle": ([], line(request("ping")).replace(b", ", b",\r")),
    "half a surrogate pair": ([], line(request("ping", "\ud83d"))),
    "a key that occurs twice": ([], line(request("ping")).replace(b"{", b'{"id": 2, ', 1)),
    "a constant that is not JSON": ([], line(initialize(capabilities={"experimental": {"a": {"b": float("nan")}}}))),
    "a very long line": ([], line(request("ping", "x" * 1_000_000))),
    "a very deep line": (
        [],
        line(request("ping")).replace(b"{}", b'{"_meta":{"a/b":' + b"[" * 300 + b"]" * 300 + b"}}"),
    ),
}


@pytest.mark.parametrize("name", NOT_CERTAIN)
def test_what_is_not_certain_is_left_to_the_server(name: str) -> None:
    before, last = NOT_CERTAIN[name]
    handshake = front()
    for message in before:
        assert handshake.answer(line(message)) is not None
    assert handshake.answer(last if isinstance(last, bytes) else line(last)) is None


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from([*HANDSHAKES, "2026-07-28", *LISTS, "ping", "2.0", META + "x"]),
    st.lists(st.none() | st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3) | st.sampled_from(["listChanged", "progressToken"]), st.none() | st.just({})),
)
KEYS = st.sampled_from(["a/b", "x", "_meta", "cursor", "title", "icons", "listChanged", "progress_token", "form"])


def places(value: Any) -> list[tuple[dict[str, Any], str]]:
    """Return each key anywhere in *value*, with the object that has it."""
    if not isinstance(value, dict):
        return []
    return [(value, key) for key in value] + [place for inner in value.values() for place in places(inner)]


@st.composite
def bent(draw: st.DrawFn, messages: list[dict[str, Any]]) -> bytes:
    """A line that is nearly one of *messages*."""
    message = copy.deepcopy(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(0, 2))):
        holder, key = draw(st.sampled_from(places(message) or [(message, "id")]))
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[key] = draw(ODD)
            case "remove":
                holder.pop(key, None)
            case _:
                holder[draw(KEYS)] = draw(ODD)
    text = json.dumps(message, ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass") + draw(st.sampled_from([b"\n", b"\r\n", b" \t\n"]))


LEGACY = [*(request(method, 2) for method in (*LISTS, "ping")), INITIALIZED]
MODERN = [discover(method, 2) for method in ("server/discover", *LISTS)]
SO_FAR: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([], [initialize(), *MODERN, request("ping", 2)]),
    ([initialize("2024-11-05")], LEGACY),
    ([initialize(), INITIALIZED], LEGACY),
    ([discover()], MODERN),
]
CONVERSATIONS = st.sampled_from(SO_FAR).flatmap(lambda case: st.tuples(st.just(case[0]), bent(case[1])))


@hypothesis_settings(deadline=None, max_examples=200)
@given(conversation=CONVERSATIONS)
def test_whatever_the_front_answers_the_sdk_answers_the_same(conversation: tuple[list[dict[str, Any]], bytes]) -> None:
    before, last = conversation
    lines = [*map(line, before), last]
    handshake = front()
    said = [handshake.answer(each) for each in lines]
    if said[-1] is None:
        return
    with connected(stand_in.application()) as connection:
        expected = connection.ask(*lines)
    spoken = [json.loads(answer) for answer in said if answer]
    assert {answer["id"]: answer for answer in spoken} == expected


class Server:
    """Stands where the SDK's server would: keeps what it hears, says what it is told to."""

    def __init__(self, says: bytes = b"") -> None:
        self.says = says
        self.heard = b""
        self.loads = 0
        self.said_before = b""
        self.loaded = threading.Event()
        self.out = io.BytesIO()

    def load(self) -> Serve:
        """Load it, as the front is told to."""
        self.loads += 1
        self.said_before = self.out.getvalue()
        self.loaded.set()
        return self.serve

    def serve(self, stdin: BinaryIO, stdout: BinaryIO) -> None:
        """Hear all there is, then speak."""
        self.heard = stdin.read()
        stdout.write(self.says)
        stdout.flush()

    def converse(self, *lines: bytes, tmp_path: Path) -> list[Any]:
        """Send *lines* and return what came back."""
        path = tmp_path / "catalogue.json"
        path.write_text(STAND_IN, encoding="utf-8")
        converse(io.BytesIO(b"".join(lines)), self.out, self.load, path)
        return [json.loads(each) for each in self.out.getvalue().splitlines()]


def test_nothing_is_loaded_before_the_tools_are_listed(tmp_path: Path) -> None:
    server = Server()
    answers = server.converse(line(initialize()), line(INITIALIZED), line(request("prompts/list")), tmp_path=tmp_path)
    assert [answer["id"] for answer in answers] == ["hello", 1]
    assert server.loads == 0


def test_loading_begins_when_the_tools_have_been_listed(tmp_path: Path) -> None:
    server = Server()
    server.converse(line(initialize()), line(request("tools/list", 8)), line(request("ping", 9)), tmp_path=tmp_path)
    assert server.loaded.wait(10)
    assert json.loads(server.said_before.splitlines()[1])["id"] == 8
    assert server.loads == 1


def test_the_server_hears_what_its_state_depends_on_and_then_everything(tmp_path: Path) -> None:
    state = line(request("ping", "first")), line(initialize()), line(INITIALIZED)
    stateless = line(request("tools/list")), line(notification("cancelled"))
    rest = line(request("tools/call", 5, name="who")), line(request("ping", 6)), b"garbage\n", b"\n"
    server = Server()
    server.converse(*state, *stateless, *rest, tmp_path=tmp_path)
    assert server.heard == b"".join((*state, *rest))


def test_answers_that_the_client_has_had_are_not_said_again(tmp_path: Path) -> None:
    its_own_request = {"jsonrpc": "2.0", "id": "hello", "method": "roots/list"}
    again = {"jsonrpc": "2.0", "id": "hello", "result": {}}
    new = {"jsonrpc": "2.0", "id": 5, "result": {"text": "x" * 100_000}}
    server = Server(says=line(its_own_request) + line(again) + line(new) + line(again))
    answers = server.converse(line(initialize()), line(request("tools/call", 5, name="who")), tmp_path=tmp_path)
    assert answers[1:] == [its_own_request, new, again]  # an id that is used again is answered again


def test_the_opening_request_of_an_envelope_connection_is_repeated(tmp_path: Path) -> None:
    opening, listed, call = line(discover()), line(discover("tools/list", 2)), line(discover("tools/call", 3))
    server = Server()
    server.converse(opening, listed, call, tmp_path=tmp_path)
    assert server.heard == opening + call


def test_a_server_that_cannot_be_loaded_is_an_error_with_its_reason(tmp_path: Path) -> None:
    def load() -> Serve:
        raise RuntimeError("the model file is gone")

    (tmp_path / "catalogue.json").write_text(STAND_IN, encoding="utf-8")
    call = io.BytesIO(line(request("tools/call")))
    with pytest.raises(RuntimeError, match="the model file is gone"):
        converse(call, io.BytesIO(), load, tmp_path / "catalogue.json")
