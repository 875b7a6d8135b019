"""Read a CSV in the competition's schema into a pairs frame, and write a pairs frame to a CSV."""

import csv
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from humanpref.data.cells import LONE_SURROGATE, REPLACEMENT, as_pairs, names, parsed_turns, short
from humanpref.data.pairs import LABEL_SUM_TOLERANCE, WEIGHTS, are_weights
from humanpref.files import write_whole
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS, WEIGHT, InputError

logger = logging.getLogger(__name__)

_HALF = "a lone surrogate (half a character)"
# Once escaped, a single response can exceed the csv module's default limit of 131,072 characters.
_FIELD_LIMIT = 2**31 - 1


def read_pairs(
    path: str | Path, labels: bool | None = None, lenient: bool = False, weights: bool = False
) -> pd.DataFrame:
    """Read a CSV in the competition's schema into a pairs frame (see `humanpref.schema`).

    The cells of `prompt`, `response_a` and `response_b` are JSON lists with one string (or null)
    per turn. Null turns become empty strings, and a null or empty cell becomes a conversation
    without turns; lone surrogates, which no encoder accepts, become U+FFFD.

    Parameters
    ----------
    path : path
        A UTF-8 file, with or without a byte-order mark.
    labels : bool, optional
        If True, the three label columns are required; if False, they are not read; if None, they
        are read if the file has them.
    lenient : bool
        If a text is not a JSON list of strings, log a warning and take the text as one turn. The
        inference kernel uses this, so that it can predict all rows even if one is malformed.
    weights : bool
        Read `weight` even if the labels are not read.

    Returns
    -------
    DataFrame
        Rows in the order of the file, with `id`, the texts, and `model_a` and `model_b` if the file
        has both. If the labels are read, also the label columns (float64, each row summing to 1).
        `weight` (float64) is included if the file has it and `weights` is True or labels are read.

    Raises
    ------
    InputError
        For a file that cannot be read, is not text, or has no rows; for a missing column; for an
        invalid text, label, weight or id. The message names the file, the row (counted from 1,
        excluding the header), its id and the column.
    """
    return _read(Path(path), labels, lenient=lenient, weights=weights)


class Fault(NamedTuple):
    """A fault in one row of a file."""

    row: int
    """Row number, counted from 1, excluding the header."""
    id: str
    kind: str
    """`fields`, `id`, `label` or `weight` if the row cannot be used; `text` if a malformed text is
    taken as one turn; `null` or `surrogate` if a text or a model's name is repaired. The `eda`
    command adds more kinds."""
    fault: str

    def at(self, path: Path) -> str:
        """Return the fault as one line that names the file and the row."""
        return f"{path}: row {self.row}{f' (id {self.id!r})' if self.id else ''}: {self.fault}"


