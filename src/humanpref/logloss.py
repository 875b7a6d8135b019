"""The log loss of class probabilities, which are clipped as in the competition's metric."""

import numpy as np

CLIP = 1e-15
"""Probabilities are kept at least this far from 0 and 1, so that the loss of a certain but wrong
prediction is finite."""


def clipped_log(probabilities: np.ndarray) -> np.ndarray:
    """Clip probabilities (any shape) to [CLIP, 1 - CLIP] and return their natural logarithms."""
    return np.log(np.clip(probabilities, CLIP, 1 - CLIP))


def row_log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return each row's log loss, -sum_c y_c ln p_c, in nats.

    Parameters
    ----------
    labels, probabilities : ndarray
        (n, 3), rows summing to 1; labels may be soft.

    Returns
    -------
    ndarray
        (n,) float64. (1/3, 1/3, 1/3) costs ln 3 = 1.0986 whatever the label.
    """
    return -(labels * clipped_log(probabilities)).sum(axis=1)


def log_loss(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Return the mean of `row_log_losses`, in nats. If `weights` (n,) are given, the mean is
    weighted."""
    return float(np.average(row_log_losses(labels, probabilities), weights=weights))
