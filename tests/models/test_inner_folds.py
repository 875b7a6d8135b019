"""Inner folds: as many as hold out enough rows, none for too few prompts."""

import numpy as np
import pytest

from humanpref.data import inner_splits, labels_of
from humanpref.models import inner_folds
from humanpref.models.inner_folds import Labelled, choosing_splits


@pytest.fixture
def rows(pairs):
    return Labelled(pairs, labels_of(pairs), np.arange(len(pairs), dtype=np.float64))


@pytest.mark.parametrize(("enough", "folds"), [(1, 1), (24, 1), (25, 2), (48, 2), (4_000, 5)])
def test_no_more_folds_than_hold_out_enough_rows(rows, monkeypatch, enough, folds):
    monkeypatch.setattr(inner_folds, "ENOUGH_ROWS", enough)
    every = inner_splits(rows.pairs, 5, 7, rows.labels)
    assert [judged.sum() for _, judged in every] == [24] * 5
    splits = choosing_splits(rows, 5, 7)
    assert len(splits) == folds
    for split, expected in zip(splits, every, strict=False):
        np.testing.assert_array_equal(split, expected)


def test_too_few_prompts(rows):
    assert len(choosing_splits(rows, 4, 7, least_prompts=1)) == 4
    assert choosing_splits(rows, 4, 7, least_prompts=10_000) == []
    three = rows.part(np.arange(len(rows.pairs)) < 3)
    assert choosing_splits(three, 4, 7) == []


def test_a_part_of_the_rows_is_numbered_from_0(rows):
    part = rows.part(np.arange(len(rows.pairs)) % 60 == 1)
    assert part.pairs.index.tolist() == [0, 1]
    assert part.pairs["id"].tolist() == [rows.pairs["id"][1], rows.pairs["id"][61]]
    assert part.weights.tolist() == [1, 61]
    np.testing.assert_array_equal(part.labels, rows.labels[[1, 61]])
