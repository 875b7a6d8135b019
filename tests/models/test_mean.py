"""The mean of fitted models: of those that say something, saved as a blend of equal weights."""

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.models import build_model, load_model
from humanpref.models.mean import MeanModel


@pytest.fixture
def mean(pairs):
    parts = (pairs[:40], pairs[40:])
    return MeanModel(
        [build_model(load_config("prior")).fit(part, labels_of(part)) for part in parts]
    )


def test_saved_it_is_a_blend_of_equal_weights(mean, pairs, tmp_path):
    mean.save(tmp_path)
    expected = np.mean([labels_of(part).mean(axis=0) for part in (pairs[:40], pairs[40:])], axis=0)
    np.testing.assert_array_equal(mean.predict_proba(pairs), np.tile(expected, (len(pairs), 1)))
    np.testing.assert_allclose(
        load_model(tmp_path).predict_proba(pairs), mean.predict_proba(pairs), atol=1e-15
    )
    assert mean.swap_equivariant is False


def test_the_mean_is_of_the_models_that_say_something(mean, pairs):
    one, other = (model.predict_proba(pairs[:3]) for model in mean.submodels())
    one[1:], other[2] = np.nan, np.nan
    np.testing.assert_array_equal(
        mean.mix(np.stack([one, other]), pairs[:3]), [(one[0] + other[0]) / 2, other[1], other[2]]
    )
