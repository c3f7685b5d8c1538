"""Fixtures: the real default embedder, loaded once, and memories on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import ScriptedLLM

from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.judge import Rule
from memp_mcp.memory import Memory
from memp_mcp.settings import DEFAULT_EMBEDDER, Settings
from memp_mcp.store import Store

if TYPE_CHECKING:
    from cloud_stand_in import Cloud

OpenMemory = Callable[..., Memory]


@pytest.fixture(scope="session")
def embedder() -> BackgroundEmbedder:
    loaded = BackgroundEmbedder(DEFAULT_EMBEDDER)
    assert loaded.ready(120) is not None, loaded.reason
    return loaded


@pytest.fixture
def open_memory(tmp_path: Path, embedder: BackgroundEmbedder) -> OpenMemory:
    """Opens a memory in a directory under tmp_path; the same name opens the same one again."""

    def opened(
        name: str = "memory",
        *,
        llm: ScriptedLLM | None = None,
        rules: tuple[Rule, ...] = (),
        background: BackgroundEmbedder | None = None,
        **settings: Any,
    ) -> Memory:
        home = tmp_path / name
        store = Store.open(home)
        return Memory(store, background or embedder, Settings(home=home, **settings), llm=llm, rules=rules)

    return opened


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    return open_memory()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    """A stand-in for LanceDB Cloud, with the environment that leads there."""
    from cloud_stand_in import KEY, Cloud  # noqa: PLC0415 - it imports LanceDB, which the program prepares for that

    with Cloud(tmp_path / "cloud") as service:
        monkeypatch.setenv("LANCEDB_API_KEY", KEY)
        monkeypatch.setenv("LANCEDB_HOST", service.url)
        yield service


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test starts is not measured.

    A process that is killed or may not write leaves a torn coverage file, and one that ends while a thread of it is
    still at work can crash as coverage saves (seen in 2 of 41 runs, and in none of 420 that were not measured).
    """
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def data() -> Path:
    """Real trajectories and tasks, where they are at hand."""
    folder = Path(os.environ.get("TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there; set TEST_DATA")
    return folder
