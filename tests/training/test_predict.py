"""Inference in batches: what it does where the memory is not enough."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from humanpref.training.predict import predict_logits

LENGTHS = np.random.default_rng(0).integers(1, 100, 400)


class Small(nn.Module):
    """Says a row's number; a forward pass of more tokens than it has room for fails."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.room, self.passes = room, []

    def forward(self, numbers, ids):
        self.passes.append(ids.numel())
        if ids.numel() > self.room:
            raise torch.OutOfMemoryError("not enough memory")
        return numbers[:, None] * self.weight * torch.tensor([1.0, 2.0, 3.0])


def collate(rows):
    return {
        "numbers": torch.as_tensor(rows, dtype=torch.float32),
        "ids": torch.zeros(len(rows), int(LENGTHS[rows].max()), dtype=torch.long),
    }


def test_out_of_memory_halves_the_batches_and_loses_no_row(caplog):
    small = Small(600)
    made = predict_logits(small, collate, LENGTHS, 4_096, "no")
    np.testing.assert_array_equal(made, np.arange(400)[:, None] * [1, 2, 3])
    # 4,096, 2,048 and 1,024 are too many; after that nothing fails any more.
    assert [tokens > 600 for tokens in small.passes].count(True) == 3
    assert caplog.text.count("out of memory: from here on") == 3


def test_a_row_that_does_not_fit_alone_is_an_error():
    small = Small(int(LENGTHS.max()) - 1)
    with pytest.raises(torch.OutOfMemoryError):
        predict_logits(small, collate, LENGTHS, 4_096, "no")
    assert len(small.passes) > 1
