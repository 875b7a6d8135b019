"""Direct Preference Optimization: the reward of a response is how much more likely a language model
finds it after training than before.

reward(x, y) = beta (log pi(y | x) - log pi_ref(y | x)), for a prompt x and a response y, where pi
is the language model and pi_ref its frozen original. A tie-aware link turns the difference of two
rewards into probabilities.

Source: Rafailov et al. (2023), arXiv 2305.18290; with ties: arXiv 2409.17431.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from transformers import AutoModelForCausalLM

from humanpref.config.neural import DpoOptions, DpoTraining
from humanpref.data import held_out, prompt_keys
from humanpref.logloss import row_log_losses
from humanpref.models.adapters import adapt
from humanpref.models.base import Validation
from humanpref.models.frozen_base import FrozenBase, check_base, check_room, load_base, read
from humanpref.models.heads import LINKS, tie_score
from humanpref.models.hidden import hidden_states
from humanpref.models.inner_folds import Labelled
from humanpref.models.neural import STATE_FILE, NeuralModel
from humanpref.models.pretrained import load_state_strictly
from humanpref.models.vocabulary import check_scores, token_scores
from humanpref.text.chat import dialogue_template
from humanpref.text.format import A, Pair, Sequence, answered, dual, pairs_in
from humanpref.text.tokens import SPECIAL, Template, Tokenised
from humanpref.training.inputs import TokenRows
from humanpref.training.losses import cross_entropy, dpo
from humanpref.training.predict import normalised, predict_logits

logger = logging.getLogger(__name__)

CHUNK = 1_024
"""Number of positions whose scores over the vocabulary are in memory at the same time."""
REPORT_EVERY = 50
"""Number of forward passes between two reports of the rewards."""


class Policy(nn.Module):
    """A language model with an adapter, which computes log-probabilities of responses with or
    without the adapter."""

    def __init__(self, model: nn.Module, options: DpoOptions, length_normalisation: bool) -> None:
        super().__init__()
        self.backbone = adapt(model, options)
        self.length_normalisation = length_normalisation
        # The link's log scale and tie score: fitted after training, saved with the weights.
        self.register_buffer("link", torch.zeros(2, dtype=torch.float64))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        lengths: np.ndarray,
        responses: np.ndarray,
        reference: Tensor | None = None,
        as_reference: bool = False,
    ) -> Tensor:
        """Compute the log-probabilities of both responses, (n, 2), in nats. If `reference`, the
        log-probabilities under the reference model, is given, subtract it.

        `input_ids`, `attention_mask` and `responses` (1 at the tokens of the response) are (n, 2,
        length); `lengths`, (n, 2), counts the tokens. With `as_reference`, the adapter is disabled,
        which makes the model its own reference.
        """
        rows, sides, length = input_ids.shape
        flat = [
            values.reshape(rows * sides, length)
            for values in (input_ids, attention_mask, responses)
        ]
        model = self.backbone.get_base_model()
        with self.backbone.disable_adapter() if as_reference else contextlib.nullcontext():
            summed = response_log_probabilities(model, *flat, lengths.reshape(-1))
        summed = summed.reshape(rows, sides)
        if self.length_normalisation:
            summed = summed / torch.from_numpy(responses.sum(axis=2).clip(min=1)).to(summed)
        return summed if reference is None else summed - reference


def response_log_probabilities(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    responses: np.ndarray,
    lengths: np.ndarray,
) -> Tensor:
    """Sum log pi(token | tokens before it) over the marked tokens of each sequence.

    Only states that predict a marked token are scored against the vocabulary. To save memory, they
    are scored `CHUNK` at a time, and the scores are recomputed in the backward pass.

    Parameters
    ----------
    model : Module
        A causal language model of transformers.
    input_ids, attention_mask : Tensor
        (n, length) integers, padded on the right.
    responses : ndarray
        (n, length) integers: 1 at the tokens to score, never at the first of a sequence.
    lengths : ndarray
        (n,) tokens of each sequence.

    Returns
    -------
    Tensor
        (n,) float32, in nats; 0 where no token is marked.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    hidden = hidden_states(partial(read, model.base_model), inputs, lengths)
    marked = torch.from_numpy(np.flatnonzero(responses)).to(input_ids.device)
    targets = input_ids.flatten()[marked]
    vectors = hidden.flatten(0, 1).index_select(0, marked - 1)
    score = partial(_token_log_probabilities, model)
    parts = [
        recompute(score, v, t, use_reentrant=False) if torch.is_grad_enabled() else score(v, t)
        for v, t in zip(vectors.split(CHUNK), targets.split(CHUNK), strict=True)
    ]
    total = torch.zeros(len(input_ids), dtype=torch.float32, device=input_ids.device)
    return (
        total.index_add(0, marked // input_ids.shape[1], torch.cat(parts))
        if len(targets)
        else total + 0 * hidden.float().sum()
    )


def _token_log_probabilities(model: nn.Module, vectors: Tensor, targets: Tensor) -> Tensor:
    logits = token_scores(model, vectors)
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1) - logits.logsumexp(dim=1)


