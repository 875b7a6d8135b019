"""Tell the format of a table by its columns and its first rows."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from humanpref.data.cells import names
from humanpref.data.formats.chosen_rejected import PAIR, ChosenRejected
from humanpref.data.formats.conversations import BOTH, TURN, Conversations
from humanpref.data.formats.forms import Form, prevailing_form
from humanpref.data.formats.labels import WINNER, OneHot, Winner
from humanpref.data.formats.responses import Responses
from humanpref.data.formats.row import Format
from humanpref.schema import FORMATS, LABEL_COLUMNS, TEXT_COLUMNS, InputError

COMPETITION, PLAIN, WSDM, MESSAGES, CONVERSATIONS, CHOSEN_REJECTED = FORMATS
_TEXTS = {COMPETITION: TEXT_COLUMNS, CONVERSATIONS: BOTH, CHOSEN_REJECTED: PAIR}
"""The columns that identify a format. The entry `competition` also covers the other formats with
the same columns."""
LANGUAGE = "language"
"""If a table has this column, plain texts and a winner, and no row is a tie, it is in WSDM Cup's
format."""


def text_columns(
    header: Sequence[str], source: str, forced: str | None = None, lenient: bool = False
) -> tuple[str, ...]:
    """Return the columns that hold the texts of a table.

    Parameters
    ----------
    header : sequence of str
        The columns of the table.
    source : str
        The name of the table, for a message.
    forced : str, optional
        The name of the format. By default, the columns decide.
    lenient : bool
        If the columns of several formats are present, choose the competition's.

    Raises
    ------
    InputError
        If the table has the complete columns of no format, or of several.

    Examples
    --------
    >>> text_columns(["id", "prompt", "chosen", "rejected"], "rows.csv")
    ('prompt', 'chosen', 'rejected')
    """
    if forced is not None and forced not in FORMATS:
        raise InputError(f"format {forced!r}: expected one of {', '.join(FORMATS)}")
    candidates = _TEXTS if forced is None else {forced: _TEXTS.get(forced, TEXT_COLUMNS)}
    found = [name for name, columns in candidates.items() if set(columns) <= set(header)]
    if not found:
        nearest = max(candidates, key=lambda name: len({*candidates[name]} & {*header}))
        if not {*candidates[nearest]} & {*header} and forced is None:
            known = "; or ".join(", ".join(columns) for columns in candidates.values())
            raise InputError(f"{source}: expected the columns {known}; got {listed(header)}")
        missing = [column for column in candidates[nearest] if column not in header]
        raise InputError(
            f"{source}: missing column {names(missing)}; the columns are {listed(header)}"
        )
    if len(found) > 1 and not lenient:
        raise InputError(
            f"{source}: has the columns of several formats, {' and '.join(found)}; choose one, "
            f"e.g. --format {found[0]}, or {found[0]}:FILE in an option that takes [FORMAT:]ROWS"
        )
    columns = _TEXTS.get(found[0], TEXT_COLUMNS)
    if columns == BOTH and TURN in header:
        return (*columns, TURN)
    return ("prompt", *columns) if columns == PAIR and "prompt" in header else columns


def format_of(
    columns: Sequence[str],
    head: Iterable[Sequence[Any]],
    forced: str | None = None,
    literal: bool = False,
) -> Format:
    """Return the format of the texts.

    Parameters
    ----------
    columns : sequence of str
        The columns of the texts, from `text_columns`.
    head : iterable of sequences
        The cells of the first rows in these columns. All rows are expected to have the form that
        most of these cells have.
    forced : str, optional
        The name of the format. By default, the columns and the form decide.
    literal : bool
        Take plain texts as they are, even if they are JSON lists. A forced format implies it.
    """
    literal = literal or forced is not None
    cells = list(zip(*head, strict=True)) or [()] * len(columns)
    if tuple(columns) != TEXT_COLUMNS:
        texts = cells[:2] if TURN in columns else cells[-2:]
        form = prevailing_form(cell for own in texts for cell in own)
        if tuple(columns[:2]) == BOTH:
            own = form if form and form.is_messages else Form.MESSAGES
            return Conversations(own, TURN in columns)
        prompt = prevailing_form(cells[0]) or Form.TEXT if len(columns) > len(PAIR) else None
        return ChosenRejected(form or Form.TEXT, prompt, literal)
    form = prevailing_form(cell for own in cells for cell in own) or Form.JSON_TURNS
    if forced in (PLAIN, WSDM):
        form = Form.TEXT
    elif forced == COMPETITION and form not in (Form.TURNS, Form.JSON_TURNS):
        form = Form.JSON_TURNS
    elif forced == MESSAGES and not form.is_messages:
        form = Form.MESSAGES
    own = MESSAGES if form.is_messages else PLAIN if form is Form.TEXT else COMPETITION
    return Responses(forced or own, form, literal)


def label_reader(
    header: Collection[str], source: str, required: bool | None, forced: str | None = None
) -> OneHot | Winner | None:
    """Return the reader of the labels, or None if there are none to read.

    Parameters
    ----------
    header : collection of str
        The columns of the table.
    source : str
        The name of the table, for a message.
    required : bool, optional
        If True, labels are required; if None, they are read if the table has them.
    forced : str, optional
        The name of the format; `wsdm` has no ties.

    Raises
    ------
    InputError
        If labels are required and missing or incomplete, or if the table has both the winner and
        probabilities as labels.
    """
    present = [column for column in LABEL_COLUMNS if column in header]
    if WINNER in header and present:
        raise InputError(
            f"{source}: has labels in the column {WINNER!r} and in {names(present)}; remove one"
        )
    if WINNER in header:
        return Winner(ties=forced != WSDM)
    if not present and not required:
        return None
    if missing := [column for column in LABEL_COLUMNS[:2] if column not in header]:
        missing = [column for column in LABEL_COLUMNS if column not in header]
        hint = "" if present else "; a file without labels, like a test file, can only be predicted"
        raise InputError(
            f"{source}: missing column {names(missing)} (or {WINNER!r}); the columns are "
            f"{listed(header)}{hint}"
        )
    return OneHot(present)


def looks_like_wsdm(name: str, header: Collection[str]) -> bool:
    """Return whether a table has the columns of WSDM Cup's format, although the format `name` was
    detected. The caller must also check that no row is a tie."""
    return name == PLAIN and {WINNER, LANGUAGE} <= set(header)


def listed(header: Collection[str]) -> str:
    """Return the quoted names of the first columns, for a message."""
    return (names([*header][:12]) + (" …" if len(header) > 12 else ""))[:300]
