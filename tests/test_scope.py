"""Project scope: what was recorded in one project reaches another only when it was shared or has succeeded there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from builders import won
from conftest import OpenMemory
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.types import ResourceTemplateReference

from memp_mcp import skill_folders, skills
from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import BadInput, NotFound
from memp_mcp.memory import Memory
from memp_mcp.models import Change, Procedure
from memp_mcp.reflect import Report
from memp_mcp.server import build_server
from memp_mcp.settings import Settings

PROJECTS = ("shop", "blog", "farm")
TASKS = ("publish the site", "rotate the access key", "water the plants")
ACTS = ("record", "fail", "recall", "share", "approve", "succeed elsewhere")
OPERATIONS = st.tuples(st.sampled_from(ACTS), st.sampled_from(PROJECTS), st.sampled_from(TASKS))
NUMBER = count()


class World:
    """Three agents, each in a project of its own, on one memory; and what each of them may see."""

    def __init__(self, open_memory: OpenMemory, name: str) -> None:
        self.agents: dict[str, Memory] = {p: open_memory(name, project=p) for p in PROJECTS}
        self.owner: dict[str, str] = {}
        self.shared: set[str] = set()
        self.heard_of: set[str] = set()  # projects that what is shared may name
        self.runs = count()

    def act(self, what: str, project: str, task: str) -> None:
        """One agent does something, and only what it may touch changes."""
        match what:
            case "record":
                self._changed(project, self.agents[project].record(self._run(project, task)).changes)
            case "fail":
                report = Report(task=task, error=f"error: {project} is closed", correction=f"open {project} first")
                self._changed(project, self.agents[project].reflect(report).changes)
            case "recall":
                self._see(project, self._recalled(project, task))
            case "share" | "approve":
                self._by_hand(what, project)
            case _:
                self._succeed_with_anothers(project, task)

    def _run(self, project: str, task: str, **more: Any) -> Any:
        number = next(self.runs)
        return won(task, (f"open {project}", f"{project} is open"), (f"run {project} {number}", "done"),
                   project=project, client=project, **more)  # fmt: skip

    def _by_hand(self, what: str, project: str) -> None:
        own = [p for p in self._all() if p.project == project]
        if own and what == "share":
            self.shared.add(self.agents[project].share(own[0].id).procedure.id)
            self.heard_of.add(project)
        elif own and own[0].status == "provisional":
            self.agents[project].approve(own[0].id)

    def _succeed_with_anothers(self, project: str, task: str) -> None:
        """Its id was told to the agent by somebody."""
        others = [p for p in self._all() if p.project not in {project, ""} and p.status != "retired"]
        if others:
            used = others[0].id
            changes = self.agents[project].record(self._run(project, task, used=(used,))).changes
            self.shared.add(used)
            self.heard_of |= {project, others[0].project}
            self._changed(project, changes)

    def _changed(self, project: str, changes: Sequence[Change]) -> None:
        for procedure in (c.procedure for c in changes):
            assert self.owner.setdefault(procedure.id, project) == project or procedure.id in self.shared
        self._see(project, [c.procedure for c in changes])

    def _all(self) -> list[Procedure]:
        return sorted(self.agents["shop"].list_procedures(), key=lambda p: p.id)

    def _recalled(self, project: str, task: str, error: str = "") -> list[Procedure]:
        policies = ("hybrid",) if error else ("hybrid", "avefact", "random")
        recalls = (self.agents[project].recall(task, error=error, limit=20, policy=p) for p in policies)  # type: ignore[arg-type]  # given as text
        return [m.procedure for r in recalls for m in r.matches]

    def _may_see(self, project: str) -> set[str]:
        return {i for i, owner in self.owner.items() if owner == project} | self.shared

    def _see(self, project: str, procedures: Sequence[Procedure]) -> None:
        """What an agent sees is its own or shared, and says nothing of a project that has shared nothing."""
        assert {p.id for p in procedures} <= self._may_see(project)
        told = {project} | self.heard_of
        text = " ".join(p.model_dump_json() for p in procedures)
        assert not [other for other in PROJECTS if other not in told and other in text]

    def look_around(self) -> None:
        """Each agent looks for everything by every means that it has."""
        for project, memory in self.agents.items():
            self._see(project, [p for task in TASKS for p in self._recalled(project, task)])
            errors = [f"error: {other} is closed" for other in PROJECTS]
            self._see(project, [p for error in errors for p in self._recalled(project, "go on", error)])
            self._see(project, skill_folders.page(memory).procedures)
            for hidden in (p for p in self._all() if p.id not in self._may_see(project)):
                with pytest.raises(NotFound):
                    skill_folders.text_of(memory, skills.name_of(hidden))
            named = {a.id for a in memory.stats(projects={project, ""}).ledger.procedures}
            completed = set(memory.ids_starting("p_", kind="procedure"))
            assert named | completed <= self._may_see(project)
            runs = [memory.trajectory(i) for i in memory.ids_starting("t_", kind="trajectory")]
            assert {r.project for r in runs} <= {project}


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes: each try is a memory on disk
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(OPERATIONS, min_size=3, max_size=10))
def test_nothing_crosses_from_one_project_to_another_unless_it_is_shared_or_has_succeeded_there(
    open_memory: OpenMemory, operations: list[tuple[str, str, str]]
) -> None:
    world = World(open_memory, f"world-{next(NUMBER)}")

    for operation in operations:
        world.act(*operation)

    world.look_around()


KEY = "rotate the access key"


@pytest.mark.parametrize("act", ["share", "succeed elsewhere"])
def test_what_is_shared_or_has_succeeded_elsewhere_is_recalled_in_all_projects(
    open_memory: OpenMemory, act: str
) -> None:
    """So that the test above does not hold for want of anything to see."""
    world = World(open_memory, "world")
    world.act("record", "shop", KEY)
    [first] = world.agents["shop"].recall(KEY).matches
    assert [world.agents[p].recall(KEY).matches for p in ("blog", "farm")] == [(), ()]

    world.act(act, "blog" if act == "succeed elsewhere" else "shop", KEY)

    found = {m.procedure.id for m in world.agents["farm"].recall(KEY).matches}
    assert found == {first.procedure.id}
    world.look_around()


def test_a_success_in_a_second_project_shares_and_confirms_the_procedure_that_it_names(memory: Memory) -> None:
    memory.record(won(KEY, "key rotate", project="shop"))
    [made] = memory.list_procedures()

    [change, _] = memory.record(
        won("rotate the key of the blog", "key rotate", project="blog", used=(made.id,))
    ).changes

    assert (change.kind, change.procedure.project, change.procedure.status) == ("promote", "", "active")
    assert "in a second project, so that it is shared by all" in change.reason
    assert "- project: shop" in change.diff


@pytest.mark.parametrize("how", ["claimed", "failed", "same project", "no project", "not named"])
def test_nothing_less_than_that_shares_it(memory: Memory, how: str) -> None:
    memory.record(won(KEY, "key rotate", project="shop"))
    [made] = memory.list_procedures()
    project = {"same project": "shop", "no project": ""}.get(how, "blog")
    used = () if how == "not named" else (made.id,)
    run = won(KEY, "key rotate now", project=project, used=used, client="another")
    if how == "claimed":
        run = run.model_copy(update={"reward": None})
    elif how == "failed":
        run = run.model_copy(update={"reward": None, "outcome": "failure"})

    memory.record(run)

    assert memory.get(made.id).procedure.project == "shop"
    assert made.id not in {m.procedure.id for m in memory.recall(KEY, project="farm").matches}


def test_a_failure_in_one_project_corrects_nothing_of_another(memory: Memory) -> None:
    memory.record(won(KEY, "key rotate", project="shop"))
    [made] = memory.list_procedures()

    with pytest.raises(BadInput, match="belongs to another project"):
        memory.reflect(Report(task=KEY, error="E1", correction="do x", used=(made.id,), project="blog"))

    assert memory.get(made.id).procedure == made


# -- through the server


STEPS = [{"action": "key rotate", "observation": "rotated"}]
PROCEDURES = ResourceTemplateReference(type="ref/resource", uri="memp://procedures/{id}")


def server_of(home: Path, project: str, embedder: BackgroundEmbedder) -> Client:
    """A server as a client starts it in a project."""
    memory = Memory.open(Settings.from_env({"MEMP_HOME": str(home), "MEMP_PROJECT": project}), embedder=embedder)
    return Client(build_server(lambda: memory))


@pytest.mark.anyio
async def test_a_server_of_one_project_shows_nothing_of_another(tmp_path: Path, embedder: BackgroundEmbedder) -> None:
    recorded: dict[str, Any] = {"task": KEY, "steps": STEPS, "outcome": "success", "reward": 1}
    async with server_of(tmp_path, "shop", embedder) as shop, server_of(tmp_path, "blog", embedder) as blog:
        made = (await shop.call_tool("record_trajectory", recorded)).structured_content
        own = (await shop.call_tool("recall_procedure", {"task": KEY})).structured_content
        other = (await blog.call_tool("recall_procedure", {"task": KEY})).structured_content
        completed = await blog.complete(ref=PROCEDURES, argument={"name": "id", "value": "p_"})
        stats = (await blog.read_resource("memp://stats")).contents[0].text  # type: ignore[union-attr]  # JSON text

    procedure_id = made["changes"][0]["id"]
    assert [p["id"] for p in own["procedures"]] == [procedure_id]
    assert "project shop" in own["procedures"][0]["origin"]
    assert "Nothing relevant" in other["note"]
    assert completed.completion.values == []
    assert procedure_id not in stats
    assert KEY not in stats
