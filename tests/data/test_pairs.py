import numpy as np
import pandas as pd
import pytest

from humanpref.data import digest_of, labels_of, swap_pairs, weights_of
from humanpref.schema import InputError


def test_labels_of_unlabelled_rows(pairs):
    with pytest.raises(InputError, match="no labels"):
        labels_of(pairs.drop(columns="winner_tie"))


def test_the_digest_depends_on_content_and_order(pairs):
    assert digest_of(pairs.copy()) == digest_of(pairs)
    assert digest_of(pairs[::-1].reset_index(drop=True)) != digest_of(pairs)
    assert digest_of(swap_pairs(pairs)) != digest_of(pairs)
    assert digest_of(pairs.assign(weight=1.0)) != digest_of(pairs)


def test_weights_that_are_none_are_refused_with_their_row(pairs):
    assert weights_of(pairs) is None
    weights = np.ones(len(pairs))
    weights[4] = -1
    with pytest.raises(
        InputError,
        match=r"row 5: column 'weight': expected 0, or a number from 1e-9 to 1e9, got -1",
    ):
        weights_of(pairs.assign(weight=weights))


def test_swapping(pairs):
    swapped = swap_pairs(pairs)
    assert swapped["response_a"].tolist() == pairs["response_b"].tolist()
    assert swapped["model_b"].tolist() == pairs["model_a"].tolist()
    assert swapped["winner_model_a"].tolist() == pairs["winner_model_b"].tolist()
    assert swapped["winner_tie"].tolist() == pairs["winner_tie"].tolist()
    assert swapped["id"].tolist() == pairs["id"].tolist()
    assert not swapped.equals(pairs)
    pd.testing.assert_frame_equal(swap_pairs(swapped), pairs)
