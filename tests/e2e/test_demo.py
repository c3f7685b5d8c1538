"""memp-mcp demo, as a new user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
IDS = re.compile(r"\b[pt]_[0-9a-f]{12,20}\b")


def test_the_second_agent_succeeds_without_a_failed_command_and_the_readme_shows_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MEMP_")} | {"HOME": str(home)}

    done = subprocess.run(
        [sys.executable, "-m", "memp_mcp", "demo"], env=environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["agent", "two", "3", "0", "success"]
    assert not (home / ".memp").exists()
    assert IDS.sub("<id>", done.stdout).strip() in IDS.sub("<id>", README.read_text(encoding="utf-8"))
