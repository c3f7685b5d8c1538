"""The MCP surface, through the SDK's own client, in both protocol eras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from builders import trajectory, won
from conftest import OpenMemory
from mcp import Client, MCPError
from mcp.types import INVALID_PARAMS, PromptReference, ResourceTemplateReference

from memp_mcp.errors import StoreNewer
from memp_mcp.memory import Memory
from memp_mcp.server import DESCRIPTIONS, INSTRUCTIONS, build_server
from memp_mcp.serving import compose
from memp_mcp.settings import Settings

pytestmark = pytest.mark.anyio

PROCEDURES = ResourceTemplateReference(type="ref/resource", uri="memp://procedures/{id}")
TRAJECTORIES = ResourceTemplateReference(type="ref/resource", uri="memp://trajectories/{id}")
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])
STEPS = [{"action": "release build", "observation": "built"}, {"action": "release publish", "observation": "published"}]


def connect(memory: Memory, era: str = "legacy") -> Client:
    return Client(build_server(lambda: memory), mode=era)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """A call that succeeds: its structured content, which is what its text says too."""
    result = await client.call_tool(tool, arguments)
    text = result.content[0].text  # type: ignore[union-attr]  # our tools answer with text
    assert not result.is_error, text
    assert json.loads(text) == result.structured_content
    jsonschema.validate(result.structured_content, await promise(client, tool))
    answer: dict[str, Any] = result.structured_content or {}
    return answer


async def promise(client: Client, tool: str) -> dict[str, Any]:
    """The output schema of a tool."""
    [schema] = [t.output_schema for t in (await client.list_tools()).tools if t.name == tool]
    assert schema is not None
    return schema


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """The text of a call that is refused."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    text: str = result.content[0].text  # type: ignore[union-attr]  # our tools answer with text
    assert "Traceback" not in text
    assert "pydantic.dev" not in text
    return text


@ERAS
async def test_an_agent_records_recalls_reflects_and_recalls_the_revision(memory: Memory, era: str) -> None:
    async with connect(memory, era) as client:
        nothing = await call(client, "recall_procedure", task="publish the shop")
        assert "Nothing relevant" in nothing["note"]
        recorded = await call(
            client, "record_trajectory", task="publish the shop", steps=STEPS, outcome="success", reward=1.0
        )
        assert recorded["reward"] == {"score": 1.0, "judged_by": "environment", "verified": True}
        assert recorded["changes"][0]["kind"] == "add"
        found = await call(client, "recall_procedure", task="publish the shop")
        [procedure] = found["procedures"]
        assert procedure["script"] == ["s1: release build", "s2: release publish"]
        reflected = await call(
            client, "reflect_failure", task="publish the shop", recall_id=found["recall_id"], error="not signed",
            diagnosis="it must be signed", correction="+s1: release sign",
        )  # fmt: skip
        assert "+ s3: release sign" in reflected["changes"][0]["diff"]
        again = await call(client, "recall_procedure", task="publish the shop", detail="full")
        assert [line[:2] for line in again["procedures"][0]["script"]] == ["s1", "s3", "s2"]
        assert again["procedures"][0]["revision"] == 2
        assert again["procedures"][0]["exemplar"][0] == "release build -> built"
        whole = await call(client, "get_procedure", id=procedure["id"])
        assert [h["change"] for h in whole["history"]] == ["add", "revise"]
        gone = await call(client, "forget_procedure", id=procedure["id"])
        assert gone["trajectories"] == [recorded["trajectory_id"]]


async def test_without_an_explanation_the_answer_says_how_to_call_again(memory: Memory) -> None:
    async with connect(memory) as client:
        failed = [{"action": "release publish", "observation": "error: not signed\n[exit code 1]"}]
        recorded = await call(
            client, "record_trajectory", task="publish the shop", steps=failed, outcome="failure", reward=0.0
        )
        asked = await call(client, "reflect_failure", trajectory_id=recorded["trajectory_id"], error="not signed")

        again = asked["call_again"]
        assert asked["failed_steps"] == ["1: release publish -> error: not signed"]
        assert again["trajectory_id"] == recorded["trajectory_id"]
        explained = await call(
            client, "reflect_failure", **{**again, "error": "not signed", "correction": "release sign"}
        )
        assert explained["changes"][0]["kind"] == "revise"


