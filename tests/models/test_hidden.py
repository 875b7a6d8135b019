"""Sequences of similar length go through a backbone together."""

import pytest

pytest.importorskip("torch")

import torch

from humanpref.models import hidden


@pytest.mark.parametrize("left", [False, True])
def test_sequences_of_similar_length_are_read_together_whatever_side_is_padded(left, monkeypatch):
    lengths = torch.tensor([3, 17, 1, 32, 9, 30, 0])
    places = torch.arange(40)  # eight more than the longest needs
    mask = (places < lengths[:, None]).long()
    ids = torch.arange(mask.numel()).reshape(mask.shape) * mask
    if left:
        mask, ids = mask.flip(1), ids.flip(1)
    read_tokens = []

    def read(input_ids, attention_mask):
        read_tokens.append(input_ids.numel())
        return (input_ids * attention_mask).cumsum(dim=1)[..., None].float()

    monkeypatch.setitem(hidden.BACKBONE_TOKENS, False, 64)
    made = hidden.hidden_states(read, {"input_ids": ids, "attention_mask": mask})
    real = mask.bool()
    assert made.shape == (7, 40, 1)
    assert torch.equal(made[real], read(ids, mask)[real])
    *apart, together = read_tokens
    assert apart == [64, 51, 2]  # 32 and 30; 17, 9 and 3; 1 and 0
    assert together == 280


def test_sequences_of_padding_alone_are_read_at_their_first_place():
    shapes = []

    def read(input_ids, attention_mask):
        shapes.append(tuple(input_ids.shape))
        return torch.ones(*input_ids.shape, 2)

    empty = torch.zeros(2, 5, dtype=torch.long)
    states = hidden.hidden_states(read, {"input_ids": empty, "attention_mask": empty})
    assert shapes == [(2, 1)]
    assert states.tolist() == [[[1, 1]] + [[0, 0]] * 4] * 2
