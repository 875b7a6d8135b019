"""A trial, measured by `deberta_attention.py`: DeBERTa-v2 and v3 attention without gathers, with
the same weights and results and less memory traffic.

Disentangled attention adds two position terms to the scores, each a product with the embedding of
the distance i - j. Transformers multiplies by the embeddings of all buckets and gathers an L x L
matrix of them, twice. Here the embeddings are laid out by distance first, so that each term is a
product whose rows are shifted against each other: a view by strides. The sum of both, with the
padding masked, is the mask of `scaled_dot_product_attention`.

Source: He et al. (2021), arXiv 2006.03654, equation 4.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2Encoder,
    DisentangledSelfAttention,
    make_log_bucket_position,
)

BLOCK = 256
"""Positions whose products are computed at once."""


def fuse_attention(backbone: nn.Module) -> int:
    """Let every DeBERTa-v2 or v3 encoder inside a module attend without gathers, in place.

    Parameters
    ----------
    backbone : Module
        A transformers model; its weights and their names stay.

    Returns
    -------
    int
        Attention layers changed: 0 for any other architecture.

    Examples
    --------
    >>> fuse_attention(nn.Linear(2, 2))
    0
    """
    changed = 0
    for encoder in backbone.modules():
        if type(encoder) is DebertaV2Encoder and encoder.relative_attention:
            encoder.__class__ = FusedEncoder
            for module in encoder.modules():
                if type(module) is DisentangledSelfAttention:
                    module.__class__ = FusedSelfAttention
                    changed += 1
    return changed


class FusedEncoder(DebertaV2Encoder):
    """An encoder that hands its layers the keys to attend to and the embedding of each distance."""

    def get_attention_mask(self, attention_mask: Tensor) -> Tensor | None:
        """Keys to attend to, bool (n, L); None where the host knows that there is no padding."""
        keys = attention_mask.bool()
        return None if keys.device.type == "cpu" and keys.all() else keys

    def get_rel_pos(self, hidden_states: Tensor, *_: Any) -> Tensor:
        """Rows of the relative embeddings by distance: (2 L - 1,) int64, for i - j = 1 - L to
        L - 1."""
        length = hidden_states.shape[1]
        distances = torch.arange(1 - length, length, device=hidden_states.device)
        span = self.max_relative_positions
        if self.position_buckets > 0:
            distances = make_log_bucket_position(distances, self.position_buckets, span).long()
            span = self.position_buckets
        return torch.clamp(distances + span, 0, 2 * span - 1)


class FusedSelfAttention(DisentangledSelfAttention):
    """Attention on what `FusedEncoder` hands over; it gives no attention probabilities."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend within each sequence: (n, L, width) in, (n, L, width) out."""
        scale = 1 / math.sqrt(self.attention_head_size * (1 + len(self.position_terms)))
        queries = hidden_states if query_states is None else query_states
        query = self.split(self.query_proj(queries)) * scale
        key, value = (
            self.split(self.key_proj(hidden_states)),
            self.split(self.value_proj(hidden_states)),
        )
        embeddings = self.pos_dropout(rel_embeddings)
        by_distance: list[Tensor | None] = [None, None]
        if "c2p" in self.position_terms:
            project = self.key_proj if self.share_att_key else self.pos_key_proj
            by_distance[0] = self.laid_out(project(embeddings), relative_pos.flip(0))
        if "p2c" in self.position_terms:
            project = self.query_proj if self.share_att_key else self.pos_query_proj
            by_distance[1] = self.laid_out(project(embeddings) * scale, relative_pos)
        bias = PositionBias.apply(query, key, *by_distance, attention_mask)
        dropout = self.dropout.p if self.training else 0.0
        context = scaled_dot_product_attention(query, key, value, bias, dropout, scale=1.0)
        return context.permute(1, 2, 0, 3).flatten(2), None

    @property
    def position_terms(self) -> set[str]:
        """`c2p` (content to position), `p2c`, both or none."""
        return {"c2p", "p2c"}.intersection(self.pos_att_type)

    def split(self, states: Tensor) -> Tensor:
        """(n, L, heads * size) as (heads, n, L, size)."""
        heads = states.unflatten(-1, (self.num_attention_heads, -1))
        return heads.permute(2, 0, 1, 3).contiguous()

    def laid_out(self, projected: Tensor, rows: Tensor) -> Tensor:
        """Projected relative embeddings by distance: (heads, size, 2 L - 1)."""
        heads = projected.unflatten(-1, (self.num_attention_heads, -1)).permute(1, 2, 0)
        return heads.index_select(-1, rows)


