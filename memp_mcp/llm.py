"""One question, one validated answer: the LLM protocol; Anthropic; everything that speaks OpenAI's chat completions.

Off unless configured. The only module that knows the vendors' libraries; they are imported at the first question,
because that alone takes seconds. Replies are read as raw JSON and validated here: a truncated or refused answer then
still tells what it cost, which the SDKs' own parsers throw away together with it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import filelock
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from memp_mcp.errors import BadInput, LLMFailed, StoreBusy, StoreDamaged, StoreError, StoreFull
from memp_mcp.models import now
from memp_mcp.settings import make_private

if TYPE_CHECKING:
    import anthropic
    import openai

MAX_ANSWER_TOKENS = 4096
_MARKER = re.compile(
    r"<(?=\s*/?\s*(?:data|task|outcome|steps|procedure|failed_steps|error|nearest_success)\b)", re.IGNORECASE
)
RETRIES = 2
_DAYS_KEPT = 31

A = TypeVar("A", bound=BaseModel)


class LLM(Protocol):
    """Something that answers a question in a given form."""

    @property
    def name(self) -> str:
        """Who answers, as it is recorded with what it says: ``anthropic:MODEL``."""
        ...

    @property
    def budget(self) -> Budget:
        """What it may use in a day, and has used."""
        ...

    def ask(self, prompt: str, answer: type[A], *, system: str = "") -> A:
        """Put *prompt* to it and return its answer as a validated *answer*.

        Raises:
            LLMFailed: there is no usable answer: no key, no budget, no connection, a time-out, a refusal, a text that
                was cut off or does not have the form.
        """
        ...


def inert(text: str) -> str:
    """Recorded *text* in which nothing can pass for a marker of a prompt: ``</steps>`` becomes ``&lt;/steps>``."""
    return _MARKER.sub("&lt;", text)


def connect(
    spec: str, *, base_url: str = "", api_key: str = "", timeout: float, daily_tokens: int, ledger: Path
) -> LLM:
    """Return the LLM that *spec* names; nothing is imported and nobody is called before the first question.

    Args:
        spec: ``anthropic:MODEL`` or ``openai:MODEL``.
        base_url: the endpoint; empty: the vendor's own, or what its environment variable says.
        api_key: the key; empty: what the vendor's environment variable says.
        timeout: seconds that one attempt may go without a sign of life; the SDK tries up to three times.
        daily_tokens: tokens that all processes which share *ledger* may use in a day (UTC).
        ledger: JSON file in which the tokens are counted.

    Raises:
        BadInput: *spec* has neither form, or the library for it is not installed.
    """
    vendor, _, model = spec.partition(":")
    if vendor not in {"anthropic", "openai"} or not model.strip():
        raise BadInput(f"{spec!r} names no LLM. Write anthropic:MODEL, or openai:MODEL for any compatible endpoint.")
    if vendor == "openai" and importlib.util.find_spec("openai") is None:  # an extra; anthropic is always there
        raise BadInput(f"{spec!r} needs the library openai. Run: pip install 'memp-mcp[openai]'")
    kind = AnthropicEndpoint if vendor == "anthropic" else OpenAIEndpoint
    endpoint = kind(model=model.strip(), base_url=base_url, api_key=api_key, timeout=timeout)
    return Connection(name=spec, endpoint=endpoint, budget=Budget(daily_tokens, ledger))


# -- what a day may cost ----------------------------------------------------------------------------------------------

_LEDGER = TypeAdapter(dict[str, int])


class Budget:
    """Tokens used per UTC day, in a small JSON file that several processes share.

    Raises:
        StoreError: (all methods) the file cannot be read, written or locked.
    """

    def __init__(self, daily_tokens: int, ledger: Path, *, lock_timeout: float = 10.0) -> None:
        self.daily_tokens = daily_tokens
        self._ledger = ledger
        self._lock = filelock.FileLock(f"{ledger}.lock", timeout=lock_timeout)

    def spent(self) -> int:
        """Tokens used today, by all processes."""
        with _ledger_errors(self._ledger):
            return self._days().get(_today(), 0)

    def left(self) -> int:
        """Tokens that may still be used today; the last answer may have gone beyond, so never below 0."""
        return max(0, self.daily_tokens - self.spent())

    def charge(self, tokens: int) -> None:
        """Count *tokens* as used today."""
        with _ledger_errors(self._ledger):
            make_private(self._ledger.parent)
            with self._lock:
                days = self._days()
                days[_today()] = days.get(_today(), 0) + tokens
                latest = dict(sorted(days.items())[-_DAYS_KEPT:])
                fresh = self._ledger.with_name(f"{self._ledger.name}.new")
                fresh.write_text(json.dumps(latest), encoding="utf-8")
                fresh.replace(self._ledger)

    def _days(self) -> dict[str, int]:
        return _LEDGER.validate_json(self._ledger.read_bytes()) if self._ledger.exists() else {}


def _today() -> str:
    return now().date().isoformat()


@contextmanager
def _ledger_errors(ledger: Path) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise StoreDamaged(f"{ledger} does not count tokens by day. Remove it to start counting anew.") from error
    except filelock.Timeout as error:
        raise StoreBusy(f"{ledger} is locked by another process. Try again, or end that process.") from error
    except OSError as error:
        raise StoreFull(f"{ledger} cannot be used: {error.strerror or error}. Tokens must be counted.") from error


# -- asking -----------------------------------------------------------------------------------------------------------


class Unusable(Exception):
    """The endpoint gave no reply at all; the message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the text, why there is none (refused, cut off), and the tokens that it cost."""

    text: str
    complaint: str
    tokens: int


class Endpoint(Protocol):
    """How one vendor is asked."""

    def replies(self, prompt: str, answer: type[BaseModel], system: str) -> Iterator[Reply]:
        """One reply for each way of asking that is worth trying, the best first; the next only when this one fails."""
        ...


class Connection:
    """An LLM behind an endpoint, within a day's budget."""

    def __init__(self, *, name: str, endpoint: Endpoint, budget: Budget) -> None:
        self.name = name
        self.budget = budget
        self._endpoint = endpoint

    def ask(self, prompt: str, answer: type[A], *, system: str = "") -> A:
        """See `LLM.ask`. Whatever was used is charged, also for an answer that cannot be used."""
        reason = "it did not answer"
        try:
            self._check_budget()
            for reply in self._endpoint.replies(prompt, answer, system):
                self.budget.charge(reply.tokens)
                try:
                    return answer.model_validate(_object_in(reply))
                except ValidationError as error:
                    reason = f"its answer does not have the form of {answer.__name__}: {_problems(error)}"
                except ValueError as error:
                    reason = str(error)
        except (Unusable, StoreError) as error:
            raise LLMFailed(self.name, str(error).rstrip(".")) from error
        raise LLMFailed(self.name, reason)

    def _check_budget(self) -> None:
        if self.budget.left() == 0:
            limit = self.budget.daily_tokens
            raise Unusable(f"today's budget of {limit:,} tokens is used up; wait or raise MEMP_LLM_DAILY_TOKENS")


