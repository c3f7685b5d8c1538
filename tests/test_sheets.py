"""The tables of the ledger, from records that are made up: what is computed needs no store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from memp_mcp import report, sheets
from memp_mcp.intervals import Estimate
from memp_mcp.ledger import Aid, Episode, Ledger, Recall, Records, account
from memp_mcp.lookup import Noted, Returned

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def held_out(shown: int, withheld: int) -> Ledger:
    """The ledger of a hold-out of a quarter: successes in two steps where shown, failures in six where withheld."""
    found = (Returned(id="p_000000000000", revision=1),)
    recalls, episodes = {}, []
    for n in range(shown + withheld):
        recall_id, at, passes = f"r_{n:012}", BEGUN + timedelta(hours=2 * n), n < shown
        kept, gone = (found, ()) if passes else ((), found)
        noted = Noted(task="publish", error="", returned=kept, withheld=gone, holdout=0.25)
        recalls[recall_id] = Recall(at, "codex", noted)
        aid: Aid = "shown" if passes else "withheld"
        episodes.append(
            Episode(
                at=at + timedelta(minutes=1),
                trajectory_id=f"t_{n}",
                client="codex",
                model="m",
                recall_id=recall_id,
                aid=aid,
                live=True,
                steps=2 if passes else 6,
                tokens=1234.0,
                verified=True,
                succeeded=passes,
            )
        )
    return account(Records(episodes, recalls, [], {}, []), retire_below=0.5)


def test_the_hold_out_comes_first_since_it_compares_like_with_like() -> None:
    first = sheets.sheets(held_out(6, 3))[0]

    assert first.title == "Hold-out"
    assert "MEMP_HOLDOUT 0.25" in first.note
    assert [row[0] for row in first.rows] == ["shown", "withheld", "difference"]
    assert first.rows[2][-3:] == ("+100 points [+32, +100]", "-4.0 [-4.0, -4.0]", "+0.0 [+0.0, +0.0]")


def test_the_head_of_the_page_takes_the_benefit_from_the_hold_out() -> None:
    text = report.page(held_out(6, 3))

    assert "95 %: +32 to +100, in percentage points, by the hold-out" in text


def test_numbers_have_the_decimals_that_say_something() -> None:
    assert sheets.number(Estimate(value=1234.5, low=99.6, high=2369.4, n=9)) == "1,234 [100, 2,369]"
    assert sheets.number(Estimate(value=9.96, n=2)) == "10.0"
    assert sheets.percent(None) == sheets.NONE
    assert sheets.signed(Estimate(value=-4.1, low=-6, high=2.2, n=9)) == "-4.1 [-6.0, +2.2]"
    assert sheets.points(Estimate(value=0.12, low=0.03, high=0.21, n=9)) == "+12 points [+3, +21]"


def test_a_table_without_rows_is_left_out() -> None:
    empty = account(Records([], {}, [], {}, []), retire_below=0.5)

    assert sheets.sheets(empty) == []
