"""Prepare a pretrained decoder for GPUs older than Ampere, such as the T4, which compute in float16
and have no fast kernel for grouped-query attention."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

REPEATED_KEYS = "sdpa_repeated_keys"
"""The name under which transformers finds `repeated_keys_attention`."""


def prepare(base: nn.Module, device: torch.device) -> None:
    """Keep the decoder's residual stream in float32 under float16 autocast. On a CUDA GPU below
    compute capability 8.0, also give every query head its own copy of the keys and values.

    The residual stream of a pretrained decoder can exceed float16's largest value, 65,504 (that of
    Gemma 3 270M reaches 103,798). The embeddings, with which the stream begins, are therefore
    converted to float32; it stays float32 when a layer's output is added. The inputs of norms are
    also converted, since a norm's output has the type of its input. Linear layers and attention
    compute in float16, so the output of a single one can still overflow.

    Parameters
    ----------
    base : Module
        A transformers decoder; changed in place.
    device : torch.device
        The device on which it computes.
    """
    base.get_input_embeddings().register_forward_hook(_widen_output)
    for part in base.modules():
        if type(part).__name__.endswith("Norm"):
            part.register_forward_pre_hook(_widen_first)
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    if old and base.config._attn_implementation == "sdpa":
        base.set_attn_implementation(REPEATED_KEYS)


def _widen_output(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
    return _widened(output)


def _widen_first(_: nn.Module, inputs: tuple) -> tuple:
    return (*map(_widened, inputs[:1]), *inputs[1:])


def _widened(states: Tensor) -> Tensor:
    """Convert states to float32 under float16 autocast; otherwise, return them unchanged."""
    kind = states.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return states.float() if half else states


def repeated_keys_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any
) -> tuple[Tensor, None]:
    """Repeat the key and value heads, one for each query head, and call transformers'
    `sdpa_attention_forward`.

    Otherwise, transformers would set torch's option `enable_gqa` if there is no mask. Below compute
    capability 8.0, only the slow math kernel supports this option, and that kernel keeps the scores
    of all positions in memory.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    ungrouped = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    return sdpa_attention_forward(ungrouped, query, key, value, *arguments, **options)


AttentionInterface.register(REPEATED_KEYS, repeated_keys_attention)
AttentionMaskInterface.register(REPEATED_KEYS, sdpa_mask)
