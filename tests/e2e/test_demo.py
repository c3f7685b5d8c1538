"""memp-mcp demo, as a new user runs it; and what it says when it does not go well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from memp_mcp import demo
from memp_mcp.errors import MempError

README = Path(__file__).parents[2] / "README.md"
IDS = re.compile(r"\b[pt]_[0-9a-f]{12,20}\b")


def masked(text: str) -> str:
    return IDS.sub("<id>", text)


def test_the_second_agent_succeeds_without_a_failed_command_and_the_readme_shows_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MEMP_")} | {"HOME": str(home)}

    done = subprocess.run(
        [sys.executable, "-m", "memp_mcp", "demo"], env=environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["agent", "two", "3", "0", "success"]
    assert list(home.iterdir()) == []
    assert masked(done.stdout).strip() in masked(README.read_text(encoding="utf-8"))


def test_a_memory_that_cannot_be_opened_is_told_as_one_error(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file where the directory should be", encoding="utf-8")

    with pytest.raises(MempError, match=r"recall_procedure answered: .* is not a directory"):
        demo.run(lambda _: None, folder=tmp_path)


def test_a_second_agent_that_recalls_nothing_is_told(tmp_path: Path) -> None:
    def say(text: str) -> None:
        if "AGENT TWO" in text:
            (tmp_path / "memory").rename(tmp_path / "lost")

    with pytest.raises(MempError, match="recalled nothing"):
        demo.run(say, folder=tmp_path)


def test_a_second_agent_that_fails_is_told(tmp_path: Path) -> None:
    def say(text: str) -> None:
        if "AGENT TWO" in text:
            (tmp_path / "second" / "release.py").write_text(
                "raise SystemExit('error: no space left')", encoding="utf-8"
            )

    with pytest.raises(MempError, match="did not succeed"):
        demo.run(say, folder=tmp_path)
