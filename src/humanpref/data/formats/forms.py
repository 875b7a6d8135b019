"""Tell in which form a cell holds its texts: lists of strings, lists of messages or plain texts."""

import json
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import numpy as np

from humanpref.data.cells import as_turns, is_missing, parsed_turns, short


class Form(StrEnum):
    """The form of a column's cells. Its value completes the phrase "expected …"."""

    TURNS = "a list of strings"
    JSON_TURNS = "a JSON list of strings"
    MESSAGES = "a list of messages"
    JSON_MESSAGES = "a JSON list of messages"
    TEXT = "a plain string"
    PYTHON = "a list in Python's notation"

    def __init__(self, _: str) -> None:
        self.is_json = "JSON" in self
        """Whether the cells are JSON in strings, which must be decoded."""
        self.is_messages = "messages" in self
        """Whether the cells are lists of messages."""


def form_of(cell: Any) -> Form | None:
    """Return the form of one cell. A missing cell and the strings `""` and `"null"` may have any
    form, so the result for them is None.

    >>> form_of('["Hello"]'), form_of([{"role": "user", "content": "Hello"}]), form_of("")
    (<Form.JSON_TURNS: 'a JSON list of strings'>, <Form.MESSAGES: 'a list of messages'>, None)
    """
    if isinstance(cell, str):
        text = cell.strip()
        if not cell or text == "null":
            return None
        if not text.startswith("["):
            return Form.TEXT
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            quoted = text[1:2] in ("'", '"', "{") and text.endswith("]")
            return Form.PYTHON if quoted else Form.TEXT
        if any(isinstance(item, dict) for item in items):
            return Form.JSON_MESSAGES
        strings = all(item is None or isinstance(item, str) for item in items)
        return Form.JSON_TURNS if strings else Form.TEXT
    if is_missing(cell):
        return None
    if not is_list(cell):
        return Form.TEXT
    return Form.MESSAGES if any(isinstance(item, dict) for item in cell) else Form.TURNS


def prevailing_form(cells: Iterable[Any]) -> Form | None:
    """Return the most frequent form of the cells, or None if `form_of` finds no form for any cell.
    Of two equally frequent forms, return the one that comes first in `Form`."""
    counts = Counter(map(form_of, cells))
    found = [form for form in Form if counts[form]]
    return max(found, key=counts.__getitem__, default=None)


def read_turns(cell: Any, form: Form, literal: bool = False) -> tuple[str, ...]:
    """Return the turns of a cell that is not a list of messages.

    Parameters
    ----------
    cell : object
        A raw cell. A missing one is a conversation without turns.
    form : Form
        The form of the file's cells.
    literal : bool
        Take a plain text as it is, even if it is a JSON list.

    Raises
    ------
    ValueError
        If the cell has a different form; the message leaves out the cell's location.
    """
    if isinstance(cell, str):
        if form is Form.JSON_TURNS:
            return parsed_turns(cell)
        if form is Form.TEXT:
            if not literal and (other := _json_form(cell)):
                raise ValueError(
                    f"expected {form} as in most rows, got {other}: {short(cell)}; to take "
                    "it as plain text, name the format (--format, or format=)"
                )
            return as_turns([cell])
        if form is Form.PYTHON:
            raise ValueError(f"expected JSON or a plain string, got {form}: {short(cell)}")
    elif is_missing(cell):
        return ()
    elif form is Form.TURNS and is_list(cell):
        return as_turns(list(cell))
    raise ValueError(f"expected {form}, got {described(cell)}")


def _json_form(cell: str) -> Form | None:
    """Return the form of a cell if it is a JSON list."""
    form = form_of(cell) if cell.lstrip().startswith("[") else None
    return form if form and form.is_json else None


def is_list(cell: Any) -> bool:
    """Return whether a cell is a list, a tuple or a one-dimensional array."""
    return isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim == 1)


def described(cell: Any) -> str:
    """Return a cell's type and beginning, for a message."""
    return short(cell) if isinstance(cell, str) else f"{type(cell).__name__} {short(str(cell))}"
