"""Judge a pair by a language model's logits for three tokens, which stand for A, B and tie.

    p = softmax(z / T + b)

z are the logits of these tokens at the last position. A trained model keeps T = 1 and b = 0,
because training already minimizes the loss of p, and fitting T and b on the training rows would
make the model overconfident. For an untrained model, T and b are fitted: T corrects the confidence,
and b the preference for one of the tokens or for the response that the model reads first.
"""

import logging
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor, nn
from transformers import PreTrainedModel

from humanpref.config.neural import DecoderOptions
from humanpref.models.adapters import adapt
from humanpref.models.frozen_base import read
from humanpref.models.hidden import last_states
from humanpref.models.vocabulary import check_scores, token_scores
from humanpref.schema import SWAPPED_CLASSES, InputError, counted

logger = logging.getLogger(__name__)

PENALTY = 10.0
"""Weight of the penalty in `fit_calibration`, in units of rows. It keeps the calibration from
learning much from 8 rows of noise; several hundred informative rows outweigh it."""


class AnswerTokens(nn.Module):
    """A causal language model, with or without an adapter, that computes the logits of A, B and tie
    with three rows of its own output layer, instead of a new head."""

    def __init__(self, model: nn.Module, options: DecoderOptions, tokens: list[int]) -> None:
        super().__init__()
        check_scores(model, options.backbone)
        self.backbone = adapt(model, options)
        head = model.get_output_embeddings()
        # In an adapted or quantized layer, the rows of `head.weight` are not the actual weights.
        if type(head) is not nn.Linear:
            raise InputError(
                f"option model.head: tokens needs the plain output layer of backbone "
                f"{options.backbone}, got {type(head).__name__}; exclude that layer from "
                "model.target_modules"
            )
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        # 1/T and the biases: saved with the weights.
        self.register_buffer("calibration", torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, lengths: np.ndarray) -> Tensor:
        """Compute logits (n, 3) from (n, 1, length) ids, padded on the right. `lengths`, (n, 1),
        counts the tokens."""
        wrapped = not isinstance(self.backbone, PreTrainedModel)
        model = self.backbone.get_base_model() if wrapped else self.backbone
        run = partial(read, model.base_model)
        vectors = last_states(run, input_ids, attention_mask, lengths)
        logits = token_scores(model, vectors, self.tokens)
        return self.calibration[0] * logits + self.calibration[1:]


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, averaged: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit 1/T and the biases b in p = softmax(z / T + b) by penalized maximum likelihood.

    The logits z are first centered and scaled to unit variance. For these standardized logits x,
    s >= 0 and c are fitted in p = softmax(s x + c), and then converted to 1/T and b. The penalty is
    10/2 (s^2 + c_A^2 + c_B^2 + c_tie^2) nats. With few rows, p therefore stays near 1/3. With many
    rows whose logits say nothing about the labels, p approaches the class rates.

    Parameters
    ----------
    logits : ndarray
        (2, n, 3) uncalibrated logits, first of the rows as given, then of the rows with A and B
        exchanged; (2, n, 2) without ties. The first column belongs to the response that the model
        read first.
    labels, weights : ndarray
        (n, 3), or (n, 2) without ties, and (n,). Weight 2 is equivalent to duplicating the row.
    averaged : bool
        Whether predictions are the mean of both orders. If not, the loss counts each order as a
        row of its own, with half the weight.

    Returns
    -------
    (ndarray, dict)
        The calibration, (4,) float64: 1/T, then the biases of A, B and tie ((3,) without ties).
        And the facts for the report.

    Raises
    ------
    InputError
        If a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "option inference.precision: the model's scores are not finite; use bf16 or no"
        )
    contrasts = logits - logits.mean(axis=2, keepdims=True)
    shares = np.broadcast_to(weights / (2 * weights.sum() or 1.0), contrasts.shape[:2])
    center = np.einsum("on,onc->c", shares, contrasts)
    classes = logits.shape[2]
    variance = np.einsum("on,onc->", shares, (contrasts - center) ** 2) / classes
    spread = float(np.sqrt(variance)) or 1.0
    standard = (contrasts - center) / spread

    def cost(parameters: np.ndarray) -> float:
        logs = log_softmax(parameters[0] * standard + parameters[1:], axis=2)
        first, second = logs[0], logs[1][:, SWAPPED_CLASSES[:classes]]
        both = np.logaddexp(first, second) - np.log(2) if averaged else (first + second) / 2
        penalty = PENALTY / 2 * (parameters**2).sum()
        return float(-(weights[:, None] * labels * both).sum() + penalty)

    start, bounds = np.eye(1 + classes)[0] / 2, [(0, None), *[(None, None)] * classes]
    options = {"ftol": 1e-13, "gtol": 1e-8, "maxiter": 1_000}
    found = minimize(cost, start, method="L-BFGS-B", jac="3-point", bounds=bounds, options=options)
    if found.x[0] < 1e-6:
        logger.warning(
            "decoder: the model's scores for the answers do not help to predict the labels of the "
            "%s; every row gets the same probabilities",
            counted(len(labels), "training row"),
        )
    sharpness = found.x[0] / spread
    biases = found.x[1:] - sharpness * center
    biases -= biases.mean()
    facts = {"inverse_temperature": float(sharpness), "biases": biases.tolist()}
    return np.array([sharpness, *biases]), facts | {"rows": len(labels)}
