"""The lengths of rows in tokens, counted by a tokenizer or estimated from characters."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.config import Config
from humanpref.config.neural import AdaptedOptions
from humanpref.schema import TEXT_COLUMNS

TOKENS_PER_CHARACTER = 0.23
"""On 1,000 public rows, DeBERTa's tokenizer makes 0.22 tokens per character, SmolLM2's 0.235."""
CHARACTERS = (309, 614, 1_008, 1_456, 2_059, 2_580, 3_182, 3_892, 4_934, 7_932)
"""Quantiles (5 %, 15 % … 95 %) of the number of characters in a row (prompt and both responses)
of 1,000 public rows."""
PROMPT, RESPONSE = 0.12, 0.44
"""Shares of a row's characters in the prompt and in each response."""

Count = Callable[[list[str]], list[int]]
"""A function from texts to their numbers of tokens."""


def approximate_tokens(texts: list[str]) -> list[int]:
    """Estimate the number of tokens of each text from its characters."""
    return [round(TOKENS_PER_CHARACTER * len(text)) for text in texts]


def text_lengths(pairs: pd.DataFrame | None, count: Count = approximate_tokens) -> np.ndarray:
    """Count the tokens of each row's prompt and responses, (n, 3). If `pairs` is None, estimate the
    numbers for rows with the lengths `CHARACTERS`."""
    if pairs is None:
        characters = np.array(CHARACTERS)[:, None] * [PROMPT, RESPONSE, RESPONSE]
        return np.round(TOKENS_PER_CHARACTER * characters).astype(np.int64)
    columns = []
    for column in TEXT_COLUMNS:
        turns = [text for row in pairs[column] for text in row]
        starts = np.cumsum([0, *(len(row) for row in pairs[column])])
        summed = np.concatenate([[0], np.cumsum(np.array(count(turns), dtype=np.int64))])
        columns.append(np.diff(summed[starts]))
    return np.stack(columns, axis=1)


def per_row(config: Config) -> int:
    """Return the number of sequences in which the model reads a row."""
    return 1 + (config.family == "dpo" or getattr(config.model, "inputs", "joint") == "dual")


def sequence_lengths(config: Config, texts: np.ndarray) -> np.ndarray:
    """Return the number of tokens in each sequence that the model reads, (n, 1) or (n, 2), given
    the numbers of tokens in the rows' texts, (n, 3)."""
    options = config.model
    fixed = 4
    if isinstance(options, AdaptedOptions):
        spoken = [options.system_prompt, getattr(options, "question", "")]
        fixed = 12 + sum(approximate_tokens(spoken))
    prompt, a, b = texts.T
    parts = [prompt + a + b] if per_row(config) == 1 else [prompt + a, prompt + b]
    return np.minimum(np.stack(parts, axis=1) + fixed, options.max_length)


class Lengths(NamedTuple):
    """The numbers of tokens in the texts of training rows and of test rows, each (n, 3), and a
    description of their source."""

    train: np.ndarray
    test: np.ndarray
    source: str


def assumed_lengths() -> Lengths:
    """Return the lengths of a public sample of the competition's rows."""
    texts = text_lengths(None)
    return Lengths(texts, texts, "rows as long as 1,000 public ones of the competition")