def _problems(error: ValidationError) -> str:
    told = (f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:3])
    return "; ".join(told)


def _object_in(reply: Reply) -> object:
    """The first JSON object in the text, whatever stands around it (a fence, a preamble, reasoning).

    Raises:
        Unusable: it was refused or cut off, so asking in another way would not help.
        ValueError: there is no object.
    """
    if reply.complaint:
        raise Unusable(reply.complaint)
    decoder = json.JSONDecoder()
    at = reply.text.find("{")
    while at >= 0:
        try:
            return decoder.raw_decode(reply.text, at)[0]
        except ValueError:
            at = reply.text.find("{", at + 1)
    raise ValueError(f"its answer holds no JSON object: {reply.text[:80]!r}")


def _cut_off(reason: str) -> str:
    return f"its answer was cut off ({reason}, limit {MAX_ANSWER_TOKENS:,} tokens)"


# -- Anthropic --------------------------------------------------------------------------------------------------------


class _Block(BaseModel):
    type: str
    text: str = ""


class _AnthropicUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None

    @property
    def total(self) -> int:
        cached = (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)
        return self.input_tokens + self.output_tokens + cached


class _Message(BaseModel):
    content: list[_Block]
    stop_reason: str | None = None
    usage: _AnthropicUsage


@dataclass(frozen=True)
class AnthropicEndpoint:
    """Anthropic's Messages API, with structured output. Its models no longer take a temperature."""

    model: str
    base_url: str
    api_key: str
    timeout: float

    def replies(self, prompt: str, answer: type[BaseModel], system: str) -> Iterator[Reply]:
        """The one reply, in the form of *answer* by contract."""
        import anthropic  # noqa: PLC0415 - takes 3 s; see the module's docstring

        with _explained(anthropic.AnthropicError, self):
            raw = self._client.messages.with_raw_response.create(
                model=self.model,
                max_tokens=MAX_ANSWER_TOKENS,
                system=system or anthropic.omit,
                messages=[{"role": "user", "content": prompt}],
                output_config={"format": {"type": "json_schema", "schema": anthropic.transform_schema(answer)}},
            )
        message = _read(_Message, raw.http_response.content)
        text = "".join(block.text for block in message.content if block.type == "text")
        yield Reply(text, _anthropic_complaint(message.stop_reason), message.usage.total)

    @cached_property
    def _client(self) -> anthropic.Anthropic:
        import anthropic  # noqa: PLC0415 - see replies()

        return anthropic.Anthropic(
            api_key=self.api_key or None, base_url=self.base_url or None, timeout=self.timeout, max_retries=RETRIES
        )


