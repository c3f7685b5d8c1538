"""memp-mcp demo: one agent fails, reflects and records; a second one recalls and succeeds. All of it for real.

Both agents are plain programs without a model, each with a server process of its own on one throw-away memory, spoken
to by a real MCP client over stdio. Their world is a small release tool in a temporary directory, run as a command.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.types import Implementation

from memp_mcp.errors import MempError

Say = Callable[[str], None]

RELEASE_TOOL = """\
import pathlib, sys
command, version = sys.argv[1], sys.argv[-1]
built, signed = pathlib.Path(f"app-{version}.zip"), pathlib.Path(f"app-{version}.sig")
if command == "build":
    built.write_text("app"); print(f"built {built}")
elif command == "sign" and built.exists():
    signed.write_text("ok"); print(f"signed {built}")
elif command == "publish" and not built.exists():
    sys.exit(f"error: {built} does not exist")
elif command == "publish" and not signed.exists():
    sys.exit(f"error: {built} is not signed, and policy 7 forbids unsigned releases")
elif command == "publish":
    print(f"published {version}")
elif command == "help":
    print("commands: build, sign, publish")
else:
    sys.exit(f"error: cannot {command} before build")
"""
FIRST_TASK = "Publish version 1.4.0 of the shop app with release.py"
SECOND_TASK = "Publish release 2.0.1 of the shop app using release.py"
DIAGNOSIS = "publish refuses an artefact that was not built and signed before"
CORRECTION = """\
Run `release.py build {version}`
Run `release.py sign {version}`
Run `release.py publish {version}`
"""


def run(say: Say, *, folder: Path | None = None) -> None:
    """Play both agents, telling each step to *say*, in an empty *folder*; by default in one that is removed after.

    Raises:
        MempError: the second agent did not succeed by what the first one had left.

    """
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory(prefix="memp-demo-") as place:
        try:
            anyio.run(_play, Path(place), say)
        except ExceptionGroup as group:  # the client's task groups have wrapped it
            raise _first(group) from group


async def _play(folder: Path, say: Say) -> None:
    home = folder / "memory"
    first, second = _Agent(folder / "first", say), _Agent(folder / "second", say)
    say(f"AGENT ONE has never done this. Task: {FIRST_TASK}")
    async with _client(home, "agent-one") as client:
        await _fail_and_reflect(client, first)
    say(f"\nAGENT TWO is another program with a server of its own. Task: {SECOND_TASK}")
    async with _client(home, "agent-two") as client:
        await _recall_and_succeed(client, second)
    say("\n              commands  failed  outcome")
    for name, agent in (("agent one", first), ("agent two", second)):
        say(f"  {name}   {len(agent.steps):8d}{agent.failed:8d}  {agent.outcome}")
    if second.outcome != "success":
        raise MempError("The second agent did not succeed. Run `memp-mcp doctor`, and please report this.")


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        [error, *_] = error.exceptions
    return error


async def _fail_and_reflect(client: Client, agent: _Agent) -> None:
    recall = await _call(client, agent.say, "recall_procedure", task=FIRST_TASK)
    agent.say(f"    {recall['note']}")
    agent.does("release.py publish 1.4.0")
    agent.does("release.py help")
    agent.does("release.py build 1.4.0")
    agent.does("release.py publish 1.4.0")
    agent.say("    (out of steps: it gives up, but it has read the error and the help)")
    recorded = await _call(
        client,
        agent.say,
        "record_trajectory",
        task=FIRST_TASK,
        steps=agent.steps,
        outcome=agent.outcome,
        reward=0.0,
        recall_id=recall["recall_id"],
    )
    agent.say(f"    {recorded['notes'][-1]}")
    reflected = await _call(
        client,
        agent.say,
        "reflect_failure",
        trajectory_id=recorded["trajectory_id"],
        error=agent.steps[-1]["observation"],
        diagnosis=DIAGNOSIS,
        correction=CORRECTION,
    )
    for change in reflected["changes"]:
        agent.say(f"    {change['kind']} {change['id']} revision {change['revision']}: {change['reason']}")
        agent.says_all(change["diff"])


async def _recall_and_succeed(client: Client, agent: _Agent) -> None:
    recall = await _call(client, agent.say, "recall_procedure", task=SECOND_TASK)
    if "procedures" not in recall:
        raise MempError(f"The second agent recalled nothing: {recall['note']}")
    [procedure, *_] = recall["procedures"]
    agent.say(f"    found by {recall['found']}: {procedure['id']} {procedure['title']}")
    agent.says_all("\n".join([*procedure["script"], *(f"pitfall: {p}" for p in procedure["pitfalls"])]))
    for line in procedure["script"]:
        for command in re.findall(r"`([^`]+)`", line):
            agent.does(command.replace("{version}", "2.0.1"))
    recorded = await _call(
        client,
        agent.say,
        "record_trajectory",
        task=SECOND_TASK,
        steps=agent.steps,
        outcome=agent.outcome,
        reward=1.0 if agent.outcome == "success" else 0.0,
        recall_id=recall["recall_id"],
        used=[procedure["id"]],
    )
    for change in recorded.get("changes", ()):
        agent.say(f"    {change['kind']} {change['id']} revision {change['revision']}: {change['reason']}")


class _Agent:
    """Runs commands in a folder of its own and keeps what it did and saw."""

    def __init__(self, folder: Path, say: Say) -> None:
        folder.mkdir()
        (folder / "release.py").write_text(RELEASE_TOOL, encoding="utf-8")
        self._folder = folder
        self.say = say
        self.steps: list[dict[str, str]] = []
        self.failed = 0
        self.outcome = "failure"

    def does(self, command: str) -> None:
        """Run one command; the outcome is that of the last one."""
        run = [sys.executable, *command.split()]
        done = subprocess.run(run, cwd=self._folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own tool
        seen = (done.stdout + done.stderr).strip()
        self.steps.append({"action": command, "observation": f"{seen}\n[exit code {done.returncode}]"})
        self.failed += done.returncode != 0
        self.outcome = "failure" if done.returncode else "success"
        self.say(f"  $ {command}\n    {seen}")

    def says_all(self, text: str) -> None:
        """Tell a text of several lines, indented."""
        for line in text.splitlines():
            self.say(f"      {line}")


def _client(home: Path, name: str) -> Client:
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "memp_mcp"], env={"MEMP_HOME": str(home)}, cwd=home.parent
    )
    return Client(server, client_info=Implementation(name=name, version="1"), mode="legacy")


async def _call(client: Client, say: Say, tool: str, **arguments: Any) -> dict[str, Any]:
    say(f"  > {tool}")
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise MempError(f"{tool} answered: {getattr(result.content[0], 'text', result.content)}")
    answer: dict[str, Any] = result.structured_content
    return answer
