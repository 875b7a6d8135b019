"""DeBERTa's attention without gathers, held against transformers' own with the same weights."""

import copy
import json

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model

from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.models import build_model, deberta_attention, load_model
from humanpref.models.base import CONFIG_FILE
from humanpref.models.deberta_attention import PositionMask, fuse_attention
from humanpref.models.scratch import scratch_config, train_tokenizer

V3 = {
    "vocab_size": 100,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 512,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LAYOUTS = {
    "v3": {},
    "v2": {"share_att_key": False, "norm_rel_ebd": "none", "conv_kernel_size": 3},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 300},
    "no buckets, default span": {"position_buckets": -1, "max_position_embeddings": 64},
    "few buckets": {"position_buckets": 8, "max_position_embeddings": 40},
    "a string": {"pos_att_type": "c2p|p2c", "share_att_key": False},
}
"""The scale of the scores is an integer in each: transformers rounds it to float32."""
MAIN = ("v3", "v2", "no buckets")
LENGTHS = (1, 2, 31, 127, 128, 129, 255, 256, 257)
LONG = (511, 512, 513, 1_100)
CASES = [
    *((layout, length) for layout in MAIN for length in LENGTHS),
    *((layout, length) for layout in LAYOUTS if layout not in MAIN for length in (2, 129)),
    *(pytest.param(layout, n, marks=pytest.mark.slow) for layout in LAYOUTS for n in LONG),
]


def eager_and_fused(**options):
    torch.manual_seed(0)
    eager = DebertaV2Model(DebertaV2Config(**{**V3, **options})).eval()
    with torch.no_grad():
        for weight in eager.parameters():  # large enough that attention is far from uniform
            weight.normal_(0, 0.3)
    fused = copy.deepcopy(eager)
    assert fuse_attention(fused)
    return eager, fused


def batch(length, rows=2, padding=None):
    torch.manual_seed(length)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padding is not None:
        mask[0, padding] = 0
    return {"input_ids": torch.randint(5, 100, (rows, length)), "attention_mask": mask}


def real_states(model, inputs):
    return model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]


def gradients(model, inputs):
    model.zero_grad()
    states = real_states(model, inputs)
    torch.manual_seed(1)
    (states * torch.randn_like(states)).sum().backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return states.detach(), {name: value for name, value in found.items() if value is not None}


def check_parity(eager, fused, inputs, states, relative):
    (expected, slopes), (own, own_slopes) = (gradients(m, inputs) for m in (eager, fused))
    assert (own - expected).abs().max() <= states
    assert own_slopes.keys() == slopes.keys()
    # A bias of the keys has nearly no gradient, which rounding alone may change.
    largest = max(slope.norm() for slope in slopes.values())
    for name, slope in slopes.items():
        error = (own_slopes[name] - slope).norm()
        assert error <= relative * max(slope.norm(), 0.01 * largest), name


