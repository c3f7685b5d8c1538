"""The words of the house as values: frozen, validated once, and the same on the wire and on disk.

A **task** is attempted in **steps**; task, steps and outcome are a **trajectory**. A **reward** says how well it went
and who judged it. What is remembered is a **procedure**; each change of one is a **revision**. An **event** is
something that happened to a procedure (it was recalled, it was used); counts are made from events, never stored.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from memp_mcp.errors import BadInput

MAX_STEPS = 20_000
MAX_CHARACTERS = 8_000_000
"""Of one trajectory, all texts together: LanceDB rows above 8 MB should be split (measured)."""

APPROVED = "person"
"""Who has judged a procedure that a person approved."""

Outcome = Literal["success", "failure", "partial", "unknown"]
Status = Literal["active", "provisional", "retired"]
BuildPolicy = Literal["trajectory", "script", "proceduralization"]
RetrievePolicy = Literal["random", "query", "avefact", "hybrid"]
UpdatePolicy = Literal["vanilla", "validation", "adjustment"]
ChangeKind = Literal["add", "merge", "revise", "pitfall", "promote", "retire", "restore", "roll_back"]
EventKind = Literal["recall", "recalled", "used", "evidence", "recorded", "forgotten"]


def storable(text: object) -> object:
    """Replace what UTF-8 and most tools cannot carry: each lone surrogate and each NUL becomes one U+FFFD.

    Two surrogates that make up one character are joined to it.
    """
    if not isinstance(text, str) or (text.isascii() and "\x00" not in text):  # as nearly all are
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\x00", "\ufffd")


def _not_blank(text: str) -> str:
    if not text.strip():
        msg = "must not be empty"
        raise ValueError(msg)
    return text.strip()


Text = Annotated[str, BeforeValidator(storable)]
Line = Annotated[str, BeforeValidator(storable), AfterValidator(_not_blank)]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Moment = Annotated[datetime, Field(description="UTC")]


def now() -> datetime:
    """The present moment, in UTC, to the microsecond that the store keeps."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A fresh id such as ``p_3f2a9c0d1e4b``: short enough for a model to copy, long enough not to collide."""
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


def procedure_id(store_id: str, op_id: str) -> str:
    """The id of the procedure that an operation adds to a store.

    A retry of an operation that died half-way finds the procedure which it had begun; two stores that learn from the
    same trajectory have two, since each gets a history of its own.
    """
    return stable_id("p", store_id, op_id)[:14]


def stable_id(prefix: str, *parts: str) -> str:
    """An id made from content: the same parts give the same id, in every process and for ever."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).hexdigest()
    return f"{prefix}_{digest[:20]}"


class Value(BaseModel):
    """A frozen value; unknown fields are errors, so that a typo never passes for a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(Value):
    """One action and what came back (Memp eq. 1; the thought as in ReAct)."""

    action: Line = Field(description="What was done: the command, tool call or move.")
    observation: Text = Field(default="", description="What came back.")
    thought: Text = Field(default="", description="Why it was done.")
    failed: bool | None = Field(default=None, description="True or false when known; else read off the observation.")


class Reward(Value):
    """How well a trajectory went (Memp eq. 2), and who says so."""

    score: Score = Field(description="0 failed … 1 succeeded.")
    reason: Text = ""
    judged_by: Line = Field(description="environment | caller | user | rule:NAME | llm:NAME")
    verified: bool = Field(description="Judged by evidence outside the agent's own word; only these count.")
    feedback: tuple[Text, ...] = Field(default=(), description="Remarks on single steps, where the judge gave any.")

    @property
    def succeeded(self) -> bool:
        """Whether this counts as a success."""
        return self.score >= 0.5


