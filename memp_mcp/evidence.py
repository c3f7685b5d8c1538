"""What code alone can read off a trajectory: failed steps, faults of the surroundings, detours.

A reflection is grounded in what is found here, not in a model's memory of it: failed steps extracted by program raised
the share of reflections that name the true cause from 0 to 86 % (Honest Lying, arXiv 2605.29463). Everything errs on
the side of silence: a missed failure costs a line of a script, an invented one teaches a falsehood.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from memp_mcp.models import Step, Text, Trajectory, Value

ERROR_CHARACTERS = 300
_LINE = 500  # characters of a line that are looked at
_ERROR = 2_000  # characters of an error
EXIT_CODES = ("exit_code", "exitCode", "exit_status", "returncode", "return_code")
"""By these names programs tell of an exit code."""
_ENDS = 20_000  # characters of a long observation that are looked at, at each end


class FailedStep(Value):
    """A step that failed: its place in the trajectory (the first is 1), what was done and what it said."""

    index: int
    action: Text
    error: Text


def failed_steps(trajectory: Trajectory) -> list[FailedStep]:
    """The steps that failed, in order."""
    found = ((i, s.action, failure(s)) for i, s in enumerate(trajectory.steps, start=1))
    return [FailedStep(index=i, action=action, error=error) for i, action, error in found if error is not None]


# -- failures ---------------------------------------------------------------------------------------------------------

_EXIT = re.compile(
    r"""^\W{0,4}(?:(?:.*\b(?:process|command|failed|completed|finished|terminated|script|shell)\b.*?)??
        \b(?:exit(?:ed)?(?:\ with)?(?:\ exit|\ non-zero)?[ _-]?(?:code|status)|exited\ with|return[ _-]?code)\b
        [\s:=>]{1,3}(-?\d{1,10})(?=\s*$|[\])<.,:;])|exit(?:ed)?\ (\d{1,3})[\])])
      |[\[(]exit(?:ed)?(?:\ code|\ status)?[\s:]+(-?\d{1,10})[\])]\s*$""",
    re.IGNORECASE | re.VERBOSE,
)
_NOTHING = re.compile(
    r"(?:[A-Z][A-Za-z ]{1,30}: \((?:none|empty|root)\)|Process Group PGID: \d+|</?untrusted_context>)$"
)
"""The lines of a shell's report that tell nothing, as Qwen Code and Gemini CLI write it."""
# Ranked: of several lines that match, the one that says most is the error. Each is matched at a line's start.
_ERROR_LINES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:E\s+)?(?:Uncaught |Unhandled )?(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Expired)(?::\s|$)",
        r"\s*\*\* \(\w+(?:\.\w+)*\) |panic: |thread '.*' panicked at ",
        r"(?:<error>|<tool_use_error>)",
        r"(?:\S{1,200}: )*(?:fatal|error|Error|ERROR|FATAL|fatal error)(?:\[\w+\])?: \S|\W{0,4}\[?ERROR\]? \w",
        r"npm (?:ERR!|error) (?:code|Missing|Cannot|[A-Za-z].*not)",
        r".{0,200}\bcommand not found\b|\(eval\):\d+: ",
        r"\S.{0,300}: (?:No such file or directory|[Pp]ermission denied|Is a directory|Not a directory)\b",
        r"\S*sh: .*: not found$|.{0,80}exceeds maximum allowed",
        r"E[A-Z]{3,}: \w|File does not exist\.?$|Invalid action\b|(?:[A-Z]\S*)(?: \S+){0,5} failed:(?!\s*\d)",
        r"(?:FAILED|FAIL|--- FAIL:)(?:\s|$)|.*\bBUILD (?:FAILED|FAILURE)\b|test result: FAILED",
        r"(?=.*(?:\btests?\b|\bpassed\b|={5})).*(?<![\d.])[1-9]\d* (?:failed|failures?)\b",
        r"=+ .*(?<![\d.])[1-9]\d* errors?\b.* =+$|make(?:\[\d+\])?: \*\*\* ",
        r"Nothing happens\.$|The user doesn't want to proceed|\^C$",
    )
)
_PASSED = re.compile(
    r"=+ (?!.*(?:failed|error)).*\d+ passed.* =+$|test result: ok|OK$|.*\b\d+ (?:tests?|passed)\b.*\b0 fail"
    r"|Tests:\s+\d+ passed"
)


