"""Decoders: a pretrained language model, mostly frozen, reads the prompt, A and B together. A new
head, or the model's own output layer, turns the last token's state into three scores."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from humanpref.config.neural import DecoderOptions, answer_words
from humanpref.data import swap_pairs
from humanpref.models.adapters import adapt, merged
from humanpref.models.answer_tokens import AnswerTokens, fit_calibration
from humanpref.models.base import Validation
from humanpref.models.frozen_base import FrozenBase, check_base, check_room, load_base, read
from humanpref.models.hidden import last_states
from humanpref.models.inner_folds import Labelled
from humanpref.models.neural import STATE_FILE, NeuralModel
from humanpref.models.pretrained import load_state_strictly
from humanpref.text.chat import answering_template, judge_template
from humanpref.text.format import joint, pairs_in
from humanpref.text.tokens import Template
from humanpref.training.inputs import TokenRows
from humanpref.training.predict import predict_logits


class PairDecoder(nn.Module):
    """A decoder without its vocabulary head, and a head that computes three logits from the last
    token's state."""

    def __init__(self, base: nn.Module, options: DecoderOptions) -> None:
        super().__init__()
        width = base.config.hidden_size
        self.backbone = adapt(base, options)
        score = nn.Linear(width, 3, bias=options.head_bias)
        # With zeros, the initial loss is ln 3, regardless of the size of the base's vectors.
        for weight in score.parameters():
            nn.init.zeros_(weight)
        hidden = [nn.Linear(width, width), nn.GELU()] if options.head == "mlp" else []
        self.head = nn.Sequential(nn.Dropout(options.dropout), *hidden, score)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, lengths: np.ndarray) -> Tensor:
        """Compute logits (n, 3) from (n, 1, length) ids, padded on the right. `lengths`, (n, 1),
        counts the tokens."""
        run = partial(read, self.backbone)
        vectors = last_states(run, input_ids, attention_mask, lengths)
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head(vectors.float())


class DecoderModel(NeuralModel, family="decoder"):
    """Any Hugging Face decoder as a classifier of pairs. `fit` also sets `base_`, the pretrained
    model on disk."""

    base_: FrozenBase

    @property
    def swap_equivariant(self) -> bool:
        return self.config.inference.swap_average

    @property
    def options(self) -> DecoderOptions:
        """The section `model` of the configuration. If nothing is trained (`training.epochs=0`), it
        has `peft=head`, which adds no adapter."""
        options: DecoderOptions = self.config.model
        return options if self.config.training.epochs else replace(options, peft="head")

    def check(self) -> None:
        tokenizer = check_base(self.config.model.backbone)
        if self.config.model.head == "tokens":
            self.answering(tokenizer)

    def template(self) -> Template:
        """Return the fixed tokens around a row's texts."""
        options: DecoderOptions = self.config.model
        if options.head == "tokens":
            return self.answering(self.tokenizer_)[0]
        return judge_template(self.tokenizer_, options.system_prompt, options.question)

    def answering(self, tokenizer: Any) -> tuple[Template, list[int]]:
        """Return the template for `model.head=tokens`, and the ids of the three tokens with which
        the model answers."""
        options: DecoderOptions = self.config.model
        text = (options.system_prompt, options.question, answer_words(options.answers))
        return answering_template(tokenizer, *text, ties=self.ties)

    def loaded_as(self) -> type:
        """Return the transformers class that loads the base, with its output layer only for
        `model.head=tokens`."""
        return AutoModelForCausalLM if self.config.model.head == "tokens" else AutoModel

    def merge_adapter(self) -> nn.Module:
        """Add the adapter's updates to the weights of the base, and return the base."""
        base = self.module_.backbone = merged(self.module_.backbone)
        return base

    def module_on(self, base: nn.Module) -> nn.Module:
        """Return the module of the family: the base with its adapter, and the head that
        `model.head` names."""
        if self.config.model.head == "tokens":
            return AnswerTokens(base, self.options, self.answering(self.tokenizer_)[1])
        return PairDecoder(base, self.options)

    def build(self, pairs: pd.DataFrame) -> None:
        self.base_ = FrozenBase.open(self.config.model.backbone)
        self.tokenizer_ = self.base_.tokenizer
        base = self.base_.load_for_training(
            self.loaded_as(), self.options, self.config.training, self.template()
        )
        self.module_ = self.module_on(base)

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        if self.config.training.epochs:
            super().learn(rows, validation, checkpoint)
            return
        self.build(rows.pairs)
        options = self.config.inference
        both = [self.inputs(pairs) for pairs in (rows.pairs, swap_pairs(rows.pairs))]
        logits = [
            predict_logits(self.module_, one, one.lengths, options.batch_tokens, options.precision)
            for one in both
        ]
        classes = 3 if self.ties else 2
        calibration, facts = fit_calibration(
            np.stack(logits)[:, :, :classes],
            rows.labels[:, :classes],
            rows.weights,
            self.swap_averaged,
        )
        calibration = np.pad(calibration, (0, 3 - classes))
        self.module_.calibration.copy_(torch.as_tensor(calibration))
        self.report_ = {"backbone": self.backbone_facts(), "calibration": facts}

    def inputs(self, pairs: pd.DataFrame) -> TokenRows:
        options, template = self.config.model, self.template()
        check_room(template, options)
        return TokenRows(self.tokenised([joint(pair) for pair in pairs_in(pairs)], template), 0)

    def backbone_facts(self) -> dict[str, Any]:
        return self.base_.facts(self.options, self.module_.backbone)

    def save_state(self, folder: Path) -> None:
        super().save_state(folder)
        self.base_.save(folder)

    def load_state(self, folder: Path) -> None:
        self.base_ = FrozenBase.find(folder)
        self.tokenizer_ = self.base_.tokenizer
        base = load_base(self.base_.folder, self.base_.config, self.options, self.loaded_as())
        self.module_ = self.module_on(base)
        load_state_strictly(self.module_, folder / STATE_FILE)
