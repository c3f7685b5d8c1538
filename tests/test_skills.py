"""Procedures as Agent Skills: valid for the reference validator, back without a loss, and with the drift told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import skills_ref
import yaml
from builders import lost, procedure, trajectory, won
from conftest import OpenMemory
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.types import Request, RequestParams
from pydantic import BaseModel, ConfigDict

from memp_mcp import skills
from memp_mcp.archive import export, import_files
from memp_mcp.cli import main
from memp_mcp.errors import BadInput
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Pitfall, Procedure, ScriptStep, Step
from memp_mcp.reflect import Report
from memp_mcp.server import build_server
from memp_mcp.skill_folders import PAGE, ReadSkill, export_skills, fit, import_skills

FOREIGN = """\
---
name: rotate-keys
description: Rotates the API keys. Use when a key has leaked.
license: Apache-2.0
---
# Rotating keys

Some words about it.

## Prerequisites
* the vault is open

## Instructions

### Step 1: Make a new one
Run this:

```sh
vault rotate api
```

### Step 2: Tell the team

## Gotchas
- the old one lives for an hour
"""


def put(folder: Path, name: str, text: str) -> Path:
    """A skill in a folder of skills."""
    file = folder / name / skills.FILE
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    return file


def stored(memory: Memory, *procedures: Procedure) -> None:
    memory.store.apply(Commit(op_id="test", procedures=procedures))


def front_of(text: str) -> dict[str, Any]:
    """The front matter as another program would read it."""
    front, _ = text.removeprefix("---\n").split("\n---\n", 1)
    parsed: dict[str, Any] = yaml.safe_load(front)
    return parsed


def only(memory: Memory) -> Procedure:
    [found] = memory.list_procedures()
    return found


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def told(skill: ReadSkill) -> tuple[str, str]:
    return skill.drift, skill.done


@pytest.fixture
def exported(memory: Memory, tmp_path: Path) -> Path:
    """The file of the one procedure of a memory."""
    memory.record(won("publish the shop", "release build", "release publish"))
    [done] = export_skills(memory, tmp_path / "skills")
    return tmp_path / "skills" / done.name / skills.FILE


# -- the text -----------------------------------------------------------------------------------------------

LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: bool(text.strip())
)
WORDS = st.text("abc -#*`<>{}\"'\\:.\n\t[]|&!é日", min_size=1, max_size=40).filter(lambda text: bool(text.strip()))


@hypothesis_settings(max_examples=150, deadline=None)
@given(title=LINES, when=WORDS, script=st.lists(LINES | WORDS, min_size=1, max_size=4), pitfall=WORDS)
def test_whatever_a_procedure_says_its_skill_is_valid_and_has_not_been_edited(
    tmp_path_factory: pytest.TempPathFactory, title: str, when: str, script: list[str], pitfall: str
) -> None:
    told = procedure(title, script, id="p_0123456789ab", when_to_use=when, pitfalls=(Pitfall(text=pitfall),))
    text = skills.written(told, "a memory")
    file = tmp_path_factory.mktemp("skills") / skills.name_of(told) / skills.FILE
    file.parent.mkdir()
    file.write_bytes(text.encode())

    assert skills_ref.validate(file.parent) == []
    assert not skills.is_edited(text)
    assert skills.written(told, "a memory") == text
    assert skills.id_in(skills.name_of(told)) == told.id
    assert skills.taken_over(told, skills.content_of(told)) == {}
    assert "<" not in skills.frontmatter(text)["description"]


@pytest.mark.parametrize(
    "title", ["0o17", "yes", "C# --- and 'quotes'", "客戶", "x" * 300, "Ünïcödé Straße", "-", "1e5: 2026-01-01"]
)
def test_a_name_and_a_description_are_texts_for_every_version_of_yaml(title: str) -> None:
    text = skills.written(procedure(title, id="p_" + "1e5" * 10), "123e4567")
    front = front_of(text)

    assert len(front["name"]) <= 64
    assert all(isinstance(value, str) for value in (front["name"], front["description"], *front["metadata"].values()))
    assert '"123e4567"' in text


def test_a_skill_says_what_the_procedure_knows() -> None:
    told = procedure(
        "Publish the shop",
        id="p_0123456789ab",
        script=["release build\nwith care", "release publish {version}"],
        when_to_use="a release is due",
        when_not_to_use="on a Friday",
        preconditions=("the tests pass",),
        check="the shop answers",
        pitfalls=(Pitfall(text="sign it", error="error: not signed", tentative=False), Pitfall(text="be quick")),
        evidence=("t_1", "t_2"),
        project="shop",
    )

    skill = skills.read(skills.written(told, "m1").encode())

    assert skill.description == "Publish the shop. Use when: a release is due. Not when: on a Friday."
    assert (skill.procedure_id, skill.revision, skill.memory, skill.edited) == ("p_0123456789ab", 1, "m1", False)
    assert skill.content == skills.Content(
        title="Publish the shop",
        when_to_use="a release is due",
        when_not_to_use="on a Friday",
        preconditions=("the tests pass",),
        steps=("release build\nwith care", "release publish {version}"),
        check="the shop answers",
        pitfalls=("sign it [error: not signed]", "be quick"),
    )
    assert "learnt from 2 recorded runs" in skills.written(told, "m1")
    assert 'memp-project: "shop"' in skills.written(told, "m1")


def test_without_a_script_the_steps_are_those_of_the_exemplar() -> None:
    told = procedure(script=(), exemplar=(Step(action="release build"), Step(action="release publish")))

    assert skills.content_of(told).steps == ("release build", "release publish")


def test_a_skill_of_elsewhere_is_read_by_the_headings_that_people_use() -> None:
    skill = skills.read(FOREIGN.encode())

    assert skill.content == skills.Content(
        title="Rotating keys",
        when_to_use="Rotates the API keys. Use when a key has leaked.",
        preconditions=("the vault is open",),
        steps=(
            "Step 1: Make a new one\nRun this:\n```sh\nvault rotate api\n```",
            "Step 2: Tell the team",
        ),
        pitfalls=("the old one lives for an hour",),
    )
    assert skill.edited


def test_without_a_known_heading_the_first_numbered_list_is_taken_for_the_steps() -> None:
    text = "---\nname: tea\ndescription: Makes tea.\nmetadata: 3\n---\n- why\n\n1) boil water\n2) pour\n"

    content = skills.read(text.encode()).content

    assert (content.title, content.steps) == ("tea", ("boil water", "pour"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# no front matter\n1. x", "no front matter"),
        ("---\nname: x\n", "no front matter"),
        ("---\nname: [\n---\n1. x", "not YAML"),
        ("---\n- x\n---\n1. x", "not a list of fields"),
        ("---\nname: x\n---\n1. x", "no description"),
        ("---\nname: 3\ndescription: y\n---\n1. x", "no name"),
        ("---\nname: x\ndescription: y\n---\nonly words", "no list of steps"),
        ("---\nname: x\ndescription: y\n---\n1. " + "x" * skills.LARGEST, "bytes"),
        ("---\nname: x\ndescription: y\n---\n" + "1. x\n" * 201, "201 steps"),
        ("---\nname: x\ndescription: 2026-13-13\n---\n1. x", "not YAML"),
    ],
)
def test_what_is_no_skill_is_refused_with_the_way_out(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        skills.read(text.encode())


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    front=st.text("name:description: x-\n'\"[]{}&*!|>#\t\\u\ud83d0123", max_size=60),
    body=st.text("# -*+1.)\n`~>x\t\\<!\u2028é", max_size=80),
)
@example(front="", body="\u2028\n1")  # a line of nothing that is seen
def test_whatever_stands_in_a_file_it_is_read_or_refused(front: str, body: str) -> None:
    text = f'---\nname: "-"\ndescription: y\n{front}\n---\n1. x\n{body}'

    try:
        content = skills.read(text.encode(errors="replace")).content
    except BadInput:
        return
    made = skills.procedure_of(skills.read(text.encode(errors="replace")), procedure_id="p_0123456789ab", project="")
    assert made.script
    assert skills.content_of(made) == content


def test_another_encoding_is_refused() -> None:
    with pytest.raises(BadInput, match="UTF-8"):
        skills.read(FOREIGN.encode("utf-16"))


# -- which procedures ---------------------------------------------------------------------------------------


def test_only_what_has_a_verified_success_as_it_stands_becomes_a_skill(memory: Memory) -> None:
    memory.record(won("publish the shop", "release build"))
    memory.record(trajectory("sweep the floor", "sweep"))
    assert [p.title for p in fit(memory, memory.list_procedures())] == ["publish the shop"]
    recall = memory.recall("publish the shop")
    memory.record(lost("publish the shop", ("release build", "error: x\n[exit code 1]"), recall_id=recall.id))

    assert fit(memory, memory.list_procedures()) == []  # its verified uses speak against it

    memory.reflect(Report(task="publish the shop", error="error: x", diagnosis="clean first", correction="+s0: clean"))
    assert fit(memory, memory.list_procedures()) == []  # the new script has not succeeded yet
    recall = memory.recall("publish the shop")
    used = (recall.matches[0].procedure.id,)
    memory.record(won("publish the shop", "clean", "release build", recall_id=recall.id, used=used))
    assert [p.title for p in fit(memory, memory.list_procedures())] == ["publish the shop"]


# -- out ----------------------------------------------------------------------------------------------------


def test_the_same_memory_gives_the_same_bytes_and_a_second_export_writes_nothing(
    memory: Memory, exported: Path, tmp_path: Path
) -> None:
    before = exported.stat()

    again = export_skills(memory, tmp_path / "skills")
    elsewhere = export_skills(memory, tmp_path / "other")

    assert [d.done for d in again] == ["unchanged"]
    assert exported.stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "other" / elsewhere[0].name / skills.FILE).read_bytes() == exported.read_bytes()
    assert skills_ref.validate(exported.parent) == []


def test_a_new_revision_takes_the_place_of_the_old_one(memory: Memory, exported: Path, tmp_path: Path) -> None:
    found = only(memory)
    memory.store.apply(Commit(op_id="o", procedures=(found.model_copy(update={"revision": 2, "check": "look"}),)))

    [done] = export_skills(memory, tmp_path / "skills")

    assert (done.done, done.revision) == ("updated", 2)
    assert "look" in exported.read_text(encoding="utf-8")


def test_a_renamed_procedure_leaves_no_second_skill(memory: Memory, exported: Path, tmp_path: Path) -> None:
    found = only(memory)
    memory.store.apply(Commit(op_id="o", procedures=(found.model_copy(update={"revision": 2, "title": "Release it"}),)))

    done = export_skills(memory, tmp_path / "skills")

    assert sorted(d.done for d in done) == ["removed", "written"]
    assert [f.name for f in (tmp_path / "skills").iterdir()] == [skills.name_of(only(memory))]


def test_what_was_edited_by_hand_is_kept_unless_it_is_forced(memory: Memory, exported: Path, tmp_path: Path) -> None:
    original = exported.read_bytes()
    edited(exported, "release publish", "release publish --all")

    assert [d.done for d in export_skills(memory, tmp_path / "skills")] == ["kept"]
    assert exported.read_bytes() != original
    assert [d.done for d in export_skills(memory, tmp_path / "skills", force=True)] == ["updated"]
    assert exported.read_bytes() == original


def verified_again(memory: Memory) -> None:
    """A success with the script as it stands now."""
    found = only(memory)
    recall = memory.recall(found.title)
    memory.record(won(found.title, *(s.text for s in found.script), recall_id=recall.id, used=(found.id,)))


@pytest.mark.parametrize(("more", "done"), [("", "updated"), ("\n## Notes\n\n- ask Ann first\n", "kept")])
def test_an_edit_that_the_memory_has_taken_over_whole_is_an_edit_no_more(
    memory: Memory, exported: Path, tmp_path: Path, more: str, done: str
) -> None:
    edited(exported, "release publish", "release publish --all")
    exported.write_text(exported.read_text(encoding="utf-8") + more, encoding="utf-8")
    import_skills(memory, [exported], revise=True)
    [waiting] = export_skills(memory, tmp_path / "skills")
    assert (waiting.done, "no verified success yet" in waiting.note) == ("kept", not more)
    verified_again(memory)

    assert [d.done for d in export_skills(memory, tmp_path / "skills")] == [done]

    text = exported.read_text(encoding="utf-8")
    assert "release publish --all" in text
    assert ("ask Ann first" in text) == bool(more)
    assert skills.is_edited(text) == bool(more)


def test_a_title_that_was_edited_and_taken_over_leaves_no_second_skill(
    memory: Memory, exported: Path, tmp_path: Path
) -> None:
    edited(exported, f"# {only(memory).title}", "# Release it")
    import_skills(memory, [exported], revise=True)
    verified_again(memory)

    assert sorted(d.done for d in export_skills(memory, tmp_path / "skills")) == ["removed", "written"]


def test_a_retired_procedure_is_taken_away_and_nothing_else(memory: Memory, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "skills"
    foreign = put(folder, "rotate-keys", FOREIGN)
    put(folder, "broken", "no skill at all")
    (exported.parent / "notes.txt").write_text("mine", encoding="utf-8")
    memory.retire(only(memory).id)

    assert [d.done for d in export_skills(memory, folder)] == ["removed"]
    assert foreign.exists()
    assert [f.name for f in exported.parent.iterdir()] == ["notes.txt"]


def test_a_retired_procedure_that_was_edited_by_hand_stays(memory: Memory, exported: Path, tmp_path: Path) -> None:
    edited(exported, "release publish", "release publish --all")
    memory.retire(only(memory).id)

    assert [d.done for d in export_skills(memory, tmp_path / "skills")] == ["kept"]
    assert exported.exists()


def test_an_export_of_one_project_leaves_the_skills_of_others(open_memory: OpenMemory, tmp_path: Path) -> None:
    memory = open_memory()
    for project in ("shop", "house", ""):
        memory.record(won(f"sweep {project or 'anything'}", "sweep", project=project))
    folder = tmp_path / "skills"
    export_skills(memory, folder, project="house")

    done = export_skills(memory, folder, project="shop")

    assert sorted(d.done for d in done) == ["unchanged", "written"]
    assert len(list(folder.iterdir())) == 3


def test_the_skills_of_another_memory_stay(open_memory: OpenMemory, tmp_path: Path) -> None:
    for name in ("mine", "other"):
        memory = open_memory(name)
        memory.record(won("sweep the floor", "sweep"))
        export_skills(memory, tmp_path / "skills")

    assert len(list((tmp_path / "skills").iterdir())) == 2


# -- in -----------------------------------------------------------------------------------------------------


def test_a_skill_of_elsewhere_becomes_a_provisional_procedure_once(memory: Memory, tmp_path: Path) -> None:
    secret = "ghp_" + "a1B2" * 9
    told_twice = FOREIGN.replace("vault rotate api", f"vault login {secret}").replace(
        "has leaked.", f"{secret} has leaked."
    )
    put(tmp_path / "skills", "rotate-keys", told_twice)

    [first] = import_skills(memory, [tmp_path / "skills"], project="ops")
    [again] = import_skills(memory, [tmp_path / "skills" / "rotate-keys"])

    assert (told(first), told(again)) == (("new", "added"), ("unchanged", ""))
    found = only(memory)
    assert (found.id, found.status, found.project, found.author) == (first.procedure_id, "provisional", "ops", "skill")
    assert secret not in found.model_dump_json()
    assert [m.procedure.id for m in memory.recall("rotate the API keys", project="ops").matches] == [found.id]
    assert fit(memory, [found]) == []


def test_what_was_exported_comes_back_unchanged(memory: Memory, exported: Path) -> None:
    assert [told(r) for r in import_skills(memory, [exported])] == [("unchanged", "")]


def test_a_file_of_an_older_revision_is_told_with_what_has_changed(memory: Memory, exported: Path) -> None:
    old = only(memory)
    memory.reflect(Report(task=old.title, error="error: x", used=(old.id,), diagnosis="clean", correction="+s0: clean"))

    [found] = import_skills(memory, [exported], revise=True)

    assert told(found) == ("behind", "")
    assert "clean" in found.note


def test_an_edit_is_shown_and_taken_over_only_when_asked(memory: Memory, exported: Path) -> None:
    stored_before = only(memory)
    edited(exported, "2. release publish", "2. release publish --all\n3. look at the shop")

    [seen] = import_skills(memory, [exported], revise=False)
    [dry] = import_skills(memory, [exported], revise=True, dry_run=True)
    assert (told(seen), told(dry)) == (("edited", ""), ("edited", ""))
    assert "+ s2: release publish --all" in seen.note
    assert only(memory) == stored_before
    [done] = import_skills(memory, [exported], revise=True)
    [after] = import_skills(memory, [exported], revise=True)

    found = only(memory)
    assert (told(done), told(after)) == (("edited", "revised"), ("unchanged", ""))
    assert [f"{s.name}: {s.text}" for s in found.script] == [
        "s1: release build",
        "s2: release publish --all",
        "s3: look at the shop",
    ]
    assert (found.revision, found.counted_from) == (2, 2)
    assert found.exemplar == stored_before.exemplar


def test_a_file_can_be_edited_again_after_its_edit_was_taken_over(memory: Memory, exported: Path) -> None:
    edited(exported, "release publish", "release publish --all")
    import_skills(memory, [exported], revise=True)
    edited(exported, "publish --all", "publish --some")

    assert [told(r) for r in import_skills(memory, [exported], revise=True)] == [("edited", "revised")]


def test_where_both_have_changed_nothing_is_taken_over(memory: Memory, exported: Path) -> None:
    old = only(memory)
    memory.reflect(Report(task=old.title, error="error: x", used=(old.id,), diagnosis="clean", correction="+s0: clean"))
    edited(exported, "release publish", "release publish --all")

    [found] = import_skills(memory, [exported], revise=True)

    assert told(found) == ("both", "")
    assert only(memory).revision == 2


def test_a_retired_or_forgotten_procedure_does_not_come_back_by_its_file(memory: Memory, exported: Path) -> None:
    found = only(memory)
    memory.retire(found.id)
    [retired] = import_skills(memory, [exported], revise=True)
    memory.forget(found.id)
    [forgotten] = import_skills(memory, [exported], revise=True)

    assert (told(retired), told(forgotten)) == (("retired", ""), ("forgotten", ""))
    assert memory.list_procedures() == []


def test_a_skill_of_another_memory_is_new_here_and_known_where_its_memory_was_taken_over(
    open_memory: OpenMemory, exported: Path, memory: Memory, tmp_path: Path
) -> None:
    other, whole = open_memory("other"), open_memory("whole")
    file = tmp_path / "memory.jsonl"
    file.write_text("\n".join(export(memory)), encoding="utf-8")
    import_files(whole, [file])

    assert [told(r) for r in import_skills(other, [exported])] == [("new", "added")]
    assert [told(r) for r in import_skills(other, [exported])] == [("unchanged", "")]
    assert [told(r) for r in import_skills(whole, [exported])] == [("unchanged", "")]
    assert only(other).id != only(memory).id


def test_an_unreadable_file_is_told_and_the_others_are_read(memory: Memory, tmp_path: Path) -> None:
    put(tmp_path, "broken", "no skill")
    put(tmp_path, "rotate-keys", FOREIGN)

    assert [told(r) for r in import_skills(memory, [tmp_path])] == [("unreadable", ""), ("new", "added")]


def test_an_edit_leaves_alone_what_it_does_not_speak_of() -> None:
    before = procedure(
        id="p_0123456789ab",
        script=["look", "mend it"],
        pitfalls=(Pitfall(text="sign it", error="error: not signed"), Pitfall(text="be quick")),
    )
    before = before.model_copy(
        update={"script": (before.script[0], ScriptStep(name="s7", text="mend it", when=("it is down",)))}
    )
    text = (
        skills.written(before, "m")
        .replace("mend it [when", "mend it well [when")
        .replace("- (unproven) be quick\n", "")
    )

    after = before.model_copy(update=skills.taken_over(before, skills.read(text.encode()).content))

    assert after.script == (before.script[0], ScriptStep(name="s7", text="mend it well", when=("it is down",)))
    assert after.pitfalls == before.pitfalls[:1]


# -- over MCP -----------------------------------------------------------------------------------------------


class Asked(RequestParams):
    """The parameters of a method that the SDK does not know."""

    model_config = ConfigDict(extra="allow")


class Answered(BaseModel):
    """A result as it came."""

    model_config = ConfigDict(extra="allow")


async def ask(client: Client, method: str, **params: Any) -> dict[str, Any]:
    answer = await client.session.send_request(
        Request[Asked, str](method=method, params=Asked.model_validate(params)), Answered
    )
    return answer.model_dump()


@pytest.mark.anyio
async def test_verified_procedures_are_served_as_skills_whose_digests_are_right(memory: Memory) -> None:
    memory.record(won("publish the shop", "release build"))
    memory.record(trajectory("sweep the floor", "sweep"))
    async with Client(build_server(lambda: memory)) as client:
        capabilities = client.server_capabilities
        listed = await ask(client, "skills/list")
        [entry] = listed["skills"]
        got = await ask(client, "skills/get", uri=entry["uri"])
        [content] = (await client.read_resource(entry["uri"])).contents
        text: str = content.text  # type: ignore[union-attr]  # a SKILL.md is text

    assert capabilities is not None
    assert capabilities.extensions == {"io.modelcontextprotocol/skills": {}}
    assert (listed["resultType"], listed["cacheScope"], listed.get("nextCursor")) == ("complete", "private", None)
    assert got["skill"] == entry
    assert entry["uri"] == f"skill://{entry['frontmatter']['name']}/SKILL.md"
    assert entry["frontmatter"] == front_of(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert entry["resources"] == [{"uri": entry["uri"], "digest": f"sha256:{digest}", "size": len(text.encode())}]
    assert content.mime_type == "text/markdown"


@pytest.mark.anyio
async def test_many_skills_come_in_pages_and_each_once(memory: Memory) -> None:
    stored(memory, *(procedure(f"Task {n}", id=f"p_{n:012x}") for n in range(PAGE + 3)))
    names: list[str] = []
    async with Client(build_server(lambda: memory)) as client:
        answer = await ask(client, "skills/list")
        names += [s["uri"] for s in answer["skills"]]
        answer = await ask(client, "skills/list", cursor=answer["nextCursor"])
        names += [s["uri"] for s in answer["skills"]]

    assert "nextCursor" not in answer
    assert len(names) == len(set(names)) == PAGE + 3


@pytest.mark.anyio
async def test_only_the_skills_of_the_project_are_served(open_memory: OpenMemory) -> None:
    memory = open_memory(project="shop")
    stored(memory, procedure("Theirs", id="p_000000000001", project="house"), procedure("Ours", id="p_000000000002"))
    async with Client(build_server(lambda: memory)) as client:
        [entry] = (await ask(client, "skills/list"))["skills"]
        assert entry["frontmatter"]["name"] == "ours-000000000002"
        with pytest.raises(MCPError, match="No skill"):
            await ask(client, "skills/get", uri="skill://theirs-000000000001/SKILL.md")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "params", "why"),
    [
        ("skills/get", {"uri": "skill://nothing-0123456789ab/SKILL.md"}, "No skill"),
        ("skills/get", {"uri": "memp://stats"}, "is no skill"),
        ("skills/get", {"uri": "skill://unverified-000000000001/SKILL.md"}, "no verified success"),
        ("skills/list", {"cursor": "x"}, "no cursor"),
        ("skills/list", {"cursor": "9" * 5000}, "no cursor"),
    ],
)
async def test_what_is_not_served_is_refused(memory: Memory, method: str, params: dict[str, Any], why: str) -> None:
    stored(memory, procedure("Unverified", id="p_000000000001", status="provisional"))
    async with Client(build_server(lambda: memory)) as client:
        with pytest.raises(MCPError, match=why) as refused:
            await ask(client, method, **params)

    assert refused.value.error.code == -32602


# -- the command line ---------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], home: Path, *argv: object, code: int = 0) -> str:
    """What a command prints."""
    assert main([str(a) for a in argv], {"MEMP_HOME": str(home)}) == code
    out = capsys.readouterr()
    return out.out + out.err


def test_skills_go_out_and_in_by_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    home, folder = tmp_path / "memory", tmp_path / "skills"
    line = {"task": "publish the shop", "steps": [{"action": "release build"}], "reward": 1}
    (tmp_path / "t.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert "no procedure" in run(capsys, home, "export", "--skills", folder, code=3)
    run(capsys, home, "import", tmp_path / "t.jsonl")

    assert "written" in run(capsys, home, "export", "--skills", folder)
    [file] = folder.glob("*/SKILL.md")
    assert "unchanged" in run(capsys, home, "import", folder)
    edited(file, "release build", "release build --all")
    assert "--force" in run(capsys, home, "export", "--skills", folder)
    assert "Take the edits over by --revise" in run(capsys, home, "import", folder)
    assert "revised" in run(capsys, home, "import", folder, "--revise")
    [found] = json.loads(run(capsys, home, "import", folder, "--json"))
    assert (found["drift"], found["done"]) == ("unchanged", "")


def test_what_belongs_to_another_project_does_not_get_into_the_skills_of_this_one(tmp_path: Path) -> None:
    home = tmp_path / "memory"
    for project in ("shop", "house", ""):
        line = {
            "task": f"sweep {project or 'anything'}",
            "steps": [{"action": "sweep"}],
            "reward": 1,
            "project": project,
        }
        (tmp_path / "t.jsonl").write_text(json.dumps(line), encoding="utf-8")
        assert main(["import", str(tmp_path / "t.jsonl")], {"MEMP_HOME": str(home)}) == 0

    def written(folder: str, *more: str, **environ: str) -> list[str]:
        argv = ["export", "--skills", str(tmp_path / folder), *more]
        assert main(argv, {"MEMP_HOME": str(home), **environ}) == 0
        return sorted(f.name.rpartition("-")[0] for f in (tmp_path / folder).iterdir())

    assert written("none") == ["sweep-anything"]
    assert written("set", MEMP_PROJECT="shop") == ["sweep-anything", "sweep-shop"]
    assert written("named", "--project", "house", MEMP_PROJECT="shop") == ["sweep-anything", "sweep-house"]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("import", "skills", "t.jsonl"), "two commands"),
        (("import", "skills", "--format", "own"), "for transcripts"),
        (("import", "t.jsonl", "--revise"), "for skills"),
        (("export", "x.jsonl", "--skills", "skills"), "either a file"),
        (("export", "x.jsonl", "--project", "shop"), "for --skills"),
    ],
)
def test_what_does_not_go_together_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: tuple[str, ...], why: str
) -> None:
    put(tmp_path / "skills", "rotate-keys", FOREIGN)
    (tmp_path / "t.jsonl").write_text("{}", encoding="utf-8")
    here = [str(tmp_path / word) if word in {"skills", "t.jsonl", "x.jsonl"} else word for word in argv]

    assert why in run(capsys, tmp_path / "memory", *here, code=1)
    assert not (tmp_path / "x.jsonl").exists()
