"""What texts are looked up by."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memp_mcp import keys


def test_identifiers_are_split_and_chinese_goes_character_by_character() -> None:
    assert keys.words("getUserName snake_case 部署api") == ["get", "user", "name", "snake", "case", "部", "署", "api"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Put the 3 mugs away.", "put 5 mugs away"), ("Fix a Bug", "fix the bug"), ("DEPLOY!", "deploy")],
)
def test_case_articles_numbers_and_punctuation_make_no_other_task(one: str, other: str) -> None:
    assert keys.same_task_form(one) == keys.same_task_form(other)


@pytest.mark.parametrize(
    ("word", "stem"),
    [("plates", "plate"), ("boxes", "box"), ("cities", "city"), ("dishes", "dish"), ("benches", "bench"),
     ("glasses", "glass"), ("testing", "test"), ("class", "class"), ("status", "status"), ("bus", "bus")],
)  # fmt: skip
def test_endings_do_not_hide_a_word(word: str, stem: str) -> None:
    assert keys.stem(word) == stem


def test_coverage_is_the_share_of_the_querys_words() -> None:
    assert keys.coverage("clean the red mugs", "a mug that is clean") == pytest.approx(2 / 3)
    assert keys.coverage("the of and", "anything") == 0.0


def test_phrases_are_runs_of_content_words() -> None:
    assert keys.phrases("Put a clean mug in the coffee machine, then stop.") == (
        "put", "clean mug", "coffee machine", "stop",
    )  # fmt: skip


def test_long_runs_are_cut_into_phrases() -> None:
    assert keys.phrases("alpha beta gamma delta epsilon") == ("alpha beta gamma delta", "epsilon")


@pytest.mark.parametrize(
    ("text", "foreign"), [("deploy", False), ("развернуть", True), ("部署", True), ("1234", False)]
)
def test_foreign_scripts_are_recognised(text: str, *, foreign: bool) -> None:
    assert keys.mostly_foreign(text) is foreign


@given(st.text())
def test_any_text_has_keys(text: str) -> None:
    assert 0.0 <= keys.coverage(text, text) <= 1.0
    assert all(keys.phrases(text))
    assert bool(keys.same_task_form(text)) == bool(text.strip())


@given(st.text())
def test_how_a_letter_is_encoded_makes_no_other_word(text: str) -> None:
    assert keys.words(unicodedata.normalize("NFD", text)) == keys.words(unicodedata.normalize("NFC", text))


def test_tasks_without_any_word_are_told_apart() -> None:
    """Else every task of emoji or punctuation alone would be taken for one and the same, and merged."""
    assert keys.same_task_form("🚀") != keys.same_task_form("🔥")
    assert keys.same_task_form("the") == "the"


@pytest.mark.parametrize("word", ["gas", "analysis", "42s", "käses"])
def test_what_is_no_english_plural_stays_as_it_is(word: str) -> None:
    assert keys.stem(word) == word
