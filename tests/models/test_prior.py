<<<<<<< HEAD
import numpy as np
import pytest

=======
"""The prior: weighted class rates, for every row."""

import numpy as np

from humanpref.data import labels_of
>>>>>>> cpu
from humanpref.models import load_model
from humanpref.models.prior import PriorModel


<<<<<<< HEAD
def test_the_weighted_class_rates_for_every_row(pairs, tmp_path):
    four = pairs[:4].reset_index(drop=True)
    model = PriorModel().fit(four, [0, 0, 1, 2], weights=[1, 1, 2, 0])
    assert model.rates_.tolist() == [0.5, 0.5, 0.0]
    model = PriorModel().fit(four, [0, 0, 1, 2])
    np.testing.assert_array_equal(model.predict_proba(pairs), np.tile([0.5, 0.25, 0.25], (120, 1)))
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).rates_, model.rates_)


def test_soft_labels_count_by_their_shares(pairs):
    two = pairs[:2].reset_index(drop=True)
    model = PriorModel().fit(two, [[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]])
    assert model.rates_ == pytest.approx([0.4, 0.2, 0.4])
=======
def test_weighted_rates_by_hand(pairs, tmp_path):
    labels = np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1]])
    model = PriorModel().fit(pairs[:3], labels, [2, 1, 1])
    np.testing.assert_allclose(model.rates_, [0.5, 0.125, 0.375])
    probabilities = model.predict_proba(pairs[:5])
    np.testing.assert_allclose(probabilities, np.tile([0.5, 0.125, 0.375], (5, 1)))
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict_proba(pairs[:5]), probabilities)


def test_without_weights_every_row_counts_the_same(pairs):
    labels = labels_of(pairs)
    np.testing.assert_allclose(PriorModel().fit(pairs, labels).rates_, labels.mean(axis=0))
>>>>>>> cpu
