"""Losses: pure functions from logits and labels to one loss per row, in nats. The training loop
computes their weighted mean."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from humanpref.config.neural import GradientTraining
from humanpref.schema import SWAPPED_CLASSES

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function from logits (n, 3) and labels (n, 3) to one loss per row, (n,)."""


def loss_of(options: GradientTraining) -> Loss:
    """Return the configured loss, with its options applied. With two classes, only the logits and
    the labels of A and B count."""
    losses = {
        "cross-entropy": cross_entropy,
        "dpo-like": partial(dpo_like, beta=options.beta),
        "distillation": partial(distillation, temperature=options.temperature),
    }
    chosen, classes = losses[options.loss], options.classes or 3
    return lambda logits, labels: chosen(
        logits[:, :classes], smoothed(labels[:, :classes], options.label_smoothing)
    )


def both_orders(loss: Loss) -> Loss:
    """Return a loss that averages `loss` over both orders of A and B. It takes the logits of both
    orders, (n, 2, 3), and the labels in the first order."""

    def mean(logits: Tensor, labels: Tensor) -> Tensor:
        return (loss(logits[:, 0], labels) + loss(logits[:, 1], labels[:, SWAPPED_CLASSES])) / 2

    return mean


def smoothed(labels: Tensor, amount: float) -> Tensor:
    """Mix labels y with the uniform distribution over their k classes: (1 - amount) y + amount / k.
    Source: Szegedy et al. (2016), section 7."""
    return (1 - amount) * labels + amount / labels.shape[-1]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of logits z and labels y, which may be soft, over the classes c:
    -sum_c y_c log softmax(z)_c.

    Parameters
    ----------
    logits : Tensor
        (n, 3), any real numbers.
    labels : Tensor
        (n, 3), rows summing to 1.

    Returns
    -------
    Tensor
        (n,). Logits (0, 0, 0) cost ln 3 = 1.0986 whatever the labels. Logits (ln 2, 0, 0) with
        label A cost ln 2 = 0.6931.
    """
    return -(labels * torch.log_softmax(logits, dim=-1)).sum(dim=-1)


def dpo_like(logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Compute the report's preference loss (M8a) in a numerically stable way: Bradley-Terry between
    A and B, cross-entropy for ties. For logits z and labels y, it is

    y_A softplus(-beta (z_A - z_B)) + y_B softplus(beta (z_A - z_B)) - y_tie log softmax(z)_tie

    Parameters
    ----------
    logits, labels : Tensor
        (n, 3), columns A, B, tie; or (n, 2), without ties.
    beta : float
        Sharpness of the Bradley-Terry term.

    Returns
    -------
    Tensor
        (n,). Logits (0, 0, 0) cost ln 2 = 0.6931 if A or B wins, and ln 3 = 1.0986 for a tie.
        Logits (3, 1, 0) with label A and beta 0.5 cost ln(1 + 1/e) = 0.3133.

    Notes
    -----
    The report's code uses the first row's tie probability for every row, and overflows where logits
    are far apart.
    """
    margin = beta * (logits[:, 0] - logits[:, 1])
    decided = labels[:, 0] * F.softplus(-margin) + labels[:, 1] * F.softplus(margin)
    ties = labels[:, 2:] * torch.log_softmax(logits, dim=-1)[:, 2:]
    return decided - ties.sum(dim=-1)


def dpo(margins: Tensor, labels: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Compute the loss of Direct Preference Optimization (DPO) or, with label smoothing, of
    conservative DPO. For the margin m of the chosen response and the smoothing eps, it is

    -(1 - eps) log sigmoid(beta m) - eps log sigmoid(-beta m)

    Parameters
    ----------
    margins : Tensor
        (n,), the log-ratio log pi - log pi_ref of response A minus that of B, in nats.
    labels : Tensor
        (n, 3), columns A, B, tie; the tie's share is ignored.
    beta : float
        Scale of the implicit reward.
    label_smoothing : float
        eps, in [0, 0.5).

    Returns
    -------
    Tensor
        (n,). A margin of 0 costs ln 2 = 0.6931. A margin of ln 3 / beta costs ln(4/3) = 0.2877 with
        label A, and ln 4 = 1.3863 with label B. Source: arXiv 2305.18290, eq. 7; arXiv 2310.12036
        and Mitchell (2023) for the smoothing.
    """
    for_a, for_b = F.softplus(-beta * margins), F.softplus(beta * margins)
    a = labels[:, 0] * (1 - label_smoothing) + labels[:, 1] * label_smoothing
    b = labels[:, 1] * (1 - label_smoothing) + labels[:, 0] * label_smoothing
    return a * for_a + b * for_b


def distillation(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Compute the divergence of a student's probabilities from its teacher's, both softened.

    For the student's logits z and the teacher's probabilities p, it is T² KL(q || softmax(z / T)).
    q is p^{1/T}, divided by its sum over the classes.

    Parameters
    ----------
    logits : Tensor
        (n, 3), the student's logits.
    labels : Tensor
        (n, 3), the teacher's probabilities, rows summing to 1.
    temperature : float
        T, above 0. With T = 1 the loss is the cross-entropy minus the teacher's entropy.

    Returns
    -------
    Tensor
        (n,), 0 where student and teacher agree. Source: Hinton et al. (2015), section 2.
    """
    # Clamp, so that the logarithm of a probability of 0 is finite. Its term is still practically 0.
    logs = labels.clamp(min=torch.finfo(labels.dtype).tiny).log()
    teacher = torch.softmax(logs / temperature, dim=-1)
    student = torch.log_softmax(logits / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none").sum(dim=-1)
