"""Read a prompt and two responses in three columns, as in the LMSYS and WSDM Cup competitions."""

from collections.abc import Sequence
from typing import Any

from humanpref.data.formats.forms import Form, read_turns
from humanpref.data.formats.messages import Message, pair_of, read_messages
from humanpref.data.formats.row import CellError, Row, Turns, as_plain
from humanpref.schema import TEXT_COLUMNS


class Responses:
    """`prompt`, `response_a` and `response_b`: lists of strings with one string or null per turn
    (`competition`), plain texts with one turn each (`plain`, `wsdm`), or lists of messages
    (`messages`).

    Examples
    --------
    >>> Responses("competition", Form.JSON_TURNS).read(['["Hi"]', '["Hello"]', "null"])[:3]
    (('Hi',), ('Hello',), ())
    >>> Responses("plain", Form.TEXT).read(["Hi", "Hello", "null"])[:3]
    (('Hi',), ('Hello',), ('null',))
    """

    columns = TEXT_COLUMNS

    def __init__(self, name: str, form: Form, literal: bool = False) -> None:
        self.name, self.form, self.literal = name, form, literal
        self.description = str(form)

    def read(self, cells: Sequence[Any]) -> Row:
        values: list[Any] = []
        try:
            for cell in cells:
                values.append(self._read(cell))
        except ValueError as error:
            raise CellError(self.columns[len(values)], error) from None
        if not self.form.is_messages:
            return Row(*values)
        prompt, a, b = values
        return pair_of([*prompt, *a], [*prompt, *b], self.columns[1:])

    def _read(self, cell: Any) -> Turns | list[Message]:
        if self.form.is_messages:
            return read_messages(cell, self.form)
        return read_turns(cell, self.form, self.literal)

    def salvaged(self, cells: Sequence[Any]) -> tuple[Row, list[CellError]]:
        turns, errors = [], []
        for column, cell in zip(self.columns, cells, strict=True):
            try:
                turns.append(read_turns(cell, self.form, self.literal))
            except ValueError as error:
                errors.append(CellError(column, error))
                turns.append(as_plain(cell))
        return Row(*turns), errors
