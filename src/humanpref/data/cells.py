"""Read text cells from any source: a file, a caller's frame or JSON lines. One rule applies to all
cells of a source."""

import contextlib
import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from humanpref.schema import ID, TEXT_COLUMNS, InputError

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_EXACT = 2**53
"""Floats below this hold every whole number exactly."""
_TURNS, _JSON, _TEXT = "a list of turns", "a JSON list of strings", "a plain text"


class CellRule:
    """The format of the text cells in one frame or file, which is narrowed down as cells are seen.

    Lists, tuples and arrays of strings are turns. If every string is a JSON list of strings, `null`
    or empty, the strings are parsed as in a file. Otherwise, if none is a JSON list of strings,
    each string is taken unchanged as one turn, even `"[1]"` or `"null"`. None and NaN are
    conversations without turns. Any other cell, or a mixture of formats, is rejected.
    """

    def __init__(self) -> None:
        self.forms = frozenset((_TURNS, _JSON, _TEXT))
        self.place = ""

    def see(self, cell: Any, place: str) -> None:
        """Narrow the formats down to those that `cell` may have. Raises ValueError if none remains.

        `place` is the location of the cell, for the message if a later cell has another format.
        """
        forms = self.forms & _forms(cell)
        if not forms:
            expected = " or ".join(sorted(self.forms))
            got = cell if isinstance(cell, str) else json.dumps(list(cell), ensure_ascii=False)
            raise ValueError(
                f"expected {expected} as in {self.place}, got {short(got)}; use one format for all "
                "texts"
            )
        if forms != self.forms:
            self.forms, self.place = forms, place

    def turns(self, cell: Any) -> tuple[str, ...]:
        """Return the turns of a cell that `see` has accepted."""
        if not isinstance(cell, str):
            return () if is_missing(cell) else as_turns(list(cell))
        return parsed_turns(cell) if _JSON in self.forms else as_turns([cell])


