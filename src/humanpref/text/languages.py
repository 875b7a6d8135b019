"""The language or script of a text, by its letters and its commonest words."""

import numpy as np

from humanpref.text.features import WORD

CHARACTERS = 1_000
"""A text's language is told from its first characters."""

# A few of the commonest words that hardly occur in the other languages.
_LANGUAGES = {
    "english": (
        "the of and to is that for it with are this you be on have not or by from which was what "
        "how i your can"
    ),
    "german": (
        "der die und das ist nicht ein zu den mit von auf für eine sich dem auch wie ich wird"
    ),
    "french": "le les et est une des du que pour dans qui sur pas plus vous avec ce je sont",
    "spanish": "el los las y es que en una por con para del como su más lo al",
    "portuguese": "os um uma não é que em do da para com por mais como dos ao são",
    "italian": "il di è che non una per gli della sono con più del nel anche questo",
    "russian": "и в не на что с по это как для он из а то от",
}
_LANGUAGE_WORDS = {language: frozenset(words.split()) for language, words in _LANGUAGES.items()}

# Inclusive ranges of code points.
_SCRIPTS = {
    "latin": (
        (0x41, 0x5A),
        (0x61, 0x7A),
        (0xC0, 0xD6),
        (0xD8, 0xF6),
        (0xF8, 0x24F),
        (0x1E00, 0x1EFF),
    ),
    "cyrillic": ((0x400, 0x52F),),
    "cjk": (
        (0x3040, 0x30FF),
        (0x3400, 0x4DBF),
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7AF),
        (0x20000, 0x2FA1F),
    ),
    "arabic": ((0x600, 0x6FF), (0x750, 0x77F)),
    "other script": (
        (0x370, 0x3FF),
        (0x530, 0x5FF),
        (0x780, 0x1CFF),
        (0x1F00, 0x1FFF),
        (0x2C00, 0x2DFF),
    ),
}


def language_of(turns: tuple[str, ...]) -> str | None:
    """The language (for most scripts the script) that a conversation begins in; None without
    letters or known words.

    It knows the languages of `_LANGUAGES` only, and takes another in Latin or Cyrillic letters for
    the nearest of them.
    """
    text = "\n\n".join(turns)[:CHARACTERS]
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    letters = {
        script: sum(int(((codes >= first) & (codes <= last)).sum()) for first, last in ranges)
        for script, ranges in _SCRIPTS.items()
    }
    script = max(letters, key=letters.__getitem__)
    if not letters[script]:
        return None
    if script not in ("latin", "cyrillic"):
        return script
    words = set(WORD.findall(text.lower().replace("’", "'")))
    hits = {language: len(words & listed) for language, listed in _LANGUAGE_WORDS.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] else None
