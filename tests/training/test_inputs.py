import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from humanpref.text.tokens import Tokenised
from humanpref.training.inputs import TokenRows, moved


def sequence(*ids):
    return Tokenised(np.array(ids), np.array(ids) * 10, np.array(ids) * 100, cut=False)


ROWS = TokenRows(
    [[sequence(1, 2), sequence(3)], [sequence(4), sequence(5)], [sequence(6), sequence(7, 8, 9)]],
    pad=99,
    columns={"parts": lambda sequence: sequence.parts, "kept": lambda sequence: sequence.parts},
    on_host=("kept",),
    per_row={"offset": np.array([[0.5], [1.5], [2.5]], dtype=np.float32)},
    flags={"both_orders": True},
)


def test_a_batch_is_padded_to_its_own_longest_sequence():
    batch = ROWS(np.array([1, 0]))
    assert batch["input_ids"].tolist() == [[[4, 99], [5, 99]], [[1, 2], [3, 99]]]
    assert batch["attention_mask"].tolist() == [[[1, 0], [1, 0]], [[1, 1], [1, 0]]]
    assert batch["parts"].tolist() == [[[400, 0], [500, 0]], [[100, 200], [300, 0]]]
    assert batch["kept"].tolist() == batch["parts"].tolist()
    assert batch["lengths"].tolist() == [[1, 1], [2, 1]]
    assert batch["input_ids"].dtype == batch["parts"].dtype == torch.int64
    assert batch["offset"].tolist() == [[1.5], [0.5]]
    assert batch["offset"].dtype == torch.float32
    assert batch["both_orders"] is True
    assert ROWS(np.array([1]))["input_ids"].shape == (1, 2, 1)


def test_a_row_costs_its_longest_sequence_times_their_number():
    assert ROWS.lengths.tolist() == [4, 2, 6]
    assert TokenRows([], pad=0).lengths.tolist() == []


def test_only_tensors_move():
    batch = moved(ROWS(np.array([2])), torch.device("meta"))
    assert batch.pop("both_orders") is True
    assert {type(batch.pop(name)) for name in ("kept", "lengths")} == {np.ndarray}
    assert {tensor.device.type for tensor in batch.values()} == {"meta"}
