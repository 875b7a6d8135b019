"""Score tokens with a language model's own output layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from humanpref.models.frozen_base import own_autocast, read
from humanpref.schema import InputError


def token_scores(model: nn.Module, vectors: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Compute a causal language model's logits from hidden states, with its final soft cap if it
    has one.

    Parameters
    ----------
    model : Module
        A causal language model of transformers.
    vectors : Tensor
        (n, width) last hidden states.
    tokens : Tensor, optional
        (k,) token ids. Only their rows of the output layer are used, in float32 even under
        autocast. If omitted, the complete vocabulary is scored, in the layer's own type.

    Returns
    -------
    Tensor
        (n, k) or (n, vocabulary), float32.
    """
    head = model.get_output_embeddings()
    if tokens is None:
        logits = head(vectors.to(head.weight.dtype)).float()
    else:
        with torch.autocast(vectors.device.type, enabled=False):
            bias = None if head.bias is None else head.bias[tokens].float()
            logits = F.linear(vectors.float(), head.weight[tokens].float(), bias)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def check_scores(model: nn.Module, name: str) -> None:
    """Raise InputError if the model's scores differ from those of `token_scores`, for example
    because the model scales them."""
    ids = torch.arange(6, device=model.device).unsqueeze(0)
    mask = torch.ones_like(ids)
    with torch.inference_mode(), own_autocast(model):
        ours, own = (
            token_scores(model, read(model.base_model, ids, mask)[0]),
            model(input_ids=ids).logits[0].float(),
        )
    if not torch.allclose(ours, own, atol=1e-2 * float(own.abs().max())):
        raise InputError(
            f"backbone {name}: not supported, since it changes the scores of its output layer, "
            "e.g. scales them"
        )
