"""The memory in bulk: import, export, cold start, rebuild."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TypeVar

import pytest
from builders import lost, procedure, trajectory, won
from conftest import OpenMemory
from fakes import NoEmbedder, ScriptedLLM
from pydantic import BaseModel

from memp_mcp import transcripts
from memp_mcp.archive import export, import_files, preview, sources
from memp_mcp.bootstrap import bootstrap
from memp_mcp.errors import BadInput, EmbedderError, MempError, StoreDamaged
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Trajectory
from memp_mcp.rebuild import rebuild
from memp_mcp.reflect import Report
from memp_mcp.repair import problems
from memp_mcp.settings import Settings
from memp_mcp.transcripts import Exported, Skipped, read

A = TypeVar("A", bound=BaseModel)


def write(path: Path, *told: Trajectory | str) -> Path:
    """A file in the project's own format, one trajectory or raw text a line."""
    fields = {"task", "steps", "outcome", "reward", "project", "client", "model", "key"}
    lines = [t if isinstance(t, str) else t.model_dump_json(include=fields) for t in told]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def lived(memory: Memory) -> Memory:
    """A memory that has seen recording, recalling, failing and reflecting."""
    memory.record(won("publish the shop", "release build", "release publish"))
    recall = memory.recall("publish the shop")
    memory.record(lost("publish the shop again", ("release build", "error: x\n[exit code 1]"), recall_id=recall.id))
    memory.reflect(Report(task="publish the shop", error="error: x", diagnosis="clean first", correction="+s0: clean"))
    memory.record(won("sweep the floor", "take the broom", "sweep"))
    return memory


def contents(memory: Memory) -> list[str]:
    return list(export(memory))[1:]


def test_an_export_is_taken_over_without_a_loss_and_once(open_memory: OpenMemory, tmp_path: Path) -> None:
    source = lived(open_memory("source"))
    file = tmp_path / "memory.jsonl"
    file.write_text("\n".join(export(source)), encoding="utf-8")
    target = open_memory("target")

    first, again = import_files(target, [file]), import_files(target, [file])

    assert contents(target) == contents(source)
    assert (first.stored, again.stored, again.stored_before) == (3, 0, 3)
    ids = [p.id for p in source.list_procedures()]
    assert target.store.counts(ids) == source.store.counts(ids)
    assert [m.procedure.id for m in target.recall("publish the shop").matches]
    assert problems(target) == []


def test_two_memories_become_one(open_memory: OpenMemory, tmp_path: Path) -> None:
    mine, other = open_memory("mine"), open_memory("other")
    mine.record(won("sweep the floor", "sweep"))
    other.record(won("brew tea", "boil water"))
    file = tmp_path / "other.jsonl"
    file.write_text("\n".join(export(other)), encoding="utf-8")

    import_files(mine, [file])

    assert {p.title for p in mine.list_procedures()} == {"sweep the floor", "brew tea"}


def test_secrets_of_a_foreign_export_stay_out(memory: Memory, tmp_path: Path) -> None:
    secret = "ghp_" + "a1B2" * 9
    told = won("push", f"git push {secret}")
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"memp": 1, "kind": "trajectory", "value": json.loads(told.model_dump_json())}))

    import_files(memory, [file])

    assert all(secret not in line for line in contents(memory))


def test_a_named_file_that_cannot_be_read_costs_itself_alone(open_memory: OpenMemory, tmp_path: Path) -> None:
    source, target = lived(open_memory("source")), open_memory("target")
    file, unknown, none = tmp_path / "memory.jsonl", tmp_path / "a.txt", tmp_path / "none.jsonl"
    file.write_text("\n".join(export(source)), encoding="utf-8")
    unknown.write_text('{"hello": 1}\n')

    done = import_files(target, [unknown, file, none])

    assert contents(target) == contents(source)
    assert (done.unread, done.skips) == (2, 2)
    assert done.skipped[0].startswith(f"{unknown}: It is of no known format. Known formats: own")
    assert done.skipped[1] == f"{none}: It is not a file. Give the path of a transcript."


def test_another_history_of_the_same_procedure_is_told_and_ours_is_kept(
    open_memory: OpenMemory, tmp_path: Path
) -> None:
    mine, other = open_memory("mine"), open_memory("other")
    mine.record(won("sweep the floor", "sweep"))
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(export(mine)), encoding="utf-8")
    import_files(other, [file])
    [procedure] = mine.list_procedures()
    mine.retire(procedure.id, reason="dusty")
    other.retire(procedure.id, reason="loud")
    file.write_text("\n".join(export(other)), encoding="utf-8")

    done = import_files(mine, [file])

    assert done.skipped == (f"{procedure.id}: this memory has another history of it, which was kept",)
    assert mine.get(procedure.id).procedure.reason == "dusty"


