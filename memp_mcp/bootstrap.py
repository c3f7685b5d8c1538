"""A cold start: many trajectories, scored by the metric; the best of each task are built from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from memp_mcp import judge, keys, redact
from memp_mcp.archive import CHUNK, read
from memp_mcp.errors import BadInput, LLMFailed
from memp_mcp.memory import Memory
from memp_mcp.models import Trajectory, Value
from memp_mcp.rebuild import Advance
from memp_mcp.transcripts import Exported, Skipped, Unreadable
from memp_mcp.transcripts.places import below


class Kept(Value):
    """A trajectory that the bootstrap looked at, and whether it was kept; without a task a place that gave none."""

    task: str
    trajectory_id: str
    score: float | None
    judged_by: str
    steps: int
    kept: bool
    reason: str


class _Judged(NamedTuple):
    trajectory: Trajectory
    note: str

    @property
    def score(self) -> float:
        return -1.0 if self.trajectory.reward is None else self.trajectory.reward.score


def bootstrap(
    memory: Memory,
    paths: Iterable[Path],
    *,
    keep: int = 1,
    source_format: str | None = None,
    advance: Advance | None = None,
) -> list[Kept]:
    """Overcome a cold start: score several trajectories a task with the metric, keep the best, build from those.

    The metric is the judge: a reward that came along, then rules, then the LLM where one is configured. Equal scores
    are settled by the number of steps. What nobody can judge, and what failed, is not built from.

    Raises:
        BadInput: a file cannot be read, or is an exported memory. Nothing was stored.

    """
    judged: dict[str, list[_Judged]] = {}
    report: list[Kept] = []
    for path, _, item in read(below(paths), source_format=source_format):
        match item:
            case Unreadable():
                raise item
            case Exported():
                raise BadInput(f"{path} is an exported memory. Take it over by `memp-mcp import`.")
            case Skipped():
                report.append(_not_kept(str(item)))
            case Trajectory():
                judged.setdefault(keys.same_task_form(item.task), []).append(_judge(memory, item))
                if advance:
                    advance(1)
    return report + _keep_best(memory, judged.values(), keep)


def _not_kept(reason: str) -> Kept:
    return Kept(task="", trajectory_id="", score=None, judged_by="", steps=0, kept=False, reason=reason)


def _keep_best(memory: Memory, groups: Iterable[list[_Judged]], keep: int) -> list[Kept]:
    report: list[Kept] = []
    best: list[Trajectory] = []
    for group in groups:
        order = sorted(group, key=lambda j: (-j.score, len(j.trajectory.steps)))
        for rank, candidate in enumerate(order):
            succeeded = candidate.trajectory.succeeded is True and candidate.score >= 0
            report.append(_kept(candidate, rank, succeeded=succeeded, keep=keep))
            best += [candidate.trajectory] if report[-1].kept else []
    for start in range(0, len(best), CHUNK):
        memory.record_all(best[start : start + CHUNK], update_policy="validation")
    return report


def _judge(memory: Memory, trajectory: Trajectory) -> _Judged:
    trajectory = redact.redact_trajectory(trajectory)[0]  # an LLM is not to see what may not be stored
    try:
        reward = judge.judge(trajectory, rules=memory.rules, llm=memory.llm)
    except LLMFailed as error:
        return _Judged(trajectory, str(error))
    return _Judged(trajectory.model_copy(update={"reward": reward}), "")


def _kept(candidate: _Judged, rank: int, *, succeeded: bool, keep: int) -> Kept:
    trajectory, reward = candidate.trajectory, candidate.trajectory.reward
    if reward is None:
        reason = candidate.note or "nobody could judge it"
    elif not succeeded:
        reason = "it did not succeed"
    elif rank >= keep:
        reason = "another trajectory of this task scored higher or took fewer steps"
    else:
        reason = "the best of its task" if keep == 1 else f"among the best {keep} of its task"
    return Kept(
        task=trajectory.task,
        trajectory_id=trajectory.id,
        score=reward.score if reward else None,
        judged_by=reward.judged_by if reward else "",
        steps=len(trajectory.steps),
        kept=succeeded and rank < keep,
        reason=reason,
    )
