"""The links and badges by which a client installs the server: ``python packaging/links.py`` prints the README's lines.

A link carries the configuration that the client would have in a file. Sources, read in November 2026: Cursor's is the
configuration as JSON in base64 (cursor.com/docs/mcp/install-links), VS Code's the same JSON in percent encoding
(code.visualstudio.com/api/extension-guides/ai/mcp). Both stand behind https addresses, since GitHub shows no link of
another scheme.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from urllib.parse import quote

NAME = "memp"
CONFIGURATION = {"command": "uvx", "args": ["memp-mcp"]}
"""What the links put into a client's configuration: uv fetches the program when it is first started."""

Configuration = Mapping[str, object]


def cursor_link(name: str, configuration: Configuration) -> str:
    """The address that opens Cursor and asks whether to add the server."""
    packed = base64.b64encode(_json(configuration).encode()).decode()
    return f"https://cursor.com/en/install-mcp?name={quote(name)}&config={quote(packed, safe='')}"


def vscode_link(name: str, configuration: Configuration, *, insiders: bool = False) -> str:
    """The address that opens VS Code, or its Insiders edition, and asks whether to add the server."""
    config = quote(_json(configuration), safe="")
    quality = "&quality=insiders" if insiders else ""
    return f"https://insiders.vscode.dev/redirect/mcp/install?name={quote(name)}&config={config}{quality}"


def badges() -> list[str]:
    """The README's lines, one a client."""
    vscode = "https://img.shields.io/badge/VS_Code-install-0098FF"
    insiders = "https://img.shields.io/badge/VS_Code_Insiders-install-24bfa5"
    return [
        _badge("Cursor", "https://cursor.com/deeplink/mcp-install-dark.svg", cursor_link(NAME, CONFIGURATION)),
        _badge("VS Code", vscode, vscode_link(NAME, CONFIGURATION)),
        _badge("VS Code Insiders", insiders, vscode_link(NAME, CONFIGURATION, insiders=True)),
    ]


def _badge(client: str, image: str, link: str) -> str:
    return f"[![Install in {client}]({image})]({link})"


def _json(configuration: Configuration) -> str:
    return json.dumps(configuration, separators=(",", ":"))


if __name__ == "__main__":
    print("\n".join(badges()))