def read_faulty(path: str | Path) -> tuple[pd.DataFrame, list[Fault]]:
    """Read the usable rows of a CSV in the competition's schema, and list the faults of all rows.

    Parameters
    ----------
    path : path
        As for `read_pairs`. Labels are read if the file has them.

    Returns
    -------
    pairs : DataFrame
        A pairs frame. A text that is not a JSON list becomes one turn; rows that are unusable for
        any other reason are omitted.
    faults : list of Fault
        The faults, in the order of the file. They include the null turns and lone surrogates that
        `read_pairs` repairs without a warning.

    Raises
    ------
    InputError
        For a file that cannot be read, is not text, lacks a column, or has no usable row.
    """
    faults: list[Fault] = []
    return _read(Path(path), None, lenient=True, faults=faults), faults


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read `id`, the labels (hard or soft) and, if the file has them, the texts from a CSV such as
    a submission.

    Raises
    ------
    InputError
        As for `read_pairs`.
    """
    return _read(Path(path), True, texts_required=False)


@dataclass
class _RowParser:
    """The parser of a file's rows."""

    places: dict[str, int]
    """The index of each column in the header."""
    parsers: dict[str, Callable[[str], Any]]
    """The columns to read, each with the function that parses its cells."""
    lenient: bool
    """Whether a malformed text cell is taken as one turn; otherwise, its row is rejected."""
    remark: bool
    """Whether to also list the faults that parsing repairs without a warning."""
    first_rows: dict[str, int] = field(default_factory=dict)
    """The row in which each id was first seen."""

    def parse(self, number: int, row: list[str]) -> tuple[dict[str, Any] | None, list[Fault]]:
        """Return a row's values by column (None if the row cannot be used), and its faults."""
        if len(row) != len(self.places):
            text = f"expected {len(self.places)} fields as in the header, got {len(row)}"
            return None, [Fault(number, "", "fields", text)]
        key = row[self.places[ID]]
        if not key or not key.isprintable():
            text = f"column {ID!r}: expected printable text, got {key!r}"
            return None, [Fault(number, "", "id", text)]
        first = self.first_rows.setdefault(key, number)
        if first != number:
            text = f"duplicate id, first seen in row {first}"
            return None, [Fault(number, key, "id", text)]
        values: dict[str, Any] = {}
        faults = []
        for column, parser in self.parsers.items():
            cell = row[self.places[column]]
            try:
                values[column] = parser(cell)
            except ValueError as error:
                fault = Fault(number, key, _KINDS[column], f"column {column!r}: {error}")
                if not (self.lenient and column in TEXT_COLUMNS):
                    return None, [fault]
                faults.append(fault)
                values[column] = (_without_surrogates(cell),)
            else:
                if self.remark:
                    faults += [
                        Fault(number, key, kind, f"column {column!r}: {text}")
                        for kind, text in _remarks(column, cell)
                    ]
        if LABEL_COLUMNS[0] in values:
            total = sum(values[column] for column in LABEL_COLUMNS)
            if abs(total - 1) > LABEL_SUM_TOLERANCE:
                text = f"columns {names(LABEL_COLUMNS)}: expected a sum of 1, got {total:g}"
                return None, [Fault(number, key, "label", text)]
        return values, faults


_KINDS = dict.fromkeys(TEXT_COLUMNS, "text") | dict.fromkeys(LABEL_COLUMNS, "label")
_KINDS[WEIGHT] = "weight"


def _read(
    path: Path,
    labels: bool | None,
    texts_required: bool = True,
    lenient: bool = False,
    weights: bool = False,
    faults: list[Fault] | None = None,
) -> pd.DataFrame:
    """Read a file into a pairs frame. If the list `faults` is given, faults are appended to it;
    otherwise, they are raised or logged."""
    rows = csv_rows(path)
    header = next(rows, [])
    required = [ID]
    if texts_required or set(TEXT_COLUMNS) <= set(header):
        required += TEXT_COLUMNS
    if labels or (labels is None and not set(LABEL_COLUMNS).isdisjoint(header)):
        required += LABEL_COLUMNS
    places = _places(header, required, path)
    models = [column for column in MODEL_COLUMNS if column in places]
    if len(models) == 1:
        (missing,) = {*MODEL_COLUMNS} - {*models}
        logger.warning("%s: ignoring column %r because %r is missing", path, *models, missing)
        models = []
    weight = [WEIGHT] if WEIGHT in places and (weights or LABEL_COLUMNS[0] in required) else []
    columns = {*required, *models, *weight}
    parsers = {column: parse for column, parse in _PARSERS.items() if column in columns}
    parser = _RowParser(places, parsers, lenient, remark=faults is not None)
    cells: dict[str, list] = {column: [] for column in parsers}
    for number, row in enumerate(rows, start=1):
        values, row_faults = parser.parse(number, row)
        if faults is not None:
            faults += row_faults
        elif values is None:
            raise InputError(row_faults[0].at(path))
        else:
            for fault in row_faults:
                logger.warning("%s; using the cell as plain text", fault.at(path))
        for column, value in (values or {}).items():
            cells[column].append(value)
    if not cells[ID]:
        why = f"no usable row: {faults[0].at(path)}" if faults else "there is a header but no rows"
        raise InputError(f"{path}: {why}")
    # Store strings and tuples as Python objects; otherwise pandas would inspect the tuples.
    pairs = pd.DataFrame(
        {
            column: pd.Series(values, dtype=np.float64 if column in _NUMERIC else object)
            for column, values in cells.items()
        }
    )
    if LABEL_COLUMNS[0] in pairs:
        labelled = pairs[list(LABEL_COLUMNS)].to_numpy()
        pairs[list(LABEL_COLUMNS)] = labelled / labelled.sum(axis=1, keepdims=True)
    if WEIGHT in pairs and not 0 < (total := pairs[WEIGHT].sum()) < math.inf:
        raise InputError(
            f"{path}: column {WEIGHT!r}: expected a positive, finite sum, got {total:g}"
        )
    unread = ", labels not read" if LABEL_COLUMNS[0] in places else ", no labels"
    logger.info("%s: %d rows%s", path, len(pairs), "" if LABEL_COLUMNS[0] in pairs else unread)
    return pairs