def failure(step: Step) -> str | None:
    """The error that a step ended with, at most 300 characters; None when it worked, or nothing says that it failed.

    What is known (``step.failed``) decides; then an exit code; then the wording at both ends of the observation.
    """
    if step.failed is False:
        return None
    lines = _lines(step.observation)
    told = step.failed or _told(step.observation, lines)
    if told is False or (told is None and not lines):
        return None
    if told:
        return _clip(_error_line(lines) or _last_line(lines) or "failed without a message")
    return _spoken(lines, was_read=reads(step.action))


def exited_well(step: Step) -> bool | None:
    """Whether the recorder, an exit code or a flag says that it worked; None where none of them speaks."""
    told = step.failed if step.failed is not None else _told(step.observation, _lines(step.observation))
    return None if told is None else not told


def _lines(text: str) -> list[str]:
    if len(text) > 2 * _ENDS:
        text = f"{text[:_ENDS]}\n{text[-_ENDS:]}"
    lines = (line[:_LINE].rstrip() for line in text.splitlines() if line.strip())
    return [line for line in lines if not _NOTHING.match(line)]


def _told(text: str, lines: list[str]) -> bool | None:
    """Whether an exit code or a flag says that it failed; None where there is none."""
    flags = _json_object(text)
    code = next((flags[k] for k in EXIT_CODES if isinstance(flags.get(k), int)), None)
    if code is not None:
        return code != 0
    if flags.get("success") is False or flags.get("is_error") is True or flags.get("isError") is True:
        return True
    if isinstance(flags.get("error"), str) and flags["error"]:
        return True
    codes = [found for line in (*lines[:3], *lines[-3:]) if (found := _EXIT.match(line) or _EXIT.search(line))]
    return any(int(next(filter(None, c.groups()))) != 0 for c in codes) if codes else None


def _json_object(text: str) -> dict[str, object]:
    """The observation as an object, with what stands in its ``metadata`` (as Codex writes it); else nothing."""
    if not text.lstrip().startswith("{") or len(text) > 2 * _ENDS:
        return {}
    try:
        found: dict[str, object] = json.loads(text)
    except ValueError:
        return {}
    metadata = found.get("metadata")
    return found | metadata if isinstance(metadata, dict) else found


def _spoken(lines: list[str], *, was_read: bool) -> str | None:
    """The error that the words speak of. What was merely read (a log, a source file) speaks for nobody."""
    if was_read and len(lines) > 2:
        return None
    if any(_PASSED.match(line) for line in lines[-4:]):
        return None
    error = _error_line([*lines[:3], *lines[3:][-8:]])
    return None if error is None else _clip(error)


def _error_line(lines: Sequence[str]) -> str | None:
    for pattern in _ERROR_LINES:
        for line in reversed(lines):
            if pattern.match(line):
                return line
    return None


def _last_line(lines: Sequence[str]) -> str | None:
    spoken = (line for line in reversed(lines) if not _EXIT.search(line))
    return next(spoken, lines[-1] if lines else None)


def _clip(text: str) -> str:
    return re.sub(r"</?(?:tool_use_)?error>", "", text).strip()[:ERROR_CHARACTERS]


# -- whose fault ------------------------------------------------------------------------------------------------------

_PROCEDURES_FAULT = re.compile(
    r"connection refused.*(?:localhost|127\.0\.0\.1|\[?::1)|(?:localhost|127\.0\.0\.1|\[?::1).*connection refused"
    r"|^(?:\(eval\)|\S*sh)(?::| ).*permission denied:?\s*(?:\./\S*|\S+\.(?:sh|py|pl|rb))?$"
    r"|^(?:\S*sh: )(?:.*: )?(?:\./\S+|\S+\.(?:sh|py|pl|rb)): permission denied",
    re.IGNORECASE,
)
_TRANSIENT = {
    "rate limit": r"rate.?limit|too many requests|\b(?:http|status|error)\W{0,8}(?:code\W{0,3})?429\b|quota exceeded"
    r"|overloaded_error|\boverloaded\b",
    "disk": r"no space left on device|\benospc\b|disk (?:quota exceeded|is full|full)|read-only file ?system",
    "time-out": r"timed?[ -]?out\b(?<!timeout)|\btime-?out (?:of|after|exceeded|expired|reached|error|waiting|while)\b"
    r"|\w*timeout(?:error|expired|exception)\b|\betimedout\b|deadline exceeded|gateway time-?out",
    "network": r"connection (?:refused|reset|aborted|closed|error|was (?:refused|reset|closed))"
    r"|could not resolve (?:host|proxy)|name resolution|name or service not known|getaddrinfo|\benotfound\b"
    r"|\beai_again\b|\beconn(?:refused|reset|aborted)\b|network is (?:unreachable|down)|no route to host|bad gateway"
    r"|service (?:temporarily )?unavailable|remote end closed|broken pipe|\w*connectionerror\b|socket hang up",
    "permission": r"permission denied|\beacces\b|\beperm\b|operation not permitted|access (?:is )?denied|\bforbidden\b"
    r"|\b(?:unauthorized|not authorized)\b|authentication (?:failed|required)|insufficient (?:permissions|privileges)",
    "interrupted": r"keyboardinterrupt|^\^c$|\binterrupted\b|\bsig(?:int|term|kill)\b|^killed$|cancelled by user"
    r"|\boperation was (?:cancelled|canceled|aborted)\b|the user doesn't want to proceed|sibling tool call errored",
}


