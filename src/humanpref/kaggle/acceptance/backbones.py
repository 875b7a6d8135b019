"""Backbones with random weights: in the sizes of the presets' own, or small ones with a
tokenizer."""

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
"""Layers to which models of 7 and 9 billion weights are cut."""
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
"""Sizes of tiny models, of which each kind of backbone has some."""


def configuration(name: str, quick: bool = False, **changes: Any) -> Any:
    """Return a transformers configuration with a backbone's published sizes, which must be known.
    If the backbone has billions of weights, the configuration has only its first layers.

    Parameters
    ----------
    name : str
        The backbone, as in a preset.
    quick : bool
        Whether to return a tiny one of the same kind.
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
    """Return a note if `configuration` cuts the backbone's layers, else ""."""
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
    """Write a small backbone with a tokenizer, as a publisher would, and return its folder.

    Parameters
    ----------
    folder : Path
        Where to write it.
    family : str
        `encoder`, or `decoder` or `dpo` for a language model.
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
        # As Llama 3's: a token at the start, none at the end, and none for padding.
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
        # Random weights of the usual size hardly change their input; trained ones do.
        if weight.ndim == 2:
            weight.data.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def without_dropout(source: Path, folder: Path) -> Path:
    """Make a folder with the same files, by links, but no dropout in the configuration; dropout
    draws other numbers on another device."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    values = read_json(source / "config.json")
    values |= {key: 0.0 for key in values if key.endswith(("dropout", "dropout_prob"))}
    write_json(folder / "config.json", values)
    return folder