class PositionBias(Function):
    """The position terms of the scores, with a fill at the padding: (heads, n, L, L).

    Rows are computed in blocks of `BLOCK`, so that a block of K rows needs L + K - 1 of the 2 L - 1
    distances. Nothing of size L x L is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        key_by_distance: Tensor | None,
        query_by_distance: Tensor | None,
        keys_to_attend: Tensor | None,
    ) -> Tensor:
        """`query` and `key` are (heads, n, L, size); what is laid out by distance (heads, size,
        2 L - 1), the queries' from i - j = L - 1 down, the keys' from 1 - L up."""
        tensors = (query, key, key_by_distance, query_by_distance)
        ctx.save_for_backward(*tensors)
        heads, rows, length, _ = query.shape
        bias = query.new_empty(heads, rows, length, length)
        pairs = terms(tensors, bias)
        for states, by_distance, target in pairs:
            for block, distances in blocks(length):
                products = torch.bmm(states[:, :, block].flatten(1, 2), by_distance[..., distances])
                term = shifted(products.unflatten(1, (rows, -1)))
                if target is bias or len(pairs) == 1:
                    target[:, :, block] = term
                else:
                    target[:, :, block] += term
        if not pairs:
            bias.zero_()
        if keys_to_attend is not None:
            # Half of the least number: with the scores added it stays finite in float16.
            fill = torch.finfo(bias.dtype).min / 2
            bias.masked_fill_(~keys_to_attend[:, None, :], fill)
        return bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        length = gradient.shape[-1]
        made: list[Tensor | None] = [
            torch.zeros_like(x) if x is not None else None for x in ctx.saved_tensors
        ]
        sums = terms(made, gradient)
        for (states, by_distance, of_bias), (of_states, of_distances, _) in zip(
            terms(ctx.saved_tensors, gradient), sums, strict=True
        ):
            for block, distances in blocks(length):
                rows = of_bias[:, :, block]
                whole = rows.new_zeros(*rows.shape[:-1], distances.stop - distances.start)
                shifted(whole).copy_(rows)
                whole = whole.flatten(1, 2)
                product = torch.bmm(whole, by_distance[..., distances].transpose(1, 2))
                of_states[:, :, block] = product.unflatten(1, rows.shape[1:3])
                own = states[:, :, block].flatten(1, 2)
                of_distances[..., distances] += torch.bmm(own.transpose(1, 2), whole)
        return *made, None


def terms(tensors: Sequence[Tensor | None], bias: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The states, their counterparts by distance, and the bias with the states' positions as its
    rows, of each term that there is."""
    query, key, key_by_distance, query_by_distance = tensors
    both = [(query, key_by_distance, bias), (key, query_by_distance, bias.transpose(-1, -2))]
    return [term for term in both if term[1] is not None]


def blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """Each block of positions with the distances that it needs."""
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        yield slice(start, end), slice(length - end, 2 * length - 1 - start)


def shifted(products: Tensor) -> Tensor:
    """Row i of K from column K - 1 - i on: (…, K, L + K - 1) as (…, K, L), a view.

    Examples
    --------
    >>> shifted(torch.arange(6).view(2, 3))
    tensor([[1, 2],
            [3, 4]])
    """
    *lead, height, width = products.shape
    *outer, row, column = products.stride()
    start = products.storage_offset() + (height - 1) * column
    shape = (*lead, height, width - height + 1)
    return products.as_strided(shape, (*outer, row - column, column), start)
