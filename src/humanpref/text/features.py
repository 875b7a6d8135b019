"""Structural features: counts and shares computed from a prompt and a response, and comparisons of
a row's two answers by these numbers.

The effect of exchanging A and B is known by construction. Differences of response features change
sign (*antisymmetric*). Absolute differences and means of response features, prompt features, and
pair features do not change (*symmetric*).

Every feature takes time linear in the length of the text and is finite for any text, even an empty,
malformed or very long one.
"""

import functools
import math
import re
import string
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from humanpref.text.processes import in_parts, processes_for

PROCESS_CHARACTERS = 20_000_000
"""Number of characters of text for which one more process is used. Computing the features of so
much text takes about five seconds."""

# No pattern may rescan text that it has passed, since a model stuck in a loop can write fifty
# thousand dots or newlines. Chinese and Japanese have no spaces, so each character is a word.
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
# Substrings to look for in the lowercase text; a pattern with alternatives took ten times as long.
_REFUSALS = (
    *("i'm sorry", "i am sorry", "i apologi", "i'm unable", "i am unable", "i'm not able"),
    *("i am not able", "i cannot", "i can't", "i can not", "as an ai", "language model"),
    "not appropriate",
)
_LAST_CODE = 0x2FFFF
"""No uppercase letter has this code point or a higher one."""


@functools.cache
def _is_upper_case() -> np.ndarray:
    """Return, for each code point, whether it is an uppercase letter, (_LAST_CODE + 1,) bool."""
    return np.array([chr(code).isupper() for code in range(_LAST_CODE + 1)])


class _Text:
    """A prompt or a response, with the derived values that several features share."""

    def __init__(self, turns: tuple[str, ...]) -> None:
        self.turns = turns
        self.text = "\n\n".join(turns)
        self.lower = self.text.lower().replace("’", "'")
        self.words = WORD.findall(self.lower)
        self.distinct = set(self.words)

    def matches(self, pattern: re.Pattern[str], mark: str = "") -> int:
        """Count the matches of a pattern. Every match contains `mark`, so a text without `mark` is
        not searched."""
        return len(pattern.findall(self.text)) if mark in self.text else 0

    def log_matches(self, pattern: re.Pattern[str], mark: str = "") -> float:
        """Return ln(1 + matches)."""
        return math.log1p(self.matches(pattern, mark))

    def log_count(self, substring: str) -> float:
        """Return ln(1 + occurrences of a substring)."""
        return math.log1p(self.text.count(substring))

    def code_blocks(self) -> int:
        return self.matches(_CODE_FENCE, "```") // 2

    def upper_share(self) -> float:
        codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        upper = _is_upper_case()[codes.clip(max=_LAST_CODE)]
        return _share(int(upper.sum()), len(self.text))

    def digit_share(self) -> float:
        return _share(sum(map(self.text.count, string.digits)), len(self.text))

    def non_ascii_share(self) -> float:
        ascii_share = _share(len(self.text.encode("ascii", "ignore")), len(self.text))
        return 1 - ascii_share if self.text else 0.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# There are few features so that a thousand rows suffice: with 40 response, 13 prompt and 8 pair
# features, the inner log loss of `sparse` and `boosted` was higher.
def _response_features(prompt: _Text, response: _Text) -> dict[str, float]:
    words, distinct = response.words, response.distinct
    return {
        # Length.
        "log_characters": math.log1p(len(response.text)),
        "log_words": math.log1p(len(words)),
        "log_sentences": response.log_matches(_SENTENCE_END),
        "log_paragraphs": response.log_count("\n\n"),
        "turns_without_answer": sum(not turn.strip() for turn in response.turns)
        + max(0, len(prompt.turns) - len(response.turns)),
        "empty": not response.text.strip(),
        "last_turn_log_words": math.log1p(len(WORD.findall("".join(response.turns[-1:]).lower()))),
        # Layout.
        "log_list_items": response.log_matches(_LIST_ITEM),
        "log_headings": response.log_matches(_HEADING, "#"),
        "log_bold": response.log_matches(_BOLD),
        "log_code_blocks": math.log1p(response.code_blocks()),
        "log_table_rows": response.log_matches(_TABLE_ROW, "|"),
        "log_questions": response.log_count("?"),
        "log_exclamations": response.log_count("!"),
        # Words.
        "mean_word_length": _share(sum(map(len, words)), len(words)),
        "distinct_word_share": _share(len(distinct), len(words)),
        "refusal": any(phrase in response.lower for phrase in _REFUSALS),
        # Characters.
        "digit_share": response.digit_share(),
        "upper_share": response.upper_share(),
        "non_ascii_share": response.non_ascii_share(),
        # Overlap with the prompt.
        "prompt_words_used": _share(len(prompt.distinct & distinct), len(prompt.distinct)),
        "words_from_prompt": _share(sum(word in prompt.distinct for word in words), len(words)),
    }


