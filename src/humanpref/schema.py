"""The columns of a pairs frame, the order of the classes, and the error that bad input raises.

A *pairs frame* is a `pandas.DataFrame` with a `RangeIndex` and at least

- `id`: str, as the file spells it, unique;
- `prompt`, `response_a`, `response_b`: tuple of str, one string per turn of the conversation, empty
  for a conversation without turns;

and, where they are known, ``model_a`` and ``model_b`` (str), the three label columns (float64 in
[0, 1], summing to 1: one-hot or soft) and ``weight`` (float64, finite, not negative).
`humanpref.data.read_pairs` makes such a frame and is where its rules are checked.
"""

ID = "id"
TEXT_COLUMNS = ("prompt", "response_a", "response_b")
MODEL_COLUMNS = ("model_a", "model_b")
LABEL_COLUMNS = ("winner_model_a", "winner_model_b", "winner_tie")
WEIGHT = "weight"

CLASSES = ("A", "B", "tie")
"""The order of the three classes, in labels, logits, probabilities and files."""

SWAPPED_CLASSES = (1, 0, 2)
"""Where each class goes when the two answers change places: `probabilities[:, SWAPPED_CLASSES]`."""


class InputError(ValueError):
    """What a user gave cannot be used. The message names the file, row, column or option, what was
    expected and what came.

    The command line prints it in one line and exits with 2. Any other exception is a defect of ours
    and keeps its traceback.
    """
