"""Which planted secrets does the redaction find, and what does it change that is none.

``python -m benchmarks.secrets --out benchmarks/results/secrets.json``. Secrets are made from a seed by the shapes that
their vendors publish (prefix, alphabet, length), and planted into the kinds of text that agents see: a shell line,
JSON, YAML, an .env file, a URL, a header, a log with colours, a Python repr, prose. A secret counts as found if nothing
is left of it that would do: no stretch of twelve characters. The kinds were listed before the detector was tried on
them; what it missed then is named in ``MISSED_AT_FIRST``, and it has learnt those since: for them the recall says
little. Kinds that were added later are here because it had missed them. What it finds of kinds that it was never tuned
on is measured on ``HELD_OUT``: with the name of the variable that the vendor documents, and without any name.

False positives: every text of the real transcripts and trajectories in the shared data, which hold hashes, UUIDs,
request ids and code about tokens; each change is listed. Beside it detect-secrets with its default plugins, and without
its two entropy checks, on the same texts line by line, as it scans.
"""

from __future__ import annotations

import argparse
import base64
import json
import lzma
import random
import string
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from detect_secrets.core.scan import scan_line  # the extra `benchmarks`
from detect_secrets.settings import default_settings, transient_settings

from benchmarks.common import DATA, RESULTS, command_line, print_table, write_results
from memp_mcp.redact import Redactor

SEED = 1789
OF_EACH = 12
LEFT = 12
ENTROPY = {"Base64HighEntropyString", "HexHighEntropyString"}
MISSED_AT_FIRST: Sequence[str] = (
    "Mailchimp",
    "Terraform Cloud",
    "Discord bot",
    "Postman",
    "New Relic",
    "Doppler",
    "Pulumi",
    "PlanetScale",
    "Airtable",
    "Square",
    "Figma",
    "Netlify",
    "Heroku",
    "1Password",
    "Alibaba",
    "Azure client secret",
    "SAS signature",
    "netrc",
    "Docker auth",
    "AWS access key id",
    "npmrc",
    "Notion",
)
FOUND_AT_FIRST = 1 - 245 / 864
"""What the detector found of the first 72 kinds before it had learnt these. Later kinds are here for being missed."""

ALNUM = string.ascii_letters + string.digits
LOWER = string.ascii_lowercase + string.digits
UPPER = string.ascii_uppercase + string.digits
HEX = "0123456789abcdef"
URLSAFE = ALNUM + "-_"
BASE64 = ALNUM + "+/"

Make = Callable[[random.Random], str]


def chars(alphabet: str, length: int, before: str = "", after: str = "") -> Make:
    """A maker of *length* random characters between two fixed texts."""
    return lambda rng: before + "".join(rng.choices(alphabet, k=length)) + after


def either(*makers: Make) -> Make:
    """A maker that takes one of these."""
    return lambda rng: rng.choice(makers)(rng)


