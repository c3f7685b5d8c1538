r"""ATIF, the Agent Trajectory Interchange Format (Harbor, Terminal-Bench; v1.0 to v1.7): one JSON document a run.

::

    {"schema_version": "ATIF-v1.7", "session_id": "…", "agent": {"name": "…", "model_name"?: "…"},
     "steps": [
        {"step_id": 1, "source": "user" | "agent" | "system", "message": "…" | [{"type": "text", "text": "…"}],
         "reasoning_content"?: "…", "model_name"?: "…",
         "tool_calls"?: [{"tool_call_id": "…", "function_name": "bash", "arguments": {…}}],
         "observation"?: {"results": [{"source_call_id"?: "…", "content": "…" | […]}]}}],
     "subagent_trajectories"?: [{…}]}

A result without a call id belongs to the step's first call that has none. A sub-agent's run is a trajectory of its own.
The format has no verdict in it: the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from memp_mcp.transcripts.found import Documents, Located, Skipped, Word, reason
from memp_mcp.transcripts.session import About, Call, Event, Result, Said, prompt, text_of, trajectories


class _Call(BaseModel):
    tool_call_id: Word = ""
    function_name: str
    arguments: object = None


class _Result(BaseModel):
    source_call_id: Word = ""
    content: object = None


class _Observation(BaseModel):
    results: list[_Result] = []


class _Step(BaseModel):
    source: str
    message: object = None
    reasoning_content: Word = ""
    model_name: Word = ""
    tool_calls: list[_Call] | None = None
    observation: _Observation | None = None


class _Agent(BaseModel):
    name: Word = ""
    model_name: Word = ""


class _Run(BaseModel):
    agent: _Agent = _Agent()
    steps: list[object]
    subagent_trajectories: list[object] | None = None


def recognises(document: object) -> bool:
    """Whether *document* names a version of this format."""
    return isinstance(document, dict) and str(document.get("schema_version")).startswith("ATIF-")


def read(documents: Documents, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of each run."""
    for number, document in documents:
        if isinstance(document, Skipped):
            yield document
        else:
            yield from _run(document, path, number)


def _run(document: object, path: Path, number: int) -> Iterator[Located | Skipped]:
    try:
        run = _Run.model_validate(document)
    except ValidationError as error:
        yield Skipped(path, number, reason(error))
        return
    yield from trajectories(_events(run, path, number), client=run.agent.name, path=path)
    for inner in run.subagent_trajectories or []:
        yield from _run(inner, path, number)


def _events(run: _Run, path: Path, number: int) -> Iterator[Event | Skipped]:
    yield About(model=run.agent.model_name)
    for position, given in enumerate(run.steps, 1):
        try:
            step = _Step.model_validate(given)
        except ValidationError as error:
            yield Skipped(path, number, f"Step {position}: {reason(error)}")
            continue
        yield from _step(step, position)


def _step(step: _Step, position: int) -> Iterator[Event]:
    if step.source == "user":
        yield from prompt(text_of(step.message))
    elif step.source == "agent":
        yield About(model=step.model_name)
        yield Said(step.reasoning_content or text_of(step.message))
        calls = [
            Call(call.tool_call_id or f"{position}.{i}", call.function_name, call.arguments)
            for i, call in enumerate(step.tool_calls or [])
        ]
        yield from calls
        unnamed = (call.call_id for call in calls)
        for result in step.observation.results if step.observation else []:
            yield Result(result.source_call_id or next(unnamed, ""), text_of(result.content))
