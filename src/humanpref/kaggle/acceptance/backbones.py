"""Create backbones with random weights: in the sizes of the presets' backbones, or small ones with
a tokenizer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from humanpref.config import Config
from humanpref.files import read_json, write_json
from humanpref.models.scratch import train_tokenizer
from humanpref.training.shapes import published_sizes

DEBERTA = {
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
STACK = 4
"""Number of layers that are kept of backbones with 7 or 9 billion weights."""
QUICK = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 600,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_buckets": 16,
    "embedding_size": 32,
}
"""Sizes of tiny backbones; an architecture uses only those keys that its configuration has."""


def configuration(name: str, quick: bool = False, **changes: Any) -> Any:
    """Return a transformers configuration with a backbone's published sizes. If the hidden size is
    above 3,000, the configuration has only `STACK` layers.

    Parameters
    ----------
    name : str
        The backbone, as in a preset.
    quick : bool
        Whether to use the sizes `QUICK` instead.
    **changes
        Other settings, for example the dropout.
    """
    sizes = dict(published_sizes(name))
    if sizes["hidden_size"] > 3_000:
        sizes["num_hidden_layers"] = STACK
    if quick:
        sizes |= {key: QUICK[key] for key in QUICK.keys() & sizes.keys()}
    kind = sizes.pop("model_type")
    extra = DEBERTA if kind == "deberta-v2" else {}
    return AutoConfig.for_model(kind, **{**sizes, **extra, **changes})


def layers_of(name: str) -> str:
    """Return a note about the layers that `configuration` keeps; empty if it keeps all."""
    layers = published_sizes(name)["num_hidden_layers"]
    kept = configuration(name).num_hidden_layers
    return "" if kept == layers else f", {kept} of {layers} layers"


def random_backbone(config: Config, sizes: Any, dtype: torch.dtype) -> Any:
    """Create a backbone with random weights on the default device.

    Parameters
    ----------
    config : Config
        A configuration of a neural family.
    sizes : transformers configuration
        The sizes of the backbone.
    dtype : torch.dtype
        The type of a decoder's weights; an encoder's are float32.
    """
    kind = AutoModelForCausalLM if config.family == "dpo" else AutoModel
    if config.family == "encoder":
        return kind.from_config(sizes)
    capped = getattr(sizes, "attn_logit_softcapping", None) is not None
    attention = {"attn_implementation": "eager"} if capped else {}
    return kind.from_config(sizes, dtype=dtype, **attention)


def save_small(
    folder: Path, family: str, texts: Iterable[str], quick: bool = False, dropout: float = 0.0
) -> Path:
    """Save a small backbone with random weights and a tokenizer, and return its folder.

    Parameters
    ----------
    folder : Path
        Where to write it.
    family : str
        `encoder`, or one of `decoder` and `dpo`, which use the same language model.
    texts : iterable of str
        The texts on which the tokenizer is trained.
    quick : bool
        Whether to make it tiny.
    dropout : float
        An encoder's dropout.
    """
    encoder = family == "encoder"
    tokenizer = train_tokenizer(list(texts), 600)
    if not encoder:
        # Special tokens as in Llama 3: one at the start, none at the end, none for padding.
        tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "[CLS]", "[SEP]", None
        tokenizer.cls_token = tokenizer.sep_token = None
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A",
            pair="[CLS] $A [CLS] $B",
            special_tokens=[("[CLS]", tokenizer.bos_token_id)],
        )
    width = 64 if quick else 256
    changes = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2 if quick else 4,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id if encoder else None,
    }
    if encoder:
        changes |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    name = "deberta-v3-small" if encoder else "llama-3.2-1b"
    sizes = configuration(name, quick=True, **changes)
    torch.manual_seed(0)
    model = (AutoModel if encoder else AutoModelForCausalLM).from_config(sizes)
    for weight in model.parameters():
        # Layers with the usual random weights hardly change their input; trained layers do.
        if weight.ndim == 2:
            weight.data.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def without_dropout(source: Path, folder: Path) -> Path:
    """Create a copy of a backbone without dropout, and return its folder. Dropout would draw
    different random numbers on the CPU and on the GPU. The other files are linked, not copied."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    values = read_json(source / "config.json")
    values |= {key: 0.0 for key in values if key.endswith(("dropout", "dropout_prob"))}
    write_json(folder / "config.json", values)
    return folder
