"""What the readers of all formats take and hand over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ValidationError

from memp_mcp.errors import BadInput
from memp_mcp.models import Trajectory
from memp_mcp.settings import AUTO, project_of
from memp_mcp.transcripts.own import Exported


@dataclass(frozen=True, slots=True)
class Skipped:
    """A place that gave nothing: the file, the line (the first is 1) and why."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Located:
    """A trajectory of a session, and where it stands in it."""

    trajectory: Trajectory
    folder: str
    """In which the agent worked; empty where the transcript does not say."""
    is_open: bool = False
    """It is the last of its session, and goes on when that does."""
    is_recorded: bool = False
    """The agent has recorded it itself."""


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


Word = Annotated[str, BeforeValidator(_word)]
"""A string that may be missing, null or something else in a later version: then it is empty."""

Found = Trajectory | Exported | Located | Skipped
Documents = Iterable[tuple[int, object]]
"""The parsed lines of a file with their numbers; one that could not be parsed is a Skipped."""


def unknown_type(kind: object) -> str:
    """Why a line was passed over of which nobody knows what it tells: a later version of the client may have it."""
    return f"Lines of the type {str(kind)[:40]!r} are not known."


def reason(error: BadInput | ValidationError) -> str:
    """What is wrong with a document, in a sentence."""
    if isinstance(error, BadInput):
        return str(error)
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}".removeprefix(": ") for p in problems[:3])
    return f"{told}; and {len(problems) - 3} more." if len(problems) > 3 else f"{told}."


def in_project(found: Iterable[Found], project: str) -> Iterator[Trajectory | Exported | Skipped]:
    """The same, with a project on every trajectory that names none: *project*, or by its folder where that is auto."""
    for value in found:
        if isinstance(value, Located):
            yield placed(value.trajectory, project_of(value.folder) if project == AUTO else project)
        elif isinstance(value, Trajectory):
            yield placed(value, "" if project == AUTO else project)
        else:
            yield value


def placed(trajectory: Trajectory, project: str) -> Trajectory:
    """A trajectory in a project, unless it names another or *project* is empty."""
    if trajectory.project or not project:
        return trajectory
    derived = {"id", "content_hash"}  # the project is a part of the content
    return Trajectory.model_validate({n: v for n, v in trajectory if n not in derived} | {"project": project})