@ERAS
@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("recall_procedure", {"task": ""}, "task"),
        ("recall_procedure", {"task": "x", "lmit": 3}, "The arguments are task"),
        ("recall_procedure", {"task": "x", "limit": 0}, "limit"),
        ("record_trajectory", {"task": "x", "steps": [], "outcome": "success"}, "There are no steps"),
        ("record_trajectory", {"task": " ", "steps": STEPS, "outcome": "success"}, "must not be empty"),
        ("record_trajectory", {"task": "x", "steps": STEPS, "outcome": "success", "reward": 1.5}, "reward"),
        ("record_trajectory", {"task": "x", "steps": STEPS, "outcome": "well"}, "outcome"),
        (
            "record_trajectory",
            {"task": "x", "steps": [{"action": "a", "tool": "b"}], "outcome": "success"},
            "steps.0.tool: Extra inputs are not permitted. A step has action, observation, thought, failed.",
        ),
        (
            "record_trajectory",
            {"task": "x", "steps": [{"action": "a"}, {"action": " "}], "outcome": "success"},
            "Nothing was done. steps.1.action: must not be empty.",
        ),
        ("record_trajectory", {"task": "x", "steps": STEPS * 10_001, "outcome": "success"}, "Split it"),
        (
            "record_trajectory",
            {"task": "x", "steps": STEPS, "outcome": "success", "used": ["p_000000000000"]},
            "No procedure",
        ),
        ("record_trajectory", {"task": "x", "steps": STEPS, "outcome": "success", "recall_id": "r_0"}, "recall"),
        ("reflect_failure", {"error": "x"}, "trajectory_id"),
        ("reflect_failure", {"error": "x", "task": "y", "fix": "z"}, "The arguments are error"),
        ("get_procedure", {"id": "p_000000000000"}, "Call recall_procedure"),
        ("get_procedure", {"id": "p_000000000000", "revision": 0}, "revision"),
        ("get_procedure", {"id": "nonsense"}, "not a procedure id"),
        ("forget_procedure", {"id": "p_000000000000"}, "Call recall_procedure"),
        ("forget_procedure", {}, "id: Field required"),
        ("forget_everything", {}, "Unknown tool"),
    ],
)  # fmt: skip
async def test_bad_arguments_are_refused_with_the_next_move(
    memory: Memory, era: str, tool: str, arguments: dict[str, Any], told: str
) -> None:
    async with connect(memory, era) as client:
        assert told in await refusal(client, tool, **arguments)


@ERAS
async def test_what_is_given_is_stored_as_it_was_given_with_who_gave_it(open_memory: OpenMemory, era: str) -> None:
    memory = open_memory(project="shop")
    async with connect(memory, era) as client:
        recorded = await call(
            client, "record_trajectory", task="publish", steps=STEPS, outcome="failure", reward=0.25, key="k1",
            feedback="too slow", script=["build it", " ", "publish it"], model="gpt-9",
        )  # fmt: skip
        again = await call(client, "record_trajectory", task="other words", steps=STEPS, outcome="success", key="k1")
        shared = await call(client, "record_trajectory", task="sweep", steps=STEPS, outcome="unknown", project="")

    stored = memory.trajectory(recorded["trajectory_id"])
    assert (again["trajectory_id"], again["stored"]) == (stored.id, "before")
    assert (stored.project, stored.client, stored.model) == ("shop", "mcp", "gpt-9")
    assert stored.script == ("build it", "publish it")
    assert stored.reward is not None
    assert (stored.reward.score, stored.reward.reason, stored.reward.verified) == (0.25, "too slow", True)
    assert memory.trajectory(shared["trajectory_id"]).project == ""
    assert "outcome unknown: nobody judged it" in shared["notes"]


async def test_a_script_alone_is_enough(memory: Memory) -> None:
    async with connect(memory) as client:
        known = {
            "task": "publish the shop",
            "steps": [],
            "outcome": "success",
            "reward": 1,
            "script": ["build, publish"],
        }
        await call(client, "record_trajectory", **known)
        found = await call(client, "recall_procedure", task="publish the shop")

    assert found["procedures"][0]["script"] == ["s1: build, publish"]


