"""Fused attention gives what transformers' own gives: outputs and gradients, at every length, with any padding."""

import copy

import pytest

pytest.importorskip("torch")

import torch
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model

from humanpref.models.disentangled import fuse_attention


def deberta(**changes):
    torch.manual_seed(0)
    options = {
        "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32,
        "relative_attention": True, "position_buckets": 8, "max_position_embeddings": 64, "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.5,
    }  # fmt: skip
    return DebertaV2Model(DebertaV2Config(**(options | changes)))


def both(**changes):
    eager = deberta(**changes)
    fused = copy.deepcopy(eager)
    assert fuse_attention(fused)
    return eager, fused


def inputs(length, rows=4):
    ids = torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[1, (length + 1) // 2 :] = 0
    mask[2, 1:] = 0
    return ids, mask


@pytest.mark.parametrize(
    "changes", [{}, {"position_buckets": -1}, {"share_att_key": False}, {"conv_kernel_size": 3, "conv_act": "gelu"}]
)
@pytest.mark.parametrize("length", [1, 2, 3, 9, 33, 64, 100])
def test_outputs(length, changes):
    eager, fused = (model.eval() for model in both(**changes))
    ids, mask = inputs(length)
    with torch.inference_mode():
        expected = eager(ids, attention_mask=mask).last_hidden_state
        found = fused(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=2e-5, rtol=1e-4)


def test_gradients():
    eager, fused = both()
    ids, mask = inputs(40)
    weight = torch.randn(4, 40, 24, generator=torch.Generator().manual_seed(1)) * mask.unsqueeze(-1)
    for model in (eager, fused):
        (model(ids, attention_mask=mask).last_hidden_state * weight).sum().backward()
    gradients = dict(eager.named_parameters())
    for name, parameter in fused.named_parameters():
        scale = gradients[name].grad.abs().max().item()
        torch.testing.assert_close(
            parameter.grad, gradients[name].grad, atol=1e-4 * max(scale, 1e-2), rtol=1e-3, msg=name
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fully_padded_and_long_rows_stay_finite_in_half_precision(dtype):
    _, fused = both()
    fused = fused.to(dtype).eval()
    ids, mask = inputs(300)
    mask[3] = 0
    with torch.inference_mode():
        assert torch.isfinite(fused(ids, attention_mask=mask).last_hidden_state).all()


def test_training_a_fully_padded_row_gives_finite_gradients():
    _, fused = both()
    ids, mask = inputs(20)
    mask[3] = 0
    fused(ids, attention_mask=mask).last_hidden_state[mask.bool()].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fused.parameters() if p.grad is not None)


def test_dropout_is_that_of_the_model():
    _, fused = both(attention_probs_dropout_prob=0.5)
    ids, mask = inputs(20)
    torch.manual_seed(1)
    first = fused.train()(ids, attention_mask=mask).last_hidden_state
    second = fused(ids, attention_mask=mask).last_hidden_state
    assert not torch.allclose(first, second)
    fused.eval()
    torch.testing.assert_close(fused(ids, attention_mask=mask)[0], fused(ids, attention_mask=mask)[0])


def test_weights_keep_their_names():
    eager, fused = both()
    assert fused.state_dict().keys() == eager.state_dict().keys()


def test_what_it_does_not_compute_is_left_alone():
    assert not fuse_attention(deberta(pos_att_type=["c2p"]))
    bert = BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=50)
    )
    assert not fuse_attention(bert)
