"""The MCP surface, through the SDK's own client, in both protocol eras."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from builders import won
from mcp import Client, MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from memp_mcp.errors import BadInput, StoreNewer
from memp_mcp.memory import Memory
from memp_mcp.server import DESCRIPTIONS, INSTRUCTIONS, build_server, serve_http

pytestmark = pytest.mark.anyio

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
    answer: dict[str, Any] = result.structured_content or {}
    return answer


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
        ("record_trajectory", {"task": "x", "steps": [{"action": "a", "tool": "b"}], "outcome": "success"}, "tool"),
        ("record_trajectory", {"task": "x", "steps": STEPS, "outcome": "success", "recall_id": "r_0"}, "recall"),
        ("reflect_failure", {"error": "x"}, "trajectory_id"),
        ("get_procedure", {"id": "p_000000000000"}, "Call recall_procedure"),
        ("get_procedure", {"id": "nonsense"}, "not a procedure id"),
        ("forget_procedure", {"id": "p_000000000000"}, "Call recall_procedure"),
    ],
)  # fmt: skip
async def test_bad_arguments_are_refused_with_the_next_move(
    memory: Memory, era: str, tool: str, arguments: dict[str, Any], told: str
) -> None:
    async with connect(memory, era) as client:
        assert told in await refusal(client, tool, **arguments)


async def test_a_memory_that_cannot_be_opened_is_told_by_each_call_until_it_is_mended(memory: Memory) -> None:
    answers: list[Memory | Exception] = [StoreNewer("written by a later version"), memory]

    def opened() -> Memory:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Client(build_server(opened)) as client:
        assert "later version" in await refusal(client, "recall_procedure", task="x")
        assert await call(client, "recall_procedure", task="x")


async def test_a_fault_of_our_own_leaks_nothing() -> None:
    def broken() -> Memory:
        raise RuntimeError("secret detail")

    async with Client(build_server(broken)) as client:
        assert "secret" not in await refusal(client, "recall_procedure", task="x")


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
    assert all(name in INSTRUCTIONS[:250] for name in ("recall_procedure", "record_trajectory", "reflect_failure"))
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
        assert json.loads(stats.contents[0].text)["procedures"] == {"active": 1}  # type: ignore[union-attr]  # JSON text
        for uri in ("memp://procedures/p_000000000000", "memp://trajectories/nonsense"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)


async def test_prompts_work_with_and_without_arguments(memory: Memory) -> None:
    async with connect(memory) as client:
        for name, argument in (("start_with_memory", "task"), ("reflect_on_failure", "error")):
            plain = await client.get_prompt(name, {})
            filled = await client.get_prompt(name, {argument: "the very thing"})
            assert "the very thing" in filled.messages[0].content.text  # type: ignore[union-attr]  # text
            assert "the very thing" not in plain.messages[0].content.text  # type: ignore[union-attr]  # text


async def test_ids_are_completed(memory: Memory) -> None:
    memory.record(won("publish the shop", "release publish"))
    [procedure] = memory.list_procedures()
    async with connect(memory) as client:
        template = ResourceTemplateReference(type="ref/resource", uri="memp://procedures/{id}")
        found = await client.complete(ref=template, argument={"name": "id", "value": "p_"})
        prompt = PromptReference(type="ref/prompt", name="start_with_memory")
        none = await client.complete(ref=prompt, argument={"name": "task", "value": "x"})

        assert found.completion.values == [procedure.id]
        assert none.completion.values == []


def test_only_loopback_addresses_are_served(memory: Memory) -> None:
    with pytest.raises(BadInput, match="loopback"):
        serve_http(build_server(lambda: memory), host="0.0.0.0", port=1)  # noqa: S104 - must be refused
