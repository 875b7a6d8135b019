"""A frozen causal language model: how likely it finds texts. Fluency is told by their
perplexity."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from humanpref.config.neural import AdaptedOptions
from humanpref.models.frozen_base import check_decoder, load_base
from humanpref.models.pretrained import base_folder, load_backbone_config, load_tokenizer
from humanpref.text.tokens import BATCH_TEXTS, find, text_ids
from humanpref.training.predict import predict_logits

LONGEST = 256
"""Tokens of a text that are read: its beginning tells how it is written, at a fraction of the
whole's time."""
BATCH_TOKENS = 2_048
"""In one forward pass: each has a score for every word of the vocabulary."""


class TokenLogProbabilities(nn.Module):
    """(n, length) ids, padded on the right, to (n, 1): the sum of ln p(token | those before it)
    over all but the first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores = (
            self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            .logits[:, :-1]
            .float()
        )
        own = scores.gather(2, input_ids[:, 1:, None])[:, :, 0] - scores.logsumexp(dim=2)
        return (own * attention_mask[:, 1:]).sum(dim=1, keepdim=True)


class LanguageModel:
    """Any causal language model that transformers loads, by its folder or hub name; nothing here
    learns.

    Raises
    ------
    InputError
        If it cannot be loaded, or is none.
    """

    def __init__(self, name: str) -> None:
        place = base_folder(name)
        config = load_backbone_config(str(place))
        longest = min(LONGEST, getattr(config, "max_position_embeddings", None) or LONGEST)
        options = AdaptedOptions(backbone=name, max_length=longest)
        self.longest = longest
        self.tokenizer = load_tokenizer(str(place))
        model = load_base(place, config, options, AutoModelForCausalLM)
        check_decoder(model, self.tokenizer, options, self.tokenizer("a").input_ids)
        self.module = TokenLogProbabilities(model)

    def log_probabilities(self, texts: Iterable[str]) -> np.ndarray:
        """The mean log-probability of a text's tokens, for each of n texts by itself.

        The first token is what the others are predicted from, and not predicted, unless the
        tokenizer starts a sequence with a token of its own.

        Returns
        -------
        ndarray
            (n,) float64, in nats per token; exp(-x) is the perplexity. NaN for a text without a
            predicted token.
        """
        texts = list(texts)
        distinct = list(dict.fromkeys(texts))
        ids = self._token_ids(distinct)
        scored = [number for number, own in enumerate(ids) if len(own) > 1]
        means = np.full(len(distinct), np.nan)
        if scored:
            lengths = np.array([len(ids[number]) for number in scored])

            def collate(rows: np.ndarray) -> dict[str, Tensor]:
                batch = np.zeros((len(rows), lengths[rows].max()), dtype=np.int64)
                for i, row in enumerate(rows):
                    batch[i, : lengths[row]] = ids[scored[row]]
                mask = np.arange(batch.shape[1]) < lengths[rows][:, None]
                return {
                    "input_ids": torch.from_numpy(batch),
                    "attention_mask": torch.from_numpy(mask.astype(np.int64)),
                }

            means[scored] = predict_logits(self.module, collate, lengths, BATCH_TOKENS, "auto")[
                :, 0
            ] / (lengths - 1)
        of_text = dict(zip(distinct, means, strict=True))
        return np.array([of_text[text] for text in texts], dtype=np.float64)

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        started, plain = (
            self.tokenizer("a").input_ids,
            self.tokenizer("a", add_special_tokens=False).input_ids,
        )
        start = started[: find(started, plain, 0)]
        made: list[list[int]] = []
        for first in range(0, len(texts), BATCH_TEXTS):
            part = text_ids(texts[first : first + BATCH_TEXTS], self.tokenizer)
            made += [[*start, *own][: self.longest] for own in part]
        return made
