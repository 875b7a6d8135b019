"""Structural features: what can be counted in a prompt and a response, and how the two answers of a
row compare in it.

Three tables name every feature. `RESPONSE_FEATURES` looks at one response at a time,
`PROMPT_FEATURES` at the prompt alone, `PAIR_FEATURES` at both answers without regard to their
order. Symmetry under an exchange of A and B then holds by construction: the differences of response
features change their sign (*antisymmetric*); their absolute differences and means, prompt features
and pair features stay (*symmetric*).

Every feature takes time linear in the text and is finite for any text, however long, empty or odd.
"""

import functools
import math
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np
import pandas as pd

from humanpref.text.processes import in_parts, processes_for

PROCESS_CHARACTERS = 20_000_000
"""A process more is worth its start for so many characters: some five seconds of work."""

# No pattern may rescan what it has passed over: answers of a looping model hold fifty thousand
# dots, or line ends. Chinese and Japanese set no spaces: each of their characters is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")
_LIST_ITEM = re.compile(r"^[^\S\n]*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_NUMBERED_ITEM = re.compile(r"^[^\S\n]*\d+[.)]\s", re.MULTILINE)
_HEADING = re.compile(r"^[^\S\n]*#{1,6}\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*")
_CODE_FENCE = re.compile(r"^[^\S\n]*```", re.MULTILINE)
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_TABLE_ROW = re.compile(r"^[^\S\n]*\|.*\|[^\S\n]*$", re.MULTILINE)
_LATEX = re.compile(r"\$\$|\\[(\[]|\\(?:frac|begin|sqrt|sum|int|cdot|times|text|left|mathbb)\b")
_LINK = re.compile(r"https?://|\]\(")
# Phrases are looked for as plain substrings of the lower-case text: patterns with alternatives took
# ten times as long.
_REFUSALS = (
    *(
        "i'm sorry",
        "i am sorry",
        "i apologi",
        "i'm unable",
        "i am unable",
        "i'm not able",
        "i am not able",
    ),
    *("i cannot", "i can't", "i can not", "as an ai", "language model", "not appropriate"),
)
_PLEASANTRIES = (
    *(
        "certainly",
        "of course",
        "absolutely",
        "great question",
        "happy to help",
        "let me know",
        "feel free",
    ),
    *("hope this helps", "hope that helps"),
)
_HEDGES = frozenset(
    (
        "may",
        "might",
        "perhaps",
        "possibly",
        "probably",
        "likely",
        "generally",
        "typically",
        "usually",
        "seems",
        "depends",
    )
)
_FIRST_PERSON = frozenset(("i", "me", "my", "mine", "myself"))

# A few of the commonest words that hardly occur in the other languages; the first row also serves
# as English stopwords.
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

# Kinds of characters: inclusive ranges of code points. What stands in none is `other` (spaces,
# signs, remaining scripts).
_KINDS = {
    "other": (),
    "digit": ((0x30, 0x39),),
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
    "emoji": ((0x2600, 0x27BF), (0x1F300, 0x1FAFF)),
}
_SCRIPTS = ("latin", "cyrillic", "cjk", "arabic", "other script")
_LAST_CODE = 0x2FFFF  # in no range: it stands for all code points from it on


@functools.cache
def _character_tables() -> tuple[np.ndarray, np.ndarray]:
    """Of each code point its kind's place in `_KINDS`, and whether it is an upper-case letter."""
    kinds = np.zeros(_LAST_CODE + 1, dtype=np.uint8)
    for number, ranges in enumerate(_KINDS.values()):
        for first, last in ranges:
            kinds[first : last + 1] = number
    return kinds, np.array([chr(code).isupper() for code in range(_LAST_CODE + 1)])


