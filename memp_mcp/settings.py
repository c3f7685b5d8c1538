"""MEMP_* → one frozen Settings. Nothing else reads the environment; a misspelt name is an error, not a default."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memp_mcp.errors import BadInput
from memp_mcp.models import BuildPolicy, RetrievePolicy, UpdatePolicy

PREFIX = "MEMP_"
DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
AUTO = "auto"
"""In place of a project's name: that of the folder that is worked in."""


class Settings(BaseModel):
    """Everything that can be set. Each field is the environment variable MEMP_<NAME>."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    home: Annotated[Path, Field(description="The directory of the memory: an absolute path, or one from ~.")] = Path(
        "~/.memp"
    )
    store: Annotated[
        str,
        Field(
            pattern=r"^$|^(s3|gs|az|db)://.+",
            description="Where a team's tables are: s3://bucket/path (gs, az), or db://name; empty: in HOME.",
        ),
    ] = ""
    project: Annotated[
        str, Field(description="The project of calls that name none; auto: by the client's folder; empty: shared.")
    ] = ""
    build: Annotated[BuildPolicy, Field(description="What a procedure keeps of a trajectory.")] = "proceduralization"
    retrieve: Annotated[RetrievePolicy, Field(description="How procedures are found for a task.")] = "hybrid"
    update: Annotated[UpdatePolicy, Field(description="What an episode changes in the memory.")] = "adjustment"
    holdout: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of recalls withheld at random, to measure what the memory is worth."),
    ] = 0.0
    embedder: Annotated[str, Field(description="The embedding model, by name or folder.")] = DEFAULT_EMBEDDER
    floor: Annotated[
        float | None, Field(ge=-1, le=1, description="Relevance below which nothing is recalled; by embedder if unset.")
    ] = None
    recall_wait: Annotated[
        float, Field(ge=0, description="Seconds that a recall waits for the embedder before it uses words alone.")
    ] = 3.0
    answer_tokens: Annotated[
        int, Field(ge=200, description="Size of a recall's answer, in tokens (characters / 4).")
    ] = 1500
    hooks: Annotated[
        Literal["recall,record", "recall", "record", "off"],
        Field(description="What the clients' hooks do: recall into the prompt, record at the end, both, or off."),
    ] = "recall,record"
    hook_seconds: Annotated[
        float, Field(gt=0, description="Seconds that a hook may take; past them it says nothing.")
    ] = 0.3
    retire_uses: Annotated[int, Field(ge=1, description="Verified uses before a procedure can be retired.")] = 3
    retire_below: Annotated[
        float, Field(ge=0, le=1, description="Success rate below which it is retired; 0: never.")
    ] = 0.5
    llm: Annotated[str, Field(description="anthropic:MODEL or openai:MODEL; empty: no LLM is called.")] = ""
    llm_base_url: Annotated[str, Field(description="Endpoint of the LLM; empty: the vendor's own.")] = ""
    llm_api_key: Annotated[
        str, Field(repr=False, description="Its key; empty: ANTHROPIC_API_KEY or OPENAI_API_KEY.")
    ] = ""
    llm_timeout: Annotated[
        float, Field(gt=0, description="Seconds for one of up to three attempts to call the LLM.")
    ] = 60.0
    llm_daily_tokens: Annotated[int, Field(ge=0, description="Tokens that the LLM may use in a day (UTC).")] = 200_000
    rules: Annotated[Path | None, Field(description="TOML file of judging rules; HOME/rules.toml if unset.")] = None
    tokens: Annotated[
        Path | None, Field(description="File of the bearer tokens for HTTP; HOME/tokens.json if unset.")
    ] = None
    lock_timeout: Annotated[float, Field(gt=0, description="Seconds to wait for other writers.")] = 30.0
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="What is logged to stderr.")
    ] = "WARNING"

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **given: object) -> Self:
        """Read MEMP_* names from *environ*; what is *given* (and not None) wins. An empty value counts as not set.

        Raises:
            BadInput: a name is misspelt or a value cannot be used; the message says which and what would do.
        """
        values: dict[str, object] = {}
        for name, value in environ.items():
            if name.startswith(PREFIX) and (field := _field(name)) and value.strip():
                values[field] = value
        _check_home(str(values.get("home", "")))
        values.update({k: v for k, v in given.items() if v is not None})
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(f"{PREFIX}{e['loc'][0]!s}".upper() + f": {e['msg']}" for e in error.errors())
            raise BadInput(f"Settings cannot be used. {problems}.") from None

    @property
    def directory(self) -> Path:
        """The directory of the memory, with ~ resolved."""
        return self.home.expanduser()

    @property
    def own_project(self) -> str:
        """The project of calls that name none; empty: what they tell is shared by all."""
        return project_of(working_folder()) if self.project == AUTO else self.project

    @property
    def token_file(self) -> Path:
        """Where the bearer tokens are kept."""
        return self.tokens.expanduser() if self.tokens else self.directory / "tokens.json"

    def of_namespace(self, name: str) -> Self:
        """The settings of a memory of its own under this one; these themselves for the empty name."""
        if not name:
            return self
        if self.store.startswith("db://"):
            raise BadInput(f"{self.store} has no folders for namespaces. Make tokens without one, or use s3://.")
        store = self.store and f"{self.store.rstrip('/')}/namespaces/{name}"
        return self.model_copy(update={"home": self.directory / "namespaces" / name, "store": store})


def working_folder() -> str:
    """Where this process was started, which for a client's server is the folder that the client works in."""
    try:
        return str(Path.cwd())
    except OSError:  # it has been deleted since
        return ""


def project_of(folder: str) -> str:
    """The name of the project in a folder, which may be one of another machine; none in the home directory or above."""
    home = Path.home()
    if Path(folder) in {home, *home.parents}:
        return ""
    return re.split(r"[\\/]", folder.rstrip("\\/"))[-1]


def make_private(directory: Path) -> None:
    """Make the directory of a memory, whoever is the first to need it: what is recorded is its owner's business.

    One that is there keeps its mode.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _check_home(home: str) -> None:
    if home and not Path(home).expanduser().is_absolute():
        raise BadInput(
            f"MEMP_HOME is {home!r}. Write an absolute path, or one from ~: each client starts its server in a folder "
            "of its own, and all are to find the same memory."
        )


def _field(name: str) -> str:
    field = name.removeprefix(PREFIX).lower()
    if field not in Settings.model_fields:
        near = difflib.get_close_matches(field, Settings.model_fields, n=1)
        hint = f"Did you mean {PREFIX}{near[0].upper()}?" if near else "See the settings table in the README."
        raise BadInput(f"There is no setting {name}. {hint}")
    return field
