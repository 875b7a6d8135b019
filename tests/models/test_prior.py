import numpy as np
import pytest

from humanpref.models import load_model
from humanpref.models.prior import PriorModel


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
