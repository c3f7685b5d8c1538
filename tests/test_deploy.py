"""The files for containers, as far as they can be read here: they were never run by these tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from memp_mcp.cli import parser
from memp_mcp.settings import PREFIX, Settings
from memp_mcp.web import MAX_BODY

yaml = pytest.importorskip("yaml", reason="reading compose.yaml needs PyYAML: pip install 'memp-mcp[dev]'")
ROOT = Path(__file__).parents[1]
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
BALANCER: dict[str, str] = dict(re.findall(r"^ *(\w+) (\S+)", COMPOSE["configs"]["caddyfile"]["content"], re.MULTILINE))
"""Each option of the Caddyfile, with its first value."""
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


def test_the_balancer_finds_a_server_that_is_ready_before_a_caller_gives_up() -> None:
    """By default it looks every 30 seconds, and until then answers 503 after a start and 502 after a stop."""
    assert BALANCER["health_uri"] == "/ready"
    assert _seconds("health_interval") < _seconds("lb_try_duration") <= 30


def test_the_balancer_takes_a_request_whole_up_to_the_largest_that_a_server_takes() -> None:
    """What it passes on while it comes in can cost the answer, when that begins before the request has ended."""
    assert BALANCER["request_buffers"] == f"{MAX_BODY // 10**6}MB"


def test_the_balancer_tries_requests_with_a_body_again() -> None:
    """Caddy does since 2.11; before, their body was closed with the first attempt."""
    image, version = COMPOSE["services"]["balancer"]["image"].split(":")

    assert image == "caddy"
    assert tuple(map(int, version.split("."))) >= (2, 11)


def test_the_balancer_closes_idle_connections_before_the_servers_do() -> None:
    """Else a request is sent now and then on a connection that is closed at that moment, and fails."""
    server = uvicorn.Config("memp_mcp.web:application")

    assert _seconds("keepalive") < server.timeout_keep_alive


def test_the_figures_are_not_for_those_who_come_through_the_balancer() -> None:
    caddyfile = COMPOSE["configs"]["caddyfile"]["content"]

    assert "@inside path /metrics /metrics/*\n" in caddyfile
    assert "respond @inside 404\n" in caddyfile


def test_only_this_machine_reaches_the_port_unless_it_is_said_otherwise() -> None:
    assert COMPOSE["services"]["balancer"]["ports"] == ["${LISTEN:-127.0.0.1}:8765:8765"]


def test_no_variable_that_a_shell_sets_for_compose_looks_like_a_setting() -> None:
    """The program refuses to start where it finds a MEMP_ variable that is no setting."""
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE_TEXT))

    assert {"S3_ACCESS_KEY", "S3_SECRET_KEY", "PUBLIC_HOST", "LISTEN"} <= asked
    assert not [name for name in asked if name.startswith(PREFIX)]


def test_a_server_that_is_told_to_stop_may_end_its_write_first() -> None:
    """Killed in the middle, it would leave a lease behind that the others have to wait for."""
    patience = Settings.model_fields["lock_timeout"].default

    assert int(COMPOSE["services"]["one"]["stop_grace_period"].removesuffix("s")) > patience


def test_torch_comes_without_cuda_from_an_index_that_can_be_changed() -> None:
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n" in DOCKERFILE
    assert '--index-url "$TORCH_INDEX" torch\n' in DOCKERFILE


def _seconds(option: str) -> int:
    return int(BALANCER[option].removesuffix("s"))