def _prompt_features(prompt: _Text) -> dict[str, float]:
    return {
        "prompt_log_characters": math.log1p(len(prompt.text)),
        "prompt_log_words": math.log1p(len(prompt.words)),
        "prompt_log_turns": math.log1p(len(prompt.turns)),
        "prompt_questions": prompt.log_count("?"),
        "prompt_code": any(mark in prompt.text for mark in ("```", "def ", "#include")),
        "prompt_non_ascii": prompt.non_ascii_share(),
    }


def _pair_features(a: _Text, b: _Text) -> dict[str, float]:
    """Return the features of two answers together, which do not change if A and B are exchanged."""
    return {
        "identical": a.turns == b.turns,
        "jaccard": _share(len(a.distinct & b.distinct), len(a.distinct | b.distinct)),
    }


_NOTHING = _Text(())
_RESPONSE_NAMES = tuple(_response_features(_NOTHING, _NOTHING))

ANTISYMMETRIC = tuple(f"{name}_difference" for name in _RESPONSE_NAMES)
"""Columns of the first matrix that `structural_features` returns: a - b for each response
feature."""
SYMMETRIC = (
    *(f"{name}_distance" for name in _RESPONSE_NAMES),
    *(f"{name}_mean" for name in _RESPONSE_NAMES),
    *_prompt_features(_NOTHING),
    *_pair_features(_NOTHING, _NOTHING),
)
"""Columns of the second matrix: |a - b| and (a + b) / 2 for each response feature, then the prompt
and pair features."""


class Columns(Protocol):
    """A pairs frame, or a dictionary of its columns. The packaged judge uses a dictionary, so that
    it need not import pandas."""

    def __getitem__(self, column: str) -> Iterable[tuple[str, ...]]: ...


def structural_features(pairs: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Compute the structural features of n rows.

    Returns
    -------
    antisymmetric : ndarray
        (n, 22) float64, with the columns of `ANTISYMMETRIC`, which change sign when A and B are
        exchanged.
    symmetric : ndarray
        (n, 52) float64, with the columns of `SYMMETRIC`, which do not change.
    """
    rows = list(zip(pairs["prompt"], pairs["response_a"], pairs["response_b"], strict=True))
    characters = sum(len(turn) for row in rows for turns in row for turn in turns)
    parts = in_parts(
        _features, rows, processes_for(characters, PROCESS_CHARACTERS), "computing features"
    )
    x, z = zip(*parts, strict=True)
    return np.vstack(x), np.vstack(z)


def formatting_marks(turns: tuple[str, ...]) -> int:
    """Count the list items, headings, bold passages, code blocks, inline code spans, table rows and
    formulas in a response."""
    text = _Text(turns)
    anywhere = sum(map(text.matches, (_LIST_ITEM, _BOLD, _INLINE_CODE, _LATEX)))
    marked = text.matches(_HEADING, "#") + text.matches(_TABLE_ROW, "|")
    return anywhere + marked + text.code_blocks()


def _features(rows: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """Compute `structural_features` for rows that are tuples of turns: (prompt, A, B)."""
    antisymmetric = np.empty((len(rows), len(ANTISYMMETRIC)))
    symmetric = np.empty((len(rows), len(SYMMETRIC)))
    for i, turns in enumerate(rows):
        prompt, *answers = map(_Text, turns)
        a, b = (
            np.array(list(_response_features(prompt, answer).values()), dtype=np.float64)
            for answer in answers
        )
        shared = (_prompt_features(prompt) | _pair_features(*answers)).values()
        antisymmetric[i] = a - b
        symmetric[i] = [*np.abs(a - b), *(a + b) / 2, *shared]
    return antisymmetric, symmetric
