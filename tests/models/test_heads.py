import math
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from humanpref.config.neural import Head
from humanpref.models.heads import (
    EQUIVARIANT_HEADS,
    build_head,
    davidson,
    encoded_dual,
    encoded_joint,
    masked_mean,
    rao_kupper,
    tie_score,
)

WIDTH = 8
HEADS = get_args(Head)


def batch(rows=5, length=7, seed=0):
    """Hidden states, mask and parts of dual inputs: special, two prompt tokens, special, answer …,
    padding."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 2, length, WIDTH, generator=generator)
    mask = torch.ones(rows, 2, length, dtype=torch.long)
    mask[1, 0, 5:] = 0
    mask[2, 1, 4:] = 0  # an empty answer
    parts = torch.tensor([0, 1, 1, 0, 2, 2, 0]).expand(rows, 2, length) * mask
    return hidden, mask, parts


def test_masked_mean_counts_real_tokens_only():
    hidden = torch.tensor(
        [[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]], [[5.0, 5.0], [6.0, 6.0], [float("nan"), 7.0]]]
    )
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert masked_mean(hidden, mask).tolist() == [[2.0, 3.0], [0.0, 0.0]]
    assert masked_mean(hidden.half(), mask).dtype == torch.float32


def test_swapping_exchanges_the_answers_alone():
    encoded = encoded_dual(*batch())
    swapped = encoded.swapped()
    assert (swapped.a, swapped.b) == (encoded.b, encoded.a)
    assert swapped.prompt is encoded.prompt


def test_an_answer_has_the_tokens_of_its_branch_or_of_its_part():
    hidden, mask, parts = batch()
    encoded = encoded_dual(hidden, mask, parts)
    assert torch.equal(encoded.a.tokens, hidden[:, 0])
    assert torch.equal(encoded.b.tokens, hidden[:, 1])
    assert torch.equal(encoded.b.mask, mask[:, 1].bool())
    parts = torch.tensor([[[0, 1, 0, 2, 2, 3, 3]]])
    mask = torch.tensor([[[1, 1, 1, 1, 1, 1, 0]]])
    joint = encoded_joint(hidden[:1, :1], mask, parts)
    assert joint.a.mask.tolist() == [[False, False, False, True, True, False, False]]
    assert joint.b.mask.tolist() == [[False, False, False, False, False, True, False]]
    assert torch.equal(joint.a.tokens, hidden[:1, 0])


def test_what_the_vectors_are_means_of():
    hidden, mask, parts = batch()
    encoded = encoded_dual(hidden, mask, parts)
    torch.testing.assert_close(encoded.a.vector[1], hidden[1, 0, :5].mean(dim=0))
    torch.testing.assert_close(
        encoded.prompt[1], (hidden[1, 0, 1:3].mean(dim=0) + hidden[1, 1, 1:3].mean(dim=0)) / 2
    )
    parts = torch.tensor([[[0, 1, 0, 2, 2, 0, 3]]])
    joint = encoded_joint(hidden[:1, :1], mask[:1, :1], parts)
    torch.testing.assert_close(joint.prompt[0], hidden[0, 0, 1])
    torch.testing.assert_close(joint.a.vector[0], hidden[0, 0, 3:5].mean(dim=0))
    torch.testing.assert_close(joint.b.vector[0], hidden[0, 0, 6])


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_finite_logits_and_trains_all_its_weights(name, layer_norm):
    torch.manual_seed(1)
    head = build_head(name, WIDTH, 0.1, layer_norm, attention_heads=2)
    logits = head(encoded_dual(*batch()))
    assert logits.shape == (5, 3)
    assert torch.isfinite(logits).all()
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    for parameter_name, parameter in head.named_parameters():
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # A key's bias moves no attention weight: it adds the same to every score.
        if parameter_name != "attention.in_proj_bias" and not (
            name in EQUIVARIANT_HEADS and parameter_name == "margin.3.bias"
        ):
            assert parameter.grad.abs().sum() > 0 or "margin" in parameter_name, parameter_name


@pytest.mark.parametrize("name", HEADS)
def test_equivariant_heads_swap_exactly_and_the_others_say_that_they_do_not(name):
    torch.manual_seed(2)
    head = build_head(name, WIDTH, 0.1, True, attention_heads=2).eval()
    hidden, mask, parts = batch()
    with torch.inference_mode():
        own = head(encoded_dual(hidden, mask, parts)).softmax(dim=-1)
        swapped = head(encoded_dual(hidden.flip(1), mask.flip(1), parts.flip(1))).softmax(dim=-1)
        by_name = head(encoded_dual(hidden, mask, parts).swapped()).softmax(dim=-1)
    torch.testing.assert_close(swapped, by_name)
    difference = (swapped[:, [1, 0, 2]] - own).abs().max()
    assert head.equivariant == (name in EQUIVARIANT_HEADS)
    assert difference < 1e-6 if head.equivariant else difference > 1e-3


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_starts_at_zero_tells_no_row_from_another_and_still_learns(name):
    torch.manual_seed(4)
    head = build_head(name, WIDTH, 0.0, True, attention_heads=2, zero_start=True)
    encoded = encoded_dual(*batch())
    first = head(encoded).softmax(dim=-1)
    torch.testing.assert_close(first, first[:1].expand(5, 3))
    if name != "rao-kupper":
        torch.testing.assert_close(first, torch.full((5, 3), 1 / 3))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    for _ in range(2):
        torch.nn.functional.cross_entropy(head(encoded), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()
    assert (head(encoded).softmax(dim=-1)[0] - head(encoded).softmax(dim=-1)[1]).abs().max() > 1e-3


def test_padding_does_not_reach_a_head():
    torch.manual_seed(3)
    hidden, mask, parts = batch()
    longer = torch.cat([hidden, torch.full((5, 2, 3, WIDTH), float("nan"))], dim=2)
    pad = torch.zeros(5, 2, 3, dtype=torch.long)
    for name in HEADS:
        head = build_head(name, WIDTH, 0.0, False, attention_heads=2).eval()
        with torch.inference_mode():
            short = head(encoded_dual(hidden, mask, parts))
            long = head(
                encoded_dual(
                    longer.nan_to_num(7.0), torch.cat([mask, pad], 2), torch.cat([parts, pad], 2)
                )
            )
        torch.testing.assert_close(long, short)


def test_features_of_the_linear_and_the_interaction_head():
    encoded = encoded_dual(*batch())
    a, b = encoded.a.vector, encoded.b.vector
    head = build_head("linear", WIDTH, 0.0, False, attention_heads=2)
    layer = head.network[-1]
    torch.testing.assert_close(head(encoded), layer(torch.cat([a, b], dim=-1)))
    head = build_head("interaction", WIDTH, 0.0, True, attention_heads=2)
    norm, _, first, _, last = head.network
    hidden = first(norm(torch.cat([a, b, a - b, a * b], dim=-1)))
    torch.testing.assert_close(head(encoded), last(torch.nn.functional.gelu(hidden)))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("linear", {"network": 2}),
        ("interaction", {"network": 4}),
        ("attention", {"network": 6}),
        ("davidson", {"margin": 3, "tie": 4}),
        ("rao-kupper", {"margin": 3, "tie": 4}),
    ],
)
def test_dropout_and_layer_norm_stand_before_the_first_layer(name, sizes):
    head = build_head(name, WIDTH, 0.25, True, attention_heads=2)
    for part, inputs in sizes.items():
        norm, dropout, first, *_ = getattr(head, part)
        assert norm.normalized_shape == (inputs * WIDTH,)
        assert dropout.p == 0.25
        assert first.in_features == inputs * WIDTH
    plain = build_head(name, WIDTH, 0.25, False, attention_heads=2)
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in plain.modules())


def test_an_answer_attends_to_the_other_ones_tokens_alone():
    torch.manual_seed(5)
    head = build_head("attention", WIDTH, 0.0, False, attention_heads=2).eval()
    hidden, mask, parts = batch()
    encoded = encoded_dual(hidden, mask, parts)
    attended = head.attend(encoded.a, encoded.b)
    values = hidden[2, 1, :4][None]  # row 2's answer B has four tokens
    expected, _ = head.attention(hidden[2, 0][None], values, values)
    torch.testing.assert_close(attended[2], expected[0].mean(dim=0))
    vectors = [encoded.a.vector, encoded.b.vector]
    vectors += [vectors[0] - vectors[1], vectors[0] * vectors[1], attended]
    vectors.append(head.attend(encoded.b, encoded.a))
    torch.testing.assert_close(head(encoded), head.network(torch.cat(vectors, dim=-1)))


@pytest.mark.parametrize("link", [davidson, rao_kupper])
@pytest.mark.parametrize("probability", [0.05, 1 / 3, 0.8])
def test_the_tie_score_gives_a_tie_its_probability(link, probability):
    name = {davidson: "davidson", rao_kupper: "rao-kupper"}[link]
    nu = torch.tensor([tie_score(name, probability)], dtype=torch.float64)
    tie = link(torch.zeros(1, dtype=torch.float64), nu).softmax(dim=-1)[0, 2]
    assert tie.item() == pytest.approx(probability, abs=1e-5)


def test_links_on_numbers_worked_by_hand():
    d, nu = torch.tensor([0.0, 2 * math.log(2), -2 * math.log(2)]), torch.zeros(3)
    np.testing.assert_allclose(
        davidson(d, nu).softmax(-1),
        [[1 / 3] * 3, [4 / 7, 1 / 7, 2 / 7], [1 / 7, 4 / 7, 2 / 7]],
        atol=1e-6,
    )
    # theta = ln 2 where softplus(nu) = ln 2, that is nu = 0: P(A) = sigmoid(d - ln 2).
    expected = [[1 / 3, 1 / 3, 1 / 3], [2 / 3, 1 / 9, 2 / 9], [1 / 9, 2 / 3, 2 / 9]]
    np.testing.assert_allclose(rao_kupper(d, nu).exp(), expected, atol=1e-5)


def test_rao_kupper_is_a_distribution_where_floats_are_scarce():
    d, nu = (
        g.flatten()
        for g in torch.meshgrid(
            torch.linspace(-60, 60, 25), torch.linspace(-30, 30, 13), indexing="ij"
        )
    )
    logits = rao_kupper(d.requires_grad_(), nu.requires_grad_())
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.exp().sum(dim=-1), torch.ones(len(d)), atol=1e-5, rtol=0)
    logits.sum().backward()
    assert torch.isfinite(d.grad).all()
    assert torch.isfinite(nu.grad).all()
