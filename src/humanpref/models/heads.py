"""Heads: from what the backbone made of a batch of rows to logits (n, 3), columns A, B, tie.

Every head takes an `Encoded` and returns logits whose softmax are the probabilities. A head with
`equivariant = True` gives, for a row with its answers exchanged, the same logits with A and B
exchanged, as long as the encoding itself treats both alike (as the dual inputs do).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from humanpref.text.format import PROMPT
from humanpref.text.tokens import SPECIAL


class Encoded(NamedTuple):
    """A batch of n rows after the backbone.

    `a`, `b` and `prompt` are mean-pooled vectors, (n, width) float32. `tokens_a`, `tokens_b` are
    hidden states (n, length, width) and `mask_a`, `mask_b` (n, length) say which of them are the
    side's own tokens.
    """

    prompt: Tensor
    a: Tensor
    b: Tensor
    tokens_a: Tensor
    tokens_b: Tensor
    mask_a: Tensor
    mask_b: Tensor

    def swapped(self) -> "Encoded":
        """The same rows with A and B exchanged."""
        return Encoded(
            self.prompt, self.b, self.a, self.tokens_b, self.tokens_a, self.mask_b, self.mask_a
        )


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens where the mask is set, in float32.

    Parameters
    ----------
    hidden : Tensor
        (n, length, width).
    mask : Tensor
        (n, length), true or 1 at the tokens that count. A row without any gives zeros.

    Returns
    -------
    Tensor
        (n, width) float32.
    """
    mask = mask.unsqueeze(-1).float()
    # Not hidden * mask: what stands at padding may be anything, NaN included.
    return (hidden.float().masked_fill(mask == 0, 0) * mask).sum(dim=1) / mask.sum(dim=1).clamp(
        min=1
    )


def encoded_dual(hidden: Tensor, mask: Tensor, parts: Tensor) -> Encoded:
    """Two branches of one row, (n, 2, length, width): each side's vector is the mean over all real
    tokens of its branch."""
    (tokens_a, tokens_b), (mask_a, mask_b) = hidden.unbind(1), mask.bool().unbind(1)
    prompts = [
        masked_mean(tokens, part == PROMPT)
        for tokens, part in zip((tokens_a, tokens_b), parts.unbind(1), strict=True)
    ]
    a, b = masked_mean(tokens_a, mask_a), masked_mean(tokens_b, mask_b)
    return Encoded((prompts[0] + prompts[1]) / 2, a, b, tokens_a, tokens_b, mask_a, mask_b)


def encoded_joint(hidden: Tensor, mask: Tensor, parts: Tensor) -> Encoded:
    """One sequence of a row, (n, 1, length, width): each side's vector is the mean over that
    response's tokens."""
    tokens, parts = hidden[:, 0], parts[:, 0]
    masks = [
        (parts == part) & (parts != SPECIAL) & mask[:, 0].bool()
        for part in (PROMPT, PROMPT + 1, PROMPT + 2)
    ]
    prompt, a, b = (masked_mean(tokens, own) for own in masks)
    return Encoded(prompt, a, b, tokens, tokens, masks[1], masks[2])


class LinearHead(nn.Module):
    """One linear layer on [a, b], optionally after LayerNorm and dropout. Source: the report (M3,
    M9)."""

    equivariant = False

    def __init__(self, width: int, dropout: float, layer_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * width) if layer_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * width, 3)

    def forward(self, encoded: Encoded) -> Tensor:
        return self.linear(self.dropout(self.norm(torch.cat([encoded.a, encoded.b], dim=-1))))


class InteractionHead(nn.Module):
    """A small network on [a, b, a - b, a * b]. Source: Conneau et al. (2017), "InferSent", with |a
    - b| signed."""

    equivariant = False

    def __init__(self, width: int, dropout: float, layer_norm: bool) -> None:
        super().__init__()
        self.network = _network(4 * width, width, 3, dropout, layer_norm)

    def forward(self, encoded: Encoded) -> Tensor:
        a, b = encoded.a, encoded.b
        return self.network(torch.cat([a, b, a - b, a * b], dim=-1))


