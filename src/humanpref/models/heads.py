"""Heads, which turn the encoded answers of n rows into logits (n, 3) with the columns A, B and tie.

Every head takes an `Encoded` and returns logits whose softmax gives the probabilities. A head with
`equivariant = True` exchanges the logits of A and B when the answers are exchanged, provided that
the encoding treats both answers alike (as dual inputs do).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from humanpref.text.format import PROMPT, A, B


class Side(NamedTuple):
    """One of the two encoded answers of n rows: all answers A, or all answers B.

    Attributes
    ----------
    vector : Tensor
        (n, width) float32, the mean of each answer's hidden states.
    tokens : Tensor
        (n, length, width), the hidden states of the sequence that contains the answer.
    mask : Tensor
        (n, length) bool, true at the tokens that count as the answer's.
    """

    vector: Tensor
    tokens: Tensor
    mask: Tensor


class Encoded(NamedTuple):
    """The encoded texts of n rows: the mean of each prompt's hidden states, (n, width) float32, and
    both answers."""

    prompt: Tensor
    a: Side
    b: Side

    def swapped(self) -> "Encoded":
        """Return the same rows with A and B exchanged."""
        return Encoded(self.prompt, self.b, self.a)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the hidden states over the tokens where the mask is set, in float32.

    Parameters
    ----------
    hidden : Tensor
        (n, length, width).
    mask : Tensor
        (n, length), true or 1 at the tokens that count. A row without such tokens gives zeros.

    Returns
    -------
    Tensor
        (n, width) float32.
    """
    mask = mask.unsqueeze(-1).bool()
    # Filling, unlike multiplying by the mask, is safe if hidden states at padding are NaN.
    total = hidden.float().masked_fill(~mask, 0).sum(dim=1)
    return total / mask.sum(dim=1).clamp(min=1)


def encoded_dual(hidden: Tensor, mask: Tensor, parts: Tensor) -> Encoded:
    """Pool two sequences per row, prompt + A and prompt + B, (n, 2, length, width). An answer's
    vector is the mean over all tokens of its sequence except padding."""
    branches = list(zip(hidden.unbind(1), mask.bool().unbind(1), parts.unbind(1), strict=True))
    prompts = [masked_mean(tokens, part == PROMPT) for tokens, _, part in branches]
    a, b = (Side(masked_mean(tokens, real), tokens, real) for tokens, real, _ in branches)
    return Encoded((prompts[0] + prompts[1]) / 2, a, b)


def encoded_joint(hidden: Tensor, mask: Tensor, parts: Tensor) -> Encoded:
    """Pool one sequence per row, prompt + A + B, (n, 1, length, width). An answer's vector is the
    mean over that answer's tokens."""
    tokens = hidden[:, 0]
    masks = [(parts[:, 0] == part) & mask[:, 0].bool() for part in (PROMPT, A, B)]
    prompt, a, b = (Side(masked_mean(tokens, own), tokens, own) for own in masks)
    return Encoded(prompt.vector, a, b)


class VectorHead(nn.Module):
    """A small network on features of the two answers' vectors."""

    equivariant = False

    def __init__(
        self, features: Callable[[Tensor, Tensor], list[Tensor]], network: nn.Sequential
    ) -> None:
        super().__init__()
        self.features, self.network = features, network

    def forward(self, encoded: Encoded) -> Tensor:
        return self.network(torch.cat(self.features(encoded.a.vector, encoded.b.vector), dim=-1))


def concatenated(a: Tensor, b: Tensor) -> list[Tensor]:
    """Return the features of the linear head, [a, b]. Source: the report (M3, M9)."""
    return [a, b]


def interactions(a: Tensor, b: Tensor) -> list[Tensor]:
    """Return [a, b, a - b, a * b]. Source: Conneau et al. (2017), "InferSent", which uses |a - b|
    instead of a - b."""
    return [a, b, a - b, a * b]


class AttentionHead(nn.Module):
    """A head in which each answer's tokens attend to the other answer. Its network reads the mean
    output of the attention for each answer, and the features of `interactions`.

    Source: the report (M12).
    """

    equivariant = False

    def __init__(self, attention: nn.MultiheadAttention, network: nn.Sequential) -> None:
        super().__init__()
        self.attention, self.network = attention, network

    def forward(self, encoded: Encoded) -> Tensor:
        a, b = encoded.a, encoded.b
        vectors = [*interactions(a.vector, b.vector), self.attend(a, b), self.attend(b, a)]
        return self.network(torch.cat(vectors, dim=-1))

    def attend(self, queries: Side, keys: Side) -> Tensor:
        """Let the tokens of `queries` attend to those of `keys`, and return the mean of the outputs
        for the tokens of `queries`, (n, width)."""
        values = keys.tokens.float().masked_fill(~keys.mask.unsqueeze(-1), 0)
        # If an answer has no tokens, its first position stays visible, because attention to nothing
        # gives NaN. Like all padding, that position is zeroed. Zeroing keeps gradients out of
        # padding; they would overflow in half precision, because the variance of padding is 0.
        ignored = ~keys.mask
        ignored[:, 0] &= keys.mask.any(dim=1)
        attended, _ = self.attention(
            queries.tokens.float(), values, values, key_padding_mask=ignored, need_weights=False
        )
        return masked_mean(attended, queries.mask)


