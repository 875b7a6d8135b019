"""Load pretrained encoders with all their weights, and test them before anything is trained or
embedded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from humanpref.models.pretrained import (
    base_folder,
    check_ids,
    load_backbone_config,
    load_pretrained,
)
from humanpref.schema import InputError, refuse_failures
from humanpref.text.format import A
from humanpref.text.tokens import template_of


def load_backbone(name: str, dtype: Any = torch.float32) -> nn.Module:
    """Load a pretrained model without its task head. `dtype` is passed to `from_pretrained`.

    Raises
    ------
    InputError
        If it cannot be loaded or its checkpoint lacks weights.
    """
    folder = str(base_folder(name))
    config = load_backbone_config(folder)
    attention = attention_of(config)
    return load_pretrained(
        name, folder, AutoModel, config=config, dtype=dtype, attn_implementation=attention
    )


def attention_of(config: Any) -> str | None:
    """Return the attention implementation with which a backbone must be loaded: `eager` if it has a
    soft cap on attention scores, like Gemma 2, otherwise None for transformers' default.

    The default, `scaled_dot_product_attention`, does not support the cap and would silently omit
    it.
    """
    return "eager" if getattr(config, "attn_logit_softcapping", None) else None


def is_decoder(config: Any) -> bool:
    """Return whether a backbone is built like Llama: a decoder with rotary positions, whose keys
    and values can be shared by several heads."""
    return getattr(config, "num_key_value_heads", None) is not None


def check_encoder(
    backbone: nn.Module,
    tokenizer: Any,
    name: str,
    max_length: int,
    embed: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> int:
    """Test an encoder on the longest input. Every token must have an embedding and every position
    must be supported; the tokenizer must put its special tokens around a text; and the first
    token's state must depend on the last token, unlike in a decoder.

    Parameters
    ----------
    backbone, tokenizer
        The loaded encoder.
    name : str
        The encoder's folder or hub name.
    max_length : int
        Maximum length in tokens, special tokens included.
    embed : callable, optional
        A function from token ids and mask, (n, length), to vectors, (n, width). If given, these
        vectors, not the first token's state, must depend on the last token; a decoder then passes.

    Returns
    -------
    int
        Width of a vector.

    Raises
    ------
    InputError
        If one of these tests fails.
    """
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"backbone {name}: its tokenizer has no padding token; is this an encoder?"
        )
    template = template_of(tokenizer)
    first, last = tokenizer.cls_token, tokenizer.sep_token
    if embed is None:
        first, last = first or tokenizer.bos_token, last or tokenizer.eos_token
    ends = [token for token in (first, last) if token]
    if ends and not template.around():
        raise InputError(
            f"backbone {name}: its tokenizer defines {' and '.join(ends)} but adds none to a text"
        )
    fixed = (tokenizer.pad_token_id, *template.prefix, *template.before[A], *template.suffix)
    largest = check_ids(name, tokenizer, fixed, backbone.get_input_embeddings().num_embeddings)
    longest = getattr(backbone.config, "max_position_embeddings", None)
    rotary = embed is not None and is_decoder(backbone.config)
    if rotary and longest is not None and max_length > longest:
        raise InputError(
            f"option model.max_length: backbone {name} reads {longest} tokens, not {max_length}"
        )
    # A decoder's limit is checked in its configuration, because reading so many tokens takes
    # minutes.
    ids = torch.full((2, min(max_length, 8) if rotary else max_length), largest)
    ids[1, -1] = largest - 1
    mask = torch.ones_like(ids)
    backbone.eval()
    unreadable = f"option model.max_length: backbone {name} cannot read {max_length} tokens"
    with torch.inference_mode(), refuse_failures(unreadable):
        if embed is None:
            vectors = backbone(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        else:
            vectors = embed(ids, mask)
    if torch.equal(vectors[0], vectors[1]):
        subject = "first token" if embed is None else "vector of a text"
        raise InputError(
            f"backbone {name}: not an encoder, because its {subject} does not see the last token"
        )
    return vectors.shape[-1]
