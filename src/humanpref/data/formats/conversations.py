"""Read two whole conversations, as arena-human-preference-100k and -140k have them."""

from collections.abc import Sequence
from typing import Any

from humanpref.data.formats.forms import Form
from humanpref.data.formats.messages import pair_of, read_messages
from humanpref.data.formats.row import CellError, Row, as_plain


class Conversations:
    """`conversation_a` and `conversation_b`: lists of {role, content} messages. Both have the same
    user messages."""

    name = "conversations"
    columns = ("conversation_a", "conversation_b")

    def __init__(self, form: Form = Form.MESSAGES) -> None:
        self.form, self.description = form, str(form)

    def read(self, cells: Sequence[Any]) -> Row:
        conversations = []
        for column, cell in zip(self.columns, cells, strict=True):
            try:
                conversations.append(read_messages(cell, self.form))
            except ValueError as error:
                raise CellError(column, error) from None
        return pair_of(*conversations, self.columns)

    def salvaged(self, cells: Sequence[Any]) -> tuple[Row, list[CellError]]:
        try:
            return self.read(cells), []
        except CellError as error:
            return Row((), *map(as_plain, cells)), [error]
