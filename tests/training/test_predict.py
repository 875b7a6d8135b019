"""Inference in batches: the order of rows, the share of a process, and memory that runs out."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from humanpref import bar
from humanpref.training import predict
from humanpref.training.predict import normalised, predict_logits

LENGTHS = np.random.default_rng(0).integers(1, 100, 400)


class Small(nn.Module):
    """Returns multiples of a row's number; a pass of more tokens than there is room for fails."""

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
    assert caplog.text.count("out of memory: from now on") == 3


def test_the_time_left_is_told_by_tokens_also_if_batches_shrink(caplog, monkeypatch):
    clock = SimpleNamespace(perf_counter=itertools.count(0, 30).__next__)
    monkeypatch.setattr(bar, "time", clock)
    with caplog.at_level("INFO"):
        predict_logits(Small(600), collate, LENGTHS, 4_096, "no", "embed")
    lines = [message for message in caplog.messages if message.startswith("embed: ")]
    assert 10 <= len(lines) <= 11
    assert lines[-1] == f"embed: {LENGTHS.sum():,} of {LENGTHS.sum():,} tokens, 00:00 left"


def test_a_row_that_does_not_fit_alone_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        predict_logits(Small(int(LENGTHS.max()) - 1), collate, LENGTHS, 4_096, "no")


def test_two_rows_that_do_not_fit_together_go_alone():
    longest = np.argsort(LENGTHS)[-2:]
    small = Small(int(LENGTHS.max()))
    outputs = predict_logits(
        small, lambda rows: collate(longest[rows]), LENGTHS[longest], 2 * LENGTHS.max(), "no"
    )
    np.testing.assert_array_equal(outputs[:, 0], longest)
    assert len(small.passes) == 3


def test_no_rows_have_no_outputs():
    outputs = predict_logits(Small(600), collate, LENGTHS[:0], 4_096, "no")
    assert outputs.shape == (0, 3)


def test_outputs_of_any_shape_come_in_evaluation_mode_in_float64():
    class Pairs(nn.Module):
        def forward(self, numbers, ids):
            assert not self.training
            assert not torch.is_grad_enabled()
            return torch.stack([numbers, -numbers], dim=1)

    outputs = predict_logits(Pairs().train(), collate, LENGTHS, 4_096, "no")
    assert outputs.dtype == np.float64
    np.testing.assert_array_equal(outputs, np.arange(400)[:, None] * [1, -1])


def test_each_process_does_its_share_of_the_batches(monkeypatch):
    total = predict_logits(Small(10**6), collate, LENGTHS, 1_024, "no")
    parts = []
    for index in range(2):
        state = SimpleNamespace(device=torch.device("cpu"), num_processes=2, process_index=index)
        monkeypatch.setattr(predict, "process_state", lambda state=state: state)
        monkeypatch.setattr(predict, "gather_object", lambda own: parts.extend(own) or own)
        predict_logits(Small(10**6), collate, LENGTHS, 1_024, "no")
    assert not (parts[0].any(axis=1) & parts[1].any(axis=1)).any()
    np.testing.assert_array_equal(parts[0] + parts[1], total)
    monkeypatch.setattr(predict, "gather_object", lambda own: [None, *parts])
    both = predict_logits(Small(10**6), collate, LENGTHS, 1_024, "no")
    np.testing.assert_array_equal(both, total)


def test_softmax_and_clipped_scores_are_probabilities():
    scores = np.array([[[0.0, np.log(2), 0.0]], [[1e3, 1e3, -1e3]]])
    told = normalised(scores, "softmax")
    np.testing.assert_allclose(told, [[[0.25, 0.5, 0.25]], [[0.5, 0.5, 0]]])
    clipped = normalised(np.array([[0.5, 1.0, -2.0], [3.0, 0.0, 1.0]]), "clip")
    np.testing.assert_allclose(clipped, [[1 / 3, 2 / 3, 0], [0.5, 0, 0.5]], atol=1e-14)
    assert (clipped > 0).all()
