"""Every family and shape under fp16 and the gradient scaler: three steps and a prediction, close to
float32 on the CPU."""

from collections import Counter

import numpy as np
import pytest
import torch

from humanpref.config import load_config

from .runs import fit, on_the_cpu, slow_but, tiny, untrained, weights

HEADS = ("linear", "interaction", "attention", "davidson", "rao-kupper")
PEFT = ("lora", "rslora", "dora", "ia3", "layernorm", "bias", "head", "none")

LAYERS = {"mm", "addmm"}
"""Products of linear layers."""
BACKBONE = {"models/encoder.py", "models/frozen_base.py"}
"""The files that call a backbone: its linear layers run in half precision."""
SENSITIVE = {
    "_log_softmax",
    "_safe_softmax",
    "_softmax",
    "logsumexp",
    "mean",
    "native_layer_norm",
    "pow",
    "rsqrt",
}
"""Softmax and normalisation, never in half precision."""
EXACT = {
    "models/heads.py",
    "models/decoder.py",
    "models/answer_tokens.py",
    "training/losses.py",
    "training/loop.py",
}
"""The files of heads, losses and steps: they compute nothing in half precision."""
MOVES = {
    "_to_copy",
    "cat",
    "detach",
    "index",
    "select",
    "slice",
    "split",
    "t",
    "unbind",
    "unsqueeze",
    "view",
}
"""Operations that compute nothing."""


def check_dtypes(dtypes: Counter, single: set[str]) -> None:
    """Check what ran in half precision; `single` are the backbone's products that need not."""
    half = {(name, file) for name, dtype, file in dtypes if dtype == torch.half}
    full = {(name, file) for name, dtype, file in dtypes if dtype != torch.half}
    assert half & {(name, file) for name in LAYERS for file in BACKBONE}
    assert not full & {(name, file) for name in LAYERS - single for file in BACKBONE}
    assert ("bmm", "models/encoder.py") not in full
    assert not {(name, file) for name, file in half if name in SENSITIVE}
    assert {(name, file) for name, file in half if file in EXACT and name not in MOVES} == set()
    # DPO's head is the base's own, a large product; what becomes of its scores is exact.
    assert not {name for name, file in half if file == "models/dpo.py"} - MOVES
    assert {name for name, file in half if file == "models/vocabulary.py"} <= MOVES | {"mm"}


def check(gpu, config, pairs, single=frozenset()):
    before = weights(untrained(config, pairs))
    built = gpu.dtypes
    gpu.clear()
    model = fit(config, pairs)
    check_dtypes(gpu.dtypes - built, single)

    report = model.report_["training"]
    assert (report["device"], report["precision"]) == ("cuda", "fp16")
    assert report["steps"] > 1
    assert report["skipped_steps"] == 0
    learned = {name for name, w in model.module_.named_parameters() if w.requires_grad}
    for name, weight in weights(model.module_).items():
        assert torch.equal(weight, before[name]) == (name not in learned), name
        assert weight.dtype == torch.float32 or name not in learned, name

    probabilities = model.predict_proba(pairs)
    with on_the_cpu():
        exact = fit(config, pairs).predict_proba(pairs)
    spread = exact.std(axis=0).max()
    assert spread > 5e-4
    np.testing.assert_allclose(probabilities, exact, atol=0.05 * spread)
    return model