async def test_an_error_finds_what_helped_after_it_and_a_limit_is_kept(memory: Memory) -> None:
    async with connect(memory) as client:
        for task in ("publish the shop", "publish the blog"):
            await call(client, "record_trajectory", task=task, steps=STEPS, outcome="success", reward=1)
        reflected = await call(
            client, "reflect_failure", task="publish the blog", error="E4711 not signed", diagnosis="sign it before"
        )
        [found] = (await call(client, "recall_procedure", task="publish", error="E4711", limit=1))["procedures"]

    assert found["id"] == reflected["changes"][0]["id"]
    assert "sign it before" in found["pitfalls"][0]


async def test_calls_at_once_are_all_answered(memory: Memory) -> None:
    ids: list[str] = []

    async def record(client: Client, number: int) -> None:
        answer = await call(client, "record_trajectory", task=f"count to {number}", steps=STEPS, outcome="success")
        ids.append(answer["trajectory_id"])

    async with connect(memory, "auto") as client, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(record, client, number)

    assert sorted(ids) == sorted(memory.ids_starting("t_", kind="trajectory"))


def refusing_once(memory: Memory, *troubles: Exception) -> Any:
    """Opens the memory after as many troubles."""
    answers: list[Memory | Exception] = [*troubles, memory]

    def opened() -> Memory:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return opened


@ERAS
async def test_a_memory_that_cannot_be_opened_is_told_by_each_call_until_it_is_mended(memory: Memory, era: str) -> None:
    trouble = StoreNewer("written by a later version")
    async with Client(build_server(refusing_once(memory, *[trouble] * 5)), mode=era) as client:
        assert await refusal(client, "recall_procedure", task="x") == "written by a later version"
        for kind in ("procedures/p_000000000000", "trajectories/t_000000000000", "stats"):
            with pytest.raises(MCPError, match="written by a later version"):
                await client.read_resource(f"memp://{kind}")
        with pytest.raises(MCPError, match="written by a later version"):
            await client.complete(ref=PROCEDURES, argument={"name": "id", "value": "p_"})
        assert await call(client, "recall_procedure", task="x")


@ERAS
async def test_misspelt_settings_and_a_newer_store_are_told_until_they_are_mended_without_a_restart(
    tmp_path: Path, era: str
) -> None:
    environ = {"MEMP_HOME": str(tmp_path / "memory"), "MEMP_UPDAET": "vanilla"}
    async with Client(compose(lambda: Settings.from_env(environ)), mode=era) as client:
        for _ in range(2):
            assert "Did you mean MEMP_UPDATE?" in await refusal(client, "recall_procedure", task="x")
        del environ["MEMP_UPDAET"]
        assert await call(client, "recall_procedure", task="x")
    meta = tmp_path / "memory" / "meta.json"
    written = meta.read_text(encoding="utf-8")
    meta.write_text(json.dumps({**json.loads(written), "format": 99}), encoding="utf-8")
    async with Client(compose(lambda: Settings.from_env(environ)), mode=era) as client:
        assert "format 99" in await refusal(client, "recall_procedure", task="x")
        meta.write_text(written, encoding="utf-8")
        assert await call(client, "recall_procedure", task="x")


@ERAS
async def test_a_fault_of_our_own_leaks_nothing(era: str) -> None:
    def broken() -> Memory:
        raise RuntimeError("secret detail")

    async with Client(build_server(broken), mode=era) as client:
        assert "secret" not in await refusal(client, "recall_procedure", task="x")
        with pytest.raises(MCPError) as error:
            await client.read_resource("memp://stats")
        assert "secret" not in str(error.value)


@ERAS
async def test_the_five_tools_are_lean_and_say_what_they_do_to_the_world(memory: Memory, era: str) -> None:
    async with connect(memory, era) as client:
        tools = (await client.list_tools()).tools
        listing = [t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in tools]
        compact = json.dumps(listing, separators=(",", ":"), ensure_ascii=False)

        assert [t.name for t in tools] == list(DESCRIPTIONS)
        assert len(compact) / 4 <= 1500
        for tool in listing:
            assert tool["title"]
            assert tool["outputSchema"]["type"] == "object"
            jsonschema.Draft202012Validator.check_schema(tool["inputSchema"])
            assert tool["inputSchema"]["additionalProperties"] is False
            read, forgets = tool["name"] in {"recall_procedure", "get_procedure"}, tool["name"] == "forget_procedure"
            assert tool["annotations"] == {
                "readOnlyHint": read, "destructiveHint": forgets, "idempotentHint": True, "openWorldHint": False,
            }  # fmt: skip


