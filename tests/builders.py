"""Short ways to write down trajectories and procedures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memp_mcp.models import Outcome, Procedure, Reward, ScriptStep, Step, Trajectory


def steps(*pairs: str | tuple[str, str]) -> tuple[Step, ...]:
    """Steps from actions, or from pairs of action and observation."""
    return tuple(Step(action=p) if isinstance(p, str) else Step(action=p[0], observation=p[1]) for p in pairs)


def judged(score: float) -> Reward:
    """A reward that counts."""
    return Reward(score=score, judged_by="environment", verified=True)


def trajectory(
    task: str, *pairs: str | tuple[str, str], outcome: Outcome = "success", reward: float | None = None, **more: Any
) -> Trajectory:
    """A trajectory; a reward makes its outcome verified."""
    given = None if reward is None else judged(reward)
    return Trajectory(task=task, steps=steps(*pairs), outcome=outcome, reward=given, **more)


def won(task: str, *pairs: str | tuple[str, str], **more: Any) -> Trajectory:
    """A verified success."""
    return trajectory(task, *pairs, outcome="success", reward=1.0, **more)


def lost(task: str, *pairs: str | tuple[str, str], **more: Any) -> Trajectory:
    """A verified failure."""
    return trajectory(task, *pairs, outcome="failure", reward=0.0, **more)


def procedure(
    title: str = "Publish the app", script: Sequence[str] = ("build it", "publish it"), **more: Any
) -> Procedure:
    """An active procedure with a script."""
    named = tuple(ScriptStep(name=f"s{i}", text=text) for i, text in enumerate(script, 1))
    return Procedure(**{"title": title, "when_to_use": title, "tasks": (title,), "script": named, **more})
