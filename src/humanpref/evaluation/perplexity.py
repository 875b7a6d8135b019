"""Measure the fluency of texts by their perplexity under a frozen causal language model."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from humanpref.config.neural import AdaptedOptions
from humanpref.models.frozen_base import check_decoder, load_base
from humanpref.models.pretrained import base_folder, load_backbone_config, load_tokenizer
from humanpref.text.tokens import BATCH_TEXTS, find, text_ids
from humanpref.training.predict import predict_logits

LONGEST = 256
"""Maximum number of tokens read per text. The beginning is enough to judge how a text is written,
and reading it takes a fraction of the time."""
BATCH_TOKENS = 2_048
"""Maximum number of tokens in one forward pass. It is low because the model returns, for each
token, a score for every entry of the vocabulary."""


class TokenLogProbabilities(nn.Module):
    """Compute the log-probability of each text: the sum of ln p(token | previous tokens) over all
    tokens but the first. Maps token ids, padded on the right, (n, length), to (n, 1)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        scores = outputs.logits[:, :-1].float()  # (n, length - 1, vocabulary)
        chosen = scores.gather(2, input_ids[:, 1:, None])[:, :, 0]
        losses = scores.logsumexp(dim=2) - chosen
        return -(losses * attention_mask[:, 1:]).sum(dim=1, keepdim=True)


class LanguageModel:
    """A causal language model, loaded with transformers from a folder or by its hub name.

    Raises
    ------
    InputError
        If the model cannot be loaded or is not a causal language model.
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
        """Return the mean log-probability of each text's tokens, given only the text itself.

        The first token of the text is scored only if the tokenizer puts a special token before it,
        since otherwise nothing precedes it.

        Returns
        -------
        ndarray
            (n,) float64 for n texts, in nats per token; exp(-x) is the perplexity. A text without a
            scored token gets NaN.
        """
        ids = self._token_ids(list(texts))
        means = np.full(len(ids), np.nan)
        scored = [number for number, text in enumerate(ids) if len(text) > 1]
        lengths = np.array([len(ids[number]) for number in scored])

        def collate(rows: np.ndarray) -> dict[str, Tensor]:
            batch = [torch.tensor(ids[scored[row]]) for row in rows]
            mask = [torch.ones_like(text) for text in batch]
            return {
                "input_ids": pad_sequence(batch, batch_first=True),
                "attention_mask": pad_sequence(mask, batch_first=True),
            }

        if scored:
            sums = predict_logits(
                self.module, collate, lengths, BATCH_TOKENS, "auto", "perplexity"
            )[:, 0]
            means[scored] = sums / (lengths - 1)
        return means

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        with_start = self.tokenizer("a").input_ids
        plain = self.tokenizer("a", add_special_tokens=False).input_ids
        start = with_start[: find(with_start, plain, 0)]
        ids: list[list[int]] = []
        for first in range(0, len(texts), BATCH_TEXTS):
            part = text_ids(texts[first : first + BATCH_TEXTS], self.tokenizer)
            ids += [[*start, *text][: self.longest] for text in part]
        return ids
