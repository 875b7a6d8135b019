"""Direct Preference Optimization: a language model against its frozen self; a response's reward is
how much likelier it became.

reward(x, y) = beta (log pi(y | x) - log pi_ref(y | x)); the difference of two rewards goes through
a tie-aware link.

Source: Rafailov et al. (2023), arXiv 2305.18290; with ties: arXiv 2409.17431.
"""

import contextlib
import logging
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
from humanpref.models.frozen_base import FrozenBaseModel, check_room, read
from humanpref.models.heads import LINKS, tie_score
from humanpref.models.hidden import hidden_states
from humanpref.schema import TEXT_COLUMNS, InputError
from humanpref.text.chat import dialogue_template
from humanpref.text.format import A, dual
from humanpref.text.tokens import SPECIAL, Template, tokenise
from humanpref.training.losses import cross_entropy, dpo
from humanpref.training.predict import predict_logits, softmax

logger = logging.getLogger(__name__)

CHUNK = 1_024
"""Positions whose scores over the vocabulary exist at one time."""
REPORT_EVERY = 50
"""Forward passes between two reports of the rewards."""


class Policy(nn.Module):
    """A language model with an adapter: log-probabilities of responses, and of the same model
    without the adapter."""

    def __init__(self, model: nn.Module, options: DpoOptions, length_normalisation: bool) -> None:
        super().__init__()
        self.backbone = adapt(model, options)
        self.length_normalisation = length_normalisation
        self.as_reference = False
        """Give the untouched base's log-probabilities."""
        # Scale (its logarithm) and tie score of the link: fitted after training, kept with the
        # weights.
        self.register_buffer("link", torch.zeros(2, dtype=torch.float64))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        responses: Tensor,
        reference: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities (n, 2) of both responses, in nats, less the reference's where they are
        given.

        `input_ids`, `attention_mask` and `responses` (1 at the tokens of the response) are (n, 2,
        length).
        """
        rows, sides, length = input_ids.shape
        flat = [
            tensor.reshape(rows * sides, length)
            for tensor in (input_ids, attention_mask, responses)
        ]
        with self.backbone.disable_adapter() if self.as_reference else contextlib.nullcontext():
            summed = response_log_probabilities(self.backbone.get_base_model(), *flat).reshape(
                rows, sides
            )
        if self.length_normalisation:
            summed = summed / responses.sum(dim=2).clamp(min=1)
        return summed if reference is None else summed - reference


def response_log_probabilities(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, responses: Tensor
) -> Tensor:
    """Sum of log pi(token | all before it) over the marked tokens of each sequence.

    Only what predicts a marked token goes through the vocabulary, so many positions at a time, and
    backwards again: at no time is there a score for every token of every position.

    Parameters
    ----------
    model : Module
        A causal language model of transformers.
    input_ids, attention_mask, responses : Tensor
        (n, length) integers; `responses` is 1 at the tokens to score, never at the first of a
        sequence.

    Returns
    -------
    Tensor
        (n,) float32, in nats; 0 where no token is marked.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    hidden = hidden_states(partial(read, model.base_model), inputs)[:, :-1]
    marked = responses[:, 1:].bool()
    vectors, targets = hidden[marked], input_ids[:, 1:][marked]
    row_of = marked.nonzero()[:, 0]
    score = partial(_token_log_probabilities, model)
    parts = [
        recompute(score, v, t, use_reentrant=False) if torch.is_grad_enabled() else score(v, t)
        for v, t in zip(vectors.split(CHUNK), targets.split(CHUNK), strict=True)
    ]
    total = torch.zeros(len(input_ids), dtype=torch.float32, device=input_ids.device)
    return (
        total.index_add(0, row_of, torch.cat(parts))
        if len(targets)
        else total + 0 * hidden.float().sum()
    )


def _token_log_probabilities(model: nn.Module, vectors: Tensor, targets: Tensor) -> Tensor:
    logits = _logits(model, vectors)
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1) - logits.logsumexp(dim=1)


def _logits(model: nn.Module, vectors: Tensor) -> Tensor:
    head = model.get_output_embeddings()
    logits = head(vectors.to(head.weight.dtype)).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _check_logits(model: nn.Module, name: str) -> None:
    """Raise InputError where the model makes its scores in another way than ours: by a scale that
    we know nothing of, say."""
    ids = torch.arange(6, device=model.device).unsqueeze(0)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        ours, own = (
            _logits(model, read(model.base_model, ids, mask)[0]),
            model(input_ids=ids).logits[0].float(),
        )
    if not torch.allclose(ours, own, atol=1e-2 * float(own.abs().max())):
        raise InputError(
            f"backbone {name}: its scores over the vocabulary are more than its output layer gives"
        )