def test_dpo_under_bf16_sums_in_float32(gpu, few, backbone_of, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    config = tiny("dpo", backbone_of("dpo"), "training.ties=davidson")
    model = fit(config, few)
    assert model.report_["training"]["precision"] == "bf16"
    half = {(name, file) for name, dtype, file in gpu.dtypes if dtype == torch.bfloat16}
    assert half & {(name, file) for name in LAYERS for file in BACKBONE}
    # The states that predict a response are picked in bfloat16.
    assert {name for name, file in half if file == "models/dpo.py"} <= MOVES | {"index_select"}


@pytest.mark.parametrize("head", [slow_but(head, "linear", "davidson") for head in HEADS])
@pytest.mark.parametrize("inputs", ["dual", "joint"])
def test_encoder(gpu, few, inputs, head):
    check(gpu, tiny("encoder", "scratch", f"model.inputs={inputs}", f"model.head={head}"), few)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("model.offset=structure", "model.zero_start=true", "model.inputs=joint"),
        ("model.layer_norm=true", "training.max_grad_norm=1", "training.loss=dpo-like"),
        ("model.scores=softmax", "inference.normalise=clip", "training.label_smoothing=0.1"),
        ("model.scores=log-softmax", "training.loss=distillation", "training.temperature=2"),
        ("training.layer_decay=0.5", "training.head_learning_rate=0.02", "training.warmup=0.4"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_encoder_with_options(gpu, few, overrides):
    check(gpu, tiny("encoder", "scratch", *overrides), few)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["dual", "joint"])
def test_encoder_in_both_orders(gpu, few, inputs):
    batch = 4 if inputs == "dual" else 8
    config = tiny(
        "encoder",
        "scratch",
        f"model.inputs={inputs}",
        f"training.batch_size={batch}",
        "training.swap_augmentation=true",
        "inference.swap_average=true",
    )
    check(gpu, config, few)


@pytest.mark.parametrize("peft", [slow_but(peft, "lora", "layernorm", "none") for peft in PEFT])
def test_decoder(gpu, few, decoder_folder, peft):
    folder = decoder_folder("qwen2" if peft == "bias" else "llama")
    # DoRA computes the norm of its directions in float32, by a product.
    single = {"mm"} if peft == "dora" else set()
    check(gpu, tiny("decoder", folder, f"model.peft={peft}"), few, single)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("qwen2", ("model.head=mlp",)),
        ("gemma2", ("training.swap_augmentation=true", "training.batch_size=8")),
        ("llama", ("model.base_dtype=float32", "inference.swap_average=true")),
        ("llama", ("model.target_modules=all-linear", "training.gradient_checkpointing=true")),
    ],
)
def test_decoder_of_any_kind(gpu, few, decoder_folder, kind, overrides):
    check(gpu, tiny("decoder", decoder_folder(kind), *overrides), few)


@pytest.mark.parametrize("kind", ["llama", slow_but("qwen2")])
def test_answer_tokens(gpu, few, decoder_folder, kind):
    settings = ("model.head=tokens", "model.answers=A,B,C", "model.max_length=128")
    no_head = "training.head_learning_rate=none"
    model = check(gpu, tiny("decoder", decoder_folder(kind), *settings, no_head), few)
    gpu.clear()
    model.predict_proba(few)
    scored = {d for name, d, file in gpu.dtypes if (name, file) == ("mm", "models/vocabulary.py")}
    assert scored == {torch.float32}


@pytest.mark.parametrize("link", ["davidson", "rao-kupper"])
@pytest.mark.parametrize("ties", ["davidson", slow_but("rao-kupper")])
def test_dpo(gpu, few, decoder_folder, ties, link):
    config = tiny("dpo", decoder_folder(), f"training.ties={ties}", f"model.link={link}")
    check(gpu, config, few)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("llama", ("training.ties=drop", "training.label_smoothing=0.1")),
        ("qwen2", ("training.length_normalisation=true", "training.beta=0.5")),
        ("gemma2", ("training.gradient_checkpointing=true", "training.beta=0.05")),
        ("llama", ("model.peft=layernorm", "training.learning_rate=0.1")),
    ],
)
def test_dpo_of_any_kind(gpu, few, decoder_folder, kind, overrides):
    ties = () if overrides[0] == "training.ties=drop" else ("training.ties=davidson",)
    check(gpu, tiny("dpo", decoder_folder(kind), *overrides, *ties), few)


def test_embedding(gpu, pairs, sentence_encoder):
    rows = pairs[:40].reset_index(drop=True)
    settings = (f"model.backbone={sentence_encoder}", "model.embedding_penalties=10")

    def predicted(precision):
        config = load_config(
            "embedding",
            overrides=[
                *settings,
                "model.structure_penalties=100",
                f"inference.precision={precision}",
            ],
        )
        return fit(config, rows).predict_proba(rows)

    probabilities = predicted("fp16")
    assert {dtype for name, dtype, _ in gpu.dtypes if name in LAYERS} == {torch.half}
    with on_the_cpu():
        exact = predicted("no")
    np.testing.assert_allclose(probabilities, exact, atol=0.05 * exact.std(axis=0).min())
