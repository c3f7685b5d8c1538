"""Makes the MCPB bundle for Claude Desktop: ``python packaging/bundle.py [FILE]``; by default dist/memp-mcp.mcpb.

The bundle holds this program and its pyproject.toml, no wheels: uv installs what that names when the server
is first started (server type uv; github.com/modelcontextprotocol/mcpb, MANIFEST.md). The same sources give the same
bytes. The extras are left out of pyproject.toml, since uv would look up the packages of all of them, used or not.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BEGINNING = (1980, 1, 1, 0, 0, 0)
"""The earliest moment that a zip archive can tell."""


_EXTRAS = re.compile(r"^\[project\.optional-dependencies\]\n.*?(?=^\[)", re.MULTILINE | re.DOTALL)


def contents() -> dict[str, bytes]:
    """The files of the bundle, by their names in it."""
    package = [f for f in (ROOT / "memp_mcp").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    found = {f.relative_to(ROOT).as_posix(): f.read_bytes() for f in sorted(package)}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return {
        "manifest.json": (ROOT / "packaging" / "mcpb" / "manifest.json").read_bytes(),
        "pyproject.toml": _EXTRAS.sub("", project).encode(),
        "README.md": (ROOT / "README.md").read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
        **found,
    }


def bundle(target: Path) -> Path:
    """Write the bundle to *target* and return it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in contents().items():
            entry = zipfile.ZipInfo(name, _BEGINNING)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return target


if __name__ == "__main__":
    print(bundle(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist" / "memp-mcp.mcpb"))
