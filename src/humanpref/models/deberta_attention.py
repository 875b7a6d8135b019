"""DeBERTa-v2 and -v3 attention without gathers: the same weights and results as transformers', with
less memory traffic.

Disentangled attention adds two position terms to the score of query i and key j: the products of
the query, and of the key, with an embedding of the distance i - j. For a sequence of length L,
transformers multiplies by the embeddings of all buckets of distances and gathers an L x L matrix
from each product. Here, the embeddings are first laid out with one column per distance. Row i of
the L x L matrix is then a slice of row i of the product, and each slice starts one column before
the previous one, so the matrix is a strided view of the product. The sum of both terms is passed to
`scaled_dot_product_attention` as its mask.

Source: He et al. (2021), arXiv 2006.03654, equation 4.
"""

import math
from collections.abc import Iterator
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

BLOCK = 128
"""Number of positions whose products are computed at once. In a sequence of length L, a block of K
positions needs L + K - 1 of the 2 L - 1 distances."""
ALIGNMENT = 8
"""The length of the mask's rows in memory is a multiple of this number of elements, because CUDA's
attention would copy any other mask."""


def fuse_attention(backbone: nn.Module) -> bool:
    """Replace the attention of a DeBERTa-v2 or -v3 by `FusedSelfAttention`, in place. A model of
    another type, or with only one of DeBERTa's two position terms, is not changed.

    Weights and their names do not change, and real tokens get the same states up to rounding. Only
    the states at padding, to which no real token attends, differ. Dropout of the probabilities
    draws different random numbers from the same distribution.

    Parameters
    ----------
    backbone : Module
        A transformers model, with or without a task head.

    Returns
    -------
    bool
        Whether the attention was replaced.

    Examples
    --------
    >>> fuse_attention(nn.Linear(2, 2))
    False
    """
    encoders = [
        module
        for module in backbone.modules()
        if isinstance(module, DebertaV2Encoder)
        and module.relative_attention
        and {"c2p", "p2c"} <= {*module.layer[0].attention.self.pos_att_type}
    ]
    for encoder in encoders:
        encoder.__class__ = FusedEncoder
        for layer in encoder.layer:
            layer.attention.self.__class__ = FusedSelfAttention
    return bool(encoders)


class FusedEncoder(DebertaV2Encoder):
    """An encoder that passes two inputs to its layers: a mask of the keys that are not padding and,
    for each distance i - j from query i to key j, the index of its row in the relative
    embeddings."""

    def get_attention_mask(self, attention_mask: Tensor) -> Tensor | None:
        """Return a mask of the real keys, bool (n, 1, L), or None if all keys are known to be real.
        On a GPU, the mask is always returned, since the check would have to wait for the GPU."""
        real = attention_mask.bool()
        return None if real.device.type == "cpu" and real.all() else real[:, None]

    def get_rel_pos(self, hidden_states: Tensor, *_: Any) -> Tensor:
        """Return the index of each distance's row in the relative embeddings, (2 L - 1,) int64, for
        the distances i - j from 1 - L to L - 1."""
        length = hidden_states.shape[1]
        distances = torch.arange(1 - length, length, device=hidden_states.device)
        span = self.max_relative_positions
        if self.position_buckets > 0:
            distances = make_log_bucket_position(distances, self.position_buckets, span).long()
            span = self.position_buckets
        return torch.clamp(distances + span, 0, 2 * span - 1)


class FusedSelfAttention(DisentangledSelfAttention):
    """Self-attention with the inputs that `FusedEncoder` passes. It does not return the attention
    probabilities."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend within each sequence: (n, L, width) to (n, L, width)."""
        scale = 1 / math.sqrt(3 * self.attention_head_size)
        states = hidden_states if query_states is None else query_states
        query = self.by_head(self.query_proj(states))
        key, value = (
            self.by_head(proj(hidden_states)) for proj in (self.key_proj, self.value_proj)
        )
        embeddings = self.pos_dropout(rel_embeddings)
        to_key = self.key_proj if self.share_att_key else self.pos_key_proj
        to_query = self.query_proj if self.share_att_key else self.pos_query_proj
        # The distance i - j falls from key to key, and rises from query to query.
        keys_of = self.laid_out(to_key(embeddings) * scale, relative_pos.flip(0))
        queries_of = self.laid_out(to_query(embeddings) * scale, relative_pos)
        mask = PositionMask.apply(query, key, keys_of, queries_of, attention_mask)
        context = scaled_dot_product_attention(
            *(states.permute(1, 0, 2, 3) for states in (query, key, value, mask)),
            dropout_p=self.dropout.p if self.training else 0.0,
            scale=scale,
        )
        return context.transpose(1, 2).flatten(2), None

    def by_head(self, states: Tensor) -> Tensor:
        """View (n, L, heads * size) as (heads, n, L, size)."""
        return states.unflatten(-1, (self.num_attention_heads, -1)).permute(2, 0, 1, 3)

    def laid_out(self, projected: Tensor, rows: Tensor) -> Tensor:
        """Return the projected embedding of each of the 2 L - 1 distances, (heads, size, 2 L - 1).
        `rows`, (2 L - 1,), are the distances' rows in `projected`."""
        heads = projected.unflatten(-1, (self.num_attention_heads, -1)).permute(1, 2, 0)
        return heads.index_select(-1, rows)


