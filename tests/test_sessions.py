"""The sessions that clients keep, and the results of benchmarks, become trajectories as they happened."""

from __future__ import annotations

import base64
import json
import sqlite3
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from memp_mcp.judge import judge
from memp_mcp.models import Reward, Step, Trajectory
from memp_mcp.transcripts import Skipped, episodes, read, reading
from memp_mcp.transcripts.session import TEXT_CHARACTERS

Line = dict[str, Any]
RECALL = json.dumps({"recall_id": "r_0a1b2c3d4e5f", "found": "hybrid", "procedures": []})


def written(path: Path, lines: Iterable[object]) -> Path:
    path.write_text("".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    return path


def told(path: Path, **options: str) -> list[Trajectory]:
    """The trajectories of a file in which nothing is skipped."""
    values = list(read(path, **options))
    assert all(isinstance(v, Trajectory) for v in values), values
    return [v for v in values if isinstance(v, Trajectory)]


def actions(trajectory: Trajectory) -> list[str]:
    return [s.action for s in trajectory.steps]


# -- Claude Code --------------------------------------------------------------------------------------------


class Claude:
    """A session of Claude Code as it is written, line by line; each line follows the one before."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.last: str | None = None

    def line(self, kind: str, *, after: str | None = "", **fields: Any) -> str:
        """A line of any kind."""
        uuid = f"u{len(self.lines)}"
        parent = self.last if after == "" else after
        common = {"uuid": uuid, "parentUuid": parent, "sessionId": "s", "cwd": "/home/me/shop", "isSidechain": False}
        self.lines.append({"type": kind} | common | fields)
        self.last = uuid
        return uuid

    def user(self, content: object, **fields: Any) -> str:
        """What the user, or a tool, says."""
        return self.line("user", message={"role": "user", "content": content}, **fields)

    def agent(self, *blocks: Line, message: str = "", **fields: Any) -> str:
        """A line of the agent."""
        told = {"id": message or f"msg_{len(self.lines)}", "model": "claude-x", "content": list(blocks)}
        return self.line("assistant", message={"role": "assistant", **told}, **fields)

    def does(self, command: str, output: object = "ok", *, error: bool = False, said: str = "") -> None:
        """A command and what it printed."""
        if said:
            self.agent({"type": "text", "text": said}, message=f"m-{command}")
        self.agent(bash(command), message=f"m-{command}")
        self.user([result(f"id-{command}", output, error=error)])


def bash(command: str, name: str = "Bash", **more: object) -> Line:
    return {"type": "tool_use", "id": f"id-{command}", "name": name, "input": {"command": command, **more}}


def result(call_id: str, output: object, *, error: bool = False) -> Line:
    return {"type": "tool_result", "tool_use_id": call_id, "content": output} | ({"is_error": True} if error else {})


@pytest.fixture
def claude() -> Claude:
    return Claude()


def test_a_session_tells_what_was_done_seen_and_said(claude: Claude, tmp_path: Path) -> None:
    claude.line("file-history-snapshot")
    claude.user("Publish the shop")
    claude.agent({"type": "thinking", "thinking": "First I build."}, message="m1")
    claude.agent(bash("make", description="Build it", timeout=5), message="m1")
    claude.line("progress", data={"type": "bash_progress"})
    claude.user([result("id-make", [{"type": "text", "text": "error: no rule"}], error=True)])
    claude.agent(bash("make all", description="Build all"))
    claude.user([result("id-make all", "built")])
    claude.agent({"type": "text", "text": "It is published."})

    [run] = told(written(tmp_path / "s.jsonl", claude.lines))

    assert run.task == "Publish the shop"
    assert run.steps == (
        Step(action="Bash: make", observation="error: no rule", thought="First I build.", failed=True),
        Step(action="Bash: make all", observation="built", thought="Build all"),
    )
    assert (run.client, run.model, run.outcome, run.reward) == ("claude-code", "claude-x", "unknown", None)
    assert (run.source, run.project) == ("s.jsonl", "")


@pytest.mark.parametrize(("asked", "project"), [("auto", "shop"), ("mine", "mine"), ("", "")])
def test_a_project_is_set_only_when_it_is_asked_for(claude: Claude, tmp_path: Path, asked: str, project: str) -> None:
    claude.user("Publish the shop")
    claude.does("make")
    claude.user("Go on", cwd="/home/me/shop/frontend")
    claude.does("make frontend")
    file = written(tmp_path / "s.jsonl", claude.lines)

    [run] = told(file, project=asked)

    assert run.project == project
    assert (run.id == told(file)[0].id) == (project == ""), "the project is a part of the content"


def test_results_of_parallel_calls_are_found_wherever_they_hang(claude: Claude, tmp_path: Path) -> None:
    claude.user("Look around")
    first = claude.agent(bash("ls"), message="m")
    claude.agent(bash("pwd"), message="m")
    claude.user([result("id-ls", "a.txt")], after=first)
    second = claude.lines[2]["uuid"]
    claude.user([result("id-pwd", "/home")], after=second)
    claude.agent({"type": "text", "text": "Done."})

    [run] = told(written(tmp_path / "s.jsonl", claude.lines))

    assert [(s.action, s.observation) for s in run.steps] == [("Bash: ls", "a.txt"), ("Bash: pwd", "/home")]


def test_what_was_taken_back_is_not_read(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop")
    claude.does("make")
    fork = claude.last
    claude.user("Now drop the database")
    claude.does("dropdb")
    claude.user("Now announce it", after=fork)
    claude.does("mail")

    runs = told(written(tmp_path / "s.jsonl", claude.lines))

    assert [(r.task, actions(r)) for r in runs] == [
        ("Publish the shop", ["Bash: make"]),
        ("Now announce it", ["Bash: mail"]),
    ]


def test_a_session_goes_on_after_a_compaction(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop")
    claude.does("make")
    claude.line("system", subtype="compact_boundary", after=None, logicalParentUuid="elsewhere")
    claude.user("This session is being continued from a previous conversation…", isCompactSummary=True)
    claude.user("<command-name>/compact</command-name>\n<command-args></command-args>")
    claude.user("<local-command-stdout>Compacted</local-command-stdout>")
    claude.user("Continue, please.")
    claude.does("make publish")

    [run] = told(written(tmp_path / "s.jsonl", claude.lines))

    assert (run.task, actions(run)) == ("Publish the shop", ["Bash: make", "Bash: make publish"])


def test_each_task_of_a_session_is_a_trajectory(claude: Claude, tmp_path: Path) -> None:
    claude.user("What is this?")
    claude.agent({"type": "text", "text": "A shop."})
    claude.user([{"type": "text", "text": "Publish it<system-reminder>be quick</system-reminder>"}])
    claude.does("make")
    claude.user("<task-notification>b1 is done</task-notification>\nRead its output")
    claude.user("[Request interrupted by user]")
    claude.user("yes, go on")
    claude.does("make publish")
    claude.user("Caveat: the rules changed", isMeta=True)
    claude.user("<command-name>/review</command-name><command-args>the last commit</command-args>")
    claude.does("git show")

    runs = told(written(tmp_path / "s.jsonl", claude.lines))

    assert [(r.task, len(r.steps)) for r in runs] == [("Publish it", 2), ("/review the last commit", 1)]


def test_sub_agents_are_kept_apart(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop")
    claude.agent({"type": "tool_use", "id": "t1", "name": "Task", "input": {"prompt": "Find the manual"}})
    main = claude.last
    claude.user("Find the manual", after=None, isSidechain=True)
    claude.agent(bash("find ."), isSidechain=True)
    claude.user([result("id-find .", "manual.txt")], isSidechain=True)
    claude.user([result("t1", "It is manual.txt")], after=main)

    parent, child = told(written(tmp_path / "s.jsonl", claude.lines))

    assert (parent.task, parent.steps[0].observation) == ("Publish the shop", "It is manual.txt")
    assert (child.task, actions(child)) == ("Find the manual", ["Bash: find ."])


def test_the_memorys_own_calls_leave_only_their_ids(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop")
    claude.agent({"type": "tool_use", "id": "t0", "name": "ToolSearch", "input": {"query": "memp"}})
    claude.agent({"type": "tool_use", "id": "t1", "name": "mcp__memp__recall_procedure", "input": {"task": "x"}})
    claude.user([result("t1", RECALL)])
    claude.does("make")
    used = {"type": "tool_use", "id": "t2", "name": "mcp__memp__reflect_failure", "input": {"used": ["p_0a1b2c3d4e5f"]}}
    claude.agent(used)
    file = written(tmp_path / "s.jsonl", claude.lines)

    [run] = told(file)

    assert (actions(run), run.recall_id, run.used) == (["Bash: make"], "r_0a1b2c3d4e5f", ("p_0a1b2c3d4e5f",))
    claude.agent({"type": "tool_use", "id": "t3", "name": "mcp__memp__record_trajectory", "input": {"task": "x"}})
    [recorded] = told(written(file, claude.lines))
    assert (recorded.recall_id, recorded.used) == (None, ()), "the agent's own record has the credit"


def test_images_leave_a_mark_and_long_texts_their_ends(claude: Claude, tmp_path: Path) -> None:
    claude.user("Look")
    image = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    encoded = base64.b64encode(bytes(range(256)) * 8).decode()
    claude.does("shot", [{"type": "text", "text": "taken"}, image])
    claude.does("dump", f"<img src='data:image/png;base64,{encoded}'> and {encoded}.")
    claude.does("log", "start" + "x" * 100_000 + "end", said="I think " + "a lot " * 1000)

    [run] = told(written(tmp_path / "s.jsonl", claude.lines))

    shot, dump, log = run.steps
    assert shot.observation == "taken\n[image left out]"
    assert dump.observation == "<img src='[base64 left out]'> and [base64 left out]."
    assert log.observation.startswith("start")
    assert log.observation.endswith("end")
    assert "characters left out" in log.observation
    assert len(log.observation) <= TEXT_CHARACTERS
    assert len(log.thought) < 500


def test_a_very_long_task_is_split_before_it_is_too_large_to_store(claude: Claude, tmp_path: Path) -> None:
    claude.user("Read everything")
    for number in range(130):
        claude.does(f"cat {number}", "x" * 39_000)

    runs = told(written(tmp_path / "s.jsonl", claude.lines))

    assert [r.task for r in runs] == ["Read everything"] * 2
    assert sum(len(r.steps) for r in runs) == 130


def test_broken_and_unknown_lines_cost_only_themselves(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop")
    claude.does("make")
    claude.agent({"type": "text", "text": "sorry"}, isApiErrorMessage=True)
    odd = [{"type": "new-kind", "sessionId": "s"}, "{broken\n", [1], {"type": "user", "uuid": 5}]
    claude.does("make publish")
    file = written(tmp_path / "s.jsonl", [*claude.lines[:3], *odd, *claude.lines[3:]])

    values = list(read(file))

    assert [v.line for v in values if isinstance(v, Skipped)] == [4, 5, 6, 7]
    assert "Lines of the type 'new-kind' are not known." in str(values[0])
    [run] = [v for v in values if isinstance(v, Trajectory)]
    assert len(run.steps) == 2


def test_a_session_without_calls_says_so(claude: Claude, tmp_path: Path) -> None:
    claude.user("Hello")
    claude.agent({"type": "text", "text": "Hi"})

    [skipped] = read(written(tmp_path / "s.jsonl", claude.lines))

    assert isinstance(skipped, Skipped)
    assert skipped.reason == "There is no tool call in it."


def test_steps_that_nobody_asked_for_are_counted(claude: Claude, tmp_path: Path) -> None:
    claude.does("make")

    [skipped] = read(written(tmp_path / "s.jsonl", claude.lines))

    assert "Nobody asks for the first 1 steps" in str(skipped)


# -- Codex --------------------------------------------------------------------------------------------------


def codex(kind: str, **payload: Any) -> Line:
    return {"timestamp": "2026-01-01T00:00:00Z", "type": kind, "payload": payload}


def said(role: str, text: str) -> Line:
    return codex("response_item", type="message", role=role, content=[{"type": "input_text", "text": text}])


HEAD = [
    codex("session_meta", id="x", cwd="/home/me/shop"),
    codex("turn_context", model="gpt-x", cwd="/home/me/shop"),
    said("developer", "rules"),
    said("user", "<environment_context><cwd>/</cwd></environment_context>"),
    codex("event_msg", type="user_message", message="Publish the shop"),
    said("user", "Publish the shop"),
]


def completed(call_id: str, command: str, output: str, code: int) -> Line:
    item = {"type": "CommandExecution", "id": call_id, "command": ["/bin/bash", "-lc", command]}
    return codex("event_msg", type="item_completed", item=item | {"aggregated_output": output, "exit_code": code})


def test_calls_of_a_rollout_get_their_exit_codes_from_the_events(tmp_path: Path) -> None:
    arguments = json.dumps({"cmd": "make", "workdir": "/x", "yield_time_ms": 1})
    lines = [
        *HEAD,
        codex("response_item", type="reasoning", summary=[{"type": "summary_text", "text": "I build."}]),
        codex("response_item", type="function_call", name="exec_command", arguments=arguments, call_id="c1"),
        completed("c1", "make", "no rule", 2),
        codex("response_item", type="function_call_output", call_id="c1", output="Chunk ID: 1\nOutput:\nno rule"),
        codex("response_item", type="local_shell_call", call_id="c2", action={"command": ["bash", "-lc", "ls"]}),
        codex("event_msg", type="exec_command_end", call_id="c2", exit_code=0, aggregated_output="Makefile"),
        codex("response_item", type="custom_tool_call", name="apply_patch", input="*** Begin", call_id="c3"),
        codex("event_msg", type="patch_apply_end", call_id="c3", success=True, stdout="Done", stderr=""),
        codex(
            "response_item", type="function_call", namespace="mcp__web", name="get", arguments='{"u":"a"}', call_id="c4"
        ),
        codex("event_msg", type="mcp_tool_call_end", call_id="c4", result={"Err": "refused"}),
        codex("response_item", type="function_call", name="shell", arguments='{"command":["ls"]}', call_id="c5"),
        codex(
            "response_item", type="function_call_output", call_id="c5",
            output=json.dumps({"output": "a", "metadata": {"exit_code": 1}}),
        ),
        codex("response_item", type="function_call", name="update_plan", arguments="{}", call_id="c6"),
        codex("world_state"),
        codex("new_kind"),
    ]  # fmt: skip

    skipped, run = read(written(tmp_path / "r.jsonl", lines))

    assert "'new_kind' are not known" in str(skipped)
    assert isinstance(run, Trajectory)

    assert (run.task, run.client, run.model) == ("Publish the shop", "codex", "gpt-x")
    assert run.steps == (
        Step(action="exec_command: make", observation="no rule", thought="I build.", failed=True),
        Step(action="shell: ls", observation="Makefile", failed=False),
        Step(action="apply_patch: *** Begin", observation="Done", failed=False),
        Step(action="mcp__web__get: a", observation="refused", failed=True),
        Step(action="shell: ls", observation="a", failed=True),
    )


def test_in_code_mode_the_calls_stand_for_the_script_that_made_them(tmp_path: Path) -> None:
    def script(call_id: str, code: str, *items: Line) -> list[Line]:
        call = codex("response_item", type="custom_tool_call", name="exec", input=code, call_id=call_id)
        return [call, *items, codex("response_item", type="custom_tool_call_output", call_id=call_id, output="out")]

    recall = {"type": "McpToolCall", "id": "m1", "server": "memp", "tool": "recall_procedure", "arguments": {}}
    recalled = recall | {"status": "completed", "result": {"content": [{"type": "text", "text": RECALL}]}}
    change = {"type": "FileChange", "id": "f1", "changes": {"a.py": {"type": "add"}}, "status": "completed"}
    lines = [
        *HEAD,
        *script("s1", "text(ALL_TOOLS.filter((t) => t))"),
        *script("s2", "await tools.recall()", codex("event_msg", type="item_completed", item=recalled)),
        *script("s3", "await tools.exec()", completed("e1", "make", "ok", 0)),
        *script("s4", "await tools.patch()", codex("event_msg", type="item_completed", item=change)),
        *script("s5", "text(1 + 1)"),
    ]

    [run] = told(written(tmp_path / "r.jsonl", lines))

    assert actions(run) == ["exec_command: make", 'apply_patch({"a.py":{"type":"add"}})', "exec: text(1 + 1)"]
    assert (run.steps[0].failed, run.recall_id) == (False, "r_0a1b2c3d4e5f")


# -- Qwen Code and Gemini CLI -------------------------------------------------------------------------------


def qwen(uuid: str, parent: str | None, kind: str, parts: list[Line], **more: Any) -> Line:
    role = "model" if kind == "assistant" else "user"
    line = {"uuid": uuid, "parentUuid": parent, "sessionId": "s", "type": kind, "cwd": "/home/me/shop"}
    return line | {"message": {"role": role, "parts": parts}} | more


def calls(tool: str, call_id: str = "c", **args: object) -> Line:
    return {"functionCall": {"id": call_id, "name": tool, "args": args}}


def answers(call_id: str, **response: str) -> Line:
    return {"functionResponse": {"id": call_id, "name": "x", "response": response}}


def test_a_rewind_of_qwen_code_leaves_a_dead_branch(tmp_path: Path) -> None:
    report = "Command: make\nOutput: no rule\nExit Code: 2\nSignal: (none)\nProcess Group PGID: 1"
    shell = {"status": "success", "resultDisplay": {"exitCode": 2}}
    lines = [
        qwen("a", None, "user", [{"text": "Publish"}], systemPayload={"displayText": "Publish the shop"}),
        qwen("b", "a", "assistant", [calls("run_shell_command", "c1", command="dropdb")]),
        qwen("c", "b", "tool_result", [answers("c1", output="gone")]),
        {"uuid": "d", "parentUuid": "a", "type": "system", "subtype": "rewind", "systemPayload": {"targetUuid": "a"}},
        qwen("e", "d", "assistant", [{"text": "Hm.", "thought": True}], model="qwen-x"),
        qwen("e", "d", "assistant", [calls("run_shell_command", "c2", command="make", is_background=False)]),
        qwen("f", "e", "tool_result", [answers("c2", output=report)], toolCallResult=shell),
        qwen("g", "f", "assistant", [calls("tool_call", "c3", name="mcp__web__open", arguments={"url": "x"})]),
        qwen("h", "g", "tool_result", [answers("c3", error="refused")], toolCallResult={"status": "error"}),
        qwen("i", "h", "user", [{"text": "told in the background"}], subtype="notification"),
    ]
    glued = "".join(json.dumps(line) for line in lines[-2:]) + "\n"

    [run] = told(written(tmp_path / "s.jsonl", [*lines[:-2], glued]))

    assert (run.task, run.client, run.model) == ("Publish the shop", "qwen-code", "qwen-x")
    assert run.steps == (
        Step(action="run_shell_command: make", observation=report, thought="Hm.", failed=True),
        Step(action="mcp__web__open: x", observation="refused", failed=True),
    )


def gemini(message_id: str, **more: Any) -> Line:
    return {"id": message_id, "type": "gemini", "content": "", "model": "gemini-x"} | more


def gemini_call(command: str, output: str, status: str = "success", *, hook: str = "") -> Line:
    wrapped = f"<untrusted_context>\n{output}\n</untrusted_context>{hook}"
    response = {"functionResponse": {"id": "c", "response": {"output": wrapped}}}
    return {
        "id": command,
        "name": "run_shell_command",
        "args": {"command": command},
        "result": [response],
        "status": status,
    }


GEMINI_HEAD = {"sessionId": "s", "projectHash": "h", "kind": "main", "directories": ["/home/me/shop"]}


def test_a_message_of_gemini_that_is_written_again_counts_once(tmp_path: Path) -> None:
    context = {"id": "0", "type": "user", "content": [{"text": "<session_context>\nlinux\n</session_context>"}]}
    lines = [
        GEMINI_HEAD,
        {"$set": {"messages": [context]}},
        {"id": "1", "type": "user", "content": [{"text": "Publish the shop"}]},
        gemini("2"),
        gemini("2", thoughts=[{"description": "I build."}], toolCalls=[gemini_call("make", "Output: x\nExit Code: 1")]),
        {"$set": {"lastUpdated": "now"}},
        gemini("3", toolCalls=[gemini_call("dropdb", "gone")]),
        {"$rewindTo": "3"},
        gemini("4", toolCalls=[gemini_call("make all", "stopped", "cancelled")]),
    ]

    [run] = told(written(tmp_path / "s.jsonl", lines), project="auto")

    assert (run.task, run.client, run.model, run.project) == ("Publish the shop", "gemini-cli", "gemini-x", "shop")
    assert run.steps == (
        Step(action="run_shell_command: make", observation="Output: x\nExit Code: 1", thought="I build.", failed=True),
        Step(action="run_shell_command: make all", observation="stopped", failed=True),
    )


@pytest.mark.parametrize(
    ("report", "failed"),
    [
        ("Output: made\nProcess Group PGID: 7", False),
        ("Output: (empty)\nExit Code: 2\nProcess Group PGID: 7", True),
        ("Output: killed\nSignal: 9", None),
        ("Command moved to background (PID: 7). Output hidden.", None),
    ],
)
def test_a_shell_of_gemini_tells_only_of_a_failure_how_a_command_ended(
    tmp_path: Path, report: str, *, failed: bool | None
) -> None:
    asked = {"id": "1", "type": "user", "content": "Publish the shop"}
    lines = [GEMINI_HEAD, asked, gemini("2", toolCalls=[gemini_call("make", report)])]

    [run] = told(written(tmp_path / "s.jsonl", lines))

    assert [step.failed for step in run.steps] == [failed]


def test_an_old_session_of_gemini_is_one_document(tmp_path: Path) -> None:
    messages = [
        {"id": "1", "type": "user", "content": "Publish the shop"},
        {"id": "2", "type": "info", "content": "cancelled"},
        gemini("3", toolCalls=[gemini_call("make", "ok\nExit Code: 0")]),
        {"id": "4", "type": "gemini", "toolCalls": "none"},
    ]
    file = written(tmp_path / "s.json", [json.dumps({**GEMINI_HEAD, "messages": messages}, indent=1)])

    skipped, run = read(file)

    assert isinstance(skipped, Skipped)
    assert isinstance(run, Trajectory)
    assert [(s.action, s.failed) for s in run.steps] == [("run_shell_command: make", False)]


# -- what a memory that speaks by itself asks of a session -----------------------------------------------------

GIVEN = '<memp-recall recall_id="r_0a1b2c3d4e5f">\n{"procedures":[{"id":"p_0a1b2c3d4e5f"}]}\n</memp-recall>'


def claude_with_hook(folder: Path) -> Path:
    claude = Claude()
    claude.user("Publish the shop")
    claude.line("attachment", attachment={"type": "hook_additional_context", "content": [GIVEN]})
    claude.does("make", f"made\n{GIVEN}")
    return written(folder / "s.jsonl", claude.lines)


def codex_with_hook(folder: Path) -> Path:
    arguments = json.dumps({"cmd": "make"})
    call = codex("response_item", type="function_call", name="exec_command", arguments=arguments, call_id="c1")
    output = codex("response_item", type="function_call_output", call_id="c1", output="made\n")
    return written(folder / "s.jsonl", [*HEAD, said("developer", GIVEN), call, output])


def qwen_with_hook(folder: Path) -> Path:
    marked = GIVEN.replace("<", "&lt;").replace(">", "&gt;")
    context = {"text": f"<qwen:user-prompt-submit-context>\n{marked}\n</qwen:user-prompt-submit-context>"}
    lines = [
        qwen("a", None, "user", [{"text": "Publish the shop"}, context]),
        qwen("b", "a", "assistant", [calls("run_shell_command", "c1", command="make")]),
        qwen("c", "b", "tool_result", [answers("c1", output=f"made\n{context['text']}")]),
    ]
    return written(folder / "s.jsonl", lines)


def gemini_with_hook(folder: Path) -> Path:
    marked = GIVEN.replace("<", "&lt;").replace(">", "&gt;")
    context = f"<hook_context>{marked}</hook_context>"
    begun = {"id": "0", "type": "user", "content": [{"text": "<hook_context>memp remembers much.</hook_context>"}]}
    asked = {"id": "1", "type": "user", "content": [{"text": "Publish the shop"}, {"text": context}]}
    done = gemini("2", toolCalls=[gemini_call("make", "made", hook=f"\n\n{context}")])
    return written(folder / "s.jsonl", [GEMINI_HEAD, begun, asked, done])


@pytest.mark.parametrize("client", [claude_with_hook, codex_with_hook, qwen_with_hook, gemini_with_hook])
def test_a_recall_that_a_hook_gave_is_credited_and_left_out(client: Callable[[Path], Path], tmp_path: Path) -> None:
    [run] = told(client(tmp_path))

    assert (run.task, run.recall_id, run.used) == ("Publish the shop", "r_0a1b2c3d4e5f", ())
    assert [s.observation.strip() for s in run.steps] == ["made"]


def test_of_several_recalls_the_agents_own_goes_first_and_then_that_of_the_prompt(
    claude: Claude, tmp_path: Path
) -> None:
    claude.user(f"Publish the shop\n{GIVEN}")
    claude.does("make", f"error: not signed\n{GIVEN.replace('r_0a1b2c3d4e5f', 'r_ffffffffffff')}")
    file = written(tmp_path / "s.jsonl", claude.lines)

    [run] = told(file)
    assert (run.recall_id, run.used) == ("r_0a1b2c3d4e5f", ())

    claude.agent({"type": "tool_use", "id": "t1", "name": "mcp__memp__recall_procedure", "input": {"task": "x"}})
    claude.user([result("t1", json.dumps({"recall_id": "r_aaaaaaaaaaaa"}))])
    [run] = told(written(file, claude.lines))
    assert run.recall_id == "r_aaaaaaaaaaaa"


def test_an_episode_keeps_its_id_while_it_grows_and_in_another_file(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop", timestamp="2026-01-01T00:00:00.001Z")
    claude.does("make")
    [early] = told(written(tmp_path / "s.jsonl", claude.lines))
    claude.does("make publish")
    [late] = told(written(tmp_path / "fork.jsonl", claude.lines), project="shop")
    claude.user("Publish the shop", timestamp="2026-02-02T00:00:00.001Z")
    claude.user("No: open it")
    claude.user("Publish the shop", timestamp="2026-02-02T00:00:00.001Z")
    claude.does("make")
    *_, again = told(written(tmp_path / "s.jsonl", claude.lines))

    assert (len(early.steps), len(late.steps), early.id) == (1, 2, late.id)
    assert again.id != early.id


def test_what_the_user_says_next_is_kept_with_the_work_that_it_is_about(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop")
    claude.does("make")
    claude.user("That is wrong.")
    claude.does("make publish")
    claude.user("Thanks!")
    claude.does("make clean")
    claude.user("Now stop the shop")
    claude.does("make stop")

    runs = told(written(tmp_path / "s.jsonl", claude.lines))

    assert [(r.task, actions(r), r.feedback) for r in runs] == [
        ("Publish the shop", ["Bash: make"], "That is wrong."),
        ("Publish the shop", ["Bash: make publish", "Bash: make clean"], "Thanks!"),
        ("Now stop the shop", ["Bash: make stop"], ""),
    ]


@pytest.mark.parametrize(("agent", "feedback"), [("It is mended.", "nope"), ("Mended. Shall I push it?", "")])
def test_a_mere_no_is_a_complaint_unless_the_agent_has_asked(
    claude: Claude, tmp_path: Path, agent: str, feedback: str
) -> None:
    claude.user("Mend the login page")
    claude.does("make")
    claude.agent({"type": "text", "text": agent})
    claude.user("nope")
    claude.does("make again")

    first, *_ = told(written(tmp_path / "s.jsonl", claude.lines))

    assert first.feedback == feedback
    assert first.task == "Mend the login page"


def test_the_last_episode_is_open_and_that_of_a_record_is_marked(claude: Claude, tmp_path: Path) -> None:
    claude.user("Publish the shop")
    claude.does("make")
    claude.agent({"type": "tool_use", "id": "t3", "name": "mcp__memp__record_trajectory", "input": {"task": "x"}})
    claude.user("Now stop the shop")
    claude.does("make stop")

    found = list(episodes(written(tmp_path / "s.jsonl", claude.lines), source_format="claude-code"))

    assert [(e.is_open, e.is_recorded) for e in found] == [(False, True), (True, False)]


# -- opencode and Cursor ------------------------------------------------------------------------------------

SESSION = {"id": "ses_1", "projectID": "p", "directory": "/home/me/shop"}
OPENCODE: list[tuple[Line, list[Line]]] = [
    ({"id": "msg_1", "role": "user"}, [{"type": "text", "text": "Publish the shop"}]),
    (
        {"id": "msg_2", "role": "assistant", "modelID": "gpt-x"},
        [
            {"type": "reasoning", "text": "I build."},
            {"type": "text", "text": "synthetic", "synthetic": True},
            {
                "type": "tool",
                "callID": "c1",
                "tool": "bash",
                "state": {"status": "completed", "input": {"command": "make"}, "output": "no", "metadata": {"exit": 1}},
            },
            {
                "type": "tool",
                "callID": "c2",
                "tool": "edit",
                "state": {"status": "error", "input": {"filePath": "Makefile"}, "error": "no such file"},
            },
        ],
    ),
]
OPENCODE_STEPS = (
    Step(action="bash: make", observation="no", thought="I build.", failed=True),
    Step(action="edit: Makefile", observation="no such file", failed=True),
)


def opencode_files(folder: Path, *, flat: bool) -> Path:
    for number, (info, parts) in enumerate(OPENCODE):
        (folder / "message" / "ses_1").mkdir(parents=True, exist_ok=True)
        (folder / "message" / "ses_1" / f"msg_{number}.json").write_text(json.dumps(info))
        for place, part in enumerate(parts):
            file = folder / "part" / ("" if flat else info["id"]) / f"prt_{number}{place}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(part | {"messageID": info["id"]}))
    (folder / "session" / "p").mkdir(parents=True)
    return written(folder / "session" / "p" / "ses_1.json", [SESSION])


def opencode_export(folder: Path) -> Path:
    messages = [{"info": info, "parts": parts} for info, parts in OPENCODE]
    return written(folder / "export.json", [json.dumps({"info": SESSION, "messages": messages}, indent=2)])


def opencode_database(folder: Path) -> Path:
    file = folder / "opencode.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE session (id, directory, time_created)")
        db.execute("CREATE TABLE message (id, session_id, data)")
        db.execute("CREATE TABLE part (id, message_id, session_id, data)")
        db.execute("INSERT INTO session VALUES ('ses_1', '/home/me/shop', 1)")
        for info, parts in OPENCODE:
            db.execute("INSERT INTO message VALUES (?, 'ses_1', ?)", (info["id"], json.dumps(info)))
            for place, part in enumerate(parts):
                db.execute("INSERT INTO part VALUES (?, ?, 'ses_1', ?)", (place, info["id"], json.dumps(part)))
    return file


@pytest.mark.parametrize("kept", ["files", "flat files", "export", "database"])
def test_a_session_of_opencode_is_the_same_however_it_is_kept(tmp_path: Path, kept: str) -> None:
    ways = {"export": opencode_export, "database": opencode_database}
    file = ways[kept](tmp_path) if kept in ways else opencode_files(tmp_path, flat=kept == "flat files")

    [run] = told(file, project="auto")

    assert (run.task, run.steps) == ("Publish the shop", OPENCODE_STEPS)
    assert (run.client, run.model, run.project) == ("opencode", "gpt-x", "shop")


def opencode_prompt(folder: Path, text: str, *, steps: int = 1, **more: object) -> Path:
    """An export of a session with a prompt and so many steps."""
    info = OPENCODE[0][0] | {"time": {"created": 1795740179094}} | more
    done, parts = OPENCODE[1]
    messages = [
        {"info": info, "parts": [{"type": "text", "text": text}]},
        {"info": done, "parts": [part for part in parts if part["type"] == "tool"][:steps]},
    ]
    return written(folder / "export.json", [{"info": SESSION, "messages": messages}])


def test_a_session_of_opencode_that_has_grown_keeps_its_id(tmp_path: Path) -> None:
    [early] = told(opencode_prompt(tmp_path, "Publish the shop"))
    [late] = told(opencode_prompt(tmp_path, "Publish the shop", steps=2))
    [other] = told(opencode_prompt(tmp_path, "Publish the shop", time={"created": 1795740186371}))

    assert (len(early.steps), len(late.steps), early.id) == (1, 2, late.id)
    assert other.id != early.id


@pytest.mark.parametrize(
    ("kept", "task"),
    [
        (r'"Publish the \"shop\" from C:\shop"', r'Publish the "shop" from C:\shop'),
        ('Publish "the shop"', 'Publish "the shop"'),
        ('"the shop" and "the farm"', '"the shop" and "the farm"'),
        ('"Publish"', '"Publish"'),
    ],
)
def test_a_prompt_is_read_without_the_marks_that_opencode_run_puts_around_it(
    tmp_path: Path, kept: str, task: str
) -> None:
    [run] = told(opencode_prompt(tmp_path, kept))

    assert run.task == task


def test_the_oldest_session_in_a_database_of_opencode_comes_first(tmp_path: Path) -> None:
    file = opencode_database(tmp_path)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("INSERT INTO session VALUES ('ses_0', '/home/me/farm', 2)")
        for info, parts in OPENCODE:
            db.execute("INSERT INTO message VALUES (?, 'ses_0', ?)", (f"{info['id']}0", json.dumps(info)))
            for place, part in enumerate(parts):
                db.execute("INSERT INTO part VALUES (?, ?, 'ses_0', ?)", (place, f"{info['id']}0", json.dumps(part)))

    assert [run.project for run in told(file, project="auto")] == ["shop", "farm"]


def test_a_damaged_part_of_opencode_costs_only_itself(tmp_path: Path) -> None:
    file = opencode_files(tmp_path, flat=False)
    (tmp_path / "message" / "ses_1" / "msg_9.json").write_text("{broken")
    (tmp_path / "part" / "msg_2" / "prt_9.json").write_text('{"text": "of no type"}')

    skipped, run = read(file)

    assert "type: Field required" in str(skipped)
    assert isinstance(run, Trajectory)
    assert run.steps == OPENCODE_STEPS


def test_another_programs_database_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE other (id)")

    [skipped] = read(file, source_format="opencode")

    assert "no database of opencode" in str(skipped)


def test_results_of_cursor_belong_to_the_oldest_open_call_of_their_turn(tmp_path: Path) -> None:
    def line(role: str, *blocks: Line) -> Line:
        return {"role": role, "message": {"content": list(blocks)}}

    lines = [
        line("user", {"type": "text", "text": "<user_query>\nPublish the shop\n</user_query>"}),
        line("assistant", {"type": "thinking", "thinking": "I look."}, bash("ls") | {"id": None}),
        line("user", {"type": "text", "text": "Announce it"}),
        line("assistant", {"type": "tool_call", "name": "Read", "input": {"path": "a"}}, bash("mail")),
        line("user", result("id-mail", "sent"), {"type": "tool-result", "content": [{"type": "text", "text": "A"}]}),
        {"type": "turn_ended", "status": "success"},
        {"type": "turn_mended"},
    ]

    first, skipped, second = read(written(tmp_path / "c.jsonl", lines))

    assert "'turn_mended' are not known" in str(skipped)
    assert isinstance(first, Trajectory)
    assert isinstance(second, Trajectory)

    assert (first.task, first.steps) == ("Publish the shop", (Step(action="Bash: ls", thought="I look."),))
    assert [(s.action, s.observation) for s in second.steps] == [("Read: a", "A"), ("Bash: mail", "sent")]


# -- message lists, ATIF, benchmarks ------------------------------------------------------------------------

ANTHROPIC = [
    {"role": "user", "content": "Publish the shop"},
    {"role": "assistant", "content": [{"type": "text", "text": "I build."}, bash("make", "bash")]},
    {"role": "user", "content": [result("id-make", "no rule", error=True)]},
]


@pytest.mark.parametrize("around", [True, False])
def test_a_message_list_of_anthropics_api_is_read(tmp_path: Path, *, around: bool) -> None:
    document = {"model": "claude-x", "messages": ANTHROPIC} if around else ANTHROPIC

    [run] = told(written(tmp_path / "m.json", [json.dumps(document, indent=1)]))

    assert (run.task, run.model) == ("Publish the shop", "claude-x" if around else "")
    assert run.steps == (Step(action="bash: make", observation="no rule", thought="I build.", failed=True),)


def test_a_message_list_of_anthropics_api_may_state_its_task_and_reward(tmp_path: Path) -> None:
    second = [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": [bash("ls", "bash")]}]
    document = {"messages": [*ANTHROPIC, *second], "task": "Publish", "reward": 1}
    bad = {"messages": ANTHROPIC, "reward": 7}

    run, skipped = read(written(tmp_path / "m.jsonl", [document, bad]))

    assert isinstance(run, Trajectory)
    assert (run.task, len(run.steps), run.outcome, run.succeeded) == ("Publish", 2, "success", True)
    assert isinstance(skipped, Skipped)


def test_an_atif_run_is_read_with_its_sub_agents(tmp_path: Path) -> None:
    def agent(**more: Any) -> Line:
        return {"step_id": 2, "source": "agent", "message": "I build."} | more

    call = {"tool_call_id": "c1", "function_name": "bash", "arguments": {"command": "make"}}
    unnamed = [{"function_name": "look", "arguments": {}}, {"function_name": "wait", "arguments": {}}]
    steps = [
        {"step_id": 1, "source": "system", "message": "rules"},
        {"step_id": 1, "source": "user", "message": "Publish the shop"},
        agent(tool_calls=[call], observation={"results": [{"source_call_id": "c1", "content": "no rule"}]}),
        agent(message="", tool_calls=unnamed, observation={"results": [{"content": "a"}, {"content": "b"}]}),
        {"source": 5},
    ]
    inner = {"schema_version": "ATIF-v1.7", "agent": {"name": "helper"}, "steps": steps[1:3]}
    run = {"schema_version": "ATIF-v1.7", "agent": {"name": "terminus", "model_name": "m"}, "steps": steps}

    skipped, main, child = read(written(tmp_path / "a.json", [run | {"subagent_trajectories": [inner]}]))

    assert "Step 5" in str(skipped)
    assert isinstance(main, Trajectory)
    assert isinstance(child, Trajectory)
    assert [(s.action, s.observation) for s in main.steps] == [
        ("bash: make", "no rule"), ("look()", "a"), ("wait()", "b"),
    ]  # fmt: skip
    assert (main.client, main.model, child.client, len(child.steps)) == ("terminus", "m", "helper", 1)


def test_a_demonstration_of_swe_agent_is_a_message_list(tmp_path: Path) -> None:
    call = {"id": "c", "function": {"name": "open", "arguments": '{"path": "Makefile"}'}}
    history = [
        {"role": "user", "content": "ISSUE:\nmake fails"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "all:", "tool_call_ids": ["c"]},
    ]
    nameless = [{"role": "system", "content": "x"}, *history[1:]]

    run, skipped = read(written(tmp_path / "x.traj", [{"history": history}, {"history": nameless}]))

    assert isinstance(run, Trajectory)
    assert (run.task, run.steps) == (
        "make fails",
        (Step(action="open: Makefile", observation="all:", thought="I look."),),
    )
    assert "no message of a user" in str(skipped)


def test_a_submitted_patch_of_swe_agent_verifies_nothing(tmp_path: Path) -> None:
    asked = "Solve this.\nISSUE:\nmake fails\n\nINSTRUCTIONS:\nBe good."
    history = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "a demonstration", "is_demo": True},
        {"role": "user", "content": [{"type": "text", "text": asked}]},
    ]
    steps = [
        {"thought": "DISCUSSION\nI look.\n```\nls\n```", "action": "ls\n", "observation": "Makefile"},
        {"thought": "empty", "action": " "},
    ]
    run = {"history": history, "trajectory": steps, "info": {"exit_status": "submitted"}}
    nothing = {"history": history, "trajectory": []}

    first, second = read(written(tmp_path / "x.traj", [run, nothing]))

    assert isinstance(first, Trajectory)
    assert (first.task, first.outcome, first.reward) == ("make fails", "unknown", None)
    assert first.steps == (Step(action="ls", observation="Makefile", thought="I look."),)
    assert "There is no action" in str(second)


TAU_CALL = {"id": "c", "type": "function", "function": {"name": "cancel", "arguments": '{"id": "R1"}'}}
TAU = [
    {"role": "system", "content": "policy"},
    {"role": "user", "content": "Cancel R1"},
    {"role": "assistant", "content": None, "tool_calls": [TAU_CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "cancelled"},
    {"role": "user", "content": "Thank you. And my bags?"},
]


@pytest.mark.parametrize(("reward", "outcome"), [(1.0, "success"), (0.0, "failure")])
def test_the_reward_of_tau_bench_is_the_environments(tmp_path: Path, reward: float, outcome: str) -> None:
    runs = [{"task_id": 1, "trial": 0, "reward": reward, "info": {}, "traj": TAU}]

    [run] = told(written(tmp_path / "t.json", [json.dumps(runs, indent=1)]))

    assert run.reward == Reward(score=reward, judged_by="environment", verified=True)
    assert (run.task, run.outcome, actions(run)) == ("Cancel R1", outcome, ["cancel: R1"])


def test_the_simulated_users_own_tools_are_no_steps_of_the_agent(tmp_path: Path) -> None:
    flat = {"id": "c", "name": "cancel", "arguments": {"id": "R1"}}
    messages = [
        {"role": "user", "content": "Cancel R1"},
        {"role": "user", "tool_calls": [flat | {"name": "toggle"}]},
        {"role": "tool", "id": "c", "content": "on", "requestor": "user"},
        {"role": "assistant", "content": "", "tool_calls": [flat]},
        {"role": "tool", "id": "c", "content": "cancelled", "requestor": "assistant"},
    ]
    simulation = {"task_id": "1", "trial": 0, "termination_reason": "user_stop", "messages": messages}
    done = simulation | {"reward_info": {"reward": 1.0}}

    first, second = told(written(tmp_path / "t.json", [{"simulations": [done, simulation | {"reward_info": None}]}]))

    assert first.steps == (Step(action="cancel: R1", observation="cancelled"),)
    assert (first.outcome, second.outcome, second.reward) == ("success", "unknown", None)


# -- the real ones ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unpacked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real transcripts that are kept packed."""
    folder = tmp_path_factory.mktemp("transcripts")
    for packed in (data / "transcripts").glob("*/*.tar.xz"):
        with tarfile.open(packed) as archive:
            archive.extractall(folder / packed.parent.name, filter="data")
    return folder


SAME_TASK = {
    "claude-code.jsonl": ("claude-code", "Bash"),
    "codex-rollout-codemode-gpt-6.1-sol.jsonl": ("codex", "exec_command"),
    "codex-rollout-direct-gpt-5.5.jsonl": ("codex", "exec_command"),
    "qwen-chat.jsonl": ("qwen-code", "run_shell_command"),
    "gemini-chat.jsonl": ("gemini-cli", "run_shell_command"),
}


@pytest.mark.parametrize("name", SAME_TASK)
def test_the_same_task_reads_the_same_from_every_real_client(data: Path, name: str) -> None:
    """Each did: recall, a failing command, a repair, a record."""
    source_format, tool = SAME_TASK[name]
    file = data / "transcripts" / "clients" / name

    assert reading(file).format == source_format
    [run] = told(file)

    assert run.task.startswith("Write fib.py with a recursive Fibonacci function and a self-check")
    failed, repaired = run.steps
    assert failed.action.startswith(f"{tool}: printf 'def fib(n):")
    assert "AssertionError: 6" in failed.observation
    assert repaired.action == f"{tool}: sed -i 's/fib(n-3)/fib(n-2)/' fib.py && python3 fib.py"
    assert "ok" in repaired.observation
    assert (failed.failed, repaired.failed in {False, None}) == (True, True)
    assert (run.client, run.recall_id, run.outcome) == (source_format, None, "unknown")


def test_real_sessions_of_claude_code_lose_no_call(unpacked: Path) -> None:
    found = [v for f in sorted((unpacked / "claude-code-spotter").rglob("*.jsonl")) for v in read(f)]
    runs = [v for v in found if isinstance(v, Trajectory)]

    assert Counter(type(v).__name__ for v in found) == {"Trajectory": 17, "Skipped": 5}
    assert {v.reason for v in found if isinstance(v, Skipped)} == {"There is no tool call in it."}
    assert sum(len(r.steps) for r in runs) == 1133  # of 1,136 calls three only serve the client (plan mode)
    assert sum(s.failed is True for r in runs for s in r.steps) == 59
    assert sum(judge(r) is not None for r in runs) == 4, "the tests ran after the last edit"
    assert all(len(r.task) <= 500 and not r.task.startswith("<") for r in runs)


def test_real_runs_of_swe_agent_are_read_completely(unpacked: Path) -> None:
    runs = [run for f in sorted((unpacked / "swe-agent").rglob("*.traj")) for run in told(f)]

    assert (len(runs), sum(len(r.steps) for r in runs)) == (22, 232)
    assert {r.outcome for r in runs} == {"unknown"}
    assert len({r.task for r in runs if r.task.startswith("TimeDelta")}) == 1


def test_scrubbed_sessions_of_many_versions_are_read_or_skipped_with_a_reason(unpacked: Path) -> None:
    agents = unpacked / "agent-sessions" / "Resources" / "Fixtures" / "stage0" / "agents"
    found: dict[str, list[str]] = {}
    for agent, name in {"codex": "codex", "qwen": "qwen-code", "cursor": "cursor", "opencode": "opencode"}.items():
        files = [
            f for f in sorted((agents / agent).rglob("*.json*")) if "message" not in f.parts and "part" not in f.parts
        ]
        found[agent] = [v.task for f in files for v in read(f, source_format=name) if isinstance(v, Trajectory)]

    assert found == {
        "codex": ["List the files", "[trimmed for fixture]"],
        "qwen": ["Inspect the synthetic fixture.", "Begin the active-chain fixture."],
        "cursor": [
            "What files are here?", "Read file1.txt.", "Use the repo context and explain the latest build issue.",
            "Run ls.", "Run a subagent.",
        ],
        "opencode": ["Open README", "Step 1", "Hello"],
    }  # fmt: skip


def test_a_real_atif_run_that_is_redacted_tells_of_no_task(data: Path) -> None:
    [skipped] = read(next((data / "transcripts" / "atif").glob("*.json")))

    assert "Nobody asks for the first 4 steps" in str(skipped)
