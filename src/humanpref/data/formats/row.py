"""The row that every format returns, and the error that it raises for an unreadable cell."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from humanpref.data.cells import as_turns, is_missing
from humanpref.data.formats.forms import Form

Turns = tuple[str, ...]


class Row(NamedTuple):
    """The texts of a row and, if they tell who won, its label."""

    prompt: Turns
    response_a: Turns
    response_b: Turns
    label: int | None = None
    """The index of the winner in `humanpref.schema.CLASSES`, or None if other columns hold it."""
    lost: str = ""
    """A plural noun for the part of the row that a pairs frame cannot hold, or an empty string."""


class CellError(ValueError):
    """Raised for a cell that cannot be read.

    Attributes
    ----------
    column : str
        The column of the cell.
    """

    def __init__(self, column: str, reason: object) -> None:
        super().__init__(str(reason))
        self.column = column


class Format(Protocol):
    """A way to read the texts of a row. A format has no state, so that rows can be read in any
    order."""

    name: str
    """The name of the format, one of `humanpref.schema.FORMATS`."""
    columns: tuple[str, ...]
    """The columns of the texts."""
    form: Form
    """The form of the cells in these columns."""
    description: str
    """The form of the texts, for a message."""

    def read(self, cells: Sequence[Any]) -> Row:
        """Return the row whose cells in `columns` are `cells`. Raises `CellError`."""

    def salvaged(self, cells: Sequence[Any]) -> tuple[Row, list[CellError]]:
        """For a row that `read` rejects, return the row with the rejected cells as plain text, and
        the reasons for the rejection."""


def as_plain(cell: Any) -> Turns:
    """Return any cell as one turn; a missing cell has none."""
    if is_missing(cell):
        return ()
    return as_turns([cell if isinstance(cell, str) else json.dumps(cell, default=str)])
