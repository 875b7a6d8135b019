"""Accuracy, Brier score, per-class metrics, and bootstrap intervals by prompt."""

import logging
from typing import Any

import numpy as np

from humanpref.logloss import log_loss, row_log_losses
from humanpref.schema import CLASSES

logger = logging.getLogger(__name__)

BOOTSTRAP_DRAWS = 2_000


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of rows whose likeliest class is the label's likeliest."""
    return float((labels.argmax(axis=1) == probabilities.argmax(axis=1)).mean())


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the rows of sum_c (p_c - y_c)², from 0 to 2. (1/3, 1/3, 1/3) costs 2/3 under any
    hard label.

    Source: Brier (1950).
    """
    return float(((probabilities - labels) ** 2).sum(axis=1).mean())


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(3, 3) int64: rows of each label (first axis) by the likeliest class."""
    counts = np.zeros((3, 3), dtype=np.int64)
    np.add.at(counts, (labels.argmax(axis=1), probabilities.argmax(axis=1)), 1)
    return counts


def per_class(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Of each class: `label`, `rows`, `precision`, `recall` and `log_loss` of its rows (None
    without rows), mean `predicted`."""
    counts, losses = confusion(labels, probabilities), row_log_losses(labels, probabilities)
    found, records = labels.argmax(axis=1), []
    for number, label in enumerate(CLASSES):
        rows, predicted = int(counts[number].sum()), int(counts[:, number].sum())
        records.append(
            {
                "label": label,
                "rows": rows,
                "precision": float(counts[number, number] / predicted) if predicted else None,
                "recall": float(counts[number, number] / rows) if rows else None,
                "log_loss": float(losses[found == number].mean()) if rows else None,
                "predicted": float(probabilities[:, number].mean()),
            }
        )
    return records


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray,
    level: float = 0.95,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over rows, resampling whole groups (prompts), since
    their rows hang together.

    Parameters
    ----------
    values : ndarray
        (n,) one number per row.
    groups : ndarray
        (n,) each row's group.
    level : float
        Coverage.
    draws : int
        Resamples.
    seed : int
        Of the resampling: the same rows give the same interval.

    Returns
    -------
    (low, high) : float
        Source: Efron and Tibshirani (1993), chapter 13, with groups as the units.
    """
    _, group = np.unique(groups.astype(str), return_inverse=True)
    sums, sizes = np.bincount(group, weights=values), np.bincount(group)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(
    labels: np.ndarray, probabilities: np.ndarray, prior: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """Summarize predictions: log loss with its 95 % interval, accuracy, and the prior's log loss
    on the same rows.

    Every row counts once, whatever its training weight.

    Parameters
    ----------
    labels, probabilities : ndarray
        (n, 3).
    prior : ndarray
        (3,) or (n, 3): the class rates of the rows that the model (of each row) was trained on.
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
            "%d rows of one prompt: the interval has no width, and says nothing of other prompts",
            len(labels),
        )
    low, high = bootstrap_interval(losses, groups)
    return {
        "rows": len(labels),
        "log_loss": float(losses.mean()),
        "log_loss_low": low,
        "log_loss_high": high,
        "accuracy": accuracy(labels, probabilities),
        "prior_log_loss": log_loss(labels, np.broadcast_to(prior, labels.shape)),
    }
