"""The project's own JSONL: what a person writes by hand, and what `memp-mcp export` writes.

One trajectory a line, for files made elsewhere::

    {"task": "…", "steps": [{"action": "…", "observation": "…", "thought"?: "…", "failed"?: true}],
     "outcome"?: "success" | "failure" | "partial" | "unknown",
     "reward"?: 0…1 | {"score": 0…1, "reason"?: "…", "judged_by": "…", "verified": true},
     "feedback"?, "script"?: "one line a step" | ["…"], "project"?, "client"?, "model"?, "key"?}

A number as reward is the environment's own, hence verified. Every other field of models.Trajectory may be given too;
an unknown field is an error, so that a typo does not pass for a default.

One value a line, for a whole memory; `value` is the complete dump, so that nothing is lost on the way::

    {"memp": 1, "kind": "header" | "trajectory" | "procedure" | "event", "value": {…}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import JsonValue

from memp_mcp.errors import BadInput
from memp_mcp.models import Event, Procedure, Reward, Trajectory

VERSION = 1
_KINDS: dict[str, type[Trajectory | Procedure | Event]] = {
    "trajectory": Trajectory,
    "procedure": Procedure,
    "event": Event,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A value of an exported memory: it is taken over as it is, and not learnt from a second time."""

    value: Trajectory | Procedure | Event


def recognises(document: object) -> bool:
    """Whether *document* is a line of either kind."""
    return isinstance(document, dict) and ({"task", "steps"} <= document.keys() or {"memp", "kind"} <= document.keys())


def parts(document: dict[str, object]) -> list[dict[str, object]]:
    """The line itself; nothing for the header of an export, which is for people."""
    return [] if document.get("kind") == "header" else [document]


def parse(document: dict[str, object], source: str) -> Trajectory | Exported:
    """Read one line; *source* is noted on a trajectory that does not name its own.

    Raises:
        BadInput: there are no steps, or it is an export of a later version or of a kind that does not exist.
        pydantic.ValidationError: a field is missing, unknown or out of bounds.
    """
    if "memp" in document:
        return _exported(document)
    if document["steps"] == []:
        raise BadInput("There are no steps in it.")
    return Trajectory.model_validate({"source": source, **document, **stated(document)})


def stated(document: dict[str, object]) -> dict[str, object]:
    """What *document* says about how it went, as fields of a Trajectory; the outcome follows from a lone reward."""
    fields: dict[str, object] = {}
    if isinstance(script := document.get("script"), str):
        fields["script"] = tuple(line for line in script.splitlines() if line.strip())
    if (given := document.get("reward")) is not None:
        reward = _reward(given)
        fields["reward"] = reward
        fields["outcome"] = document.get("outcome", "success" if reward.succeeded else "failure")
    return fields


def to_line(value: Trajectory | Procedure | Event) -> str:
    """One line of an export, without its line end; `parse` gives back an equal value."""
    return f'{{"memp":{VERSION},"kind":"{type(value).__name__.lower()}","value":{value.model_dump_json()}}}'


def header(facts: dict[str, JsonValue]) -> str:
    """First line of an export: what a person wants to know about the file."""
    return json.dumps({"memp": VERSION, "kind": "header", "value": facts}, ensure_ascii=False)


def _exported(document: dict[str, object]) -> Exported:
    if document["memp"] != VERSION:
        raise BadInput(f"memp is {document['memp']!r}, this program reads {VERSION}. Update memp-mcp and try again.")
    kind = _KINDS.get(str(document.get("kind")))
    if kind is None:
        raise BadInput(f"kind is {document.get('kind')!r}; it must be header, {', '.join(_KINDS)}.")
    return Exported(kind.model_validate(document.get("value")))


def _reward(given: object) -> Reward:
    if isinstance(given, int | float):
        return Reward(score=given, judged_by="environment", verified=True)
    return Reward.model_validate(given)
