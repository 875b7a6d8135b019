"""The log loss of class probabilities, clipped as the competition's metric clips it."""

import numpy as np

CLIP = 1e-15
"""Probabilities are kept this far from 0 and 1, so that one certain mistake stays finite."""


def clipped_log(probabilities: np.ndarray) -> np.ndarray:
    """Natural logarithms of probabilities, any shape, clipped to [CLIP, 1 - CLIP]."""
    return np.log(np.clip(probabilities, CLIP, 1 - CLIP))


def row_log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Each row's log loss -sum_c y_c ln p_c, in nats.

    Parameters
    ----------
    labels, probabilities : ndarray
        (n, 3), rows summing to 1; labels may be soft.

    Returns
    -------
    ndarray
        (n,) float64. (1/3, 1/3, 1/3) costs ln 3 = 1.0986 under any label.
    """
    return -(labels * clipped_log(probabilities)).sum(axis=1)


def log_loss(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Mean of `row_log_losses` in nats, weighted by (n,) row weights where there are any."""
    return float(np.average(row_log_losses(labels, probabilities), weights=weights))
