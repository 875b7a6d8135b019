"""Wrapper selection of columns: LightGBM ranks them, then they are added or removed one at a time
as long as the held-out loss falls."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.bar import shown
from humanpref.files import read_json, write_json

logger = logging.getLogger(__name__)

SELECTION_FILE = "selection.csv"
"""The file in a model's folder that holds the steps of its selection (`Selection.path`)."""


class Selection(NamedTuple):
    """The chosen columns, and the steps that led to them.

    Attributes
    ----------
    columns : list of int
        The indices of the chosen columns, in ascending order.
    path : DataFrame
        One row per step: `step` (from 0), `action` (`start`, `add` or `remove`), `column` (its
        name), `columns` (their number after the step), `log_loss` (held out, in nats) and `kept`
        (False for the last step if it did not lower the loss).
    """

    columns: list[int]
    path: pd.DataFrame


def importance_order(
    matrix: np.ndarray, classes: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """Return the columns' indices, most important first, ranked by their total gain in a small
    LightGBM model of the three classes.

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
) -> Selection:
    """Start with no columns (forward) or with all candidates (backward). Repeatedly add (forward)
    or remove (backward) the column whose addition or removal lowers the held-out loss most, until
    no column lowers it.

    Parameters
    ----------
    direction : str
        `forward` or `backward`.
    candidates : sequence of int
        Indices of the columns to choose from, most important first.
    names : sequence of str
        Names of all columns.
    loss_of : callable
        A function that takes a list of column indices (ascending, at least one) and returns their
        held-out log loss. The same columns must give the same loss.
    checkpoint : Path, optional
        A file in which every loss is saved as it is computed, so that an interrupted selection
        resumes where it stopped. An existing file must come from the same rows and options. The
        caller deletes it afterwards.

    Notes
    -----
    For n candidates, this takes at most about n² / 2 evaluations. Source: Kohavi and John (1997),
    "Wrappers for feature subset selection".
    """
    known: dict[str, float] = {}
    if checkpoint is not None and checkpoint.is_file():
        known = read_json(checkpoint)

    def loss(columns: set[int]) -> float:
        key = ",".join(map(str, sorted(columns)))
        if key not in known:
            known[key] = float(loss_of(sorted(columns)))
            if checkpoint is not None:
                write_json(checkpoint, known)
        return known[key]

    forward = direction == "forward"
    chosen = set() if forward else set(candidates)
    current = np.inf if forward else loss(chosen)
    path = [] if forward else [("start", "", len(chosen), current, True)]
    while True:
        neighbours = {
            column: chosen ^ {column}
            for column in candidates
            if (column in chosen) != forward and chosen != {column}
        }
        if not neighbours:
            break
        name = f"selection, step {len(path) + 1}"
        losses = {column: loss(neighbours[column]) for column in shown([*neighbours], name, "set")}
        moved = min(losses, key=losses.__getitem__)
        lowest, action = loss(neighbours[moved]), "add" if forward else "remove"
        better = lowest < current
        path.append((action, names[moved], len(neighbours[moved]), lowest, better))
        note = "" if better else ", no improvement"
        logger.info("selection: %s %s: %.5f%s", action, names[moved], lowest, note)
        if not better:
            break
        chosen, current = neighbours[moved], lowest
    frame = pd.DataFrame(path, columns=["action", "column", "columns", "log_loss", "kept"])
    frame.insert(0, "step", np.arange(len(frame)))
    return Selection(sorted(chosen), frame)
