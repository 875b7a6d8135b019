"""Accuracy, Brier score, per-class metrics, and bootstrap intervals that resample prompts."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import without_ties
from humanpref.logloss import row_log_losses
from humanpref.schema import CLASSES, counted

logger = logging.getLogger(__name__)

BOOTSTRAP_DRAWS = 2_000


def decided(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | int | None]:
    """Summarize the choice between A and B on the decided rows, whose label is A or B.

    Below, p is P(A) / (P(A) + P(B)), and y is 1 for label A and 0 for label B.

    Parameters
    ----------
    labels, probabilities : ndarray
        (n, 3).

    Returns
    -------
    dict
        `decided_rows`, the number of these rows; `decided_accuracy`, the share of them in
        which the likelier of A and B is the label; `decided_auc`, the probability that a row
        with label A has a larger p than a row with label B (0.5 by chance); `decided_brier`, the
        mean of (p - y)², in [0, 1]. A value for which there are no rows is None.
    """
    from sklearn.metrics import roc_auc_score  # too slow to import for commands that need no AUC

    rows = (labels.argmax(axis=1) != 2) & (labels[:, 0] != labels[:, 1])
    first = labels[rows, 0] > labels[rows, 1]
    p = without_ties(probabilities[rows])[:, 0]
    both = 0 < first.sum() < len(first)
    return {
        "decided_rows": len(first),
        "decided_accuracy": float(((p >= 0.5) == first).mean()) if len(first) else None,
        "decided_auc": float(roc_auc_score(first, p)) if both else None,
        "decided_brier": float(((p - first) ** 2).mean()) if len(first) else None,
    }


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the share of rows whose most likely class is the labeled class."""
    return float((labels.argmax(axis=1) == probabilities.argmax(axis=1)).mean())


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean over the rows of sum_c (p_c - y_c)², where p_c is the probability of class c
    and y_c its label. It is in [0, 2]; for any hard label, (1/3, 1/3, 1/3) costs 2/3.

    Source: Brier (1950).
    """
    return float(((probabilities - labels) ** 2).sum(axis=1).mean())


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the confusion matrix of k classes, (k, k) int64: the number of rows by label (matrix
    row) and by most likely class (matrix column)."""
    from sklearn.metrics import confusion_matrix  # too slow to import for commands without it

    likeliest = labels.argmax(axis=1), probabilities.argmax(axis=1)
    return confusion_matrix(*likeliest, labels=range(labels.shape[1]))


def per_class(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Return, for each class, its `label`, `rows`, `precision`, `recall`, the mean `log_loss` of
    the rows with that label, and its mean `predicted` probability over all rows. A value that would
    require dividing by 0 is None."""
    counts = pd.DataFrame(confusion(labels, probabilities))
    rows, right = counts.sum(axis=1), pd.Series(np.diag(counts))
    losses = pd.Series(row_log_losses(labels, probabilities))
    table = pd.DataFrame(
        {
            "label": CLASSES[: labels.shape[1]],
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
    """Summarize predictions by the log loss with its 95 % interval, the accuracy, the prior's log
    loss on the same rows, and the metrics of the choice between A and B.

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
        `rows`, `log_loss`, `log_loss_low`, `log_loss_high`, `accuracy`, `prior_log_loss`,
        `against_prior` (the log loss minus the prior's, row by row) with its interval,
        `against_prior_low` and `against_prior_high`, and the metrics of `decided`.
    """
    losses = row_log_losses(labels, probabilities)
    prior_losses = row_log_losses(labels, np.broadcast_to(prior, labels.shape))
    if len(set(groups)) == 1:
        logger.warning(
            "only one prompt (%s): the interval has zero width and says nothing about other "
            "prompts",
            counted(len(labels), "row"),
        )
    return {
        "rows": len(labels),
        **mean_and_interval("log_loss", losses, groups),
        "accuracy": accuracy(labels, probabilities),
        "prior_log_loss": float(prior_losses.mean()),
        **mean_and_interval("against_prior", losses - prior_losses, groups),
        **decided(labels, probabilities),
    }