@pytest.mark.parametrize(("layout", "length"), CASES)
def test_float64(layout, length):
    models = [model.double() for model in eager_and_fused(**LAYOUTS[layout])]
    check_parity(*models, batch(length, padding=slice(length * 2 // 3, None)), 1e-11, 1e-11)


@pytest.mark.parametrize("length", [31, 257, pytest.param(1_100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", MAIN)
def test_float32(layout, length):
    check_parity(*eager_and_fused(**LAYOUTS[layout]), batch(length), 2e-5, 1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=str
)
@pytest.mark.parametrize("layout", MAIN)
def test_half_precision(layout, dtype, tolerance):
    """States have a standard deviation of about 1. Transformers' own differ from float32 by as
    much."""
    eager, fused = eager_and_fused(**LAYOUTS[layout])
    inputs = batch(130, padding=slice(100, None))
    with torch.no_grad():
        expected = real_states(eager, inputs)
        with torch.autocast("cpu", dtype):
            errors = [(real_states(m, inputs) - expected).abs().max() for m in (eager, fused)]
    assert errors[1] < min(tolerance, 2 * errors[0])


def test_padding_on_either_side_and_rows_of_padding():
    for layout in MAIN:
        eager, fused = eager_and_fused(**LAYOUTS[layout])
        inputs = batch(37, rows=5)
        mask = inputs["attention_mask"]
        mask[0, 30:] = mask[1, :7] = mask[2, :3] = mask[2, 11:] = mask[3] = 0
        with torch.no_grad():
            expected = real_states(eager, inputs)
            for autocast in (False, True):
                with torch.autocast("cpu", torch.float16, enabled=autocast):
                    states = fused(**inputs).last_hidden_state
                assert states.isfinite().all()
                error = (states[mask.bool()] - expected).abs().max()
                assert error < (0.02 if autocast else 2e-5)
        slopes = gradients(fused, inputs)[1]
        assert all(slope.isfinite().all() for slope in slopes.values())


def test_padding_has_no_effect_in_half_precision_at_any_score():
    encoder = eager_and_fused()[1].encoder
    attention = encoder.layer[0].attention.self
    real = batch(40, padding=slice(25, None))["attention_mask"]
    hidden = torch.randn(2, 40, 24)
    other = torch.where(real.bool()[..., None], hidden, torch.randn_like(hidden))
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        for weight in (attention.query_proj.weight, attention.key_proj.weight):
            weight.mul_(60)  # scores of about a thousand
        mask, positions = encoder.get_attention_mask(real), encoder.get_rel_pos(hidden)
        embeddings = encoder.get_rel_embedding()
        states, others = (
            attention(x, mask, False, None, positions, embeddings)[0] for x in (hidden, other)
        )
    assert states.isfinite().all()
    assert torch.equal(others[real.bool()], states[real.bool()])


def test_no_mask_is_made_for_padding_that_is_not_there():
    encoder = eager_and_fused()[1].encoder
    mask = torch.ones(2, 5, dtype=torch.long)
    assert encoder.get_attention_mask(mask) is None
    mask[1, 4] = 0
    assert torch.equal(encoder.get_attention_mask(mask), mask[:, None].bool())


def position_inputs(length, size=3):
    torch.manual_seed(0)
    shapes = [(2, 2, length, size)] * 2 + [(2, size, 2 * length - 1)] * 2
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("length", [1, 4, 5])
def test_gradients_by_finite_differences(monkeypatch, length):
    monkeypatch.setattr(deberta_attention, "BLOCK", 2)
    real = torch.ones(2, 1, length, dtype=torch.bool)
    real[1, 0, length // 2 :] = False

    def mask(*tensors):
        # A large number would drown the differences.
        return PositionMask.apply(*tensors, real).masked_fill(~real, 0)

    assert torch.autograd.gradcheck(mask, position_inputs(length))


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_the_terms_are_those_of_the_equation(monkeypatch, length):
    monkeypatch.setattr(deberta_attention, "BLOCK", 2)
    query, key, keys_of, queries_of = position_inputs(length)
    mask = PositionMask.apply(query, key, keys_of, queries_of, None)
    last = length - 1
    for i in range(length):
        for j in range(length):
            expected = torch.einsum("hnd,hd->hn", query[:, :, i], keys_of[..., last - (i - j)])
            expected += torch.einsum("hnd,hd->hn", key[:, :, j], queries_of[..., last + i - j])
            assert torch.allclose(mask[:, :, i, j], expected)


def test_rows_are_aligned_for_cuda():
    """Torch's `preprocess_mask` copies a mask that is not."""
    mask = PositionMask.apply(*position_inputs(13), None)
    assert all(stride % 8 == 0 for stride in mask.stride()[:-1])
    assert mask.stride(-1) == 1


def test_dropout_has_the_same_distribution():
    torch.manual_seed(0)
    eager, fused = eager_and_fused(
        num_hidden_layers=1, position_buckets=8, attention_probs_dropout_prob=0.4
    )
    hidden = torch.randn(1, 5, 24).expand(8_000, -1, -1)
    outputs = []
    for model in (eager, fused):
        encoder = model.encoder
        attention = encoder.layer[0].attention.self.train()
        with torch.no_grad():
            mask = encoder.get_attention_mask(torch.ones(hidden.shape[:2], dtype=torch.long))
            positions = encoder.get_rel_pos(hidden), encoder.get_rel_embedding()
            drawn, _ = attention(hidden, mask, False, None, *positions)
            plain, _ = attention.eval()(hidden, mask, False, None, *positions)
        spread = drawn.std(dim=0)
        assert ((drawn.mean(dim=0) - plain[0]).abs() < 6 * spread / len(drawn) ** 0.5 + 1e-6).all()
        outputs.append((drawn.var(dim=0), drawn.pow(3).mean(dim=0)))
    for own, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(own, expected, rtol=0.1, atol=0.02 * expected.abs().max().item())


def test_dropout_of_the_embeddings_is_the_same():
    """Without dropout of probabilities, both draw the same random numbers."""
    models = [model.train() for model in eager_and_fused(hidden_dropout_prob=0.3)]
    states = []
    for model in models:
        torch.manual_seed(2)
        states.append(model(**batch(20)).last_hidden_state)
    torch.testing.assert_close(*states, rtol=0, atol=2e-5)
    assert (models[0].eval()(**batch(20)).last_hidden_state - states[0]).abs().max() > 0.5


def test_separate_query_states():
    eager, fused = eager_and_fused(num_hidden_layers=1)
    hidden, queries = torch.randn(2, 3, 9, 24)
    mask, made = torch.ones(3, 9, dtype=torch.long), []
    for model in (eager, fused):
        encoder = model.encoder
        positions = encoder.get_rel_pos(hidden), encoder.get_rel_embedding()
        attention = encoder.layer[0].attention.self
        made.append(
            attention(hidden, encoder.get_attention_mask(mask), False, queries, *positions)[0]
        )
    torch.testing.assert_close(*made)


def test_checkpointing_changes_no_gradient():
    _, fused = eager_and_fused()
    checkpointed = copy.deepcopy(fused)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = batch(20, padding=slice(15, None))
    expected, own = (gradients(model.train(), inputs)[1] for model in (fused, checkpointed))
    assert checkpointed.is_gradient_checkpointing
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)


def test_only_the_given_model_changes_and_no_name_of_a_weight():
    eager, fused = eager_and_fused()
    assert list(eager.state_dict()) == list(fused.state_dict())
    assert fuse_attention(fused)  # again: it stays
    assert not isinstance(eager.encoder, deberta_attention.FusedEncoder)
    assert not isinstance(
        eager.encoder.layer[0].attention.self, deberta_attention.FusedSelfAttention
    )


def test_other_models_stay_as_they_are():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertModel(BertConfig(**sizes, intermediate_size=8, vocab_size=10))
    others = ({"relative_attention": False}, {"pos_att_type": ["c2p"]}, {"pos_att_type": None})
    debertas = [DebertaV2Model(DebertaV2Config(**V3 | other)) for other in others]
    for model in (bert, *debertas, nn.Linear(2, 2)):
        kinds = [type(module) for module in model.modules()]
        assert not fuse_attention(model)
        assert [type(module) for module in model.modules()] == kinds


def test_the_model_from_scratch():
    texts = ["alpha beta gamma", "the theta of the thesis", "the themes"]
    options = load_config("tiny", overrides=["model.scratch_dropout=0"]).model
    eager = DebertaV2Model(scratch_config(options, train_tokenizer(texts, 275))).eval()
    fused = copy.deepcopy(eager)
    assert fuse_attention(fused)
    check_parity(eager, fused, batch(70, padding=slice(50, None)), 2e-5, 1e-5)


INPUTS = {
    "dual": (),
    "joint, offset": ("model.inputs=joint", "model.offset=structure", "model.zero_start=true"),
    "checkpointing": ("training.gradient_checkpointing=true",),
}


# What either of the others changes is compared above, without a training.
@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[pytest.mark.slow] if INPUTS[each] else []) for each in INPUTS],
)
def test_artifacts_of_either_are_read_by_the_other(name, pairs, tmp_path):
    few = pairs[:24].reset_index(drop=True)
    settings = (
        "model.scratch_vocabulary=300",
        "model.scratch_hidden_size=16",
        "model.scratch_dropout=0",
        "model.max_length=48",
        "training.epochs=1",
        *INPUTS[name],
    )
    probabilities = {}
    for attention, other in (("eager", "fused"), ("fused", "eager")):
        config = load_config("tiny", overrides=[*settings, f"model.attention={attention}"])
        model = build_model(config).fit(few, labels_of(few))
        assert model.report_["backbone"]["attention"] == attention
        probabilities[attention] = model.predict_proba(few)
        folder = tmp_path / attention
        folder.mkdir()
        model.save(folder)
        file = folder / CONFIG_FILE
        record = json.loads(file.read_text())
        assert record["model"]["attention"] == attention
        record["model"]["attention"] = other
        file.write_text(json.dumps(record))
        loaded = load_model(folder)
        assert loaded.backbone_facts()["attention"] == other
        np.testing.assert_allclose(loaded.predict_proba(few), probabilities[attention], atol=1e-5)
        del record["model"]["attention"]  # written before the option existed
        file.write_text(json.dumps(record))
        np.testing.assert_allclose(
            load_model(folder).predict_proba(few), probabilities[attention], atol=1e-5
        )
    # Trained without dropout, they end with the same weights up to rounding.
    np.testing.assert_allclose(probabilities["eager"], probabilities["fused"], atol=1e-4)
