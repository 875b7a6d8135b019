"""Decoders: a pretrained language model, mostly frozen, reads the prompt, A and B together, and a
head scores its last token."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModel

from humanpref.config.neural import DecoderOptions
from humanpref.models.adapters import adapt
from humanpref.models.frozen_base import FrozenBase, check_base, check_room, load_base, read
from humanpref.models.hidden import hidden_states
from humanpref.models.neural import STATE_FILE, NeuralModel
from humanpref.models.pretrained import load_state_strictly
from humanpref.text.chat import judge_template
from humanpref.text.format import joint, pairs_in
from humanpref.text.tokens import Template
from humanpref.training.inputs import TokenRows


class PairDecoder(nn.Module):
    """A decoder without its vocabulary head, and a head that computes three logits from the last
    token's state."""

    def __init__(self, base: nn.Module, options: DecoderOptions) -> None:
        super().__init__()
        width = base.config.hidden_size
        self.backbone = adapt(base, options)
        score = nn.Linear(width, 3)
        # With zeros, the initial loss is ln 3, regardless of the size of the base's vectors.
        nn.init.zeros_(score.weight)
        nn.init.zeros_(score.bias)
        hidden = [nn.Linear(width, width), nn.GELU()] if options.head == "mlp" else []
        self.head = nn.Sequential(nn.Dropout(options.dropout), *hidden, score)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, lengths: np.ndarray) -> Tensor:
        """Compute logits (n, 3) from (n, 1, length) ids, padded on the right. `lengths`, (n, 1),
        counts the tokens."""
        inputs = {"input_ids": input_ids[:, 0], "attention_mask": attention_mask[:, 0]}
        hidden = hidden_states(partial(read, self.backbone), inputs, lengths[:, 0])
        last = attention_mask[:, 0].sum(dim=1) - 1
        vectors = hidden[torch.arange(len(hidden), device=hidden.device), last]
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(vectors.float())


class DecoderModel(NeuralModel, family="decoder"):
    """Any Hugging Face decoder as a classifier of pairs. `fit` also sets `base_`."""

    base_: FrozenBase

    @property
    def swap_equivariant(self) -> bool:
        return self.config.inference.swap_average

    def check(self) -> None:
        check_base(self.config.model.backbone)

    def template(self) -> Template:
        """Return the fixed tokens around a row's texts."""
        options: DecoderOptions = self.config.model
        return judge_template(self.tokenizer_, options.system_prompt, options.question)

    def build(self, pairs: pd.DataFrame) -> None:
        options, training = self.config.model, self.config.training
        self.base_ = FrozenBase.open(options.backbone)
        self.tokenizer_ = self.base_.tokenizer
        base = self.base_.load_for_training(AutoModel, options, training, self.template())
        self.module_ = PairDecoder(base, options)

    def inputs(self, pairs: pd.DataFrame) -> TokenRows:
        options, template = self.config.model, self.template()
        check_room(template, options)
        return TokenRows(self.tokenised([joint(pair) for pair in pairs_in(pairs)], template), 0)

    def backbone_facts(self) -> dict[str, Any]:
        return self.base_.facts(self.config.model, self.module_.backbone)

    def save_state(self, folder: Path) -> None:
        super().save_state(folder)
        self.base_.save(folder)

    def load_state(self, folder: Path) -> None:
        self.base_ = FrozenBase.find(folder)
        self.tokenizer_ = self.base_.tokenizer
        base = load_base(self.base_.folder, self.base_.config, self.config.model, AutoModel)
        self.module_ = PairDecoder(base, self.config.model)
        load_state_strictly(self.module_, folder / STATE_FILE)
