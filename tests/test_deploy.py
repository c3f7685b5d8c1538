"""The files for containers, as far as they can be read here: they were never run by these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memp_mcp.cli import parser
from memp_mcp.settings import PREFIX, Settings

yaml = pytest.importorskip("yaml", reason="reading compose.yaml needs PyYAML: pip install 'memp-mcp[dev]'")
ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_two_servers_share_one_bucket_and_know_the_same_tokens() -> None:
    one, two = COMPOSE["services"]["one"], COMPOSE["services"]["two"]

    assert one == two
    assert one["environment"]["MEMP_STORE"].startswith("s3://memory/")
    assert one["volumes"] == ["home:/memory"]
    assert set(COMPOSE["volumes"]) == {"home", "objects"}


def test_the_commands_and_settings_of_the_files_are_those_of_the_program() -> None:
    served = parser().parse_args(COMPOSE["services"]["one"]["command"])
    settings = [n for n in COMPOSE["services"]["one"]["environment"] if n.startswith(PREFIX)]

    assert (served.http, served.stateless, served.host) == (True, True, "0.0.0.0")  # noqa: S104 - with tokens
    assert {n.removeprefix(PREFIX).lower() for n in settings} <= Settings.model_fields.keys()


def test_the_image_holds_what_the_build_needs_and_does_not_run_as_root() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = {"pyproject.toml", "README.md", "LICENSE", "memp_mcp"}

    assert {f"!{name}" for name in copied} <= set(kept)
    assert all((ROOT / name).exists() for name in copied)
    assert "USER memp" in DOCKERFILE
    assert parser().parse_args(["serve", "--http", "--host", "0.0.0.0", "--stateless"]).stateless  # noqa: S104 - as in CMD
