"""What a decoder gets for older GPUs, and what stays as it was; `tests/gpu` trains such models."""

import pytest

pytest.importorskip("torch")

import torch
from transformers import AutoConfig, AutoModel

from humanpref.models.older_gpus import REPEATED_KEYS, prepare, repeated_keys_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IDS = torch.arange(3, 9)[None]


@pytest.fixture
def base():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
    )
    return AutoModel.from_config(config).eval()


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [(CUDA, (7, 5), REPEATED_KEYS), (CUDA, (8, 0), "sdpa"), (CPU, None, "sdpa")],
)
def test_keys_are_repeated_below_compute_capability_8(
    base, monkeypatch, device, capability, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    prepare(base, device)
    assert base.config._attn_implementation == expected
    assert "sdpa" not in base.config.to_json_string()


def test_other_attention_is_left_alone(base, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    base.set_attn_implementation("eager")
    prepare(base, CUDA)
    assert base.config._attn_implementation == "eager"


@pytest.mark.parametrize("padding", [0, 2])
def test_repeated_keys_give_the_same_states(base, padding):
    mask = (torch.arange(6) < 6 - padding).long()[None]
    states = []
    for name in ("sdpa", REPEATED_KEYS, "eager"):
        base.set_attn_implementation(name)
        with torch.inference_mode():
            states.append(base(input_ids=IDS, attention_mask=mask).last_hidden_state[mask.bool()])
    torch.testing.assert_close(states[1], states[0])
    torch.testing.assert_close(states[1], states[2])


def test_attention_without_groups():
    module = torch.nn.Module()
    module.is_causal = False
    query, key, value = torch.randn(3, 1, 2, 4, 8).unbind()
    states, _ = repeated_keys_attention(module, query, key, value, None)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(states, expected.transpose(1, 2))


@pytest.mark.parametrize(
    ("autocast", "stream"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16), (None, torch.bfloat16)],
)
def test_the_residual_stream_is_float32_under_float16_alone(base, autocast, stream):
    # In bfloat16, so that the stream's type is not the base's under either autocast.
    base = base.bfloat16()
    prepare(base, CPU)
    kinds = set()
    for layer in base.layers:
        layer.register_forward_pre_hook(lambda _, states: kinds.add(states[0].dtype))
    with torch.inference_mode(), torch.autocast("cpu", autocast, enabled=autocast is not None):
        base(input_ids=IDS)
    assert kinds == {stream}
