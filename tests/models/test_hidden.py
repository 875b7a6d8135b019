"""Sequences of similar length go through a backbone together."""

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from humanpref.models import hidden


def read(input_ids, attention_mask):
    return (input_ids * attention_mask).cumsum(dim=1)[..., None].float()


def test_sequences_of_similar_length_are_read_together(monkeypatch):
    lengths = torch.tensor([3, 17, 1, 32, 9, 30, 0])
    mask = (torch.arange(40) < lengths[:, None]).long()  # eight more than the longest needs
    ids = torch.arange(mask.numel()).reshape(mask.shape) * mask
    read_tokens = []

    def spy(input_ids, attention_mask):
        read_tokens.append(input_ids.numel())
        return read(input_ids, attention_mask)

    inputs = {"input_ids": ids, "attention_mask": mask}
    monkeypatch.setitem(hidden.BACKBONE_TOKENS, False, 64)
    made = hidden.hidden_states(spy, inputs, lengths.numpy())
    assert read_tokens == [64, 51, 2]  # 32 and 30; 17, 9 and 3; 1 and 0
    assert made.shape == (7, 40, 1)
    real = mask.bool()
    assert torch.equal(made[real], read(ids, mask)[real])


def test_what_fits_is_read_in_one_call_as_it_is():
    inputs = {name: torch.ones(3, 5).long() for name in ("input_ids", "attention_mask")}
    seen = []

    def spy(**part):
        seen.append(part)
        return read(**part)

    hidden.hidden_states(spy, inputs, np.array([5, 2, 4]))
    assert seen == [inputs]


def test_sequences_of_padding_alone_are_read_at_their_first_position(monkeypatch):
    shapes = []

    def spy(input_ids):
        shapes.append(tuple(input_ids.shape))
        return torch.ones(*input_ids.shape, 2)

    monkeypatch.setitem(hidden.BACKBONE_TOKENS, False, 1)
    empty = torch.zeros(2, 5, dtype=torch.long)
    states = hidden.hidden_states(spy, {"input_ids": empty}, np.zeros(2, dtype=np.int64))
    assert shapes == [(1, 1)] * 2
    assert states.tolist() == [[[1, 1]] + [[0, 0]] * 4] * 2


def test_the_last_state_is_that_of_the_last_real_token():
    mask = torch.tensor([[[1, 1, 1, 0]], [[1, 0, 0, 0]], [[1, 1, 1, 1]]])
    ids = torch.arange(12).reshape(3, 1, 4)
    last = hidden.last_states(read, ids, mask, mask.sum(dim=2).numpy())
    assert last.tolist() == [[0 + 1 + 2], [4], [8 + 9 + 10 + 11]]
