"""The columns of a pairs frame, the order of the classes, and the exception raised for bad input.

A *pairs frame* is a `pandas.DataFrame` with a `RangeIndex` and at least

- `id`: str, spelled as in the file, unique;
- `prompt`, `response_a`, `response_b`: tuple of str, one string per turn of the conversation, empty
  for a conversation without turns;

and, if known, ``model_a`` and ``model_b`` (str), the three label columns (float64 in [0, 1],
summing to 1: one-hot or soft) and ``weight`` (float64, finite, not negative). A labeled frame
without ``winner_tie`` comes from a format that has no ties. `humanpref.data.read_pairs` builds such
a frame and checks these rules.
"""

import contextlib
import re
from collections.abc import Callable, Iterator

ID = "id"
TEXT_COLUMNS = ("prompt", "response_a", "response_b")
MODEL_COLUMNS = ("model_a", "model_b")
LABEL_COLUMNS = ("winner_model_a", "winner_model_b", "winner_tie")
WEIGHT = "weight"

FORMATS = ("competition", "plain", "wsdm", "messages", "conversations", "chosen-rejected")
"""The formats of pairs that `humanpref.data.read_pairs` reads (`humanpref.data.formats`)."""

CLASSES = ("A", "B", "tie")
"""The order of the three classes, in labels, logits, probabilities and files."""

SWAPPED_CLASSES = (1, 0, 2)
"""The index of each class after A and B are exchanged. `probabilities[:, SWAPPED_CLASSES]`
exchanges the columns of A and B."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Matches a lone surrogate: half of a character, which cannot be encoded. The texts of a pairs
frame contain none."""


class InputError(ValueError):
    """Raised for unusable user input. The message names the file, row, column or option, the
    expected value and the actual one.

    The command line prints it on one line and exits with status 2. Any other exception is a bug in
    humanpref and is shown with its traceback.
    """


def counted(number: int, noun: str, ending: str = "s") -> str:
    """Return a count with its noun, which gets the plural's `ending` unless the count is 1.

    Examples
    --------
    >>> counted(1, "row"), counted(2, "row"), counted(0, "process", "es")
    ('1 row', '2 rows', '0 processes')
    """
    return f"{number} {noun}{'' if number == 1 else ending}"


@contextlib.contextmanager
def refuse_failures(message: str | Callable[[BaseException], str]) -> Iterator[None]:
    """Convert any exception in the block, except a lack of memory, to an InputError.

    This is for blocks in which a library reads files from somebody else: if the files are damaged,
    the library may raise almost any exception.

    Parameters
    ----------
    message : str or callable
        The InputError's message, to which the exception is appended; or a function that takes the
        exception and returns the complete message.

    Examples
    --------
    >>> with refuse_failures("rates.json: cannot be read"):
    ...     [1 / 2, 1 / 2][2]
    Traceback (most recent call last):
    humanpref.schema.InputError: rates.json: cannot be read (IndexError: list index out of range)
    """
    try:
        yield
    except BaseException as error:
        kind = type(error).__name__
        # A panic in a library written in Rust is not a subclass of Exception.
        if not isinstance(error, Exception) and kind != "PanicException":
            raise
        if isinstance(error, InputError | MemoryError) or kind == "OutOfMemoryError":
            raise
        text = (str(error).strip().splitlines() or [""])[0][:200].rstrip(" :")
        reason = f"{kind}: {text}" if text else kind
        told = f"{message} ({reason})" if isinstance(message, str) else message(error)
        raise InputError(told) from error
