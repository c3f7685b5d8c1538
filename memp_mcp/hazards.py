# ruff: noqa: E501 - a pattern that is broken over lines reads worse than a long one
"""What a recalled step might do to whoever follows it: dangerous commands, and text that gives its reader orders.

A memory that anybody's runs are fed into holds what anybody has written (arXiv 2512.16962). A hazard is no proof of
malice: some tasks need a forced push. So what is found is named in the recall, step by step with the reason, and a
procedure that nobody has confirmed goes behind for it; nothing is refused or hidden.

A table of patterns, none of them complete: who wants to hide a command can. Every pattern runs in linear time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache

from memp_mcp.models import Procedure

MAX_LOOKED_AT = 10_000
"""Characters of a long text that are looked at, at each end: a line of a script has at most a thousand."""
_A_LINE = 500
"""Characters of a text that is remembered with what was found in it."""

_ELSEWHERE = r"(?![^\n|;]{0,1000}(?:\s|//)(?:localhost|127\.0\.0\.1|\[?::1))"
_ROOT = r"""["']?(?:/+\.{0,2}/?\*?|~/?|~/\*|\$\{?HOME\}?(?:/\*?)?|[A-Za-z]:\\\*?|/(?:etc|usr|var|home|boot|bin|lib|opt|root)/?\*?|/(?:home|Users)/[\w.-]+/?\*?)["']?(?=\s|$|[;&|"'`)])"""
_AS = r"(?:(?:sudo|doas|env|exec|nohup|command|time)\s+(?:-u\s+\w+\s+|-[\w-]*\s+|\w+=\S{0,80}\s+){0,4}){0,2}"
"""Who or what runs a command: sudo -E, env A=b."""
_SHELL = (  # with a program of its own (-c, -e, -m …), an interpreter reads what it is given as data
    _AS + r"(?:/\S{0,20}/)?(?:(?:ba|z|da|k|c|tc|fi)?sh\b(?!\s+-c\b)"
    r"|(?:python[\d.]*|perl|ruby|node|php)(?![\w.])(?!\s+-\w*[cemnpr]))"
)
_GET = r"(?<!git )(?<![\w-])(?:curl|wget|fetch|lwp-download|aria2c)\b"
_SECRETS = (
    r"(?:\.aws/credentials|\.ssh/id_(?:rsa|dsa|ecdsa|ed25519)\b(?!\.pub)|\.netrc\b|\.git-credentials|\.docker/config\.json"
    r"|\.kube/config|\.pgpass|\.config/gcloud/\S{0,40}credentials|/etc/(?:shadow|gshadow)|\.npmrc\b|\.pypirc"
    r"|\.config/gh/hosts\.yml|\.gnupg/|\.azure/\S{0,30}(?:tokens?|credentials)|/proc/(?:self|\d+|\*)/environ|\.ssh/\*"
    r"|\.codex/auth\.json|\.claude/\.credentials|\.(?:gemini|qwen)/oauth_creds|opencode/auth\.json)"
)
_AN_AGENT = r"(?:ai|coding|llm)[ -]?(?:agent|assistant|model)|assistant|ai|llm|language model|chatbot|chatgpt|claude|copilot|codex|gemini"
_DOES = (
    r"run|execute|e-?mail|send|post|upload|read|open|visit|fetch|download|delete|remove|ignore|disregard|call|include|add|reveal"
    r"|print|share|forward|copy|tell|reply|respond|say|install|write|use|do|make|create|change|report|skip|follow|obey|push"
)
_HAZARDS: tuple[tuple[str, str], ...] = (
    # what a reader is told, pattern (case does not matter)
    (
        "deletes everything there is",
        (
            r"\brm\s+(?:-{1,2}[\w-]+\s+){0,6}-{1,2}(?:\w{0,9}r\w{0,9}|recursive)\s+(?:-{1,2}[\w-]+\s+){0,6}"
            + _ROOT
            + r"|\brm\b[^\n|;&]{0,400}--no-preserve-root"
            r"|\bcd\s+[\"']?(?:/|~/?|\$\{?HOME\}?/?)?[\"']?\s{0,3}(?:&&|;)\s{0,3}(?:sudo\s+)?rm\s+(?:-{1,2}[\w-]+\s+){0,6}-\w{0,9}r\w{0,9}\s+(?:-{1,2}[\w-]+\s+){0,6}(?:\./)?[*.]"
            r"|\brmtree\(\s?(?:\w{0,2}[\"'](?:/|~|/(?:home|Users)/[\w.-]+)/?[\"']|(?:os\.path\.expanduser|Path)\([\"'][/~]/?[\"']\)|Path\.home\(\))"
            r"|\bfind\s+(?:/|~|\$HOME)\s[^\n;]{0,1000}(?:-delete\b|-exec(?:dir)?\s+(?:sudo\s+)?rm\b|\|\s{0,3}(?:sudo\s+)?xargs\s[^\n|;]{0,60}\brm\b)|\bmkfs(?:\.\w+)?\s|\bdd\b[^\n|;]{0,1000}\bof=/dev/(?:sd|nvme|hd|vd|disk)"
            r"|>\s{0,3}/dev/(?:sd|nvme|hd|vd)\w|\bremove-item\b[^\n|;]{0,60}-recurse\b[^\n|;]{0,60}\s[a-z]:\\(?:\s|$)"
            r"|\bformat\s+[a-z]:(?:\s|$)|\bshred\b[^\n|;]{0,400}\s/(?:etc|home|var|dev)\b"
            r"|:\(\)\s?\{\s?:\s?\|\s?:\s?&\s?\}\s?;\s?:"
        ),
    ),
    (
        "deletes data for good",
        (
            r"\bdrop\s+database\b|\bflush(?:all|db)\b|\bterraform\s+destroy\b|\bkubectl\s+delete\b[^\n|;]{0,400}(?:--all\b|\s(?:ns|namespace)\b)"
            r"|\baws\s+s3\s+(?:rb|rm)\b[^\n|;]{0,1000}(?:--force|--recursive)\b|\bvssadmin\s+delete\b"
        ),
    ),
    (
        "runs what it downloads",
        (
            _GET
            + r"[^\n;]{0,1000}?(?<!\|)\|\s{0,3}"
            + _SHELL
            + r"|(?:\b(?:ba|z|da)?sh|\bsource|(?<!\S)\.|\beval|\bpython[\d.]*)\s(?:-\w+\s)?[\"']?(?:<\(|\$\(|`)\s?"
            + _GET
            + r"|\b(?:iex|invoke-expression)\b[^\n]{0,80}(?:downloadstring|iwr|irm|invoke-webrequest|invoke-restmethod)"
            r"|(?:downloadstring|\biwr\b|\birm\b|invoke-webrequest|invoke-restmethod)[^\n]{0,1000}\|\s{0,3}(?:iex|invoke-expression)\b"
            r"|"
            + _GET
            + r"[^\n]{0,1000}(?:&&|;|\n)\s{0,3}(?:sudo\s+)?(?:chmod\s+\S*x\S*\s[^\n;&]{0,80}(?:&&|;|\n)\s{0,3}(?:sudo\s+)?\./|(?:ba|z)?sh\s+\S+\.sh\b)"
        ),
    ),
    (
        "runs what it decodes",
        (
            r"\bbase(?:64|32)\s+(?:-d|-D|--decode)\b[^\n;]{0,1000}\|\s{0,3}"
            + _SHELL
            + r"|\bxxd\s+-r\b[^\n;]{0,1000}\|\s{0,3}"
            + _SHELL
            + r"|\b(?:powershell|pwsh)(?:\.exe)?\b[^\n]{0,1000}\s-e(?:nc|ncodedcommand|c)?\s+[\"']?[a-z0-9+/=]{16}"
            r"|\b(?:exec|eval)\s?\(\s?[^\n)]{0,60}(?:b64decode|atob|base64_decode|fromhex)"
        ),
    ),
    (
        "reads credentials",
        (
            r"\b(?:cat|less|more|head|tail|bat|nl|type|cp|scp|rsync|tar|zip|base64|xxd|strings|grep|awk|sed|curl|nc|get-content|read(?:_?file(?:sync)?)?|open)\b[^\n|;]{0,1000}"
            + _SECRETS
            + r"|\b(?:cat|less|more|head|tail|bat|base64|curl|scp|get-content)\b[^\n|;]{0,400}(?<![\w.-])\.env(?:\.(?:local|production|prod))?(?![\w.-])"
            r"|\b(?:tar|zip|base64|cat)\b[^\n|;&]{0,400}\.ssh/?(?=$|[\s\"';&|)])|\b(?:cp|scp|rsync)\b[^\n|;&]{0,400}\.ssh/?[\"']?\s+[^\s;&|]"
            r"|\b(?:env|printenv|set|export)\s{0,3}\|\s{0,3}[ef]?grep\b[^\n|;]{0,80}(?:token|secret|passw|credential|api.?key)"
            r"|\bkubectl\b[^\n|;]{0,400}\bget\s+secrets?\b[^\n|;]{0,400}\s(?:-o|--output)|\baws\s+configure\s+get\s+\S{0,60}(?:secret|token)|\baws\s+secretsmanager\s+get-secret-value"
            r"|\bsecurity\s+(?:find|dump)-[\w-]*(?:password|keychain)|\bgh\s+auth\s+token\b|\bgcloud\s+auth\s+print-\w+-token\b|\bmimikatz\b|\bsecretsdump"
        ),
    ),
    (
        "sends data elsewhere",
        (
            r"\|\s{0,3}(?:curl\b[^\n|;]{0,1000}(?:-d|--data\S*|-T|-F|--upload-file)\s?[\"']?(?:\S{0,20}=)?@?-|(?:nc|ncat|netcat)\s+(?:-\w+\s+)*[\w.-]+\s+\d+)"
            r"|\bcurl\b[^\n|;]{0,1000}(?:-d|--data\S*|-T|-F|--upload-file)\s?[\"']?(?:\w{0,20}=)?@?(?:~|/etc|/home|/root|\$HOME|\.env\b)[^\n|;]{0,1000}"
            r"|\bcurl\b[^\n|;]{0,1000}[?=]\$\((?:env|printenv|cat|whoami|hostname)\b"
            r"|(?:\benv|\bprintenv|\bset)\s{0,3}\|\s{0,3}(?:base64\s{0,3}\|\s{0,3})?(?:curl|nc|ncat|wget)\b"
        ),
    ),
    (
        "opens a way in",
        (
            r"/dev/tcp/(?!localhost\b|127\.)|\b(?:nc|ncat|netcat)\s[^\n|;]{0,400}-(?:e|c)\s{0,2}\S*sh\b|\bsocat\b[^\n|;]{0,1000}\bexec:"
            r"|>>?\s{0,3}\S{0,60}authorized_keys|>>?\s{0,3}/etc/(?:sudoers|passwd|crontab)|\btee\s+(?:-a\s+)?/etc/(?:sudoers|passwd)"
            r"|\bnopasswd\b|\bchmod\s+(?:u\+s|[46][0-7]{3})\b|\busermod\b[^\n|;]{0,40}-aG\s?(?:sudo|wheel|root|docker)\b|\|\s{0,3}crontab\s+-"
        ),
    ),
    (
        "switches protection off",
        (
            r"\biptables\s+(?:-t\s\w+\s)?(?:-F|--flush)\b|\biptables\s+-P\s+\w+\s+ACCEPT\b|\bnft\s+flush\s+ruleset|\bufw\s+(?:--force\s+)?(?:disable|reset)\b"
            r"|\bsetenforce\s+0\b|\bselinux=(?:disabled|permissive)|\bsystemctl\s+(?:stop|disable|mask)\s+(?:--now\s+)?(?:firewalld|ufw|auditd|apparmor|fail2ban|clamav\S*|falcon\S*)"
            r"|\bset-mppreference\b[^\n]{0,80}-disable|\bnetsh\s+advfirewall\s+set\b[^\n]{0,60}\boff\b|\bcsrutil\s+disable\b|\bspctl\s+--master-disable"
            r"|\bauditctl\s+-e\s?0\b|\bset-executionpolicy\s+(?:-\w+\s+)?(?:bypass|unrestricted)\b|\baa-teardown\b"
        ),
    ),
    (
        "hides its traces",
        r"\bhistory\s+-c\b|\bunset\s+histfile\b|\bhistfile=/dev/null|(?<!>)>\s{0,3}/var/log/(?:auth|secure|syslog|messages|audit|wtmp|btmp|lastlog)|\brm\b[^\n|;]{0,60}(?:\.bash_history|/var/log/)|\bclear-eventlog\b|\bwevtutil\s+cl\b",
    ),
    (
        "skips checks",
        (
            r"\bgit\b[^\n|;]{0,1000}\s--no-verify\b|\bhusky(?:_skip_\w+)?=[01]\b|\bcore\.hookspath[= ]\s?[\"']?/dev/null"
            r"|\bgit\s+commit\b(?:[^\n|;\"']|\"[^\"\n]{0,300}\"|'[^'\n]{0,300}'){0,400}\s-[aeipqsv]{0,4}n[aeimpqsv]{0,4}(?=\s|$)"
            r"|\bskip=\S{1,100}\s+(?:\w+=\S{0,80}\s+){0,3}git\s+commit\b|\bgradlew?(?:\.bat)?\s[^\n|;]{0,400}?(?<=\s)-x\s+[\w:]{0,60}(?:test|check)\b"
            r"|--(?:dangerously-skip-permissions|dangerously-bypass-approvals-and-sandbox|yolo|no-sandbox)\b|--skip-(?:tests?|checks?|validation|verification)\b"
            r"|-dskiptests\b|-dmaven\.test\.skip(?!=false)\b|\bskip_(?:tests?|checks?|validation)=(?:1|true|yes)\b"
        ),
    ),
    (
        "does not check whom it talks to",
        (
            r"\bcurl\s"
            + _ELSEWHERE
            + r"(?:[^\n|;]{0,1000}\s)?(?:-\w*k\w*|--insecure)(?=\s|$)|\bwget\b[^\n|;]{0,1000}--no-check-certificate\b|\bnode_tls_reject_unauthorized=[\"']?0|\bhttp\.sslverify[= ]false|\bgit_ssl_no_verify=|\bstricthostkeychecking[= ]no\b"
            r"|\bstrict-ssl[= ]false|\bpythonhttpsverify=0|--trusted-host\b|\bverify\s?=\s?false\b|\b_create_unverified_context\b"
        ),
    ),
    ("lets everybody write", r"\bchmod\s+(?:-\w+\s+)*(?:0?777|a\+\w*w\w*|o\+\w*w\w*|ugo\+\w*w\w*)\b"),
    (
        "overwrites what others have pushed",
        r"\bgit\s(?:-\w\s\S+\s)?push\b[^\n|;&]{0,1000}?\s(?:--force(?!-)|-\w*f\w*|--mirror|\+[\w/-]+(?::[\w/-]+)?)(?=\s|$|[\"'`])",
    ),
    (
        "gives its reader orders",
        (
            r"\b(?:ignore|disregard|forget|override)\s+(?:all\s+|any\s+|the\s+|your\s+|of\s+){0,3}(?:(?:previous|prior|above|earlier|preceding|system)\s+(?:instructions?|prompts?|rules|orders|messages?)"
            r"|(?:instructions?|prompts?|guidelines|directives|messages?)\s+(?:above|before|so\s+far|you\s+(?:were|have\s+been)\s+given|of\s+your|from\s+your))"
            r"|\b(?:ignore|disregard|forget|override|bypass)\s+(?:all\s+|any\s+|of\s+)*your\s+(?:own\s+|other\s+|original\s+|safety\s+|system\s+|previous\s+){0,2}(?:instructions?|prompts?|guidelines|guardrails|directives|rules|training|constraints|restrictions)\b"
            rf"|\b(?=[acgl])(?:{_AN_AGENT})\s?,?:?\s+(?:(?:must|should|shall|has to|have to|needs? to|is (?:now )?(?:required|instructed|asked|told) to|please|now|also|always|first|then|immediately|instead|not|never)\s+){{1,4}}(?:{_DOES})\b"
            rf"|\b(?:important|attention|note|notice|instructions?|message)\b[^\n]{{0,40}}\b(?:to|for)\s+(?:the\s+|any\s+|all\s+|every\s+)?(?:{_AN_AGENT})s?\b"
            r"|\b(?:e-?mail|upload|forward|exfiltrate|leak)\s+(?:the\s+|all\s+|your\s+|any\s+)*(?:contents?\s+of\s+)?(?:the\s+|all\s+|your\s+|any\s+)*[\w./~-]{0,40}(?:\.env|\.ssh|credentials?|secrets?|api[ _-]?keys?|private\s+keys?|passwords?|tokens?|environment\s+variables)\b"
            r"|\b(?:do not|don't|never)\s+(?:tell|inform|mention\s+(?:this|it)\s+to|ask|alert|notify)\s+(?:the\s+)?(?:user|human|operator|anyone)\b"
            r"|\byou\s+are\s+now\s+(?:in\s+\w+\s+mode|(?:an?\s+|the\s+)?(?:\w+\s+){0,2}(?:assistant|agent|ai|model|bot|root|admin\w*))\b|</?\s{0,3}(?:system|assistant|important|instructions?)\s{0,3}>|\bnew\s+(?:system\s+)?instructions?\s{0,3}:"
            r"|\[(?:system|inst|/inst)\]|<\|(?:im_start|im_end|system|assistant)\|>"
        ),
    ),
)
_PATTERNS = tuple((reason, re.compile(pattern, re.IGNORECASE)) for reason, pattern in _HAZARDS)
ORDERS = _HAZARDS[-1][0]
"""The hazard of text that speaks to its reader; no task needs it."""
_DOWNLOADED = "runs what it downloads"
_SAVES = re.compile(
    _GET
    + r"""(?:(?!curl|wget)[^\n;|&]){0,1000}?\s(?:-\w*o|--output(?:-document)?)(?:\s+|=)?["']?(?P<file>[^\s"';&|=-][^\s"';&|]{0,200})""",
    re.IGNORECASE,
)
_RUNS = re.compile(
    r"(?:&&|\|\||[;\n])\s{0,3}"
    + _AS
    + r"""(?:(?:(?:ba|z|da|k)?sh|source|\.|python[\d.]*|perl|ruby|node|php)\s+(?:-\w+\s+){0,3})?["']?(?P<file>[^\s"';&|]{1,200})""",
    re.IGNORECASE,
)
LEFT_OUT = "[left out: it gives its reader orders]"
"""What stands in the place of orders in an answer of a tool."""
_SENTENCE = re.compile(r"(?:(?<=[.!?])\s|\n)\s{0,10}(?=\S)")