class DpoModel(FrozenBaseModel, family="dpo"):
    """The paper's DPO as a predictor: exact under swapping, since both responses are read alike."""

    swap_equivariant = True
    kind = AutoModelForCausalLM
    sequences = 2
    vocabulary_scores = CHUNK

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "DpoModel":
        training: DpoTraining = self.config.training
        kept = self._kept_for_link(pairs)
        learned = ~kept if kept.any() else np.ones(len(pairs), dtype=bool)
        if training.ties == "drop":
            learned &= labels[:, :2].sum(axis=1) > 0
        torch.manual_seed(self.config.seed)
        self._build(pairs)
        if (weights * learned).sum() > 0:
            part = pairs[learned].reset_index(drop=True)
            self._train(
                self._collate(part),
                labels[learned],
                weights[learned],
                RewardReport(training),
                validation,
                checkpoint,
            )
        else:
            logger.warning("dpo: no decided row to learn from; the policy stays its reference")
            self.report_ = {"backbone": self._backbone_facts()}
        rows = kept if kept.any() else np.ones(len(pairs), dtype=bool)
        self.report_["link"] = self._fit_link(
            pairs[rows].reset_index(drop=True), labels[rows], weights[rows]
        )
        return self

    def margins(self, pairs: pd.DataFrame) -> np.ndarray:
        """The reward of A less that of B, (n,) float64, in nats."""
        return self._margins(self._collate(pairs))

    def rewards(self, pairs: pd.DataFrame) -> np.ndarray:
        """The implicit reward beta (log pi - log pi_ref) of each row's response A alone, (n,)
        float64, in nats."""
        ratios = self._predict(self._collate(pairs, sides=1))
        return self.config.training.beta * ratios[:, 0]

    def _margins(self, collate: "DialogueCollate") -> np.ndarray:
        ratios = self._predict(collate)
        return self.config.training.beta * (ratios[:, 0] - ratios[:, 1])

    def _probabilities(self, collate: "DialogueCollate", pairs: pd.DataFrame) -> np.ndarray:
        log_scale, nu = self.module_.link.tolist()
        return link_probabilities(self.config.model.link, self._margins(collate), log_scale, nu)

    def _predict(self, collate: "DialogueCollate") -> np.ndarray:
        if not len(collate.lengths):
            return np.empty((0, 2))
        options = self.config.inference
        return predict_logits(
            self.module_, collate, collate.lengths, options.batch_tokens, options.precision
        )

    @property
    def _reads_both_orders(self) -> bool:
        return False

    def _template(self) -> Template:
        return dialogue_template(self.tokenizer_, self.config.model.system_prompt)

    def _lengths(self, pairs: pd.DataFrame) -> np.ndarray:
        return DialogueCollate(pairs, self.tokenizer_, self._template(), self.config.model).lengths

    def _module(self, base: nn.Module) -> nn.Module:
        _check_logits(base, self.config.model.backbone)
        module = Policy(base, self.config.model, self.config.training.length_normalisation)
        share = self.config.training.tie_at_zero
        module.link.copy_(
            torch.tensor([0.0, tie_score(self.config.model.link, share)], dtype=torch.float64)
        )
        return module

    def _collate(self, pairs: pd.DataFrame, sides: int = 2) -> "DialogueCollate":
        """The rows with the reference's log-probabilities, which no training changes: computed
        once."""
        collate = DialogueCollate(
            pairs, self.tokenizer_, self._template(), self.config.model, sides
        )
        self.module_.as_reference = True
        try:
            collate.reference = self._predict(collate)
        finally:
            self.module_.as_reference = False
        return collate

    def _kept_for_link(self, pairs: pd.DataFrame) -> np.ndarray:
        """Which rows the link is fitted on and the policy must not see, (n,) bool; none where there
        are too few prompts."""
        fraction = self.config.training.link_fraction
        if fraction and len(set(prompt_keys(pairs))) < 2 / fraction:
            logger.warning(
                "dpo: too few prompts to keep any for the link; it is fitted on the rows learned "
                "from"
            )
            fraction = 0
        return held_out(pairs, fraction, self.config.seed)

    def _fit_link(
        self, pairs: pd.DataFrame, labels: np.ndarray, weights: np.ndarray
    ) -> dict[str, float]:
        """Maximum likelihood of scale and tie score, each held near its start as strongly as by one
        row."""
        name, margins = self.config.model.link, self.margins(pairs)
        start = np.array([0.0, tie_score(name, self.config.training.tie_at_zero)])

        def cost(parameters: np.ndarray) -> float:
            probabilities = link_probabilities(name, margins, *parameters)
            losses = row_log_losses(labels, probabilities)
            return float((weights * losses).sum() + ((parameters - start) ** 2).sum() / 2)

        found = minimize(
            cost,
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 2_000},
        )
        self.module_.link.copy_(torch.as_tensor(found.x))
        decided = labels[:, :2].max(axis=1) > 0.5
        right = (margins > 0) == (labels[:, 0] > labels[:, 1])
        return {
            "scale": float(np.exp(found.x[0])),
            "nu": float(found.x[1]),
            "rows": len(pairs),
            "reward_accuracy": float(right[decided].mean()) if decided.any() else 0.0,
        }


