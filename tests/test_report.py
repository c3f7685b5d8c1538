"""The page: it needs nothing but itself, shows what the ledger says, and lets nothing out of the store act."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from builders import lost, procedure, won

from memp_mcp import report, sheets
from memp_mcp.ledger import Figures, Ledger
from memp_mcp.memory import Memory
from memp_mcp.models import Commit, Event

EVIL = "<script>alert('x')</script>\" onload=\"alert(1)"


class Page(HTMLParser):
    """The tags of a page that are open at its end, everything it refers to, and its text."""

    VOID = frozenset({"meta", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and what it refers to."""
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in {"href", "src", "xlink:href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note what is read."""
        self.text += data


@pytest.fixture
def ledger(memory: Memory) -> Ledger:
    """The ledger of a memory with several periods, a procedure that is used, and hostile names all over."""
    memory.record(won(EVIL, "build", source="x"))
    [known] = memory.list_procedures()
    runs = [
        (won if n % 3 else lost)(
            f"{EVIL} {n}", f"build {n}", client=EVIL, model=EVIL, used=(known.id,) if n % 2 else ()
        )
        for n in range(60)
    ]
    memory.store.apply(*(Commit(op_id=t.id, trajectory=t, figures=Figures.of(t).model_dump_json()) for t in runs))
    for n in range(5):
        memory.record(won(f"{EVIL} again {n}", f"build {n}", client=EVIL, used=(known.id,)))
    return memory.ledger()


def test_the_page_is_well_formed_and_refers_to_nothing_outside_itself(ledger: Ledger) -> None:
    text = report.page(ledger)
    page = Page(text)

    assert page.open == []
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)|@import|<link|<img|<iframe", text)
    assert "script" not in page.tags


def test_nothing_from_the_store_becomes_markup(ledger: Ledger) -> None:
    text = report.page(ledger)

    assert "<script" not in text
    assert 'onload="' not in text
    assert EVIL in Page(text).text


def test_what_the_page_lists_in_part_it_says_so(memory: Memory) -> None:
    listed = report.LISTED + 2
    found = tuple(procedure(id=f"p_{n:012}") for n in range(listed))
    memory.store.apply(Commit(op_id="o", procedures=found))
    memory.store.note(*(Event(kind="used", procedure_id=p.id, counted_from=1) for p in found))
    memory.record(won("mop", "mop"))

    said = Page(report.page(memory.ledger())).text

    assert f"Not known yet: {listed}" in said
    assert "and 2 more" in said


def test_the_page_draws_success_steps_tokens_and_coverage_in_the_pages_own_colours(ledger: Ledger) -> None:
    text = report.page(ledger)

    assert text.count("<svg") == text.count('<figure role="img" aria-label=') == 4
    for said in ("% of verified outcomes", "steps per episode", "tokens per episode", "episodes recorded"):
        assert said in Page(text).text
    assert "var(--with)" in text
    assert "var(--without)" in text
    assert not any(colour in text for colour in report.COLOURS)


def test_the_page_says_what_the_tables_of_the_terminal_say(ledger: Ledger) -> None:
    said = Page(report.page(ledger)).text

    for sheet in sheets.sheets(ledger):
        assert sheet.title in said
        assert all(cell in said for row in sheet.rows for cell in row)
    assert "Procedures that pay" in said


def test_a_memory_without_episodes_has_a_page_that_says_so(memory: Memory) -> None:
    page = Page(report.page(memory.ledger()))

    assert "No episode has been recorded yet" in page.text
    assert page.open == []


def test_without_the_extra_the_error_says_what_to_install() -> None:
    """A process in which neither can be imported: as good as not installed."""
    program = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['jinja2'] = None\n"
        "from memp_mcp.ledger import Records, account\n"
        "from memp_mcp import report\n"
        "report.page(account(Records([], {}, [], {}, []), retire_below=0.5))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)

    assert "BadInput" in done.stderr
    assert "pip install 'memp-mcp[report]'" in done.stderr
