"""Read the texts of a caller's frame or of JSON lines. All texts of one source must have the same
form."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data.cells import id_text, names
from humanpref.data.formats.forms import Form, described, form_of, read_turns
from humanpref.schema import ID, LONE_SURROGATE, TEXT_COLUMNS, InputError

_FORMS = {Form.MESSAGES: Form.TURNS, Form.JSON_MESSAGES: Form.TEXT, Form.PYTHON: Form.TEXT}
"""Forms of cells that are not recognized in a frame, each with the form as which such cells are
read instead."""


class CellRule:
    """The form of the texts in one frame or file. The first cell that has a form decides.

    Lists, tuples and arrays of strings are turns. If the first string is a JSON list of strings,
    all strings are parsed as in a file; otherwise, each string is taken unchanged as one turn, even
    `"[1]"` or `"null"`. None and NaN are conversations without turns, as are `""` and `"null"` if
    the texts are lists. Any other cell, or a mixture of forms, is rejected.
    """

    def __init__(self) -> None:
        self.form: Form | None = None
        self.place = ""

    def see(self, cell: Any, place: str) -> None:
        """Check a cell. Raises ValueError if it cannot be read, or has a different form than the
        cells before it.

        `place` is the location of the cell. It is named in the message if a later cell has a
        different form.
        """
        form = form_of(cell)
        form = _FORMS.get(form, form)
        if self.form is None:
            self.form, self.place = form, place
        elif form not in (None, self.form):
            raise ValueError(
                f"expected {self.form} as in {self.place}, got {described(cell)}; use one form for "
                "all texts"
            )
        if form is not Form.JSON_TURNS:  # `form_of` has already parsed cells of that form
            self.turns(cell)

    def turns(self, cell: Any) -> tuple[str, ...]:
        """Return the turns of a cell that `see` has accepted."""
        if isinstance(cell, str) and self.form is Form.TURNS:
            return ()
        return read_turns(cell, self.form or Form.JSON_TURNS, literal=True)


def as_pairs(frame: pd.DataFrame, texts: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Convert a caller's frame into a pairs frame: texts are read by one `CellRule`, ids become
    strings, and the index becomes a `RangeIndex`.

    A frame from `read_pairs` is returned unchanged; checking it takes a tenth of a second for
    57,477 rows. Only `id` and the columns in `texts` are converted. If `id` is neither a column nor
    the name of the index, the rows are numbered from 0.

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


def _are_turns(cells: list) -> bool:
    """Return whether all cells are tuples of strings without lone surrogates, as in a pairs
    frame."""
    turns = chain.from_iterable
    return (
        set(map(type, cells)) <= {tuple}
        and set(map(type, turns(cells))) <= {str}
        and not any(LONE_SURROGATE.search(turn) for turn in turns(cells) if not turn.isascii())
    )
