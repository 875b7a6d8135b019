"""Wrapper selection of columns: those that matter, ranked by LightGBM, then added or removed while
the held-out loss falls."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.files import read_json, write_json

logger = logging.getLogger(__name__)

SELECTION_FILE = "selection.csv"
"""Where a model folder keeps the path of its selection."""


class Selection(NamedTuple):
    """The chosen columns' places, ascending, and the path to them.

    The path has one row per step: `step` from 0, `action` (`start`, `add` or `remove`), `column`
    (its name), `columns` (how many there are now), `log_loss` (held out, nats) and `kept` (False
    for the last step, which did not lower the loss).
    """

    columns: list[int]
    path: pd.DataFrame


def importance_order(
    matrix: np.ndarray, classes: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """The columns by falling total gain in a small LightGBM model of the three classes.

    Parameters
    ----------
    matrix : ndarray
        (n, columns) float.
    classes : ndarray
        (n,) in {0, 1, 2}.
    weights : ndarray
        (n,) float.
    seed : int
        The same seed gives the same order.
    """
    import lightgbm

    parameters = {
        "objective": "multiclass",
        "num_class": 3,
        "num_leaves": 7,
        "learning_rate": 0.05,
        "min_child_samples": 20,
        "lambda_l2": 10.0,
        "feature_fraction": 0.5,
        "seed": seed,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    booster = lightgbm.train(
        parameters, lightgbm.Dataset(matrix, classes, weight=weights), num_boost_round=100
    )
    return np.argsort(-booster.feature_importance("gain"), kind="stable")


def select(
    direction: str,
    candidates: Sequence[int],
    names: Sequence[str],
    loss_of: Callable[[list[int]], float],
    checkpoint: Path | None = None,
    fingerprint: str = "",
) -> Selection:
    """Walk from no column forward, or from all candidates backward, always to the best neighbour,
    until none is better.

    Parameters
    ----------
    direction : str
        `forward` or `backward`.
    candidates : sequence of int
        Columns to choose among, the most important first.
    names : sequence of str
        Of all columns.
    loss_of : callable
        The held-out log loss of a set of columns (ascending, at least one); the same set must give
        the same loss.
    checkpoint : Path, optional
        A file that keeps every loss found, so that an interrupted selection goes on with the next
        one.
    fingerprint : str
        Of all that `loss_of` depends on: losses kept under another one are not taken.

    Notes
    -----
    At most candidates² / 2 evaluations. Source: Kohavi and John (1997), "Wrappers for feature
    subset selection".
    """
    losses = _Losses(loss_of, checkpoint, fingerprint)
    chosen = set() if direction == "forward" else set(candidates)
    current = np.inf if direction == "forward" else losses(chosen)
    path = [] if direction == "forward" else [("start", "", len(chosen), current, True)]
    action = "add" if direction == "forward" else "remove"
    while True:
        movable = [c for c in candidates if (c not in chosen) == (direction == "forward")]
        neighbours = [chosen ^ {column} for column in movable if chosen != {column}]
        if not neighbours:
            break
        found = [losses(neighbour) for neighbour in neighbours]
        best = int(np.argmin(found))
        (moved,) = chosen ^ neighbours[best]
        better = found[best] < current
        path.append((action, names[moved], len(neighbours[best]), found[best], better))
        logger.info(
            "selection: %s %s: %.5f%s",
            action,
            names[moved],
            found[best],
            "" if better else ", no better",
        )
        if not better:
            break
        chosen, current = neighbours[best], found[best]
    frame = pd.DataFrame(path, columns=["action", "column", "columns", "log_loss", "kept"])
    frame.insert(0, "step", np.arange(len(frame)))
    return Selection(sorted(chosen), frame)


class _Losses:
    """The loss of each set of columns, found once and kept in the checkpoint."""

    def __init__(
        self, loss_of: Callable[[list[int]], float], checkpoint: Path | None, fingerprint: str
    ) -> None:
        self.loss_of, self.checkpoint, self.fingerprint = loss_of, checkpoint, fingerprint
        kept = read_json(checkpoint) if checkpoint is not None and checkpoint.is_file() else {}
        self.known: dict[str, float] = (
            kept["losses"] if kept.get("fingerprint") == fingerprint else {}
        )

    def __call__(self, columns: set[int]) -> float:
        key = ",".join(map(str, sorted(columns)))
        if key not in self.known:
            self.known[key] = float(self.loss_of(sorted(columns)))
            if self.checkpoint is not None:
                write_json(self.checkpoint, {"fingerprint": self.fingerprint, "losses": self.known})
        return self.known[key]
