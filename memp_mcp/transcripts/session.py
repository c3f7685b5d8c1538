"""A client's session → trajectories: one for each task that the user gave in it.

Each format says what happened as a row of events; what follows is the same for all of them:

- A prompt begins a new episode. "Go on", "yes" and the like continue the one before; so does what is said after a
  command of the client itself (``/compact``) that led to no step.
- A step is a tool call with its observation, as the agent saw it. What the agent said or thought since the step before
  is its thought, kept short. Images and base64 are left out with a mark, very long texts lose their middle.
- Left out are the calls of this memory's own tools, what it put into the prompt or behind a result by itself, and what
  only serves the client (lists of things to do, loading the schema of a tool). The id of a recall and the ids that were
  used are kept, unless the agent has recorded the episode itself: then the credit was given there.
- The outcome is unknown: a transcript holds evidence for a judge, no verdict. What the user says next about the work is
  such evidence, and kept as feedback. After a complaint the same task begins anew.
- A client's own moment of the prompt identifies the episode, so that one which is read again after it has grown is
  stored once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from memp_mcp import evidence, opinions
from memp_mcp.errors import BadInput
from memp_mcp.models import MAX_CHARACTERS, MAX_STEPS, Step, Trajectory, stable_id
from memp_mcp.transcripts.found import Documents, Located, Skipped, reason

TASK_CHARACTERS = 500
THOUGHT_CHARACTERS = 400
COMPLAINT_CHARACTERS = 200
"""A longer one says what is to be done instead, which is another task."""
QUESTION_CHARACTERS = 300
"""At the end of what the agent says: a question in them may be what a "no" answers."""
TEXT_CHARACTERS = 40_000
"""Of an action or observation; evidence.py looks at 20,000 at each end."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the user asked for, and the moment of it as the client wrote it down; empty where it did not."""

    text: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Injected:
    """A recall that the memory gave by itself."""

    recall_id: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the agent said or thought before its next call."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that was called."""

    call_id: str
    name: str
    arguments: object = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came back from a call. A second one for the same call fills in what the first left open."""

    call_id: str
    text: str = ""
    failed: bool | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What became known about the session: the model, the folder; the first folder is the one it was begun in."""

    model: str = ""
    folder: str = ""


Event = Prompt | Injected | Said | Call | Result | About


def events(documents: Documents, path: Path, parse: Callable[[object], Iterable[Event]]) -> Iterator[Event | Skipped]:
    """The events of a file that tells one after another; a line that cannot be read costs itself alone."""
    for number, document in documents:
        if isinstance(document, Skipped):
            yield document
            continue
        try:
            yield from list(parse(document))
        except (BadInput, ValidationError) as error:
            yield Skipped(path, number, reason(error))


# -- texts ------------------------------------------------------------------------------------------------------------

_DATA_URL = re.compile(r"data:[\w.+-]{1,60}/[\w.+-]{1,60};base64,[A-Za-z0-9+/=\s]*")
_LONG_WORD = re.compile(r"[A-Za-z0-9+/]{1000,}={0,2}")
IMAGE = "[image left out]"
BASE64 = "[base64 left out]"
_IMAGES = {"image", "input_image", "image_url", "inlineData", "audio", "file_data"}


def text_of(content: object) -> str:
    """The text of a message or result: a string, or a list of parts of which some are images."""
    if isinstance(content, str):
        return without_base64(content)
    if isinstance(content, dict):
        return _part(content) or json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := _part(part)))
    return "" if content is None else json.dumps(content, ensure_ascii=False)


def _part(part: object) -> str:
    if isinstance(part, str):
        return without_base64(part)
    if not isinstance(part, dict):
        return ""
    if isinstance(text := part.get("text"), str):
        return without_base64(text)
    if _IMAGES & {str(part.get("type")), *part}:
        return IMAGE
    return text_of(part["content"]) if isinstance(part.get("content"), str | list) else ""


def without_base64(text: str) -> str:
    """The text with a mark in place of encoded files."""
    if len(text) < 200:
        return text
    return _LONG_WORD.sub(_marked, _DATA_URL.sub(BASE64, text))


def _marked(word: re.Match[str]) -> str:
    """A mark for what has small and capital letters and figures, as encoded bytes do; any other long word stays."""
    kinds = (str.isdigit, str.islower, str.isupper)
    return BASE64 if all(any(map(is_kind, word[0])) for is_kind in kinds) else word[0]


