"""Read a chosen and a rejected answer, as in trl's data sets, and draw which of them is A."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from humanpref.data.formats.forms import Form, read_turns
from humanpref.data.formats.messages import ASSISTANT, USER, Message, pair_of, read_messages
from humanpref.data.formats.row import CellError, Row, Turns, as_plain

PAIR = ("chosen", "rejected")
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")
_ROLES = {"Human": USER, "Assistant": ASSISTANT}


class ChosenRejected:
    """`chosen` and `rejected`, with or without `prompt`: plain texts, lists of strings, or lists of
    {role, content} messages.

    Without `prompt`, both columns begin with the prompt. In messages, and in transcripts with
    `Human:` and `Assistant:`, the prompt consists of the user's messages, which must be the same in
    both columns. In other texts, it is the beginning that both texts share, as in trl.

    A digest of the prompt and the two answers decides which answer is A. It does not depend on
    which answer was chosen, so no label leaks: exchanging `chosen` and `rejected` changes only the
    label. Nor does it depend on other rows.

    Parameters
    ----------
    form : Form
        The form of `chosen` and `rejected`.
    prompt_form : Form, optional
        The form of `prompt`. By default, there is no such column.
    literal : bool
        Take plain texts as they are, even if they are JSON lists.

    Examples
    --------
    >>> read = ChosenRejected(Form.TEXT, Form.TEXT).read
    >>> read(["2 + 2?", "4", "5"])
    Row(prompt=('2 + 2?',), response_a=('4',), response_b=('5',), label=0, lost='')
    >>> read(["2 + 2?", "5", "4"])
    Row(prompt=('2 + 2?',), response_a=('4',), response_b=('5',), label=1, lost='')
    """

    name = "chosen-rejected"

    def __init__(self, form: Form, prompt_form: Form | None = None, literal: bool = False) -> None:
        self.form, self.prompt_form, self.literal = form, prompt_form, literal
        self.columns = PAIR if prompt_form is None else ("prompt", *PAIR)
        implicit = ", the prompt is the common beginning" if prompt_form is None else ""
        self.description = f"{form}{implicit}"

    def read(self, cells: Sequence[Any]) -> Row:
        *prompt, chosen, rejected = cells
        row = self._ordered(*prompt, chosen, rejected)
        return _drawn(row)

    def salvaged(self, cells: Sequence[Any]) -> tuple[Row, list[CellError]]:
        try:
            return self.read(cells), []
        except CellError as error:
            *prompt, chosen, rejected = map(as_plain, cells)
            return _drawn(Row(prompt[0] if prompt else (), chosen, rejected)), [error]

    def _ordered(self, *cells: Any) -> Row:
        """Return the row with the chosen answer as A."""
        if not (self.form.is_messages or (self.prompt_form and self.prompt_form.is_messages)):
            texts = [
                self._turns(column, cell) for column, cell in zip(self.columns, cells, strict=True)
            ]
            return Row(*texts) if self.prompt_form else _split(*texts)
        *prompt, chosen, rejected = (
            self._messages(column, cell) for column, cell in zip(self.columns, cells, strict=True)
        )
        before = prompt[0] if prompt else []
        return pair_of(*(_continued(before, side) for side in (chosen, rejected)), PAIR)

    def _form_of(self, column: str) -> Form:
        return self.form if column in PAIR else self.prompt_form

    def _turns(self, column: str, cell: Any) -> Turns:
        try:
            return read_turns(cell, self._form_of(column), self.literal)
        except ValueError as error:
            raise CellError(column, error) from None

    def _messages(self, column: str, cell: Any) -> list[Message]:
        form = self._form_of(column)
        if not form.is_messages:
            role = ASSISTANT if column in PAIR else USER
            return [Message(role, text) for text in self._turns(column, cell)]
        try:
            return read_messages(cell, form)
        except ValueError as error:
            raise CellError(column, error) from None


def _continued(before: list[Message], side: list[Message]) -> list[Message]:
    """Return the complete conversation: `before` and then `side`, or only `side` if that already
    begins with `before`."""
    return side if side[: len(before)] == before else [*before, *side]


def _split(chosen: Turns, rejected: Turns) -> Row:
    """Split two texts that begin with the same prompt, and return their row."""
    if not len(chosen) == len(rejected) == 1:
        raise CellError("chosen", "expected a text, since there is no column 'prompt'")
    (first,), (second,) = chosen, rejected
    common = os.path.commonprefix([first, second])  # noqa: RUF071 (characters are meant)
    if common.startswith(("\n\nHuman:", "Human:")):
        return pair_of(_transcript(first), _transcript(second), PAIR)
    prompt = common.rstrip()
    if not prompt:
        raise CellError(
            "chosen",
            "expected the same beginning as in 'rejected', which is the prompt if there is no "
            "column 'prompt'; the two begin differently",
        )
    return Row((prompt,), (first[len(common) :],), (second[len(common) :],))


def _transcript(text: str) -> list[Message]:
    """Split a text such as `\\n\\nHuman: Hi\\n\\nAssistant: Hello` into its messages."""
    _, *parts = _SPEAKER.split(text)
    return [
        Message(_ROLES[speaker], said)
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _drawn(row: Row) -> Row:
    """Draw which answer is A, and set the label. In the given row, the chosen answer is A."""
    chosen, rejected = row.response_a, row.response_b
    ordered = sorted((chosen, rejected))
    text = json.dumps([row.prompt, *ordered])
    if hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2:
        ordered.reverse()
    return row._replace(
        response_a=ordered[0], response_b=ordered[1], label=int(ordered[0] != chosen)
    )
