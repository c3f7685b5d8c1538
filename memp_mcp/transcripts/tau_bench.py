r"""Results of τ-bench and τ²-bench, with the reward that the benchmark itself gives: judged by the environment.

τ-bench, a JSON list of runs::

    [{"task_id": 3, "trial": 0, "reward": 1.0, "info": {"task": {"instruction": "…", …}, …},
      "traj": [OpenAI messages]}]

τ²-bench, one JSON document::

    {"simulations": [{"task_id": "…", "trial": 0, "reward_info": {"reward": 1.0, …} | null, "termination_reason": "…",
      "messages": [{"role": "assistant" | "user" | "tool", "content": "…", "id"?: "call id of a tool's message",
                    "tool_calls"?: [{"id": "…", "name": "…", "arguments": {…}}]}]}]}

The user is simulated and asks bit by bit, so a run is one task: its first request. What the user's own tools did (in
τ²-bench's telecom domain) is left out: the agent never saw it. Without a reward the outcome is unknown.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from memp_mcp.models import Trajectory
from memp_mcp.transcripts import messages


class _Run(BaseModel):
    model_config = ConfigDict(extra="ignore")

    reward: float | None = None
    traj: list[dict[str, object]]


class _RewardInfo(BaseModel):
    reward: float | None = None


class _Simulation(BaseModel):
    reward_info: _RewardInfo | None = None
    messages: list[dict[str, object]]


def recognises(document: object) -> bool:
    """Whether *document* is a list of runs, a run, or a document of simulations."""
    run = _first(document)
    if not isinstance(run, dict):
        return False
    return {"task_id", "reward", "traj"} <= run.keys() or {"task_id", "messages", "termination_reason"} <= run.keys()


def _first(document: object) -> object:
    runs = document.get("simulations", document) if isinstance(document, dict) else document
    return runs[0] if isinstance(runs, list) and runs else runs


def parts(document: object) -> list[object]:
    """The single runs."""
    runs = document.get("simulations", document) if isinstance(document, dict) else document
    return runs if isinstance(runs, list) else [runs]


def parse(document: object, source: str) -> Trajectory:
    """Read one run.

    Raises:
        BadInput: nothing is done in it.
        pydantic.ValidationError: a field is missing or of the wrong type.
    """
    if isinstance(document, dict) and "traj" in document:
        run = _Run.model_validate(document)
        reward, told = run.reward, run.traj
    else:
        simulation = _Simulation.model_validate(document)
        reward = simulation.reward_info.reward if simulation.reward_info else None
        told = [_as_openai(m) for m in simulation.messages if not _is_the_users(m)]
    return messages.parse({"messages": told, "reward": reward, "client": "tau-bench"}, source)


def _is_the_users(message: dict[str, object]) -> bool:
    calls = message.get("tool_calls")
    return message.get("requestor") == "user" or (message.get("role") == "user" and bool(calls))


def _as_openai(message: dict[str, object]) -> dict[str, object]:
    calls = message.get("tool_calls")
    flat = [c for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []
    named = {"tool_calls": [{"id": c.get("id"), "function": c} for c in flat]} if flat else {}
    answers = {"tool_call_id": message.get("id")} if message.get("role") == "tool" else {}
    return {"role": message.get("role"), "content": message.get("content"), **named, **answers}
