"""DeBERTa's disentangled attention without its waste: the relative terms become one bias for torch's fused attention.

The scores of DeBERTa are, for query i and key j at the distance bucket b(i - j),

    (q_i · k_j  +  q_i · kr_b  +  k_j · qr_b) / sqrt(3 d)

transformers 5 computes the last two terms against every bucket and goes over the scores six more times to scale, add and mask.
Here the scale goes into q and k, the mask into the smaller of the two terms before it is spread, only the buckets that occur at
this length are multiplied, and the sum of both terms is the attention bias of `scaled_dot_product_attention`.

Masked queries attend to real keys here and to nothing there; nothing reads their outputs.

Source: He et al. (2021), "DeBERTa", eq. 4; the buckets of DeBERTa-v2/v3 as in transformers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2Encoder,
    DisentangledSelfAttention,
    make_log_bucket_position,
)


def fuse_attention(backbone: nn.Module) -> bool:
    """Give every disentangled attention of a DeBERTa-v2/v3 backbone the forward pass of this module; weights stay as they are.

    Returns
    -------
    bool
        Whether there was one. A variant that this module does not compute is left alone.
    """
    layers = [module for module in backbone.modules() if type(module) is DisentangledSelfAttention]
    encoders = [module for module in backbone.modules() if type(module) is DebertaV2Encoder]
    if not layers or not all(
        set(layer.pos_att_type) == {"c2p", "p2c"} and layer.relative_attention for layer in layers
    ):
        return False
    for encoder in encoders:
        encoder.__class__ = _Encoder
    for layer in layers:
        layer.__class__ = _Attention
    return True


class _Encoder(DebertaV2Encoder):
    """Hands the layers a key mask and a table of buckets in place of two length x length matrices."""

    def get_attention_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask

    def get_rel_pos(self, hidden_states: Tensor, *_: Tensor | None) -> Tensor:
        return bucket_table(
            hidden_states.shape[1], self.position_buckets, self.max_relative_positions, hidden_states.device
        )


def bucket_table(length: int, buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """The row of the relative embedding for each distance of two tokens.

    Returns
    -------
    Tensor
        (2 length - 1,) int64; entry m belongs to the distance query - key = length - 1 - m.
    """
    distances = torch.arange(length - 1, -length, -1, device=device)
    span = buckets if buckets > 0 else max_distance
    if buckets > 0 and max_distance > 0:
        distances = make_log_bucket_position(distances, buckets, max_distance).long()
    return (distances + span).clamp(0, 2 * span - 1)


class _Attention(DisentangledSelfAttention):
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        if output_attentions or query_states is not None:
            raise NotImplementedError("fused attention gives no attention maps and takes no query states of its own")
        rows, length, _ = hidden_states.shape
        scale = 1 / math.sqrt(3 * self.attention_head_size)
        query = self._heads(self.query_proj(hidden_states)) * scale  # (n, heads, length, d)
        key = self._heads(self.key_proj(hidden_states))
        value = self._heads(self.value_proj(hidden_states))
        # Buckets that occur at this length lie side by side; the others are not multiplied.
        low, high = int(relative_pos[-1]), int(relative_pos[0]) + 1
        table = relative_pos - low
        positions = self.pos_dropout(rel_embeddings)[low:high].unsqueeze(0)
        query_positions = self._heads((self.query_proj if self.share_att_key else self.pos_query_proj)(positions))
        key_positions = self._heads((self.key_proj if self.share_att_key else self.pos_key_proj)(positions))
        c2p = query @ key_positions.transpose(-1, -2)  # (n, heads, query, buckets)
        p2c = (key * scale) @ query_positions.transpose(-1, -2)  # (n, heads, key, buckets)
        # A masked key gets a low score from every query: its row of p2c is lowered, and with it a column of the bias. Half
        # of the lowest number leaves room for the sum, and a row without any key stays finite.
        lowest = torch.finfo(query.dtype).min / 2
        p2c = p2c.masked_fill(attention_mask[:, None, :, None] == 0, lowest)
        bias = _by_distance(c2p, table) + _by_distance(p2c, table.flip(0)).transpose(-1, -2)
        dropout = self.dropout.p if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0)
        return context.transpose(1, 2).reshape(rows, length, -1), None

    def _heads(self, x: Tensor) -> Tensor:
        """(n, length, heads * d) as (n, heads, length, d)."""
        return x.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)


def _by_distance(terms: Tensor, table: Tensor) -> Tensor:
    """Spread terms per bucket over positions.

    Parameters
    ----------
    terms : Tensor
        (n, heads, length, buckets).
    table : Tensor
        (2 length - 1,): the bucket of the other position's m-th place as seen from the first.

    Returns
    -------
    Tensor
        (n, heads, length, length): entry (i, j) is terms[i, table[j - i + length - 1]].
    """
    length = terms.shape[2]
    # Row i of the index is the table from place length - 1 - i on. (index_select on the columns and a strided view, which need
    # no such matrix, were tried: on the CPU index_select took half of the whole forward pass.)
    index = table.unfold(0, length, 1).flip(0)
    return terms.gather(-1, index.expand(*terms.shape[:2], length, length))
