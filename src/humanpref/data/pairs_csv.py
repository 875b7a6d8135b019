"""A CSV in the competition's schema to a pairs frame, and back."""

import csv
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.data.cells import LONE_SURROGATE, REPLACEMENT, as_pairs, names, parsed_turns, short
from humanpref.data.pairs import LABEL_SUM_TOLERANCE
from humanpref.files import write_whole
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS, WEIGHT, InputError

logger = logging.getLogger(__name__)

_HALF = "a lone surrogate (half a character)"
# One response may be longer than the csv module's default limit of 131,072 characters once it is
# escaped.
_FIELD_LIMIT = 2**31 - 1


def read_pairs(
    path: str | Path, labels: bool | None = None, lenient: bool = False, weights: bool = False
) -> pd.DataFrame:
    """Read a CSV in the competition's schema into a pairs frame (see `humanpref.schema`).

    The cells of `prompt`, `response_a` and `response_b` are JSON lists with one string (or null)
    per turn. Null turns become empty strings, a null or empty cell a conversation without turns;
    lone surrogates, which no encoder takes, become U+FFFD.

    Parameters
    ----------
    path : path
        UTF-8, with or without a byte-order mark.
    labels : bool, optional
        True: the three label columns must be there. False: they are left out. None: they are read
        if all three are there.
    lenient : bool
        Take a text that is not such a list as it stands, as one turn, with a warning. For the
        inference kernel, where one odd row must not cost all others.
    weights : bool
        Read `weight` where the labels are not read, too.

    Returns
    -------
    DataFrame
        In the order of the file, with `id`, the texts, `model_a` and `model_b` if the file has
        both, the label columns (float64, each row summing to 1) and `weight` (float64; with the
        labels, or where it is asked for).

    Raises
    ------
    InputError
        For a file that cannot be read, is not text, or holds no rows; a missing column; a cell,
        label, weight or id that is not what it must be. The message names the file, the row
        (counted from 1 below the header), its id and the column.
    """
    return _read(Path(path), TEXT_COLUMNS, labels, lenient, weights=weights)


class Fault(NamedTuple):
    """A fault of one row of a file."""

    row: int
    """Counted from 1 below the header."""
    id: str
    kind: str
    """`fields`, `id`, `text`, `label`, `weight`: the row cannot be used as it is. `null`,
    `surrogate`: it can."""
    fault: str

    def at(self, path: Path) -> str:
        """The fault as one line that names its place."""
        return f"{path}: row {self.row}{f' (id {self.id!r})' if self.id else ''}: {self.fault}"


def read_faulty(path: str | Path) -> tuple[pd.DataFrame, list[Fault]]:
    """Read what can be read of a CSV in the competition's schema, and list what is odd about its
    rows.

    Parameters
    ----------
    path : path
        As for `read_pairs`; labels are read if they are there.

    Returns
    -------
    pairs : DataFrame
        A pairs frame. A text that is no JSON list stands as one turn; rows with another fault than
        that are left out.
    faults : list of Fault
        In the order of the file; null turns and lone surrogates, which `read_pairs` mends, are
        among them.

    Raises
    ------
    InputError
        For a file that cannot be read, is not text, lacks a column, or holds no row that can be
        used.
    """
    faults: list[Fault] = []
    return _read(Path(path), TEXT_COLUMNS, None, lenient=True, faults=faults), faults


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read `id` and the labels, hard or soft, from a CSV that may lack everything else (a
    submission, say); texts if it has them.

    Raises
    ------
    InputError
        As `read_pairs`.
    """
    return _read(Path(path), None, labels=True, lenient=False)


def _read(
    path: Path,
    texts: tuple[str, ...] | None,
    labels: bool | None,
    lenient: bool,
    faults: list[Fault] | None = None,
    weights: bool = False,
) -> pd.DataFrame:
    """With a list of `faults` they are put there, in place of an error or a warning; without
    `texts` all are read, or none."""
    rows = _rows(path)
    header = next(rows, None)
    if texts is None:
        texts = TEXT_COLUMNS if set(TEXT_COLUMNS) <= set(header or ()) else ()
    if header is None:
        raise InputError(f"{path}: the file is empty, expected a header with {names((ID, *texts))}")
    columns = _columns(header, texts, labels, path)
    read_labels = labels is not False and LABEL_COLUMNS[0] in columns
    parsers = dict.fromkeys(texts, parsed_turns)
    if read_labels:
        parsers |= dict.fromkeys(LABEL_COLUMNS, _probability)
    if (read_labels or weights) and WEIGHT in columns:
        parsers[WEIGHT] = _weight
    models = [column for column in MODEL_COLUMNS if column in columns]
    if len(models) == 1:
        other = next(column for column in MODEL_COLUMNS if column not in columns)
        logger.warning("%s: column %r stands without %r and is not read", path, models.pop(), other)
    kept = [ID, *texts, *models, *list(parsers)[len(texts) :]]
    values: dict[str, list] = {column: [] for column in kept}
    seen: dict[str, int] = {}

    def parse(number: int, row: list[str]) -> tuple[list, list[Fault]]:
        """The cells' values and the faults that can be mended; raises one that cannot."""
        if len(row) != len(header):
            raise _UnusableRowError(
                Fault(
                    number,
                    "",
                    "fields",
                    f"expected {len(header)} fields as in the header, got {len(row)}",
                )
            )
        key = row[columns[ID]]
        if not key:
            raise _UnusableRowError(Fault(number, "", "id", f"column {ID!r} is empty"))
        if not key.isprintable():
            raise _UnusableRowError(
                Fault(number, "", "id", f"column {ID!r}: expected printable text, got {key!r}")
            )
        if key in seen:
            raise _UnusableRowError(
                Fault(number, key, "id", f"duplicate id, first seen in row {seen[key]}")
            )
        seen[key] = number
        parsed, odd = [], []
        for column in kept:
            cell = row[columns[column]]
            try:
                value = (
                    parsers[column](cell)
                    if column in parsers
                    else LONE_SURROGATE.sub(REPLACEMENT, cell)
                )
            except ValueError as error:
                kind = "text" if column in texts else "weight" if column == WEIGHT else "label"
                fault = Fault(number, key, kind, f"column {column!r}: {error}")
                if not (lenient and column in texts):
                    raise _UnusableRowError(fault) from None
                odd.append(fault)
                value = (LONE_SURROGATE.sub(REPLACEMENT, cell),)
            else:
                if faults is not None and column in texts:
                    odd += [
                        Fault(number, key, kind, f"column {column!r}: {text}")
                        for kind, text in _remarks(cell)
                    ]
                elif faults is not None and column in MODEL_COLUMNS and value != cell:
                    odd.append(Fault(number, key, "surrogate", f"column {column!r}: {_HALF}"))
            parsed.append(value)
        if read_labels:
            total = sum(parsed[kept.index(column)] for column in LABEL_COLUMNS)
            if abs(total - 1) > LABEL_SUM_TOLERANCE:
                text = f"columns {names(LABEL_COLUMNS)}: expected a sum of 1, got {total:g}"
                raise _UnusableRowError(Fault(number, key, "label", text))
        return parsed, odd

    for number, row in enumerate(rows, start=1):
        try:
            parsed, odd = parse(number, row)
        except _UnusableRowError as error:
            if faults is None:
                raise InputError(error.fault.at(path)) from None
            faults.append(error.fault)
            continue
        for column, value in zip(kept, parsed, strict=True):
            values[column].append(value)
        for fault in odd:
            if faults is None:
                logger.warning("%s; taken as it stands", fault.at(path))
            else:
                faults.append(fault)
    if not values[ID]:
        raise InputError(
            f"{path}: no row that can be used: {faults[0].at(path)}"
            if faults
            else f"{path}: a header without rows"
        )
    pairs = pd.DataFrame({column: _series(column, cells) for column, cells in values.items()})
    if read_labels:
        labelled = pairs[list(LABEL_COLUMNS)].to_numpy()
        pairs[list(LABEL_COLUMNS)] = labelled / labelled.sum(axis=1, keepdims=True)
    if WEIGHT in pairs and not 0 < pairs[WEIGHT].sum() < math.inf:
        raise InputError(
            f"{path}: column {WEIGHT!r}: expected a positive, finite sum, got "
            f"{pairs[WEIGHT].sum():g}"
        )
    unread = ", labels not read" if LABEL_COLUMNS[0] in columns else ", no labels"
    logger.info("%s: %d rows%s", path, len(pairs), "" if read_labels else unread)
    return pairs


