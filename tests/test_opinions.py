"""What a user says next: praise, a complaint, or something else, in English and in unmistakable phrases of others."""

from __future__ import annotations

import pytest

from memp_mcp.opinions import opinion


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Thanks!", True),
        ("That works, thanks. Next: publish it", True),
        ("It works now", True),
        ("Perfect! Can you also add docs?", True),
        ("Looks good. Commit it.", True),
        ("lgtm", True),
        ("That's wrong", False),
        ("it doesn\u2019t work on Safari", False),
        ("Thanks, but it still fails", False),
        ("No, that is not what I asked for", False),
        ("Undo your last change, please", False),
        ("didn't work", False),
        ("The login page doesn't work, mend it", None),  # it may be the next task
        ("Fix the wrong import", None),
        ("it works but slowly", None),
        ("does it work?", None),
        ("Make it work on Safari", None),
        ("Great, now add tests", None),
        ("yes", None),
        ("no thanks", None),
        ("works, thanks!", True),
        ("works, thank you", True),
        ("Works. Now add X", True),
        ("works now, thanks a lot", True),
        ("solved, thanks", True),
        ("fixed, thx", True),
        ("all good now", True),
        ("It worked!", True),
        ("that's fixed now, thank you", True),
        ("nope", False),
        ("No.", False),
        ("works, but only on Linux", None),
        ("works in Chrome, fails in Safari", None),
        ("it worked before your change", None),
        ("Fixed the typo myself, now publish", None),
        ("works?", None),
        ("all good reasons to add a test", None),
        ("no, use tabs", None),
        ("nope, leave it", None),
        ("", None),
    ],
)
def test_what_a_user_says_of_the_work_is_praise_or_a_complaint_or_neither(text: str, *, said: bool | None) -> None:
    assert opinion(text) is said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Danke!", True),
        ("Super, funktioniert jetzt. Danke!", True),
        ("ja, das funktioniert, vielen Dank", True),
        ("Funktioniert immer noch nicht, es kommt derselbe Fehler", False),
        ("das ist falsch", False),
        ("funktioniert, aber langsam", None),
        ("funktioniert das?", None),
        ("Funktioniert nicht nur hier", None),
        ("Es funktioniert nicht mit Safari, bitte mach es kompatibel", None),
        ("Danke. Jetzt schreib die Doku", None),
        ("Merci beaucoup !", True),
        ("Parfait. Ajoute des tests", True),
        ("Ça ne marche toujours pas", False),
        ("ça marche", None),  # agreed
        ("Ahora funciona, gracias", True),
        ("Sigue sin funcionar", False),
        ("no funciona bien", None),
        ("No funciona el botón, arréglalo", None),
        ("Funcionou, obrigado!", True),
        ("Ainda não funciona.", False),
        ("não funciona bem", None),
        ("Всё работает, спасибо", True),
        ("Не помогло", False),
        ("Работает ли это?", None),
        ("Не работает кнопка, исправь", None),
        ("可以了，谢谢！", True),
        ("谢谢", True),
        ("还是不行，报错了", False),
        ("可以了吗？", None),
        ("不对称加密怎么做", None),
        ("動きました。ありがとうございます", True),
        ("まだ動きません", False),
        ("動いたら教えて", None),
    ],
)
def test_unmistakable_phrases_of_other_languages_are_understood(text: str, *, said: bool | None) -> None:
    assert opinion(text) is said
