"""What a text is looked up by: its words, its key phrases, and the form in which two tasks count as the same.

Deterministic and free of models, so that it works before any embedder is there and gives the same keys for ever.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_CLAUSE = re.compile(r"[.,;:!?()\[\]{}\"“”«»。，；：！？、\n]+")  # noqa: RUF001 - Chinese ends its clauses with these

STOP_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being below between both but by
    can could did do does doing down during each few for from further had has have having he her here hers him his how i
    if in into is it its just let like me more most my myself need needs no nor not now of off on once one only or other
    our ours out over own per please same she should so some such than that the their them then there these they this
    those through to too two under until up us using very via want was we were what when where which while who whom why
    will with would you your yours 的 了 在 是 和 把 到 一 个 请 我 之 与 для и в на с по не что из к от за""".split()  # noqa: SIM905, RUF001 - a list of quoted words would be unreadable; Russian looks like Latin
)


def words(text: str) -> list[str]:
    """The words of a text, case-folded: identifiers are split; Chinese, Japanese and Korean go by character.

    However a letter is encoded (é in one code point or in two, full width or half), it is the same letter.
    """
    spaced = _CJK.sub(r" \g<0> ", _CAMEL.sub(" ", unicodedata.normalize("NFKC", text)))
    return [match.group().casefold() for match in _WORD.finditer(spaced)]


def content_words(text: str) -> list[str]:
    """The words that carry meaning, in their order, reduced to a rough stem so that *plates* meets *plate*."""
    return [stem(w) for w in words(text) if w not in STOP_WORDS]


@lru_cache(maxsize=8192)  # few words make up most texts
def stem(word: str) -> str:
    """Strip an English plural or verb ending; any other word stays as it is."""
    if len(word) > 3 and word.isascii() and word.isalpha():
        for ending, kept in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ing", "")):
            if word.endswith(ending) and len(word) - len(ending) + len(kept) >= 3:
                return word[: -len(ending)] + kept
        if word.endswith("s") and not word.endswith(("ss", "us", "is")):
            return word[:-1]
    return word


def coverage(query: str, text: str) -> float:
    """Which share of the query's content words occurs in *text*, in [0, 1]; 0 for a query without any."""
    wanted = word_set(query)
    if not wanted:
        return 0.0
    return len(wanted & word_set(text)) / len(wanted)


@lru_cache(maxsize=1024)  # one recall asks several times for the words of some hundred texts
def word_set(text: str) -> frozenset[str]:
    """The content words of a text, each once."""
    return frozenset(content_words(text))


def phrases(text: str, *, limit: int = 12) -> tuple[str, ...]:
    """The key phrases of a text: its runs of content words, at most four words each, first occurrence first.

    This is AveFact's key without an LLM (Memp §3.2 lets an LLM name the keywords; an LLM builder here does too).
    """
    found: dict[str, None] = {}
    for clause in _CLAUSE.split(text):
        run: list[str] = []
        for word in [*words(clause), "the"]:
            if word in STOP_WORDS:
                found.update(dict.fromkeys(_split(run)))
                run = []
            else:
                run.append(word)
    return tuple(found)[:limit]


def _split(run: list[str]) -> Iterable[str]:
    for start in range(0, len(run), 4):
        yield " ".join(run[start : start + 4])


def same_task_form(task: str) -> str:
    """The form in which two wordings are one task: case, punctuation, articles and numbers do not count.

    A text that has nothing else, such as an emoji, is its own form.
    """
    kept = ("#" if w.isdigit() else w for w in words(task) if w not in {"a", "an", "the", "some"})
    return " ".join(kept) or " ".join(task.casefold().split())


def mostly_foreign(text: str) -> bool:
    """Whether most letters are outside the Latin script, where an English embedder knows nothing."""
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and sum(c < "\u0250" for c in letters) * 2 < len(letters)
