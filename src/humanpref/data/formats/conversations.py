"""Read two whole conversations, as arena-human-preference-100k and -140k and MT-bench have them."""

from collections.abc import Sequence
from typing import Any

from humanpref.data.cells import short
from humanpref.data.formats.forms import Form
from humanpref.data.formats.messages import pair_of, read_messages
from humanpref.data.formats.row import CellError, Row, as_plain

BOTH = ("conversation_a", "conversation_b")
"""The columns of both conversations."""
TURN = "turn"
"""The optional column with the number of turns that were judged. In MT-bench, it is 1 or
2, although the conversations always have two turns. In other data sets, it counts all turns."""


class Conversations:
    """`conversation_a` and `conversation_b`: lists of {role, content} messages. Both have the same
    user messages. `turn`, if present, is the number of turns to read; the later ones are left
    out."""

    name = "conversations"

    def __init__(self, form: Form = Form.MESSAGES, turn: bool = False) -> None:
        self.form = form
        self.columns = (*BOTH, TURN) if turn else BOTH
        self.description = f"{form}, up to the turn in column {TURN!r}" if turn else str(form)

    def read(self, cells: Sequence[Any]) -> Row:
        conversations = []
        for column, cell in zip(BOTH, cells, strict=False):
            try:
                conversations.append(read_messages(cell, self.form))
            except ValueError as error:
                raise CellError(column, error) from None
        row = pair_of(*conversations, BOTH)
        for turn in cells[2:]:
            row = _until(row, turn)
        return row

    def salvaged(self, cells: Sequence[Any]) -> tuple[Row, list[CellError]]:
        try:
            return self.read(cells), []
        except CellError as error:
            return Row((), *map(as_plain, cells[:2])), [error]


def _until(row: Row, turn: Any) -> Row:
    """Return the row with only its first `turn` turns. If this drops turns, `lost` says so."""
    last = len(row.prompt)
    # pandas turns 1 into 1.0 if other rows have no turn.
    number = {str(n): n for n in range(1, last + 1)}.get(str(turn).removesuffix(".0"))
    if number is None:
        raise CellError(
            TURN, f"expected a number of turns from 1 to {last}, got {short(str(turn))}"
        )
    first = [turns[:number] for turns in row[:3]]
    return Row(*first, lost=row.lost if number == last else "turns after the judged one")
