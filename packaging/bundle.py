"""Makes the MCPB bundle for Claude Desktop: ``python packaging/bundle.py [FILE]``; by default dist/memp-mcp.mcpb.

The bundle holds this program and its pyproject.toml, no wheels: uv installs what that names when the server
is first started (server type uv; github.com/modelcontextprotocol/mcpb, MANIFEST.md). The same sources give the same
bytes.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BEGINNING = (1980, 1, 1, 0, 0, 0)
"""The earliest moment that a zip archive can tell."""


def contents() -> dict[str, Path]:
    """The files of the bundle, by their names in it."""
    package = [f for f in (ROOT / "memp_mcp").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    files = [*package, ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE"]
    named = {file.relative_to(ROOT).as_posix(): file for file in sorted(files)}
    return {"manifest.json": ROOT / "packaging" / "mcpb" / "manifest.json", **named}


def bundle(target: Path) -> Path:
    """Write the bundle to *target* and return it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for entry, data in _entries():
            archive.writestr(entry, data)
    return target


def _entries() -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    for name, file in contents().items():
        entry = zipfile.ZipInfo(name, _BEGINNING)
        entry.external_attr = 0o644 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        yield entry, file.read_bytes()


if __name__ == "__main__":
    print(bundle(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist" / "memp-mcp.mcpb"))
