"""Read text cells from anywhere (a file, a caller's frame, JSON lines) by one rule for all cells of
a source."""

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

_TURNS, _JSON, _TEXT = "a list of turns", "a JSON list of strings", "a plain text"


class CellRule:
    """How the text cells of one frame or file are written; each cell seen narrows the choice.

    Lists, tuples and arrays of strings are turns. Strings that are all JSON lists of strings,
    `null` or empty are parsed as in a file. Strings of which none is such a list are one turn each,
    as they stand: `"[1]"` and `"null"` beside them, too. None and NaN are conversations without
    turns. A mixture, or anything else, is refused.
    """

    def __init__(self) -> None:
        self.forms = frozenset((_TURNS, _JSON, _TEXT))
        self.place = ""

    def see(self, cell: Any, place: str) -> None:
        """Take a cell into account. Raises ValueError (which does not name its place) for one that
        is not written like the earlier ones."""
        forms = self.forms & _forms(cell)
        if not forms:
            expected = " or ".join(sorted(self.forms))
            got = cell if isinstance(cell, str) else json.dumps(list(cell), ensure_ascii=False)
            raise ValueError(
                f"expected {expected} as in {self.place}, got {short(got)}; write all texts alike"
            )
        if forms != self.forms:
            self.forms, self.place = forms, place

    def turns(self, cell: Any) -> tuple[str, ...]:
        """Return the turns of a cell that was seen."""
        if not isinstance(cell, str):
            return () if _is_missing(cell) else as_turns(list(cell))
        return parsed_turns(cell) if _JSON in self.forms else as_turns([cell])


def as_pairs(frame: pd.DataFrame, texts: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Return a caller's frame as a pairs frame: texts read by one `CellRule`, ids as strings, a
    `RangeIndex`.

    A frame of `read_pairs` is returned unchanged; checking it takes a tenth of a second for 57,477
    rows. Other columns are left alone. Rows without `id`, as a column or as the index's name, are
    numbered from 1.

    Raises
    ------
    InputError
        For a missing or repeated column, or an invalid cell; the message names the row (from 1)
        and the column.
    """
    if frame.index.name == ID and ID not in frame:
        frame = frame.reset_index()
    columns = list(frame.columns)
    if missing := [column for column in texts if column not in columns]:
        raise InputError(
            f"these rows: missing column {names(missing)}; they have {names(columns)[:300]}"
        )
    if repeated := [column for column in (ID, *texts) if columns.count(column) > 1]:
        raise InputError(f"these rows: column {repeated[0]!r} is there twice")
    if not frame.index.equals(pd.RangeIndex(len(frame))):
        frame = frame.reset_index(drop=True)
    if ID not in columns:
        frame = frame.assign(**{ID: np.arange(1, len(frame) + 1).astype(str).astype(object)})
    elif not set(map(type, frame[ID])) <= {str}:
        if (empty := frame[ID].isna()).any():
            raise InputError(f"row {int(empty.argmax()) + 1}: column {ID!r} is empty")
        # pandas turns a file's 7 into 7.0 where a column had a gap, or frames were joined.
        keys = [
            str(int(key) if isinstance(key, float) and key.is_integer() else key)
            for key in frame[ID].tolist()
        ]
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


def parsed_turns(cell: str) -> tuple[str, ...]:
    """Return the turns of one cell of a file. Raises ValueError; only the caller knows the
    place."""
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
    """Return a list of strings and nulls as a pairs frame holds it. Raises ValueError for any other
    item; only the caller knows the place."""
    for i, turn in enumerate(turns, start=1):
        if turn is not None and not isinstance(turn, str):
            raise ValueError(
                f"turn {i}: expected a string or null, got {short(json.dumps(turn, default=repr))}"
            )
    return tuple(LONE_SURROGATE.sub(REPLACEMENT, str(turn)) if turn else "" for turn in turns)


def names(columns: object) -> str:
    """Return the quoted names of columns for a message."""
    return ", ".join(repr(str(column)) for column in columns)


def short(text: str, limit: int = 60) -> str:
    """Return the beginning of a text, quoted, for a message."""
    return repr(text if len(text) <= limit else text[:limit] + "…")


def _forms(cell: Any) -> frozenset[str]:
    """Return the forms that a cell may have. Raises ValueError for anything but a text or a list of
    turns; only the caller knows the place."""
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
    if _is_missing(cell):
        return frozenset((_TURNS, _JSON, _TEXT))
    raise ValueError(
        f"expected a text or a list of turns, got {type(cell).__name__} {short(str(cell))}"
    )


def _is_missing(cell: Any) -> bool:
    return pd.api.types.is_scalar(cell) and pd.isna(cell)


def _are_turns(cells: list) -> bool:
    """Whether cells are as a pairs frame holds them: tuples of strings without lone surrogates."""
    turns = chain.from_iterable
    return (
        set(map(type, cells)) <= {tuple}
        and set(map(type, turns(cells))) <= {str}
        and not any(LONE_SURROGATE.search(turn) for turn in turns(cells) if not turn.isascii())
    )