def cut(text: str, limit: int) -> str:
    """The text, or its two ends with a mark between them that says how much is missing."""
    if len(text) <= limit:
        return text
    half = max(1, (limit - 40) // 2)
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def short(text: str, limit: int = THOUGHT_CHARACTERS) -> str:
    """The beginning of a text."""
    text = text.strip()
    return text if len(text) <= limit else text[:limit].rstrip() + " […]"


def task_of(text: str) -> str:
    """What is asked for: all of a short text, the first paragraph of a long one."""
    text = text.strip()
    if len(text) <= TASK_CHARACTERS:
        return text
    return re.split(r"\n[ \t\r]*\n", text, maxsplit=1)[0][:TASK_CHARACTERS]


_SHELL_COMMAND = ("command", "cmd")
_BESIDES = {
    "description", "timeout", "timeout_ms", "workdir", "cwd", "dir_path", "directory", "is_background", "login",
    "run_in_background", "dangerouslyDisableSandbox", "yield_time_ms", "max_output_tokens", "shell", "justification",
    "with_escalated_permissions", "sandbox_permissions", "tty", "prefix_rule", "explanation", "working_directory",
}  # fmt: skip


def action_text(name: str, arguments: object) -> str:
    """A call as an action: ``bash: ls`` for a command or a single string, else ``name({"json":"arguments"})``.

    How a shell is to run its command (time-out, folder, a description for the user) is left out.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return cut(f"{name}: {arguments}", TEXT_CHARACTERS)
    if isinstance(arguments, dict):
        command = next((arguments[key] for key in _SHELL_COMMAND if key in arguments), None)
        if command is not None and len(arguments.keys() - _BESIDES) == 1:
            arguments = {"command": _joined(command)}
        values = list(arguments.values())
        if len(values) == 1 and isinstance(values[0], str):
            return cut(f"{name}: {values[0]}", TEXT_CHARACTERS)
    if arguments in ({}, None):
        return f"{name}()"
    told = without_base64(json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))
    return cut(f"{name}({told})", TEXT_CHARACTERS)


def _joined(command: object) -> object:
    """A command as one line; what a shell is only called for (``bash -lc``) is left out."""
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        return command
    words = command[2:] if len(command) == 3 and command[1] in {"-lc", "-c"} else command
    return " ".join(words)


# -- prompts ----------------------------------------------------------------------------------------------------------

_INJECTED = re.compile(
    r"<(system-reminder|system_reminder|ide_opened_file|ide_selection|local-command-\w+|task-notification|bash-input"
    r"|bash-stdout|bash-stderr|command-message|user-prompt-submit-hook|hook_context|qwen:[\w-]+|environment_context|user_instructions"
    r"|environment_details|session_context|permissions instructions|turn_aborted|subagent_notification|skill"
    r"|memp[\w-]*)"
    r"(?:\s[^>]*)?>.*?</\1>",
    re.DOTALL,
)
_NO_PROMPT = re.compile(
    r"\[Request interrupted|Caveat: The messages below|# AGENTS\.md instructions"
    r"|<(?:environment_context|session_context|task-notification|subagent_notification|turn_aborted)"
    r"|This session is being continued from a previous conversation"
)
_COMMAND = re.compile(r"<command-name>\s*(.*?)\s*</command-name>", re.DOTALL)
_COMMAND_ARGUMENTS = re.compile(r"<command-args>\s*(.*?)\s*</command-args>", re.DOTALL)
_USER_QUERY = re.compile(r"<user_query>\s*(.*?)\s*</user_query>", re.DOTALL)
_CONTINUES = re.compile(
    r"(?:(?:ok(?:ay)?|yes|yep|yeah|y|sure|please|good|great|thanks|thank you|now|and|so|just|no|nope)\b[\s,.!]*)*"
    r"(?:continue\b.{0,40}|go on|go ahead|proceed|carry on|keep going|resume|retry|try again|again|do (?:it|that|so)"
    r"|go|next|finish(?: it)?|it|that|weiter)?[\s,.!]*",
    re.IGNORECASE,
)


_AROUND = r"(?:hook_context|qwen:[\w-]+)"
_RECALLED = re.compile(  # what clients put around a hook's text, whose own marks some write as entities
    rf"(?:<{_AROUND}>\s*)?"
    r'(?:<|&lt;)memp-recall recall_id="(r_[0-9a-f]{12,32})"(?:>|&gt;).*?(?:<|&lt;)/memp-recall(?:>|&gt;)\s*'
    rf"(?:</{_AROUND}>\s*)?",
    re.DOTALL,
)


def injected(text: str) -> Iterator[Injected]:
    """The recalls that this memory put into a text by itself."""
    if "memp-recall" in text:
        yield from (Injected(found[1]) for found in _RECALLED.finditer(text))


def prompt(text: str, at: str = "") -> Iterator[Prompt | Injected]:
    """What the user typed, without what the client put around it; nothing where all of it is the client's."""
    recalled = list(injected(text))
    yield from _typed(text, at)
    yield from recalled


def _typed(text: str, at: str) -> Iterator[Prompt]:
    if queries := _USER_QUERY.findall(text):
        text = "\n".join(queries)
    if command := _COMMAND.search(text):
        arguments = _COMMAND_ARGUMENTS.search(text)
        text = f"{command[1]} {arguments[1] if arguments else ''}"
    if _NO_PROMPT.match(text.lstrip()):
        return
    text = _INJECTED.sub("", text).replace(IMAGE, "").strip()
    if text and not _NO_PROMPT.match(text):
        yield Prompt(text, at)


def continues(text: str) -> bool:
    """Whether a prompt asks for nothing new: "go on", "yes", "thanks"."""
    return len(text) <= 60 and (_CONTINUES.fullmatch(text.strip()) is not None or opinions.opinion(text) is True)


# -- episodes ---------------------------------------------------------------------------------------------------------

_OWN_TOOL = re.compile(
    r"(?:^|.*[_.:/])(recall_procedure|record_trajectory|reflect_failure|get_procedure|forget_procedure)"
)
_RECALL_ID = re.compile(r'"recall_id\\*"\s*:\s*\\*"(r_[0-9a-f]{12,32})')
_PROCEDURE_ID = re.compile(r"p_[0-9a-f]{12,32}")


def is_own_tool(name: str) -> bool:
    """Whether a tool is one of this memory's own, however the client writes its name."""
    return _OWN_TOOL.fullmatch(name) is not None


@dataclass(slots=True)
class _Draft:
    """A step whose observation may still come."""

    action: str
    thought: str
    observation: str = ""
    failed: bool | None = None


@dataclass(slots=True)
class _Episode:
    task: str
    at: str = ""
    part: int = 1
    steps: list[_Draft] = field(default_factory=list)
    calls: dict[str, _Draft | str] = field(default_factory=dict)  # of this memory's own tools only the name
    size: int = 0
    recall_id: str | None = None
    used: dict[str, None] = field(default_factory=dict)
    given: str | None = None  # the id of the first recall that a hook gave
    recorded: bool = False
    feedback: str = ""

    @property
    def is_full(self) -> bool:
        return len(self.steps) >= MAX_STEPS or self.size > MAX_CHARACTERS // 2

    def remember(self, tool: str, call: Call) -> None:
        """Note a call of this memory's own tools."""
        self.calls[call.call_id] = tool
        self.recorded |= tool == "record_trajectory"
        used = call.arguments.get("used") if isinstance(call.arguments, dict) else None
        self.used |= dict.fromkeys(u for u in used if _is_procedure(u)) if isinstance(used, list) else {}

    @property
    def key(self) -> str:
        """What stays the same while the episode grows; empty where the client notes no time."""
        return stable_id("k", self.at, self.task, str(self.part)) if self.at else ""

    def continued(self) -> _Episode:
        """The next part of the same task."""
        return _Episode(self.task, self.at, self.part + 1)

    def act(self, call: Call, thought: str) -> None:
        """Add a step."""
        draft = _Draft(action_text(call.name, call.arguments), thought)
        self.steps.append(draft)
        self.calls[call.call_id] = draft
        self.size += len(draft.action) + len(thought)

    def observe(self, result: Result) -> None:
        """Give a result to the step that caused it; of a recall only the id is kept."""
        waiting = self.calls[result.call_id]
        self.given = self.given or next((given.recall_id for given in injected(result.text)), None)
        if isinstance(waiting, str):
            found = _RECALL_ID.search(result.text) if waiting == "recall_procedure" else None
            self.recall_id = found[1] if found else self.recall_id
            return
        if not waiting.observation:
            waiting.observation = cut(_RECALLED.sub("", result.text), TEXT_CHARACTERS)
            self.size += len(waiting.observation)
        waiting.failed = result.failed if waiting.failed is None else waiting.failed


class _Session:
    """Where a session stands while its events are read."""

    def __init__(self, client: str, path: Path) -> None:
        self._client = client
        self._path = path
        self._about = About()
        self._open: _Episode | None = None
        self._ended: _Episode | None = None  # until the one after it has a step: it may yet be continued
        self._said: list[str] = []

    def hear(self, event: Event) -> Iterator[Located | Skipped]:
        """Take in an event; yields the episode that is over by it, if any."""
        match event:
            case Prompt():
                self._asked(event)
            case Injected(recall_id):
                self._given(recall_id)
            case Said(text):
                self._said.append(text.strip())
            case Call():
                yield from self._called(event)
            case Result(call_id):
                found = (e for e in (self._open, self._ended) if e and call_id in e.calls)
                if episode := next(found, None):
                    episode.observe(event)
            case About(model, folder):
                self._about = About(model or self._about.model, self._about.folder or folder)

    def finish(self) -> Iterator[Located | Skipped]:
        """Yield what is left at the end: it may go on when the session does."""
        for episode in (self._ended, self._open):
            yield from self._told(episode, is_open=True)

    def _asked(self, prompt: Prompt) -> None:
        if self._open is None or not (self._open.task or self._open.steps):
            self._begin(prompt.text, prompt.at)
        else:
            self._asked_next(self._open, prompt)
        self._said.clear()

    def _asked_next(self, before: _Episode, prompt: Prompt) -> None:
        opinion = self._opinion(prompt.text) if before.steps else None
        if opinion is not None:
            before.feedback = short(prompt.text)
        if opinion is False and before.task and len(prompt.text) <= COMPLAINT_CHARACTERS:
            self._begin(before.task, prompt.at)
        elif continues(prompt.text) and before.task:
            if not before.steps and before.task.startswith("/") and self._ended:
                self._open, self._ended = self._ended, None
        elif prompt.text != before.task:
            self._begin(prompt.text, prompt.at)

    def _opinion(self, text: str) -> bool | None:
        """What the user thinks of the work; a mere no may be the answer to a question, or to what nobody has kept."""
        said = self._said[-1][-QUESTION_CHARACTERS:] if self._said else "?"
        return None if opinions.is_no(text) and "?" in said else opinions.opinion(text)

    def _begin(self, task: str, at: str) -> None:
        self._ended = self._open if self._open and self._open.steps else self._ended
        self._open = _Episode(task, at)

    def _given(self, recall_id: str) -> None:
        self._open = self._open or _Episode("")
        self._open.given = self._open.given or recall_id

    def _called(self, call: Call) -> Iterator[Located | Skipped]:
        self._open = self._open or _Episode("")
        if own := _OWN_TOOL.fullmatch(call.name):
            self._open.remember(own[1], call)
        elif not evidence.serves_the_agent(call.name):
            yield from self._told(self._ended)
            self._ended = None
            if self._open.is_full:
                yield from self._told(self._open)
                self._open = self._open.continued()
            self._open.act(call, self._thought(call))
            self._said.clear()

    def _thought(self, call: Call) -> str:
        purpose = call.arguments.get("description") if isinstance(call.arguments, dict) else None
        return short("\n".join(filter(None, self._said)) or (purpose if isinstance(purpose, str) else ""))

    def _told(self, episode: _Episode | None, *, is_open: bool = False) -> Iterator[Located | Skipped]:
        if episode is None or not episode.steps:
            return
        if not episode.task.strip():
            yield Skipped(self._path, 1, f"Nobody asks for the first {len(episode.steps)} steps.")
            return
        try:
            yield Located(self._trajectory(episode), self._about.folder, is_open=is_open, is_recorded=episode.recorded)
        except ValidationError as error:
            yield Skipped(self._path, 1, reason(error))

    def _trajectory(self, episode: _Episode) -> Trajectory:
        asked = bool(episode.recall_id or episode.used)  # it goes before what was given unasked
        return Trajectory(
            task=task_of(episode.task),
            steps=tuple(
                Step(action=d.action, observation=d.observation, thought=d.thought, failed=d.failed)
                for d in episode.steps
            ),
            client=self._client,
            model=self._about.model,
            source=self._path.name,
            feedback=episode.feedback,
            recall_id=None if episode.recorded else episode.recall_id if asked else episode.given,
            used=() if episode.recorded else tuple(episode.used),
            key=episode.key,
        )


def _is_procedure(used: object) -> bool:
    return isinstance(used, str) and _PROCEDURE_ID.fullmatch(used) is not None


def trajectories(happened: Iterable[Event | Skipped], *, client: str, path: Path) -> Iterator[Located | Skipped]:
    """The episodes of one session, in order; a Skipped where there is none."""
    session = _Session(client, path)
    silent = True
    for value in _heard(session, happened):
        silent = False
        yield value
    if silent:
        yield Skipped(path, 1, "There is no tool call in it.")


def _heard(session: _Session, happened: Iterable[Event | Skipped]) -> Iterator[Located | Skipped]:
    for event in happened:
        if isinstance(event, Skipped):
            yield event
        else:
            yield from session.hear(event)
    yield from session.finish()
