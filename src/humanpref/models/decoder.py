"""Decoders: a pretrained language model reads prompt, A and B at once; a head scores its last
token. Most of it stays frozen."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from humanpref.config.neural import DecoderOptions
from humanpref.models.adapters import adapt
from humanpref.models.frozen_base import FrozenBaseModel, check_room, read
from humanpref.models.hidden import hidden_states
from humanpref.schema import TEXT_COLUMNS
from humanpref.text.chat import judge_template
from humanpref.text.format import joint
from humanpref.text.tokens import Template, tokenise


class PairDecoder(nn.Module):
    """A decoder without its vocabulary head; three logits from what it makes of a row's last
    token."""

    def __init__(self, base: nn.Module, options: DecoderOptions) -> None:
        super().__init__()
        width = base.config.hidden_size
        self.backbone = adapt(base, options)
        score = nn.Linear(width, 3)
        # The first loss is then ln 3, whatever the size of the base's vectors.
        nn.init.zeros_(score.weight)
        nn.init.zeros_(score.bias)
        hidden = [nn.Linear(width, width), nn.GELU()] if options.head == "mlp" else []
        self.head = nn.Sequential(nn.Dropout(options.dropout), *hidden, score)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (n, 3) from (n, length) ids, padded on either side."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        hidden = hidden_states(partial(read, self.backbone), inputs)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (attention_mask * places).argmax(dim=1)
        vectors = hidden[torch.arange(len(hidden), device=hidden.device), last]
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(vectors.float())


class DecoderModel(FrozenBaseModel, family="decoder"):
    """Any Hugging Face decoder as a classifier of pairs."""

    @property
    def swap_equivariant(self) -> bool:
        return self.config.inference.swap_average

    def _module(self, base: nn.Module) -> nn.Module:
        return PairDecoder(base, self.config.model)

    def _template(self) -> Template:
        options: DecoderOptions = self.config.model
        return judge_template(self.tokenizer_, options.system_prompt, options.question)

    def _collate(self, pairs: pd.DataFrame) -> "PromptCollate":
        return PromptCollate(pairs, self.tokenizer_, self._template(), self.config.model)


class PromptCollate:
    """From row numbers to the decoder's inputs, (n, length) int64, padded on the right to the
    batch's longest."""

    def __init__(
        self, pairs: pd.DataFrame, tokenizer: Any, template: Template, options: DecoderOptions
    ) -> None:
        sequences = [
            joint(*row)[0] for row in zip(*(pairs[column] for column in TEXT_COLUMNS), strict=True)
        ]
        check_room(template, options)
        made = tokenise(
            sequences, tokenizer, options.max_length, options.prompt_share, template=template
        )
        self.rows = [sequence.ids for sequence in made]
        self.lengths = np.array([len(ids) for ids in self.rows], dtype=np.int64)

    def __call__(self, rows: np.ndarray) -> dict[str, Tensor]:
        length = int(self.lengths[rows].max())
        ids, mask = np.zeros((2, len(rows), length), dtype=np.int64)
        for i, row in enumerate(rows):
            own = self.rows[row]
            ids[i, : len(own)], mask[i, : len(own)] = own, 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
