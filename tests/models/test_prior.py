"""The prior: weighted class rates, for every row."""

import numpy as np
import pytest

from humanpref.data import labels_of
from humanpref.models import load_model
from humanpref.models.arrays import save_arrays
from humanpref.models.prior import PriorModel
from humanpref.schema import InputError


def test_weighted_rates_by_hand(pairs, tmp_path):
    labels = np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1]])
    model = PriorModel().fit(pairs[:3], labels, [2, 1, 1])
    np.testing.assert_allclose(model.rates_, [0.5, 0.125, 0.375])
    probabilities = model.predict_proba(pairs[:5])
    np.testing.assert_allclose(probabilities, np.tile([0.5, 0.125, 0.375], (5, 1)))
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict_proba(pairs[:5]), probabilities)


@pytest.mark.parametrize("rates", [[0.5, 0.4, 0.4], [0.3, 0.3, 0.3], [1.5, -0.5, 0], [0.0, 0, 0]])
def test_rates_that_are_no_probabilities_are_refused(pairs, tmp_path, rates):
    PriorModel().fit(pairs[:3], [0, 1, 2]).save(tmp_path)
    save_arrays(tmp_path / "model.safetensors", {"rates": np.array(rates)})
    with pytest.raises(InputError, match=r"cannot be used.*expected probabilities, got"):
        load_model(tmp_path)


def test_without_weights_every_row_counts_the_same(pairs):
    labels = labels_of(pairs)
    np.testing.assert_allclose(PriorModel().fit(pairs, labels).rates_, labels.mean(axis=0))