def hazards(text: str) -> tuple[str, ...]:
    """Why following this text may do harm, as short reasons; nearly always nothing."""
    return _of_line(text) if len(text) <= _A_LINE else _looked_for(_ends(text))


@lru_cache(maxsize=8192)  # the lines of the same procedures are looked at again and again
def _of_line(line: str) -> tuple[str, ...]:
    return _looked_for(line)


def _looked_for(text: str) -> tuple[str, ...]:
    return tuple(
        reason
        for reason, pattern in _PATTERNS
        if pattern.search(text) or (reason == _DOWNLOADED and _runs_what_it_saved(text))
    )


def _ends(text: str) -> str:
    return text if len(text) <= 2 * MAX_LOOKED_AT else f"{text[:MAX_LOOKED_AT]}\n{text[-MAX_LOOKED_AT:]}"


def _runs_what_it_saved(text: str) -> bool:
    """Whether a file that one command downloads is run by a later one."""
    saved = {m["file"].removeprefix("./"): m.end() for m in reversed(list(_SAVES.finditer(text)))}
    runs = _RUNS.finditer(text) if saved else ()
    return any(saved.get(m["file"].removeprefix("./"), len(text)) <= m.start() for m in runs)


def gives_orders(text: str) -> bool:
    """Whether a text speaks to the agent that reads it, as a planted instruction does."""
    return _PATTERNS[-1][1].search(_ends(text)) is not None