def _anthropic_complaint(stop_reason: str | None) -> str:
    if stop_reason in {"max_tokens", "model_context_window_exceeded"}:
        return _cut_off(stop_reason)
    return "it refused" if stop_reason == "refusal" else ""


# -- OpenAI and what is compatible ------------------------------------------------------------------------------------


class _ChatMessage(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _ChatMessage
    finish_reason: str | None = None


class _OpenAIUsage(BaseModel):
    total_tokens: int


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _OpenAIUsage | None = None


@dataclass(frozen=True)
class OpenAIEndpoint:
    """Chat completions as of OpenAI, vLLM, Ollama and DashScope.

    Structured output first; where the endpoint refuses or ignores it, once more with the schema in the prompt.
    """

    model: str
    base_url: str
    api_key: str
    timeout: float

    def replies(self, prompt: str, answer: type[BaseModel], system: str) -> Iterator[Reply]:
        """The reply in structured output, if the endpoint knows it; then the reply to a plain question."""
        import openai  # noqa: PLC0415 - takes 1 s; see the module's docstring

        schema = json.dumps(answer.model_json_schema(), ensure_ascii=False)
        in_words = f"{prompt}\n\nAnswer with one JSON object of this JSON schema and nothing else:\n{schema}"
        with _explained(openai.OpenAIError, self):
            completions = self._client.chat.completions.with_raw_response
            try:
                raw = completions.parse(
                    model=self.model,
                    messages=_chat(system, prompt),
                    response_format=answer,
                    max_completion_tokens=MAX_ANSWER_TOKENS,
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                raw = None
        if raw is not None:
            yield _openai_reply(raw.http_response.content, prompt)
        with _explained(openai.OpenAIError, self):
            # max_tokens: old servers, which this way of asking is for, know no other name
            plain = completions.create(model=self.model, messages=_chat(system, in_words), max_tokens=MAX_ANSWER_TOKENS)
        yield _openai_reply(plain.http_response.content, in_words)

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai  # noqa: PLC0415 - see replies()

        return openai.OpenAI(
            api_key=self.api_key or None, base_url=self.base_url or None, timeout=self.timeout, max_retries=RETRIES
        )


def _chat(system: str, prompt: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    asked: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": system}, *asked] if system else asked


def _openai_reply(body: bytes, prompt: str) -> Reply:
    completion = _read(_Completion, body)
    choice = completion.choices[0]
    text = choice.message.content or ""
    # a server that does not tell its usage must not slip under the budget: four characters are about a token
    tokens = completion.usage.total_tokens if completion.usage else (len(prompt) + len(text)) // 4
    return Reply(text, _openai_complaint(choice), tokens)


def _openai_complaint(choice: _Choice) -> str:
    if choice.finish_reason == "length":
        return _cut_off("length")
    if choice.message.refusal:
        return f"it refused: {choice.message.refusal[:200]}"
    return "it refused" if choice.finish_reason == "content_filter" else ""


# -- errors of both ---------------------------------------------------------------------------------------------------


def _read(form: type[A], body: bytes) -> A:
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        text = body[:80].decode("utf-8", "replace")
        raise Unusable(f"the endpoint does not speak this protocol, check MEMP_LLM_BASE_URL: {text!r}") from error


@contextmanager
def _explained(vendors_error: type[Exception], endpoint: AnthropicEndpoint | OpenAIEndpoint) -> Iterator[None]:
    """Turn what the SDK raises into a reason that says what to do, without the key, which some endpoints repeat."""
    try:
        yield
    except vendors_error as error:
        asked_by = endpoint.__dict__.get("_client")  # it knows the key that the environment has given
        key = endpoint.api_key or getattr(asked_by, "api_key", None) or ""
        told = str(error).replace(key, "${MEMP_LLM_API_KEY}") if key else str(error)
        raise Unusable(_reason(error, told[:300], endpoint.timeout)) from error
    except TypeError as error:
        if "authentication method" not in str(error):
            raise
        raise Unusable("it has no key; set MEMP_LLM_API_KEY") from error


_HINTS = {401: "check MEMP_LLM_API_KEY: ", 403: "check MEMP_LLM_API_KEY: ", 404: "check MEMP_LLM: "}


def _reason(error: Exception, told: str, timeout: float) -> str:
    status = getattr(error, "status_code", None)
    if status is not None:
        hint = _HINTS.get(status, "")
        return f"HTTP {status}, {hint}{told}"
    if type(error).__name__ == "APITimeoutError":
        return f"no answer within {timeout:g} s (MEMP_LLM_TIMEOUT), tried {RETRIES + 1} times"
    if "credentials" in told.lower():
        return "it has no key; set MEMP_LLM_API_KEY (to any word for a server that wants none)"
    return f"{type(error).__name__}: {told} (check MEMP_LLM_BASE_URL)"
