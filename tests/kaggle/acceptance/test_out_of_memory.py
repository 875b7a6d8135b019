"""A step that ran out of memory is repeated as if its passes had been small from the start."""

import pytest

pytest.importorskip("torch")

import torch

from humanpref.kaggle.acceptance.out_of_memory import out_of_memory
from humanpref.kaggle.acceptance.setting import Setting
from humanpref.training import gradients


def test_a_step_that_is_not_repeated_exactly_fails(monkeypatch):
    (row,) = out_of_memory(Setting(quick=True))
    assert row.passed
    assert "(a simulated limit)" in row.measured
    # The repetition draws other dropout.
    monkeypatch.setattr(gradients, "set_random_state", lambda *_: torch.rand(1_000))
    (row,) = out_of_memory(Setting(quick=True))
    assert row.passed is False