def test_an_export_saves_what_can_be_read_and_then_says_what_it_lacks(memory: Memory, tmp_path: Path) -> None:
    lived(memory)
    for file in (tmp_path / "memory" / "trajectories.lance" / "data").iterdir():
        file.write_bytes(b"")
    lines: list[str] = []

    with pytest.raises(StoreDamaged, match="complete but for"):
        lines.extend(export(memory))

    kinds = [json.loads(line)["kind"] for line in lines]
    assert {"header", "event", "procedure"} == set(kinds)
    assert kinds.count("procedure") == len(list(memory.store.all_revisions()))


def test_an_export_while_others_write_lacks_nothing_that_it_speaks_of(open_memory: OpenMemory, tmp_path: Path) -> None:
    memory, target = open_memory(), open_memory("target")
    lived(memory)
    file = tmp_path / "memory.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for number, line in enumerate(export(memory)):
            out.write(line + "\n")
            if number % 5 == 0:
                memory.record(won(f"task {'abcdefghijklmnop'[number // 5]}", "do it"))

    import_files(target, [file])
    for told in memory.store.all_trajectories():
        target.record(told.model_copy(update={"recall_id": None, "used": ()}))

    assert {t.id for t in target.store.all_trajectories()} == {t.id for t in memory.store.all_trajectories()}
    assert target.store.unfinished() == []


def test_a_broken_line_costs_itself_alone(memory: Memory, tmp_path: Path) -> None:
    good, other = won("sweep the floor", "sweep"), won("brew tea", "boil water")
    file = write(
        tmp_path / "t.jsonl", good, '{"task": "x", "steps": [{"act', '{"task": "", "steps": [{"action": "a"}]}', other
    )
    ticks: list[int] = []

    done = import_files(memory, [file], advance=ticks.append)

    assert (done.read, done.stored, done.added, len(done.skipped)) == (2, 2, 2, 2)
    assert ticks == [1], "one for each file"
    assert import_files(memory, [file]).stored_before == 2


