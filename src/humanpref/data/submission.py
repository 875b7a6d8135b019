"""Write a submission file, and check one as the competition would."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data.csv_rows import csv_rows
from humanpref.data.rows import Plan, RowParser
from humanpref.data.tables import open_table
from humanpref.files import write_csv
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, InputError, counted

HEADER = (ID, *LABEL_COLUMNS)
SUM_TOLERANCE = 1e-6


def write_submission(
    path: str | Path, ids: Sequence[str], probabilities: np.ndarray, columns: Sequence[str] = HEADER
) -> None:
    """Atomically write a CSV with `id` and either the three probabilities of each row or its
    likelier winner, in the order of `ids`.

    Parameters
    ----------
    path : path
        The CSV to write; an existing file is replaced.
    ids : sequence of str
        n ids, in the order of the test file.
    probabilities : ndarray
        (n, 3) float64, columns A, B, tie; finite, in [0, 1], rows summing to 1.
    columns : sequence of str
        The header: either `HEADER`, for the probabilities, or `id` and one more column, for the
        winner. Its cells are `model_a` or `model_b`; equal probabilities give `model_a`.

    Raises
    ------
    ValueError
        If the probabilities are invalid. This is always a bug in the model and never caused by the
        user's files.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(ids), 3):
        raise ValueError(
            f"expected probabilities of shape ({len(ids)}, 3), got {probabilities.shape}"
        )
    for fault, rows in _faulty_rows(probabilities).items():
        if rows.any():
            row = int(rows.argmax())
            raise ValueError(
                f"id {ids[row]!r}: expected probabilities, got {probabilities[row].tolist()}: "
                f"{fault} ({counted(int(rows.sum()), 'such row')})"
            )
    if len(columns) == len(HEADER):
        frame = pd.DataFrame(probabilities, columns=list(columns[1:]))
    else:
        second = probabilities[:, 1] > probabilities[:, 0]
        frame = pd.DataFrame({columns[1]: np.take(MODEL_COLUMNS, second.astype(int))})
    frame.insert(0, columns[0], list(ids))
    write_csv(path, frame)


def check_submission(
    path: str | Path, test_csv: str | Path, columns: Sequence[str] = HEADER
) -> list[str]:
    """List the faults for which the competition would reject a submission: those in the header, the
    ids and their order, the row count, the numbers and their sums, or the winners.

    Parameters
    ----------
    path, test_csv : path
        The submission, and the test file (CSV or Parquet) for which it was made.
    columns : sequence of str
        See `write_submission`.

    Returns
    -------
    list of str
        One line per kind of fault, naming the first row that has it; empty if there are no faults.

    Raises
    ------
    InputError
        If the test file cannot be read.
    """
    expected = _ids(test_csv)
    try:
        rows = _cells(path, columns)
    except InputError as error:
        return [str(error)]
    faults = []
    if len(rows) != len(expected):
        wanted = counted(len(expected), "row")
        faults.append(f"{path}: expected {wanted} as in {test_csv}, got {len(rows)}")
    ids = [row[0] for row in rows]
    order = "in a different order" if sorted(ids) == sorted(expected) else "not the test file's"
    for number, (got, wanted) in enumerate(zip(ids, expected, strict=False), start=1):
        if got != wanted:
            faults.append(
                f"{path}: row {number}: expected id {wanted!r}, got {got!r}; the ids are {order}"
            )
            break
    if len(columns) != len(HEADER):
        return faults + _winner_faults(path, rows)
    values = pd.DataFrame([row[1:] for row in rows], columns=list(LABEL_COLUMNS))
    probabilities = values.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    for fault, faulty in _faulty_rows(probabilities).items():
        if faulty.any():
            row = int(faulty.argmax())
            faults.append(
                f"{path}: row {row + 1} (id {ids[row]!r}): {fault}: {rows[row][1:]} "
                f"({counted(int(faulty.sum()), 'such row')})"
            )
    return faults


def _winner_faults(path: str | Path, rows: list[list[str]]) -> list[str]:
    wrong = [number for number, (_, winner) in enumerate(rows) if winner not in MODEL_COLUMNS]
    if not wrong:
        return []
    (key, winner), expected = rows[wrong[0]], " or ".join(MODEL_COLUMNS)
    return [
        f"{path}: row {wrong[0] + 1} (id {key!r}): expected {expected}, got {winner!r} "
        f"({counted(len(wrong), 'such row')})"
    ]


def _ids(test: str | Path) -> list[str]:
    """Return the ids of a test file in order. Raises InputError if it cannot be read."""
    with open_table(test) as table:
        if ID not in table.columns:
            raise InputError(f"{test}: expected a column {ID!r}, got {', '.join(table.columns)}")
        plan = Plan(texts=(), id=(ID,), labels=None, draws=False, models=(), weight=())
        parser = RowParser(table, plan, lenient=True, keep_faults=False)
        rows = enumerate(table.read([ID]), start=1)
        return [parser.parse(number, cells)[0] for number, cells in rows]


def _faulty_rows(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return, for each kind of fault, a mask (n,) of the rows of `probabilities`, (n, 3), that have
    the fault."""
    outside = (probabilities < 0) | (probabilities > 1 + SUM_TOLERANCE)
    return {
        "not a finite number": ~np.isfinite(probabilities).all(axis=1),
        "outside [0, 1]": outside.any(axis=1),
        "probabilities do not sum to 1": np.abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE,
    }


def _cells(path: str | Path, columns: Sequence[str]) -> list[list[str]]:
    """Return the cells of a CSV as text, row by row. Raises InputError if the file is not a CSV, if
    its header is not `columns`, or if a row has a different number of fields."""
    header, *rows = [*csv_rows(path)] or [[]]
    if header != list(columns):
        raise InputError(
            f"{path}: expected the header {','.join(columns)}, got {','.join(header)[:200]!r}"
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(f"{path}: row {number}: expected {len(header)} fields, got {len(row)}")
    return rows
