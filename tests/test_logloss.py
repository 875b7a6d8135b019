import math

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss

from humanpref.logloss import clipped_log, log_loss, row_log_losses


def test_numbers_worked_by_hand():
    labels = np.array([[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0]])
    probabilities = np.array([[0.5, 0.25, 0.25], [1, 0, 0], [0.25, 0.25, 0.5]])
    expected = [math.log(2), -math.log(1e-15), math.log(4)]
    assert row_log_losses(labels, probabilities).tolist() == pytest.approx(expected)
    assert log_loss(labels, probabilities) == pytest.approx(sum(expected) / 3)
    assert log_loss(labels, probabilities, np.array([2, 0, 1])) == pytest.approx(
        (2 * expected[0] + expected[2]) / 3
    )


def test_logarithms_are_clipped_at_both_ends():
    assert clipped_log(np.array([0.0, 1.0])).tolist() == [math.log(1e-15), math.log(1 - 1e-15)]


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities, classes = rng.dirichlet([1, 1, 1], size=200), rng.integers(3, size=200)
    assert log_loss(np.eye(3)[classes], probabilities) == pytest.approx(
        sklearn_log_loss(classes, probabilities, labels=[0, 1, 2])
    )