class DpoModel(NeuralModel, family="dpo"):
    """Direct Preference Optimization as a predictor. It is exactly swap-equivariant, since both
    responses are read in the same way. `fit` also sets `base_`, the pretrained model on disk."""

    swap_equivariant = True
    swap_averaged = False
    scored = CHUNK
    base_: FrozenBase
    margins_: np.ndarray
    """The result of `margins` for the rows of the last prediction."""

    def check(self) -> None:
        check_base(self.config.model.backbone)

    def template(self) -> Template:
        """Return the fixed tokens around a conversation's texts."""
        return dialogue_template(self.tokenizer_, self.config.model.system_prompt)

    def policy(self, base: nn.Module) -> Policy:
        """Return the base with an adapter and with the link at its initial values."""
        options, training = self.config.model, self.config.training
        check_scores(base, options.backbone)
        policy = Policy(base, options, training.length_normalisation)
        start = [0.0, tie_score(options.link, training.tie_at_zero)]
        policy.link.copy_(torch.tensor(start, dtype=torch.float64))
        return policy

    def build(self, pairs: pd.DataFrame) -> None:
        options, training = self.config.model, self.config.training
        self.base_ = FrozenBase.open(options.backbone)
        self.tokenizer_ = self.base_.tokenizer
        kind, template = AutoModelForCausalLM, self.template()
        base = self.base_.load_for_training(kind, options, training, template)
        self.module_ = self.policy(base)

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        training: DpoTraining = self.config.training
        kept = rows_for_link(rows.pairs, training.link_fraction, self.config.seed)
        learned = ~kept if kept.any() else np.ones(len(kept), dtype=bool)
        if training.ties == "drop":
            learned &= rows.labels[:, :2].sum(axis=1) > 0
        self.begin(rows.pairs)
        if learned.any():
            part = rows.part(learned)
            inputs = self.referenced(self.inputs(part.pairs))
            self.optimize(part, inputs, RewardReport(training), validation, checkpoint)
        else:
            logger.warning("dpo: no training row prefers A or B; the policy is not trained")
            self.report_ = {"backbone": self.backbone_facts()}
        judged = rows.part(kept) if kept.any() else rows
        link, facts = fit_link(
            self.config.model.link,
            self.margins(judged.pairs),
            judged.labels,
            judged.weights,
            start=self.module_.link.numpy(force=True),
            ties=self.ties,
        )
        self.module_.link.copy_(torch.as_tensor(link))
        self.report_["link"] = facts
        if self.held_out_ is not None:  # computed before the link was fitted
            self.held_out_ = self.linked(self.margins_)

    def margins(self, pairs: pd.DataFrame) -> np.ndarray:
        """Compute the reward of A minus that of B, (n,) float64, in nats."""
        return self.margins_of(self.referenced(self.inputs(pairs)))

    def rewards(self, pairs: pd.DataFrame) -> np.ndarray:
        """Compute the implicit reward of each row's response A, beta (log pi - log pi_ref), (n,)
        float64, in nats. Response B is not read."""
        inputs = self.referenced(self.inputs(pairs, lambda pair: [answered(pair)]))
        return self.config.training.beta * self.log_ratios(inputs)[:, 0]

    def margins_of(self, inputs: TokenRows) -> np.ndarray:
        """Compute the same values as `margins`, from the inputs that `referenced` returned."""
        ratios = self.log_ratios(inputs)
        return self.config.training.beta * (ratios[:, 0] - ratios[:, 1])

    def predictor(self, pairs: pd.DataFrame) -> Callable[[], np.ndarray]:
        inputs = self.referenced(self.inputs(pairs))

        def predict() -> np.ndarray:
            self.margins_ = self.margins_of(inputs)
            return self.linked(self.margins_)

        return predict

    def linked(self, margins: np.ndarray) -> np.ndarray:
        """Turn margins (n,) into probabilities (n, 3) by the link."""
        log_scale, nu = self.module_.link.tolist()
        return link_probabilities(self.config.model.link, margins, log_scale, nu, self.ties)

    def inputs(
        self, pairs: pd.DataFrame, formatter: Callable[[Pair], list[Sequence]] = dual
    ) -> TokenRows:
        options, template = self.config.model, self.template()
        check_room(template, options)
        sequences = self.tokenised([formatter(pair) for pair in pairs_in(pairs)], template)
        return TokenRows(sequences, 0, {"responses": response_tokens}, ("responses",))

    def referenced(self, inputs: TokenRows) -> TokenRows:
        """Add the log-probabilities under the reference model to the inputs. Training does not
        change them."""
        reference = self.log_ratios(replace(inputs, flags={"as_reference": True}))
        return replace(inputs, per_row={"reference": reference.astype(np.float32)})

    def log_ratios(self, inputs: TokenRows) -> np.ndarray:
        """Run the policy on n rows and return one float64 column per response, in nats: log-ratios
        if the inputs have a reference, otherwise log-probabilities."""
        if not inputs.sequences:
            return np.empty((0, 2))
        options = self.config.inference
        return predict_logits(
            self.module_, inputs, inputs.lengths, options.batch_tokens, options.precision
        )

    def backbone_facts(self) -> dict[str, Any]:
        return self.base_.facts(self.config.model, self.module_.backbone)

    def save_state(self, folder: Path) -> None:
        super().save_state(folder)
        self.base_.save(folder)

    def load_state(self, folder: Path) -> None:
        self.base_ = FrozenBase.find(folder)
        self.tokenizer_ = self.base_.tokenizer
        kind = AutoModelForCausalLM
        base = load_base(self.base_.folder, self.base_.config, self.config.model, kind)
        self.module_ = self.policy(base)
        load_state_strictly(self.module_, folder / STATE_FILE)


