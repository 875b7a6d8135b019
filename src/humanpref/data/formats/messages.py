"""Read lists of {role, content} messages, and turn two conversations into a pair."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from humanpref.data.cells import as_turns, is_missing, short
from humanpref.data.formats.forms import Form, described, is_list
from humanpref.data.formats.row import CellError, Row

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


class Message(NamedTuple):
    """A message of a conversation."""

    role: str
    content: str


def read_messages(cell: Any, form: Form = Form.MESSAGES) -> list[Message]:
    """Return the messages of a cell; a missing cell has none.

    The content of a message is a string, null, or a list of parts of type `text`, as in
    arena-human-preference-140k.

    Raises
    ------
    ValueError
        If the cell is not a list of messages; the message leaves out the cell's location.

    Examples
    --------
    >>> read_messages([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    [Message(role='user', content='Hi')]
    """
    if isinstance(cell, str) and form.is_json:
        try:
            cell = json.loads(cell or "null")
        except (ValueError, RecursionError):
            raise ValueError(f"not JSON, expected {form}, got {short(cell)}") from None
    if is_missing(cell):
        return []
    if not is_list(cell):
        raise ValueError(f"expected {form}, got {described(cell)}")
    return [_message(number, item) for number, item in enumerate(cell, start=1)]


def _message(number: int, item: Any) -> Message:
    if not isinstance(item, dict) or not isinstance(item.get("role"), str):
        raise ValueError(
            f"message {number}: expected an object with role and content, got {described(item)}"
        )
    content = item.get("content")
    parts = content if is_list(content) else [content]
    try:
        (text,) = as_turns(["".join(_text(part) for part in parts)])
    except ValueError as error:
        raise ValueError(f"message {number}: {error}") from None
    return Message(item["role"], text)


def _text(part: Any) -> str:
    """Return the text of one part of a message's content."""
    if isinstance(part, dict) and part.get("type") == "text":
        part = part.get("text")
    if part is None:
        return ""
    if not isinstance(part, str):
        raise ValueError(f"expected the content to be text, got {described(part)}")
    return part


def pair_of(first: list[Message], second: list[Message], columns: Sequence[str]) -> Row:
    """Convert two conversations, with the same messages of the user, into one row.

    The user's messages are the turns of the prompt, and the assistant's messages those of the
    responses. A system message is put before the first turn of the prompt, with an empty line
    between them.

    Parameters
    ----------
    first, second : list of Message
        The conversations with A and with B.
    columns : sequence of str
        The columns of both conversations, for an error message.

    Raises
    ------
    CellError
        If a conversation does not alternate between user and assistant, or if the conversations
        differ in what the user or the system says.

    Examples
    --------
    >>> ask = Message("user", "2 + 2?")
    >>> pair_of([ask, Message("assistant", "4")], [ask, Message("assistant", "5")], ["a", "b"])[:3]
    (('2 + 2?',), ('4',), ('5',))
    """
    (system, users, a), (other, others, b) = (
        _sides(messages, column) for messages, column in zip((first, second), columns, strict=True)
    )
    if (system, users) != (other, others):
        pairs = zip(users, others, strict=False)
        number = next((i for i, (one, two) in enumerate(pairs, start=1) if one != two), 0)
        what = f"message {number} of the user" if number else "what the user or the system says"
        raise CellError(columns[1], f"{what} differs from that in column {columns[0]!r}")
    if system is not None:
        users = [f"{system}\n\n{users[0]}" if users else system, *users[1:]]
    return Row(tuple(users), tuple(a), tuple(b), lost="" if system is None else "system messages")


def _sides(messages: list[Message], column: str) -> tuple[str | None, list[str], list[str]]:
    """Return the system's message (or None), the user's messages and the assistant's messages."""
    system = None
    if messages and messages[0].role == SYSTEM:
        (_, system), *messages = messages
    for i, message in enumerate(messages):
        expected = (USER, ASSISTANT)[i % 2]
        if message.role != expected:
            number = i + 1 + (system is not None)
            raise CellError(
                column, f"message {number}: expected role {expected!r}, got {message.role!r}"
            )
    if len(messages) % 2:
        raise CellError(column, "ends with a message of the user, expected an answer")
    texts = [message.content for message in messages]
    return system, texts[::2], texts[1::2]