class _UnusableRowError(Exception):
    """A row that cannot be used, and why."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def _remarks(cell: str) -> Iterator[tuple[str, str]]:
    """What `parsed_turns` mends in silence: the kind and a description of each."""
    # A look at the text first: few cells hold either, and parsing all of them again would double
    # the time.
    if "null" in cell or not cell:
        turns = json.loads(cell) if cell else None
        missing = [str(i) for i, turn in enumerate(turns or [], start=1) if turn is None]
        if turns is None:
            yield "null", "no conversation at all"
        elif missing:
            yield "null", f"turn {', '.join(missing)} is null"
    if ("\\ud" in cell.lower() or LONE_SURROGATE.search(cell)) and any(
        map(LONE_SURROGATE.search, filter(None, json.loads(cell)))
    ):
        yield "surrogate", _HALF


def write_pairs(path: str | Path, pairs: pd.DataFrame) -> None:
    """Write a pairs frame as a CSV that `read_pairs` reads back as it is; whole or not at all, an
    existing file is replaced."""
    pairs = as_pairs(pairs)
    columns = [c for c in (ID, *MODEL_COLUMNS, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT) if c in pairs]
    cells = {
        column: [json.dumps(turns, ensure_ascii=False) for turns in pairs[column]]
        for column in TEXT_COLUMNS
    }
    with write_whole(path) as file:
        # Quoted, all texts: Python before 3.13 leaves a carriage return bare, which ends a line
        # when it is read.
        written = pairs[columns].assign(**cells)
        written.to_csv(file, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


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
        raise InputError(
            f"{path}: not a text file in UTF-8 (byte {error.start}); a CSV was expected"
        ) from None
    except csv.Error as error:
        raise InputError(
            f"{path}: not a valid CSV ({error}); is the file cut off, or a quote left open?"
        ) from None


def _columns(
    header: list[str], texts: tuple[str, ...], labels: bool | None, path: Path
) -> dict[str, int]:
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
        found = names(header[:12]) + (" …" if len(header) > 12 else "")
        raise InputError(f"{path}: missing column {names(missing)}; the header has {found[:300]}")
    return columns


def _probability(cell: str) -> float:
    return _number(cell, lambda value: 0 <= value <= 1, "a number in [0, 1]")


def _weight(cell: str) -> float:
    return _number(cell, lambda value: 0 <= value < math.inf, "a finite number of at least 0")


def _number(cell: str, valid: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not valid(value):
        raise ValueError(f"expected {expected}, got {short(cell)}")
    return value


def _series(column: str, cells: list) -> pd.Series:
    # Strings and tuples stay Python objects: pandas would else look into the tuples.
    numeric = column in LABEL_COLUMNS or column == WEIGHT
    return pd.Series(cells, dtype=np.float64 if numeric else object)
