"""Secrets out, before anything is stored, sent to an LLM or logged.

A secret becomes a named slot, ``${GITHUB_TOKEN}``, the same secret the same slot within one trajectory, so that what
is learnt from it still reads and runs. Three kinds of evidence: the shape of the text (tokens with a prefix, JWTs,
private keys), its place (a URL's password, an Authorization header, ``curl -u``), and the name it is given to
(``DB_PASSWORD=…``, ``"apiKey": "…"``). Bare hashes, UUIDs and ids give none of these and stay.

Why not detect-secrets 1.5: without its entropy checks it misses most of the secrets that the tests plant, with them it
flags most texts of real SWE-agent runs, and its import costs more than the handshake may. So: patterns of our own.

Every pattern runs in linear time: whatever must be followed by something starts at a place that no other start shares.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from memp_mcp.models import Trajectory

_PREFIXED = (
    # slot, prefixes, what follows them; lengths are below the real ones, so that a clipped token is found too
    ("GITHUB_TOKEN", "ghp_ gho_ ghu_ ghs_ ghr_", r"[A-Za-z0-9]{16,}"),
    ("GITHUB_TOKEN", "github_pat_", r"[A-Za-z0-9_]{20,}"),
    ("GITLAB_TOKEN", "glpat- gldt- glrt- glcbt- glptt- glft- glsoat- gloas-", r"[A-Za-z0-9_.-]{16,}"),
    ("AWS_ACCESS_KEY_ID", "AKIA ASIA ABIA ACCA", r"[A-Z0-9]{16}"),
    ("ANTHROPIC_API_KEY", "sk-ant-", r"[A-Za-z0-9_-]{16,}"),
    ("OPENROUTER_API_KEY", "sk-or-", r"[A-Za-z0-9_-]{20,}"),
    ("OPENAI_API_KEY", "sk-proj- sk-svcacct- sk-admin- sk-None-", r"[A-Za-z0-9_-]{16,}"),
    ("OPENAI_API_KEY", "sk-", r"[A-Za-z0-9]{20,}"),
    ("GOOGLE_API_KEY", "AIza", r"[A-Za-z0-9_-]{30,}"),
    ("GOOGLE_OAUTH_TOKEN", "ya29.", r"[A-Za-z0-9_-]{20,}"),
    ("GOOGLE_CLIENT_SECRET", "GOCSPX-", r"[A-Za-z0-9_-]{20,}"),
    ("SLACK_TOKEN", "xoxa- xoxb- xoxc- xoxd- xoxe- xoxe. xoxo- xoxp- xoxr- xoxs- xapp-", r"[A-Za-z0-9%-]{10,}"),
    ("STRIPE_SECRET_KEY", "sk_live_ sk_test_ rk_live_ rk_test_", r"[A-Za-z0-9]{16,}"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_", r"[A-Za-z0-9+/=]{16,}"),
    ("NPM_TOKEN", "npm_", r"[A-Za-z0-9]{30,}"),
    ("PYPI_TOKEN", "pypi-AgE", r"[A-Za-z0-9_-]{16,}"),
    ("HF_TOKEN", "hf_ api_org_", r"[A-Za-z0-9]{20,}"),
    ("GROQ_API_KEY", "gsk_", r"[A-Za-z0-9]{20,}"),
    ("XAI_API_KEY", "xai-", r"[A-Za-z0-9]{30,}"),
    ("REPLICATE_API_TOKEN", "r8_", r"[A-Za-z0-9]{30,}"),
    ("PERPLEXITY_API_KEY", "pplx-", r"[A-Za-z0-9]{30,}"),
    ("SENDGRID_API_KEY", "SG.", r"[A-Za-z0-9_-]{16,128}\.[A-Za-z0-9_-]{16,}"),
    ("TWILIO_API_KEY", "SK", r"[0-9a-f]{32}(?![0-9A-Za-z])"),
    ("MAILGUN_API_KEY", "key-", r"[0-9a-f]{32}(?![0-9A-Za-z])"),
    ("DIGITALOCEAN_TOKEN", "dop_v1_ doo_v1_ dor_v1_", r"[0-9a-f]{32,}"),
    ("SHOPIFY_TOKEN", "shpat_ shpca_ shppa_ shpss_", r"[0-9a-fA-F]{32}"),
    ("DATABRICKS_TOKEN", "dapi", r"[0-9a-f]{32}"),
    ("VAULT_TOKEN", "hvs. hvb. hvr.", r"[A-Za-z0-9_-]{20,}"),
    ("GRAFANA_TOKEN", "glsa_ glc_", r"[A-Za-z0-9_+/=]{28,}"),
    ("DOCKER_TOKEN", "dckr_pat_ dckr_oat_", r"[A-Za-z0-9_-]{20,}"),
    ("ATLASSIAN_TOKEN", "ATATT3 ATCTT3", r"[A-Za-z0-9_=-]{30,}"),
    ("LINEAR_API_KEY", "lin_api_", r"[A-Za-z0-9]{30,}"),
    ("NOTION_TOKEN", "ntn_", r"[A-Za-z0-9]{30,}"),
    ("NOTION_TOKEN", "secret_", r"[A-Za-z0-9]{40,}(?![0-9A-Za-z_])"),
    ("POSTMAN_API_KEY", "PMAK-", r"[0-9a-f]{20,}(?:-[0-9a-f]{20,})?"),
    ("NEW_RELIC_API_KEY", "NRAK-", r"[A-Z0-9]{20,}"),
    ("DOPPLER_TOKEN", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", r"[A-Za-z0-9_.-]{30,}"),
    ("PULUMI_ACCESS_TOKEN", "pul-", r"[0-9a-f]{30,}"),
    ("PLANETSCALE_TOKEN", "pscale_tkn_ pscale_pw_ pscale_oauth_", r"[A-Za-z0-9_.=-]{30,}"),
    ("AIRTABLE_TOKEN", "pat", r"[A-Za-z0-9]{14}\.[0-9a-f]{50,}"),
    ("SQUARE_TOKEN", "sq0atp- sq0csp- sq0idp-", r"[A-Za-z0-9_-]{20,}"),
    ("SQUARE_TOKEN", "EAAA", r"(?=[A-Za-z_-]{0,60}\d)[A-Za-z0-9_-]{58,62}(?![A-Za-z0-9_+/=-])"),
    ("FIGMA_TOKEN", "figd_ figo_ figor_", r"[A-Za-z0-9_-]{30,}"),
    ("NETLIFY_TOKEN", "nfp_ nfc_ nfo_ nfu_", r"[A-Za-z0-9]{30,}"),
    ("HEROKU_API_KEY", "HRKU-", r"[A-Za-z0-9_-]{30,}"),
    ("ONEPASSWORD_TOKEN", "ops_eyJ", r"[A-Za-z0-9+/=_-]{60,}"),
    ("ALIBABA_ACCESS_KEY_ID", "LTAI", r"[A-Za-z0-9]{16,24}(?![0-9A-Za-z])"),
    ("SENTRY_TOKEN", "sntrys_ sntryu_", r"[A-Za-z0-9_+/=]{30,}"),
    ("SUPABASE_TOKEN", "sbp_ sb_secret_", r"[A-Za-z0-9_-]{20,}"),
    ("TAILSCALE_KEY", "tskey-", r"[A-Za-z0-9-]{16,}"),
    ("AGE_SECRET_KEY", "AGE-SECRET-KEY-1", r"[A-Z0-9]{30,}"),
)
_START = r"(?:(?<![\w-])|(?<=\\[nrt])|(?<=\[\dm)|(?<=\[\d\dm))"  # also after an escaped line end, after a colour
_QUOTE = r"""\\?["'`]?"""
_KEY = r"(?:api|secret|access|private|account|encryption|signing|auth|master|license)[_-]?key|apikey"
_PLACED = (
    # slot, a word without which the pattern cannot match (lower case), pattern; group s is the secret
    ("JWT", "eyj", rf"{_START}(?P<s>eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]{{8,}})"),
    (
        "PRIVATE_KEY",
        "private key",
        (
            r"(?P<s>-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----"
            r"(?:(?:[^-]|-(?!----))*-----END [A-Z0-9 ]{0,60}-----|(?:[\s\\nr]*[A-Za-z0-9+/=]{16,})*))"
        ),
    ),
    ("PASSWORD", "://", r"""://[^\s:/@"'<>`]{0,100}:(?P<s>[^\s/@"'<>`]{1,300})@"""),
    ("SLACK_WEBHOOK", "hooks.slack.com", r"(?i:hooks\.slack\.com)/(?:services|workflows|triggers)/(?P<s>[\w/+-]{16,})"),
    ("DISCORD_WEBHOOK", "/api/webhooks/", r"/api/webhooks/(?P<s>\d{5,}/[\w-]{16,})"),
    ("TELEGRAM_BOT_TOKEN", ":", rf"{_START}(?P<s>\d{{8,10}}:[\w-]{{35}})(?![\w-])"),
    ("TERRAFORM_TOKEN", ".atlasv1.", rf"{_START}(?P<s>[A-Za-z0-9]{{14}}\.atlasv1\.[\w=-]{{30,}})"),
    ("MAILCHIMP_API_KEY", "-us", rf"{_START}(?P<s>[0-9a-f]{{32}}-us\d{{1,2}})(?![\w-])"),
    ("DISCORD_BOT_TOKEN", ".", rf"{_START}(?P<s>[MNO][\w-]{{23,27}}\.[\w-]{{6}}\.[\w-]{{27,40}})(?![\w.-])"),
    ("AZURE_CLIENT_SECRET", "q~", rf"{_START}(?P<s>[\w~.-]{{3}}\dQ~[\w~.-]{{31,34}})(?![\w~.-])"),
    ("SAS_SIGNATURE", "sig=", r"[?&]sig=(?P<s>[A-Za-z0-9+/%]{40,}={0,2})"),
    ("AUTH", "_auth", r"""(?<![A-Za-z])_auth[ \t]{0,3}=[ \t]{0,3}["']?(?P<s>[A-Za-z0-9+/=]{12,})"""),
    ("AUTH", "auth", r"""\\?["']auth\\?["']\s{0,3}:\s{0,3}\\?["'](?P<s>[A-Za-z0-9+/]{20,}={0,2})\\?["']"""),
    ("PASSWORD", "machine", r"\bmachine[ \t]+\S{1,200}\s+login[ \t]+\S{1,200}\s+password[ \t]+(?P<s>\S{4,})"),
    (
        "AUTHORIZATION",
        "authorization",
        (
            rf"(?i:authorization){_QUOTE}\]?[ \t]{{0,3}}[:=,][ \t]{{0,3}}{_QUOTE}"
            r"(?i:bearer|basic|token|api-?key|digest|negotiate|bot)[ \t]+(?P<s>[\w.~+/=:-]{6,})"
        ),
    ),
    ("BEARER_TOKEN", "bearer", r"(?i:\bbearer)[ \t]+(?P<s>(?=[a-zA-Z._~+/=-]{0,200}\d)[\w.~+/=-]{16,})"),
    ("COOKIE", "cookie", r"""(?i:\bcookie)\\?["']?:[ \t]{0,3}(?P<s>[^\s"'\\=;]{1,80}=[^\n"'\\]{16,})"""),
    (
        "PASSWORD",
        "curl",
        r"""\bcurl\b[^\n|;]{0,200}?\s(?:-u|--user|-U|--proxy-user)[ =]?["']?[^\s:"']{1,64}:(?P<s>[^\s"']{3,})""",
    ),
    (
        "PASSWORD",
        "-p",
        r"""\b(?:mysql|mysqldump|mysqladmin|mariadb|mariadb-dump)\b[^\n|;&]{0,200}?\s-p(?P<s>[^\s"'-][^\s"']{2,})""",
    ),
    ("PASSWORD", "sshpass", r"""\bsshpass[ \t]+-p[ \t]?["']?(?P<s>[^\s"']{3,})"""),
)
_NAMED = re.compile(
    rf"(?P<word>(?i:password|passwd|passphrase|pass|pwd|secret|token|credentials?|{_KEY})|_KEY|SharedAccessSignature)"
    rf"{_QUOTE}\]?[ \t]{{0,3}}(?::=|=>|=(?!=)|:(?!:))[ \t]{{0,3}}{_QUOTE}"
    r"""(?P<s>(?<=["'])[^\s"'\\]{4,}(?=\\?["'])|[^\s"'`,;&|<>(){}\[\]\\]{4,})"""
)
_FLAG = re.compile(
    rf"(?<![\w-])--(?P<word>(?:[a-z]{{1,12}}-)?(?:password|passwd|passphrase|secret|token|{_KEY}))"
    r"(?:=|[ \t]{1,2})[\"']?"
    r"""(?P<s>[^\s"'`,;|<>()]{4,})"""
)
_NAME = re.compile(r"[A-Za-z0-9_.-]{0,48}$")
_NOT_SECRET_NAME = re.compile(
    r"(next|page|pagination|continuation|sync|pad|eos|bos|cls|sep|mask|unk|cancellation|start|end|stop|special|image"
    r"|public|primary|foreign|partition|sort|cache|idempotency|host|per|max|min|num|n|no|first|last|this|the)[_.-]?"
    r"(token|key)$"
    r"|(^|[_.-])(old)?pwd$|^by?pass$|^com?pass$"
)
_PLACEHOLDER = re.compile(r"[$%<{\[#@]|.*(\*\*\*|\.\.\.|…|•••|\$\{|\{\{|<[\w -]+>)|[xX*._•-]+$|.*[xX]{6,}$")
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$|(~|\.{0,2})/[\w./-]*$|[a-z+]+://|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$")
_WORDS = re.compile(r"[A-Za-z]+([ _.-]+[A-Za-z]+)*[.:!?]?$")
_STANDS_FOR = re.compile(
    r"(?i).*(your|example|placeholder|change.?me|redacted|dummy|insert|replace|todo|masked|hidden|sample)|"
    r"(my|the|some|a|new|old|test|user|db|api|access|secret|auth|client|bearer)?[ _.-]*"
    r"(passwords?|passwd|pass|pwd|secret|token|key|api[_-]?key|value|string|str|text|none|null|true|false|undefined"
    r"|required|optional|invalid|incorrect|missing|here|bool|int|bytes|object|any)$"
)
_CLINGS = re.compile(r"(^|[^A-Za-z0-9]|\\[nrt]|%[0-9A-Fa-f]{2}|\[[0-9;]{1,6}m)$")
_SHORTEST_SPREAD = 10

_Model = TypeVar("_Model", bound=BaseModel)


class _Pattern(NamedTuple):
    slot: str
    anchors: tuple[str, ...]
    regex: re.Pattern[str]


def _prefixed(slot: str, prefixes: str, rest: str) -> _Pattern:
    starts = tuple(prefixes.split())
    return _Pattern(slot, starts, re.compile(f"(?P<s>(?:{'|'.join(map(re.escape, starts))}){rest})"))


def _by_anchor(patterns: Iterable[_Pattern]) -> tuple[tuple[str, _Pattern], ...]:
    return tuple((anchor, pattern) for pattern in patterns for anchor in pattern.anchors)


def _possible(anchored: tuple[tuple[str, _Pattern], ...], text: str) -> Iterable[_Pattern]:
    """The patterns of which *text* holds an anchor, each once: nearly always none, and quickly so."""
    return dict.fromkeys([pattern for anchor, pattern in anchored if anchor in text])


_TOKENS = _by_anchor(_prefixed(*row) for row in _PREFIXED)
_PLACES = _by_anchor(_Pattern(slot, (anchor,), re.compile(regex)) for slot, anchor, regex in _PLACED)
_NAMES = ("pass", "pwd", "secret", "token", "credential", "key", "sharedaccesssignature")


class Redactor:
    """Replaces secrets by named slots; one Redactor for texts that belong together.

    ``counts`` says how often each slot was put in, without the values.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._slots: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Return *text* with each secret replaced by its slot; what holds none comes back as it is."""
        for pattern in _possible(_TOKENS, text):
            text = pattern.regex.sub(partial(self._token, pattern.slot), text)
        lowered = text.lower()
        for pattern in _possible(_PLACES, lowered):
            text = pattern.regex.sub(partial(self._placed, pattern.slot), text)
        if any(name in lowered for name in _NAMES):
            text = _FLAG.sub(self._named, _NAMED.sub(self._named, text))
        return self._known(text)

    def _token(self, slot: str, match: re.Match[str]) -> str:
        before = match.string[max(0, match.start() - 8) : match.start()]
        if not _CLINGS.search(before) or _is_blank(match["s"]):
            return match[0]
        return self._put(match, slot)

    def _placed(self, slot: str, match: re.Match[str]) -> str:
        secret = match["s"]
        if _PLACEHOLDER.match(secret) or _STANDS_FOR.fullmatch(secret) or secret.isdigit():
            return match[0]
        return self._put(match, slot)

    def _named(self, match: re.Match[str]) -> str:
        start = match.start("word")
        head = _NAME.search(match.string[max(0, start - 48) : start])
        name = (head[0] if head else "") + match["word"]
        after = match.string[match.end() : match.end() + 1]
        if not _tells(name, match, after):
            return match[0]
        return self._put(match, _slot_name(name))

    def _put(self, match: re.Match[str], slot: str) -> str:
        start, end = (place - match.start() for place in match.span("s"))
        return match[0][:start] + self._slot(match["s"], slot) + match[0][end:]

    def _slot(self, secret: str, slot: str) -> str:
        if secret not in self._slots:
            taken = set(self._slots.values())
            name, number = slot, 1
            while name in taken:
                number += 1
                name = f"{slot}_{number}"
            self._slots[secret] = name
        self.counts[self._slots[secret]] += 1
        return "${" + self._slots[secret] + "}"

    def _known(self, text: str) -> str:
        """Replace what was seen as a secret elsewhere, where it is distinctive enough to be no chance."""
        for secret, slot in self._slots.items():
            if len(secret) >= _SHORTEST_SPREAD and _is_mixed(secret) and secret in text:
                self.counts[slot] += text.count(secret)
                text = text.replace(secret, "${" + slot + "}")
        return text


def keep_out_of_logs() -> None:
    """From now on no log record of this process carries a secret, whoever writes it and whichever handler prints it."""
    made = logging.getLogRecordFactory()
    if isinstance(made, _Redacting):
        return
    logging.setLogRecordFactory(_Redacting(made))


class _Redacting:
    """Makes log records whose message and traceback are redacted; a handler's filter would miss other handlers."""

    def __init__(self, made: Callable[..., logging.LogRecord]) -> None:
        self._made = made

    def __call__(self, *args: Any, **more: Any) -> logging.LogRecord:
        record = self._made(*args, **more)
        redactor = Redactor()
        message = record.getMessage()
        if (clean := redactor.text(message)) != message:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            told = logging.Formatter().formatException(record.exc_info)
            record.exc_text = redactor.text(told)  # which formatters print instead of the exception
        return record


def redact_value(value: _Model, *, derived: frozenset[str] = frozenset()) -> tuple[_Model, dict[str, int]]:
    """Return *value* with the secrets of all its texts replaced, and how often each slot was put in.

    Args:
        value: any model of the house; one without secrets comes back as it is.
        derived: fields that are computed from the others, so that they describe what is left.
    """
    redactor = Redactor()
    fields = value.model_dump(exclude=set(derived))
    once = _each_text(fields, redactor)
    if not redactor.counts:
        return value, {}
    # The second walk finds earlier mentions of what only later turned out to be a secret.
    return type(value).model_validate(_each_text(once, redactor)), dict(redactor.counts)


def redact_trajectory(trajectory: Trajectory) -> tuple[Trajectory, dict[str, int]]:
    """Return *trajectory* without its secrets; its id and hash are those of what is left."""
    return redact_value(trajectory, derived=frozenset({"id", "content_hash"}))


def _each_text(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, dict):
        return {key: _each_text(inner, redactor) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_each_text(inner, redactor) for inner in value)
    return value


def _tells(name: str, match: re.Match[str], after: str) -> bool:
    """Whether a value is a secret, going by the *name* that it is given to, its looks and what comes *after* it."""
    value = match["s"].rstrip(".,:)")
    quoted = match.string[match.start("s") - 1] in "\"'"
    shell = name == name.upper() and match[0][: match.start("s") - match.start()].rstrip("\"'").endswith("=")
    if _NOT_SECRET_NAME.search(name.lower()) or _PLACEHOLDER.match(value) or after in {"(", "[", "{"} or len(value) < 4:
        return False
    if _REFERENCE.match(value) or value.lower() == name.lower() or _STANDS_FOR.fullmatch(value):
        return False
    if match["word"] == "_KEY":
        return len(value) >= 16 and _is_mixed(value)
    if "pass" in name.lower() or "pwd" in name.lower():
        return shell or quoted or (_is_mixed(value) and len(value) >= 6)
    return (shell and len(value) >= 6) or (_is_mixed(value) and len(value) >= 8) or _is_random(value)


def _is_random(value: str) -> bool:
    return len(value) >= 20 and not _WORDS.fullmatch(value)


def _is_mixed(value: str) -> bool:
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _is_blank(token: str) -> bool:
    return set(token[-12:]) <= set("xX*._-")


def _slot_name(name: str) -> str:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[.-]+", "_", name).upper()
    return re.sub(r"_{2,}", "_", snake).strip("_0123456789")[-40:].strip("_") or "SECRET"
