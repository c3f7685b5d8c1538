"""What is wrong with a memory, and how it is mended: nothing is destroyed, and what stays lost is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memp_mcp.embedder import BackgroundEmbedder
from memp_mcp.errors import EmbedderError, MempError, StoreDamaged
from memp_mcp.faults import LOOK
from memp_mcp.memory import Memory
from memp_mcp.models import Value
from memp_mcp.rebuild import embed_again, finish
from memp_mcp.salvage import ASIDE
from memp_mcp.settings import Settings
from memp_mcp.store import Store
from memp_mcp.upkeep import MEND

BEYOND_REPAIR = (
    "It could not be mended. `memp-mcp export FILE` saves the rest; import that, and your last backup, into "
    "another MEMP_HOME."
)


def told(found: Sequence[str]) -> list[str]:
    """What is wrong in lines for a person, and what is to be done about it once, at the end."""
    cures = [cure for cure in (MEND, BEYOND_REPAIR) if any(p.endswith(cure) for p in found)]
    return [*(f"- {p.removesuffix(MEND).removesuffix(BEYOND_REPAIR).rstrip()}" for p in found), *cures]


def unopened(error: StoreDamaged) -> str:
    """What is wrong with a memory that cannot be opened, with its cure: it has been looked at already."""
    text = str(error).partition(LOOK)[0].rstrip()
    return text if "memp-mcp repair" in text else f"{text} {MEND}"


class Repaired(Value):
    """What a repair did, and what is still wrong."""

    done: tuple[str, ...]
    left: tuple[str, ...]


def problems(memory: Memory) -> list[str]:
    """What is wrong with the memory, in words, each with its cure; empty when it is sound."""
    found = memory.store.check()
    try:
        _, reason = memory.vectorizer.embedder(wait=60)
    except MempError as error:
        reason = str(error)
    return found + ([reason] if reason else [])


def repair(settings: Settings, *, embedder: BackgroundEmbedder | None = None) -> Repaired:
    """Mend what can be mended. What is replaced is kept in the folder ``damaged``; a sound memory stays as it is.

    Raises:
        StoreNewer: a later version of the program wrote it.
        StoreDamaged: nothing can be done about it here.
        StoreFull: there is no space for it, or the directory cannot be written.
        StoreBusy: other processes hold the memory.

    """
    done = Store.remake_meta(settings.directory, lock_timeout=settings.lock_timeout)
    memory = Memory.open(settings, embedder=embedder, salvage=True)
    store = memory.store
    done += store.mend()
    unreadable = store.unreadable()
    if not unreadable.keys() - {"procedures"}:
        if unreadable:
            done.append(f"procedures: {store.rebuild_current()} were written again from their history.")
        done += [*_half_forgotten(memory), *_current(store), *_begun(memory), *_vectors(memory)]
    left = problems(memory)
    if unreadable := store.unreadable():
        left = [p.replace(MEND, BEYOND_REPAIR) for p in left]
    return Repaired(done=tuple(done), left=tuple(left))


def _half_forgotten(memory: Memory) -> Iterator[str]:
    # A history may have been lost rather than forgotten: then its procedure is still to be read, as long as it can be.
    for procedure_id in [] if _history_was_damaged(memory) else memory.store.strays():
        memory.forget(procedure_id)
        yield f"{procedure_id}: it was half forgotten, and is forgotten now."


def _current(store: Store) -> Iterator[str]:
    if not (store.is_current() or store.strays()):
        yield f"procedures: {store.rebuild_current()} were written again from their history."


def _history_was_damaged(memory: Memory) -> bool:
    return any(memory.store.directory.glob(f"{ASIDE}/*/procedure_versions.lance"))


def _begun(memory: Memory) -> Iterator[str]:
    """What a process that died has left."""
    if finished := finish(memory):
        yield f"{finished} trajectories that nothing had been learnt from were learnt from."


def _vectors(memory: Memory) -> Iterator[str]:
    missing = len(memory.store.without_vectors())
    try:
        if memory.store.is_being_embedded():
            yield f"{embed_again(memory)} procedures were embedded anew, as somebody had begun to do."
        elif missing and (embedder := memory.vectorizer.embedder(wait=60)[0]):
            memory.vectorizer.embed_missing(embedder)
            yield f"{missing} procedures without a vector have one again."
    except EmbedderError as error:
        yield str(error)
