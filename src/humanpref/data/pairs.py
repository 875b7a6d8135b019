"""From a CSV in the competition's schema to a pairs frame, and the frame's labels, weights and mirror image."""

import csv
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.files import write_whole
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, SWAPPED_CLASSES, TEXT_COLUMNS, WEIGHT, InputError

logger = logging.getLogger(__name__)

LABEL_SUM_TOLERANCE = 2e-3
"""Soft labels may miss a sum of 1 by so much (files that round to three digits); they are then rescaled."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# One response may be longer than the csv module's default limit of 131,072 characters once it is escaped.
_FIELD_LIMIT = 2**31 - 1


def read_pairs(path: str | Path, labels: bool | None = None, lenient: bool = False) -> pd.DataFrame:
    """Read a CSV in the competition's schema into a pairs frame (see `humanpref.schema`).

    The cells of `prompt`, `response_a` and `response_b` are JSON lists with one string (or null) per turn. Null turns become
    empty strings, a null or empty cell a conversation without turns; lone surrogates, which no encoder takes, become U+FFFD.

    Parameters
    ----------
    path : path
        UTF-8, with or without a byte-order mark.
    labels : bool, optional
        True: the three label columns must be there. False: they are left out. None: they are read if all three are there.
    lenient : bool
        Take a text that is not such a list as it stands, as one turn, with a warning. For the inference kernel, where one odd
        row must not cost all others.

    Returns
    -------
    DataFrame
        In the order of the file, with `id`, the texts, `model_a` and `model_b` if the file has them, the label columns
        (float64, each row summing to 1) and `weight` (float64).

    Raises
    ------
    InputError
        For a file that cannot be read, is not text, or holds no rows; a missing column; a cell, label, weight or id that is
        not what it must be. The message names the file, the row (counted from 1 below the header), its id and the column.
    """
    return _read(Path(path), TEXT_COLUMNS, labels, lenient)


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read `id` and the labels alone, hard or soft, from a CSV that may lack everything else (a submission, say).

    Raises
    ------
    InputError
        As `read_pairs`.
    """
    return _read(Path(path), (), labels=True, lenient=False)


def _read(path: Path, texts: tuple[str, ...], labels: bool | None, lenient: bool) -> pd.DataFrame:
    rows = _rows(path)
    header = next(rows, None)
    if header is None:
        raise InputError(f"{path}: the file is empty, expected a header with {_names((ID, *texts))}")
    columns = _columns(header, texts, labels, path)
    read_labels = labels is not False and LABEL_COLUMNS[0] in columns
    parsers = dict.fromkeys(texts, _turns)
    if read_labels:
        parsers |= dict.fromkeys(LABEL_COLUMNS, _probability)
        if WEIGHT in columns:
            parsers[WEIGHT] = _weight
    kept = [ID, *texts, *(c for c in MODEL_COLUMNS if c in columns), *list(parsers)[len(texts) :]]
    values: dict[str, list] = {column: [] for column in kept}
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(f"{path}: row {number}: expected {len(header)} fields as in the header, got {len(row)}")
        key = row[columns[ID]]
        where = f"{path}: row {number} (id {key!r})"
        if not key:
            raise InputError(f"{path}: row {number}: column {ID!r} is empty")
        if not key.isprintable():
            raise InputError(f"{path}: row {number}: column {ID!r}: expected printable text, got {key!r}")
        if key in seen:
            raise InputError(f"{where}: duplicate id, first seen in row {seen[key]}")
        seen[key] = number
        for column in kept:
            cell = row[columns[column]]
            try:
                value = parsers[column](cell) if column in parsers else cell
            except ValueError as error:
                if not (lenient and column in texts):
                    raise InputError(f"{where}: column {column!r}: {error}") from None
                logger.warning("%s: column %r: %s; taken as it stands", where, column, error)
                value = (_LONE_SURROGATE.sub(_REPLACEMENT, cell),)
            values[column].append(value)
        if read_labels:
            _check_sum([values[column][-1] for column in LABEL_COLUMNS], where)
    if not seen:
        raise InputError(f"{path}: a header without rows")
    pairs = pd.DataFrame({column: _series(column, cells) for column, cells in values.items()})
    if read_labels:
        labelled = pairs[list(LABEL_COLUMNS)].to_numpy()
        pairs[list(LABEL_COLUMNS)] = labelled / labelled.sum(axis=1, keepdims=True)
        if WEIGHT in pairs and not 0 < pairs[WEIGHT].sum() < math.inf:
            raise InputError(f"{path}: column {WEIGHT!r}: expected a positive, finite sum, got {pairs[WEIGHT].sum():g}")
    logger.info("%s: %d rows%s", path, len(pairs), "" if read_labels else ", no labels")
    return pairs


def write_pairs(path: str | Path, pairs: pd.DataFrame) -> None:
    """Write a pairs frame as a CSV that `read_pairs` reads back as it is; whole or not at all, an existing file is replaced."""
    columns = [c for c in (ID, *MODEL_COLUMNS, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT) if c in pairs]
    cells = {column: [json.dumps(turns, ensure_ascii=False) for turns in pairs[column]] for column in TEXT_COLUMNS}
    with write_whole(path) as file:
        pairs[columns].assign(**cells).to_csv(file, index=False, lineterminator="\n")


