r"""ALFWorld runs as two published collections write them. Success is the game's own word: judged by the environment.

AgentInstruct (GPT-4, successes only), one JSON document or one trajectory a line::

    {"metadata": {…}, "trajectories": [
        {"task_instance_id": "alfworld_0", "task_description": "put two book in bed.",
         "state_action_pairs": [{"step_id": 1, "state": "…", "action": "…"}, …]}]}

A state is what the agent saw *before* its action, so the observation of an action is the state of the next pair; that
of the last action was never written down.

KnowAgent (Llama-2-13B, ReAct text), JSONL::

    {"name": "TYPE-Object-…/trial_…", "result": true | false | 0, or the same as a string,
     "traj": "ROOM\nYour task is to: TASK.\n> Think: …\n> ActionPath: …\n> ACTION\nOBSERVATION\n…"}

0 is a run that broke off: its outcome is unknown. ActionPath only repeats the actions so far and is left out, as is
the description of the room in both collections: it belongs to no step.
"""

from __future__ import annotations

import re
from itertools import zip_longest

from pydantic import BaseModel

from memp_mcp.errors import BadInput
from memp_mcp.models import Outcome, Reward, Step, Text, Trajectory

_RESULTS: dict[str, Outcome] = {"True": "success", "False": "failure", "0": "unknown"}
_TASK = re.compile(r"^Your task is to:(.+)$", re.MULTILINE)
_ASIDE = re.compile(r"(think|actionpath):\s*(.*)", re.IGNORECASE)


class _Pair(BaseModel):
    state: Text
    action: Text


class _AgentInstruct(BaseModel):
    task_description: Text
    state_action_pairs: list[_Pair]


class _KnowAgent(BaseModel):
    result: object
    traj: Text


def recognises(document: object) -> bool:
    """Whether *document* is a collection or a single run of either kind."""
    if not isinstance(document, dict):
        return False
    runs = document.get("trajectories")
    first = runs[0] if isinstance(runs, list) and runs else document
    return isinstance(first, dict) and ("state_action_pairs" in first or {"result", "traj"} <= first.keys())


def parts(document: dict[str, object]) -> list[object]:
    """The single runs."""
    runs = document.get("trajectories")
    return runs if isinstance(runs, list) else [document]


def parse(document: object, source: str) -> Trajectory:
    """Read one run.

    Raises:
        BadInput: a KnowAgent run without a task or with an unknown result.
        pydantic.ValidationError: a field is missing or of the wrong type.
    """
    if isinstance(document, dict) and "traj" in document:
        return _knowagent(_KnowAgent.model_validate(document), source)
    return _agentinstruct(_AgentInstruct.model_validate(document), source)


def _agentinstruct(run: _AgentInstruct, source: str) -> Trajectory:
    pairs = run.state_action_pairs
    steps = tuple(
        Step(action=pair.action, observation=after.state if after else "")
        for pair, after in zip_longest(pairs, pairs[1:])
        if pair.action.strip()
    )
    return _trajectory(run.task_description, steps, "success", model="gpt-4", source=source)


def _knowagent(run: _KnowAgent, source: str) -> Trajectory:
    task = _TASK.search(run.traj)
    if task is None:
        raise BadInput("traj has no line 'Your task is to: …'.")
    outcome = _RESULTS.get(str(run.result))
    if outcome is None:
        raise BadInput(f"result is {run.result!r}; it must be true, false or 0.")
    steps = _react_steps(run.traj[task.end() :])
    return _trajectory(task[1], steps, outcome, model="llama-2-13b", source=source)


def _trajectory(task: str, steps: tuple[Step, ...], outcome: Outcome, *, model: str, source: str) -> Trajectory:
    score = {"success": 1.0, "failure": 0.0}.get(outcome)
    reward = None if score is None else Reward(score=score, judged_by="environment", verified=True)
    if not steps:
        raise BadInput("There is no action in it.")
    return Trajectory(
        task=task.strip().rstrip(" ."), steps=steps, outcome=outcome, reward=reward, model=model, source=source
    )


def _react_steps(text: str) -> tuple[Step, ...]:
    """Split ReAct text: a block is a line that starts with '>' and what follows it up to the next such line."""
    steps: list[Step] = []
    thoughts: list[str] = []
    for block in re.split(r"^>", text, flags=re.MULTILINE)[1:]:
        first, _, rest = block.strip().partition("\n")
        aside = _ASIDE.match(first)
        if aside and aside[1].lower() == "think":
            thoughts.append(f"{aside[2]}\n{rest}".strip())
        elif not aside and first:
            steps.append(Step(action=first, observation=rest, thought="\n".join(thoughts)))
            thoughts.clear()
    return tuple(steps)
