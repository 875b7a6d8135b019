"""Whether probabilities mean what they say: reliability, calibration error, and what of it is
chance."""

import numpy as np
import pandas as pd

from humanpref.evaluation.intervals import share_interval
from humanpref.schema import CLASSES

BINS = 10
NULL_DRAWS = 200


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Predicted probability against observed share, each class in bins of equally many rows.

    Parameters
    ----------
    labels, probabilities : ndarray
        (n, 3).
    bins : int
        Bins of each class, fewer where there are fewer rows.

    Returns
    -------
    DataFrame
        `label`, `rows`, `predicted` (mean), `observed` (mean of the label) with `low` and `high`.
    """
    records = []
    for label, of_label, predicted in zip(CLASSES, labels.T, probabilities.T, strict=True):
        for rows in _bins(predicted, bins):
            low, high = share_interval(of_label[rows].sum(), len(rows))
            records.append(
                (
                    label,
                    len(rows),
                    predicted[rows].mean(),
                    of_label[rows].mean(),
                    float(low),
                    float(high),
                )
            )
    return pd.DataFrame(records, columns=["label", "rows", "predicted", "observed", "low", "high"])


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Mean over the classes of sum_b rows_b / n |observed_b - predicted_b|, in bins of equally many
    rows.

    It is biased upwards: true probabilities do not give 0. Hold it against `calibration_null`.

    Source: Nixon et al. (2019), "Measuring calibration in deep learning", with equal-mass bins.
    """
    return float(
        np.mean(
            [_errors(c, p, _bins(p, bins)) for c, p in zip(labels.T, probabilities.T, strict=True)]
        )
    )


def calibration_null(
    probabilities: np.ndarray, bins: int = BINS, draws: int = NULL_DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """The 2.5 %, 50 % and 97.5 % quantiles of `calibration_error` if the probabilities were the
    true ones, by simulation."""
    rng = np.random.default_rng(seed)
    cut = probabilities.cumsum(axis=1)[:, :2]
    binned = [_bins(predicted, bins) for predicted in probabilities.T]
    errors = np.empty(draws)
    for i in range(draws):
        drawn = np.eye(3)[(rng.random((len(cut), 1)) > cut).sum(axis=1)]
        errors[i] = np.mean(
            [_errors(drawn[:, c], probabilities[:, c], binned[c]) for c in range(3)]
        )
    low, middle, high = np.quantile(errors, [0.025, 0.5, 0.975]).tolist()
    return low, middle, high


def _bins(values: np.ndarray, bins: int) -> list[np.ndarray]:
    return [rows for rows in np.array_split(np.argsort(values, kind="stable"), bins) if len(rows)]


def _errors(observed: np.ndarray, predicted: np.ndarray, bins: list[np.ndarray]) -> float:
    return sum(abs(observed[rows].sum() - predicted[rows].sum()) for rows in bins) / len(observed)
