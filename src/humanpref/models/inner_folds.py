"""Inner folds: parts of the training rows that a model holds out from itself to choose by."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.data import inner_splits

ENOUGH_ROWS = 4_000
"""Further folds are skipped once this many rows are held out: the choice is no longer noise."""

Splits = list[tuple[np.ndarray, np.ndarray]]
"""For each inner fold, masks of the rows to learn from and of those to judge by."""


class Labelled(NamedTuple):
    """Training rows: a pairs frame of n rows, their labels (n, 3) and weights (n,)."""

    pairs: pd.DataFrame
    labels: np.ndarray
    weights: np.ndarray

    def part(self, mask: np.ndarray) -> "Labelled":
        """Return some of the rows."""
        pairs = self.pairs[mask].reset_index(drop=True)
        return Labelled(pairs, self.labels[mask], self.weights[mask])


def choosing_splits(rows: Labelled, folds: int, seed: int, least_prompts: int = 0) -> Splits:
    """Return the first of `folds` inner splits, as many as hold out `ENOUGH_ROWS`.

    See `humanpref.data.inner_splits`. There are none for fewer than `least_prompts` prompts, or for
    fewer prompts than folds.
    """
    splits = inner_splits(rows.pairs, folds, seed, rows.labels, least_prompts)
    if not splits:
        return []
    _, judged = splits[0]
    return splits[: math.ceil(ENOUGH_ROWS / max(1, judged.sum()))]
