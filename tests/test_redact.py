"""Secrets are taken out, and only secrets. Every fake is put together at run time: no scanner trips on this file."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import random
import string
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.logging import RichHandler

from memp_mcp.models import Event, Reward, Step, Trajectory
from memp_mcp.redact import Redactor, keep_out_of_logs, redact_trajectory, redact_value
from memp_mcp.transcripts import read

DATA = Path(os.environ.get("TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared trajectories are not at {DATA}")

ALNUM = string.ascii_letters + string.digits
LOWER = string.ascii_lowercase + string.digits
HEX = "0123456789abcdef"
BASE64 = ALNUM + "+/"
URLSAFE = ALNUM + "-_"
A_DOZEN = 12


def _pick(rng: random.Random, alphabet: str, length: int) -> str:
    return rng.choice(string.ascii_lowercase if "g" in alphabet else "ab") + "".join(
        rng.choices(alphabet, k=length - 1)
    )


def _jwt(rng: random.Random) -> str:
    body = json.dumps({"sub": _pick(rng, LOWER, 10), "exp": rng.randrange(10**9)})
    head, claims = (base64.urlsafe_b64encode(t.encode()).decode().rstrip("=") for t in ('{"alg":"HS256"}', body))
    return f"{head}.{claims}.{_pick(rng, URLSAFE, 43)}"


def _pem(rng: random.Random) -> str:
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED "])
    lines = "\n".join(_pick(rng, BASE64, 64) for _ in range(6))
    return f"-----BEGIN {kind}PRIVATE " + f"KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def _password(rng: random.Random) -> str:
    return _pick(rng, ALNUM, 7) + str(rng.randrange(10)) + rng.choice(["!x", "Q~", "zz", "_9"])


KINDS: dict[str, Callable[[random.Random], str]] = {
    "github classic": lambda r: "gh" + r.choice("pousr") + "_" + _pick(r, ALNUM, 36),
    "github fine-grained": lambda r: "github" + "_pat_" + _pick(r, ALNUM, 22) + "_" + _pick(r, ALNUM, 59),
    "gitlab": lambda r: "gl" + "pat-" + _pick(r, URLSAFE, 20),
    "aws id": lambda r: r.choice(["AK", "AS"]) + "IA" + _pick(r, string.ascii_uppercase + "234567", 16).upper(),
    "anthropic": lambda r: "sk-" + "ant-api03-" + _pick(r, URLSAFE, 93) + "AA",
    "openai": lambda r: "sk" + "-" + _pick(r, ALNUM, 48),
    "openai project": lambda r: "sk-" + "proj-" + _pick(r, URLSAFE, 120),
    "google": lambda r: "AI" + "za" + _pick(r, URLSAFE, 35),
    "google oauth": lambda r: "ya" + "29." + _pick(r, URLSAFE, 60),
    "slack bot": lambda r: "xo" + f"xb-{r.randrange(10**11)}-{r.randrange(10**11)}-" + _pick(r, ALNUM, 24),
    "stripe": lambda r: r.choice(["sk", "rk"]) + "_live_" + _pick(r, ALNUM, 24),
    "npm": lambda r: "np" + "m_" + _pick(r, ALNUM, 36),
    "pypi": lambda r: "py" + "pi-AgEIcHlwaS5vcmc" + _pick(r, URLSAFE, 90),
    "hugging face": lambda r: "h" + "f_" + _pick(r, string.ascii_letters, 34),
    "sendgrid": lambda r: "S" + "G." + _pick(r, URLSAFE, 22) + "." + _pick(r, URLSAFE, 43),
    "digitalocean": lambda r: "do" + "p_v1_" + _pick(r, HEX, 64),
    "databricks": lambda r: "da" + "pi" + _pick(r, HEX, 32),
    "vault": lambda r: "hv" + "s." + _pick(r, URLSAFE, 90),
    "telegram": lambda r: f"{r.randrange(10**8, 10**9)}:" + "A" + _pick(r, URLSAFE, 34),
    "jwt": _jwt,
    "pem": _pem,
    "langsmith": lambda r: "lsv2" + f"_pt_{_pick(r, HEX, 32)}_{_pick(r, HEX, 10)}",
    "pinecone": lambda r: "pc" + "sk_" + _pick(r, ALNUM, 60),
    "tavily": lambda r: "tv" + "ly-" + _pick(r, ALNUM, 32),
    "nvidia": lambda r: "nv" + "api-" + _pick(r, URLSAFE, 64),
    "cerebras": lambda r: "cs" + "k-" + _pick(r, LOWER, 48),
    "langfuse": lambda r: "sk" + f"-lf-{_pick(r, HEX, 8)}-1111-4222-8333-{_pick(r, HEX, 12)}",
    "elevenlabs": lambda r: "sk" + "_" + _pick(r, HEX, 48),
    "brevo": lambda r: "xkey" + f"sib-{_pick(r, HEX, 64)}-{_pick(r, ALNUM, 16)}",
    "posthog": lambda r: "ph" + "x_" + _pick(r, ALNUM, 43),
    "resend": lambda r: "re" + f"_{_pick(r, ALNUM, 7)}4_{_pick(r, ALNUM, 24)}",
    "bitbucket": lambda r: "AT" + "BB" + _pick(r, ALNUM, 31) + "1",
    "circleci": lambda r: "CCI" + f"PAT_{_pick(r, ALNUM, 22)}_{_pick(r, HEX, 40)}",
    "buildkite": lambda r: "bk" + "ua_" + _pick(r, HEX, 40),
    "rubygems": lambda r: "ruby" + "gems_" + _pick(r, HEX, 48),
    "jfrog": lambda r: "AK" + "Cp8" + _pick(r, ALNUM, 69),
    "vercel": lambda r: "vc" + "p_" + _pick(r, ALNUM, 24),
    "neon": lambda r: "na" + "pi_" + _pick(r, LOWER, 64),
    "fly": lambda r: "fm" + "2_" + _pick(r, BASE64, 100),
    "dynatrace": lambda r: "dt0" + f"c01.{_pick(r, ALNUM, 24).upper()}.{_pick(r, ALNUM, 64).upper()}",
    "dropbox": lambda r: "s" + "l.u." + _pick(r, URLSAFE, 140),
    "memp": lambda r: "memp" + "_" + _pick(r, URLSAFE, 43),
}
SENTENCES = (
    "I will use {} for this.",
    "$ tool login --with {}",
    "the server answered: token={}\nnext line",
    '{{"output": "{}"}}',
    "\x1b[32m{}\x1b[0m",
    "line one\\n{} and more",
    "https://host/x?key={}&page=2",
)
# Secrets that only their place or their name gives away; the secret is what stands for {}.
PLACES: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "aws secret": ("aws_secret_access_key = {}\nregion = eu", lambda r: _pick(r, BASE64, 40)),
    "url password": ("psql postgresql://app:{}@db.internal:5432/shop", _password),
    "git url": ("git clone https://oauth2:{}@git.internal/x.git", lambda r: _pick(r, LOWER, 20)),
    "bearer header": ("curl -H 'Authorization: Bearer {}' https://x", lambda r: _pick(r, URLSAFE, 32)),
    "basic header": ("Authorization: Basic {}", lambda r: base64.b64encode(_password(r).encode() * 2).decode()),
    "api key header": ("X-Api-Key: {}", lambda r: _pick(r, LOWER, 32)),
    "env token": ("export DEPLOY_TOKEN={}", lambda r: _pick(r, ALNUM, 24)),
    "env password": ("DB_PASSWORD={}\nDB_HOST=x", _password),
    "env password, words only": ("MYSQL_ROOT_PASSWORD={}", lambda r: _pick(r, string.ascii_lowercase, 11)),
    "yaml": ("  api_key: {}\n", lambda r: _pick(r, HEX, 32)),
    "json": ('{{"clientSecret": "{}", "n": 1}}', lambda r: _pick(r, ALNUM, 28)),
    "escaped json": ('"{{\\"access_token\\": \\"{}\\"}}"', lambda r: _pick(r, ALNUM, 28)),
    "python": ('os.environ["SECRET_KEY"] = "{}"', lambda r: _pick(r, ALNUM, 30)),
    "keyword argument": ('connect(user="app", password="{}")', _password),
    "azure": ("AccountName=x;AccountKey={};EndpointSuffix=y", lambda r: _pick(r, BASE64, 86) + "=="),
    "sql server": ("Server=db;User Id=sa;Password={};Encrypt=yes", _password),
    "curl user": ("curl -s -u admin:{} https://x", _password),
    "mysql": ("mysql -h db -uroot -p{} shop", _password),
    "sshpass": ("sshpass -p {} ssh host", _password),
    "flag": ("tool --api-key {} run", lambda r: _pick(r, ALNUM, 24)),
    "flag with =": ("tool --password={} run", _password),
    "letters alone": ("tool --api-key '{}' run", lambda r: "".join(r.sample(string.ascii_letters[8:44], 24))),
    "slack webhook": ("https://hooks.slack.com/services/{}", lambda r: "T0A1B2C3/B0A1B2C3/" + _pick(r, ALNUM, 24)),
    "discord webhook": (
        "https://discord.com/api/webhooks/{}",
        lambda r: f"{r.randrange(10**17)}1/" + _pick(r, URLSAFE, 60),
    ),
    "cookie": ("Cookie: session={}; theme=dark", lambda r: _pick(r, ALNUM, 40)),
    "connection key": (
        "Endpoint=sb://x;SharedAccessKeyName=n;SharedAccessKey={}",
        lambda r: _pick(r, BASE64, 43) + "=",
    ),
    "bare authorization": ("Authorization: {}", lambda r: _pick(r, ALNUM, 39) + "7"),
    "SSWS": ("Authorization: SSWS {}", lambda r: _pick(r, URLSAFE, 42)),
    "OAuth": ('headers = {{"Authorization": f"OAuth {}"}}', lambda r: _pick(r, ALNUM, 40)),
    "API key without a header": ("send ApiKey {}", lambda r: _pick(r, ALNUM, 59) + "7"),
    "AWS signature": (
        "Authorization: AWS4-HMAC-SHA256 Credential=x/20250101/eu/s3/aws4_request, SignedHeaders=host, Signature={}",
        lambda r: _pick(r, HEX, 64),
    ),
    "old Vault token": ("X-Vault-Token: {}", lambda r: "s." + _pick(r, ALNUM, 23) + "7"),
    "digits in a URL": ("mysql://u:{}@h/db", lambda r: str(r.randrange(10**7, 10**8))),
    "slash in a URL": ("postgres://u:{}@db/x", lambda r: "pa/" + _pick(r, ALNUM, 8) + "7"),
    "at sign in a URL": ("postgres://u:{}@db/x", lambda r: _password(r) + "@" + _password(r)),
    "question mark in a URL": ("postgres://u:pa@{}?a@db/x", lambda r: _pick(r, ALNUM, 11) + "7"),
    "token as user": ("git clone https://{}@github.com/x/y", lambda r: _pick(r, HEX, 39) + "7"),
    "Pwd": ("Server=x;Uid=sa;Pwd={};", _password),
    "Pwd first": ("Pwd={};Server=x", _password),
    "libpq": ("host=db user=bob password={} dbname=x", lambda r: _pick(r, string.ascii_lowercase, 10)),
    "env with blanks": ('DB_PASSWORD="{}"', lambda r: f"my s{r.randrange(10)}cret " + _pick(r, ALNUM, 5)),
    "env with $": ("DB_PASSWORD={}", lambda r: "$ecret" + f"P{r.randrange(10)}ss"),
    "env with #": ("DB_PASSWORD={}", lambda r: "#" + _password(r)),
    "env with @": ("DB_PASSWORD={}", lambda r: "@dm" + f"{r.randrange(10)}nPass"),
    "env in lower case": ("HOST=x\ndb_password={}\n", lambda r: _pick(r, string.ascii_lowercase, 12)),
    "flag, words only": ("mysql --password={} -u r", lambda r: _pick(r, string.ascii_lowercase, 12)),
    "Kubernetes": ("    client-key-data: {}\n", lambda r: "LS0tLS1CRUdJ" + _pick(r, BASE64, 80)),
    "encoded key": ("echo {} | base64 -d", lambda r: "LS0tLS1CRUdJTi" + "BPUEVO" + _pick(r, BASE64, 80)),
    "JWK": ('{{"kty":"OKP","crv":"Ed25519","d":"{}"}}', lambda r: _pick(r, URLSAFE, 43)),
    "AWS session": ('"SessionToken": "{}"', lambda r: _pick(r, BASE64, 200)),
    "AWS prompt": ("AWS Secret Access Key [None]: {}", lambda r: _pick(r, BASE64, 40)),
    "AWS table": ("|  SecretAccessKey |  {}  |", lambda r: _pick(r, BASE64, 40)),
}


def _planted() -> Iterator[tuple[str, str, str]]:
    """Kind, text and the secret in it: A_DOZEN of each kind, the same in every run."""
    rng = random.Random(2508)
    for number in range(A_DOZEN):
        for kind, make in KINDS.items():
            secret = make(rng)
            yield kind, SENTENCES[number % len(SENTENCES)].format(secret), secret
        for kind, (sentence, make) in PLACES.items():
            secret = make(rng)
            yield kind, sentence.format(secret), secret


def test_nearly_every_planted_secret_is_found(record_property: Callable[[str, object], None]) -> None:
    planted = list(_planted())
    missed = Counter(kind for kind, text, secret in planted if secret in Redactor().text(text))
    recall = 1 - missed.total() / len(planted)
    record_property("recall", recall)
    print(f"recall {recall:.4f} on {len(planted)} secrets of {len(KINDS) + len(PLACES)} kinds; missed {dict(missed)}")  # noqa: T201 - the figure is the report
    assert len(KINDS) + len(PLACES) >= 25
    assert len(planted) >= 300
    assert recall >= 0.98, missed


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_token_not_even_a_part_stays(kind: str) -> None:
    secret = KINDS[kind](random.Random(1))
    cleaned = Redactor().text(f"before {secret} after")
    assert cleaned.startswith("before ${")
    assert cleaned.endswith("} after")
    assert secret[-8:] not in cleaned


LEFT_ALONE = (
    "commit 3f2a9c0d1e4b5a6978812233445566778899aabb, 7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730",
    "id 123e4567-e89b-12d3-a456-426614174000, procedure p_3f2a9c0d1e4b, trajectory t_0a1b2c3d4e5f67890a1b",
    "sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730",
    '"integrity": "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="',
    "GITHUB_TOKEN=<YOUR_TOKEN> and API_KEY=${GITHUB_TOKEN} and TOKEN=$TOKEN",
    "password=xxxxxxxxxx, token: ************, api_key=your_api_key_here, SECRET=changeme",
    "ghp_" + "x" * 36,
    "password: required, Password: incorrect. token: str = None",
    'password = getpass("Password: ")',
    "token = self.tokens[3]; api_key = os.environ['API_KEY']; secret=settings.app_secret",
    "max_tokens=4096 next_page_token=abc123def456 eos_token='</s1>' pad_token=abc12345",
    "PWD=/root/project1 OLDPWD=/srv/app2 SSH_KEY=/root/.ssh/id_ed25519",
    "private_key_path: ./keys/server1.pem",
    "postgres://user:password@localhost/db and http://{user}:{password}@host and https://host:8080/a@b",
    "docker run -u 1000:1000 image; git clone git@github.com:owner/repo1.git",
    "PRIMARY_KEY=abcdef1234567890 STATUS_KEY=open",
    "Authorization: Bearer <token>",
    "Authorization: Bearer ${TOKEN}",
    "task-0123456789abcdef0123456789 risk-assessment2",
    "12 passed=3 failed, bypass: 1234abcd",
    "token = secretsManagerClientFactory; tool --token createTokenFromSecretsManager",
    "redis://user:password@cache?contact=me@example.org",
    "DB_PASSWORD=$DB_PASS2 DB_PASSWORD=$dbPassword PASSWORD=$oauth2Token PASSWORD=$1 PASSWORD=@/run/secrets/db1",
    "    db_password=rawvalue\n)",
    "connect(host=a, password=secretvar, user=b)",
    'DB_PASSWORD="correct horse battery"',
    "http://localhost:8080/a1@b redis://cache:6379/0@x1 https://unpkg.com:443/@scope/pkg1@1.2.3",
    "ssh://git@host:22/x1@y2 https://my-user-2@bitbucket.org/x",
    "Authorization: required for the api; authorization: Basic auth is used",
    "memp_mcp_record_trajectory_and_reflect_failure memp_http_requests_total_by_path_and_status",
    "cd /x;PWD=/a/b1; AWS Secret Access Key [****************Nx1A]: ",
    "",
)


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_hashes_ids_code_and_placeholders_stay_as_they_are(text: str) -> None:
    redactor = Redactor()
    assert redactor.text(text) == text
    assert not redactor.counts


def test_the_same_secret_gets_the_same_slot_and_another_one_a_numbered_slot() -> None:
    rng = random.Random(3)
    first, second = (KINDS["github classic"](rng) for _ in range(2))
    redactor = Redactor()
    assert redactor.text(f"{first} {second}") == "${GITHUB_TOKEN} ${GITHUB_TOKEN_2}"
    assert redactor.text(f"again {second}") == "again ${GITHUB_TOKEN_2}"
    assert redactor.counts == {"GITHUB_TOKEN": 1, "GITHUB_TOKEN_2": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("export STRIPE_HOOK_SECRET=abc123def456", "export STRIPE_HOOK_SECRET=${STRIPE_HOOK_SECRET}"),
        ('"dbPassword": "hunter2"', '"dbPassword": "${DB_PASSWORD}"'),
        ("X-Api-Key: abc123def456", "X-Api-Key: ${X_API_KEY}"),
        ("APP_KEY=base64Abc123Def456", "APP_KEY=${APP_KEY}"),
        ("123-token=abc123def456", "123-token=${TOKEN}"),
    ],
)
def test_a_slot_carries_the_name_that_the_secret_was_given(text: str, expected: str) -> None:
    assert Redactor().text(text) == expected


def test_a_private_key_that_breaks_off_is_hidden_to_its_end() -> None:
    body = _pick(random.Random(5), BASE64, 64)
    cleaned = Redactor().text("-----BEGIN PRIVATE " + f"KEY-----\n{body}\n{body}\nThe end.")
    assert cleaned == "${PRIVATE_KEY}\nThe end."


A_BODY = _pick(random.Random(6), BASE64, 64)
BEGIN, END = ("-----" + f"{place} RSA PRIVATE KEY-----" for place in ("BEGIN", "END"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{BEGIN}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB\n\n{A_BODY}\n{A_BODY}\n", "${PRIVATE_KEY}\n"),
        (f"│ {BEGIN} │\n│ {A_BODY} │\n│ {A_BODY} │\nThe end", "│ ${PRIVATE_KEY} │\nThe end"),
        (f"| {BEGIN}\n| {A_BODY}\n| ab1=\n| The end", "| ${PRIVATE_KEY}\n| The end"),
        (f"1  {BEGIN}\n2  {A_BODY}\n3  {A_BODY}\n", "1  ${PRIVATE_KEY}\n"),
        (f"+{BEGIN}\n+{A_BODY}\n+{A_BODY}\n", "+${PRIVATE_KEY}\n"),
        (f"the end of it:\n{A_BODY}\n{A_BODY}\nab12==\n{END}\nnext", "the end of it:\n${PRIVATE_KEY}\nnext"),
        (
            "---- BEGIN SSH2 ENCRYPTED " + f'PRIVATE KEY ----\nComment: "x"\n{A_BODY}\n{A_BODY}\n',
            "${PRIVATE_KEY}\n",
        ),
        (
            f"Public-Lines: 0\nPrivate-Lines: 2\n{A_BODY}\n{A_BODY}\nPrivate-MAC: 01",
            "Public-Lines: 0\nPrivate-Lines: 2${PRIVATE_KEY}\nPrivate-MAC: 01",
        ),
    ],
)
def test_a_private_key_is_hidden_however_it_is_printed(text: str, expected: str) -> None:
    assert Redactor().text(text) == expected


def test_a_trajectory_is_cleaned_everywhere_and_identified_by_what_is_left() -> None:
    token = KINDS["github classic"](random.Random(7))
    password = "Tr0ub4dor" + "And3"
    dirty = Trajectory(
        task=f"Push with {token}",
        steps=(
            Step(action=f"login bob {password}", observation="ok", thought=f"{token} is needed"),
            Step(action=f"export DB_PASSWORD={password}"),
        ),
        reward=Reward(score=1, judged_by="user", verified=True, reason=f"used {token}", feedback=(token,)),
        script=(f"use {token}",),
    )
    clean, counts = redact_trajectory(dirty)
    assert token not in clean.model_dump_json()
    assert password not in clean.model_dump_json()
    assert clean.steps[0].action == "login bob ${DB_PASSWORD}"
    assert counts == {"GITHUB_TOKEN": 5, "DB_PASSWORD": 2}
    assert clean.id != dirty.id
    assert clean == Trajectory.model_validate(clean.model_dump(exclude={"id", "content_hash"}))
    assert redact_trajectory(clean) == (clean, {})


def test_a_trajectory_without_secrets_comes_back_as_it_is() -> None:
    clean = Trajectory(task="put a mug on the desk", steps=(Step(action="go to desk 1"),))
    assert redact_trajectory(clean) == (clean, {})


def test_other_values_are_cleaned_too_and_keep_their_ids() -> None:
    event = Event(kind="recall", detail=json.dumps({"error": "denied for " + KINDS["npm"](random.Random(9))}))
    clean, counts = redact_value(event)
    assert json.loads(clean.detail) == {"error": "denied for ${NPM_TOKEN}"}
    assert (clean.id, counts) == (event.id, {"NPM_TOKEN": 1})


FRAGMENTS = st.one_of(
    st.sampled_from([text for _, text, _ in _planted()][:300]),
    st.sampled_from(["token=", "PASSWORD=", ": ", "://", "@", '"', "'", "\\n", " ", "${", "}", "Bearer ", "abc12345"]),
    st.text(max_size=20),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(FRAGMENTS, max_size=8).map("".join))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = Redactor().text(text)
    assert Redactor().text(once) == once


@pytest.mark.parametrize(
    "unit",
    [
        "a", "eyJ", "password=", '"secret="', "-----BEGIN PRIVATE " + "KEY-----\n", "://a:b", "curl -u ", "Aa1/", "\n ",
        "A" * 64 + "\n", "://u:p1/", "https://" + "a" * 70, "host=a password=abcd ",
    ],
)  # fmt: skip
def test_a_line_of_five_megabytes_is_gone_through(unit: str) -> None:
    text = unit * (5_000_000 // len(unit)) + END
    assert Redactor().text(text)


@needs_data
def test_nothing_in_the_alfworld_runs_is_taken_for_a_secret() -> None:
    files = [
        "retrieval/agentinstruct_trajectories.json",
        "alfworld/knowagent_llama2_13b_D0.jsonl.xz",
        "alfworld/knowagent_llama2_13b_D1.jsonl.xz",
    ]
    runs = [t for name in files for t in read(DATA / name) if isinstance(t, Trajectory)]
    assert len(runs) == 336 + 1020
    assert [t.task for t in runs if redact_trajectory(t)[1]] == []


@needs_data
@pytest.mark.parametrize(
    ("archive", "suffix"),
    [("swe-agent/trajectories.tar.xz", ".traj"), ("claude-code-spotter/sessions.tar.xz", ".jsonl")],
)
def test_real_coding_sessions_stay_as_they_are(archive: str, suffix: str) -> None:
    """They hold hashes, UUIDs, request ids, token counts and code about tokens, but no secret."""
    texts = set(_archived(DATA / "transcripts" / archive, suffix))
    changed = [text for text in texts if Redactor().text(text) != text]
    print(f"{archive}: {len(changed)} of {len(texts):,} texts changed")  # noqa: T201 - the figure is the report
    assert len(texts) > 1_000
    assert changed == []


def _archived(path: Path, suffix: str) -> Iterator[str]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(suffix) else None
            if file is not None:
                raw = file.read().decode()
                for document in raw.splitlines() if suffix == ".jsonl" else [raw]:
                    yield from _strings(json.loads(document))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def test_no_log_record_carries_a_secret_nor_does_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    secret = KINDS["github classic"](random.Random(11))
    before = logging.getLogRecordFactory()
    try:
        keep_out_of_logs()
        keep_out_of_logs()
        other = logging.getLogger("some.library")
        other.warning("denied for %s", secret)
        try:
            int(secret)
        except ValueError:
            other.exception("it broke")
    finally:
        logging.setLogRecordFactory(before)

    assert "denied for ${GITHUB_TOKEN}" in caplog.text
    assert "ValueError: invalid literal for int() with base 10: '${GITHUB_TOKEN}'" in caplog.text
    assert secret not in caplog.text


def test_nor_does_a_traceback_that_the_log_draws_from_the_exception_itself() -> None:
    """The SDK logs by rich where that is installed, and that asks no formatter."""
    secret = KINDS["github classic"](random.Random(11))
    before = logging.getLogRecordFactory()
    drawn = io.StringIO()
    other = logging.getLogger("another.library")
    handler = RichHandler(console=Console(file=drawn, width=200), rich_tracebacks=True)
    other.addHandler(handler)
    try:
        keep_out_of_logs()
        try:
            int(secret)
        except ValueError:
            other.exception("it broke")
    finally:
        other.removeHandler(handler)
        logging.setLogRecordFactory(before)

    assert "${GITHUB_TOKEN}" in drawn.getvalue()
    assert secret not in drawn.getvalue()