async def test_instructions_and_descriptions_say_the_essential_first(memory: Memory) -> None:
    async with connect(memory) as client:
        assert client.instructions == INSTRUCTIONS
    assert len(INSTRUCTIONS) <= 2000
    first = INSTRUCTIONS[:250]
    assert "BEFORE a task: recall_procedure(" in first
    assert "AFTER it: record_trajectory(" in first
    assert "failed: reflect_failure." in first
    assert all(". " in d[:160] or "? " in d[:160] or len(d) <= 160 for d in DESCRIPTIONS.values())


@ERAS
async def test_resources_show_procedures_trajectories_and_figures(memory: Memory, era: str) -> None:
    memory.record(won("publish the shop", "release publish"))
    [procedure] = memory.list_procedures()
    async with connect(memory, era) as client:
        shown = await client.read_resource(f"memp://procedures/{procedure.id}")
        told = await client.read_resource(f"memp://trajectories/{procedure.evidence[0]}")
        stats = await client.read_resource("memp://stats")

        assert json.loads(shown.contents[0].text)["procedure"]["id"] == procedure.id  # type: ignore[union-attr]  # JSON text
        assert json.loads(told.contents[0].text)["task"] == "publish the shop"  # type: ignore[union-attr]  # JSON text
        assert json.loads(stats.contents[0].text)["procedures"] == {"provisional": 1}  # type: ignore[union-attr]  # JSON text
        for uri in ("memp://procedures/p_000000000000", "memp://trajectories/nonsense"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)


@ERAS
async def test_what_a_client_can_see_besides_tools_is_listed(memory: Memory, era: str) -> None:
    async with connect(memory, era) as client:
        templates = (await client.list_resource_templates()).resource_templates
        resources = (await client.list_resources()).resources
        prompts = (await client.list_prompts()).prompts

    assert [t.uri_template for t in templates] == [
        "memp://procedures/{id}",
        "memp://trajectories/{id}",
        "skill://{name}/SKILL.md",
    ]
    assert [str(r.uri) for r in resources] == ["memp://stats"]
    assert [p.name for p in prompts] == ["start_with_memory", "reflect_on_failure"]
    assert all(p.title and not any(a.required for a in p.arguments or ()) for p in prompts)


@ERAS
async def test_prompts_work_with_and_without_arguments(memory: Memory, era: str) -> None:
    async with connect(memory, era) as client:
        for name, argument in (("start_with_memory", "task"), ("reflect_on_failure", "error")):
            plain = await client.get_prompt(name, {})
            filled = await client.get_prompt(name, {argument: "the very thing"})
            assert "the very thing" in filled.messages[0].content.text  # type: ignore[union-attr]  # text
            assert "the very thing" not in plain.messages[0].content.text  # type: ignore[union-attr]  # text


@ERAS
async def test_a_prompt_that_there_is_not_is_told_as_the_clients_mistake(memory: Memory, era: str) -> None:
    async with connect(memory, era) as client:
        with pytest.raises(MCPError, match="Unknown prompt: nope") as told:
            await client.get_prompt("nope")

    assert told.value.error.code == INVALID_PARAMS


@ERAS
async def test_ids_are_completed(memory: Memory, era: str) -> None:
    memory.record(won("publish the shop", "release publish"))
    memory.record_all([trajectory(f"count to {n}", "count", outcome="unknown") for n in range(100)])
    [procedure] = memory.list_procedures(status="provisional")
    prompt = PromptReference(type="ref/prompt", name="start_with_memory")
    async with connect(memory, era) as client:
        found = await client.complete(ref=PROCEDURES, argument={"name": "id", "value": procedure.id[:6]})
        many = await client.complete(ref=TRAJECTORIES, argument={"name": "id", "value": "t_"})
        none = await client.complete(ref=prompt, argument={"name": "task", "value": "x"})
        hostile = await client.complete(ref=PROCEDURES, argument={"name": "id", "value": "' OR 1=1 --%_"})

    assert found.completion.values == [procedure.id]
    assert (len(many.completion.values), many.completion.total, many.completion.has_more) == (100, 101, True)
    assert none.completion.values == hostile.completion.values == []
