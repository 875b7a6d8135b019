import numpy as np
import pandas as pd
import pytest

from humanpref.data import (
    digest_of,
    has_ties,
    labels_of,
    refuse_ties,
    swap_pairs,
    weights_of,
    with_tie_column,
    without_ties,
)
from humanpref.schema import InputError


def test_labels_of_unlabelled_rows(pairs):
    with pytest.raises(InputError, match="no labels"):
        labels_of(pairs.drop(columns="winner_model_b"))


def test_a_frame_without_the_column_of_ties_has_none(pairs):
    decided = pairs[pairs["winner_tie"] == 0].reset_index(drop=True)
    without = decided.drop(columns="winner_tie")
    assert has_ties(decided)
    assert not has_ties(without)
    np.testing.assert_array_equal(labels_of(without), labels_of(decided))
    pd.testing.assert_frame_equal(with_tie_column(without)[list(decided)], decided)
    pd.testing.assert_frame_equal(with_tie_column(decided), decided)
    with pytest.raises(InputError, match=r"row \d+: columns .*: expected a sum of 1, got 0"):
        labels_of(pairs.drop(columns="winner_tie"))


def test_probabilities_given_that_there_is_no_tie():
    told = np.array([[0.3, 0.1, 0.6], [0, 0, 1], [0.25, 0.75, 0], [np.nan] * 3])
    expected = [[0.75, 0.25, 0], [0.5, 0.5, 0], [0.25, 0.75, 0], [np.nan] * 3]
    np.testing.assert_allclose(without_ties(told), expected, atol=1e-15)


def test_ties_are_refused_by_their_rows():
    labels = np.eye(3)[[0, 2, 1, 2]]
    with pytest.raises(InputError, match=r"^here: row 2, 4: expected no ties, .* got 2 of 4 rows"):
        refuse_ties(labels, None, "here")
    with pytest.raises(InputError, match=r"^here: row 4: "):
        refuse_ties(labels, np.array([1, 0, 1, 1]), "here")
    refuse_ties(labels[[0, 2]], None, "here")


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