def as_pairs(frame: pd.DataFrame, texts: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Convert a caller's frame into a pairs frame: texts are read by one `CellRule`, ids become
    strings, and the index becomes a `RangeIndex`.

    A frame from `read_pairs` is returned unchanged; checking it takes a tenth of a second for
    57,477 rows. Only `id` and the columns in `texts` are converted. If `id` is neither a column nor
    the name of the index, they are numbered from 0.

    Raises
    ------
    InputError
        For a missing or repeated column, or an invalid cell; the message names the row (counting
        from 1) and the column.
    """
    if frame.index.name == ID and ID not in frame:
        frame = frame.reset_index()
    columns = list(frame.columns)
    if missing := [column for column in texts if column not in columns]:
        raise InputError(
            f"these rows: missing column {names(missing)}; they have {names(columns)[:300]}"
        )
    if repeated := [column for column in (ID, *texts) if columns.count(column) > 1]:
        raise InputError(f"these rows: column {repeated[0]!r} appears twice")
    if not frame.index.equals(pd.RangeIndex(len(frame))):
        frame = frame.reset_index(drop=True)
    if ID not in columns:
        frame = frame.assign(**{ID: np.arange(len(frame)).astype(str).astype(object)})
    elif not set(map(type, frame[ID])) <= {str}:
        keys = []
        for number, key in enumerate(frame[ID].tolist(), start=1):
            try:
                keys.append(id_text(key))
            except ValueError as error:
                raise InputError(f"row {number}: column {ID!r}: {error}") from None
        frame = frame.assign(**{ID: pd.Series(keys, dtype=object)})
    cells = [frame[column].tolist() for column in texts]
    if all(map(_are_turns, cells)):
        return frame
    rule = CellRule()
    for number, row in enumerate(zip(*cells, strict=True), start=1):
        for column, cell in zip(texts, row, strict=True):
            try:
                rule.see(cell, f"row {number}, column {column!r}")
            except ValueError as error:
                key = frame[ID].iat[number - 1]
                raise InputError(f"row {number} (id {key!r}): column {column!r}: {error}") from None
    turns = {
        column: pd.Series(map(rule.turns, own_cells), dtype=object)
        for column, own_cells in zip(texts, cells, strict=True)
    }
    return frame.assign(**turns)


def id_text(key: Any) -> str:
    """Return an id as text: a text as it is, and a whole number with all its digits.

    Raises
    ------
    ValueError
        If the id is missing, is not printable, or is a float that may have lost digits.

    Examples
    --------
    >>> id_text("007"), id_text(2**60 + 1), id_text(7.0)
    ('007', '1152921504606846977', '7')
    """
    if isinstance(key, str):
        if not key or not key.isprintable():
            raise ValueError(f"expected printable text, got {key!r}")
        return key
    if is_missing(key):
        raise ValueError("expected a text or a number, got nothing")
    if isinstance(key, float | np.floating):
        # pandas turns the id 7 into 7.0 if the column had missing values or the frame was joined.
        if not key.is_integer() or abs(key) >= _EXACT:
            raise ValueError(f"expected a text or a whole number without loss, got {key!r}")
        key = int(key)
    return str(key)


def parsed_turns(cell: str) -> tuple[str, ...]:
    """Parse one cell of a file into turns. Raises ValueError if that fails; the message leaves out
    the cell's location, which only the caller knows."""
    if not cell:
        return ()
    try:
        turns = json.loads(cell)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(
            f'not JSON, expected a list of strings such as ["…"], got {short(cell)}'
        ) from None
    if turns is None:
        return ()
    if not isinstance(turns, list):
        kind = {dict: "a JSON object", str: "a JSON string"}.get(type(turns), "a JSON value")
        raise ValueError(f"expected a JSON list of strings, got {kind}: {short(cell)}")
    return as_turns(turns)


def as_turns(turns: list) -> tuple[str, ...]:
    """Convert a list of strings and nulls into the tuple that a pairs frame holds. Raises
    ValueError for any other item; the message leaves out the cell's location."""
    for i, turn in enumerate(turns, start=1):
        if turn is not None and not isinstance(turn, str):
            raise ValueError(
                f"turn {i}: expected a string or null, got {short(json.dumps(turn, default=repr))}"
            )
    return tuple(LONE_SURROGATE.sub(REPLACEMENT, str(turn)) if turn else "" for turn in turns)


def names(columns: object) -> str:
    """Return the quoted names of columns, separated by commas, for a message."""
    return ", ".join(repr(str(column)) for column in columns)


def short(text: str, limit: int = 60) -> str:
    """Return the first `limit` characters of a text, quoted, for a message."""
    return repr(text if len(text) <= limit else text[:limit] + "…")


def _forms(cell: Any) -> frozenset[str]:
    """Return the formats that a cell may have. Raises ValueError if the cell is neither a text nor
    a list of turns nor missing; the message leaves out the cell's location."""
    if isinstance(cell, str):
        if not cell or cell.strip() == "null":
            return frozenset((_JSON, _TEXT))
        if cell.lstrip().startswith("["):
            with contextlib.suppress(ValueError):
                parsed_turns(cell)
                return frozenset((_JSON,))
        return frozenset((_TEXT,))
    if isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim == 1):
        as_turns(list(cell))
        return frozenset((_TURNS,))
    if is_missing(cell):
        return frozenset((_TURNS, _JSON, _TEXT))
    raise ValueError(
        f"expected a text or a list of turns, got {type(cell).__name__} {short(str(cell))}"
    )


def is_missing(cell: Any) -> bool:
    """Return whether a cell is None, NaN or another missing value of pandas."""
    return cell is None or (pd.api.types.is_scalar(cell) and pd.isna(cell))


def _are_turns(cells: list) -> bool:
    """Return whether all cells are tuples of strings without lone surrogates, as in a pairs
    frame."""
    turns = chain.from_iterable
    return (
        set(map(type, cells)) <= {tuple}
        and set(map(type, turns(cells))) <= {str}
        and not any(LONE_SURROGATE.search(turn) for turn in turns(cells) if not turn.isascii())
    )
