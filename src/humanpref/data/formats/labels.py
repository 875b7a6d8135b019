"""Read the labels: three or two probabilities, or the winner as a text."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from humanpref.data.cells import names, short
from humanpref.data.formats.forms import described
from humanpref.data.formats.row import CellError
from humanpref.data.pairs import LABEL_SUM_TOLERANCE, WEIGHTS, are_weights
from humanpref.schema import LABEL_COLUMNS

WINNER = "winner"
_WINNERS = {
    "model_a": (0, ""),
    "model_b": (1, ""),
    "tie": (2, ""),
    "tie (bothbad)": (2, "ties in which both are bad"),
    "both_bad": (2, "ties in which both are bad"),
}
"""The winners as text, each with the index of its class and a plural noun for what the class cannot
express, if anything."""


class OneHot:
    """`winner_model_a`, `winner_model_b` and `winner_tie`: probabilities. Without `winner_tie`, the
    rows have two classes."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.ties = LABEL_COLUMNS[2] in columns

    def read(self, cells: Sequence[Any]) -> tuple[list[float], str]:
        values = []
        for column, cell in zip(self.columns, cells, strict=True):
            try:
                values.append(probability(cell))
            except ValueError as error:
                raise CellError(column, error) from None
        if abs(sum(values) - 1) > LABEL_SUM_TOLERANCE:
            raise CellError(
                "", f"columns {names(self.columns)}: expected a sum of 1, got {sum(values):g}"
            )
        return values, ""


class Winner:
    """`winner`: `model_a`, `model_b`, `tie`, `tie (bothbad)` or `both_bad`, in upper or lower case.

    Examples
    --------
    >>> Winner(ties=True).read(["Tie (bothbad)"])
    ([0.0, 0.0, 1.0], 'ties in which both are bad')
    """

    columns = (WINNER,)

    def __init__(self, ties: bool) -> None:
        self.ties = ties

    def read(self, cells: Sequence[Any]) -> tuple[list[float], str]:
        (cell,) = cells
        key = cell.strip().casefold() if isinstance(cell, str) else None
        found, lost = _WINNERS.get(key, (None, ""))
        if found is None or (found == 2 and not self.ties):
            allowed = [text for text, (index, _) in _WINNERS.items() if self.ties or index < 2]
            raise CellError(WINNER, f"expected {', '.join(allowed)}, got {described(cell)}")
        return [float(found == index) for index in range(3 if self.ties else 2)], lost


def probability(cell: Any) -> float:
    """Return a number in [0, 1]. Raises ValueError for anything else."""
    return _number(cell, lambda value: 0 <= value <= 1, "a number in [0, 1]")


def weight(cell: Any) -> float:
    """Return 0 or a number from 1e-9 to 1e9. Raises ValueError for anything else."""
    return _number(cell, are_weights, WEIGHTS)


def _number(cell: Any, valid: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not valid(value):
        raise ValueError(f"expected {expected}, got {short(str(cell))}")
    return value
