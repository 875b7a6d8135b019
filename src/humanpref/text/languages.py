"""Detect the language or script of a text from its letters and its most common words."""

import re

from humanpref.text.features import WORD

CHARACTERS = 1_000
"""Number of characters that are examined, from the start of a text."""

# A few very common words of each language that are rare in the other languages.
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

_SCRIPTS = {
    "latin": re.compile("[A-Za-zÀ-ÖØ-öø-\u024f\u1e00-\u1eff]"),
    "cyrillic": re.compile("[\u0400-\u052f]"),
    "cjk": re.compile(
        "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0002fa1f]"
    ),
    "arabic": re.compile("[\u0600-\u06ff\u0750-\u077f]"),
    "other script": re.compile(
        "[\u0370-\u03ff\u0530-\u05ff\u0780-\u1cff\u1f00-\u1fff\u2c00-\u2dff]"
    ),
}


def language_of(turns: tuple[str, ...]) -> str | None:
    """Return the language in which a conversation begins, or its script if that is neither Latin
    nor Cyrillic. Return None if it has no letters or no known words.

    Only the languages in `_LANGUAGES` are known. Any other language in Latin or Cyrillic script is
    reported as the known one that shares the most words with it.
    """
    text = "\n\n".join(turns)[:CHARACTERS]
    letters = {script: len(letter.findall(text)) for script, letter in _SCRIPTS.items()}
    script = max(letters, key=letters.__getitem__)
    if not letters[script]:
        return None
    if script not in ("latin", "cyrillic"):
        return script
    words = set(WORD.findall(text.lower().replace("’", "'")))
    hits = {language: len(words & listed) for language, listed in _LANGUAGE_WORDS.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] else None
