"""The report, opened as a user opens it: in a browser, without a network."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import lost, won
from matplotlib.image import imread

from memp_mcp import report
from memp_mcp.memory import Memory

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1200,2400",
)
PAGE_COLOURS = {"with": (0x0B, 0x63, 0xA5), "without": (0xB0, 0x4F, 0x00)}

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)")


def opened(page: Path, *options: str) -> tuple[str, list[str]]:
    """What the browser printed about a page, and the addresses that the page had it ask for."""
    assert BROWSER is not None
    log = page.with_suffix(".log.json")
    places = (f"--user-data-dir={page.with_suffix('.profile')}", f"--log-net-log={log}")
    done = subprocess.run(
        [BROWSER, *OPTIONS, *places, *options, page.as_uri()],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=300,
    )
    return done.stdout, _asked_for(json.loads(log.read_text(encoding="utf-8")))


def _asked_for(log: dict[str, Any]) -> list[str]:
    """A page is the origin of what it asks for; what the browser asks for by itself has none."""
    told = [event.get("params", {}) for event in log["events"]]
    return [params["url"] for params in told if params.get("initiator", "not an origin") != "not an origin"]


@pytest.fixture
def page(memory: Memory, tmp_path: Path) -> Path:
    """The report on ten episodes, of which those with a procedure succeed more often."""
    memory.record(won("publish the shop", "build", source="x"))
    [known] = memory.list_procedures()
    for n in range(10):
        made = won if n % 4 else lost
        memory.record(made(f"publish shop {n}", "build", "publish", used=(known.id,) if n % 2 else ()))
    file = tmp_path / "report.html"
    file.write_text(report.page(memory.ledger()), encoding="utf-8")
    return file


def test_a_young_memorys_curves_are_drawn_in_the_colours_of_the_page_and_nothing_is_fetched(page: Path) -> None:
    picture = page.with_suffix(".png")

    _, fetched = opened(page, f"--screenshot={picture}")

    pixels = np.round(imread(picture)[..., :3] * 255).astype(int)
    drawn = {name: int((pixels == colour).all(axis=2).sum()) for name, colour in PAGE_COLOURS.items()}
    assert min(drawn.values()) > 100, drawn
    assert fetched == []


def test_the_browser_reads_four_curves_and_what_changed_over_time(page: Path) -> None:
    read, _ = opened(page, "--dump-dom")

    assert read.count("<svg") == 4
    assert "Over time" in read


def test_a_page_that_fetches_something_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><title>x</title><img src="http://elsewhere.invalid/x.png">', encoding="utf-8")

    _, fetched = opened(page, "--dump-dom")

    assert fetched == ["http://elsewhere.invalid/x.png"]
