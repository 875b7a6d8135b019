import math

import pytest
import torch

from humanpref.config.neural import GradientTraining
from humanpref.training.losses import (
    both_orders,
    cross_entropy,
    distillation,
    dpo,
    dpo_like,
    loss_of,
    smoothed,
)


def test_numbers_worked_by_hand():
    logits = torch.tensor(
        [[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [1e4, -1e4, 0.0], [0.0, math.log(3), 0.0]]
    )
    labels = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    # (2, 1, 1)/4 under A: ln 2; (1, 3, 1)/5 half A, half B: ln 5 - ln(3)/2.
    expected = [math.log(3), math.log(2), 1e4, math.log(5) - math.log(3) / 2]
    assert cross_entropy(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)


def test_gradient():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.softmax(torch.randn(5, 3, dtype=torch.float64), dim=-1)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels), logits)


def test_dpo_like_on_numbers_worked_by_hand():
    logits = torch.tensor(
        [
            [0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0],
            [3.0, 1.0, 0.0],
            [3.0, 1.0, 0.0],
            [1e4, -1e4, 0.0],
            [1e4, -1e4, 0.0],
        ]
    )
    labels = torch.eye(3)[[0, 2, 0, 1, 0, 1]]
    expected = [math.log(2), math.log(3), math.log(1 + 1 / math.e), math.log(1 + math.e), 0.0, 1e4]
    assert dpo_like(logits, labels, beta=0.5).tolist() == pytest.approx(expected, rel=1e-6)
    # Ties are judged by their own row, whichever row stands first.
    assert dpo_like(logits.flip(0), labels.flip(0), beta=0.5).tolist() == pytest.approx(
        expected[::-1], rel=1e-6
    )


def test_distillation_on_numbers_worked_by_hand():
    teacher = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    logits = torch.stack([teacher[0].log(), torch.zeros(3), torch.zeros(3)])
    # KL(1/2, 1/4, 1/4 || uniform) = ln 3 - 1.5 ln 2; KL(one-hot || uniform) = ln 3.
    expected = [0.0, math.log(3) - 1.5 * math.log(2), math.log(3)]
    assert distillation(logits, teacher, temperature=1.0).tolist() == pytest.approx(
        expected, abs=1e-6
    )
    # T = 2: the teacher's softened probabilities are sqrt(p) / sum = (sqrt 2, 1, 1) / (2 + sqrt 2).
    soft = [math.sqrt(2) / (2 + math.sqrt(2)), 1 / (2 + math.sqrt(2)), 1 / (2 + math.sqrt(2))]
    divergence = 4 * (math.log(3) + sum(p * math.log(p) for p in soft))
    assert distillation(logits, teacher, temperature=2.0).tolist() == pytest.approx(
        [0.0, divergence, 4 * math.log(3)], abs=1e-5
    )


def test_smoothing():
    assert smoothed(torch.tensor([[1.0, 0.0, 0.0]]), 0.3).tolist() == [
        pytest.approx([0.8, 0.1, 0.1])
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "cross-entropy", "label_smoothing": 0.1},
        {"loss": "dpo-like", "beta": 0.7},
        {"loss": "distillation", "temperature": 2.0},
    ],
)
def test_gradients_of_every_loss(options):
    loss = loss_of(GradientTraining(**options))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.softmax(torch.randn(5, 3, dtype=torch.float64, generator=generator), dim=-1)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits)


def test_the_configuration_chooses_the_loss():
    logits, labels = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert loss_of(GradientTraining())(logits, labels) == cross_entropy(logits, labels)
    assert loss_of(GradientTraining(loss="dpo-like", beta=0.5))(
        logits, labels
    ).item() == pytest.approx(0.3133, abs=1e-4)
    distilled = loss_of(GradientTraining(loss="distillation", temperature=2.0))
    assert distilled(logits, labels) == distillation(logits, labels, 2.0)
    smooth = loss_of(GradientTraining(label_smoothing=0.3))(logits, labels)
    assert smooth == cross_entropy(logits, torch.tensor([[0.8, 0.1, 0.1]]))


def test_both_orders_on_numbers_worked_by_hand():
    logits = torch.tensor(
        [[[math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, math.log(2), 0.0]]]
    )
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    # A wins the first row: ln 2, and ln 3 in the other order. B wins the second, and A once they
    # are exchanged: ln 3, ln 4.
    losses = both_orders(cross_entropy)(logits, labels)
    expected = torch.tensor([math.log(6) / 2, math.log(12) / 2])
    torch.testing.assert_close(losses, expected)


def test_dpo_on_numbers_worked_by_hand():
    beta = 0.5
    margins = torch.tensor([0.0, 0.0, math.log(3) / beta, math.log(3) / beta, 1e4, -1e4, 5.0])
    labels = torch.eye(3)[[0, 1, 0, 1, 0, 0, 2]]
    # sigmoid(ln 3) = 3/4; at the start, ln 2; a tie counts for nothing.
    expected = [math.log(2), math.log(2), math.log(4 / 3), math.log(4), 0.0, beta * 1e4, 0.0]
    assert dpo(margins, labels, beta).tolist() == pytest.approx(expected, rel=1e-6)
    for_a = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    for_b = 0.1 * math.log(4 / 3) + 0.9 * math.log(4)
    soft = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    smooth = [for_a, for_b, 0.5 * for_a + 0.25 * for_b]
    losses = dpo(torch.full((3,), math.log(3) / beta), soft, beta, 0.1)
    assert losses.tolist() == pytest.approx(smooth, rel=1e-6)


def test_gradient_of_dpo():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.softmax(torch.randn(6, 3, dtype=torch.float64, generator=generator), dim=-1)
    assert torch.autograd.gradcheck(lambda m: dpo(m, labels, 0.7, 0.1), margins)