def transient(error: str) -> str | None:
    """The kind of a fault of the surroundings, else None: what may work unchanged the next time teaches nothing.

    Two look like one and are not: a script that the shell may not execute (``chmod +x`` was forgotten) and a refused
    connection to this very machine (the server was not started). Both are steps that the procedure lacks.
    """
    error = error[:_ERROR]
    if _PROCEDURES_FAULT.search(error):
        return None
    return next((kind for kind, words in _TRANSIENT.items() if re.search(words, error, re.IGNORECASE)), None)


_MASKS = (
    (re.compile(r"(?<!\w)'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`"), "<text>"),
    (re.compile(r"(?:[a-z]:)?(?:~|\.{1,2})?(?:[\\/][\w.@+-]+)+[\\/]?|\b[\w.-]+(?:/[\w.@+-]+)+"), "<path>"),
    (re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f-]*\d)(?=[0-9a-f-]*[a-f])[0-9a-f]{4,}(?:-[0-9a-f]{4,})*\b"), "<hex>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)


def error_signature(error: str) -> str:
    """The error without what differs between two occurrences of one fault: quoted texts, paths, hex, numbers, case."""
    text = error[:_ERROR].lower()
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return " ".join(text.split())


# -- the verb of an action --------------------------------------------------------------------------------------------

_CALL = re.compile(r"([A-Za-z_][\w.-]*)\s*(?:(?=[({\[])|:\s)(.*)", re.DOTALL)
_SHELL = re.compile(
    r"bash|sh|zsh|shell|terminal|cmd|exec(?:_command)?|run_(?:shell_)?command|execute_bash", re.IGNORECASE
)
_WITH_SUBCOMMAND = re.compile(
    r"git|gh|npm|pnpm|yarn|npx|cargo|docker|kubectl|helm|pip3?|uvx?|poetry|mix|make|brew|apt|apt-get|conda|terraform"
    r"|systemctl|dotnet|gradle|mvn|bundle"
)
_GO_TOOL = re.compile(r"test|build|run|mod|get|vet|install|fmt|generate")
_PREPARING = re.compile(
    r"(?:(?:cd|source|export|set|pushd|\.)\s[^&;|\n]*(?:&&|;|\n)\s*|\w+=\S*\s+|sudo\s+|time\s+|timeout\s+\S+\s+)+"
)
_SEPARATOR = re.compile(r"&&|\|\||[;\n]")
_GIT_OPTIONS = re.compile(r"\bgit(?:\s+(?:-[Cc]\s+\S+|--(?:git-dir|work-tree)[=\s]\s*\S+|--no-pager|-P))+(?=\s)")


_FOR_ITSELF = {
    "toolsearch", "tool_search", "todowrite", "todo_write", "todoread", "write_todos", "update_plan", "exitplanmode",
    "enterplanmode", "taskcreate", "taskupdate", "tasklist", "taskget", "save_memory", "update_topic",
}  # fmt: skip


def serves_the_agent(tool: str) -> bool:
    """Whether a client gives this tool to its agent for itself: plans, lists of what is to do, notes."""
    return tool.lower() in _FOR_ITSELF


