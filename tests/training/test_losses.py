import math

import pytest
import torch

from humanpref.training.losses import cross_entropy


def test_numbers_worked_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [1e4, -1e4, 0.0], [0.0, math.log(3), 0.0]])
    labels = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    # (2, 1, 1)/4 under A: ln 2; (1, 3, 1)/5 half A, half B: ln 5 - ln(3)/2.
    expected = [math.log(3), math.log(2), 1e4, math.log(5) - math.log(3) / 2]
    assert cross_entropy(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)


def test_gradient():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.softmax(torch.randn(5, 3, dtype=torch.float64), dim=-1)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels), logits)
