"""Inner folds: parts of the training rows that a model holds out in turn, to choose its penalties
or other hyperparameters by the held-out loss."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.data import inner_splits

ENOUGH_ROWS = 4_000
"""Once this many rows have been held out, further folds are skipped: the held-out loss is then
precise enough."""

Splits = list[tuple[np.ndarray, np.ndarray]]
"""For each inner fold, two masks: of the rows to fit on, and of the held-out rows."""


class Labelled(NamedTuple):
    """Training rows: a pairs frame of n rows, their labels (n, 3) and weights (n,)."""

    pairs: pd.DataFrame
    labels: np.ndarray
    weights: np.ndarray

    def part(self, mask: np.ndarray) -> "Labelled":
        """Return the rows selected by the mask."""
        pairs = self.pairs[mask].reset_index(drop=True)
        return Labelled(pairs, self.labels[mask], self.weights[mask])


def choosing_splits(rows: Labelled, folds: int, seed: int, least_prompts: int = 0) -> Splits:
    """Make `folds` inner splits, but return only the first few: as many as it takes to hold out
    `ENOUGH_ROWS` rows in total.

    See `humanpref.data.inner_splits`. The list is empty if there are fewer than `least_prompts`
    prompts, or fewer prompts than folds.
    """
    splits = inner_splits(rows.pairs, folds, seed, rows.labels, least_prompts)
    if not splits:
        return []
    _, judged = splits[0]
    return splits[: math.ceil(ENOUGH_ROWS / max(1, judged.sum()))]