class Trajectory(Value):
    """The evidence: a task, the steps taken and how it ended. Immutable once stored.

    ``id`` and ``content_hash`` are derived: the same content has the same hash, and a client-given ``key`` stands in
    for the content, so that a retried call stores nothing twice.
    """

    task: Line
    steps: tuple[Step, ...]
    outcome: Outcome = "unknown"
    reward: Reward | None = None
    feedback: Text = ""
    script: tuple[Line, ...] = Field(default=(), description="The caller's own abstraction of what to do.")
    client: Text = ""
    model: Text = ""
    project: Text = Field(default="", description="Empty: shared by all projects.")
    source: Text = Field(default="", description="Where it was imported from; empty when recorded live.")
    recall_id: str | None = None
    used: tuple[str, ...] = Field(default=(), description="Ids of the procedures that were followed.")
    key: Text = Field(default="", description="The client's own idempotency key.")
    created_at: Moment = Field(default_factory=now)
    id: str = ""
    content_hash: str = ""

    @model_validator(mode="after")
    def _derive(self) -> Self:
        if len(self.steps) > MAX_STEPS:
            msg = f"{len(self.steps):,} steps; the limit is {MAX_STEPS:,}. Split it into the tasks it consists of."
            raise ValueError(msg)
        size = len(self.task) + len(self.feedback) + sum(map(len, self.script))
        size += sum(len(s.action) + len(s.observation) + len(s.thought) for s in self.steps)
        if size > MAX_CHARACTERS:
            msg = f"{size:,} characters; the limit is {MAX_CHARACTERS:,}. Shorten the longest observations."
            raise ValueError(msg)
        # A frozen model is filled once, here; the hash leaves out what differs between two tellings of one episode.
        body = self.model_dump_json(exclude={"id", "content_hash", "created_at", "source", "key"})
        digest = hashlib.sha256(body.encode()).hexdigest()
        object.__setattr__(self, "content_hash", digest)
        if not self.id:
            identity = ("key", self.client, self.key) if self.key else ("content", digest)
            object.__setattr__(self, "id", stable_id("t", *identity))
        return self

    @property
    def succeeded(self) -> bool | None:
        """True, false, or None when nobody knows: a reward outranks the outcome that the caller stated."""
        if self.reward is not None:
            return self.reward.succeeded
        return {"success": True, "failure": False, "partial": False, "unknown": None}[self.outcome]


_BY_TOKEN = re.compile(r"([a-z0-9][a-z0-9_-]*) \(")


def caller(token: str, client: str) -> str:
    """Who records or recalls: ``ann (codex)``, by the name of a token and by the one that the client gave itself."""
    return f"{token} ({client})" if token and client else token or client


class Source(Value):
    """An episode behind a procedure: whose it was, where and when, and who verified its success."""

    model_config = ConfigDict(serialize_by_alias=True)

    told: Text = Field(default="", alias="client", description="As `caller` says it.")
    project: Text = ""
    at: Moment = Field(default_factory=now)
    judged_by: Text = Field(default="", description="Who verified the success; empty: nobody did.")
    content: Text = Field(default="", description="Hash of task and steps, to know the same run when it is told twice.")

    @property
    def client(self) -> str:
        """Who vouches for it: where a token was asked for, its name alone, for a client may call itself anything."""
        known = _BY_TOKEN.match(self.told)
        return known[1] if known else self.told

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """The source that a trajectory is."""
        reward = trajectory.reward
        told = "\x1e".join((trajectory.task, *(f"{s.action}\x1f{s.observation}" for s in trajectory.steps)))
        return cls(
            client=trajectory.client,
            project=trajectory.project,
            at=trajectory.created_at,
            judged_by=reward.judged_by if reward and reward.verified and reward.succeeded else "",
            content=hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()[:16],
        )


class ScriptStep(Value):
    """One named line of a script. The name stays when the text changes, so that edits and counts can point at it."""

    name: str = Field(pattern=r"^s[0-9]{1,4}$")
    text: Line
    when: tuple[Text, ...] = Field(default=(), description="Observed lines that this step was there to change.")


class Slot(Value):
    """A value that changes from task to task, by the name that stands for it in the script."""

    name: str
    examples: tuple[Text, ...]


class Pitfall(Value):
    """What went wrong once, and what to do instead."""

    text: Line
    error: Text = Field(default="", description="The error text it was seen with; what a recall by error looks for.")
    tentative: bool = Field(default=True, description="Nobody has succeeded with this advice yet.")
    trajectory_id: str | None = None