def test_an_unknown_format_is_refused_naming_the_known(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no format 'x'\. Known formats"):
        import_files(memory, [tmp_path], source_format="x")


def chat(task: str, *commands: str) -> str:
    """A message list as a program with OpenAI's API keeps it, on one line."""
    messages: list[object] = [{"role": "user", "content": task}]
    for number, command in enumerate(commands):
        call = {"id": str(number), "function": {"name": "bash", "arguments": json.dumps({"command": command})}}
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": str(number), "content": "===== 3 passed in 0.1s ====="})
    return json.dumps({"messages": messages})


def session() -> str:
    """A session of Claude Code in which the memory was asked for 'sweep the floor'."""
    recalled = {"recall_id": "r_" + "0" * 12}
    told: list[tuple[str, object]] = [
        ("user", "sweep the floor"),
        ("assistant", [{"type": "tool_use", "id": "1", "name": "mcp__memp__recall_procedure", "input": {}}]),
        ("user", [{"type": "tool_result", "tool_use_id": "1", "content": json.dumps(recalled)}]),
        ("assistant", [{"type": "tool_use", "id": "2", "name": "Bash", "input": {"command": "sweep"}}]),
    ]
    nodes = (
        {"type": kind, "uuid": str(n), "parentUuid": str(n - 1) if n else None, "sessionId": "s", "cwd": "/me/house",
         "message": {"role": kind, "content": content}}
        for n, (kind, content) in enumerate(told)
    )  # fmt: skip
    return "\n".join(json.dumps(n) for n in nodes)


def test_a_folder_is_imported_with_what_is_recognised_in_it(memory: Memory, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    (folder / "deep").mkdir(parents=True)
    write(folder / "a.jsonl", chat("sweep the floor", "sweep", "pytest"))
    write(folder / "deep" / "b.jsonl", won("brew tea", "boil water"))
    write(folder / "config.json", '{"colour": "red"}')

    done = import_files(memory, sources([folder], [], {}))

    assert (done.read, done.stored, done.added, done.skips) == (2, 2, 2, 1)
    assert done.skipped == (f"{folder / 'config.json'}:1: It is of no known format.",)
    assert done.unread == 0, "nobody has named it"
    assert import_files(memory, sources([folder], [], {})).stored_before == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_of_a_file_in_a_folder_the_real_reason_is_told(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "large.json").write_text('{\n"messages": []\n}' + " " * 200)
    (folder / "torn.json").symlink_to("/proc/self/mem")  # a file that opens and cannot be read, for root neither
    monkeypatch.setattr(transcripts, "WHOLE_BYTES", 100)

    done = import_files(memory, sources([folder], [], {}))

    assert done.skipped == (
        f"{folder / 'large.json'}:1: It has 218 bytes; as a single document 100 are read.",
        f"{folder / 'torn.json'}:1: Input/output error.",
    )


def test_nothing_to_import_is_said_with_what_could_be_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Name a file, a folder that holds some, or a client by --from"):
        sources([tmp_path], [], {})


def test_an_import_that_is_broken_off_keeps_what_it_wrote_and_goes_on_when_it_is_called_again(
    memory: Memory, tmp_path: Path
) -> None:
    files = [write(tmp_path / f"{n}.jsonl", trajectory(f"task {n}", "do it", outcome="unknown")) for n in range(80)]
    done: list[int] = []

    def interrupted(count: int) -> None:
        done.append(count)
        if len(done) == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_files(memory, files, advance=interrupted)
    again = import_files(memory, files)

    assert (again.read, again.stored_before, again.stored) == (80, 64, 16)


def test_ids_of_another_memory_do_not_keep_a_session_out(memory: Memory, tmp_path: Path) -> None:
    file = write(tmp_path / "s.jsonl", session())

    done = import_files(memory, [file], project="auto")

    assert (done.stored, done.skipped) == (1, ())
    [stored] = memory.store.all_trajectories()
    assert (stored.recall_id, stored.project) == (None, "house")


def test_a_session_gives_credit_for_what_was_recalled_and_followed_in_it(memory: Memory, tmp_path: Path) -> None:
    memory.record(won("sweep the floor", "sweep"))
    recall = memory.recall("sweep the floor")
    file = write(tmp_path / "s.jsonl", session().replace("r_" + "0" * 12, recall.id or ""))

    import_files(memory, [file])

    [counted] = memory.counts(memory.list_procedures()).values()
    assert (counted.uses, counted.verified) == (1, 0), "nobody knows how it went"


def test_a_preview_shows_what_would_be_learnt_and_makes_no_memory(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", chat("sweep the floor", "sweep", "pytest"), chat("sing", "la"), "{broken")
    lines = write(tmp_path / "b.jsonl", lost("brew tea", "boil water"))
    home = tmp_path / "none"

    ticks: list[int] = []

    (chats, own), total = preview(Settings(home=home), [good, lines], advance=ticks.append)

    assert (chats.format, chats.trajectories, chats.steps, chats.success, chats.unknown) == ("messages", 2, 3, 1, 1)
    assert (chats.learnt, chats.skips, own.failure, own.learnt) == (1, 1, 1, 0)
    assert (total.trajectories, total.steps, total.learnt, total.skips) == (3, 4, 1, 1)
    [task] = chats.tasks
    assert (task.task, task.verdict, task.judged_by, own.tasks) == ("sweep the floor", "success", "rule:tests", ())
    assert sum(ticks) == 2, "one for each file"
    assert not home.exists()


def test_a_preview_counts_an_exported_memory_and_passes_over_an_unknown_file(
    open_memory: OpenMemory, tmp_path: Path
) -> None:
    exported, unknown = tmp_path / "memory.jsonl", tmp_path / "x.txt"
    exported.write_text("\n".join(export(lived(open_memory("source")))), encoding="utf-8")
    unknown.write_text('{"hello": 1}\n')

    _, total = preview(Settings(home=tmp_path), [exported])

    assert (total.trajectories, total.exported) == (0, len(exported.read_text().splitlines()) - 1)
    files, total = preview(Settings(home=tmp_path), [unknown, exported])
    assert (files[0].unread, files[1].exported, total.unread) == (1, total.exported, 1)
    assert "Known formats" in files[0].skipped[0]


def test_of_many_places_that_gave_nothing_for_one_reason_the_first_is_named_and_all_are_counted(
    memory: Memory, tmp_path: Path
) -> None:
    file = write(tmp_path / "t.jsonl", won("sing", "la"), *["{broken"] * 150)

    done = import_files(memory, [file])

    [told] = done.skipped
    assert done.skips == 150
    assert told.startswith(f"{file}:2, and 149 more places: It is not complete JSON")


@pytest.mark.parametrize(("policy", "procedures"), [("vanilla", 2), ("validation", 1), ("adjustment", 1)])
def test_the_update_policy_of_an_import_can_be_chosen(
    memory: Memory, tmp_path: Path, policy: str, procedures: int
) -> None:
    file = write(tmp_path / "t.jsonl", won("sweep", "sweep"), lost("brew tea", ("boil", "error: dry")))

    import_files(memory, [file], update_policy=policy)  # type: ignore[arg-type]  # given as text

    assert len(memory.list_procedures()) == procedures


def test_a_cold_start_keeps_the_best_trajectory_of_each_task_and_says_why(memory: Memory, tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.jsonl",
        won("brew tea", "find a kettle", "boil water", "pour"),
        won("Brew the tea.", "boil water", "pour"),
        lost("brew tea", "pour"),
        trajectory("sing", "la la", outcome="unknown"),
    )

    report = bootstrap(memory, [file], advance=lambda _: None)

    assert [(k.kept, k.steps) for k in report if "tea" in k.task] == [(True, 2), (False, 3), (False, 1)]
    assert [k.reason for k in report] == [
        "the best of its task", "another trajectory of this task scored higher or took fewer steps",
        "it did not succeed", "nobody could judge it",
    ]  # fmt: skip
    assert [p.title for p in memory.list_procedures()] == ["Brew the tea."]
    assert sum(k.kept for k in bootstrap(memory, [file], keep=2)) == 2


def test_a_cold_start_lets_an_llm_judge_and_survives_its_failure(open_memory: OpenMemory, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", trajectory("sing", "la", outcome="unknown"))

    [good] = bootstrap(open_memory(llm=ScriptedLLM({"score": 0.9, "reason": "in tune"}, "x")), [file])
    [bad] = bootstrap(open_memory("b", llm=ScriptedLLM("out of budget")), [file])

    assert (good.score, good.judged_by) == (0.9, "llm:scripted:llm")
    assert "out of budget" in bad.reason


def test_a_cold_start_tells_what_it_could_not_read_and_refuses_an_exported_memory(
    memory: Memory, open_memory: OpenMemory, tmp_path: Path
) -> None:
    file = write(tmp_path / "t.jsonl", won("sing", "la"), '{"task": "x", "steps": [{"act')
    exported = tmp_path / "memory.jsonl"
    exported.write_text("\n".join(export(lived(open_memory("source")))), encoding="utf-8")

    report = bootstrap(memory, [file])

    assert [k.kept for k in report] == [False, True]
    assert "t.jsonl:2: It is not complete JSON" in report[0].reason
    with pytest.raises(BadInput, match="memp-mcp import"):
        bootstrap(memory, [exported])


def test_an_llm_that_judges_a_cold_start_sees_no_secrets(open_memory: OpenMemory, tmp_path: Path) -> None:
    secret = "ghp_" + "a1B2" * 9
    llm = ScriptedLLM({"score": 0.9, "reason": "pushed"}, "x")
    file = write(tmp_path / "t.jsonl", trajectory("push", f"git push {secret}", outcome="unknown"))

    [kept] = bootstrap(open_memory(llm=llm), [file])

    assert kept.kept
    assert all(secret not in p for p in llm.prompts)
    assert "git push" in llm.prompts[0]


def test_a_rebuild_changes_nothing_that_is_sound(memory: Memory) -> None:
    lived(memory)
    before = contents(memory)

    done = rebuild(memory, embed=True, distil=True, advance=lambda _: None)

    assert contents(memory) == before
    assert (done.current, done.embedded, done.distilled, done.kept_as_they_are) == (2, 2, (), 2)


def test_a_rebuild_finishes_what_a_crash_left(memory: Memory) -> None:
    told = won("sweep the floor", "sweep")
    memory.store.merge_in([told], [], [])
    assert problems(memory)

    done = rebuild(memory)

    assert done.finished == 1
    assert [p.title for p in memory.list_procedures()] == ["sweep the floor"]
    assert problems(memory) == []


def test_a_rebuild_finishes_what_a_crash_left_though_what_it_used_was_forgotten(memory: Memory) -> None:
    lost_ids = {"recall_id": "r_" + "0" * 12, "used": ("p_" + "0" * 12,)}
    memory.store.merge_in([won("sweep the floor", "sweep", **lost_ids)], [], [])

    assert rebuild(memory).finished == 1
    assert problems(memory) == []


def test_an_llm_that_fails_in_the_middle_of_a_rebuild_leaves_what_was_done(open_memory: OpenMemory) -> None:
    plain = open_memory()
    plain.record_all([won("sweep the floor", "sweep"), won("brew tea", "boil water")])
    draft: dict[str, object] = {"title": "Anew", "when_to_use": "a floor is dirty", "script": ["sweep {room}"]}

    with pytest.raises(MempError, match="The 1 procedures that were distilled before"):
        rebuild(open_memory(llm=ScriptedLLM(draft, "out of budget")), distil=True)

    assert sum(p.title == "Anew" for p in plain.list_procedures()) == 1
    again = rebuild(open_memory(llm=ScriptedLLM(draft)), distil=True)
    assert (len(again.distilled), again.kept_as_they_are) == (1, 1)


def test_what_had_been_recalled_does_not_come_back_as_evidence_when_it_is_distilled_again(
    open_memory: OpenMemory, tmp_path: Path
) -> None:
    memory = open_memory()
    memory.record(won("sweep the floor", "take the broom", "sweep the corners", "empty the pan"))
    recall = memory.recall("sweep the floor")
    quoted = "; ".join(s.text for s in recall.matches[0].procedure.script)
    told = won("wash the car", (f"note: {quoted}", ""), "fill the bucket", "rinse", recall_id=recall.id)
    memory.record(told)
    foreign = told.model_copy(update={"id": "t_" + "0" * 20, "recall_id": "r_" + "0" * 12, "project": "b"})
    memory.store.apply(Commit(op_id="x", trajectory=foreign))
    memory.store.apply(Commit(op_id="y", procedures=(procedure("Wash", exemplar_id=foreign.id, project="b"),)))
    before = next(p for p in memory.list_procedures() if p.title == "wash the car")

    done = rebuild(memory, distil=True)

    assert [c.procedure.project for c in done.distilled] == ["b"], "nobody knows what was recalled there"
    assert memory.get(before.id).procedure == before


def test_a_distillation_that_somebody_overtakes_is_left_to_them(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.record(won("sweep the floor", "sweep"))
    [known] = memory.list_procedures()

    class Overtaken(ScriptedLLM):
        def ask(self, prompt: str, answer: type[A], *, system: str = "") -> A:
            memory.retire(known.id)
            return super().ask(prompt, answer, system=system)

    llm = Overtaken({"title": "Anew", "when_to_use": "x", "script": ["sweep {room}"]})

    done = rebuild(open_memory(llm=llm), distil=True)

    assert (done.distilled, done.kept_as_they_are) == ((), 1)
    assert memory.get(known.id).procedure.status == "retired"


def test_distilling_again_writes_new_scripts_but_leaves_corrections_alone(open_memory: OpenMemory) -> None:
    lived(open_memory())
    draft: dict[str, object] = {
        "title": "Sweep",
        "when_to_use": "a floor is dirty",
        "script": ["take a broom", "sweep {room}"],
    }
    memory = open_memory(llm=ScriptedLLM(draft, {**draft, "script": ["release all"]}, draft))

    done = rebuild(memory, distil=True)
    everything = rebuild(memory, distil=True, everything=True)

    assert [c.procedure.title for c in done.distilled] == ["Sweep"]
    assert done.kept_as_they_are == 1
    assert len(everything.distilled) == 2


def test_vectors_of_another_embedder_are_replaced_on_request(open_memory: OpenMemory) -> None:
    memory = open_memory("m")
    memory.store.adopt("another-model", 8)
    memory.record(won("sweep the floor", "sweep"))
    assert any("another-model" in p for p in problems(memory))

    rebuild(memory, embed=True)

    fresh = open_memory("m")
    assert fresh.recall("sweep the floor").found == "hybrid"
    assert problems(fresh) == []
    with pytest.raises(EmbedderError, match="still loading"):
        rebuild(open_memory("m", background=NoEmbedder("none")), embed=True)


def test_the_real_trajectories_are_imported(memory: Memory, data: Path) -> None:
    done = import_files(memory, [data / "retrieval" / "agentinstruct_trajectories.json"])

    assert (done.read, done.stored, done.skipped) == (336, 336, ())
    assert done.added + done.merged + done.other_changes == 336
    values = [
        v for v in read(data / "retrieval" / "agentinstruct_trajectories.json") if not isinstance(v, Exported | Skipped)
    ]
    assert {v.id for v in values} == {t.id for t in memory.store.all_trajectories()}


def test_another_processes_commit_is_told_as_stored_before(open_memory: OpenMemory) -> None:
    memory, other = open_memory(), open_memory()
    told = won("sweep the floor", "sweep")
    other.store.apply(Commit(op_id=told.id, trajectory=told))

    assert memory.record(told).already_stored
