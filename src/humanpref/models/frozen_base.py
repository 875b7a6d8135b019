"""Load and check a frozen pretrained decoder, the base of a model. An artifact names its base but
does not contain a copy of it."""

import contextlib
import itertools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from humanpref.config.neural import AdaptedOptions, LoopOptions
from humanpref.files import write_json
from humanpref.models.adapters import keep_gradients
from humanpref.models.backbone import attention_of
from humanpref.models.bases import BASE_FILE, public_name, remember
from humanpref.models.checkpoint import base_digest
from humanpref.models.neural import BACKBONE_FOLDER
from humanpref.models.older_gpus import prepare
from humanpref.models.pretrained import (
    backbone_facts,
    base_folder,
    check_ids,
    find_base,
    load_backbone_config,
    load_pretrained,
    load_tokenizer,
    loading,
)
from humanpref.schema import InputError
from humanpref.text.tokens import Template
from humanpref.training.precision import DTYPES, has_bf16, process_state, resolve

LEAST_ROOM = 8
"""Minimum number of tokens that the template's fixed text must leave for a row's texts."""


class FrozenBase(NamedTuple):
    """A base model on disk.

    Attributes
    ----------
    record : dict
        Its `name` and the digest of its weights, `sha256`, as saved in an artifact.
    folder : Path
    config : transformers configuration
        The configuration in the folder.
    tokenizer : transformers tokenizer
    """

    record: dict[str, str]
    folder: Path
    config: Any
    tokenizer: Any

    @classmethod
    def open(cls, name: str) -> "FrozenBase":
        """Open a base by folder or hub name.

        Raises
        ------
        InputError
            If its configuration, tokenizer or weights are missing or damaged.
        """
        folder = base_folder(name)
        config, tokenizer = load_backbone_config(str(folder)), load_tokenizer(str(folder))
        record = {"name": public_name(name), "sha256": base_digest(folder)}
        remember(record["sha256"], folder)
        return cls(record, folder, config, tokenizer)

    @classmethod
    def find(cls, model_folder: Path) -> "FrozenBase":
        """Find the base of a saved model (`humanpref.models.pretrained.find_base`)."""
        folder, record = find_base(model_folder)
        saved = str(model_folder / BACKBONE_FOLDER)
        return cls(record, folder, load_backbone_config(saved), load_tokenizer(saved))

    def facts(self, options: AdaptedOptions, backbone: nn.Module) -> dict[str, Any]:
        """Describe the base that was used, as plain JSON types."""
        facts = backbone_facts(options.backbone, backbone)
        return facts | {"sha256": self.record["sha256"], "peft": options.peft}

    def save(self, model_folder: Path) -> None:
        """Write the record and the configuration to a model's folder."""
        self.config.save_pretrained(model_folder / BACKBONE_FOLDER)
        write_json(model_folder / BASE_FILE, self.record)

    def load_for_training(
        self, kind: type, options: AdaptedOptions, training: LoopOptions, template: Template
    ) -> nn.Module:
        """Load the weights, and check that the base is suitable for training and can read any text.

        Raises
        ------
        InputError
            See `load_base`, `check_decoder` and `check_precision`.
        """
        check_precision(options, training.precision)
        base = load_base(self.folder, self.config, options, kind)
        fixed = [*template.prefix, *itertools.chain(*template.before.values()), *template.suffix]
        check_decoder(base, self.tokenizer, options, fixed)
        if training.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        return base


def check_base(name: str) -> Any:
    """Return the tokenizer of a base model. Raise InputError if the model's tokenizer or
    configuration is missing or invalid."""
    folder = str(base_folder(name))
    load_backbone_config(folder)
    return load_tokenizer(folder)


def own_autocast(backbone: nn.Module) -> AbstractContextManager:
    """Return a context that autocasts to a half-precision base's own dtype, so that the trainable
    float32 weights are cast as well. For any other base, or if autocast is already enabled, the
    context changes nothing."""
    weight = backbone.get_input_embeddings().weight
    device, dtype = weight.device.type, weight.dtype
    if dtype not in DTYPES.values() or torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, dtype)


def read(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the decoder's last hidden states, (n, length, width), under `own_autocast`. The ids
    are padded on the right."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    with own_autocast(backbone):
        return backbone(**inputs, use_cache=False).last_hidden_state


def check_room(template: Template, options: AdaptedOptions) -> None:
    """Raise InputError if the template's fixed text, for a conversation of one turn, leaves fewer
    than `LEAST_ROOM` of the `model.max_length` tokens for the row's own texts."""
    fixed = template.around() + sum(len(ids) for ids in template.before.values())
    if options.max_length - fixed < LEAST_ROOM:
        raise InputError(
            "option model.max_length: the template, the system prompt and the question take "
            f"{fixed} of the {options.max_length} tokens; set a higher value"
        )


def load_base(place: Path, config: Any, options: AdaptedOptions, kind: type) -> nn.Module:
    """Load a pretrained decoder from the folder `place` with a class of transformers (`kind`), in
    `model.base_dtype` or quantized, directly onto this process's GPU if it has one.

    Raises
    ------
    InputError
        If it cannot be loaded or lacks weights, or if this device does not support the dtype.
    """
    device, dtype = process_state().device, base_dtype(options)
    placed: dict[str, Any] = {} if device.type == "cpu" else {"device_map": {"": device}}
    if options.quantisation != "none":
        placed = {"quantization_config": _quantisation(options), "device_map": {"": device}}
    attention = attention_of(config)
    base = load_pretrained(
        str(place), place, kind, config=config, dtype=dtype, attn_implementation=attention, **placed
    )
    keep_gradients(base)
    prepare(base, device)
    return base


def base_dtype(options: AdaptedOptions) -> torch.dtype:
    """Return the dtype of the frozen weights on this process's device.

    Raises
    ------
    InputError
        If the device does not support it.
    """
    device = process_state().device
    if options.peft == "none":
        return torch.float32
    if options.base_dtype == "auto":
        return DTYPES.get(resolve("auto", device), torch.float32)
    if options.base_dtype == "float16" and device.type == "cpu":
        raise InputError(
            "option model.base_dtype: float16 needs a GPU; on the CPU, use float32 or auto"
        )
    if options.base_dtype == "bfloat16" and not has_bf16(device):
        # Without autocast, torch would emulate bfloat16; with autocast, it would cast all weights
        # in every pass.
        raise InputError(
            "option model.base_dtype: this GPU only emulates bfloat16; use float16 or auto"
        )
    return getattr(torch, options.base_dtype)


def check_precision(options: AdaptedOptions, precision: str) -> None:
    """Raise InputError if gradients would flow through a float16 base without the gradient scaler
    that fp16 training uses."""
    resolved = resolve(precision, process_state().device, "training.precision")
    if base_dtype(options) == torch.float16 and resolved == "no":
        raise InputError(
            "option training.precision: expected auto or fp16, got 'no'; gradients through a "
            "float16 base need a scaler (or set model.base_dtype=float32)"
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
    """Raise InputError if a token of a text or one of the `fixed` tokens has no embedding, if the
    longest input has more tokens than the model has positions, or if a token sees a later one.

    Padding is not checked, since it is token 0, which the mask hides.
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
    with torch.inference_mode(), loading(name, "weights"):
        first, last = read(base.eval().base_model, ids, torch.ones_like(ids))[:, [0, -1]].unbind(1)
    if not torch.equal(first[0], first[1]) or torch.equal(last[0], last[1]):
        raise InputError(
            f"backbone {name}: not a decoder, because its first token sees the last one"
        )
