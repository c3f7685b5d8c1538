"""Many servers on one memory, killed again and again: nothing may be lost, doubled or miscounted.

``python -m benchmarks.soak`` (POSIX). Each of the servers is a process of its own behind its own stdio, with a client
that records, recalls, reflects and forgets; beside them the command line imports, restores and compacts. Whatever one
of them is doing just then, it is killed by SIGKILL, again and again. A client whose server was killed starts another
and makes the same call again, or gives it up. The driver keeps its own book of what was acknowledged and at the end
compares it with what is stored. An acknowledged write has to be there once; one that was given up may be there once or
not at all.

The texts are made from a seed; which call meets which kill depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import (
    CLIENT,
    SERVER,
    Ended,
    Wire,
    command_line,
    disk_bytes,
    percentiles,
    print_table,
    write_results,
)
from memp_mcp.models import Event, Procedure, procedure_id, stable_id
from memp_mcp.store import Store

SEED = 20_250_808
MIX = {"record": 52, "recall": 28, "reflect": 15, "forget": 2, "show": 3}
"""Shares of the calls of a client."""
GIVEN_UP = 0.25
"""Share of the interrupted calls that are not made again."""
IMPORTED = 10
"""Trajectories of one import."""
COUNTED = ("uses", "successes", "recalled")
VERBS = ("Put", "Heat", "Cool", "Clean", "Find", "Slice", "Examine")
THINGS = ("apple", "mug", "pan", "knife", "towel", "book", "lamp", "potato", "plate", "candle", "egg", "phone")
PLACES = ("fridge", "shelf", "drawer", "sink", "desk", "sofa", "cabinet", "table", "bin", "bed", "counter", "safe")
WAYS = ("blue", "old", "small", "second", "wet", "hot", "other", "round", "broken", "red")

Row = dict[str, Any]


class Told(NamedTuple):
    """A trajectory as it was recorded or imported."""

    used: tuple[str, ...] = ()
    success: bool = True
    rests: tuple[str, ...] = ()
    """Procedures that the answer named."""


class Book:
    """What was acknowledged, and what nobody can know. Thread-safe by its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.recorded: dict[str, Told] = {}
        self.given_up: dict[str, Told] = {}
        self.interrupted: set[str] = set()
        """Trajectories whose first try was killed: a later one may say no more than that it was stored before."""
        self.shown: dict[str, tuple[str, ...]] = {}
        """What each recall returned."""
        self.reflected: set[tuple[str, str]] = set()
        self.may_have_reflected: set[tuple[str, str]] = set()
        self.revisions: Counter[tuple[str, int]] = Counter()
        self.forgotten: dict[str, bool] = {}
        """Procedures that somebody began to forget, and whether that was acknowledged."""
        self.gone: set[str] = set()
        self.tally: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = defaultdict(list)

    def writes(self) -> int:
        """Acknowledged so far; recalls, which are written down as well, are not among them."""
        return sum(self.tally[name] for name in ("record", "reflect", "forget", "restore", "import"))

    def revised(self, changes: Iterable[Row]) -> None:
        """Take down new revisions; a merge that only adds evidence makes none."""
        for change in changes:
            if change["kind"] != "merge":
                self.revisions[change["id"], change["revision"]] += 1