def link_probabilities(name: str, margins: np.ndarray, log_scale: float, nu: float) -> np.ndarray:
    """Three probabilities, (n, 3) float64, from reward margins (n,)."""
    d = torch.as_tensor(np.exp(log_scale) * margins, dtype=torch.float64)
    return softmax(LINKS[name](d, torch.full_like(d, nu)).numpy())


class RewardReport:
    """The loss that `training.ties` names, on log-ratios (n, 2); it logs the reward margins and
    accuracy that it sees."""

    def __init__(self, training: DpoTraining) -> None:
        self.training, self.seen, self.calls = training, [], 0
        self.nu = (
            None if training.ties == "drop" else tie_score(training.ties, training.tie_at_zero)
        )

    def __call__(self, ratios: Tensor, labels: Tensor) -> Tensor:
        training, margins = self.training, ratios[:, 0] - ratios[:, 1]
        signs = (labels[:, 0] - labels[:, 1]).detach()
        self.seen += (training.beta * margins.detach() * signs.sign())[signs != 0].tolist()
        self.calls += 1
        if self.calls % REPORT_EVERY == 0 and self.seen:
            rewards, self.seen = np.array(self.seen), []
            logger.info(
                "rewards: margin %.4f nats, accuracy %.3f", rewards.mean(), (rewards > 0).mean()
            )
        if self.nu is None:
            return dpo(margins, labels, training.beta, training.label_smoothing)
        d = training.beta * margins
        return cross_entropy(LINKS[training.ties](d, torch.full_like(d, self.nu)), labels)


class DialogueCollate:
    """From row numbers to the policy's inputs, each (n, 2, length): the conversation with A's
    responses, and with B's.

    `reference`, (n, 2), is filled in by the model. `lengths` is (n,), the tokens of both sequences
    with their padding. With `sides=1` A's conversation stands alone, and 1 for 2 in all shapes.
    """

    reference: np.ndarray | None = None

    def __init__(
        self,
        pairs: pd.DataFrame,
        tokenizer: Any,
        template: Template,
        options: DpoOptions,
        sides: int = 2,
    ) -> None:
        rows = zip(*(pairs[c] for c in TEXT_COLUMNS), strict=True)
        sequences = [side for row in rows for side in dual(*row)[:sides]]
        check_room(template, options)
        made = tokenise(
            sequences, tokenizer, options.max_length, options.prompt_share, template=template
        )
        self.sides = sides
        self.rows = [made[start : start + sides] for start in range(0, len(made), sides)]
        self.lengths = sides * np.array(
            [max(len(side.ids) for side in row) for row in self.rows], dtype=np.int64
        )

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]:
        shape = (len(rows), self.sides, int(self.lengths[rows].max()) // self.sides)
        ids, mask, responses = np.zeros((3, *shape), dtype=np.int64)
        for i, row in enumerate(rows):
            for j, side in enumerate(self.rows[row]):
                end = len(side.ids)
                ids[i, j, :end], mask[i, j, :end] = side.ids, 1
                responses[i, j, :end] = response_tokens(side.parts)
        batch = {"input_ids": ids, "attention_mask": mask, "responses": responses}
        if self.reference is not None:
            batch["reference"] = self.reference[rows].astype(np.float32)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def response_tokens(parts: np.ndarray) -> np.ndarray:
    """Where the tokens of responses are, with the one after each that ends it; (length,) bool from
    the tokens' parts."""
    own = parts == A
    after = np.concatenate([[False], own[:-1]]) & (parts == SPECIAL)
    return own | after
