"""A frozen pretrained decoder and the little that learns on it: loading, checking, and an artifact
that only names the base."""

import contextlib
import itertools
import logging
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import AutoModel, BitsAndBytesConfig

from humanpref.config.neural import AdaptedOptions, LoopOptions
from humanpref.files import write_json
from humanpref.models.adapters import check_quantisation
from humanpref.models.checkpoint import base_digest
from humanpref.models.gradient import BACKBONE_FOLDER, STATE_FILE, GradientModel
from humanpref.models.pretrained import (
    BASE_FILE,
    LOADING_ERRORS,
    backbone_facts,
    base_folder,
    check_ids,
    find_base,
    load_backbone_config,
    load_state_strictly,
    load_tokenizer,
    not_loaded,
    weights_in,
)
from humanpref.schema import InputError
from humanpref.text.tokens import Template
from humanpref.training.memory import T4_GIB, Run, advice
from humanpref.training.precision import DTYPES, processes, resolve

logger = logging.getLogger(__name__)

LEAST_ROOM = 8
"""Tokens that a row's texts must have left beside the fixed text."""


class FrozenBaseModel(GradientModel):
    """A model on a pretrained decoder that stays as it is. The artifact names its base and does not
    copy it.

    A family says what is loaded (`kind`) and what is put on it (`_module`).
    """

    kind: type = AutoModel
    sequences = 1
    """Sequences that a row is read as."""
    vocabulary_scores = 0
    """Positions whose scores over the vocabulary exist at one time."""
    base_: dict[str, str]
    """Name and digest of the base."""
    base_config_: Any
    """The base's configuration as its folder has it."""

    @abstractmethod
    def _module(self, base: nn.Module) -> nn.Module:
        """The module to train: the base with what learns, the latter in float32."""

    @abstractmethod
    def _template(self) -> Template:
        """The fixed tokens around a row's texts."""

    def check(self) -> None:
        place = str(base_folder(self.config.model.backbone))
        load_tokenizer(place)
        load_backbone_config(place)

    def save_state(self, folder: Path) -> None:
        super().save_state(folder)
        self.base_config_.save_pretrained(folder / BACKBONE_FOLDER)
        write_json(folder / BASE_FILE, self.base_)

    def load_state(self, folder: Path) -> None:
        place, self.base_ = find_base(folder)
        self.tokenizer_ = load_tokenizer(str(folder / BACKBONE_FOLDER))
        self.base_config_ = load_backbone_config(str(folder / BACKBONE_FOLDER))
        self.module_ = self._module(
            load_base(place, self.base_config_, self.config.model, self.kind)
        )
        load_state_strictly(self.module_, folder / STATE_FILE)

    def _build(self, pairs: pd.DataFrame) -> None:
        options: AdaptedOptions = self.config.model
        check_precision(options, self.config.training.precision)
        place = base_folder(options.backbone)
        self.tokenizer_ = load_tokenizer(str(place))
        self.base_config_ = load_backbone_config(str(place))
        base = load_base(place, self.base_config_, options, self.kind)
        template = self._template()
        fixed = [*template.prefix, *itertools.chain(*template.before.values()), *template.suffix]
        check_decoder(base, self.tokenizer_, options, fixed)
        self.base_ = {"name": options.backbone, "sha256": base_digest(place)}
        if self.config.training.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        self.module_ = self._module(base)
        row = self.sequences * options.max_length
        log_memory_estimate(
            self.module_, base.config, self.config.training, row, self.vocabulary_scores
        )

    def _backbone_facts(self) -> dict[str, Any]:
        options: AdaptedOptions = self.config.model
        facts = backbone_facts(options.backbone, self.module_.backbone)
        return facts | {"sha256": self.base_["sha256"], "peft": options.peft}


