"""The LLM seam, driven through the vendors' real SDKs against a scripted endpoint on this machine."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from fakes import ScriptedLLM
from filelock import FileLock
from pydantic import BaseModel, Field

from memp_mcp.errors import BadInput, LLMFailed, StoreDamaged, StoreError, StoreFull
from memp_mcp.llm import LLM, Budget, connect
from memp_mcp.models import now

KEY = "key-for-a-test"
HOLD = object()


class Answer(BaseModel):
    """What the tests ask for."""

    word: str
    score: float = Field(ge=0, le=1)


GOOD = '{"word": "yes", "score": 0.5}'


class Endpoint:
    """A scripted HTTP endpoint: gives its replies in order and keeps what it was sent."""

    def __init__(self) -> None:
        self.replies: SimpleQueue[Any] = SimpleQueue()
        self.requests: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.url = ""

    def will(self, *replies: object) -> None:
        """Append replies: (status, JSON or text), or HOLD to answer only when the test is over."""
        for reply in replies:
            self.replies.put(reply)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    endpoint: Endpoint

    def do_POST(self) -> None:
        """Take the next reply of the script."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.endpoint.requests.append({"path": self.path, "key": self._key(), **json.loads(body)})
        reply = self.endpoint.replies.get(timeout=10)
        if reply is HOLD:
            self.endpoint.released.wait(30)
            return
        status, content = reply
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _key(self) -> str:
        return self.headers.get("x-api-key") or self.headers.get("Authorization", "").removeprefix("Bearer ")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    handler = type("Bound", (Handler,), {"endpoint": endpoint})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        endpoint.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield endpoint
        finally:
            endpoint.released.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as served:
        yield served


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def claude(endpoint: Endpoint, ledger: Path, *, timeout: float = 20, daily_tokens: int = 1000) -> LLM:
    return connect(
        "anthropic:claude-x",
        base_url=endpoint.url,
        api_key=KEY,
        timeout=timeout,
        daily_tokens=daily_tokens,
        ledger=ledger,
    )


def qwen(endpoint: Endpoint, ledger: Path, *, api_key: str = KEY) -> LLM:
    return connect(
        "openai:qwen:7b", base_url=f"{endpoint.url}/v1", api_key=api_key, timeout=20, daily_tokens=1000, ledger=ledger
    )


def message(text: str, *, stop: str = "end_turn") -> tuple[int, dict[str, Any]]:
    content = [{"type": "text", "text": text}] if text else []
    usage = {"input_tokens": 30, "output_tokens": 8, "cache_read_input_tokens": 2}
    return 200, {
        "id": "m", "type": "message", "role": "assistant", "model": "claude-x",
        "content": content, "stop_reason": stop, "usage": usage,
    }  # fmt: skip


def completion(
    text: str | None, *, finish: str = "stop", refusal: str | None = None, usage: bool = True
) -> tuple[int, Any]:
    choice = {
        "index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, "refusal": refusal}
    }  # fmt: skip
    body: dict[str, Any] = {"id": "c", "object": "chat.completion", "created": 1, "model": "q", "choices": [choice]}
    if usage:
        body["usage"] = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
    return 200, body


def spent(ledger: Path) -> int:
    return Budget(1000, ledger).spent()


# -- Anthropic --------------------------------------------------------------------------------------------------------


def test_claude_answers_in_the_form_that_was_asked_for_and_is_charged(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will(message(GOOD), message(GOOD))
    llm = claude(endpoint, ledger)
    assert llm.ask("Is it?", Answer, system="Be brief.") == Answer(word="yes", score=0.5)
    assert llm.ask("Is it?", Answer).word == "yes"
    first, second = endpoint.requests
    assert (first["path"], first["key"], first["model"]) == ("/v1/messages", KEY, "claude-x")
    assert (first["system"], "system" in second, first["max_tokens"]) == ("Be brief.", False, 4096)
    assert first["output_config"]["format"]["schema"]["required"] == ["word", "score"]
    assert (llm.name, llm.budget.spent(), llm.budget.left()) == ("anthropic:claude-x", 80, 920)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (message("", stop="refusal"), "it refused"),
        (message('{"word": "ye', stop="max_tokens"), r"cut off \(max_tokens, limit 4,096 tokens\)"),
        (message("I cannot say."), "holds no JSON object: 'I cannot say.'"),
        (message('{"word": "yes", "score": 7}'), "form of Answer: score: Input should be less than or equal to 1"),
    ],
)
def test_an_answer_that_cannot_be_used_is_charged_all_the_same(
    endpoint: Endpoint, ledger: Path, reply: object, reason: str
) -> None:
    endpoint.will(reply)
    with pytest.raises(LLMFailed, match=reason) as failed:
        claude(endpoint, ledger).ask("?", Answer)
    assert failed.value.llm == "anthropic:claude-x"
    assert spent(ledger) == 40


