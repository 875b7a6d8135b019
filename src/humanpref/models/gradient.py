"""What the families trained by gradient descent share: from rows to the training loop, from the module to probabilities."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from humanpref.config import EncoderInference, GradientTraining
from humanpref.data import swap_pairs
from humanpref.models.base import Model, Validation, as_probabilities
from humanpref.schema import SWAPPED_CLASSES
from humanpref.training.learned import learned_state
from humanpref.training.loop import train
from humanpref.training.losses import Loss, loss_of
from humanpref.training.predict import normalised, predict_logits

STATE_FILE = "model.safetensors"
BACKBONE_FOLDER = "backbone"


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

    def _training_collate(self, pairs: pd.DataFrame, labels: np.ndarray, weights: np.ndarray | None) -> RowCollate:
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
        labels = as_probabilities(labels)
        if training.swap_augmentation:
            pairs = pd.concat([pairs, swap_pairs(pairs)], ignore_index=True)
            labels = np.concatenate([labels, labels[:, SWAPPED_CLASSES]])
            weights = None if weights is None else np.concatenate([weights, weights])
        torch.manual_seed(self.config.seed)
        self._build(pairs)
        collate = self._training_collate(pairs, labels, weights)
        self._train(collate, labels, weights, loss_of(training), validation, checkpoint)
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return self._probabilities(self._collate(pairs), pairs)

    def save_state(self, folder: Path) -> None:
        self.tokenizer_.save_pretrained(folder / BACKBONE_FOLDER)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in learned_state(self.module_).items()}
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
        if not self.config.inference.swap_average:
            return own
        return (own + self._scores(self._collate(swap_pairs(pairs)))[:, SWAPPED_CLASSES]) / 2

    def _scores(self, collate: RowCollate) -> np.ndarray:
        """The module's outputs for every row as probabilities, (n, …, 3)."""
        options: EncoderInference = self.config.inference
        scores = predict_logits(self.module_, collate, collate.lengths, options.batch_tokens, options.precision)
        return normalised(scores, options.normalise)

    def _validator(self, validation: Validation) -> Callable[[], float]:
        """A function that gives the validation log loss of the module as it stands, in nats."""
        pairs, labels = validation
        collate, targets = self._collate(pairs), as_probabilities(labels)
        return lambda: float(
            -(targets * np.log(np.maximum(self._probabilities(collate, pairs), 1e-15))).sum(axis=1).mean()
        )