class _Text:
    """A prompt or a response, and what more than one feature reads of it."""

    def __init__(self, turns: tuple[str, ...]) -> None:
        self.turns = turns
        self.text = "\n\n".join(turns)
        self.lower = self.text.lower().replace("’", "'")
        self.words = WORD.findall(self.lower)
        self.distinct = set(self.words)
        self.last = (
            self.words if len(turns) == 1 else WORD.findall(turns[-1].lower()) if turns else []
        )
        self.last_words = set(self.last)
        self.codes = np.frombuffer(
            self.text.encode("utf-32-le", "surrogatepass"), dtype="<u4"
        ).clip(max=_LAST_CODE)
        kinds, upper = _character_tables()
        self.kinds = dict(
            zip(_KINDS, np.bincount(kinds[self.codes], minlength=len(_KINDS)).tolist(), strict=True)
        )
        self.upper = int(upper[self.codes].sum())
        self.letters = sum(self.kinds[script] for script in _SCRIPTS)
        self.sentences = len(_SENTENCE_END.findall(self.text))

    def matches(self, pattern: re.Pattern[str], mark: str = "") -> int:
        """How many there are; a text without the mark that each holds, as most are, is not searched
        line by line."""
        return len(pattern.findall(self.text)) if mark in self.text else 0

    def count(self, pattern: re.Pattern[str], mark: str = "") -> float:
        """ln(1 + matches)."""
        return math.log1p(self.matches(pattern, mark))

    def script(self, name: str) -> float:
        return _share(self.kinds[name], self.letters)

    def of_words(self, listed: frozenset[str] | set[str]) -> float:
        return _share(sum(map(listed.__contains__, self.words)), len(self.words))

    @functools.cached_property
    def word_pairs(self) -> set[tuple[str, str]]:
        return set(zip(self.words, self.words[1:], strict=False))

    @functools.cached_property
    def language(self) -> str | None:
        """The script, or for Latin and Cyrillic the language whose common words it uses most; None
        where it cannot be told."""
        if not self.letters:
            return None
        script = max(_SCRIPTS, key=self.kinds.__getitem__)
        if script not in ("latin", "cyrillic"):
            return script
        hits = {name: len(self.distinct & listed) for name, listed in _LANGUAGE_WORDS.items()}
        best = max(hits, key=hits.__getitem__)
        return best if hits[best] else None


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _jaccard(a: set, b: set) -> float:
    return _share(len(a & b), len(a | b))


def _readability(text: _Text) -> float:
    """Automated readability index in school grades, kept within 0 and 30 (Smith and Senter
    1967)."""
    if not text.words:
        return 0.0
    characters = sum(map(len, text.words))
    grade = (
        4.71 * characters / len(text.words) + 0.5 * len(text.words) / max(1, text.sentences) - 21.43
    )
    return min(max(grade, 0.0), 30.0)


def _other_language(a: _Text, b: _Text) -> float:
    return float(None not in (a.language, b.language) and a.language != b.language)


def _script_agreement(a: _Text, b: _Text) -> float:
    """1 if both mix the scripts alike, 0 if they share none; 1 where one has no letters."""
    if not (a.letters and b.letters):
        return 1.0
    return sum(min(a.script(name), b.script(name)) for name in _SCRIPTS)


def _common_start(a: _Text, b: _Text) -> float:
    """How much of the longer answer the two share from their beginning on."""
    shorter = min(len(a.codes), len(b.codes))
    differ = np.flatnonzero(a.codes[:shorter] != b.codes[:shorter])
    return _share(int(differ[0]) if len(differ) else shorter, max(len(a.codes), len(b.codes)))


