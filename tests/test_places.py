"""An import finds what clients have kept, and what folders hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from memp_mcp.transcripts.places import PLACES, below, kept_by

KEPT = {
    "claude-code": (".claude/projects/-home-me/s.jsonl", ".claude/projects/-home-me/s/subagents/agent-1.jsonl"),
    "codex": (".codex/sessions/2026/01/02/rollout-1.jsonl", ".codex/archived_sessions/rollout-0.jsonl"),
    "qwen-code": (".qwen/projects/-home-me/chats/s.jsonl",),
    "gemini-cli": (".gemini/tmp/shop/chats/session-1.jsonl", ".gemini/tmp/shop/chats/session-0.json"),
    "opencode": (".local/share/opencode/opencode.db", ".local/share/opencode/storage/session/p/ses_1.json"),
    "cursor": (".cursor/projects/shop/agent-transcripts/c/c.jsonl",),
}
ELSEWHERE = {
    "claude-code": ("CLAUDE_CONFIG_DIR", "projects/-home-me/s.jsonl"),
    "codex": ("CODEX_HOME", "sessions/2026/01/02/rollout-1.jsonl"),
    "qwen-code": ("QWEN_HOME", "projects/-home-me/chats/s.jsonl"),
    "gemini-cli": ("GEMINI_CLI_HOME", ".gemini/tmp/shop/chats/session-1.jsonl"),
    "opencode": ("XDG_DATA_HOME", "opencode/opencode.db"),
    "cursor": ("CURSOR_CONFIG_DIR", "projects/shop/agent-transcripts/c/c.jsonl"),
}


def touch(*files: Path) -> list[Path]:
    for age, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        os.utime(file, (1e9 + age, 1e9 + age))
    return list(files)


def test_every_client_has_a_place() -> None:
    assert set(KEPT) == set(ELSEWHERE) == set(PLACES)


@pytest.mark.parametrize("client", KEPT)
def test_a_clients_sessions_are_found_in_the_home_directory_the_oldest_first(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    files = touch(*(tmp_path / name for name in KEPT[client]))
    touch(tmp_path / ".claude" / "settings.json", tmp_path / ".codex" / "history.jsonl")

    assert [s.path for s in kept_by(client, {})] == files


@pytest.mark.parametrize("client", ELSEWHERE)
def test_a_client_that_was_moved_is_found_where_its_variable_says(client: str, tmp_path: Path) -> None:
    variable, name = ELSEWHERE[client]
    [file] = touch(tmp_path / name)

    assert [s.path for s in kept_by(client, {variable: str(tmp_path)})] == [file]


def test_a_client_that_has_kept_nothing_is_told_with_the_place(tmp_path: Path) -> None:
    [source] = kept_by("codex", {"CODEX_HOME": str(tmp_path)})

    assert source.path == tmp_path
    assert re.search(r"no sessions of codex at .*rollout-.*Give the files", source.lacks)


def test_a_folder_gives_what_may_be_a_transcript_and_a_named_file_is_always_read(tmp_path: Path) -> None:
    session, message, part = "s/session/p/ses_1.json", "s/message/ses_1/m.json", "s/part/m/p.json"
    touch(*(tmp_path / name for name in ("a.jsonl", "b/c.traj", "b/notes.md", session, message, part)))
    named = tmp_path / "b" / "notes.md"

    found = [(s.path.relative_to(tmp_path).as_posix(), s.named) for s in below([tmp_path, named])]

    assert found == [("a.jsonl", False), ("b/c.traj", False), (session, False), ("b/notes.md", True)]