def labels_of(pairs: pd.DataFrame) -> np.ndarray:
    """The labels as probabilities, (n, 3) float64, columns A, B, tie.

    Raises
    ------
    InputError
        If the frame has no labels.
    """
    if not set(LABEL_COLUMNS) <= set(pairs):
        raise InputError(f"these rows have no labels (columns {_names(LABEL_COLUMNS)})")
    return pairs[list(LABEL_COLUMNS)].to_numpy(dtype=np.float64)


def weights_of(pairs: pd.DataFrame) -> np.ndarray | None:
    """The rows' weights, (n,) float64, or None where the frame has none."""
    return pairs[WEIGHT].to_numpy(dtype=np.float64) if WEIGHT in pairs else None


def swap_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """The same rows with A and B exchanged: responses, models and labels; the ids stay.

    Swapping twice gives the frame back. A swapped copy belongs to its row's fold: split first, then swap.
    """
    other = {"response_a": "response_b", "model_a": "model_b"}
    other |= {b: a for a, b in other.items()}
    other |= {column: LABEL_COLUMNS[SWAPPED_CLASSES[i]] for i, column in enumerate(LABEL_COLUMNS)}
    return pd.DataFrame({column: pairs[other.get(column, column)] for column in pairs}, index=pairs.index)


def digest_of(pairs: pd.DataFrame) -> str:
    """SHA-256 of the rows' content in hexadecimal: ids, texts, labels and weights, whatever file they came from."""
    columns = [c for c in (ID, *TEXT_COLUMNS, *MODEL_COLUMNS, *LABEL_COLUMNS, WEIGHT) if c in pairs]
    digest = hashlib.sha256(json.dumps(columns).encode())
    for row in zip(*(pairs[column].tolist() for column in columns), strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _rows(path: Path) -> Iterator[list[str]]:
    """The file's rows as text, header first; empty lines are passed over."""
    csv.field_size_limit(_FIELD_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogatepass", newline="") as file:
            for row in csv.reader(file, strict=True):
                if row:
                    yield row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start}); a CSV was expected") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a valid CSV ({error}); is the file cut off, or a quote left open?") from None


def _columns(header: list[str], texts: tuple[str, ...], labels: bool | None, path: Path) -> dict[str, int]:
    """Where each column stands; raises for a missing or a repeated one."""
    if any("\0" in name for name in header):
        raise InputError(f"{path}: not a text file; a CSV was expected")
    columns = {name: i for i, name in enumerate(header)}
    if len(columns) < len(header):
        repeated = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: the header names column {repeated!r} twice")
    required = [ID, *texts]
    if labels or (labels is None and any(column in columns for column in LABEL_COLUMNS)):
        required += LABEL_COLUMNS
    missing = [column for column in required if column not in columns]
    if missing:
        found = _names(header[:12]) + (" …" if len(header) > 12 else "")
        raise InputError(f"{path}: missing column {_names(missing)}; the header has {found[:300]}")
    return columns


def _turns(cell: str) -> tuple[str, ...]:
    """The turns of one cell. Raises ValueError (without the place, which the caller knows)."""
    if not cell:
        return ()
    try:
        turns = json.loads(cell)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f'not JSON, expected a list of strings such as ["…"], got {_short(cell)}') from None
    if turns is None:
        return ()
    if not isinstance(turns, list):
        kind = {dict: "a JSON object", str: "a JSON string"}.get(type(turns), "a JSON value")
        raise ValueError(f"expected a JSON list of strings, got {kind}: {_short(cell)}")
    return as_turns(turns)


def as_turns(turns: list) -> tuple[str, ...]:
    """A list of strings and nulls as a pairs frame holds it. Raises ValueError (without the place) for anything else in it."""
    for i, turn in enumerate(turns, start=1):
        if turn is not None and not isinstance(turn, str):
            raise ValueError(f"turn {i}: expected a string or null, got {_short(json.dumps(turn))}")
    return tuple(_LONE_SURROGATE.sub(_REPLACEMENT, turn) if turn else "" for turn in turns)


def _probability(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"expected a number in [0, 1], got {_short(cell)}")
    return value


def _weight(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"expected a finite number of at least 0, got {_short(cell)}")
    return value


def _check_sum(labels: list[float], where: str) -> None:
    total = sum(labels)
    if abs(total - 1) > LABEL_SUM_TOLERANCE:
        raise InputError(f"{where}: columns {_names(LABEL_COLUMNS)}: expected a sum of 1, got {total:g}")


def _series(column: str, cells: list) -> pd.Series:
    # Strings and tuples stay Python objects: pandas would else look into the tuples.
    numeric = column in LABEL_COLUMNS or column == WEIGHT
    return pd.Series(cells, dtype=np.float64 if numeric else object)


def _names(columns: object) -> str:
    return ", ".join(repr(str(column)) for column in columns)


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "…")