_NUMERIC = (*LABEL_COLUMNS, WEIGHT)


def _without_surrogates(text: str) -> str:
    return LONE_SURROGATE.sub(REPLACEMENT, text)


def _remarks(column: str, cell: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the description of each fault that parsing this cell repairs."""
    if column in MODEL_COLUMNS and LONE_SURROGATE.search(cell):
        yield "surrogate", _HALF
    if column not in TEXT_COLUMNS:
        return
    turns = json.loads(cell or "null")
    if turns is None:
        yield "null", "null or empty, not a list of turns"
        return
    missing = [str(number) for number, turn in enumerate(turns, start=1) if turn is None]
    if missing:
        yield "null", f"turn {', '.join(missing)} is null"
    if any(LONE_SURROGATE.search(turn) for turn in turns if turn):
        yield "surrogate", _HALF


def write_pairs(path: str | Path, pairs: pd.DataFrame) -> None:
    """Atomically write a pairs frame as a CSV that `read_pairs` reads back unchanged; an existing
    file is replaced."""
    pairs = as_pairs(pairs)
    columns = [c for c in (ID, *MODEL_COLUMNS, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT) if c in pairs]
    cells = {
        column: [json.dumps(turns, ensure_ascii=False) for turns in pairs[column]]
        for column in TEXT_COLUMNS
    }
    with write_whole(path) as file:
        # Quote all texts: Python before 3.13 leaves a text with a carriage return unquoted, and a
        # reader would take the carriage return for the end of the line.
        written = pairs[columns].assign(**cells)
        written.to_csv(file, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def csv_rows(path: str | Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV as text, starting with the header and skipping empty lines.

    Raises
    ------
    InputError
        If the file cannot be read, is not UTF-8 or is not a valid CSV.
    """
    csv.field_size_limit(_FIELD_LIMIT)
    try:
        with open(path, encoding="utf-8-sig", errors="surrogatepass", newline="") as file:
            yield from filter(None, csv.reader(file, strict=True))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected a CSV, got a file that is not UTF-8 text (byte {error.start})"
        ) from None
    except csv.Error as error:
        raise InputError(
            f"{path}: not a valid CSV ({error}); is the file truncated, or is a quote not closed?"
        ) from None


def _places(header: list[str], required: list[str], path: Path) -> dict[str, int]:
    """Return the index of each column. Raises InputError for a missing or repeated column."""
    if not header:
        raise InputError(f"{path}: the file is empty, expected a header with {names(required)}")
    places = {name: i for i, name in enumerate(header)}
    if len(places) < len(header):
        repeated = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: column {repeated!r} appears twice in the header")
    if missing := [column for column in required if column not in places]:
        present = names(header[:12]) + (" …" if len(header) > 12 else "")
        raise InputError(f"{path}: missing column {names(missing)}; the header has {present[:300]}")
    return places


def _probability(cell: str) -> float:
    return _number(cell, lambda value: 0 <= value <= 1, "a number in [0, 1]")


def _weight(cell: str) -> float:
    return _number(cell, are_weights, WEIGHTS)


def _number(cell: str, valid: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not valid(value):
        raise ValueError(f"expected {expected}, got {short(cell)}")
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {
    ID: str,
    **dict.fromkeys(TEXT_COLUMNS, parsed_turns),
    **dict.fromkeys(MODEL_COLUMNS, _without_surrogates),
    **dict.fromkeys(LABEL_COLUMNS, _probability),
    WEIGHT: _weight,
}
"""The columns of a pairs frame, in order, each with the function that parses one of its cells. The
function raises ValueError if the cell is invalid."""