_RESPONSE: dict[str, Callable[[_Text, _Text], float]] = {
    # How much is said.
    "log_characters": lambda p, r: math.log1p(len(r.text)),
    "log_words": lambda p, r: math.log1p(len(r.words)),
    "log_sentences": lambda p, r: math.log1p(r.sentences),
    "log_paragraphs": lambda p, r: math.log1p(r.text.count("\n\n")),
    "log_lines": lambda p, r: math.log1p(r.text.count("\n")),
    "turns_without_answer": lambda p, r: float(
        sum(not turn.strip() for turn in r.turns) + max(0, len(p.turns) - len(r.turns))
    ),
    "empty": lambda p, r: float(not r.text.strip()),
    "last_turn_log_words": lambda p, r: math.log1p(len(r.last)),
    # How it is laid out.
    "log_list_items": lambda p, r: r.count(_LIST_ITEM),
    "log_numbered_items": lambda p, r: r.count(_NUMBERED_ITEM),
    "log_headings": lambda p, r: r.count(_HEADING, "#"),
    "log_bold": lambda p, r: r.count(_BOLD),
    "log_code_blocks": lambda p, r: math.log1p(r.matches(_CODE_FENCE, "```") // 2),
    "log_inline_code": lambda p, r: r.count(_INLINE_CODE),
    "log_table_rows": lambda p, r: r.count(_TABLE_ROW, "|"),
    "log_latex": lambda p, r: r.count(_LATEX),
    "log_links": lambda p, r: r.count(_LINK),
    "log_questions": lambda p, r: math.log1p(r.text.count("?")),
    "log_exclamations": lambda p, r: math.log1p(r.text.count("!")),
    "log_emoji": lambda p, r: math.log1p(r.kinds["emoji"]),
    # Which words it takes.
    "mean_word_length": lambda p, r: _share(sum(map(len, r.words)), len(r.words)),
    "distinct_word_share": lambda p, r: _share(len(r.distinct), len(r.words)),
    "distinct_word_pair_share": lambda p, r: _share(len(r.word_pairs), max(1, len(r.words) - 1)),
    "readability": lambda p, r: _readability(r),
    "stopword_share": lambda p, r: r.of_words(_LANGUAGE_WORDS["english"]),
    "first_person_share": lambda p, r: r.of_words(_FIRST_PERSON),
    "refusal": lambda p, r: float(any(phrase in r.lower for phrase in _REFUSALS)),
    "hedge_share": lambda p, r: r.of_words(_HEDGES),
    "log_pleasantries": lambda p, r: math.log1p(sum(map(r.lower.count, _PLEASANTRIES))),
    # Which characters, scripts and languages.
    "digit_share": lambda p, r: _share(r.kinds["digit"], len(r.text)),
    "upper_share": lambda p, r: _share(r.upper, len(r.text)),
    "non_ascii_share": lambda p, r: _non_ascii_share(r),
    "latin_share": lambda p, r: r.script("latin"),
    "cyrillic_share": lambda p, r: r.script("cyrillic"),
    "cjk_share": lambda p, r: r.script("cjk"),
    "script_agreement": lambda p, r: _script_agreement(p, r),
    "other_language": lambda p, r: _other_language(p, r),
    # How it takes up the prompt.
    "prompt_words_used": lambda p, r: _share(len(p.distinct & r.distinct), len(p.distinct)),
    "words_from_prompt": lambda p, r: r.of_words(p.distinct),
    "last_turn_agreement": lambda p, r: _share(len(p.last_words & r.last_words), len(p.last_words)),
}

_PROMPT: dict[str, Callable[[_Text], float]] = {
    "prompt_log_characters": lambda p: math.log1p(len(p.text)),
    "prompt_log_words": lambda p: math.log1p(len(p.words)),
    "prompt_log_turns": lambda p: math.log1p(len(p.turns)),
    "prompt_log_last_words": lambda p: math.log1p(len(p.last_words)),
    "prompt_questions": lambda p: math.log1p(p.text.count("?")),
    "prompt_list_items": lambda p: p.count(_LIST_ITEM),
    "prompt_code": lambda p: float("```" in p.text or "def " in p.text or "#include" in p.text),
    "prompt_latex": lambda p: p.count(_LATEX),
    "prompt_digit_share": lambda p: _share(p.kinds["digit"], len(p.text)),
    "prompt_upper_share": lambda p: _share(p.upper, len(p.text)),
    "prompt_stopword_share": lambda p: p.of_words(_LANGUAGE_WORDS["english"]),
    "prompt_non_ascii": lambda p: _non_ascii_share(p),
    "prompt_latin_share": lambda p: p.script("latin"),
}

# Each of these must not change when its arguments change places; a test exchanges them.
_PAIR: dict[str, Callable[[_Text, _Text], float]] = {
    "identical": lambda a, b: float(a.turns == b.turns),
    "jaccard": lambda a, b: _jaccard(a.distinct, b.distinct),
    "word_pair_jaccard": lambda a, b: _jaccard(a.word_pairs, b.word_pairs),
    "last_turn_jaccard": lambda a, b: _jaccard(a.last_words, b.last_words),
    "last_turn_identical": lambda a, b: float(a.turns[-1:] == b.turns[-1:]),
    "common_start": _common_start,
    "answers_script_agreement": _script_agreement,
    "answers_other_language": _other_language,
}


def _non_ascii_share(text: _Text) -> float:
    return (
        1 - _share(len(text.text.encode("ascii", "ignore")), len(text.text)) if text.text else 0.0
    )


PLAIN = frozenset(
    {
        *(
            "log_characters",
            "log_words",
            "log_sentences",
            "log_paragraphs",
            "log_list_items",
            "log_headings",
            "log_bold",
        ),
        *(
            "log_code_blocks",
            "log_table_rows",
            "log_questions",
            "log_exclamations",
            "digit_share",
            "upper_share",
        ),
        *(
            "non_ascii_share",
            "mean_word_length",
            "distinct_word_share",
            "refusal",
            "empty",
            "turns_without_answer",
        ),
        *(
            "prompt_words_used",
            "words_from_prompt",
            "last_turn_log_words",
            "prompt_log_characters",
            "prompt_log_words",
        ),
        *(
            "prompt_log_turns",
            "prompt_questions",
            "prompt_code",
            "prompt_non_ascii",
            "identical",
            "jaccard",
        ),
    }
)
"""The features that a thousand rows suffice for: with these alone `sparse` and `boosted` have a
lower inner log loss than with all."""

RESPONSE_FEATURES = tuple(_RESPONSE)
"""What `response_features` counts, in its order."""

PROMPT_FEATURES = tuple(_PROMPT)
"""What `prompt_features` counts, in its order."""

PAIR_FEATURES = tuple(_PAIR)
"""What is counted over both answers, whichever comes first."""


def response_features(prompt: tuple[str, ...], response: tuple[str, ...]) -> list[float]:
    """The counts of one response, in the order of `RESPONSE_FEATURES`."""
    return [feature(_Text(prompt), _Text(response)) for feature in _RESPONSE.values()]


def prompt_features(prompt: tuple[str, ...]) -> list[float]:
    """The counts of one prompt, in the order of `PROMPT_FEATURES`."""
    return [feature(_Text(prompt)) for feature in _PROMPT.values()]


_LANGUAGE_CHARACTERS = 1_000


def language_of(turns: tuple[str, ...]) -> str | None:
    """The language (or for most scripts the script) that a text begins in, by its letters and
    commonest words; None: not told.

    It knows the languages of `_LANGUAGES` only, and takes another in Latin or Cyrillic letters for
    the nearest of them.
    """
    return _Text(("\n\n".join(turns)[:_LANGUAGE_CHARACTERS],)).language


def structure(
    pairs: pd.DataFrame, only: Collection[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Structural features of every row.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame of n rows.
    only : collection of str, optional
        Names from `RESPONSE_FEATURES`, `PROMPT_FEATURES` and `PAIR_FEATURES`, for example `PLAIN`;
        without it all.

    Returns
    -------
    antisymmetric : ndarray
        (n, 40) float64 for all features, the columns of `antisymmetric_names`: the sign changes
        when A and B are exchanged.
    symmetric : ndarray
        (n, 101) float64 for all features, the columns of `symmetric_names`: unchanged by the
        exchange.
    """
    rows = list(zip(pairs["prompt"], pairs["response_a"], pairs["response_b"], strict=True))
    characters = sum(len(turn) for row in rows for turns in row for turn in turns)
    parts = in_parts(
        partial(_structure, only=only), rows, processes_for(characters, PROCESS_CHARACTERS)
    )
    x, z = zip(*parts, strict=True)
    return np.vstack(x), np.vstack(z)


def _structure(
    rows: Sequence[tuple], only: Collection[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """`structure` of rows of prompt, A and B."""
    of_response, of_prompt, of_pair = (
        _chosen(table, only) for table in (_RESPONSE, _PROMPT, _PAIR)
    )
    both_a, both_b, asked, together = [], [], [], []
    for turns in rows:
        prompt, a, b = map(_Text, turns)
        both_a.append([feature(prompt, a) for feature in of_response.values()])
        both_b.append([feature(prompt, b) for feature in of_response.values()])
        asked.append([feature(prompt) for feature in of_prompt.values()])
        together.append([feature(a, b) for feature in of_pair.values()])
    a, b, asked, together = (
        np.array(made, dtype=np.float64).reshape(len(rows), len(table))
        for made, table in (
            (both_a, of_response),
            (both_b, of_response),
            (asked, of_prompt),
            (together, of_pair),
        )
    )
    return a - b, np.hstack([np.abs(a - b), (a + b) / 2, asked, together])


def antisymmetric_names(only: Collection[str] | None = None) -> list[str]:
    """Names of the columns of the first matrix of `structure`: a - b of each response feature."""
    return [f"{name}_difference" for name in _chosen(_RESPONSE, only)]


def symmetric_names(only: Collection[str] | None = None) -> list[str]:
    """Names of the columns of the second: |a - b| and (a + b) / 2 of each response feature, prompt
    and pair features."""
    responses = _chosen(_RESPONSE, only)
    return [
        *(f"{name}_distance" for name in responses),
        *(f"{name}_mean" for name in responses),
        *_chosen(_PROMPT, only),
        *_chosen(_PAIR, only),
    ]


def _chosen(table: dict[str, Callable], only: Collection[str] | None) -> dict[str, Callable]:
    return {name: feature for name, feature in table.items() if only is None or name in only}
