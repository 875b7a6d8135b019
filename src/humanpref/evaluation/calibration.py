"""Check whether probabilities match observed shares, with reliability tables, the calibration
error, and the calibration error expected by chance alone."""

import numpy as np
import pandas as pd

from humanpref.evaluation.intervals import share_interval
from humanpref.schema import CLASSES

BINS = 10
NULL_DRAWS = 200


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Tabulate the predicted probability and the observed share of each class, in bins with equal
    numbers of rows.

    Parameters
    ----------
    labels, probabilities : ndarray
        (n, 3), or (n, 2) without ties.
    bins : int
        Number of bins per class; at most n are used.

    Returns
    -------
    DataFrame
        `label`, `rows`, `predicted` (mean), `observed` (mean of the label) with `low` and `high`.
    """
    records = [
        (label, len(rows), probabilities[rows, c].mean(), labels[rows, c].mean())
        for c, label in enumerate(CLASSES[: labels.shape[1]])
        for rows in _bins(probabilities[:, c], bins)
    ]
    table = pd.DataFrame(records, columns=["label", "rows", "predicted", "observed"])
    low, high = share_interval(table["observed"] * table["rows"], table["rows"])
    return table.assign(low=low, high=high)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Return the mean difference between observed shares and predicted probabilities.

    For each class, the n rows are sorted by predicted probability and split into bins of equal
    size. The error of the class is sum_b (rows_b / n) |observed_b - predicted_b|, where observed_b
    is the mean label in bin b, and predicted_b the mean predicted probability. The result is the
    mean over the classes. It is biased upward: even for the true probabilities, it is above 0.
    Compare it with `calibration_null`.

    Source: Nixon et al. (2019), "Measuring calibration in deep learning", with equal-mass bins.
    """
    return _error(labels - probabilities, [_bins(column, bins) for column in probabilities.T])


def calibration_null(probabilities: np.ndarray) -> dict[str, float]:
    """Simulate the `calibration_error` of probabilities that are exactly right, by drawing labels
    from them.

    Returns
    -------
    dict
        The 2.5 %, 50 % and 97.5 % quantiles of the error, as `low`, `median` and `high`.
    """
    rng = np.random.default_rng(0)
    classes = probabilities.shape[1]
    cut = probabilities.cumsum(axis=1)[:, : classes - 1]
    binned = [_bins(column, BINS) for column in probabilities.T]
    errors = []
    for _ in range(NULL_DRAWS):
        drawn = np.eye(classes)[(rng.random((len(cut), 1)) > cut).sum(axis=1)]
        errors.append(_error(drawn - probabilities, binned))
    quantiles = np.quantile(errors, [0.025, 0.5, 0.975]).tolist()
    return dict(zip(("low", "median", "high"), quantiles, strict=True))


def _bins(values: np.ndarray, bins: int) -> list[np.ndarray]:
    """Sort the row indices by value, lowest first, and split them into nonempty bins."""
    return np.array_split(np.argsort(values, kind="stable"), min(bins, len(values)))


def _error(residuals: np.ndarray, binned: list[list[np.ndarray]]) -> float:
    sums = [abs(residuals[rows, c].sum()) for c in range(len(binned)) for rows in binned[c]]
    return float(sum(sums) / residuals.size)
