"""Structural features: what can be counted in a prompt and a response, and how the two answers of a row compare in it.

Everything that tells the answers apart is computed for one response at a time and then combined, so that the symmetry under an
exchange of A and B holds by construction: differences change their sign, sums, absolute differences and what concerns the
prompt alone do not change.
"""

import math
import re

import numpy as np
import pandas as pd

# No pattern may rescan what it has passed over: answers of a looping model hold fifty thousand dots, or line ends.
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s|$)")
_LIST_ITEM = re.compile(r"^[^\S\n]*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_HEADING = re.compile(r"^[^\S\n]*#{1,6}\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*")
_CODE_FENCE = re.compile(r"^[^\S\n]*```", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[^\S\n]*\|.*\|[^\S\n]*$", re.MULTILINE)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i apologi[sz]e|i can(?:no|')t|as an ai|language model|not appropriate)\b",
    re.IGNORECASE,
)

RESPONSE_FEATURES = (
    "log_characters",
    "log_words",
    "log_sentences",
    "log_paragraphs",
    "log_list_items",
    "log_headings",
    "log_bold",
    "log_code_blocks",
    "log_table_rows",
    "log_questions",
    "log_exclamations",
    "digit_share",
    "upper_share",
    "non_ascii_share",
    "mean_word_length",
    "distinct_word_share",
    "refusal",
    "empty",
    "turns_without_answer",
    "prompt_words_used",
    "words_from_prompt",
    "last_turn_log_words",
)
"""What `response_features` counts, in its order."""

PROMPT_FEATURES = (
    "prompt_log_characters",
    "prompt_log_words",
    "prompt_log_turns",
    "prompt_questions",
    "prompt_code",
    "prompt_non_ascii",
)
"""What `prompt_features` counts, in its order."""


def response_features(prompt: tuple[str, ...], response: tuple[str, ...]) -> list[float]:
    """The counts of one response, in the order of `RESPONSE_FEATURES`; finite for any text, however long or empty."""
    text = "\n\n".join(response)
    words = _WORD.findall(text.lower())
    distinct = set(words)
    asked = set(_WORD.findall("\n".join(prompt).lower()))
    characters = max(1, len(text))
    return [
        math.log1p(len(text)),
        math.log1p(len(words)),
        math.log1p(len(_SENTENCE_END.findall(text))),
        math.log1p(text.count("\n\n")),
        math.log1p(len(_LIST_ITEM.findall(text))),
        math.log1p(len(_HEADING.findall(text))),
        math.log1p(len(_BOLD.findall(text))),
        math.log1p(len(_CODE_FENCE.findall(text)) // 2),
        math.log1p(len(_TABLE_ROW.findall(text))),
        math.log1p(text.count("?")),
        math.log1p(text.count("!")),
        sum(map(str.isdigit, text)) / characters,
        sum(map(str.isupper, text)) / characters,
        1 - len(text.encode("ascii", "ignore")) / characters if text else 0.0,
        sum(map(len, words)) / max(1, len(words)),
        len(distinct) / max(1, len(words)),
        float(_REFUSAL.search(text) is not None),
        float(not text.strip()),
        float(sum(not turn.strip() for turn in response) + max(0, len(prompt) - len(response))),
        len(asked & distinct) / max(1, len(asked)),
        sum(word in asked for word in words) / max(1, len(words)),
        math.log1p(len(_WORD.findall(response[-1])) if response else 0),
    ]


def prompt_features(prompt: tuple[str, ...]) -> list[float]:
    """The counts of one prompt, in the order of `PROMPT_FEATURES`."""
    text = "\n\n".join(prompt)
    return [
        math.log1p(len(text)),
        math.log1p(len(_WORD.findall(text))),
        math.log1p(len(prompt)),
        math.log1p(text.count("?")),
        float("```" in text or "def " in text or "#include" in text),
        1 - len(text.encode("ascii", "ignore")) / max(1, len(text)) if text else 0.0,
    ]


def structure(pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Structural features of every row.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame of n rows.

    Returns
    -------
    antisymmetric : ndarray
        (n, 22) float64, a - b for each of `RESPONSE_FEATURES`: the sign changes when A and B are exchanged.
    symmetric : ndarray
        (n, 52) float64, unchanged by the exchange: |a - b| and (a + b) / 2 of each, `PROMPT_FEATURES`, whether the answers are
        identical, and the Jaccard similarity of their words.
    """
    a = np.array([response_features(p, r) for p, r in zip(pairs["prompt"], pairs["response_a"], strict=True)])
    b = np.array([response_features(p, r) for p, r in zip(pairs["prompt"], pairs["response_b"], strict=True)])
    asked = np.array([prompt_features(p) for p in pairs["prompt"]])
    alike = np.array([_likeness(x, y) for x, y in zip(pairs["response_a"], pairs["response_b"], strict=True)])
    return a - b, np.hstack([np.abs(a - b), (a + b) / 2, asked, alike])


def antisymmetric_names() -> list[str]:
    """Names of the columns of the first matrix of `structure`."""
    return [f"{name}_difference" for name in RESPONSE_FEATURES]


def symmetric_names() -> list[str]:
    """Names of the columns of the second matrix of `structure`."""
    return [
        *(f"{name}_distance" for name in RESPONSE_FEATURES),
        *(f"{name}_mean" for name in RESPONSE_FEATURES),
        *PROMPT_FEATURES,
        "identical",
        "jaccard",
    ]


def _likeness(a: tuple[str, ...], b: tuple[str, ...]) -> list[float]:
    words_a, words_b = set(_WORD.findall(" ".join(a).lower())), set(_WORD.findall(" ".join(b).lower()))
    return [float(a == b), len(words_a & words_b) / max(1, len(words_a | words_b))]
