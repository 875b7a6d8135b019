from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from humanpref.config.neural import DecoderOptions
from humanpref.models.decoder import PairDecoder
from humanpref.training.memory import MemoryEstimate, advice

SMALL = MemoryEstimate(
    1_000_000,
    4e6,
    10_000,
    layers=4,
    hidden=64,
    intermediate=192,
    attention=64,
    keys=32,
    tokens=512,
    activation_bytes=4,
    checkpointing=False,
)
# Gemma 2 9B: 9.2 billion weights, 42 layers.
LARGE = MemoryEstimate(
    9_240_000_000,
    18.48e9,
    54_000_000,
    layers=42,
    hidden=3_584,
    intermediate=14_336,
    attention=4_096,
    keys=2_048,
    tokens=8_192,
    activation_bytes=2,
    checkpointing=False,
)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_activations_are_as_estimated_to_a_third(checkpointing):
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
    )
    base = LlamaModel(config)
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    module = PairDecoder(base, DecoderOptions(lora_r=4, lora_dropout=0.1)).train()
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros((2, 1, 256), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module(ids, torch.ones_like(ids), np.full((2, 1), 256)).sum()
    measured = sum(kept.values())
    del loss
    estimate = MemoryEstimate(0, 0, 0, 4, 64, 192, 64, 32, 512, 4, checkpointing)
    estimated = estimate.gib()["activations"] * 2**30
    if checkpointing:  # the layer that is computed again comes on top of what is kept
        layer = (
            MemoryEstimate(0, 0, 0, 1, 64, 192, 64, 32, 512, 4, False).gib()["activations"] * 2**30
        )
        estimated -= layer
    assert measured / 1.35 < estimated < measured * 1.35


def test_the_parts_add_up_by_hand():
    parts = SMALL.gib()
    assert list(parts) == ["base", "trainable", "activations"]
    assert parts["base"] * 2**30 == 4e6
    # Four bytes each: weight, gradient, two moments.
    assert parts["trainable"] * 2**30 == 160_000
    # A token keeps 12 * 64 + 4 * 64 + 6 * 32 + 6 * 192 = 2,368 numbers in each of 4 layers.
    layer = 512 * 2_368 * 4
    assert parts["activations"] * 2**30 == 4 * layer
    inputs = 4 * 512 * 64 * 4
    checkpointed = replace(SMALL, checkpointing=True).gib()["activations"]
    assert checkpointed * 2**30 == inputs + layer
    scored = replace(SMALL, scores=1_000).gib()["activations"]
    assert scored * 2**30 == 4 * layer + 12_000


def test_advice_is_given_until_it_fits():
    assert advice(SMALL, longest=256) == []
    total = sum(SMALL.gib().values())
    assert advice(SMALL, longest=256, limit=total) == []
    changes = advice(LARGE, longest=2_048)
    assert [line.split("=")[0] for line in changes] == [
        "training.gradient_checkpointing",
        "training.forward_tokens",
        "model.quantisation",
    ]
    assert changes[1].startswith("training.forward_tokens=2048 → ")
    last = replace(LARGE, checkpointing=True, tokens=2_048, base_bytes=4.62e9)
    assert changes[-1].endswith(f"→ {sum(last.gib().values()):.1f} GiB")
    impossible = advice(LARGE, longest=2_048, limit=1.0)
    assert impossible == [*changes, "and a shorter model.max_length or a smaller model"]


@pytest.mark.parametrize(("gib", "fits"), [(13.9, True), (14.1, False)])
def test_a_t4_has_14_gib(gib, fits):
    estimate = MemoryEstimate(0, gib * 2**30, 0, 0, 0, 0, 0, 0, 0, 4, False)
    assert (advice(estimate, longest=1) == []) == fits


def test_a_base_in_float32_is_advised_to_halve_it():
    steps = replace(LARGE, base_bytes=4 * 9.24e9, activation_bytes=4, checkpointing=True)
    changes = advice(steps, longest=8_192, limit=23.0)
    halved = replace(steps, base_bytes=18.48e9, activation_bytes=2)
    assert changes == [f"model.base_dtype=float16 → {sum(halved.gib().values()):.1f} GiB"]
