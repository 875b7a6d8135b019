"""The labels, weights, mirror image and digest of a pairs frame."""

import hashlib
import json
import sys

import numpy as np
import pandas as pd

from humanpref.data.cells import as_pairs, names
from humanpref.schema import (
    ID,
    LABEL_COLUMNS,
    MODEL_COLUMNS,
    SWAPPED_CLASSES,
    TEXT_COLUMNS,
    WEIGHT,
    InputError,
)

LABEL_SUM_TOLERANCE = 2e-3
"""Soft labels may miss a sum of 1 by this much (files that round to three digits); they are then
rescaled."""


def labels_of(pairs: pd.DataFrame) -> np.ndarray:
    """Return the labels as probabilities, (n, 3) float64, columns A, B, tie.

    Raises
    ------
    InputError
        If the frame has no labels, or those of a row are not probabilities.
    """
    if missing := [column for column in LABEL_COLUMNS if column not in pairs]:
        raise InputError(f"these rows have no labels (missing column {names(missing)})")
    labels = np.stack(
        [_numbers(pairs, column, 1, "a number in [0, 1]") for column in LABEL_COLUMNS], axis=1
    )
    sums = labels.sum(axis=1, keepdims=True)
    if (wrong := np.abs(sums[:, 0] - 1) > LABEL_SUM_TOLERANCE).any():
        row = int(wrong.argmax())
        raise InputError(
            f"row {row + 1}: columns {names(LABEL_COLUMNS)}: expected a sum of 1, got "
            f"{sums[row, 0]:g}"
        )
    # Sums that differ from 1 by rounding only are left alone, bit for bit.
    return np.where(np.abs(sums - 1) > 1e-15, labels / sums, labels)


def weights_of(pairs: pd.DataFrame) -> np.ndarray | None:
    """Return the rows' weights, (n,) float64, or None where the frame has none. Raises InputError
    for an invalid one."""
    return (
        _numbers(pairs, WEIGHT, sys.float_info.max, "a finite number of at least 0")
        if WEIGHT in pairs
        else None
    )


def _numbers(pairs: pd.DataFrame, column: str, most: float, expected: str) -> np.ndarray:
    """A column's numbers, (n,) float64 in [0, most]."""
    numbers = pd.to_numeric(pairs[column], errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    if (wrong := ~((numbers >= 0) & (numbers <= most))).any():
        row = int(wrong.argmax())
        raise InputError(
            f"row {row + 1}: column {column!r}: expected {expected}, got "
            f"{pairs[column].tolist()[row]!r}"
        )
    return numbers


def swap_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the same rows with A and B exchanged: responses, models and labels; the ids stay.

    Swapping twice gives the frame back. A swapped copy belongs to its row's fold: split first, then
    swap.
    """
    other = {"response_a": "response_b", "model_a": "model_b"}
    other |= {b: a for a, b in other.items()}
    other |= {column: LABEL_COLUMNS[SWAPPED_CLASSES[i]] for i, column in enumerate(LABEL_COLUMNS)}
    swapped = pairs.rename(columns=other)
    # A column that stands without its other half goes to the end.
    return swapped[[*(c for c in pairs if c in swapped), *(c for c in swapped if c not in pairs)]]


def digest_of(pairs: pd.DataFrame) -> str:
    """Return the SHA-256 of the rows' ids, texts, models, labels and weights in hexadecimal."""
    pairs = as_pairs(pairs)
    columns = [c for c in (ID, *TEXT_COLUMNS, *MODEL_COLUMNS, *LABEL_COLUMNS, WEIGHT) if c in pairs]
    digest = hashlib.sha256(json.dumps(columns).encode())
    for row in zip(*(pairs[column].tolist() for column in columns), strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
