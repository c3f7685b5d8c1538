"""What a user's next words say about the work before: praise, a complaint, or neither.

Only what is said of "it", or of nothing at all: a complaint about some thing by name may be the next task. English is
read by its grammar; of other languages whole phrases are known that cannot be mistaken, and nothing beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_LOOKED_AT = 500  # characters

# -- English ----------------------------------------------------------------------------------------------------------

_THANKS = r"(?:thanks(?: a lot| so much| again)?|thank you(?: very much| so much)?|thx)"
_LEAD = rf"(?:(?:ok(?:ay)?|yes|yep|great|nice|cool|good|{_THANKS}|oh|hm+|sorry|well|but|no|nope)\b[\s,.!:;-]*)*"
_IT = r"(?:it|that|this|everything|which)"
_NOT = r"(?:n['\u2019]t|\s+not)"
_DONE = rf"(?:works|(?:{_IT}\s+)?worked|{_IT}(?:['\u2019]s| is) (?:fixed|solved)|all good)(?: now)?"
_NO = re.compile(r"no(?:pe)?[.!]*", re.IGNORECASE)
_COMPLAINS = re.compile(
    rf"{_LEAD}(?:(?:{_IT}\s+)?(?:still|again)\s+(?:fails?\b|failing|broken|crash|(?:is\s+)?not (?:work|right|fixed)"
    rf"|(?:does|do|is){_NOT}\s+(?:work|pass|compile|build|run|start))"
    rf"|(?:{_IT}\s+(?:does|did|is|wo|has)|does|did){_NOT}\s+(?:work|help|fix|pass|compile)"
    rf"|{_IT}(?:['\u2019]s| is| was)\s+(?:still )?(?:wrong|broken|not (?:right|correct|what i (?:asked|meant|wanted)))"
    r"|not what i (?:asked|meant|wanted)|wrong\b(?! with)|you broke\b"
    r"|(?:please )?(?:revert|undo) (?:that|this|it|your)\b)",
    re.IGNORECASE,
)
_APPROVES = re.compile(
    rf"{_LEAD}(?:{_IT}\s+(?:all\s+)?works?\b|works?\s+(?:now|fine|great|well|perfectly)\b"
    rf"|{_DONE}\s*(?:[.!]|$|,?\s*{_THANKS}\b)|(?:fixed|solved)(?: now)?\s*(?:[.!]*$|,?\s*{_THANKS}\b)"
    rf"|{_IT} (?:did it|fixed it|was it|solved it)\b|perfect(?:ly)?\b|excellent\b|awesome\b"
    r"|lgtm\b|(?:it |that |this |all )?looks (?:good|great|right|perfect)\b"
    r"|(?:well done|(?:good|great|nice) (?:job|work))\b)"
    rf"|(?:(?:great|nice|cool|{_THANKS})[\s,.!]*)+$",
    re.IGNORECASE,
)
_RESERVES = re.compile(r"\b(?:but|however|except|although|though|yet|unless|if|when|once|until|should|would)\b|\?")

# -- other languages --------------------------------------------------------------------------------------------------


class _Phrases(NamedTuple):
    """What is said in a language; phrases of a row are separated by bars."""

    thanks: str
    around: str  # says nothing by itself, and may stand before all others; no word that negates what follows
    praise: str
    complaint: str


_LANGUAGES = (
    _Phrases(  # German
        "danke|danke dir|danke schön|danke sehr|vielen dank|besten dank|super|prima|klasse|toll",
        "ja|nein|ok|okay|leider|hm|hmm",
        "funktioniert|funktioniert jetzt|funktioniert wieder|es funktioniert|es funktioniert jetzt|das funktioniert"
        "|jetzt funktioniert es|jetzt funktioniert alles|alles funktioniert|klappt|klappt jetzt|es klappt"
        "|jetzt klappt es|läuft jetzt|jetzt läuft es|geht jetzt|jetzt geht es|jetzt geht's"
        "|perfekt|gelöst|problem gelöst|behoben",
        "funktioniert nicht|funktioniert immer noch nicht|funktioniert noch nicht|das funktioniert nicht"
        "|es funktioniert nicht|es funktioniert immer noch nicht|das funktioniert immer noch nicht|klappt nicht"
        "|klappt immer noch nicht|das klappt nicht|geht nicht|geht immer noch nicht|das geht nicht"
        "|immer noch falsch|immer noch kaputt|immer noch der gleiche fehler|immer noch derselbe fehler"
        "|das ist falsch|das stimmt nicht|mach das rückgängig|das habe ich nicht gemeint",
    ),
    _Phrases(  # French
        "merci|merci beaucoup|merci bien|super|génial|bravo",
        "oui|non|ok|ah|hm",
        "ça marche maintenant|ça marche bien|maintenant ça marche|tout marche|ça fonctionne"
        "|ça fonctionne maintenant|cela fonctionne|tout fonctionne|parfait|c'est parfait|c'est réglé|c'est résolu"
        "|problème résolu",
        "ça marche pas|ça ne marche pas|ça marche toujours pas|ça ne marche toujours pas|cela ne marche pas"
        "|ça ne fonctionne pas|ça ne fonctionne toujours pas|ça fonctionne pas|cela ne fonctionne pas"
        "|toujours la même erreur|c'est faux|annule ça|ce n'est pas ce que j'ai demandé",
    ),
    _Phrases(  # Spanish
        "gracias|muchas gracias|mil gracias|genial|estupendo",
        "sí|vale|ok|ah|pero",
        "funciona|ya funciona|ahora funciona|ahora sí funciona|funciona bien|funciona perfectamente|todo funciona"
        "|perfecto|excelente|solucionado|problema solucionado|resuelto|problema resuelto|arreglado",
        "no funciona|todavía no funciona|aún no funciona|sigue sin funcionar|no funcionó|eso no funciona|sigue fallando"
        "|sigue igual|el mismo error|está mal|eso está mal|no es lo que pedí|eso no es lo que pedí|deshaz eso",
    ),
    _Phrases(  # Portuguese
        "obrigado|obrigada|muito obrigado|muito obrigada|valeu|ótimo",
        "sim|ok|ah|mas",
        "funciona|funcionou|agora funciona|agora funcionou|já funciona|está funcionando|agora está funcionando"
        "|tudo funcionando|perfeito|excelente|resolvido|problema resolvido",
        "não funciona|não funcionou|ainda não funciona|ainda não funcionou|não está funcionando"
        "|ainda não está funcionando|continua sem funcionar|continua falhando|o mesmo erro|está errado|isso está errado"
        "|não foi isso que eu pedi|não é isso|desfaça isso",
    ),
    _Phrases(  # Russian
        "спасибо|большое спасибо|спасибо большое|супер|класс|круто",
        "да|нет|ок|хм|но",
        "работает|теперь работает|всё работает|все работает|теперь всё работает|теперь все работает|заработало"
        "|всё заработало|получилось|отлично|идеально|проблема решена",
        "не работает|всё ещё не работает|все еще не работает|всё равно не работает|все равно не работает"
        "|по-прежнему не работает|опять не работает|так и не работает|не заработало|не помогло|это не помогло"
        "|неправильно|это неправильно|неверно|это неверно|опять ошибка|та же ошибка|это не то|отмени это",
    ),
    _Phrases(  # Chinese
        "谢谢|谢谢你|谢谢您|多谢|非常感谢|太好了|太棒了|很好|真棒",
        "是|是的|嗯|好|好的|现在",
        "可以了|现在可以了|成功了|搞定了|解决了|问题解决了|好用|能用了|正常了|没问题了|完美|很完美",
        "还是不行|还是不对|还是不能用|还是失败|还是报错|还是有问题|仍然不行|仍然报错|依然不行|没有用|没用|没解决|没有解决|不对|这不对"
        "|错了|这是错的|不能用|搞错了|撤销这个修改|撤销刚才的修改",
    ),
    _Phrases(  # Japanese
        "ありがとう|ありがとうございます|ありがとうございました|素晴らしい|素晴らしいです|いいですね",
        "はい|いいえ|うん|ええ|でも",
        "動きました|動いた|動いています|うまくいきました|うまく動きました|直りました|直った|解決しました|成功しました|完璧|完璧です",
        "動きません|まだ動きません|動かない|まだ動かない|動かないです|動作しません|直っていません|まだ直っていません|直りません|直ってない"
        "|失敗します|まだ失敗します|エラーになります|まだエラーになります|まだエラーが出ます|違います|間違っています|元に戻して"
        "|元に戻してください",
    ),
)
_GAP = r"[\s,.!、。，！-]+"
_STOP = r"\s*(?:$|[.!。！\n])"
_PAUSE = r"\s*(?:$|[.!。！\n,;:，；：、])"


class _Language(NamedTuple):
    praise: re.Pattern[str]
    complaint: re.Pattern[str]


def _language(told: _Phrases) -> _Language:
    """Where a phrase goes on without a pause, it may say the contrary, or speak of something by name."""
    before = rf"(?:{_one_of(told.thanks, told.around)}{_GAP})*"
    thanks = _one_of(told.thanks)
    praise = rf"{before}(?:{_one_of(told.praise)}(?:{_GAP}{thanks})*{_STOP}|{thanks}[\s.!。！]*$)"
    return _Language(re.compile(praise), re.compile(rf"{before}{_one_of(told.complaint)}{_PAUSE}"))


def _one_of(*rows: str) -> str:
    phrases = sorted("|".join(rows).split("|"), key=len, reverse=True)
    return f"(?:{'|'.join(map(re.escape, phrases))})"


_KNOWN: Sequence[_Language] = tuple(map(_language, _LANGUAGES))


def opinion(text: str) -> bool | None:
    """What a user's next words say about the work before: True praise, False a complaint, None neither."""
    first = text.strip()[:_LOOKED_AT]
    if _COMPLAINS.match(first) or is_no(first):
        return False
    sentence = re.split(r"(?<=[.!])\s|\n", first, maxsplit=1)[0]
    if _APPROVES.match(first) is not None and not _RESERVES.search(sentence.lower()):
        return True
    plain = first.lower().replace("\u2019", "'")
    if any(language.complaint.match(plain) for language in _KNOWN):
        return False
    return True if any(language.praise.match(plain) for language in _KNOWN) else None


def is_no(text: str) -> bool:
    """Whether a user says no and nothing else: a complaint, unless it is the answer to a question."""
    return _NO.fullmatch(text.strip()) is not None