class PositionMask(Function):
    """A mask, (heads, n, L, L), that adds both position terms to the scores. At padding, it is a
    large negative number.

    Nothing of that size is kept for the backward pass, which needs no mask at padding: the
    attention to padding is 0, and so is the gradient of its score.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        keys_of: Tensor,
        queries_of: Tensor,
        real: Tensor | None,
    ) -> Tensor:
        """Compute the mask from `query` and `key`, (heads, n, L, size).

        `query` is multiplied by `keys_of`, and `key` by `queries_of`. Both are embeddings of the
        distances i - j, (heads, size, 2 L - 1), from L - 1 down to 1 - L in `keys_of`, and from
        1 - L up to L - 1 in `queries_of`.
        """
        ctx.save_for_backward(query, key, keys_of, queries_of)
        heads, rows, length, _ = query.shape
        aligned = -(-length // ALIGNMENT) * ALIGNMENT
        mask = query.new_empty(heads, rows, length, aligned)[..., :length]
        by_key = list(products(key, queries_of))
        for i, row in products(query, keys_of):
            for j, column in by_key:
                tile, term = mask[:, :, i, j], column.transpose(-1, -2)[:, :, i]
                torch.add(row[..., j], term, out=tile)
        if real is not None:
            # Half of the lowest number: the sum with a score stays finite in half precision, and
            # the softmax of a row without real keys is not NaN.
            mask.masked_fill_(~real, torch.finfo(mask.dtype).min / 2)
        return mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, keys_of, queries_of = ctx.saved_tensors
        of_query, of_keys_of = of_products(query, keys_of, gradient)
        of_key, of_queries_of = of_products(key, queries_of, gradient.transpose(-1, -2))
        return of_query, of_key, of_keys_of, of_queries_of, None


def products(states: Tensor, by_distance: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Multiply each position in `states`, (heads, n, L, size), by the embeddings of its L distances
    in `by_distance`, (heads, size, 2 L - 1). Yield each block of K positions with its products,
    (heads, n, K, L)."""
    for block, distances in blocks(states.shape[2]):
        own = states[:, :, block]
        wide = torch.bmm(own.flatten(1, 2), by_distance[..., distances])
        yield block, shifted(wide.unflatten(1, own.shape[1:3]))


def of_products(states: Tensor, by_distance: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the backward pass of `products`: return the gradients of `states` and `by_distance`,
    given `gradient`, that of all the products, (heads, n, L, L)."""
    rows = states.shape[1]
    of_states, of_distances = torch.empty_like(states), torch.zeros_like(by_distance)
    for block, distances in blocks(states.shape[2]):
        part, some = gradient[:, :, block], by_distance[..., distances]
        wide = part.new_zeros(*part.shape[:-1], some.shape[-1])
        shifted(wide).copy_(part)
        wide = wide.flatten(1, 2)
        of_states[:, :, block] = torch.bmm(wide, some.transpose(1, 2)).unflatten(1, (rows, -1))
        of_distances[..., distances] += torch.bmm(
            states[:, :, block].flatten(1, 2).transpose(1, 2), wide
        )
    return of_states, of_distances


def blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """Divide the positions of a sequence into blocks. Yield two slices for each: its positions, and
    the distances by whose embeddings `products` multiplies them."""
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        yield slice(start, end), slice(length - end, 2 * length - 1 - start)


def shifted(wide: Tensor) -> Tensor:
    """View (…, K, L + K - 1) as (…, K, L), where row i starts at column K - 1 - i.

    Examples
    --------
    >>> shifted(torch.arange(6).view(2, 3))
    tensor([[1, 2],
            [3, 4]])
    """
    *lead, height, width = wide.shape
    *outer, row, column = wide.stride()
    return wide.as_strided(
        (*lead, height, width - height + 1),
        (*outer, row - column, column),
        wide.storage_offset() + (height - 1) * column,
    )