class TieHead(nn.Module):
    """Compute a margin d, which is antisymmetric in A and B, and a tie score nu, which is
    symmetric. Combine both with a tie-aware link.

    d = f(prompt, a, b) - f(prompt, b, a);   nu = g(prompt, a + b, |a - b|, a * b)

    f and g are small networks; prompt, a and b are the vectors of the prompt, of A and of B.

    ``davidson``: P(A), P(B), P(tie) ∝ e^{d/2}, e^{-d/2}, e^{nu}. ``rao-kupper``: P(A) = sigmoid(d -
    theta), P(B) = sigmoid(-d - theta), P(tie) is the rest; theta = softplus(nu).

    Source: Davidson (1970), eq. 2.5; Rao and Kupper (1967), eq. 2.1. Evidence that ties depend on
    the prompt more than on the pair of models: arXiv 2510.02306.
    """

    equivariant = True

    def __init__(self, link: str, margin: nn.Sequential, tie: nn.Sequential) -> None:
        super().__init__()
        self.link, self.margin, self.tie = LINKS[link], margin, tie

    def forward(self, encoded: Encoded) -> Tensor:
        prompt, a, b = encoded.prompt, encoded.a.vector, encoded.b.vector
        # One call handles both orders; apart from dropout, they are treated identically.
        orders = torch.stack([torch.cat([prompt, a, b], dim=-1), torch.cat([prompt, b, a], dim=-1)])
        first, second = self.margin(orders).squeeze(-1)
        nu = self.tie(torch.cat([prompt, a + b, (a - b).abs(), a * b], dim=-1)).squeeze(-1)
        return self.link(first - second, nu)


def davidson(d: Tensor, nu: Tensor) -> Tensor:
    """Return the logits of Davidson's model, (n, 3), for d and nu, each (n,)."""
    return torch.stack([d / 2, -d / 2, nu], dim=-1)


def rao_kupper(d: Tensor, nu: Tensor) -> Tensor:
    """Return the log probabilities of Rao and Kupper's model, (n, 3), for d and nu, each (n,). The
    threshold theta is softplus(nu).

    P(tie) = sigmoid(d + theta) - sigmoid(d - theta) = (1 - e^{-2 theta}) sigmoid(d + theta)
    sigmoid(theta - d). The product remains accurate when both sigmoids are near 0 or 1.
    """
    # With a threshold of 0, a tie would be impossible and its logarithm infinite.
    theta = F.softplus(nu) + 1e-6
    tie = torch.log(-torch.expm1(-2 * theta)) + F.logsigmoid(d + theta) + F.logsigmoid(theta - d)
    return torch.stack([F.logsigmoid(d - theta), F.logsigmoid(-d - theta), tie], dim=-1)


LINKS = {"davidson": davidson, "rao-kupper": rao_kupper}
EQUIVARIANT_HEADS = tuple(LINKS)


def tie_score(link: str, probability: float) -> float:
    """Return the tie score nu for which P(tie) is `probability` if the margin d is 0.

    Davidson: P(tie) = e^nu / (2 + e^nu). Rao-Kupper: P(tie) = tanh(softplus(nu) / 2).

    >>> round(tie_score("davidson", 0.5), 6)
    0.693147
    """
    if link == "davidson":
        return math.log(2 * probability / (1 - probability))
    return math.log(math.expm1(2 * math.atanh(probability)))


def build_head(
    name: str,
    width: int,
    dropout: float,
    layer_norm: bool,
    attention_heads: int,
    zero_start: bool = False,
) -> nn.Module:
    """Build the head named in `model.head`.

    With `zero_start`, the last layer of each of the head's networks is initialized to zero. The
    initial logits are then zero for every head except rao-kupper.
    """

    def network(inputs: int, outputs: int = 3) -> nn.Sequential:
        norm = [nn.LayerNorm(inputs * width)] if layer_norm else []
        hidden = [] if name == "linear" else [nn.Linear(inputs * width, width), nn.GELU()]
        last = nn.Linear(width if hidden else inputs * width, outputs)
        if zero_start:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return nn.Sequential(*norm, nn.Dropout(dropout), *hidden, last)

    if name in LINKS:
        return TieHead(name, margin=network(3, 1), tie=network(4, 1))
    if name == "attention":
        attention = nn.MultiheadAttention(width, attention_heads, batch_first=True)
        return AttentionHead(attention, network(6))
    if name == "interaction":
        return VectorHead(interactions, network(4))
    return VectorHead(concatenated, network(2))