def without_orders(text: str) -> str:
    """What a tool has answered, up to the first sentence that speaks to the agent that reads it."""
    if not gives_orders(text):
        return text
    ends = [0, *(m.end() for m in _SENTENCE.finditer(text))]
    first = bisect_left(ends, 1, key=lambda end: int(gives_orders(text[:end])))
    return f"{text[: ends[first - 1]].rstrip()} {LEFT_OUT}".strip()


def of_procedure(procedure: Procedure) -> tuple[str, ...]:
    """The hazards of a procedure, each with the places where it is: ``s2, s5: runs what it downloads``."""
    places: dict[str, list[str]] = {}
    for place, text in _texts(procedure):
        for reason in hazards(text):
            places.setdefault(reason, []).append(place)
    for place, text in _observed(procedure):
        if gives_orders(text):
            places.setdefault(ORDERS, []).append(place)
    return tuple(f"{', '.join(dict.fromkeys(where))}: {reason}" for reason, where in places.items())


def _texts(procedure: Procedure) -> Iterable[tuple[str, str]]:
    yield from ((s.name, s.text) for s in procedure.script)
    yield from (("exemplar", s.action) for s in procedure.exemplar)
    yield from (("pitfalls", text) for p in procedure.pitfalls for text in (p.text, p.error))
    told = (
        procedure.title,
        procedure.check,
        procedure.when_to_use,
        procedure.when_not_to_use,
        *procedure.preconditions,
    )
    yield from (("text", text) for text in told)


def _observed(procedure: Procedure) -> Iterable[tuple[str, str]]:
    """What nobody is to follow: it came back from a tool, and can only speak to its reader."""
    yield from ((s.name, text) for s in procedure.script for text in s.when)
    yield from (("exemplar", s.observation) for s in procedure.exemplar)
    yield from (("slots", example) for slot in procedure.slots for example in slot.examples)


def introduced(written: Sequence[str], actions: Iterable[str]) -> tuple[str, ...]:
    """The hazards of what somebody has written about a run that no action of the run has: they were told to it."""
    found = dict.fromkeys(reason for text in written for reason in hazards(text))
    known = {reason for action in actions for reason in hazards(action)} if found else ()
    return tuple(reason for reason in found if reason not in known)
