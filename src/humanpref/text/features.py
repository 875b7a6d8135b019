"""Structural features: what can be counted in a prompt and a response, and how the two answers of a
row compare in it.

Symmetry under an exchange of A and B holds by construction: the differences of response features
change their sign (*antisymmetric*); their absolute differences and means, prompt features and pair
features stay (*symmetric*).

Every feature takes time linear in the text and is finite for any text, however long, empty or odd.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from humanpref.text.processes import in_parts, processes_for

PROCESS_CHARACTERS = 20_000_000
"""Characters that justify the start of one more process: about five seconds of work."""

# No pattern may rescan what it has passed over: answers of a looping model hold fifty thousand
# dots, or line ends. Chinese and Japanese set no spaces: each of their characters is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")
_LIST_ITEM = re.compile(r"^[^\S\n]*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_HEADING = re.compile(r"^[^\S\n]*#{1,6}\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*")
_CODE_FENCE = re.compile(r"^[^\S\n]*```", re.MULTILINE)
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_TABLE_ROW = re.compile(r"^[^\S\n]*\|.*\|[^\S\n]*$", re.MULTILINE)
_LATEX = re.compile(r"\$\$|\\[(\[]|\\(?:frac|begin|sqrt|sum|int|cdot|times|text|left|mathbb)\b")
# Plain substrings of the lower-case text: a pattern with alternatives took ten times as long.
_REFUSALS = (
    *("i'm sorry", "i am sorry", "i apologi", "i'm unable", "i am unable", "i'm not able"),
    *("i am not able", "i cannot", "i can't", "i can not", "as an ai", "language model"),
    "not appropriate",
)
_LAST_CODE = 0x2FFFF
"""No upper-case letter has this code point or a higher one."""


@functools.cache
def _upper_case() -> np.ndarray:
    """Whether each code point is an upper-case letter."""
    return np.array([chr(code).isupper() for code in range(_LAST_CODE + 1)])


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
        self.codes = np.frombuffer(
            self.text.encode("utf-32-le", "surrogatepass"), dtype="<u4"
        ).clip(max=_LAST_CODE)

    def matches(self, pattern: re.Pattern[str], mark: str = "") -> int:
        """Number of matches; a text without the mark that each holds is not searched."""
        return len(pattern.findall(self.text)) if mark in self.text else 0

    def count(self, pattern: re.Pattern[str], mark: str = "") -> float:
        """ln(1 + matches)."""
        return math.log1p(self.matches(pattern, mark))

    def code_blocks(self) -> int:
        return self.matches(_CODE_FENCE, "```") // 2

    def digit_share(self) -> float:
        digits = (self.codes >= ord("0")) & (self.codes <= ord("9"))
        return _share(int(digits.sum()), len(self.text))

    def upper_share(self) -> float:
        return _share(int(_upper_case()[self.codes].sum()), len(self.text))

    def non_ascii_share(self) -> float:
        if not self.text:
            return 0.0
        return 1 - _share(len(self.text.encode("ascii", "ignore")), len(self.text))

    def share_of_words(self, listed: set[str]) -> float:
        return _share(sum(map(listed.__contains__, self.words)), len(self.words))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# Features that a thousand rows suffice for: with 40 response, 13 prompt and 8 pair features the
# inner log loss of `sparse` and `boosted` was higher.
_RESPONSE: dict[str, Callable[[_Text, _Text], float]] = {
    # Length.
    "log_characters": lambda p, r: math.log1p(len(r.text)),
    "log_words": lambda p, r: math.log1p(len(r.words)),
    "log_sentences": lambda p, r: r.count(_SENTENCE_END),
    "log_paragraphs": lambda p, r: math.log1p(r.text.count("\n\n")),
    "turns_without_answer": lambda p, r: float(
        sum(not turn.strip() for turn in r.turns) + max(0, len(p.turns) - len(r.turns))
    ),
    "empty": lambda p, r: float(not r.text.strip()),
    "last_turn_log_words": lambda p, r: math.log1p(len(r.last)),
    # Layout.
    "log_list_items": lambda p, r: r.count(_LIST_ITEM),
    "log_headings": lambda p, r: r.count(_HEADING, "#"),
    "log_bold": lambda p, r: r.count(_BOLD),
    "log_code_blocks": lambda p, r: math.log1p(r.code_blocks()),
    "log_table_rows": lambda p, r: r.count(_TABLE_ROW, "|"),
    "log_questions": lambda p, r: math.log1p(r.text.count("?")),
    "log_exclamations": lambda p, r: math.log1p(r.text.count("!")),
    # Words.
    "mean_word_length": lambda p, r: _share(sum(map(len, r.words)), len(r.words)),
    "distinct_word_share": lambda p, r: _share(len(r.distinct), len(r.words)),
    "refusal": lambda p, r: float(any(phrase in r.lower for phrase in _REFUSALS)),
    # Characters.
    "digit_share": lambda p, r: r.digit_share(),
    "upper_share": lambda p, r: r.upper_share(),
    "non_ascii_share": lambda p, r: r.non_ascii_share(),
    # Overlap with the prompt.
    "prompt_words_used": lambda p, r: _share(len(p.distinct & r.distinct), len(p.distinct)),
    "words_from_prompt": lambda p, r: r.share_of_words(p.distinct),
}
_PROMPT: dict[str, Callable[[_Text], float]] = {
    "prompt_log_characters": lambda p: math.log1p(len(p.text)),
    "prompt_log_words": lambda p: math.log1p(len(p.words)),
    "prompt_log_turns": lambda p: math.log1p(len(p.turns)),
    "prompt_questions": lambda p: math.log1p(p.text.count("?")),
    "prompt_code": lambda p: float("```" in p.text or "def " in p.text or "#include" in p.text),
    "prompt_non_ascii": lambda p: p.non_ascii_share(),
}
# Each of these must not change when its arguments change places; a test exchanges them.
_PAIR: dict[str, Callable[[_Text, _Text], float]] = {
    "identical": lambda a, b: float(a.turns == b.turns),
    "jaccard": lambda a, b: _share(len(a.distinct & b.distinct), len(a.distinct | b.distinct)),
}

ANTISYMMETRIC = tuple(f"{name}_difference" for name in _RESPONSE)
"""Columns of the first matrix of `structural_features`: a - b of each response feature."""
SYMMETRIC = (
    *(f"{name}_distance" for name in _RESPONSE),
    *(f"{name}_mean" for name in _RESPONSE),
    *_PROMPT,
    *_PAIR,
)
"""Columns of the second: |a - b| and (a + b) / 2 of each response feature, prompt and pair
features."""


def structural_features(pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Structural features of n rows.

    Returns
    -------
    antisymmetric : ndarray
        (n, 22) float64, the columns of `ANTISYMMETRIC`: the sign changes when A and B are
        exchanged.
    symmetric : ndarray
        (n, 52) float64, the columns of `SYMMETRIC`: unchanged by the exchange.
    """
    rows = list(zip(pairs["prompt"], pairs["response_a"], pairs["response_b"], strict=True))
    characters = sum(len(turn) for row in rows for turns in row for turn in turns)
    parts = in_parts(_features, rows, processes_for(characters, PROCESS_CHARACTERS))
    x, z = zip(*parts, strict=True)
    return np.vstack(x), np.vstack(z)


