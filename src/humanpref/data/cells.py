"""Text cells from anywhere (a file, a caller's frame, JSON lines), read by one rule that is decided
for all of them together."""

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
    """How the text cells of one frame or file are written: each cell that is seen narrows it.

    Lists, tuples and arrays of strings are turns. Strings that are all JSON lists of strings,
    `null` or empty are parsed as in a file. Strings of which none is such a list are one turn each,
    as they stand: `"[1]"` and `"null"` beside them, too. None and NaN are conversations without
    turns. A mixture, or anything else, is refused.
    """

    def __init__(self) -> None:
        self.forms = frozenset((_TURNS, _JSON, _TEXT))
        self.place = ""

    def see(self, cell: Any, place: str) -> None:
        """Take a cell into account. Raises ValueError (without its place) for one that is not
        written like those before."""
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
        """The turns of a cell that was seen."""
        if not isinstance(cell, str):
            return () if _is_missing(cell) else as_turns(list(cell))
        return parsed_turns(cell) if _JSON in self.forms else as_turns([cell])


def as_pairs(frame: pd.DataFrame, texts: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """A caller's frame as a pairs frame: its texts by one `CellRule`, its ids as text, its rows
    counted from 0.

    A frame of `read_pairs` comes back as it is, after a look that takes a tenth of a second for
    57,477 rows. Other columns are left alone. Without `id`, as a column or as the index's name, the
    rows are numbered.

    Raises
    ------
    InputError
        For a missing or repeated column, or a cell that is not what it must be; the message names
        the row (from 1) and column.
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
    """The turns of one cell of a file. Raises ValueError (without the place, which the caller
    knows)."""
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
    """A list of strings and nulls as a pairs frame holds it. Raises ValueError (without the place)
    for anything else in it."""
    for i, turn in enumerate(turns, start=1):
        if turn is not None and not isinstance(turn, str):
            raise ValueError(
                f"turn {i}: expected a string or null, got {short(json.dumps(turn, default=repr))}"
            )
    return tuple(LONE_SURROGATE.sub(REPLACEMENT, str(turn)) if turn else "" for turn in turns)


def names(columns: object) -> str:
    """The names of columns for a message."""
    return ", ".join(repr(str(column)) for column in columns)


def short(text: str, limit: int = 60) -> str:
    """The beginning of a text, quoted, for a message."""
    return repr(text if len(text) <= limit else text[:limit] + "…")


def _forms(cell: Any) -> frozenset[str]:
    """How a cell may be written. Raises ValueError (without the place) for what is no text and no
    list of turns."""
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
    """Whether cells are what a pairs frame holds: tuples of strings, without a lone surrogate."""
    turns = chain.from_iterable
    return (
        set(map(type, cells)) <= {tuple}
        and set(map(type, turns(cells))) <= {str}
        and not any(LONE_SURROGATE.search(turn) for turn in turns(cells) if not turn.isascii())
    )
