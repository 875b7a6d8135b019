"""Accuracy, Brier score, per-class metrics, and bootstrap intervals that resample prompts."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from humanpref.logloss import log_loss, row_log_losses
from humanpref.schema import CLASSES

logger = logging.getLogger(__name__)

BOOTSTRAP_DRAWS = 2_000


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the share of rows whose most likely class is the labeled class."""
    return float((labels.argmax(axis=1) == probabilities.argmax(axis=1)).mean())


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean over the rows of sum_c (p_c - y_c)², which is in [0, 2]. For any hard label,
    (1/3, 1/3, 1/3) costs 2/3.

    Source: Brier (1950).
    """
    return float(((probabilities - labels) ** 2).sum(axis=1).mean())


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the number of rows, (3, 3) int64, for each label (first axis) and each most likely
    class (second axis)."""
    cells = 3 * labels.argmax(axis=1) + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=9).reshape(3, 3)


def per_class(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Return, for each class, its `label`, `rows`, `precision`, `recall`, the mean `log_loss` of
    the rows with that label, and its mean `predicted` probability over all rows. A value that would
    require dividing by 0 is None."""
    counts = pd.DataFrame(confusion(labels, probabilities))
    rows, right = counts.sum(axis=1), pd.Series(np.diag(counts))
    losses = pd.Series(row_log_losses(labels, probabilities))
    table = pd.DataFrame(
        {
            "label": CLASSES,
            "rows": rows,
            "precision": right / counts.sum(axis=0),
            "recall": right / rows,
            "log_loss": losses.groupby(labels.argmax(axis=1)).mean(),
            "predicted": probabilities.mean(axis=0),
        }
    )
    return table.astype(object).where(table.notna(), None).to_dict("records")


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, draws: int = BOOTSTRAP_DRAWS
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of `values`, as (low, high).

    Groups (prompts) are resampled together with all their rows, since the rows of a group are not
    independent. The same rows always give the same interval.

    Parameters
    ----------
    values, groups : ndarray
        (n,): one number per row, and each row's group.
    draws : int
        Number of resamples.

    Source: Efron and Tibshirani (1993), chapter 13, with groups as the units.
    """
    _, group = np.unique(groups.astype(str), return_inverse=True)
    sums, sizes = np.bincount(group, weights=values), np.bincount(group)
    rng = np.random.default_rng(0)
    means = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return low, high


def mean_and_interval(
    name: str, values: np.ndarray, groups: np.ndarray, draws: int = BOOTSTRAP_DRAWS
) -> dict[str, float]:
    """Return a dict with the mean under the key `name`, and the ends of its `bootstrap_interval`
    under `name` followed by `_low` and `_high`."""
    low, high = bootstrap_interval(values, groups, draws)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def summarise(
    labels: np.ndarray, probabilities: np.ndarray, prior: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """Summarize predictions by the log loss with its 95 % interval, the accuracy, and the prior's
    log loss on the same rows.

    Every row counts once, regardless of its training weight.

    Parameters
    ----------
    labels, probabilities : ndarray
        (n, 3).
    prior : ndarray
        The class rates of the model's training rows: (3,) for all rows, or (n, 3), one per row.
    groups : ndarray
        (n,) prompt keys.

    Returns
    -------
    dict
        `rows`, `log_loss`, `log_loss_low`, `log_loss_high`, `accuracy`, `prior_log_loss`.
    """
    losses = row_log_losses(labels, probabilities)
    if len(set(groups)) == 1:
        logger.warning(
            "all %d rows have the same prompt: the interval has zero width and says nothing about "
            "other prompts",
            len(labels),
        )
    return {
        "rows": len(labels),
        **mean_and_interval("log_loss", losses, groups),
        "accuracy": accuracy(labels, probabilities),
        "prior_log_loss": log_loss(labels, np.broadcast_to(prior, labels.shape)),
    }