def read(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The decoder's last hidden states, (n, length, width), the same for padding on either side.

    A base in half precision is read under autocast in its own type, so that its arithmetic and that
    of what learns in float32 meet; where autocast is on already, it stays.
    """
    # Positions count real tokens: by default transformers counts padding as well.
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    device, dtype = input_ids.device.type, backbone.get_input_embeddings().weight.dtype
    half = dtype in DTYPES.values() and not torch.is_autocast_enabled(device)
    with torch.autocast(device, dtype) if half else contextlib.nullcontext():
        return backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state


def check_room(template: Template, options: AdaptedOptions) -> None:
    """Raise InputError where the fixed text of one round leaves nearly no room for the row's
    own."""
    fixed = template.around() + sum(len(ids) for ids in template.before.values())
    if options.max_length - fixed < LEAST_ROOM:
        raise InputError(
            "option model.max_length: the template, the system prompt and the question take "
            f"{fixed} of the "
            f"{options.max_length} tokens"
        )


def load_base(place: Path, config: Any, options: AdaptedOptions, kind: type) -> nn.Module:
    """A pretrained decoder by transformers' `kind` of class, in `model.base_dtype`, or quantised.

    Raises
    ------
    InputError
        If it cannot be loaded, lacks weights, or cannot be had in that type here.
    """
    check_quantisation(options)
    quantised = {}
    if options.quantisation != "none":
        quantised = {
            "quantization_config": _quantisation(options),
            "device_map": {"": processes().device},
        }
    try:
        base, info = kind.from_pretrained(
            place,
            config=config,
            dtype=base_dtype(options),
            # scaled_dot_product_attention has no soft cap on scores, and transformers would leave
            # Gemma 2's out without a word.
            attn_implementation="eager"
            if getattr(config, "attn_logit_softcapping", None)
            else None,
            trust_remote_code=False,
            output_loading_info=True,
            **quantised,
        )
    except LOADING_ERRORS as error:
        raise InputError(not_loaded(str(place), "weights", error)) from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"backbone {place}: the checkpoint lacks {len(missing)} weights of the model, e.g. "
            f"{', '.join(missing[:3])}"
        )
    return base


def base_dtype(options: AdaptedOptions) -> torch.dtype:
    """The frozen weights' type on this process's device."""
    device = processes().device
    if options.peft == "none":
        return torch.float32
    if options.base_dtype == "auto":
        return DTYPES.get(resolve("auto", device), torch.float32)
    if options.base_dtype == "float16" and device.type == "cpu":
        raise InputError(
            "option model.base_dtype: float16 needs a GPU; auto takes float32 on the CPU"
        )
    return getattr(torch, options.base_dtype)


def check_precision(options: AdaptedOptions, precision: str) -> None:
    """Raise InputError where a base in float16 would be trained through without the gradient scaler
    that comes with fp16."""
    if base_dtype(options) == torch.float16 and resolve(precision, processes().device) == "no":
        raise InputError(
            "option training.precision: no, but the base is in float16, whose gradients need the "
            "scaler of fp16; take auto or "
            "fp16, or set model.base_dtype=float32"
        )


def _quantisation(options: AdaptedOptions) -> BitsAndBytesConfig:
    if options.quantisation == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=base_dtype(options),
    )


def check_decoder(
    base: nn.Module, tokenizer: Any, options: AdaptedOptions, fixed: Iterable[int]
) -> None:
    """Every token of texts and every `fixed` one needs an embedding, every place a position; no
    token may see a later one.

    Padding needs nothing: it is token 0, which only the mask sees.
    """
    name, config = options.backbone, base.config
    largest = check_ids(name, tokenizer, fixed, base.get_input_embeddings().num_embeddings)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and options.max_length > longest:
        raise InputError(
            f"option model.max_length: backbone {name} reads {longest} tokens, not "
            f"{options.max_length}"
        )
    ids = torch.full((2, 6), largest, device=base.device)
    ids[1, -1] = max(0, largest - 1)
    with torch.inference_mode():
        first, last = read(base.eval().base_model, ids, torch.ones_like(ids))[:, [0, -1]].unbind(1)
    if not torch.equal(first[0], first[1]) or torch.equal(last[0], last[1]):
        raise InputError(f"backbone {name}: not a decoder, its first token sees the last one")


def log_memory_estimate(
    module: nn.Module, config: Any, training: LoopOptions, row: int, vocabulary_scores: int
) -> None:
    """Log what the run will take with rows of so many tokens, and what to lower where that is more
    than a T4 has."""
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = [p for p in module.parameters() if not p.requires_grad]
    head_width = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    run = Run(
        base_weights=sum(map(weights_in, frozen)),
        base_bytes=sum(p.numel() * p.element_size() for p in frozen),
        trainable=trainable,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        attention=config.num_attention_heads * head_width,
        keys=heads * head_width,
        tokens=max(row, min(training.forward_tokens, training.batch_size * row)),
        scores=vocabulary_scores * config.vocab_size,
        activation_bytes=4 if resolve(training.precision, processes().device) == "no" else 2,
        checkpointing=training.gradient_checkpointing,
    )
    parts = run.gib()
    total = sum(parts.values())
    said = ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
    logger.info("memory: about %.2f GiB (%s) at %d tokens a pass", total, said, run.tokens)
    if total > T4_GIB:
        told = "; ".join(advice(run, row, T4_GIB))
        logger.warning("memory: more than the %.0f GiB of a 16 GB T4; lower it by %s", T4_GIB, told)
