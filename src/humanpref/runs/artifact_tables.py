"""The tables of an artifact: oof.csv, the predictions for held-out rows, and rows.csv, the training
rows without their texts."""

from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data import answer_keys, as_pairs, prompt_keys, weights_of
from humanpref.files import write_csv
from humanpref.schema import ID, LABEL_COLUMNS, WEIGHT, refuse_failures
from humanpref.text.cases import answer_cases

OOF_FILE = "oof.csv"
ROWS_FILE = "rows.csv"
PROMPT_KEY = "prompt_key"
ANSWER_KEY = "answer_key"
CASE = "case"
FOLD = "fold"


def write_oof(
    path: Path, pairs: pd.DataFrame, probabilities: np.ndarray, fold: np.ndarray | int
) -> None:
    """Write held-out predictions keyed by id: `id`, `fold` and the three probabilities."""
    frame = pd.DataFrame(probabilities, columns=list(LABEL_COLUMNS))
    frame.insert(0, ID, pairs[ID].to_numpy())
    frame.insert(1, FOLD, fold)
    write_csv(path, frame)


def read_oof(path: Path) -> pd.DataFrame:
    """Read a table written by `write_oof`, with ids as text. Its values are not checked, since the
    artifact's digests show whether the file has changed.

    Raises
    ------
    InputError
        If the file is not such a table.
    """
    return _read_table(path, [ID, FOLD, *LABEL_COLUMNS])


def write_rows(path: Path, pairs: pd.DataFrame, more: pd.DataFrame | None = None) -> None:
    """Write labeled rows to a table that `read_rows` reads. If `more`, a table from `read_rows`, is
    given, append its rows."""
    weights = weights_of(pairs)
    keys = {PROMPT_KEY: prompt_keys(pairs), ANSWER_KEY: answer_keys(pairs)}
    frame = pairs[[ID]].assign(**keys, **{CASE: answer_cases(pairs)})
    frame[list(LABEL_COLUMNS)] = pairs[list(LABEL_COLUMNS)]
    frame[WEIGHT] = 1.0 if weights is None else weights
    write_csv(path, frame if more is None else pd.concat([frame, more[list(frame)]]))


def read_rows(path: Path) -> pd.DataFrame:
    """Read a table written by `write_rows`.

    Raises
    ------
    InputError
        See `read_oof`.
    """
    return _read_table(path, [ID, PROMPT_KEY, ANSWER_KEY, CASE, *LABEL_COLUMNS, WEIGHT])


def rows_among(pairs: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Return a mask, (n,), of the pairs that are also in a table read by `read_rows`. Rows match if
    their id, prompt and answers are the same."""
    known = set(zip(rows[ID], rows[PROMPT_KEY], rows[ANSWER_KEY], strict=True))
    pairs = as_pairs(pairs)
    keys = zip(pairs[ID], prompt_keys(pairs), answer_keys(pairs), strict=True)
    return np.array([key in known for key in keys], dtype=bool)


_NUMBERS = {**dict.fromkeys((*LABEL_COLUMNS, WEIGHT), np.float64), FOLD: np.int64}


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    with refuse_failures(f"{path}: not a table of an artifact"):
        # The CSV parser of pandas 2 may round a number to a neighboring float. Converting texts to
        # numbers does not.
        table = pd.read_csv(path, usecols=columns, dtype=str, keep_default_na=False)
        return table.astype({name: _NUMBERS[name] for name in columns if name in _NUMBERS})
