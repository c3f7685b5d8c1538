"""Stand-ins that implement the seams for real: no mock, no patching."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel

from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import LLMFailed
from memp_mcp.llm import Budget

A = TypeVar("A", bound=BaseModel)
Scripted = BaseModel | dict[str, object] | LLMFailed | str


class ScriptedLLM:
    """An LLM that says what it was told to say, in that order, and remembers what it was asked.

    A dict or a model becomes the answer if it has the form that is asked for; a text is what a failure gives as its
    reason; an LLMFailed is raised as it is. Out of script it fails as a real one does.
    """

    def __init__(self, *answers: Scripted, name: str = "scripted:llm") -> None:
        self.name = name
        self.budget = Budget(1_000_000, Path("no-ledger-was-written.json"))
        self.prompts: list[str] = []
        self.systems: list[str] = []
        self._script: deque[Scripted] = deque(answers)

    def will_answer(self, *answers: Scripted) -> Self:
        """Append to the script."""
        self._script.extend(answers)
        return self

    def ask(self, prompt: str, answer: type[A], *, system: str = "") -> A:
        """See `memp_mcp.llm.LLM.ask`."""
        self.prompts.append(prompt)
        self.systems.append(system)
        said: Scripted = self._script.popleft() if self._script else "it is out of script"
        if isinstance(said, LLMFailed):
            raise said
        if isinstance(said, str):
            raise LLMFailed(self.name, said)
        content = said.model_dump() if isinstance(said, BaseModel) else said
        return answer.model_validate(content)


class NoEmbedder(BackgroundEmbedder):
    """An embedder that never comes."""

    def start(self) -> None:
        """Load nothing."""

    def ready(self, wait: float) -> None:
        """It is not there."""

    @property
    def reason(self) -> str:
        """Why it is not there."""
        return "still loading"
