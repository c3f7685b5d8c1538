"""Settings: read once, checked once; a typo is an error and never a default."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from memp_mcp.errors import BadInput
from memp_mcp.settings import DEFAULT_EMBEDDER, Settings


def test_nothing_has_to_be_set() -> None:
    read = Settings.from_env({"PATH": "/bin", "HOME": "/root"})

    assert (read.build, read.retrieve, read.update) == ("proceduralization", "hybrid", "adjustment")
    assert (read.retire_uses, read.retire_below) == (3, 0.5)  # as Memp's own code
    assert read.llm == ""
    assert read.embedder == DEFAULT_EMBEDDER


def test_the_memory_is_under_the_users_home_whatever_the_client_passes() -> None:
    """Clients pass different environments; one that sets MEMP_HOME to nothing must not split the memory."""
    assert Settings.from_env({}).directory == Path.home() / ".memp"
    assert Settings.from_env({"MEMP_HOME": ""}).directory == Path.home() / ".memp"
    assert Settings.from_env({"MEMP_HOME": "~/elsewhere"}).directory == Path.home() / "elsewhere"


def test_a_memory_that_each_client_would_look_for_elsewhere_is_refused() -> None:
    with pytest.raises(BadInput, match="absolute path"):
        Settings.from_env({"MEMP_HOME": "memory"})
    assert Settings.from_env({}, home=Path("memory")).directory == Path("memory")  # typed, by who knows where


def test_each_kind_of_value_is_read_from_text() -> None:
    read = Settings.from_env(
        {"MEMP_HOME": "/data/memp", "MEMP_RETRIEVE": "avefact", "MEMP_FLOOR": "0.4", "MEMP_ANSWER_TOKENS": "800",
         "MEMP_LOG_LEVEL": "DEBUG", "MEMP_RULES": "/data/rules.toml"}
    )  # fmt: skip

    assert read.directory == Path("/data/memp")
    assert (read.retrieve, read.floor, read.answer_tokens, read.log_level) == ("avefact", 0.4, 800, "DEBUG")
    assert read.rules == Path("/data/rules.toml")


def test_what_is_given_wins_over_the_environment_and_none_is_not_given() -> None:
    read = Settings.from_env({"MEMP_UPDATE": "vanilla", "MEMP_PROJECT": "shop"}, update="validation", project=None)

    assert (read.update, read.project) == ("validation", "shop")


@pytest.mark.parametrize(("folder", "project"), [("shop", "shop"), ("farm/fields", "fields"), (".", ""), ("..", "")])
def test_the_project_can_be_that_of_the_folder_but_the_home_directory_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, project: str
) -> None:
    home = tmp_path / "me"
    (home / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(home / folder)

    assert Settings.from_env({"MEMP_PROJECT": "auto"}).own_project == project
    assert Settings.from_env({"MEMP_PROJECT": "mine"}).own_project == "mine"
    assert Settings.from_env({}).own_project == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there a folder in use cannot be deleted")
def test_a_folder_that_is_gone_has_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert Settings.from_env({"MEMP_PROJECT": "auto"}).own_project == ""


@pytest.mark.parametrize("share", ["1", "-0.1", "nan"])
def test_a_hold_out_that_would_leave_nothing_to_compare_is_refused(share: str) -> None:
    with pytest.raises(BadInput, match="MEMP_HOLDOUT"):
        Settings.from_env({"MEMP_HOLDOUT": share})

    assert Settings().holdout == 0


def test_an_empty_value_counts_as_not_set() -> None:
    assert Settings.from_env({"MEMP_FLOOR": "", "MEMP_UPDATE": " "}) == Settings()


@pytest.mark.parametrize(
    ("name", "suggested"), [("MEMP_RETREIVE", "MEMP_RETRIEVE"), ("MEMP_LLM_KEY", "MEMP_LLM_API_KEY")]
)
def test_a_misspelt_name_is_an_error_that_names_the_right_one(name: str, suggested: str) -> None:
    with pytest.raises(BadInput, match=f"no setting {name}. Did you mean {suggested}"):
        Settings.from_env({name: ""})


def test_a_name_like_no_other_points_to_the_table() -> None:
    with pytest.raises(BadInput, match="settings table in the README"):
        Settings.from_env({"MEMP_ZZZZ": "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("BUILD", "summary"), ("RETRIEVE", "Hybrid"), ("UPDATE", "never"), ("FLOOR", "1.1"), ("FLOOR", "-1.1"),
     ("FLOOR", "nan"), ("RECALL_WAIT", "-1"), ("RECALL_WAIT", "inf"), ("ANSWER_TOKENS", "199"),
     ("ANSWER_TOKENS", "many"), ("RETIRE_USES", "0"), ("RETIRE_USES", "2.5"), ("RETIRE_BELOW", "1.5"),
     ("RETIRE_BELOW", "-0.1"), ("LLM_TIMEOUT", "0"), ("LLM_TIMEOUT", "inf"), ("LLM_DAILY_TOKENS", "-1"),
     ("LOCK_TIMEOUT", "0"), ("LOCK_TIMEOUT", "inf"), ("LOG_LEVEL", "verbose")],
)  # fmt: skip
def test_a_value_out_of_range_is_an_error_that_names_the_setting(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"MEMP_{name}: Input should be") as refused:
        Settings.from_env({f"MEMP_{name}": value})
    assert str(refused.value).count("MEMP_") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("FLOOR", "-1"), ("FLOOR", "1"), ("RECALL_WAIT", "0"), ("ANSWER_TOKENS", "200"), ("RETIRE_USES", "1"),
     ("RETIRE_BELOW", "0"), ("RETIRE_BELOW", "1"), ("LLM_DAILY_TOKENS", "0")],
)  # fmt: skip
def test_the_ends_of_a_range_belong_to_it(name: str, value: str) -> None:
    assert getattr(Settings.from_env({f"MEMP_{name}": value}), name.lower()) == float(value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(BadInput, match=r"MEMP_BUILD: .*; MEMP_RETIRE_USES: ") as refused:
        Settings.from_env({"MEMP_BUILD": "x", "MEMP_RETIRE_USES": "0"})
    assert refused.value.__cause__ is None


def test_an_unknown_name_that_is_given_is_an_error_too() -> None:
    with pytest.raises(BadInput, match="MEMP_TYPO: Extra inputs"):
        Settings.from_env({}, typo=1)


def test_the_key_is_shown_nowhere() -> None:
    assert "sk-secret" not in repr(Settings.from_env({"MEMP_LLM_API_KEY": "sk-secret"}))


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Settings.model_fields.values())
