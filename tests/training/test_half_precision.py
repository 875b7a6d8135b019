"""fp16 under a gradient scaler, by casting on the CPU: what a T4 does, with rows that once made NaN
of DeBERTa."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from transformers import DebertaV2Config, DebertaV2Model

from humanpref.config.neural import EncoderOptions
from humanpref.models.encoder import PairEncoder
from humanpref.models.heads import EQUIVARIANT_HEADS
from humanpref.text.format import PROMPT

LENGTH, VOCABULARY = 48, 50


def module(head: str) -> PairEncoder:
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
        max_position_embeddings=LENGTH,
    )
    backbone = DebertaV2Model(config)
    # Trained backbones give scores of some hundreds before the softmax; fp16 ends at 65,504.
    for name, weight in backbone.named_parameters():
        if name.endswith(("query_proj.weight", "key_proj.weight")):
            weight.data.mul_(40)
    return PairEncoder(backbone, EncoderOptions(head=head, layer_norm=True))


def batch() -> dict[str, torch.Tensor]:
    """A whole row, a short one, one whose answer A is all padding, one that is nothing but
    padding."""
    lengths = torch.tensor([[LENGTH, LENGTH], [7, 30], [0, 20], [0, 0]])
    mask = (torch.arange(LENGTH) < lengths[..., None]).long()
    ids = (
        torch.randint(5, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    )
    parts = mask * (PROMPT + (torch.arange(LENGTH) > 3).long() * torch.tensor([[1], [2]]))
    return {"input_ids": ids, "attention_mask": mask, "lengths": lengths.numpy(), "parts": parts}


@pytest.mark.parametrize("head", ["linear", "attention", *EQUIVARIANT_HEADS])
def test_fp16_with_a_scaler_trains_without_nan_and_keeps_float32_weights(head):
    model, inputs, labels = module(head), batch(), torch.tensor([0, 1, 2, 2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    losses, skipped = [], 0
    for _ in range(24):
        with torch.autocast("cpu", torch.float16):
            logits = model(**inputs)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        losses.append(loss.item())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < before
        optimizer.zero_grad()
    assert np.isfinite(losses).all()
    # The scale starts too high on purpose: steps that overflow are skipped, the others learn.
    assert 0 < skipped < 18
    assert losses[-1] < losses[0]
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.float32, name
        assert torch.isfinite(weight).all(), name


def test_fp16_says_what_float32_says():
    model, inputs = module("linear").eval(), batch()
    with torch.inference_mode():
        exact = model(**inputs).softmax(dim=-1)
        with torch.autocast("cpu", torch.float16):
            half = model(**inputs).softmax(dim=-1)
    torch.testing.assert_close(half, exact, atol=0.02, rtol=0)
