"""A small table of texts beside the others, on object storage: what takes the place of a lock rests on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa

from memp_mcp.faults import committed, explained
from memp_mcp.rows import CONTROL, quoted
from memp_mcp.tables import Table

_MADE = "made"
"""The name of the text whose number is the one that the table began with."""


class Control:
    """A small table of texts by name, each replaced only by who knows the last one: compare and swap, by LanceDB.

    LanceDB looks whether there is a table and commits later, so that of two processes which make it, the second may put
    its own in the place of the first's, and of what was written there since. The first one's counts: numbers begin
    with a random one, so that nothing read of one table is swapped in the other, and who sees the second's puts back
    what was there.
    """

    def __init__(self, db: Any, location: str, names: Sequence[str]) -> None:
        self._location = location
        first = secrets.randbits(48)
        rows = [{"id": name, "body": "", "turn": first} for name in (*names, _MADE)]
        self._open: Callable[[], Table] = lambda: db.open_table("control")
        with explained(location):
            try:
                self._table = db.create_table("control", pa.Table.from_pylist(rows, schema=CONTROL))
            except (ValueError, RuntimeError):  # it is there, or was made by another process in this very moment
                self._table = self._open()
            self._made = next(self._past()).get(_MADE)

    def read(self) -> dict[str, tuple[str, int]]:
        """Each text with its number, which every change raises."""
        with explained(self._location):
            told = self._told()
            if told.get(_MADE) != self._made:
                self._put_back(told)
                told = self._told()
        return told

    def _told(self) -> dict[str, tuple[str, int]]:
        self._table.checkout_latest()
        return _texts(self._table)

    def _past(self) -> Iterator[dict[str, tuple[str, int]]]:
        """What each version that is kept has told, the oldest first."""
        table = self._open()
        for version in sorted(int(v["version"]) for v in table.list_versions()):
            table.checkout(version)
            yield _texts(table)

    def _put_back(self, seconds: Mapping[str, tuple[str, int]]) -> None:
        """Write again what was there last, where it was replaced; nobody has changed anything since."""
        *_, last = (told for told in self._past() if told.get(_MADE) == self._made)
        rows = [{"id": name, "body": body, "turn": turn} for name, (body, turn) in last.items()]
        still = f"target.turn = {seconds[_MADE][1]}"
        merge = self._table.merge_insert("id").when_matched_update_all(where=still)
        committed(lambda: merge.execute(pa.Table.from_pylist(rows, schema=CONTROL)))

    def swap(self, name: str, body: str, *, was: tuple[str, int]) -> bool:
        """Replace a text if it still is as `read` told; whether it was."""
        known, turn = was
        where = f"id = {quoted(name)} AND body = {quoted(known)} AND turn = {turn}"
        values = {"body": body, "turn": turn + 1}
        with explained(self._location):
            done = committed(lambda: self._table.update(where=where, values=values)).rows_updated
            # Where an answer is lost, LanceDB's client asks again, and then there is nothing left to replace.
            return bool(done) or self._told().get(name) == (body, turn + 1)

    def compact(self, keep: timedelta) -> None:
        """Drop the versions that nobody needs."""
        with explained(self._location):
            self._table.optimize(cleanup_older_than=keep)


def _texts(table: Table) -> dict[str, tuple[str, int]]:
    rows = table.search().select(["id", "body", "turn"]).to_arrow().to_pylist()
    return {row["id"]: (row["body"], row["turn"]) for row in rows}
