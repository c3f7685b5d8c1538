"""Sessions that are written as a tree: each line names the one it follows, and a rewind leaves a dead branch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from memp_mcp.transcripts.session import Call, Event, Result


@dataclass(slots=True)
class Node:
    """A line: its id, the line it follows, and what it tells.

    Lines with the same *message* belong together, whatever they follow; *resumes* marks a line that begins anew though
    what stood before it goes on, as after a compaction.
    """

    id: str
    parent: str | None
    message: str = ""
    resumes: bool = False
    events: list[Event] = field(default_factory=list)


def living(nodes: Sequence[Node]) -> Iterator[Event]:
    """The events of the branch that the last line is on, in the order in which they were written.

    Parallel calls fork the tree: the result of a call on this branch belongs to it wherever it hangs.
    """
    path = _path(nodes)
    messages = {n.message for n in nodes if n.id in path} - {""}
    alive = [n.id in path or n.message in messages for n in nodes]
    calls = {e.call_id for n, live in zip(nodes, alive, strict=True) if live for e in n.events if isinstance(e, Call)}
    for node, live in zip(nodes, alive, strict=True):
        yield from node.events if live else _results(node.events, calls)


def _path(nodes: Sequence[Node]) -> set[str]:
    """The ids from the last line up to the root.

    Above a line that resumes, or whose parent is not in the file, stands the line written before it.
    """
    position = {n.id: i for i, n in enumerate(nodes)}
    path: set[str] = set()
    at = len(nodes) - 1
    while at >= 0 and nodes[at].id not in path:
        node = nodes[at]
        path.add(node.id)
        known = position.get(node.parent or "")
        lost = known is None and (node.parent is not None or node.resumes)
        at = at - 1 if lost else -1 if known is None else known
    return path


def _results(events: Iterable[Event], calls: set[str]) -> Iterator[Event]:
    return (e for e in events if isinstance(e, Result) and e.call_id in calls)