def test_a_server_error_is_tried_again(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will((500, {"type": "error", "error": {"type": "api_error", "message": "oops"}}), message(GOOD))
    assert claude(endpoint, ledger).ask("?", Answer).word == "yes"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "HTTP 401, check MEMP_LLM_API_KEY: "), (404, "check MEMP_LLM: "), (400, "HTTP 400, ")]
)
def test_a_refused_request_says_what_to_check_and_never_tells_the_key(
    endpoint: Endpoint, ledger: Path, status: int, reason: str
) -> None:
    endpoint.will((status, {"type": "error", "error": {"type": "x", "message": f"no, not for {KEY}"}}))
    with pytest.raises(LLMFailed, match=reason) as failed:
        claude(endpoint, ledger).ask("?", Answer)
    assert KEY not in str(failed.value)
    assert len(endpoint.requests) == 1


def test_a_key_of_the_environment_that_an_endpoint_repeats_is_not_told_either(
    endpoint: Endpoint, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint.will((401, {"error": {"message": f"Incorrect API key provided: {KEY}. Get another."}}))
    with pytest.raises(LLMFailed, match=r"Incorrect API key provided: \$\{MEMP_LLM_API_KEY\}. Get another") as failed:
        qwen(endpoint, ledger, api_key="").ask("?", Answer)
    assert KEY not in str(failed.value)


def test_an_endpoint_that_does_not_answer_is_given_up(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will(HOLD, HOLD, HOLD)
    with pytest.raises(LLMFailed, match=r"no answer within 0.2 s \(MEMP_LLM_TIMEOUT\), tried 3 times"):
        claude(endpoint, ledger, timeout=0.2).ask("?", Answer)


def test_an_endpoint_that_is_not_there_is_told_from_one_that_is_slow(ledger: Path) -> None:
    with serving() as gone:
        pass
    with pytest.raises(LLMFailed, match=r"APIConnectionError: .*check MEMP_LLM_BASE_URL"):
        claude(gone, ledger).ask("?", Answer)


def test_an_endpoint_of_another_kind_is_named_as_such(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will((200, "<html>hello</html>"))
    with pytest.raises(LLMFailed, match=r"does not speak this protocol.*<html>hello"):
        claude(endpoint, ledger).ask("?", Answer)


def test_without_a_key_it_says_which_setting_holds_one(
    endpoint: Endpoint, ledger: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_PROFILE",
        "OPENAI_API_KEY",
        "OPENAI_ADMIN_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    bare = connect("anthropic:m", base_url=endpoint.url, api_key="", timeout=5, daily_tokens=9, ledger=ledger)
    for llm in (bare, qwen(endpoint, ledger, api_key="")):
        with pytest.raises(LLMFailed, match="it has no key; set MEMP_LLM_API_KEY"):
            llm.ask("?", Answer)


# -- OpenAI and what is compatible ------------------------------------------------------------------------------------


def test_a_compatible_endpoint_answers_by_structured_output(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will(completion(GOOD))
    assert qwen(endpoint, ledger).ask("Is it?", Answer, system="Be brief.").score == 0.5
    [request] = endpoint.requests
    assert (request["path"], request["key"], request["model"]) == ("/v1/chat/completions", KEY, "qwen:7b")
    assert [m["role"] for m in request["messages"]] == ["system", "user"]
    assert request["response_format"]["json_schema"]["name"] == "Answer"
    assert spent(ledger) == 40


def test_an_endpoint_that_ignores_the_form_but_keeps_to_it_in_a_text_is_not_asked_twice(
    endpoint: Endpoint, ledger: Path
) -> None:
    endpoint.will(completion(f"Sure {{well}}, here:\n```json\n{GOOD}\n```"))
    assert qwen(endpoint, ledger).ask("?", Answer).word == "yes"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("first", "tokens"),
    [((400, {"error": {"message": "response_format is not supported"}}), 40), (completion("I would say yes."), 80)],
)
def test_an_endpoint_without_structured_output_is_asked_once_in_words(
    endpoint: Endpoint, ledger: Path, first: object, tokens: int
) -> None:
    endpoint.will(first, completion(GOOD))
    assert qwen(endpoint, ledger).ask("Is it?", Answer).word == "yes"
    plain = endpoint.requests[1]
    assert "response_format" not in plain
    assert "JSON schema" in plain["messages"][0]["content"]
    assert spent(ledger) == tokens


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion(None, refusal="I would rather not"), "it refused: I would rather not"),
        (completion("", finish="content_filter"), "it refused"),
        (completion('{"word"', finish="length"), "its answer was cut off"),
    ],
)
def test_a_refusal_or_a_cut_off_answer_is_not_asked_for_again(
    endpoint: Endpoint, ledger: Path, reply: object, reason: str
) -> None:
    endpoint.will(reply)
    with pytest.raises(LLMFailed, match=reason):
        qwen(endpoint, ledger).ask("?", Answer)
    assert len(endpoint.requests) == 1
    assert spent(ledger) == 40


def test_two_answers_without_an_object_are_a_failure(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will(completion("no"), completion("still no"))
    with pytest.raises(LLMFailed, match="holds no JSON object: 'still no'"):
        qwen(endpoint, ledger).ask("?", Answer)


def test_a_server_that_hides_its_usage_is_charged_by_length(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will(completion(GOOD, usage=False))
    qwen(endpoint, ledger).ask("x" * 400, Answer)
    assert spent(ledger) == (400 + len(GOOD)) // 4


# -- the day's budget -------------------------------------------------------------------------------------------------


def test_a_used_up_budget_stops_the_call_before_it_is_made(endpoint: Endpoint, ledger: Path) -> None:
    endpoint.will(message(GOOD))
    llm = claude(endpoint, ledger, daily_tokens=30)
    llm.ask("?", Answer)
    assert llm.budget.left() == 0
    with pytest.raises(LLMFailed, match=r"today's budget of 30 tokens is used up; .*MEMP_LLM_DAILY_TOKENS"):
        llm.ask("?", Answer)
    assert len(endpoint.requests) == 1


def test_the_budget_is_that_of_a_day_and_old_days_are_forgotten(ledger: Path) -> None:
    ledger.write_text(json.dumps({f"2020-01-{day:02}": 5 for day in range(1, 32)}))
    budget = Budget(100, ledger)
    assert budget.left() == 100
    budget.charge(7)
    days = json.loads(ledger.read_text())
    assert days[now().date().isoformat()] == 7
    assert len(days) == 31
    assert "2020-01-01" not in days


def test_many_writers_of_one_ledger_lose_nothing(ledger: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: Budget(10, ledger).charge(3), range(80)))
    assert Budget(10, ledger).spent() == 240


def test_a_ledger_that_cannot_be_used_stops_the_call(endpoint: Endpoint, ledger: Path) -> None:
    ledger.write_text("[]")
    with pytest.raises(StoreDamaged, match="Remove it to start counting anew"):
        Budget(10, ledger).spent()
    with pytest.raises(LLMFailed, match="does not count tokens by day"):
        claude(endpoint, ledger).ask("?", Answer)
    assert endpoint.requests == []


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFull, match="Tokens must be counted"):
        Budget(10, tmp_path / "file" / "ledger.json").charge(1)


def test_a_ledger_that_another_process_holds_is_waited_for_and_then_given_up(ledger: Path) -> None:
    with FileLock(f"{ledger}.lock"), ThreadPoolExecutor(1) as pool:
        charged = pool.submit(Budget(10, ledger, lock_timeout=0.1).charge, 1)
        assert isinstance(charged.exception(), StoreError)


# -- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["", "claude-x", "anthropic:", "openai: ", "gemini:pro"])
def test_a_spec_that_names_no_llm_is_refused(spec: str, ledger: Path) -> None:
    with pytest.raises(BadInput, match=r"Write anthropic:MODEL, or openai:MODEL"):
        connect(spec, timeout=1, daily_tokens=1, ledger=ledger)


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)  # how Python itself marks a module as not to be found
    with pytest.raises(BadInput, match=r"pip install 'memp-mcp\[openai\]'"):
        connect("openai:gpt", timeout=1, daily_tokens=1, ledger=ledger)


def test_the_scripted_llm_keeps_to_the_same_contract() -> None:
    llm: LLM = ScriptedLLM({"word": "a", "score": 1}).will_answer("it is tired", LLMFailed("other", "gone"))
    assert llm.ask("?", Answer).word == "a"
    for reason in ("it is tired", "gone", "out of script"):
        with pytest.raises(LLMFailed, match=reason):
            llm.ask("?", Answer)
    assert llm.budget.spent() == 0