def jwt(rng: random.Random) -> str:
    """A signed JSON web token."""
    parts = ({"alg": "RS256", "typ": "JWT"}, {"sub": str(rng.randrange(10**9)), "iss": "https://id.example"})
    head, body = (base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
    return f"{head}.{body}.{chars(URLSAFE, 86)(rng)}"


def pem(rng: random.Random) -> str:
    """A private key of several lines."""
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", ""])
    body = "\n".join(chars(BASE64, 64)(rng) for _ in range(rng.randrange(4, 14)))
    return f"-----BEGIN {kind}PRIVATE KEY" + f"-----\n{body}\n-----END {kind}PRIVATE KEY-----"


def password(rng: random.Random) -> str:
    """A password as people choose one."""
    word = "".join(rng.choices(string.ascii_letters, k=rng.randrange(6, 12)))
    return word + str(rng.randrange(10, 9999)) + rng.choice(["!", "$x", "#1", "_", "?a"])


SHAPES: Mapping[str, Make] = {
    # the prefix is split so that no scanner takes this file for a leak
    "GitHub, classic": either(*(chars(ALNUM, 36, f"gh{k}_") for k in "pous")),
    "GitHub, fine-grained": chars(ALNUM + "_", 82, "github" + "_pat_"),
    "GitLab": either(chars(URLSAFE, 20, "glpat" + "-"), chars(URLSAFE, 40, "glptt" + "-")),
    "AWS access key id": either(
        *(chars(string.ascii_uppercase + "234567", 16, p) for p in ("AK" + "IA", "AS" + "IA", "AB" + "IA", "AC" + "CA"))
    ),
    "Anthropic": chars(URLSAFE, 93, "sk-" + "ant-api03-", "AA"),
    "OpenAI, project": lambda r: "sk-" + "proj-" + chars(URLSAFE, 74)(r) + "T3BlbkFJ" + chars(URLSAFE, 74)(r),
    "OpenAI, old": lambda r: "sk" + "-" + chars(ALNUM, 20)(r) + "T3BlbkFJ" + chars(ALNUM, 20)(r),
    "OpenRouter": chars(HEX, 64, "sk-or" + "-v1-"),
    "Google API": chars(URLSAFE, 35, "AI" + "za"),
    "Google client secret": chars(URLSAFE, 28, "GOC" + "SPX-"),
    "Google OAuth": chars(URLSAFE, 120, "ya" + "29."),
    "Slack bot": lambda r: (
        "xox" + f"b-{r.randrange(10**11, 10**12)}-{r.randrange(10**12, 10**13)}-{chars(ALNUM, 24)(r)}"
    ),
    "Slack app": lambda r: "xa" + f"pp-1-A{chars(UPPER, 10)(r)}-{r.randrange(10**12, 10**13)}-{chars(HEX, 64)(r)}",
    "Stripe": either(
        chars(ALNUM, 99, "sk" + "_live_51"), chars(ALNUM, 24, "rk" + "_live_"), chars(ALNUM, 24, "sk" + "_test_")
    ),
    "npm": chars(ALNUM, 36, "npm" + "_"),
    "PyPI": chars(URLSAFE, 160, "pypi" + "-AgEIcHlwaS5vcmc"),
    "Hugging Face": chars(string.ascii_letters, 34, "h" + "f_"),
    "SendGrid": lambda r: "S" + f"G.{chars(URLSAFE, 22)(r)}.{chars(URLSAFE, 43)(r)}",
    "Twilio key": chars(HEX, 32, "S" + "K"),
    "Mailgun": chars(HEX, 32, "key" + "-"),
    "Mailchimp": lambda r: f"{chars(HEX, 32)(r)}-us{r.randrange(1, 22)}",
    "DigitalOcean": chars(HEX, 64, "dop" + "_v1_"),
    "Shopify": chars(HEX, 32, "shp" + "at_"),
    "Databricks": chars(HEX, 32, "da" + "pi"),
    "Vault": chars(URLSAFE, 95, "hv" + "s."),
    "Terraform Cloud": lambda r: f"{chars(ALNUM, 14)(r)}.atlas" + f"v1.{chars(URLSAFE, 67)(r)}",
    "Docker Hub": chars(URLSAFE, 27, "dckr" + "_pat_"),
    "Atlassian": chars(URLSAFE, 180, "ATA" + "TT3xFfGF0"),
    "Linear": chars(ALNUM, 40, "lin" + "_api_"),
    "Notion": either(chars(ALNUM, 46, "nt" + "n_"), chars(ALNUM, 43, "sec" + "ret_")),
    "Sentry": chars(HEX, 64, "sntry" + "u_"),
    "Grafana": lambda r: "gl" + f"sa_{chars(ALNUM, 32)(r)}_{chars(HEX, 8)(r)}",
    "Supabase": chars(HEX, 40, "sb" + "p_"),
    "Telegram": lambda r: f"{r.randrange(10**9, 10**10 - 1)}:A" + chars(URLSAFE, 34)(r),
    "Discord bot": lambda r: f"M{chars(ALNUM, 25)(r)}.{chars(URLSAFE, 6)(r)}.{chars(URLSAFE, 38)(r)}",
    "Groq": chars(ALNUM, 52, "gs" + "k_"),
    "Postman": lambda r: "PM" + f"AK-{chars(HEX, 24)(r)}-{chars(HEX, 34)(r)}",
    "New Relic": chars(UPPER, 27, "NR" + "AK-"),
    "Doppler": chars(ALNUM, 43, "dp" + ".pt."),
    "Pulumi": chars(HEX, 40, "pu" + "l-"),
    "PlanetScale": chars(URLSAFE, 40, "psc" + "ale_tkn_"),
    "Airtable": lambda r: "pa" + f"t{chars(ALNUM, 14)(r)}.{chars(HEX, 64)(r)}",
    "Square": either(chars(URLSAFE, 22, "sq0" + "atp-"), chars(URLSAFE, 60, "EA" + "AA")),
    "Figma": chars(URLSAFE, 40, "fi" + "gd_"),
    "Netlify": chars(ALNUM, 36, "nf" + "p_"),
    "Heroku": lambda r: "HR" + f"KU-{uuid.UUID(int=r.getrandbits(128))}",
    "1Password": chars(BASE64, 300, "ops" + "_eyJ"),
    "Alibaba": chars(ALNUM, 20, "LT" + "AI"),
    "Azure client secret": lambda r: f"{chars(ALNUM, 3)(r)}{r.randrange(10)}Q~" + chars(URLSAFE + ".", 31)(r),
    "age": chars("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58, "AGE-SECRET" + "-KEY-1"),
    "JWT": jwt,
    "private key": pem,
    "private key, cut off": lambda r: pem(r).partition("\n-----END")[0],
    "private key, its end": lambda r: pem(r).partition("-----\n")[2],
    "encoded private key": chars(BASE64, 400, "LS0tLS1CRUdJTi" + "BPUEVO"),
    "LangSmith": lambda r: "lsv2" + f"_pt_{chars(HEX, 32)(r)}_{chars(HEX, 10)(r)}",
    "Pinecone": chars(ALNUM + "_", 70, "pc" + "sk_"),
    "Tavily": either(chars(ALNUM, 32, "tv" + "ly-"), chars(ALNUM, 32, "tv" + "ly-dev-")),
    "NVIDIA": chars(URLSAFE, 64, "nv" + "api-"),
    "Cerebras": chars(LOWER, 48, "cs" + "k-"),
    "Langfuse": lambda r: "sk" + f"-lf-{uuid.UUID(int=r.getrandbits(128))}",
    "ElevenLabs": chars(HEX, 48, "s" + "k_"),
    "Brevo": lambda r: "xkey" + f"sib-{chars(HEX, 64)(r)}-{chars(ALNUM, 16)(r)}",
    "PostHog": chars(ALNUM, 43, "ph" + "x_"),
    "Resend": lambda r: "re" + f"_{chars(ALNUM, 8)(r)}_{chars(ALNUM, 24)(r)}",
    "Bitbucket": chars(ALNUM, 32, "AT" + "BB"),
    "CircleCI": lambda r: "CCI" + f"PAT_{chars(ALNUM, 22)(r)}_{chars(HEX, 40)(r)}",
    "Buildkite": chars(HEX, 40, "bk" + "ua_"),
    "RubyGems": chars(HEX, 48, "ruby" + "gems_"),
    "JFrog": chars(ALNUM, 69, "AK" + "Cp8"),
    "Vercel": chars(ALNUM, 56, "vc" + "p_"),
    "Neon": chars(LOWER, 64, "na" + "pi_"),
    "Fly": chars(BASE64, 200, "fm" + "2_"),
    "Dynatrace": lambda r: "dt0" + f"c01.{chars(UPPER, 24)(r)}.{chars(UPPER, 64)(r)}",
    "Dropbox": either(chars(URLSAFE, 140, "s" + "l."), chars(URLSAFE, 140, "s" + "l.u.")),
    "memp-mcp": chars(URLSAFE, 43, "memp" + "_"),
}
CARRIERS: Mapping[str, str] = {
    "shell": "$ tool --verbose deploy {} && echo done",
    "JSON": '{{"status": 200, "body": "{}"}}',
    "YAML": "deploy:\n  value: {}\n  retries: 3\n",
    ".env": "HOST=example.org\nVALUE={}\nPORT=80",
    "URL": "GET https://api.example.org/v1/items?access={}&page=2",
    "header": "> Accept: */*\n> X-Custom: {}\n>",
    "log": "\x1b[32mINFO\x1b[0m using \x1b[1m{}\x1b[0m for the upload",
    "repr": "Response(url='https://example.org', auth=('bot', '{}'), ok=True)",
    "prose": "I have found {}, which I will use for the next step.",
}
# What only its place or the name that it is given to makes a secret: the carrier belongs to the kind.
PLACED: Mapping[str, tuple[tuple[str, ...], Make]] = {
    "AWS secret key": (
        ("aws_secret_access_key = {}", "export AWS_SECRET_ACCESS_KEY={}", '"SecretAccessKey": "{}"'),
        chars(BASE64, 40),
    ),
    "password in a URL": (
        (
            "postgresql://app:{}@db.internal:5432/shop",
            "redis://:{}@cache:6379/0",
            "https://bot:{}@git.example.org/x.git",
        ),
        chars(ALNUM, 18),
    ),
    "Authorization header": (
        ("Authorization: Bearer {}", "-H 'Authorization: token {}'", '"authorization": "Bearer {}"'),
        chars(URLSAFE, 40),
    ),
    "basic authorization": (
        ("Authorization: Basic {}",),
        lambda r: base64.b64encode(f"admin:{password(r)}{password(r)}".encode()).decode(),
    ),
    "API key header": (("x-api-key: {}", "'X-Api-Key': '{}'", "X-Auth-Token: {}"), chars(LOWER, 40)),
    ".env password": (("DB_PASSWORD={}", "export PGPASSWORD='{}'", "ADMIN_PASSWD={}"), password),
    "YAML secret": (("client_secret: {}", "  apiToken: {}", "password: '{}'"), chars(ALNUM, 32)),
    "JSON secret": (('"refresh_token": "{}"', '"dbPassword":"{}"', "'secretKey': '{}'"), chars(ALNUM, 30)),
    "SQL Server string": (("Server=db;Database=x;User Id=sa;Password={};Encrypt=True",), password),
    "storage connection": (
        ("DefaultEndpointsProtocol=https;AccountName=x;AccountKey={};EndpointSuffix=core",),
        chars(BASE64, 86, after="=="),
    ),
    "SAS signature": (
        ("https://x.blob.example/c/f?sv=2024-01-01&se=2026-01-01&sr=b&sp=r&sig={}",),
        chars(ALNUM, 43, after="%3D"),
    ),
    "curl user": (("curl -u admin:{} https://example.org", "curl --user 'admin:{}' https://example.org"), password),
    "database client": (("mysql -uroot -p{} shop", "PGPASSWORD={} psql -h db"), chars(ALNUM, 14)),
    "flag": (("tool login --token {}", "tool --password={}", "tool --api-key '{}'"), chars(ALNUM, 24)),
    "cookie": (("Cookie: sessionid={}; theme=dark", "Set-Cookie: session={}; HttpOnly"), chars(ALNUM, 32)),
    "npmrc": (("//registry.example.org/:_authToken={}", "_auth={}"), chars(ALNUM, 36)),
    "netrc": (("machine example.org login bot password {}",), chars(ALNUM, 16)),
    "Slack webhook": (
        ("https://hooks.slack.com/services/{}",),
        lambda r: f"T{chars(UPPER, 9)(r)}/B{chars(UPPER, 10)(r)}/{chars(ALNUM, 24)(r)}",
    ),
    "Discord webhook": (
        ("https://discord.com/api/webhooks/{}",),
        lambda r: f"{r.randrange(10**17, 10**18)}/{chars(URLSAFE, 68)(r)}",
    ),
    "Docker auth": (
        ('{{"auths": {{"x": {{"auth": "{}"}}}}}}',),
        lambda r: base64.b64encode(f"bot:{chars(ALNUM, 30)(r)}".encode()).decode(),
    ),
    "Authorization, other schemes": (
        ("Authorization: {}", "Authorization: SSWS {}", "Authorization: OAuth {}", "Authorization: ApiKey {}"),
        chars(ALNUM, 42),
    ),
    "AWS signature": (
        (
            "Authorization: AWS4-HMAC-SHA256 Credential=x/2025/eu/s3/aws4_request, SignedHeaders=host, Signature={}",
            "https://x.s3.amazonaws.com/a?X-Amz-Signature={}",
        ),
        chars(HEX, 64),
    ),
    "AWS session token": (('"SessionToken": "{}"', "aws_session_token = {}"), chars(BASE64, 300)),
    "AWS prompt": (("AWS Secret Access Key [None]: {}", "|  SecretAccessKey |  {}  |"), chars(BASE64, 40)),
    "old Vault token": (("X-Vault-Token: {}", "VAULT_TOKEN={}"), chars(ALNUM, 24, "s.")),
    "digits or signs in a URL": (
        ("mysql://u:{}@h/db", "postgres://u:{}@db/x"),
        either(chars(string.digits, 8), lambda r: f"pa/{password(r)}", lambda r: f"pa@{password(r)}"),
    ),
    "token as a URL's user": (("https://{}@github.com/x/y", "https://{}:x-oauth-basic@github.com/x"), chars(HEX, 40)),
    "connection string": (
        ("Server=x;Uid=sa;Pwd={};", "host=db user=bob password={} dbname=x", "host=db password={}"),
        chars(string.ascii_lowercase, 12),
    ),
    ".env password, quoted or with a sign": (
        ("DB_PASSWORD={}", "HOST=x\nexport DB_PASSWORD={}\n"),
        either(
            lambda r: f'"my {password(r)} pass"',
            lambda r: f"#{password(r)}",
            lambda r: f"@{password(r)}",
            lambda r: "$e" + f"cretP{r.randrange(10)}ss",
        ),
    ),
    ".env password in lower case": (("db_password={}", "A=1\ndb_password={}\nB=2"), chars(string.ascii_lowercase, 12)),
    "Kubernetes key": (("    client-key-data: {}\n",), chars(BASE64, 400, "LS0tLS1CRUdJ")),
    "JWK": (('{{"kty":"OKP","crv":"Ed25519","d":"{}"}}',), chars(URLSAFE, 43)),
    "PuTTY key": (("Private-Lines: 1\n{}\nPrivate-MAC: 0",), chars(BASE64, 64)),
}
# Kinds that the detector has never been tuned on, by the shapes and the names of variables that their vendors publish:
# written when its patterns were done, and measured once. Whoever teaches it one of them moves that up to SHAPES.
HELD_OUT: Mapping[str, tuple[str, Make]] = {
    "Adafruit": ("ADAFRUIT_IO_KEY", chars(ALNUM, 28, "ai" + "o_")),
    "Algolia": ("ALGOLIA_API_KEY", chars(HEX, 32)),
    "Asana": ("ASANA_ACCESS_TOKEN", lambda r: f"1/{r.randrange(10**15, 10**16)}:{chars(HEX, 32)(r)}"),
    "Azure DevOps": ("AZURE_DEVOPS_EXT_PAT", chars(string.ascii_lowercase + "234567", 52)),
    "Clojars": ("CLOJARS_PASSWORD", chars(HEX, 60, "CLO" + "JARS_")),
    "Contentful": ("CONTENTFUL_MANAGEMENT_TOKEN", chars(URLSAFE, 43, "CF" + "PAT-")),
    "crates.io": ("CARGO_REGISTRY_TOKEN", chars(ALNUM, 32, "ci" + "o")),
    "Datadog": ("DD_API_KEY", chars(HEX, 32)),
    "Duffel": ("DUFFEL_ACCESS_TOKEN", chars(URLSAFE, 43, "duf" + "fel_live_")),
    "E2B": ("E2B_API_KEY", chars(HEX, 40, "e2" + "b_")),
    "EasyPost": ("EASYPOST_API_KEY", chars(ALNUM, 54, "EZ" + "AK")),
    "Facebook": ("FACEBOOK_ACCESS_TOKEN", chars(ALNUM, 180, "EA" + "AB")),
    "Firecrawl": ("FIRECRAWL_API_KEY", chars(HEX, 32, "f" + "c-")),
    "Fireworks": ("FIREWORKS_API_KEY", chars(ALNUM, 24, "f" + "w_")),
    "Flutterwave": ("FLW_SECRET_KEY", chars(HEX, 32, "FLW" + "SECK-", "-X")),
    "Frame.io": ("FRAMEIO_TOKEN", chars(URLSAFE, 64, "fi" + "o-u-")),
    "Harness": (
        "HARNESS_PLATFORM_API_KEY",
        lambda r: f"pat.{chars(ALNUM, 22)(r)}.{chars(HEX, 24)(r)}.{chars(ALNUM, 20)(r)}",
    ),
    "Infracost": ("INFRACOST_API_KEY", chars(ALNUM, 32, "ic" + "o-")),
    "Jina": ("JINA_API_KEY", chars(URLSAFE, 60, "ji" + "na_")),
    "Mapbox": ("MAPBOX_ACCESS_TOKEN", lambda r: "s" + f"k.eyJ1{chars(URLSAFE, 80)(r)}.{chars(URLSAFE, 22)(r)}"),
    "MaxMind": ("MAXMIND_LICENSE_KEY", lambda r: f"{chars(ALNUM, 6)(r)}_{chars(ALNUM, 29)(r)}_mmk"),
    "NuGet": ("NUGET_API_KEY", chars(LOWER, 43, "oy" + "2")),
    "Okta": ("OKTA_API_TOKEN", chars(URLSAFE, 40, "00")),
    "OpenShift": ("OPENSHIFT_TOKEN", chars(URLSAFE, 43, "sha" + "256~")),
    "Prefect": ("PREFECT_API_KEY", chars(ALNUM, 36, "pn" + "u_")),
    "ReadMe": ("README_API_KEY", chars(LOWER, 70, "rd" + "me_")),
    "Scalingo": ("SCALINGO_API_TOKEN", chars(URLSAFE, 48, "tk" + "-us-")),
    "Shippo": ("SHIPPO_API_TOKEN", chars(HEX, 40, "ship" + "po_live_")),
    "Snyk": ("SNYK_TOKEN", lambda r: str(uuid.UUID(int=r.getrandbits(128)))),
    "Sonar": ("SONAR_TOKEN", chars(HEX, 40, "sq" + "u_")),
    "Sourcegraph": ("SRC_ACCESS_TOKEN", chars(HEX, 40, "sg" + "p_")),
    "Typeform": ("TYPEFORM_TOKEN", chars(ALNUM, 59, "tf" + "p_")),
}
NAMED = ("{}={}", "export {}='{}'", '"{}": "{}"')


def planted() -> Iterator[tuple[str, str, str, str]]:
    """Kind, carrier, text and the secret in it; the same in every run."""
    rng = random.Random(SEED)
    names = list(CARRIERS)
    for kind, make in SHAPES.items():
        for number in range(OF_EACH):
            secret, carrier = make(rng), names[number % len(names)]
            text = CARRIERS[carrier].format(secret)
            yield kind, carrier, text, secret
    for kind, (texts, make) in PLACED.items():
        for number in range(OF_EACH):
            secret = make(rng)
            yield kind, "its own", texts[number % len(texts)].format(secret), secret


def held_out() -> list[dict[str, object]]:
    """Of each kind that the detector does not know: how many it finds by their name, and without any."""
    rng = random.Random(SEED)
    carriers = list(CARRIERS.values())
    rows: list[dict[str, object]] = []
    for kind, (name, make) in HELD_OUT.items():
        secrets = [make(rng) for _ in range(OF_EACH)]
        named = [NAMED[i % len(NAMED)].format(name, secret) for i, secret in enumerate(secrets)]
        bare = [carriers[i % len(carriers)].format(secret) for i, secret in enumerate(secrets)]
        row: dict[str, object] = {"kind": kind, "planted": OF_EACH}
        for way, texts in (("found by name", named), ("found bare", bare)):
            row[way] = sum(not is_left(s, by_ours(t)) for s, t in zip(secrets, texts, strict=True))
        rows.append(row)
    return rows


def is_left(secret: str, text: str) -> bool:
    """Whether a stretch of the secret that would do is still in the text."""
    body = "".join(secret.split("-----")[2:3]) or secret
    size = min(LEFT, len(body))
    return any(body[i : i + size] in text for i in range(len(body) - size + 1))


def by_ours(text: str) -> str:
    """The text as the memory stores it."""
    return Redactor().text(text)


def by_detect_secrets(text: str) -> str:
    """The text without what detect-secrets names as a secret, whatever slot would take its place."""
    found = {s.secret_value for line in text.splitlines() for s in scan_line(line) if s.secret_value}
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, "")
    return text


def detectors() -> Mapping[str, tuple[Callable[[str], str], dict[str, object] | None]]:
    """What is compared, each with the plugins that detect-secrets is to use."""
    with default_settings() as settings:
        plugins = [{"name": name} for name in settings.plugins]
    plain = [p for p in plugins if p["name"] not in ENTROPY]
    return {
        "memp-mcp": (by_ours, None),
        "detect-secrets, default": (by_detect_secrets, {"plugins_used": plugins}),
        "detect-secrets, no entropy": (by_detect_secrets, {"plugins_used": plain}),
    }


def real_texts() -> Iterator[tuple[str, str]]:
    """Where it is from, and the text: every string of every real trajectory and transcript (the games are neither)."""
    for path in sorted(p for p in DATA.rglob("*") if p.is_file() and not p.name.startswith(("README", "games"))):
        source = path.relative_to(DATA).as_posix()
        if path.name.endswith(".tar.xz"):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() else None
                    if file is not None and member.name.endswith((".json", ".jsonl", ".traj")):
                        yield from ((source, text) for text in _texts_of(file.read().decode("utf-8", "replace")))
        elif path.suffix in {".json", ".jsonl"} or path.name.endswith((".json.xz", ".jsonl.xz")):
            raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            yield from ((source, text) for text in _texts_of(raw.decode("utf-8", "replace")))


def _texts_of(raw: str) -> Iterator[str]:
    try:
        yield from _strings(json.loads(raw))
    except ValueError:
        for line in raw.splitlines():
            try:
                yield from _strings(json.loads(line))
            except ValueError:
                yield line


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def changes(before: str, after: str) -> str:
    """The slots that were put in, with what stands before each: enough to judge it, nothing of what was masked."""
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    return after[max(0, at - 50) : at + 30]


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "secrets.json")
    parser.add_argument("--sample", type=int, default=20_000, help="real texts that detect-secrets is given")
    options = parser.parse_args()
    secrets = list(planted())
    real = sorted({(source, text) for source, text in real_texts() if len(text) > 3})
    sample = random.Random(SEED).sample(real, min(options.sample, len(real)))
    rows, kinds = [], {kind: {"kind": kind, "planted": OF_EACH} for kind in [*SHAPES, *PLACED]}
    listed: list[dict[str, str]] = []
    for name, (clean, plugins) in detectors().items():
        with transient_settings(plugins or {}):
            missed = [kind for kind, _, text, secret in secrets if is_left(secret, clean(text))]
            texts = real if plugins is None else sample
            changed = [(source, text, after) for source, text in texts if (after := clean(text)) != text]
        for kind, row in kinds.items():
            row[name] = OF_EACH - missed.count(kind)
        rows.append({
            "detector": name, "planted": len(secrets), "kinds": len(kinds), "found": 1 - len(missed) / len(secrets),
            "real texts": len(texts), "of them changed": len(changed), "share": len(changed) / len(texts),
        })  # fmt: skip
        if plugins is None:
            listed = [{"source": source, "around": changes(text, after)} for source, text, after in changed]
    print_table(rows)
    print_table([row for row in kinds.values() if row["memp-mcp"] != OF_EACH])
    for change in listed:
        print(change)
    unknown = held_out()
    print_table(unknown)
    results = {
        "rows": rows,
        "by kind": list(kinds.values()),
        "changed": listed,
        "found at first": FOUND_AT_FIRST,
        "missed at first": MISSED_AT_FIRST,
        "held out": unknown,
    }
    write_results(options.out, command_line(), SEED, results, packages=("detect-secrets",))


if __name__ == "__main__":
    main()
