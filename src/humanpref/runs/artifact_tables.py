"""The tables of an artifact: oof.csv, the predictions for held-out rows, and rows.csv, the training
rows without their texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data import answer_keys, as_pairs, prompt_keys, weights_of
from humanpref.data.pairs import LABEL_SUM_TOLERANCE
from humanpref.files import write_whole
from humanpref.schema import ID, LABEL_COLUMNS, WEIGHT, InputError
from humanpref.text.cases import answer_cases

OOF_FILE = "oof.csv"
ROWS_FILE = "rows.csv"
PROMPT_KEY = "prompt_key"
ANSWER_KEY = "answer_key"
CASE = "case"
FOLD = "fold"


def write_oof(
    path: Path, pairs: pd.DataFrame, probabilities: np.ndarray, fold: np.ndarray | None = None
) -> None:
    """Write held-out predictions keyed by id: `id`, `fold` (if given) and the three
    probabilities."""
    frame = pd.DataFrame(probabilities, columns=list(LABEL_COLUMNS))
    frame.insert(0, ID, pairs[ID].to_numpy())
    if fold is not None:
        frame.insert(1, FOLD, fold)
    write_table(path, frame)


def read_oof(path: Path) -> pd.DataFrame:
    """Read a table written by `write_oof`, with ids as text.

    Raises
    ------
    InputError
        If the file is not such a table. The message names the file, the row (counted from 1 below
        the header) and the column.
    """
    table = _read_table(path, [ID])
    return table.astype({FOLD: np.int64}) if FOLD in table else table


def write_rows(path: Path, pairs: pd.DataFrame, more: pd.DataFrame | None = None) -> None:
    """Write labeled rows in the form that `read_rows` reads, followed by the rows of such a table,
    if given."""
    weights = weights_of(pairs)
    keys = {PROMPT_KEY: prompt_keys(pairs), ANSWER_KEY: answer_keys(pairs)}
    frame = pairs[[ID]].assign(**keys, **{CASE: answer_cases(pairs)})
    frame[list(LABEL_COLUMNS)] = pairs[list(LABEL_COLUMNS)]
    frame[WEIGHT] = 1.0 if weights is None else weights
    write_table(path, frame if more is None else pd.concat([frame, more[list(frame)]]))


def read_rows(path: Path) -> pd.DataFrame:
    """Read a table written by `write_rows`.

    Raises
    ------
    InputError
        See `read_oof`.
    """
    # In a blend's table, extra rows from different files may have the same id.
    return _read_table(path, [ID, PROMPT_KEY, ANSWER_KEY], [CASE, WEIGHT])


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically."""
    with write_whole(path) as file:
        frame.to_csv(file, index=False, lineterminator="\n")


def rows_among(pairs: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Return a mask, (n,), of the pairs that are also in a table read by `read_rows`. Rows match if
    their id, prompt and answers are the same."""
    known = set(zip(rows[ID], rows[PROMPT_KEY], rows[ANSWER_KEY], strict=True))
    pairs = as_pairs(pairs)
    keys = zip(pairs[ID], prompt_keys(pairs), answer_keys(pairs), strict=True)
    return np.array([key in known for key in keys], dtype=bool)


_NUMBERS = {
    **dict.fromkeys(LABEL_COLUMNS, ("a number in [0, 1]", lambda n: n.between(0, 1))),
    FOLD: ("a fold index", lambda n: (n >= 0) & (n % 1 == 0)),
    WEIGHT: ("a finite number of at least 0", lambda n: (n >= 0) & np.isfinite(n)),
}
"""The numeric columns: a description of the valid values, and a function that checks them."""


def _read_table(path: Path, key: list[str], columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table that has three probabilities and unique keys. Columns that are not in `_NUMBERS`
    stay text."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # pandas' own errors, and bytes that are not text
        raise InputError(
            f"{path}: not a valid CSV ({' '.join(str(error).split())}); is it complete?"
        ) from None
    for column in (*key, *columns, *LABEL_COLUMNS):
        if column not in table:
            raise InputError(f"{path}: missing column {column!r}")
    _refuse(path, table, table.duplicated(key), f"column {ID!r}", "each row once", table[ID])
    for column, (expected, valid) in _NUMBERS.items():
        if column in table:
            numbers = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
            _refuse(path, table, ~valid(numbers), f"column {column!r}", expected, table[column])
            table[column] = numbers
    sums = table[list(LABEL_COLUMNS)].sum(axis=1)
    wrong = (sums - 1).abs() > LABEL_SUM_TOLERANCE
    _refuse(path, table, wrong, "the probabilities", "a sum of 1", sums)
    return table


def _refuse(
    path: Path, table: pd.DataFrame, wrong: pd.Series, place: str, expected: str, values: pd.Series
) -> None:
    """Raise InputError for the first row that the mask `wrong` selects, if any."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}: row {row + 1} (id {table[ID].iloc[row]!r}): {place}: expected {expected}, "
            f"got {values.tolist()[row]!r}"
        )
