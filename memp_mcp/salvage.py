"""What can be brought back of damaged tables. Nothing is destroyed: what is changed is set aside first.

A table is a list of fragments; each commit writes another list (a manifest) beside those that are still kept. So an
unreadable manifest costs what its commit wrote, and an unreadable fragment its rows, unless an earlier version, from
before a compaction, has them in another one. All of it expects the caller to hold the memory's write lock.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from memp_mcp.errors import StoreDamaged
from memp_mcp.rows import SCHEMAS, Row, TableName, one_of
from memp_mcp.tables import Tables

ASIDE = "damaged"
"""The folder, in that of the memory, for what was replaced."""


class Salvage:
    """Mends the tables under a directory, one kind of damage after the other; each method tells what it did."""

    def __init__(self, directory: Path, tables: Tables) -> None:
        self._directory = directory
        self._tables = tables
        self._aside = _place(directory)
        self.lost: Counter[TableName] = Counter()
        """Rows that could not be brought back, as far as they could be counted."""

    def everything(self) -> Iterator[str]:
        """Mend all that can be mended in the tables alone."""
        for name in SCHEMAS:
            if (self._directory / f"{name}.lance").exists():
                yield from self._opened(name)
            else:
                yield self._made_anew(name)
        for name in SCHEMAS:
            if self._can_be_opened(name):
                yield from self._read(name)
            if not self._tables.unreadable(name):
                yield from self._indexed(name)
                yield from self._single(name)

    def _can_be_opened(self, name: TableName) -> bool:
        try:
            self._tables.count(name)
        except StoreDamaged:
            return False
        return True

    def _made_anew(self, name: TableName) -> str:
        """Make a table whose folder is gone; that of the procedures is made from their history."""
        if name == "procedures":
            return "procedures: the table was not there; it has to be made anew."
        self._tables.make(name)
        self.lost[name] += 1
        return f"{name}: the table was not there; it was made anew, and what was in it alone is lost."

    def _opened(self, name: TableName) -> Iterator[str]:
        """Go back to the latest version that can be opened."""
        if self._can_be_opened(name):
            return
        self._set_aside(name)
        gone: list[Path] = []
        for manifest in self._tables.manifests(name):
            gone.append(manifest.rename(manifest.with_suffix(".unreadable")))
            self._tables.reopen(name)
            if self._can_be_opened(name):
                break
        else:
            for unreadable in gone:  # as it was: there may be more in it for somebody who knows better
                unreadable.rename(unreadable.with_suffix(".manifest"))
            return
        for unreadable in gone:
            unreadable.unlink()
        self.lost[name] += 1
        yield (
            f"{name}: the {len(gone)} latest of its versions could not be opened. It is now as it was before them, "
            f"with {self._tables.count(name)} rows; {self._where()}."
        )

    def _read(self, name: TableName) -> Iterator[str]:
        """Keep the rows that can be read, and put back those of the others that an earlier version has."""
        if not (reason := self._tables.unreadable(name)):
            return
        self._set_aside(name)
        if name == "procedures":
            yield f"procedures: not all of it could be read ({reason}); it has to be made anew; {self._where()}."
            return
        before = self._tables.count(name)
        earlier = self._tables.kept_versions(name)[1:]
        for number, rows, sound in list(self._tables.salvaged(name)):
            if not sound:
                self._tables.add(name, self._plain(name, rows))  # first: who dies here has them twice, and not lost
                self._tables.drop_fragment(name, number)
        for version in earlier:
            self._put_back(name, version)
        lost = max(0, before - self._tables.count(name))
        self.lost[name] += lost
        yield f"{name}: not all of it could be read ({reason}); {lost} of {before} rows are lost; {self._where()}."

    def _put_back(self, name: TableName, version: int) -> None:
        key = SCHEMAS[name].names[0]
        here = {row[key] for row in self._tables.rows(name, [key])}
        try:
            found = [row for _, rows, _ in self._tables.salvaged(name, version) for row in rows]
        except StoreDamaged:  # its files have been cleaned up, or are the unreadable ones
            return
        self._tables.add(name, self._plain(name, [row for row in found if row[key] not in here]))

    def _indexed(self, name: TableName) -> Iterator[str]:
        if broken := self._tables.broken_indexes(name):
            self._tables.index(name, only=broken)
            yield f"{name}: the indexes of {', '.join(broken)} were built anew; nothing was lost."

    def _single(self, name: TableName) -> Iterator[str]:
        key = SCHEMAS[name].names[0]
        times = Counter(row[key] for row in self._tables.rows(name, [key]))
        twice = [i for i, n in times.items() if n > 1]
        if name == "procedures" or not twice:
            return
        self._set_aside(name)
        rows = self._tables.rows(name, SCHEMAS[name].names, where=one_of(key, twice))
        self._tables.delete(name, one_of(key, twice))
        self._tables.add(name, list({row[key]: row for row in rows}.values()))
        yield f"{name}: {len(twice)} ids were there more than once, now once; {self._where()}."

    def _plain(self, name: TableName, rows: list[Row]) -> list[Row]:
        return [{column: row[column] for column in SCHEMAS[name].names} for row in rows]

    def _set_aside(self, name: TableName) -> None:
        """Keep the table as it is. Its files are never written again, so that a second name for each is enough."""
        folder = f"{name}.lance"
        if not (self._aside / folder).exists():
            shutil.copytree(self._directory / folder, self._aside / folder, copy_function=_linked)

    def _where(self) -> str:
        return f"what was there is kept in {self._aside}"


def set_aside(file: Path) -> str:
    """Move a file that is about to be replaced, if it is there; says where it is, as the end of a sentence."""
    if not file.exists():
        return ""
    place = _place(file.parent)
    place.mkdir(parents=True)
    return f"; what was there is kept in {file.rename(place / file.name)}"


def _place(directory: Path) -> Path:
    return directory / ASIDE / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%f")


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not on every file system
        shutil.copy2(source, target)