def rows_for_link(pairs: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Return a mask, (n,) bool, of the rows that are reserved for fitting the link and not used to
    train the policy. If there are too few prompts, no row is reserved."""
    if fraction and len(set(prompt_keys(pairs))) < 2 / fraction:
        logger.warning(
            "dpo: too few prompts to hold some out for fitting the link from rewards to "
            "probabilities, so it is fitted on the training rows"
        )
        fraction = 0
    return held_out(pairs, fraction, seed)


def fit_link(
    name: str,
    margins: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    start: np.ndarray,
    ties: bool = True,
) -> tuple[np.ndarray, dict[str, float]]:
    """Fit the link's log scale and tie score by maximum likelihood. A penalty that weighs about as
    much as one row keeps both near their initial values.

    Parameters
    ----------
    name : str
        `davidson` or `rao-kupper`.
    margins, labels, weights : ndarray
        (n,) in nats, (n, 3) and (n,).
    start : ndarray
        (2,) log scale and tie score.
    ties : bool
        Whether there are ties; see `link_probabilities`.

    Returns
    -------
    (ndarray, dict)
        (2,) float64, and the facts for the report.
    """

    def cost(parameters: np.ndarray) -> float:
        losses = row_log_losses(labels, link_probabilities(name, margins, *parameters, ties))
        return float((weights * losses).sum() + ((parameters - start) ** 2).sum() / 2)

    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 2_000}
    link = minimize(cost, start, method="Nelder-Mead", options=options).x
    decided = labels[:, :2].max(axis=1) > 0.5
    right = (margins > 0) == (labels[:, 0] > labels[:, 1])
    return link, {
        "scale": float(np.exp(link[0])),
        "nu": float(link[1]),
        "rows": len(margins),
        "reward_accuracy": float(right[decided].mean()) if decided.any() else 0.0,
    }


def link_probabilities(
    name: str, margins: np.ndarray, log_scale: float, nu: float, ties: bool = True
) -> np.ndarray:
    """Turn reward margins (n,) into probabilities (n, 3) float64. Without ties, P(A) and P(B) are
    conditioned on there being no tie."""
    d = torch.as_tensor(np.exp(log_scale) * margins, dtype=torch.float64)
    return normalised(LINKS[name](d, torch.full_like(d, nu)).numpy(), "softmax", ties)


class RewardReport:
    """Computes the loss that `training.ties` selects from log-ratios (n, 2) and labels (n, 3). On
    every `REPORT_EVERY`-th call, it also logs the mean margin and the accuracy of the rewards."""

    def __init__(self, training: DpoTraining) -> None:
        self.training = training
        self.seen: list[Tensor] = []  # (2, n): margins and signs, on the device
        self.nu = (
            None if training.ties == "drop" else tie_score(training.ties, training.tie_at_zero)
        )

    def __call__(self, ratios: Tensor, labels: Tensor) -> Tensor:
        training, margins = self.training, ratios[:, 0] - ratios[:, 1]
        self.seen.append(torch.stack([margins.detach(), labels[:, 0] - labels[:, 1]]))
        if len(self.seen) == REPORT_EVERY:
            seen, signs = torch.cat(self.seen, dim=1).double().numpy(force=True)
            self.seen = []
            rewards = (training.beta * seen * np.sign(signs))[signs != 0]
            if len(rewards):
                text = "rewards: margin %.4f nats, accuracy %.3f"
                logger.info(text, rewards.mean(), (rewards > 0).mean())
        if self.nu is None:
            return dpo(margins, labels, training.beta, training.label_smoothing)
        d, classes = training.beta * margins, training.classes or 3
        logits = LINKS[training.ties](d, torch.full_like(d, self.nu))
        return cross_entropy(logits[:, :classes], labels[:, :classes])


def response_tokens(sequence: Tokenised) -> np.ndarray:
    """Mark the tokens of the response, and the special token after each of its turns, (length,)
    bool."""
    own = sequence.parts == A
    after = np.concatenate([[False], own[:-1]]) & (sequence.parts == SPECIAL)
    return own | after
