"""Settings: every value checked once, no typo taken for a default."""

from __future__ import annotations

from pathlib import Path

import pytest

from memp_mcp.errors import BadInput, LLMFailed, MempError, NotFound, StaleRevision
from memp_mcp.models import Trajectory, checked_id, stable_id, storable
from memp_mcp.settings import Settings


def test_the_environment_is_read_and_what_is_given_wins() -> None:
    settings = Settings.from_env({"MEMP_UPDATE": "vanilla", "MEMP_FLOOR": "0.5", "PATH": "/bin"}, home=Path("x"))

    assert (settings.update, settings.floor, settings.directory) == ("vanilla", 0.5, Path("x"))
    assert Settings.from_env({"MEMP_HOME": "a"}, home=None).home == Path("a")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"MEMP_UPDAET": "vanilla"}, "Did you mean MEMP_UPDATE"),
        ({"MEMP_ZZZZ": "1"}, "settings table"),
        ({"MEMP_UPDATE": "sometimes"}, "MEMP_UPDATE"),
        ({"MEMP_RETIRE_BELOW": "7"}, "MEMP_RETIRE_BELOW"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(environ: dict[str, str], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Settings.from_env(environ)


def test_the_key_is_never_shown() -> None:
    assert "hush" not in repr(Settings(llm_api_key="hush"))


def test_errors_carry_what_they_are_about() -> None:
    assert NotFound("procedure", "p_1", "Recall.").wanted == "p_1"
    assert LLMFailed("x", "no key").reason == "no key"
    stale = StaleRevision("p_1", 2, 3)
    assert isinstance(stale, MempError)
    assert (stale.expected, stale.current) == (2, 3)


def test_ids_are_checked_and_stable() -> None:
    with pytest.raises(BadInput, match="not a recall id"):
        checked_id("recall", "p_000000000000")
    assert checked_id("procedure", "p_000000000000") == "p_000000000000"
    assert stable_id("t", "a", "b") != stable_id("t", "ab")
    assert storable(7) == 7


def test_a_trajectory_needs_a_task_and_an_outcome_says_whether_it_succeeded() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Trajectory(task=" ", steps=())
    outcomes = ["success", "failure", "partial", "unknown"]
    told = [Trajectory(task="x", steps=(), outcome=o).succeeded for o in outcomes]
    assert told == [True, False, False, None]
