"""Build a preset's module and rows without pretrained weights or texts: with random weights in the
backbone's published sizes, and with random token ids."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig

from humanpref.config import Config, load_config
from humanpref.kaggle.acceptance.backbones import configuration, random_backbone
from humanpref.kaggle.acceptance.setting import device
from humanpref.models.decoder import PairDecoder
from humanpref.models.dpo import Policy, RewardReport, response_tokens
from humanpref.models.encoder import PairEncoder
from humanpref.models.older_gpus import prepare
from humanpref.runs.lengths import PROMPT as PROMPT_SHARE
from humanpref.runs.lengths import RESPONSE, sequence_lengths
from humanpref.text.format import PROMPT, A, B
from humanpref.text.tokens import Tokenised
from humanpref.training.inputs import Examples, TokenRows
from humanpref.training.loop import train
from humanpref.training.losses import loss_of
from humanpref.training.precision import DTYPES, resolve

PLAIN = (
    "training.validation_fraction=0",
    "training.epochs=1",
    "training.accumulation=1",
    "training.warmup=0",
)
ONE_ORDER = ("training.swap_augmentation=false", "inference.swap_average=false")
BY_FAMILY = {
    "encoder": (*ONE_ORDER, "model.offset=none"),
    "decoder": (*ONE_ORDER, "model.quantisation=none"),
    "dpo": ("training.ties=davidson", "training.link_fraction=0", "training.batch_size=4"),
}
"""Settings, by family, that make a preset's run one pass over its rows, in addition to the settings
for all families in `PLAIN`."""
QUICK = {
    "encoder": (),
    "decoder": ("model.system_prompt=", "model.question=Which?"),
    "dpo": ("model.system_prompt=",),
}
"""Settings that leave room for the texts in a short sequence."""


@dataclass(frozen=True)
class Workload:
    """A preset's configuration and module, for measuring its training and its predictions.

    Attributes
    ----------
    config : Config
        The configuration; see `preset_config`.
    module : Module
        The module, on the device.
    """

    config: Config
    module: nn.Module

    def rows(self, texts: np.ndarray) -> TokenRows:
        """Make random rows, given the numbers of tokens in their prompts and responses, (n, 3)."""
        config = self.config
        vocabulary = self.module.backbone.config.vocab_size
        rng = np.random.default_rng(0)
        sides = [A, A] if config.family == "dpo" else [A, B]
        sequences = []
        for lengths in sequence_lengths(config, texts).tolist():
            parts = sides if len(lengths) == 2 else [None]
            both = zip(lengths, parts, strict=True)
            sequences.append([_sequence(length, part, vocabulary, rng) for length, part in both])
        if config.family == "dpo":
            reference = np.zeros((len(texts), 2), dtype=np.float32)
            columns = {"responses": response_tokens}
            return TokenRows(sequences, 0, columns, ("responses",), {"reference": reference})
        columns = {}
        if config.family == "encoder":
            columns["parts"] = lambda sequence: sequence.parts
            if self.module.backbone.config.type_vocab_size > 1:
                columns["token_type_ids"] = lambda sequence: sequence.types
        return TokenRows(sequences, 0, columns)

    def train(self, rows: TokenRows, **changes: Any) -> dict[str, Any]:
        """Train on the rows with random labels, and return the training loop's report. `changes`
        replace options of the training."""
        options = self.config.training
        labels = np.eye(3)[np.random.default_rng(1).integers(3, size=len(rows.sequences))]
        loss = RewardReport(options) if self.config.family == "dpo" else loss_of(options)
        options = replace(options, **changes)
        return train(self.module, Examples(rows, labels, rows.lengths), loss, options, seed=0)


def _sequence(length: int, side: int | None, vocabulary: int, rng: Any) -> Tokenised:
    """Make a sequence of `length` random tokens: a prompt with one response, or with both responses
    if `side` is None."""
    share = PROMPT_SHARE if side is None else PROMPT_SHARE / (PROMPT_SHARE + RESPONSE)
    prompt = max(1, round(share * length))
    parts = np.full(length, B if side is None else side)
    parts[:prompt] = PROMPT
    if side is None:
        parts[prompt : prompt + (length - prompt) // 2] = A
    ids = rng.integers(5, vocabulary, size=length)
    return Tokenised(ids, np.zeros(length, dtype=np.int64), parts, False)


def preset_config(preset: str, folder: Path, quick: bool = False, *overrides: str) -> Config:
    """Return a preset's configuration for one pass over random rows. Its backbone is `folder`,
    which has no weights, only a config.json from which the estimates read the backbone's sizes.

    Parameters
    ----------
    preset : str
        The preset's name.
    folder : Path
        The folder for the backbone's config.json, which this function writes.
    quick : bool
        Whether to use a tiny backbone of the same architecture.
    *overrides : str
        Other overrides, `section.key=value`.
    """
    plain = load_config(preset)
    family = plain.family
    configuration(plain.model.backbone, quick).save_pretrained(folder)
    settings = [f"model.backbone={folder}", *PLAIN, *BY_FAMILY[family]]
    if quick:
        settings += ["model.max_length=64", *QUICK[family]]
    return load_config(preset, None, [*settings, *overrides])


def workload(config: Config) -> Workload:
    """Build a configuration's module as the package does, but with random weights."""
    place = device()
    half = DTYPES.get(resolve("auto", place), torch.float32)
    sizes = AutoConfig.from_pretrained(config.model.backbone)
    torch.manual_seed(0)
    with torch.device(place):
        base = random_backbone(config, sizes, half)
    if config.training.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    if config.family == "encoder":
        return Workload(config, PairEncoder(base, config.model).to(place))
    prepare(base, place)
    if config.family == "dpo":
        module: nn.Module = Policy(base, config.model, config.training.length_normalisation)
    else:
        module = PairDecoder(base, config.model)
    return Workload(config, module.to(place))
