"""The labels, weights, swapped copy and digest of a pairs frame."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data.cells import names
from humanpref.data.frames import as_pairs
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
"""Maximum difference between 1 and the sum of a row's labels. Within this tolerance (for files
rounded to three digits), the labels are rescaled to sum to 1; otherwise, they are rejected."""

WEIGHTS = "0, or a number from 1e-9 to 1e9"
"""The weights that a row may have. Others are lost in float32 or stop an optimizer at its start."""


def labels_of(pairs: pd.DataFrame) -> np.ndarray:
    """Return the labels as probabilities, (n, 3) float64, columns A, B, tie. In a frame without the
    column `winner_tie`, no row is a tie.

    Raises
    ------
    InputError
        If the frame has no labels, or the labels of a row are not probabilities.
    """
    if missing := [column for column in LABEL_COLUMNS[:2] if column not in pairs]:
        raise InputError(f"these rows have no labels (missing column {names(missing)})")
    pairs = with_tie_column(pairs)
    labels = np.stack(
        [_numbers(pairs, column, _are_shares, "a number in [0, 1]") for column in LABEL_COLUMNS],
        axis=1,
    )
    sums = labels.sum(axis=1, keepdims=True)
    if (wrong := np.abs(sums[:, 0] - 1) > LABEL_SUM_TOLERANCE).any():
        row = int(wrong.argmax())
        raise InputError(
            f"row {row + 1}: columns {names(LABEL_COLUMNS)}: expected a sum of 1, got "
            f"{sums[row, 0]:g}"
        )
    # Rows whose sum differs from 1 only by rounding are left unchanged, bit for bit.
    return np.where(np.abs(sums - 1) > 1e-15, labels / sums, labels)


def has_ties(pairs: pd.DataFrame) -> bool:
    """Return whether rows may be ties: whether the frame has the column `winner_tie`, even if no
    row is a tie. If the frame lacks it, a model of the rows has two classes."""
    return LABEL_COLUMNS[2] in pairs


def with_tie_column(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with the column `winner_tie`, which is 0 if the frame lacks it."""
    return pairs if has_ties(pairs) else pairs.assign(**{LABEL_COLUMNS[2]: 0.0})


def refuse_ties(labels: np.ndarray, weights: np.ndarray | None, source: object) -> None:
    """Raise InputError if a row is a tie, wholly or in part, since a model of two classes cannot
    learn or judge it.

    Parameters
    ----------
    labels, weights : ndarray
        (n, 3) and (n,); rows of weight 0 do not count.
    source : object
        The origin of the rows, for the message.
    """
    tied = labels[:, 2] > 0
    rows = np.flatnonzero(tied if weights is None else tied & (weights > 0)) + 1
    if rows.size:
        listed = ", ".join(map(str, rows[:5])) + (" …" if rows.size > 5 else "")
        raise InputError(
            f"{source}: row {listed}: expected no ties, since the model has two classes, got "
            f"{rows.size} of {len(labels)} rows with ties; remove them, or train with three "
            "classes (training.classes=3)"
        )


def without_ties(probabilities: np.ndarray) -> np.ndarray:
    """Return the probabilities, (n, 3), given that the row is not a tie: P(A) and P(B) are divided
    by their sum, and P(tie) becomes 0. If P(A) and P(B) are both 0, each becomes 1/2; rows of NaN
    stay as they are.

    >>> without_ties(np.array([[0.3, 0.1, 0.6], [0.0, 0.0, 1.0]]))
    array([[0.75, 0.25, 0.  ],
           [0.5 , 0.5 , 0.  ]])
    """
    decided = probabilities * [1, 1, 0]
    sums = decided.sum(axis=1, keepdims=True)
    return np.where(sums == 0, [0.5, 0.5, 0], decided / np.where(sums == 0, 1, sums))


def weights_of(pairs: pd.DataFrame) -> np.ndarray | None:
    """Return the rows' weights, (n,) float64, or None if the frame has no weights. Raises
    InputError for an invalid weight."""
    return _numbers(pairs, WEIGHT, are_weights, WEIGHTS) if WEIGHT in pairs else None


def are_weights(values: Any) -> Any:
    """Return whether a number, or each number in an array, is a valid weight.

    Examples
    --------
    >>> are_weights(np.array([0, 1e-9, 2, 1e39, 5e-324, -1, np.nan])).tolist()
    [True, True, True, False, False, False, False]
    """
    return (values == 0) | ((values >= 1e-9) & (values <= 1e9))


def _numbers(
    pairs: pd.DataFrame, column: str, valid: Callable[[Any], Any], expected: str
) -> np.ndarray:
    """Return a column as (n,) float64. Raises InputError for a value that is not `valid`; the
    message describes valid values as `expected`."""
    numbers = pd.to_numeric(pairs[column], errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    if (wrong := ~valid(numbers)).any():
        row = int(wrong.argmax())
        raise InputError(
            f"row {row + 1}: column {column!r}: expected {expected}, got "
            f"{pairs[column].tolist()[row]!r}"
        )
    return numbers


def _are_shares(values: np.ndarray) -> np.ndarray:
    return (values >= 0) & (values <= 1)


def swap_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the same rows with the responses, models and labels of A and B exchanged; ids are
    unchanged.

    Swapping twice restores the frame. A swapped copy belongs in the same fold as its original, so
    split first and then swap.
    """
    other = {"response_a": "response_b", "model_a": "model_b"}
    other |= {b: a for a, b in other.items()}
    other |= {column: LABEL_COLUMNS[SWAPPED_CLASSES[i]] for i, column in enumerate(LABEL_COLUMNS)}
    swapped = pairs.rename(columns=other)
    # If a column's counterpart is missing, the renamed column goes to the end.
    return swapped[[*(c for c in pairs if c in swapped), *(c for c in swapped if c not in pairs)]]


def digest_of(pairs: pd.DataFrame) -> str:
    """Return the SHA-256, in hexadecimal, of the rows' ids, texts, models, labels and weights."""
    pairs = as_pairs(pairs)
    columns = [c for c in (ID, *TEXT_COLUMNS, *MODEL_COLUMNS, *LABEL_COLUMNS, WEIGHT) if c in pairs]
    digest = hashlib.sha256(json.dumps(columns).encode())
    for row in zip(*(pairs[column].tolist() for column in columns), strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
