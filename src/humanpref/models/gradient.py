"""What the families trained by gradient descent share: from rows to the training loop, from the
module to probabilities."""

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from humanpref.config.neural import EncoderInference, GradientTraining
from humanpref.data import swap_pairs
from humanpref.logloss import log_loss
from humanpref.models.base import Model, Validation
from humanpref.schema import ID, SWAPPED_CLASSES, TEXT_COLUMNS, InputError
from humanpref.training.learned import learned_state
from humanpref.training.loop import train
from humanpref.training.losses import Loss, loss_of
from humanpref.training.predict import normalised, predict_logits

STATE_FILE = "model.safetensors"
BACKBONE_FOLDER = "backbone"
SHORTER = (0.75, 0.5, 0.25)
"""Shares of `model.max_length` to which inputs are cut where time is short."""


class RowCollate(Protocol):
    """From row numbers to a module's inputs; `lengths` is (n,), the tokens that each row costs."""

    lengths: np.ndarray

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]: ...


class GradientModel(Model):
    """A module on tokens that gives three logits a row. After `fit`: `module_` and `tokenizer_`.

    A family says how its module is built, how rows become inputs, and what was really used.
    """

    module_: nn.Module
    tokenizer_: Any

    @abstractmethod
    def _build(self, pairs: pd.DataFrame) -> None:
        """Make `tokenizer_` and `module_`, ready to be trained on these rows."""

    @abstractmethod
    def _collate(self, pairs: pd.DataFrame) -> RowCollate:
        """The rows as inputs of `module_`."""

    def _training_collate(
        self, pairs: pd.DataFrame, labels: np.ndarray, weights: np.ndarray
    ) -> RowCollate:
        """The rows to learn from as inputs of `module_`."""
        return self._collate(pairs)

    @abstractmethod
    def _backbone_facts(self) -> dict[str, Any]:
        """What was really used, whatever the preset is called."""

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "GradientModel":
        training: GradientTraining = self.config.training
        if training.swap_augmentation and not self._one_pass_for_both_orders:
            pairs = pd.concat([pairs, swap_pairs(pairs)], ignore_index=True)
            labels = np.concatenate([labels, labels[:, SWAPPED_CLASSES]])
            weights = np.tile(weights, 2)
        torch.manual_seed(self.config.seed)
        self._build(pairs)
        collate = self._training_collate(pairs, labels, weights)
        self._train(collate, labels, weights, loss_of(training), validation, checkpoint)
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return self._probabilities(self._collate(pairs), pairs)

    @property
    def swap_averaged(self) -> bool:
        return self._reads_both_orders

    def single_order(self) -> Model:
        if not self._reads_both_orders:
            return self
        inference = dataclasses.replace(self.inference, swap_average=False)
        return copy.copy(self).set_params(inference=inference)

    def shorter_variants(self) -> list[tuple[str, Model]]:
        """With inputs cut shorter and shorter."""
        made: list[tuple[str, Model]] = []
        row = pd.DataFrame({ID: ["0"], **{column: [()] for column in TEXT_COLUMNS}})
        for length in (int(share * self.model.max_length) for share in SHORTER):
            try:
                shorter = copy.copy(self).set_params(
                    model=dataclasses.replace(self.model, max_length=length)
                )
                shorter._lengths(row)
            except InputError:  # no room is left beside the fixed text
                break
            made.append((f"inputs cut to {length} tokens", shorter))
        return made

    def costs(self, pairs: pd.DataFrame) -> np.ndarray:
        """Tokens of one order of A and B."""
        return self._lengths(pairs) * 1.0

    @property
    def _one_pass_for_both_orders(self) -> bool:
        """Whether one pass of the module gives what it says of either order of A and B."""
        return False

    @property
    def _reads_both_orders(self) -> bool:
        """Whether the module reads each row a second time for the other order of A and B."""
        return self.config.inference.swap_average

    def _lengths(self, pairs: pd.DataFrame) -> np.ndarray:
        """Tokens of each row, (n,)."""
        return self._collate(pairs).lengths

    def save_state(self, folder: Path) -> None:
        self.tokenizer_.save_pretrained(folder / BACKBONE_FOLDER)
        state = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in learned_state(self.module_).items()
        }
        save_file(state, folder / STATE_FILE)

    def _train(
        self,
        collate: RowCollate,
        labels: np.ndarray,
        weights: np.ndarray | None,
        loss: Loss,
        validation: Validation | None,
        checkpoint: Path | None,
    ) -> None:
        """Put `module_` through the loop, and write the report."""
        report = train(
            self.module_,
            collate,
            labels,
            weights,
            loss,
            self.config.training,
            self.config.seed,
            lengths=collate.lengths,
            validate=self._validator(validation) if validation is not None else None,
            checkpoint=checkpoint,
        )
        self.report_ = {"backbone": self._backbone_facts(), "training": report}

    def _probabilities(self, collate: RowCollate, pairs: pd.DataFrame) -> np.ndarray:
        """Probabilities (n, 3); with swap averaging the mean over both orders of A and B."""
        own = self._scores(collate)
        if not self._reads_both_orders:
            return own
        return (own + self._scores(self._collate(swap_pairs(pairs)))[:, SWAPPED_CLASSES]) / 2

    def _scores(self, collate: RowCollate) -> np.ndarray:
        """The module's outputs for every row as probabilities, (n, …, 3)."""
        options: EncoderInference = self.config.inference
        scores = predict_logits(
            self.module_, collate, collate.lengths, options.batch_tokens, options.precision
        )
        return normalised(scores, options.normalise)

    def _validator(self, validation: Validation) -> Callable[[], float]:
        """A function that gives the validation log loss of the module as it stands, in nats."""
        pairs, labels = validation
        collate = self._collate(pairs)
        return lambda: log_loss(labels, self._probabilities(collate, pairs))