class Soak:
    """One run."""

    def __init__(self, home: Path, *, servers: int, writes: int, kills: int, seed: int = SEED) -> None:
        self.home = home
        self.writes, self.kills, self.seed = writes, kills, seed
        self.book = Book()
        self.killed: Counter[str] = Counter()
        self.clients = [Agent(self, number) for number in range(servers)]
        self.person = Person(self)
        self.failure: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether enough has happened."""
        return self.failure is not None or (
            self.book.writes() >= self.writes and self.killed.total() >= self.kills and bool(self.person.round)
        )

    def run(self) -> float:
        """Let them all loose; returns the seconds it took.

        Raises:
            Exception: whatever a client met that it should not have met.

        """
        began = time.perf_counter()
        acts = [self.person.run, *(client.run for client in self.clients)]
        actors = [threading.Thread(target=self._guarded, args=(act,)) for act in acts]
        for thread in actors:
            thread.start()
        self._guarded(self._kill)
        for thread in actors:
            thread.join()
        if self.failure is not None:
            raise self.failure
        return time.perf_counter() - began

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as failure:  # noqa: BLE001 - run() raises it
            self.failure = self.failure or failure

    def _kill(self) -> None:
        """Kill one after the other, spread over the writes: one that is in the middle of a call."""
        chance = random.Random(f"{self.seed}-kill")
        while not self.done:
            due = (self.killed.total() + 1) * self.writes / (self.kills + 1)
            if self.killed.total() < self.kills and self.book.writes() >= due:
                victim = self.person if chance.random() < 1 / 8 else chance.choice(self.clients)
                time.sleep(chance.uniform(0, 0.4))
                if victim.kill():
                    self.killed["command line" if victim is self.person else "server"] += 1
            time.sleep(0.01)


class Agent:
    """A client with a server of its own."""

    def __init__(self, soak: Soak, number: int) -> None:
        self.soak, self.book, self.number = soak, soak.book, number
        self.chance = random.Random(f"{soak.seed}-{number}")
        self.wire: Wire | None = None
        self.asked = False
        self.made = 0
        self.recall: tuple[str, tuple[str, ...]] = ("", ())
        self.known: list[str] = []

    def run(self) -> None:
        """Call and call."""
        names, shares = list(MIX), list(MIX.values())
        try:
            while not self.soak.done:
                getattr(self, f"_{self.chance.choices(names, shares)[0]}")()
        finally:
            if self.wire:
                self.wire.close()

    def kill(self) -> bool:
        """Kill the server if it has been asked something."""
        if self.wire and self.asked:
            self.wire.kill()
            return True
        return False

    # -- calls

    def _record(self) -> None:
        self.made += 1
        key = f"{self.number}-{self.made}"
        trajectory_id = stable_id("t", "key", CLIENT, key)
        success = self.chance.random() < 0.8
        recall_id, shown = self.recall
        self.recall = ("", ())  # each recall is answered for once
        told = {
            "task": task(self.chance),
            "steps": steps(self.chance),
            "outcome": "success" if success else "failure",
            "reward": float(success),
            "key": key,
        }
        used = shown[:1]
        if used:
            told |= {"recall_id": recall_id, "used": list(used)}
        answer, tries = self._ask("record", "record_trajectory", told)
        with self.book.lock:
            if tries > 1:
                self.book.interrupted.add(trajectory_id)
            if answer is None:
                self.book.given_up[trajectory_id] = Told(used, success)
                return
            changes = answer.get("changes", [])
            self.book.revised(changes)
            self.book.recorded[trajectory_id] = Told(used, success, tuple(c["id"] for c in changes))
        self.known += [c["id"] for c in changes]

    def _recall(self) -> None:
        answer, _ = self._ask("recall", "recall_procedure", {"task": task(self.chance)})
        if answer is None:
            return
        shown = tuple(p["id"] for p in answer.get("procedures", ()))
        with self.book.lock:
            self.book.shown[answer["recall_id"]] = shown
        self.recall = (answer["recall_id"], shown)
        self.known += shown

    def _reflect(self) -> None:
        """Say of what was recalled last that it failed, and what to do instead."""
        recall_id, shown = self.recall
        if not shown:
            return self._recall()
        self.recall = ("", ())
        tag = f"{self.number}-{self.chance.randrange(10**6)}"
        told = {
            "task": task(self.chance),
            "recall_id": recall_id,
            "used": [shown[0]],
            "error": f"Nothing happened at {tag}",
            "diagnosis": f"The door was shut ({tag}).",
            "correction": f"pitfall: open door {tag} first" if self.chance.random() < 0.5 else f"+s1: open door {tag}",
        }
        answer, _ = self._ask("reflect", "reflect_failure", told)
        with self.book.lock:
            if answer is None:
                self.book.may_have_reflected.add((recall_id, shown[0]))
                return None
            self.book.revised(answer.get("changes", []))
            self.book.reflected.add((recall_id, shown[0]))
        return None

    def _forget(self) -> None:
        if not self.known:
            return
        doomed = self.chance.choice(self.known)
        with self.book.lock:
            self.book.forgotten.setdefault(doomed, False)
        answer, tries = self._ask("forget", "forget_procedure", {"id": doomed})
        with self.book.lock:
            if answer is not None:
                self.book.forgotten[doomed] = True
                self.book.gone.update(answer.get("trajectories", ()))
            if tries > 1:
                self.book.tally["forgets interrupted"] += 1

    def _show(self) -> None:
        if self.known:
            self._ask("show", "get_procedure", {"id": self.chance.choice(self.known)})

    def _ask(self, what: str, tool: str, arguments: Row) -> tuple[Row | None, int]:
        """The answer, or None where the call was refused or given up; and how often it was made."""
        for tries in range(1, 100):
            try:
                server = self.wire or self._start()
                began = time.perf_counter()
                self.asked = True
                answer = server.call(tool, **arguments)
            except Ended:
                self._bury(what)
                if self.chance.random() < GIVEN_UP:
                    return None, tries
                continue
            except RuntimeError as refused:
                with self.book.lock:
                    self.book.refusals[f"{what}: {_kind(str(refused))}"] += 1
                return None, tries
            finally:
                self.asked = False
            with self.book.lock:
                self.book.tally[what] += 1
                self.book.latencies[what].append(1000 * (time.perf_counter() - began))
            return answer, tries
        raise RuntimeError(f"{what} was interrupted a hundred times.")

    def _start(self) -> Wire:
        self.wire = Wire(MEMP_HOME=str(self.soak.home), quiet=True)
        return self.wire.open()

    def _bury(self, what: str) -> None:
        with self.book.lock:
            self.book.tally[f"{what}s interrupted"] += 1
        if self.wire:
            self.wire.close()
        self.wire = None


class Person:
    """Somebody at the command line."""

    def __init__(self, soak: Soak) -> None:
        self.soak, self.book = soak, soak.book
        self.chance = random.Random(f"{soak.seed}-person")
        self.process: subprocess.Popen[bytes] | None = None
        self.round = 0

    def run(self) -> None:
        """Import, restore and compact in turns, each after the agents have done something."""
        while not self.soak.done:
            for act in (self._import, self._restore, self._compact):
                if not self.soak.failure:
                    act()
            self.round += 1
            rest = self.book.writes() + 10 * len(self.soak.clients)
            while self.book.writes() < rest and not self.soak.done:
                time.sleep(0.05)

    def kill(self) -> bool:
        """Kill the command that runs, if one does."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            return True
        return False

    def _import(self) -> None:
        keys = [f"import {self.round}-{i}" for i in range(IMPORTED)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "episodes.jsonl"
            told = [
                {"task": task(self.chance), "steps": steps(self.chance), "reward": 1.0, "client": CLIENT, "key": key}
                for key in keys
            ]
            file.write_text("".join(json.dumps(t) + "\n" for t in told), encoding="utf-8")
            while (code := self._command("import", str(file), "--json")[0]) < 0:  # killed: again, until it says so
                with self.book.lock:
                    self.book.tally["imports interrupted"] += 1
        if code:
            raise RuntimeError(f"The import failed with {code}.")
        with self.book.lock:
            ids = {stable_id("t", "key", CLIENT, key) for key in keys}
            self.book.recorded |= dict.fromkeys(ids, Told())
            self.book.interrupted |= ids  # the command does not say which procedures they are in
            self.book.tally["import"] += IMPORTED

    def _restore(self) -> None:
        with self.book.lock:
            revised = sorted(i for i, revision in self.book.revisions if revision > 1 and i not in self.book.forgotten)
        if not revised:
            return
        code, said = self._command("restore", self.chance.choice(revised), "--revision", "1", "--json")
        with self.book.lock:
            if code == 0:
                procedure = json.loads(said)["procedure"]
                self.book.revisions[procedure["id"], procedure["revision"]] += 1
                self.book.tally["restore"] += 1
            else:
                self.book.tally["restores interrupted or refused"] += 1

    def _compact(self) -> None:
        code, _ = self._command("compact", "--json")
        with self.book.lock:
            self.book.tally["compact" if code == 0 else "compacts interrupted or refused"] += 1

    def _command(self, *arguments: str) -> tuple[int, bytes]:
        environment = {n: v for n, v in os.environ.items() if not n.startswith("MEMP_")}
        self.process = subprocess.Popen(
            [str(part) for part in SERVER] + list(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"MEMP_HOME": str(self.soak.home)},
        )
        said, _ = self.process.communicate()
        return self.process.returncode, said


def task(chance: random.Random) -> str:
    """One of some ten thousand tasks, so that some meet again and most have neighbours."""
    verb, way, thing, place = (chance.choice(words) for words in (VERBS, WAYS, THINGS, PLACES))
    return f"{verb} the {way} {thing} at the {place}"


def steps(chance: random.Random) -> list[Row]:
    """Two to six steps."""
    places = chance.sample(PLACES, chance.randrange(2, 7))
    return [{"action": f"go to {place}", "observation": f"You are at the {place}."} for place in places]


def _kind(refusal: str) -> str:
    """The refusal without its ids and numbers."""
    return " ".join("…" if any(c.isdigit() for c in word) else word for word in refusal.split())[:160]


# -- the audit ----------------------------------------------------------------------------------------------


class Audit:
    """The book against what is stored, once all servers have ended."""

    def __init__(self, book: Book, store: Store) -> None:
        self.book, self.store = book, store
        store.note()  # the recalls of a server that was killed wait for the next write: this one
        self.trajectories = [t.id for t in store.all_trajectories()]
        self.revisions = list(store.all_revisions())
        self.events = list(store.all_events())
        self.stored = store.stored({*book.recorded, *book.given_up})
        self.alive = {p.id for p in store.list_procedures(limit=10**9)} - book.forgotten.keys()

    def findings(self) -> dict[str, list[str]]:
        """What is wrong, by kind, each with its examples; all empty when nothing is."""
        return {
            "acknowledged trajectories lost": sorted(self._lost()),
            "acknowledged revisions lost": sorted(self._lost_revisions()),
            "revisions acknowledged twice": [f"{k}" for k, n in self.book.revisions.items() if n > 1],
            "rows stored twice": list(self._doubled()),
            "forgotten procedures still there": sorted(self._risen()),
            "histories with gaps": sorted(self._gaps()),
            "procedures with two current revisions": list(self._two_current()),
            "acknowledged recalls lost": sorted(self.book.shown.keys() - {e.recall_id for e in self._of("recall")}),
            "recalls nobody made": list(self._unasked()),
            "counters off": list(self._miscounted()),
        }

    def _of(self, kind: str) -> Iterator[Event]:
        return (e for e in self.events if e.kind == kind)

    def _lost(self) -> Iterator[str]:
        for i, told in self.book.recorded.items():
            if i in self.stored or i in self.book.gone:
                continue
            rests = {*told.rests, procedure_id(self.store.id, i)}
            unknown = i in self.book.interrupted and self.book.tally["forgets interrupted"]
            if not (rests & self.book.forgotten.keys() or unknown):
                yield i

    def _lost_revisions(self) -> Iterator[str]:
        here = {(p.id, p.revision) for p in self.revisions}
        return (f"{i}@{r}" for i, r in self.book.revisions if (i, r) not in here and i not in self.book.forgotten)

    def _doubled(self) -> Iterator[str]:
        streamed = {
            "trajectories": len(set(self.trajectories)),
            "procedure_versions": len({(p.id, p.revision) for p in self.revisions}),
            "procedures": len({p.id for p in self.revisions}),
            "events": len({e.id for e in self.events}),
        }
        rows = self.store.size().rows
        return (f"{name}: {rows[name]} rows, {n} ids" for name, n in streamed.items() if rows[name] != n)

    def _risen(self) -> Iterator[str]:
        """A record whose answer was lost may have been made again after its procedure was forgotten."""
        again = {procedure_id(self.store.id, i) for i in (*self.book.interrupted, *self.book.given_up)}
        here = {p.id for p in self.revisions}
        return (i for i, acknowledged in self.book.forgotten.items() if acknowledged and i in here - again)

    def _gaps(self) -> Iterator[str]:
        histories: dict[str, list[int]] = defaultdict(list)
        for p in self.revisions:
            histories[p.id].append(p.revision)
        return (i for i, found in histories.items() if sorted(found) != list(range(1, len(found) + 1)))

    def _two_current(self) -> Iterator[str]:
        heads: dict[str, Procedure] = {}
        for p in self.revisions:
            heads[p.id] = max(p, heads.get(p.id, p), key=lambda p: p.revision)
        current = self.store.procedures(heads.keys())
        return (i for i, head in heads.items() if current.get(i) != head)

    def _unasked(self) -> Iterator[str]:
        unknown = [e.recall_id for e in self._of("recall") if e.recall_id not in self.book.shown]
        return iter(unknown[self.book.tally["recalls interrupted"] :])

    def _miscounted(self) -> Iterator[str]:
        expected = self._expected()
        unasked = Counter(e.procedure_id for e in self._of("recalled") if e.recall_id not in self.book.shown)
        for i, by_script in self.store.counts(self.alive).items():
            expected[i]["recalled"] += unasked[i]
            found = Counter({n: sum(getattr(c, n) for c in by_script.values()) for n in COUNTED})
            if found != expected[i]:
                yield f"{i}: {dict(found)}, should be {dict(expected[i])}"

    def _expected(self) -> dict[str, Counter[str]]:
        """The counts of each procedure by the book; of a call that was given up if it left its event."""
        expected: dict[str, Counter[str]] = defaultdict(lambda: Counter(dict.fromkeys(COUNTED, 0)))
        events = {e.id for e in self.events}
        for i, told in (*self.book.recorded.items(), *self.book.given_up.items()):
            for used in told.used:
                if i in self.book.recorded or stable_id("e", "used", i, used) in events:
                    expected[used].update(uses=1, successes=int(told.success))
        for one in self.book.reflected | self.book.may_have_reflected:
            if one in self.book.reflected or stable_id("e", "reflected", *one) in events:
                expected[one[1]].update(uses=1)
        for shown in self.book.shown.values():
            for procedure in shown:
                expected[procedure].update(recalled=1)
        return expected


def audited(soak: Soak) -> tuple[Row, dict[str, list[str]]]:
    """The verdict in figures, and what is wrong with examples."""
    given_up = len(soak.book.given_up)
    before = Store.open(soak.home).check()
    mended = subprocess.run(
        [*map(str, SERVER), "repair", "--home", str(soak.home)], capture_output=True, text=True, check=False
    )
    store = Store.open(soak.home)
    audit = Audit(soak.book, store)
    findings = audit.findings()
    findings["found by doctor, beyond calls that were given up"] = [p for p in before if "before it learnt" not in p]
    findings["found by doctor after repair"] = store.check() if mended.returncode == 0 else [mended.stderr]
    figures = {
        "acknowledged writes": soak.book.writes(),
        "recalls": soak.book.tally["recall"],
        "killed": soak.killed.total(),
        **{name: len(found) for name, found in findings.items()},
        "calls interrupted by a kill": sum(n for what, n in soak.book.tally.items() if what.endswith("interrupted")),
        "given up, yet stored": len(audit.stored & soak.book.given_up.keys()),
        "records given up": given_up,
        "refused": soak.book.refusals.total(),
        "procedures": len(audit.alive),
        "trajectories": len(audit.trajectories),
        "events": len(audit.events),
        "MB on disk": disk_bytes(soak.home) / 1e6,
    }
    return figures, findings


def latencies(book: Book) -> list[Row]:
    """Milliseconds of the calls that were answered, with the wait for others."""
    return [
        {"call": what, "calls": len(ms), **{f"ms {p}": v for p, v in percentiles(ms).items()}, "ms worst": max(ms)}
        for what, ms in sorted(book.latencies.items())
    ]


def soaked(*, servers: int, writes: int, kills: int, seed: int = SEED) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Run it in a directory that is thrown away; the results, and what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder) / "memory", servers=servers, writes=writes, kills=kills, seed=seed)
        seconds = soak.run()
        figures, findings = audited(soak)
    first = {"servers": servers, "seconds": seconds, "writes a second": soak.book.writes() / seconds}
    tallies = [{"what": what, "times": n} for what, n in sorted((soak.book.tally + soak.book.refusals).items())]
    killed = [{"what": f"{what} killed", "times": n} for what, n in sorted(soak.killed.items())]
    verdict = [{"what": what, "figure": figure} for what, figure in {**first, **figures}.items()]
    return {"soak": verdict, "latency": latencies(soak.book), "calls": [*tallies, *killed]}, findings


def main() -> int:
    """Run, print the tables, keep them if asked to; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=8, help="processes on one memory (default: %(default)s)")
    parser.add_argument("--writes", type=int, default=400, help="acknowledged, at least (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=15, help="SIGKILLs in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args()
    results, findings = soaked(servers=given.servers, writes=given.writes, kills=given.kills, seed=given.seed)
    for name, rows in results.items():
        print(f"### {name}\n")
        print_table(rows)
    wrong = {what: found for what, found in findings.items() if found}
    for what, found in wrong.items():
        print(f"{what}:", *found[:10], sep="\n  ")
    if given.out:
        write_results(given.out, command_line(), given.seed, results)
    return 1 if wrong else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