class Procedure(Value):
    """What is remembered: one complete snapshot, as of one revision.

    ``counted_from`` is the revision in which the script was last changed: the counts of uses and successes start
    there, so that a repaired procedure does not inherit the failures that it repairs.
    """

    id: str = Field(default_factory=lambda: new_id("p"))
    revision: int = Field(default=1, ge=1)
    counted_from: int = Field(default=1, ge=1)
    title: Line
    when_to_use: Text
    when_not_to_use: Text = ""
    preconditions: tuple[Text, ...] = ()
    observed: tuple[Text, ...] = Field(default=(), description="The state that it was learnt in, line by line.")
    script: tuple[ScriptStep, ...] = ()
    slots: tuple[Slot, ...] = ()
    exemplar: tuple[Step, ...] = Field(default=(), description="The shortest verified run, verbatim.")
    exemplar_id: str | None = None
    check: Text = Field(default="", description="How to verify that it worked.")
    pitfalls: tuple[Pitfall, ...] = ()
    tasks: tuple[Text, ...] = Field(default=(), description="Tasks it was learnt from, as they were worded.")
    keywords: tuple[Text, ...] = Field(default=(), description="Key phrases, for AveFact.")
    status: Status = "active"
    project: Text = ""
    evidence: tuple[str, ...] = Field(default=(), description="Ids of the latest trajectories behind it.")
    sources: tuple[Source, ...] = Field(
        default=(), description="The episode it was built from, and the one or the person that confirmed it."
    )
    build: BuildPolicy = "proceduralization"
    author: Text = Field(default="", description="Who made this revision: a client, 'rules', 'llm:NAME', 'user'.")
    change: ChangeKind = "add"
    reason: Text = ""
    created_at: Moment = Field(default_factory=now, description="Of this revision.")

    @property
    def verified(self) -> bool:
        """Whether anybody but its author has seen it succeed. It may be provisional all the same: once is no proof."""
        return self.status == "active" or any(s.judged_by for s in self.sources)

    @property
    def is_vouched_for(self) -> bool:
        """Whether anybody but its own source has confirmed it: another client, or a person."""
        others = self.sources[1:]
        known = self.sources[0].client if self.sources else ""
        return self.status == "active" and (
            not self.sources or any(s.client != known or s.judged_by == APPROVED for s in others)
        )

    @property
    def searched_text(self) -> str:
        """The words that a recall looks through: the title, the condition, the tasks and the key phrases."""
        parts = (self.title, self.when_to_use, *self.tasks, " ".join(self.keywords))
        return "\n".join(dict.fromkeys(p for p in parts if p))

    @property
    def searched_errors(self) -> str:
        """The words that a recall by error or observed state looks through."""
        return "\n".join(dict.fromkeys((*self.pitfall_lines, *self.preconditions, *self.observed)))

    @property
    def pitfall_lines(self) -> tuple[str, ...]:
        """The errors and the advice of the pitfalls."""
        return tuple(t for p in self.pitfalls for t in (p.error, p.text) if t)

    @property
    def embedded_text(self) -> str:
        """The text whose vector stands for this procedure: the task it was learnt from, or its condition."""
        return self.tasks[0] if self.tasks else self.when_to_use or self.title


class Change(Value):
    """A decision of the Update stage: the procedure as it is to be, what kind of change it is, and why."""

    kind: ChangeKind
    procedure: Procedure
    reason: Text
    diff: Text = ""


class Event(Value):
    """Something that happened. Append-only; ids are made before the first try, so a retry counts once."""

    id: str = Field(default_factory=lambda: new_id("e"))
    kind: EventKind
    procedure_id: str = ""
    revision: int = 0
    counted_from: int = 0
    trajectory_id: str = ""
    recall_id: str = ""
    score: float | None = None
    verified: bool = False
    client: Text = ""
    project: Text = ""
    detail: Text = Field(
        default="", description="JSON; of a recall what was asked and returned, of a recorded trajectory its figures."
    )
    at: Moment = Field(default_factory=now)

    @classmethod
    def about(cls, procedure: Procedure, **more: Any) -> Self:
        """Something that happened to a procedure, in the revision and script that it has there."""
        return cls(procedure_id=procedure.id, revision=procedure.revision, counted_from=procedure.counted_from, **more)


class Counts(Value):
    """What the events say about one procedure since its script was last changed."""

    recalled: int = 0
    uses: int = 0
    verified: int = Field(default=0, description="Uses whose outcome was verified.")
    successes: int = Field(default=0, description="Of the verified uses.")
    last_verified: datetime | None = None

    @property
    def failures(self) -> int:
        """Verified uses that did not succeed."""
        return self.verified - self.successes

    @property
    def utility(self) -> float:
        """Laplace estimate of success, (successes + 1) / (verified uses + 2); ½ before the first (EvolveR eq. 3)."""
        return (self.successes + 1) / (self.verified + 2)


class Commit(Value):
    """What one operation writes, as a whole: applied completely, once, whatever dies in between."""

    op_id: Text
    trajectory: Trajectory | None = None
    figures: Text = Field(default="", description="JSON; what the ledger will ask about the trajectory.")
    procedures: tuple[Procedure, ...] = ()
    events: tuple[Event, ...] = ()


_ID = re.compile(r"[a-z]_[0-9a-f]{12,32}")


def checked_id(kind: Literal["procedure", "trajectory", "recall"], value: str) -> str:
    """Return *value* when it has the shape of such an id.

    Raises:
        BadInput: it has not, so looking it up would be pointless.
    """
    if not _ID.fullmatch(value) or value[0] != kind[0]:
        example = {"procedure": "p_3f2a9c0d1e4b", "trajectory": "t_0a1b2c3d4e5f67890a1b", "recall": "r_3f2a9c0d1e4b"}
        msg = (
            f"{value[:60]!r} is not a {kind} id: those look like {example[kind]}. "
            "Copy it from an earlier answer; recall_procedure and `memp-mcp list` tell current ids."
        )
        raise BadInput(msg)
    return value
