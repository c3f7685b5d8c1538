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

_ENCODED_PEM = (  # "-----BEGIN RSA PRI", "-----BEGIN PRIV", … as base64, which is how Kubernetes writes them
    "LS0tLS1CRUdJTiBSU0EgUFJJ LS0tLS1CRUdJTiBQUklW LS0tLS1CRUdJTiBFQyBQ LS0tLS1CRUdJTiBPUEVO LS0tLS1CRUdJTiBFTkNS"
)
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
    ("GITLAB_TOKEN", "GR1348941 glagent-", r"[A-Za-z0-9_-]{16,}"),
    ("LANGSMITH_API_KEY", "lsv2_pt_ lsv2_sk_", r"[0-9a-f]{20,}(?:_[0-9a-f]{6,})?"),
    ("PINECONE_API_KEY", "pcsk_", r"[A-Za-z0-9_]{30,}"),
    ("TAVILY_API_KEY", "tvly-", r"[A-Za-z0-9_-]{20,}"),
    ("NVIDIA_API_KEY", "nvapi-", r"[A-Za-z0-9_-]{30,}"),
    ("CEREBRAS_API_KEY", "csk-", r"[A-Za-z0-9]{30,}"),
    ("LANGFUSE_SECRET_KEY", "sk-lf-", r"[0-9a-f-]{20,}"),
    ("ELEVENLABS_API_KEY", "sk_", r"[0-9a-f]{40,}(?![0-9A-Za-z])"),
    ("BREVO_API_KEY", "xkeysib- xsmtpsib-", r"[0-9a-f]{30,}(?:-[A-Za-z0-9]{8,})?"),
    ("POSTHOG_API_KEY", "phx_ phs_ pha_ phr_", r"[A-Za-z0-9]{30,}"),
    ("RESEND_API_KEY", "re_", r"(?=[A-Za-z_]{0,32}\d)[A-Za-z0-9]{8}_[A-Za-z0-9]{20,}(?![0-9A-Za-z_])"),
    ("BITBUCKET_TOKEN", "ATBB", r"(?=[A-Za-z]{0,40}\d)[A-Za-z0-9_=-]{24,}"),
    ("CIRCLECI_TOKEN", "CCIPAT_ CCIPRJ_", r"[A-Za-z0-9]{16,}_[0-9a-f]{30,}"),
    ("BUILDKITE_TOKEN", "bkua_", r"[0-9a-f]{30,}"),
    ("RUBYGEMS_API_KEY", "rubygems_", r"[0-9a-f]{32,}"),
    ("JFROG_TOKEN", "AKCp cmVmdGtu", r"[A-Za-z0-9]{50,}"),
    ("VERCEL_TOKEN", "vcp_ vci_ vca_ vcr_ vck_", r"[A-Za-z0-9]{24,}"),
    ("NEON_API_KEY", "napi_", r"[A-Za-z0-9]{40,}"),
    ("FLY_API_TOKEN", "fm1r_ fm1a_ fm2_ fo1_", r"[A-Za-z0-9_+/=-]{40,}"),
    ("DYNATRACE_TOKEN", "dt0c01. dt0s01. dt0s02. dt0s16.", r"[A-Za-z0-9]{20,64}\.[A-Za-z0-9]{40,}"),
    ("DROPBOX_TOKEN", "sl.", r"(?:u\.)?(?=[A-Za-z_-]{0,80}\d)[A-Za-z0-9_-]{100,}"),
    ("MEMP_TOKEN", "memp_", r"(?=[a-z0-9_-]{0,40}[A-Z])[A-Za-z0-9_-]{32,}"),
    ("PRIVATE_KEY", _ENCODED_PEM, r"[A-Za-z0-9+/=]{16,}"),
)
_START = r"(?:(?<![\w-])|(?<=\\[nrt])|(?<=\[\dm)|(?<=\[\d\dm))"  # also after an escaped line end, after a colour
_STARTED = r"(?:(?<![\w-].)|(?<=\\[nrt].)|(?<=\[\dm.)|(?<=\[\d\dm.))"  # the same one character later, which is quicker
_QUOTE = r"""\\?["'`]?"""
_KEY = r"(?:api|secret|access|private|account|encryption|signing|auth|master|license|subscription)[_-]?key|apikey"
_AUTHORIZATION = rf"(?i:authorization){_QUOTE}\]?[ \t]{{0,3}}[:=,][ \t]{{0,3}}[bfr]{{0,2}}{_QUOTE}"
_GAP = r"""["']?[ \t]{0,20}(?:\[[^\]\n]{0,30}\])?[ \t]{0,3}[:=|│][ \t]{0,3}["']?"""  # in a prompt or a table
# A private key's lines, whatever a diff, a box, a log or a string puts before and after each.
_BESIDE = r"(?:[\s|│┃║>*#\"',]|\\[nrt]|\d{1,4}(?=[\s|│:.]))"
_BODY = rf"(?:(?:{_BESIDE}|[+:.]){{0,60}}[A-Za-z0-9+/=]{{16,}}+)++(?:{_BESIDE}{{1,60}}[A-Za-z0-9+/]{{1,15}}={{1,2}})?"
_PEM = (
    r"(?P<s>-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-{4,5}"
    r"(?:(?:[^-]|-(?!---))*-{4,5} ?END [A-Z0-9 ]{0,60}-{4,5}"  # whole
    rf"|(?:(?:{_BESIDE}|[+]){{0,60}}[A-Z][A-Za-z-]{{2,20}}: [^\n\\]{{1,200}}){{0,6}}(?:{_BODY})?)"  # breaks off
    rf"|(?<![A-Za-z0-9+/=])(?:[A-Za-z0-9+/=]{{16,}}+(?:{_BESIDE}|\+){{1,60}}+(?:[A-Za-z0-9+/]{{0,15}}={{1,2}}{_BESIDE}{{1,60}})?)"
    r"{1,80}+-{4,5} ?END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-{4,5})"  # begins too late
)
_PLACED = (
    # slot, words without one of which the pattern cannot match (lower case), pattern; group s is the secret
    ("JWT", "eyj", rf"{_START}(?P<s>eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]{{8,}})"),
    ("PRIVATE_KEY", "private key", _PEM),
    ("PRIVATE_KEY", "private-lines:", rf"Private-Lines: \d{{1,3}}(?P<s>{_BODY})"),
    ("PRIVATE_KEY", "client-key-data", rf"client-key-data{_QUOTE}:[ \t]{{0,3}}{_QUOTE}(?P<s>[A-Za-z0-9+/=]{{16,}})"),
    (
        "PRIVATE_KEY",
        "kty",
        r"""\\?["'](?:d|p|q|dp|dq|qi|k)\\?["']\s{0,3}:\s{0,3}\\?["'](?P<s>[A-Za-z0-9_-]{20,})""",
    ),
    (
        "ACCESS_TOKEN",
        "@",
        r"://(?:(?<=http://)|(?<=https://))(?P<s>(?=[A-Za-z_-]{0,80}\d)[A-Za-z0-9_-]{20,})(?::x-oauth-basic|:)?@(?=\w)",
    ),
    (
        "PASSWORD",
        "@",
        (
            r"""://[^\s:/@"'<>`]{0,100}:(?P<s>[^\s/@"'<>`]{1,300}"""
            r"""(?:@(?:[^\s/@"'<>`?,;&]|\?(?![^\s@]{0,100}=)){1,100}){0,3})@"""
        ),
    ),
    (  # with a slash, which a URL of the web has in its path
        "PASSWORD",
        "@",
        (
            r"""://(?<!http://)(?<!https://)[^\s:/@"'<>`]{0,100}:(?!\d{0,5}[/?#])(?=[^\s@\d]{0,200}\d)(?=[^\s@A-Za-z]{0,200}[A-Za-z])"""
            r"""(?P<s>(?:(?!://)[^\s@"'<>`,;|\\(){}]){1,200})@(?=\w)"""
        ),
    ),
    ("SLACK_WEBHOOK", "hooks.slack.com", r"(?i:hooks\.slack\.com)/(?:services|workflows|triggers)/(?P<s>[\w/+-]{16,})"),
    ("DISCORD_WEBHOOK", "/api/webhooks/", r"/api/webhooks/(?P<s>\d{5,}/[\w-]{16,})"),
    ("TELEGRAM_BOT_TOKEN", ":a", rf"{_START}(?P<s>\d{{8,10}}:A[\w-]{{34}})(?![\w-])"),
    ("TERRAFORM_TOKEN", ".atlasv1.", rf"{_START}(?P<s>[A-Za-z0-9]{{14}}\.atlasv1\.[\w=-]{{30,}})"),
    ("MAILCHIMP_API_KEY", "-us", rf"{_START}(?P<s>[0-9a-f]{{32}}-us\d{{1,2}})(?![\w-])"),
    ("DISCORD_BOT_TOKEN", ".", rf"(?P<s>[MNO]{_STARTED}[\w-]{{23,27}}\.[\w-]{{6}}\.[\w-]{{27,40}})(?![\w.-])"),
    ("AZURE_CLIENT_SECRET", "q~", rf"{_START}(?P<s>[\w~.-]{{3}}\dQ~[\w~.-]{{31,34}})(?![\w~.-])"),
    ("VAULT_TOKEN", "vault", rf"{_START}(?P<s>[sbr]\.[A-Za-z0-9]{{24}})(?![\w.(-])"),
    ("SIGNATURE", "signature=", r"(?i:signature)=(?P<s>[0-9a-f]{64})(?![0-9A-Za-z])"),
    (
        "AWS_SECRET_ACCESS_KEY",
        "secret access key|secretaccesskey",
        rf"(?i:secret ?access ?key){_GAP}(?P<s>[A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+])",
    ),
    (
        "PASSWORD",
        "pwd=",
        (
            r"(?i:;\s{0,3}pwd|\bpwd(?=[^;\s]{1,100};\s?(?:uid|user|server|data|initial|encrypt|trust|driver)))=(?![/~])"
            r"""(?P<s>[^\s;"'\\]{3,})"""
        ),
    ),
    ("SAS_SIGNATURE", "sig=", r"[?&]sig=(?P<s>[A-Za-z0-9+/%]{40,}={0,2})"),
    ("AUTH", "_auth", r"""(?<![A-Za-z])_auth[ \t]{0,3}=[ \t]{0,3}["']?(?P<s>[A-Za-z0-9+/=]{12,})"""),
    ("AUTH", "auth", r"""\\?["']auth\\?["']\s{0,3}:\s{0,3}\\?["'](?P<s>[A-Za-z0-9+/]{20,}={0,2})\\?["']"""),
    ("PASSWORD", "machine", r"\bmachine[ \t]+\S{1,200}\s+login[ \t]+\S{1,200}\s+password[ \t]+(?P<s>\S{4,})"),
    (
        "AUTHORIZATION",
        "authorization",
        (
            _AUTHORIZATION
            + r"(?i:bearer|basic|token|api-?key|digest|negotiate|bot|oauth|ssws|key)[ \t]+(?P<s>[\w.~+/=:-]{6,})"
        ),
    ),
    (  # bare, or of a scheme that is not listed
        "AUTHORIZATION",
        "authorization",
        (
            _AUTHORIZATION
            + r"(?:[A-Za-z][\w-]{0,20}[ \t]+)?(?P<s>(?=[A-Za-z._~+/=:-]{0,200}\d)(?=[\d._~+/=:-]{0,200}[A-Za-z])"
            r"[\w.~+/=:-]{20,})"
        ),
    ),
    ("API_KEY", "apikey", r"\bApiKey[ \t]+(?P<s>(?=[A-Za-z_=-]{0,200}\d)[\w=-]{32,})"),
    ("BEARER_TOKEN", "bearer", r"(?i:\bbearer)[ \t]+(?P<s>(?=[a-zA-Z._~+/=-]{0,200}\d)[\w.~+/=-]{16,})"),
    ("COOKIE", "cookie", r"""(?i:\bcookie)\\?["']?:[ \t]{0,3}(?P<s>[^\s"'\\=;]{1,80}=[^\n"'\\]{16,})"""),
    (
        "PASSWORD",
        "curl",
        r"""\bcurl\b[^\n|;]{0,200}?\s(?:-u|--user|-U|--proxy-user)[ =]?["']?[^\s:"']{1,64}:(?P<s>[^\s"']{3,})""",
    ),
    (
        "PASSWORD",
        "mysql|mariadb",
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
_PHRASE = re.compile(  # DB_PASSWORD="my s3cret pass"; words alone may be a message
    r"""(?P<word>PASSWORD|PASSWD|PASSPHRASE|PASS|SECRET)=(?P<quote>["'])"""
    r"""(?P<s>(?=[^"'\\\n]{0,120}?(?:[A-Za-z]\d|\d[A-Za-z]))[^"'\\\n]{4,120})(?P=quote)"""
)
_NAME = re.compile(r"[A-Za-z0-9_.-]{0,48}$")
_NOT_SECRET_NAME = re.compile(
    r"(next|page|pagination|continuation|cancellation|special|public|primary|foreign|partition|idempotency)[_.-]?"
    r"(token|key)$"
    r"|(^|[_.-])(sync|pad|eos|bos|cls|sep|mask|unk|start|end|stop|image|sort|cache|host|per|max|min|num|n|no|first|last"
    r"|this|the)[_.-]?(token|key)$"
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
# What hardly is the variable, comment or file that it looks like, since letters and digits are mixed in it.
_UNLIKE_A_VARIABLE = re.compile(
    r"\$(?=[A-Z]*[a-z])(?=[a-z]*[A-Z])[A-Za-z]+\d[a-z][^{}()\[\]<>:]*$"
    r"|[#@](?=[A-Za-z]*\d)(?=\d*[A-Za-z])[^@/.{}()<>]{4,}$"
)
_BEFORE_ON_ITS_LINE = re.compile(r"(?:\n|\\n)(?:export |set )?$")
_PAIR = r"(?:host(?:addr)?|port|user(?:name)?|uid|db(?:name)?|database|server|sslmode)=[^\s,;()\"']{1,100}"
_PAIR_BEFORE = re.compile(rf"\b{_PAIR}[ ]$")
_PAIR_AFTER = re.compile(rf" {_PAIR}")
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
_PLACES = _by_anchor(_Pattern(slot, tuple(words.split("|")), re.compile(regex)) for slot, words, regex in _PLACED)
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
        for shape in _possible(_TOKENS, text):
            text = shape.regex.sub(partial(self._token, shape.slot), text)
        lowered = text.lower()
        for shape in _possible(_PLACES, lowered):
            text = shape.regex.sub(partial(self._placed, shape.slot), text)
        if any(name in lowered for name in _NAMES):
            if "PASS" in text or "SECRET" in text:
                text = _PHRASE.sub(self._named, text)
            text = _FLAG.sub(self._named, _NAMED.sub(self._named, text))
        return self._known(text)

    def _token(self, slot: str, match: re.Match[str]) -> str:
        before = match.string[max(0, match.start() - 8) : match.start()]
        if not _CLINGS.search(before) or _is_blank(match["s"]):
            return match[0]
        return self._put(match, slot)

    def _placed(self, slot: str, match: re.Match[str]) -> str:
        secret = match["s"]
        number = secret.isdigit() and not match[0].startswith("://")
        if number or _PLACEHOLDER.match(secret) or _STANDS_FOR.fullmatch(secret):
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
            if record.exc_text != told:
                record.exc_info = None  # the SDK's handler, where rich is installed, would draw it anew
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
    between = match.string[match.end("word") : match.start("s")]
    shell = name == name.upper() and between.rstrip("\"'").endswith("=")
    of_password = "pass" in name.lower() or "pwd" in name.lower()
    called = after in {"(", "[", "{"}
    begins_a_sentence = quoted and after == " "
    if called or begins_a_sentence or len(value) < 4 or _NOT_SECRET_NAME.search(_snake(name).lower()):
        return False
    if _PLACEHOLDER.match(value):
        return shell and of_password and _UNLIKE_A_VARIABLE.match(value) is not None
    if _REFERENCE.match(value) or value.lower() == name.lower() or _STANDS_FOR.fullmatch(value):
        return False
    if match["word"] == "_KEY":
        return len(value) >= 16 and _is_mixed(value)
    if of_password:
        literal = shell or quoted or (between == "=" and _is_literal(name, match))
        return literal or (_is_mixed(value) and len(value) >= 6)
    return (shell and len(value) >= 6) or (_is_mixed(value) and len(value) >= 8) or _is_random(value)


def _is_literal(name: str, match: re.Match[str]) -> bool:
    """Whether what follows ``name=`` cannot be a variable: in a flag, on a line of its own, in a connection string."""
    if match.re is _FLAG:
        return not match["s"].isupper()
    start, end = match.end("word") - len(name), match.end()
    before = match.string[max(0, start - 120) : start] if start > 120 else "\n" + match.string[:start]
    after = match.string[end : end + 120]
    alone = after[:1] in {"", "\n", "\r"} or after.startswith("\\n")
    if alone and _BEFORE_ON_ITS_LINE.search(before):
        return True
    return bool(_PAIR_BEFORE.search(before) or _PAIR_AFTER.match(after))


def _is_random(value: str) -> bool:
    return len(value) >= 20 and (not _WORDS.fullmatch(value) or _is_scrambled(value))


def _is_scrambled(value: str) -> bool:
    """Whether these are letters alone, in both cases as no name of anything has them."""
    return value.isalpha() and 0.25 <= sum(map(str.isupper, value)) / len(value) <= 0.75


def _is_mixed(value: str) -> bool:
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _is_blank(token: str) -> bool:
    return set(token[-12:]) <= set("xX*._-")


def _slot_name(name: str) -> str:
    return re.sub(r"_{2,}", "_", _snake(name).upper()).strip("_0123456789")[-40:].strip("_") or "SECRET"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[.-]+", "_", name)