class AttentionHead(nn.Module):
    """Each answer's tokens attend to the other's; the network sees what each found there, too.
    Source: M12."""

    equivariant = False

    def __init__(self, width: int, dropout: float, layer_norm: bool, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.network = _network(6 * width, width, 3, dropout, layer_norm)

    def forward(self, encoded: Encoded) -> Tensor:
        a, b = encoded.a, encoded.b
        a_of_b = self._look(encoded.tokens_a, encoded.mask_a, encoded.tokens_b, encoded.mask_b)
        b_of_a = self._look(encoded.tokens_b, encoded.mask_b, encoded.tokens_a, encoded.mask_a)
        return self.network(torch.cat([a, b, a - b, a * b, a_of_b, b_of_a], dim=-1))

    def _look(self, queries: Tensor, query_mask: Tensor, keys: Tensor, key_mask: Tensor) -> Tensor:
        keys = keys.float().masked_fill(~key_mask.unsqueeze(-1), 0)
        # A side without tokens is looked at all the same (at its first place, where nothing is):
        # attention to nothing is not a number, and a gradient into padding, which has no variance
        # to normalise by, overflows in half precision.
        key_mask = key_mask.clone()
        key_mask[:, 0] |= ~key_mask.any(dim=1)
        found, _ = self.attention(
            queries.float(), keys, keys, key_padding_mask=~key_mask, need_weights=False
        )
        return masked_mean(found, query_mask)


class TieHead(nn.Module):
    """A margin d, antisymmetric in A and B, and a tie score nu, symmetric and with the prompt in
    sight, through a tie-aware link.

    d = f(prompt, a, b) - f(prompt, b, a);   nu = g(prompt, a + b, |a - b|, a * b)

    ``davidson``: P(A), P(B), P(tie) ∝ e^{d/2}, e^{-d/2}, e^{nu}. ``rao-kupper``: P(A) = sigmoid(d -
    theta), P(B) = sigmoid(-d - theta), theta = softplus(nu) and the rest is the tie's.

    Source: Davidson (1970), eq. 2.5; Rao and Kupper (1967), eq. 2.1. That draws say more of the
    prompt than of the pair: arXiv 2510.02306.
    """

    equivariant = True

    def __init__(self, width: int, dropout: float, layer_norm: bool, link: str) -> None:
        super().__init__()
        self.link = LINKS[link]
        self.margin = _network(3 * width, width, 1, dropout, layer_norm)
        self.tie = _network(4 * width, width, 1, dropout, layer_norm)

    def forward(self, encoded: Encoded) -> Tensor:
        prompt, a, b = encoded.prompt, encoded.a, encoded.b
        # Both orders go through in one call, so that dropout is all that can tell them apart.
        both = torch.stack([torch.cat([prompt, a, b], dim=-1), torch.cat([prompt, b, a], dim=-1)])
        forward, backward = self.margin(both).squeeze(-1)
        nu = self.tie(torch.cat([prompt, a + b, (a - b).abs(), a * b], dim=-1)).squeeze(-1)
        return self.link(forward - backward, nu)


def davidson(d: Tensor, nu: Tensor) -> Tensor:
    """Logits of Davidson's model, (n, 3) from (n,) and (n,)."""
    return torch.stack([d / 2, -d / 2, nu], dim=-1)


def rao_kupper(d: Tensor, nu: Tensor) -> Tensor:
    """Log-probabilities of Rao and Kupper's model with the threshold softplus(nu), (n, 3) from (n,)
    and (n,).

    The tie's probability is sigmoid(d + theta) - sigmoid(d - theta) = (1 - e^{-2 theta}) sigmoid(d
    + theta) sigmoid(theta - d), which loses no digits where both sigmoids are near 0 or 1.
    """
    theta = (
        F.softplus(nu) + 1e-6
    )  # a threshold of 0 would make a tie impossible, and its logarithm infinite
    tie = torch.log(-torch.expm1(-2 * theta)) + F.logsigmoid(d + theta) + F.logsigmoid(theta - d)
    return torch.stack([F.logsigmoid(d - theta), F.logsigmoid(-d - theta), tie], dim=-1)


LINKS = {"davidson": davidson, "rao-kupper": rao_kupper}


def tie_score(link: str, probability: float) -> float:
    """The nu with which a link gives a tie this probability at d = 0.

    Davidson: e^nu / (2 + e^nu) = p; Rao-Kupper: tanh(theta / 2) = p with theta = softplus(nu).
    """
    if link == "davidson":
        return math.log(2 * probability / (1 - probability))
    return math.log(math.expm1(2 * math.atanh(probability)))


EQUIVARIANT_HEADS = ("davidson", "rao-kupper")


def build_head(
    name: str,
    width: int,
    dropout: float,
    layer_norm: bool,
    attention_heads: int,
    zero_start: bool = False,
) -> nn.Module:
    """The head of that name: linear, interaction, attention, davidson or rao-kupper.

    With `zero_start` its last layer is zero, and so are the linear and the Davidson heads' first
    logits.
    """
    head: nn.Module
    if name in EQUIVARIANT_HEADS:
        head = TieHead(width, dropout, layer_norm, name)
        last = [head.margin[-1], head.tie[-1]]
    elif name == "attention":
        head = AttentionHead(width, dropout, layer_norm, attention_heads)
        last = [head.network[-1]]
    elif name == "interaction":
        head = InteractionHead(width, dropout, layer_norm)
        last = [head.network[-1]]
    else:
        head = LinearHead(width, dropout, layer_norm)
        last = [head.linear]
    if zero_start:
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return head


def _network(
    inputs: int, hidden: int, outputs: int, dropout: float, layer_norm: bool
) -> nn.Sequential:
    norm = [nn.LayerNorm(inputs)] if layer_norm else []
    return nn.Sequential(
        *norm, nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )
