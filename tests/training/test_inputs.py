"""Rows of token ids, padded batch by batch."""

from operator import attrgetter

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from humanpref.text.tokens import Tokenised
from humanpref.training.inputs import TokenRows, moved


def sequence(*ids):
    """One sequence whose parts are the ids plus 100."""
    array = np.array(ids, dtype=np.int32)
    return Tokenised(array, np.ones_like(array), array + 100, False)


ROWS = [
    [sequence(1, 2, 3), sequence(4)],
    [sequence(5), sequence(6, 7)],
    [sequence(8), sequence(9, 10, 11, 12, 13)],
]


def test_lengths_are_what_a_row_costs_once_padded():
    lengths = TokenRows(ROWS, pad=0).lengths
    assert lengths.tolist() == [6, 4, 10]
    assert lengths.dtype == np.int64
    assert TokenRows([], pad=0).lengths.shape == (0,)


def test_a_batch_is_padded_to_its_own_longest_sequence_on_the_right():
    batch = TokenRows(ROWS, pad=77, columns={"parts": attrgetter("parts")})(np.array([1, 0]))
    assert set(batch) == {"input_ids", "attention_mask", "parts"}
    assert batch["input_ids"].tolist() == [[[5, 77, 77], [6, 7, 77]], [[1, 2, 3], [4, 77, 77]]]
    assert batch["attention_mask"].tolist() == [[[1, 0, 0], [1, 1, 0]], [[1, 1, 1], [1, 0, 0]]]
    assert batch["parts"].tolist() == [[[105, 0, 0], [106, 107, 0]], [[101, 102, 103], [104, 0, 0]]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_arrays_by_row_follow_their_rows_and_flags_come_as_they_are():
    offset = np.arange(9, dtype=np.float32).reshape(3, 3)
    rows = TokenRows(ROWS, pad=0, per_row={"offset": offset}, flags={"both_orders": True})
    batch = rows(np.array([2, 0]))
    assert batch["offset"].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert batch["both_orders"] is True


def test_moving_a_batch_leaves_flags_alone():
    batch = moved({"input_ids": torch.ones(2), "flag": True}, torch.device("meta"))
    assert batch["input_ids"].device.type == "meta"
    assert batch["flag"] is True
