"""Read single cells from any source: an id, or the turns of a text."""

import json
from typing import Any

import numpy as np
import pandas as pd

from humanpref.schema import LONE_SURROGATE

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_EXACT = 2**53
"""Every whole number below this can be represented exactly as a float."""


def id_text(key: Any) -> str:
    """Return an id as text: text unchanged, and a whole number with all of its digits.

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
            raise ValueError(f"expected a text or an integer below 2**53, got {key!r}")
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


def is_missing(cell: Any) -> bool:
    """Return whether a cell is None, NaN or another missing value of pandas."""
    return cell is None or (pd.api.types.is_scalar(cell) and pd.isna(cell))