def head(action: str) -> str:
    """The verb, tool or command of an action: ``go``, ``take``, ``git commit``, ``Read``, ``Bash:git status``."""
    tool, rest = _call(action)
    if not tool:
        return _command(rest)
    return f"{tool}:{_command(rest)}" if _SHELL.fullmatch(tool) else tool


_DOCUMENT = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1([^\n]*)\n.*?(?:\n[ \t]*\2[ \t]*(?=\n|\)|$)|\Z)", re.DOTALL)
_SURROUNDING = re.compile(r"\w+=.*|sudo|env|time|command|exec")
_REDIRECTION = re.compile(r"\d?[<>]{1,2}(.*)")


def shell_line(action: str) -> str:
    """What an action gives to a shell; empty where it is another tool's.

    Documents that stand in it are left out, and the options before git's commands.
    """
    tool, line = _call(action)
    return "" if tool and not _SHELL.fullmatch(tool) else _GIT_OPTIONS.sub("git", _DOCUMENT.sub(r"\3", line))


def commands(action: str) -> Iterator[list[str]]:
    """The words of each command that an action gives to a shell, in order; none where its quotes are broken."""
    lexer = shlex.shlex(re.sub(r"\d?>&\d|\\\n", " ", shell_line(action)), posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace, lexer.whitespace_split = " \t\r", True
    try:
        words = list(lexer)
    except ValueError:
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word.strip(";&|()\n"):
            command.append(word)
            continue
        if plain := _without_surroundings(command):
            yield plain
        command = []


def _without_surroundings(words: Sequence[str]) -> list[str]:
    """A command without variables, sudo and redirections."""
    plain: list[str] = []
    skips = False
    for word in words:
        redirection = _REDIRECTION.fullmatch(word)
        if not skips and redirection is None and (plain or not _SURROUNDING.fullmatch(word)):
            plain.append(word)
        skips = redirection is not None and not redirection[1]
    return plain


def _call(action: str) -> tuple[str, str]:
    """The tool's name and its arguments; no name for a plain command or move."""
    action = re.sub(r"^\s*[>$#]\s+", "", action).strip()
    found = _CALL.match(action)
    if found is None:
        return "", action
    name, rest = found.groups()
    return name, _values(rest) if rest[:1] in tuple("({[") else rest


def _values(arguments: str) -> str:
    """The values among a call's arguments: of JSON, of ``name=value`` pairs, or what stands in the brackets."""
    inner = arguments.strip()
    for candidate in (inner, inner[1:-1]):
        if candidate.startswith("{"):
            try:
                return "\n".join(_leaves(json.loads(candidate)))
            except ValueError:
                continue
    return re.sub(r"\b\w+\s*=\s*(?=[\"'\d\[{])", "", inner.strip("()[]{}")).strip("\"' ")


def _leaves(value: object) -> Iterator[str]:
    match value:
        case dict():
            for inner in value.values():
                yield from _leaves(inner)
        case list():
            words = [part for inner in value for part in _leaves(inner)]
            yield " ".join(words[2:] if words[1:2] in (["-lc"], ["-c"]) else words)
        case _:
            yield str(value)


def _prepared(text: str) -> str:
    """The command after what only prepares it: a ``cd``, variables, ``sudo``."""
    found = _PREPARING.match(text)
    return text[found.end() :] if found else text


def _command(text: str) -> str:
    words = _GIT_OPTIONS.sub("git", _prepared(text.strip())).split() or text.split()
    if words[1:2] == ["-m"] and len(words) > 2 and words[0].startswith("python"):
        words = words[2:]
    if not words:
        return ""
    name = words[0].rsplit("/", 1)[-1].strip("\"'")
    rest = next((w for w in words[1:] if not w.startswith("-")), "")
    takes = _WITH_SUBCOMMAND.fullmatch(name) or (name == "go" and _GO_TOOL.fullmatch(rest))
    return f"{name} {rest}" if takes and rest else name


# -- what a procedure needs of a trajectory ---------------------------------------------------------------------------

_READING = re.compile(
    r"cat|head|tail|less|more|bat|nl|sed|awk|jq|grep|rg|ag|read|view|glob|find|ls|tree|webfetch"
    r"|git (?:log|show|diff|blame|grep)|docker logs|kubectl logs|journalctl|dmesg"
)
_PASSING_ON = re.compile(r"cd|echo|printf|true|sort|uniq|wc|cut|tr|column")
_LOOKING = re.compile(
    _READING.pattern + r"|go|goto|walk|navigate|look|examine|inspect|inventory|open|search|list|show|wc|file|stat|which"
    r"|pwd|du|git (?:status|branch)"
)
_GOING = re.compile(r"go|goto|walk|navigate")
_ASKING = re.compile(r"get|list|find|search|read|view|show|describe|fetch|lookup|glob|grep")
_OBSERVING = re.compile(r"check|can|is|has|get|show|describe|lookup|verify|inspect|measure|count|diagnose|monitor")
_LOOK_AROUND = re.compile(r"look|look around|inventory")
_WRITING = re.compile(r"edit|multi|notebook|write|create|insert|replace|patch|apply|delete|mv|cp|rm|tee")
_CHANGES = re.compile(
    r"(?<![\d&-])>{1,2}(?!\s*(?:/dev/null|&))|\s-(?:i|delete|exec|ok)\b|\|\s*(?:xargs|tee|sh|bash)\b|<<"
)
_MESSAGE = re.compile(
    r"""\$\(cat\ <<-?\s*(['"]?)(\w+)\1\n.*?\n\s*\2\s*\)
    |(?<=\s)(?:-a?m|--message)[ =]?(?:"(?:\\.|[^"\\])*"|'[^']*')
    |(?<=-F\ -)\s*<<-?\s*(['"]?)(\w+)\3\n.*?\n\s*\4\b""",
    re.DOTALL | re.VERBOSE,
)
"""Of a commit, in the ways in which it is passed: what stands in it is prose."""
_ENTITY = re.compile(r"[A-Za-z_][\w./@-]*(?:\s\d+(?![\w.]))?|\d[\w.-]{2,}")
_LITTLE_WORD = re.compile(r"to|from|in|on|in/on|into|onto|with|the|an?|and|or|of|at|for|by|it|true|false|none|null")


def reads(action: str) -> bool:
    """Whether an action shows a text that was there before: what stands in it says nothing about this step."""
    verb = _verb(action)
    return _READING.fullmatch(verb) is not None or _words(verb)[0] in {"read", "grep", "view"}


def only_reads(action: str) -> bool:
    """Whether an action does nothing but show texts that were there before, in all of its commands."""
    told = list(commands(action))
    others = (head(" ".join(words)).lower() for words in told)
    return (
        reads(action) and not edits(action) and all(_READING.fullmatch(o) or _PASSING_ON.fullmatch(o) for o in others)
    )


def observes(action: str) -> bool:
    """Whether an action only looks at how things are, so that what it shows twice can be compared.

    A tool whose name says so (``check_status``, ``get_order``, ``can_send``, ``run_speed_test``), or a plain look
    around. Files and searches are not meant, nor is going somewhere: what is seen after it is another place.
    """
    tool, _ = _call(action)
    if not tool or _SHELL.fullmatch(tool):
        return _LOOK_AROUND.fullmatch(action.strip().lower()) is not None
    words = _words(tool.rsplit("__", 1)[-1])
    return len(words) > 1 and (
        _OBSERVING.fullmatch(words[0]) is not None
        or (words[0] == "run" and words[-1] in {"test", "diagnosis", "diagnostics", "check"})
    )


def edits(action: str) -> bool:
    """Whether an action writes files, as far as its verb tells; other changes of the world are not meant."""
    tool, rest = _call(action)
    if tool and not _SHELL.fullmatch(tool):
        return not serves_the_agent(tool) and any(_WRITING.fullmatch(word) for word in _words(tool))
    return (
        _CHANGES.search(_MESSAGE.sub("", rest)) is not None
        or _WRITING.fullmatch(_verb(action).split(" ")[-1]) is not None
    )


def prepares(action: str) -> bool:
    """Whether an action may be what a later one needs: it goes somewhere, opens or changes something, but no file.

    What is written to files is the work itself, another one each time.
    """
    if edits(action) or observes(action) or serves_the_agent(_call(action)[0]):
        return False
    return not _explores(action) or goes(action) or _verb(action) == "open"


def goes(action: str) -> bool:
    """Whether an action only goes somewhere; that it fails often says no more than that one is there already."""
    return _GOING.fullmatch(_verb(action)) is not None


def _verb(action: str) -> str:
    return head(action).rsplit(":", 1)[-1].lower()


def _words(name: str) -> list[str]:
    """A tool's name taken apart: ``getUserDetails`` and ``get_user_details`` are get, user, details."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.rsplit(".", 1)[-1]).lower().split("_")


def _explores(action: str) -> bool:
    """Whether an action only looks or goes somewhere. An unknown verb does not: it may have changed something."""
    tool, rest = _call(action)
    if tool and not _SHELL.fullmatch(tool):
        words = _words(tool)
        if observes(action):
            return True
        return _LOOKING.fullmatch(tool.lower()) is not None or (len(words) > 1 and bool(_ASKING.fullmatch(words[0])))
    if _CHANGES.search(rest) or re.search(r"\b(?:and|then)\b", rest):  # prose may look first and act then
        return False
    commands = [part for part in _SEPARATOR.split(_prepared(rest)) if part.strip()]
    return all(_LOOKING.fullmatch(_command(part).lower()) for part in commands)


def _entities(text: str) -> set[str]:
    """The things that a text names, a number kept with its word: "shelf 7", "src/app.py" (and "app.py"), "W123"."""
    found = {" ".join(e.lower().strip("./-").split()) for e in _ENTITY.findall(text[:_ENDS])}
    found = {e for e in found if len(e) > 1 and not _LITTLE_WORD.fullmatch(e)}
    return found | {e.rsplit("/", 1)[-1] for e in found if "/" in e}


def _arguments(action: str) -> set[str]:
    tool, rest = _call(action)
    words = _command(rest).lower().split() if not tool or _SHELL.fullmatch(tool) else []
    return _entities(rest if not words else rest.split(None, 1)[-1] if " " in rest else "") - set(words)


def essential_steps(steps: Sequence[Step]) -> list[int]:
    """Places (from 0) of the steps that a procedure needs: no failures, notes, repetitions or dead ends.

    A dead end only looked around (a known verb of looking or going, used more than once), and neither what it looked
    at nor what it was the first to show is named by any later step that is kept; or the very same place was gone to
    again before anything was done there. The last step that worked is never dropped, nor one that changes something.
    """
    worked = [i for i, s in enumerate(steps) if failure(s) is None and not serves_the_agent(_call(s.action)[0])]
    return _without_repetitions(steps, _without_dead_ends(steps, worked))


def _without_dead_ends(steps: Sequence[Step], worked: list[int]) -> list[int]:
    explores = {i: _explores(steps[i].action) for i in worked}
    heads = Counter(head(a) for a in {steps[i].action for i in worked if explores[i]})
    opened = {frozenset(_arguments(steps[i].action)) for i in worked if head(steps[i].action) == "open"}
    shown = _first_shown(steps, worked, explores)
    needed: set[str] = set()
    ahead: set[str] = set()  # actions that are done again, and nothing that they name is used before that
    naming: dict[str, set[str]] = {}
    kept: list[int] = []
    for i in reversed(worked):
        action, arguments = steps[i].action, _arguments(steps[i].action)
        undoes = head(action) == "close" and frozenset(arguments) in opened
        searches = explores[i] and (not arguments or heads[head(action)] > 1)
        useless = action in ahead or not (arguments | shown.get(i, set())) & needed
        if kept and (undoes or searches or action in ahead) and useless:
            continue
        for entity in arguments:
            ahead -= naming.pop(entity, set())
        if explores[i]:
            ahead.add(action)
            for entity in arguments:
                naming.setdefault(entity, set()).add(action)
        needed |= arguments
        kept.append(i)
    return kept[::-1]


def _first_shown(steps: Sequence[Step], worked: list[int], explores: dict[int, bool]) -> dict[int, set[str]]:
    """What each exploring step was the first to show; going there again shows it anew."""
    first: dict[str, str] = {}
    shown: dict[int, set[str]] = {}
    for i in worked:
        seen = _entities(steps[i].observation)
        for entity in _arguments(steps[i].action) | seen:
            first.setdefault(entity, steps[i].action)
        if explores[i]:
            shown[i] = {e for e in seen if first[e] == steps[i].action}
    return shown


def _without_repetitions(steps: Sequence[Step], places: list[int]) -> list[int]:
    """Of the same action with the same result, and nothing changed between, the last."""
    kept: list[int] = []
    since_change: set[tuple[str, str]] = set()
    for i in reversed(places):
        told = (steps[i].action, steps[i].observation)
        if told in since_change:
            continue
        if not _explores(steps[i].action):
            since_change.clear()
        since_change.add(told)
        kept.append(i)
    return kept[::-1]
