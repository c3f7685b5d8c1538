"""Whether the work of a trajectory was taken back at its end, as far as its commands of git, hg or jj tell.

It errs on the side of silence: what was restored file by file has to cover every file that was edited, and where it is
not known what an edit wrote to, or a part of the work was committed, only what takes back all of it counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from memp_mcp import evidence
from memp_mcp.models import Step

Words = Sequence[str]

_VERSION_CONTROL = re.compile(r"\b(?:git|hg|jj)\b")
_TREE = {".", "./", ":/", "*"}
_BRINGS_BACK = {("git", "stash", "pop"), ("git", "stash", "apply"), ("git", "stash", "branch"), ("git", "cherry-pick")}
_IN_PARTS = {"-p", "--patch", "-i", "--interactive"}


def undone(steps: Iterable[Step]) -> int | None:
    """The step that took back all that was written before it, where nothing was written after; else None."""
    work = _Work()
    found = None
    for i, step in enumerate(steps, start=1):
        if evidence.edits(step.action):
            work.written.append(_files(step.action))
            found = None
            for words in _commands(step.action):
                work.hear(words)
        elif evidence.failure(step) is None:
            for words in _commands(step.action):
                if work.is_undone_by(words, step.observation):
                    found = i
                elif _is_back_by(words):
                    found = None
                else:
                    work.hear(words)
    return found


def brings_back(action: str) -> bool:
    """Whether an action puts into place what had been put aside, so that what was seen before says nothing of it."""
    return any(map(_is_back_by, _commands(action)))


def _commands(action: str) -> Iterable[list[str]]:
    return evidence.commands(action) if _VERSION_CONTROL.search(action) else ()


def _is_back_by(words: Words) -> bool:
    return tuple(words[:2]) in _BRINGS_BACK or tuple(words[:3]) in _BRINGS_BACK


@dataclass(slots=True)
class _Work:
    """What has been written so far."""

    written: list[set[str]] = field(default_factory=list)
    """The files of each edit since the last commit; none where nobody knows them."""
    commits: int = 0

    def hear(self, words: Words) -> None:
        """Take note of a commit."""
        if words[:2] == ["git", "commit"] and self.written:
            self.commits = max(1, self.commits) if "--amend" in words else self.commits + 1
            self.written = []

    def is_undone_by(self, words: Words, observation: str) -> bool:
        """Whether a command takes back all of it."""
        match words:
            case ["git", "reset", *rest]:
                return "--hard" in rest and bool(self.written or self.commits) and _back(rest) >= self.commits
            case ["git", "revert", *rest]:
                return "HEAD" in rest and self.commits == 1 and not self.written
            case ["git", *_]:
                return self._is_open and self._is_undone_by_git(words[1:], observation)
            case _:
                return self._is_open and self._is_undone_by_others(words)

    @property
    def _is_open(self) -> bool:
        """Whether there is work, and none of it was committed."""
        return bool(self.written) and not self.commits

    def _is_undone_by_git(self, words: Words, observation: str) -> bool:
        match words:
            case ["checkout", *rest]:
                return self._is_checked_out(rest)
            case ["restore", *rest]:
                return self._is_restored(rest)
            case ["stash", *rest]:
                return "No local changes" not in observation and self._is_stashed(rest)
            case ["clean", *_]:
                return self._is_within(re.findall(r"^Removing (.+)$", observation, re.MULTILINE))
            case _:
                return False

    def _is_undone_by_others(self, words: Words) -> bool:
        match words:
            case ["hg", "revert", *rest]:
                return not {"-r", "--rev"} & {*rest} and (bool({"-a", "--all"} & {*rest}) or self._is_within(rest))
            case ["hg", "update" | "up", *rest]:
                return bool({"-C", "--clean"} & {*rest})
            case ["jj", "undo"] | ["jj", "op", "undo"] | ["jj", "restore"]:
                return True
            case _:
                return False

    def _is_checked_out(self, rest: Words) -> bool:
        before, after = _at_dashes(rest)
        named = [w for w in before if not w.startswith("-") and w != "HEAD"]
        if _IN_PARTS & {*rest} or (after and named):  # of another revision
            return False
        if not after and not all(w in _TREE or self._is_file(w) for w in named):  # a branch
            return False
        return self._is_within(after or named)

    def _is_restored(self, rest: Words) -> bool:
        options = {w for w in rest if w.startswith("-")}
        staged_alone = options & {"--staged", "-S"} and not options & {"--worktree", "-W"}
        elsewhere = any(w.startswith(("-s", "--source")) and w != "--source=HEAD" for w in options)
        return not staged_alone and not elsewhere and not _IN_PARTS & options and self._is_within(rest)

    def _is_stashed(self, rest: Words) -> bool:
        options = {w for w in rest if w.startswith("-")}
        if options & {*_IN_PARTS, "--staged", "-S", "--keep-index", "-k"}:
            return False
        before, after = _at_dashes(rest)
        if after:
            return before[:1] in ([], ["push"]) and self._is_within(after)
        if not before or before[0].startswith("-") or before[0] == "save":
            return True
        named = [w for last, w in pairwise(before) if last not in {"-m", "--message"} and not w.startswith("-")]
        return before[0] == "push" and (not named or self._is_within(named))

    def _is_file(self, path: str) -> bool:
        return any(_lies_in(file, path) for files in self.written for file in files)

    def _is_within(self, paths: Words) -> bool:
        """Whether all files that were written are, or lie in, one of the paths."""
        if _TREE & {*paths}:
            return True
        return all(files and all(any(_lies_in(f, p) for p in paths) for f in files) for files in self.written)


def _back(rest: Words) -> int:
    """How many commits a reset goes back; 0 where it does not say so."""
    told = next((found for w in rest if (found := re.fullmatch(r"(?:HEAD|@)(?:~(\d*)|(\^+))", w))), None)
    return 0 if told is None else len(told[2]) if told[2] else int(told[1] or 1)


def _at_dashes(words: Words) -> tuple[Words, Words]:
    """What stands before and after ``--``."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


# -- what was written -------------------------------------------------------------------------------------------------

_ARGUMENT = re.compile(
    r"\b(?:file_?path|path|file|file_?name|target_file|notebook_path|absolute_path)[\"']?\s*[=:]\s*[\"']([^\"'\n]+)[\"']",
    re.IGNORECASE,
)
_PATCHED = re.compile(r"(?:^|\n|\\n)(?:\*\*\* (?:Update|Add|Delete) File: |\+\+\+ b/)([^\n\\]+)")
_FILE = re.compile(r"(?<![\w./@~+-])(?:[\w@~+.-]*/)*[\w@+-][\w@+.-]*\.[A-Za-z]\w{0,7}(?![\w/(.])")


def _files(action: str) -> set[str]:
    """The files that an edit names, and perhaps others; none where it does not say which."""
    line = evidence.shell_line(action)
    named = _PATCHED.findall(action) or (_FILE.findall(line) if line else _ARGUMENT.findall(action))
    return {name.strip() for name in named}


def _lies_in(file: str, path: str) -> bool:
    """Whether a file is *path* or lies in it, where one of them may be told from another folder than the other."""
    file, path = (f"/{text.removeprefix('./').strip('/')}/" for text in (file, path))
    return path in file or file.endswith(path) or path.endswith(file)
