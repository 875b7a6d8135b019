"""The base class of the neural families. It passes rows to the training loop, and turns the outputs
of a torch module into probabilities."""

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn

from humanpref.config.neural import EncoderInference, GradientTraining
from humanpref.data import swap_pairs
from humanpref.logloss import log_loss
from humanpref.models.base import Model, Validation
from humanpref.models.inner_folds import Labelled
from humanpref.models.pretrained import load_state_strictly
from humanpref.schema import ID, SWAPPED_CLASSES, TEXT_COLUMNS, InputError
from humanpref.text.format import Sequence
from humanpref.text.token_memo import TokenMemo
from humanpref.text.tokens import Template, Tokenised, tokenise
from humanpref.training.inputs import Examples, TokenRows
from humanpref.training.learned import learned_state
from humanpref.training.loop import train
from humanpref.training.losses import Loss, loss_of
from humanpref.training.memory import log_memory
from humanpref.training.precision import process_state, resolve
from humanpref.training.predict import normalised, predict_logits

STATE_FILE = "model.safetensors"
BACKBONE_FOLDER = "backbone"
SHORTER = (0.75, 0.5, 0.25)
"""Shares of `model.max_length` to which inputs are cut when time is short."""


class NeuralModel(Model):
    """A model with a torch module that reads token ids. `fit` sets `module_` and `tokenizer_`.

    A family defines how its module is built (`build`), how rows are turned into its inputs
    (`inputs`), and which backbone it used (`backbone_facts`).
    """

    module_: nn.Module
    tokenizer_: Any
    scored = 0
    """Number of positions whose scores over the vocabulary are in memory at the same time in
    training."""
    memo: tuple[Any, TokenMemo] | None = None
    """The tokenizer that last read texts, and its cache of token ids in `memos`."""

    @abstractmethod
    def build(self, pairs: pd.DataFrame) -> None:
        """Create `tokenizer_` and `module_`, ready to be trained on these rows."""

    @abstractmethod
    def inputs(self, pairs: pd.DataFrame) -> TokenRows:
        """Turn the rows into inputs of `module_`."""

    @abstractmethod
    def backbone_facts(self) -> dict[str, Any]:
        """Describe the backbone that was used, as plain JSON types."""

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        training: GradientTraining = self.config.training
        if training.swap_augmentation:
            rows = with_swapped(rows)
        self.begin(rows.pairs)
        self.optimize(rows, self.inputs(rows.pairs), loss_of(training), validation, checkpoint)

    def begin(self, pairs: pd.DataFrame) -> None:
        """Seed torch, build `tokenizer_` and `module_`, and load the weights of `start` if it is
        set."""
        torch.manual_seed(self.config.seed)
        self.build(pairs)
        if self.start is not None:
            load_state_strictly(self.module_, self.start / STATE_FILE)

    def optimize(
        self,
        rows: Labelled,
        inputs: TokenRows,
        loss: Loss,
        validation: Validation | None,
        checkpoint: Path | None,
    ) -> None:
        """Train `module_` on the rows' inputs, and set `report_` and `held_out_`."""
        lengths, per_row = inputs.lengths, len(inputs.sequences[0])
        log_memory(self.module_, self.config.training, lengths, per_row, self.scored)
        # Refuse an unsupported precision now, not at the first prediction after hours of training.
        resolve(self.config.inference.precision, process_state().device, "inference.precision")
        examples = Examples(inputs, rows.labels, inputs.lengths, rows.weights)
        validate, latest = None, None
        if validation is not None:
            pairs, truth = validation
            predict = self.predictor(pairs)

            def validate() -> float:
                nonlocal latest
                latest = predict()
                return log_loss(truth, latest)

        config = self.config
        report = train(
            self.module_, examples, loss, config.training, config.seed, validate, checkpoint
        )
        last = len(report["epochs"])
        # A run that resumed after its last epoch has not validated.
        self.held_out_ = latest if report.get("kept_epoch", last) == last else None
        self.report_ = {"backbone": self.backbone_facts(), "training": report}

    def tokenised(
        self, rows: list[list[Sequence]], template: Template | None = None
    ) -> list[list[Tokenised]]:
        """Tokenize each row's sequences within `model.max_length`."""
        options = self.config.model
        sequences = iter(
            tokenise(
                [sequence for row in rows for sequence in row],
                self.tokenizer_,
                options.max_length,
                options.prompt_share,
                getattr(options, "truncation", "parts"),
                template,
                self._reader(),
            )
        )
        return [[next(sequences) for _ in row] for row in rows]

    def _reader(self) -> TokenMemo | None:
        if self.memos is None:
            return None
        if self.memo is None or self.memo[0] is not self.tokenizer_:
            self.memo = self.tokenizer_, self.memos.of(self.tokenizer_)
        return self.memo[1]

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        return self.predictor(pairs)()

    def predictor(self, pairs: pd.DataFrame) -> Callable[[], np.ndarray]:
        """Tokenize the rows once, and return a function without arguments that predicts
        them, (n, 3), with the module's weights at the time of each call."""
        first = self.inputs(pairs)
        if not self.swap_averaged:
            return lambda: self.scores(first)
        second = self.inputs(swap_pairs(pairs))
        return lambda: (self.scores(first) + self.scores(second)[:, SWAPPED_CLASSES]) / 2

    def scores(self, inputs: TokenRows) -> np.ndarray:
        """Run the module on every row and return probabilities (n, …, 3)."""
        options: EncoderInference = self.config.inference
        scores = predict_logits(
            self.module_, inputs, inputs.lengths, options.batch_tokens, options.precision
        )
        return normalised(scores, options.normalise, self.ties)

    @property
    def swap_averaged(self) -> bool:
        return self.config.inference.swap_average

    def single_order(self) -> Model:
        if not self.swap_averaged:
            return self
        inference = dataclasses.replace(self.inference, swap_average=False)
        return copy.copy(self).set_params(inference=inference)

    def shorter_variants(self) -> list[tuple[str, Model]]:
        """Return variants that read shorter and shorter inputs (`SHORTER`), as long as the fixed
        tokens leave room for texts."""
        variants: list[tuple[str, Model]] = []
        row = pd.DataFrame({ID: ["0"], **{column: [()] for column in TEXT_COLUMNS}})
        for length in (int(share * self.model.max_length) for share in SHORTER):
            try:
                options = dataclasses.replace(self.model, max_length=length)
                shorter = copy.copy(self).set_params(model=options)
                shorter.inputs(row)
            except InputError:
                break
            variants.append((f"inputs cut to {length} tokens", shorter))
        return variants

    def costs(self, pairs: pd.DataFrame) -> np.ndarray:
        """Count the tokens of each row in one order of A and B."""
        return self.inputs(pairs).lengths.astype(np.float64)

    def cut_rows(self, pairs: pd.DataFrame) -> np.ndarray:
        rows = self.inputs(pairs).sequences
        return np.array([any(sequence.cut for sequence in row) for row in rows], dtype=bool)

    def save_state(self, folder: Path) -> None:
        self.tokenizer_.save_pretrained(folder / BACKBONE_FOLDER)
        # Copies, since safetensors refuses tensors that share memory, as tied weights do.
        state = {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in learned_state(self.module_).items()
        }
        save_file(state, folder / STATE_FILE)


def with_swapped(rows: Labelled) -> Labelled:
    """Return the rows, followed by the same rows with A and B exchanged."""
    return Labelled(
        pd.concat([rows.pairs, swap_pairs(rows.pairs)], ignore_index=True),
        np.concatenate([rows.labels, rows.labels[:, SWAPPED_CLASSES]]),
        np.tile(rows.weights, 2),
    )