def formatting_marks(turns: tuple[str, ...]) -> int:
    """List items, headings, bold passages, code blocks, inline code, table rows and formulas of a
    response."""
    text = _Text(turns)
    anywhere = sum(map(text.matches, (_LIST_ITEM, _BOLD, _INLINE_CODE, _LATEX)))
    marked = text.matches(_HEADING, "#") + text.matches(_TABLE_ROW, "|")
    return anywhere + marked + text.code_blocks()


def _features(rows: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """`structural_features` of rows of prompt, A and B."""
    of_a, of_b, of_prompt, of_pair = [], [], [], []
    for turns in rows:
        prompt, a, b = map(_Text, turns)
        of_a.append([feature(prompt, a) for feature in _RESPONSE.values()])
        of_b.append([feature(prompt, b) for feature in _RESPONSE.values()])
        of_prompt.append([feature(prompt) for feature in _PROMPT.values()])
        of_pair.append([feature(a, b) for feature in _PAIR.values()])
    a, b, of_prompt, of_pair = (
        np.array(values, dtype=np.float64).reshape(len(rows), len(table))
        for values, table in (
            (of_a, _RESPONSE),
            (of_b, _RESPONSE),
            (of_prompt, _PROMPT),
            (of_pair, _PAIR),
        )
    )
    return a - b, np.hstack([np.abs(a - b), (a + b) / 2, of_prompt, of_pair])
