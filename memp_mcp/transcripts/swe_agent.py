r"""SWE-agent's ``.traj`` files, one JSON document a run; mini-swe-agent writes message lists.

::

    {"environment": "…", "info": {"exit_status": "submitted", "submission": "the patch", …},
     "history": [{"role": "user", "content": "…", "is_demo"?: true}, …],
     "trajectory": [{"thought": "…", "action": "…", "observation": "…", "response": "…", "state": …}, …]}

The task is the issue or the description in the first message of the user that is no demonstration. That a patch was
submitted verifies nothing: the outcome is unknown. A file with a history alone (a demonstration) is a message list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from memp_mcp.errors import BadInput
from memp_mcp.models import Step, Trajectory
from memp_mcp.transcripts import messages
from memp_mcp.transcripts.found import Documents, Skipped, Word, reason
from memp_mcp.transcripts.session import TEXT_CHARACTERS, cut, short, task_of, text_of

_ISSUE = re.compile(
    r"\bISSUE:\s*\n(.*?)(?=\n\s*INSTRUCTIONS:|\Z)|<(?:pr_description|issue|problem_statement)>\s*(.*?)\s*</"
    r"|(The CTF challenge is .*?)(?=\n\s*INSTRUCTIONS:|\Z)",
    re.DOTALL,
)


class _Step(BaseModel):
    action: Word = ""
    observation: Word = ""
    thought: Word = ""


class _Run(BaseModel):
    history: list[dict[str, object]]
    trajectory: list[_Step] | None = None


def recognises(document: object) -> bool:
    """Whether *document* is a run, or a demonstration."""
    return isinstance(document, dict) and isinstance(document.get("history"), list) and _has_roles(document["history"])


def _has_roles(history: list[object]) -> bool:
    return bool(history) and all(isinstance(m, dict) and "role" in m and "content" in m for m in history)


def read(documents: Documents, path: Path) -> Iterator[Trajectory | Skipped]:
    """The trajectory of each run."""
    for number, document in documents:
        if isinstance(document, Skipped):
            yield document
            continue
        try:
            yield _trajectory(_Run.model_validate(document), path.name)
        except (BadInput, ValidationError) as error:
            yield Skipped(path, number, reason(error))


def _trajectory(run: _Run, source: str) -> Trajectory:
    history = [m for m in run.history if not m.get("is_demo")]
    asked = next((text_of(m.get("content")) for m in history if m.get("role") == "user"), "")
    task = task_of(_issue(asked))
    if not task:
        raise BadInput("There is no message of a user that could be the task.")
    if run.trajectory is None:
        return messages.parse({"messages": history, "task": task, "client": "swe-agent"}, source)
    steps = tuple(
        Step(
            action=cut(s.action, TEXT_CHARACTERS),
            observation=cut(text_of(s.observation), TEXT_CHARACTERS),
            thought=short(_before_the_command(s.thought)),
        )
        for s in run.trajectory
        if s.action.strip()
    )
    if not steps:
        raise BadInput("There is no action in it.")
    return Trajectory(task=task, steps=steps, client="swe-agent", source=source)


def _issue(text: str) -> str:
    found = _ISSUE.search(text)
    return next(filter(None, found.groups()), "").strip() if found else text.strip()


def _before_the_command(thought: str) -> str:
    return thought.split("```", 1)[0].removeprefix("DISCUSSION").strip()
