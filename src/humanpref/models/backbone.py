"""Pretrained backbones: loading one whole, and trying it before anything is trained or embedded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from humanpref.models.pretrained import (
    LOADING_ERRORS,
    base_folder,
    check_ids,
    load_backbone_config,
    not_loaded,
)
from humanpref.schema import InputError
from humanpref.text.format import A
from humanpref.text.tokens import template_of


def load_backbone(name: str, dtype: Any = torch.float32) -> nn.Module:
    """A pretrained model without its task head, in a type that `from_pretrained` takes.

    Raises
    ------
    InputError
        If it cannot be loaded, or if the checkpoint lacks weights, which would otherwise start at
        random without a word.
    """
    folder = str(base_folder(name))
    config = load_backbone_config(folder)
    try:
        backbone, info = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=None,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        raise InputError(not_loaded(name, "weights", error)) from None
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"backbone {name}: the checkpoint lacks {len(missing)} weights of the model, e.g. "
            f"{', '.join(missing[:3])}"
        )
    return backbone


def check_encoder(
    backbone: nn.Module,
    tokenizer: Any,
    name: str,
    max_length: int,
    embed: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> int:
    """Try the longest input beforehand: every token needs an embedding, every place a position, the
    tokenizer must put the tokens that it names around a text, and the first token must see the last
    one, which a decoder's does not.

    A decoder serves as well where `embed`, from token ids and mask, (n, length), to vectors, (n,
    width), sees the last token.

    Returns
    -------
    int
        The width of a vector.

    Raises
    ------
    InputError
        If one of these fails; `name` is the backbone's.
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
            f"backbone {name}: its tokenizer names {' and '.join(ends)} and puts none around a text"
        )
    fixed = (tokenizer.pad_token_id, *template.prefix, *template.before[A], *template.suffix)
    largest = check_ids(name, tokenizer, fixed, backbone.get_input_embeddings().num_embeddings)
    ids = torch.full((2, max_length), largest)
    ids[1, -1] = largest - 1
    mask = torch.ones_like(ids)
    backbone.eval()
    try:
        with torch.inference_mode():
            if embed is None:
                made = backbone(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
            else:
                made = embed(ids, mask)
    except (IndexError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"option model.max_length: backbone {name} cannot read {max_length} tokens ({reason})"
        ) from None
    if torch.equal(made[0], made[1]):
        what = "first token" if embed is None else "vector of a text"
        raise InputError(f"backbone {name}: not an encoder, its {what} does not see the last token")
    return made.shape[-1]
