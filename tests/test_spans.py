"""OpenTelemetry: the SDK makes a span of each message; whoever installs an exporter sees them."""

from __future__ import annotations

import anyio
from mcp import Client
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from memp_mcp.memory import Memory
from memp_mcp.server import build_server


def test_a_call_of_a_tool_is_a_span_with_its_name_and_how_it_ended(memory: Memory) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    async def work() -> None:
        async with Client(build_server(lambda: memory)) as client:
            await client.call_tool("recall_procedure", {"task": "sweep the floor"})
            await client.call_tool("get_procedure", {"id": "p_0"})

    anyio.run(work)

    found = {s.name: s for s in exporter.get_finished_spans() if s.kind is trace.SpanKind.SERVER}
    recall, lookup = found["tools/call recall_procedure"], found["tools/call get_procedure"]
    assert dict(recall.attributes or {})["gen_ai.tool.name"] == "recall_procedure"
    assert recall.status.is_ok
    assert dict(lookup.attributes or {})["error.type"] == "tool_error"
