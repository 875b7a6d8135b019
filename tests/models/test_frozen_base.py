"""Bases on disk: opening, recording and finding them, and what is checked before training."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from transformers import AutoModel

from humanpref.config.neural import DecoderOptions, LoopOptions
from humanpref.models import frozen_base
from humanpref.models.checkpoint import base_digest
from humanpref.models.frozen_base import (
    FrozenBase,
    base_dtype,
    check_base,
    check_precision,
    check_room,
    load_base,
    read,
)
from humanpref.schema import InputError
from humanpref.text.format import PROMPT, A, B
from humanpref.text.tokens import Template

TEMPLATE = Template([1], {part: [5] for part in (PROMPT, A, B)}, [6, 7])


@pytest.fixture
def base(decoder_folder):
    return FrozenBase.open(str(decoder_folder()))


@pytest.fixture
def as_t4(monkeypatch):
    """A GPU without bf16 of its own, so that auto means fp16."""
    device = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(frozen_base, "process_state", lambda: device)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )


def test_a_saved_record_finds_the_base_again(base, decoder_folder, tmp_path):
    folder = decoder_folder()
    assert base.record == {"name": f"./{folder.name}", "sha256": base_digest(folder)}
    base.save(tmp_path)
    base.tokenizer.save_pretrained(tmp_path / "backbone")
    assert json.loads((tmp_path / "base.json").read_text()) == base.record
    found = FrozenBase.find(tmp_path)
    assert (found.record, found.folder) == (base.record, folder)
    assert found.config.hidden_size == base.config.hidden_size
    assert found.tokenizer.get_vocab() == base.tokenizer.get_vocab()


def test_a_base_is_checked_by_name(decoder_folder, tmp_path):
    check_base(str(decoder_folder()))
    with pytest.raises(InputError, match="missing: no such model here"):
        check_base(str(tmp_path / "missing"))


def test_loading_for_training_turns_checkpointing_on(base):
    options = DecoderOptions(backbone=base.record["name"], max_length=64)
    for wanted in (False, True):
        training = LoopOptions(gradient_checkpointing=wanted)
        loaded = base.load_for_training(AutoModel, options, training, TEMPLATE)
        assert loaded.is_gradient_checkpointing == wanted
    large = TEMPLATE._replace(suffix=[10_000])
    with pytest.raises(InputError, match=r"a token 10000 .* embeddings"):
        base.load_for_training(AutoModel, options, training, large)


def test_room_for_the_rows_own_text():
    # Six tokens are fixed in one round.
    check_room(TEMPLATE, DecoderOptions(max_length=16))
    with pytest.raises(InputError, match="take 9 of the 16 tokens"):
        check_room(TEMPLATE._replace(prefix=[1] * 4), DecoderOptions(max_length=16))
    check_room(TEMPLATE._replace(prefix=[1] * 3), DecoderOptions(max_length=16))


def test_the_type_of_the_frozen_weights(as_t4):
    assert base_dtype(DecoderOptions()) == torch.float16
    with pytest.raises(
        InputError, match=r"base_dtype: this GPU only emulates bfloat16; use float16 or"
    ):
        base_dtype(DecoderOptions(base_dtype="bfloat16"))
    assert base_dtype(DecoderOptions(peft="none")) == torch.float32


def test_the_type_of_the_frozen_weights_on_a_cpu():
    assert base_dtype(DecoderOptions()) == torch.float32
    assert base_dtype(DecoderOptions(base_dtype="bfloat16")) == torch.bfloat16
    with pytest.raises(InputError, match="base_dtype: float16 needs a GPU"):
        base_dtype(DecoderOptions(base_dtype="float16"))


def test_a_base_in_float16_is_not_trained_through_without_a_scaler(as_t4):
    options = DecoderOptions()
    check_precision(options, "auto")
    check_precision(options, "fp16")
    check_precision(replace(options, base_dtype="float32"), "no")
    with pytest.raises(InputError, match=r"training\.precision: .* got 'no'; .* float16 base"):
        check_precision(options, "no")


def test_padding_changes_no_state(base):
    model = load_base(base.folder, base.config, DecoderOptions(), AutoModel).eval()
    ids = torch.arange(10, 16)
    padded = torch.cat([ids, torch.zeros(3, dtype=torch.long)])[None]
    with torch.inference_mode():
        alone = read(model, ids[None], torch.ones(1, 6, dtype=torch.long))
        states = read(model, padded, (torch.arange(9) < 6).long()[None])
    torch.testing.assert_close(states[:, :6], alone, atol=1e-5, rtol=0)


def test_gradients_pass_through_a_4_bit_layer_that_was_read_before(decoder_folder):
    """bitsandbytes repacks the weights of these sizes on a CPU with AVX512-BF16."""
    functional = pytest.importorskip("bitsandbytes", reason="needs humanpref[quantised]").functional
    folder = decoder_folder(hidden_size=64, head_dim=32, intermediate_size=64)
    options = DecoderOptions(quantisation="4bit")
    layer = load_base(folder, FrozenBase.open(str(folder)).config, options, AutoModel)
    layer = layer.layers[0].mlp.up_proj
    weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    inputs = torch.randn(3, 64, generator=torch.manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(layer.eval()(inputs), inputs @ weight.T)
    inputs.requires_grad_()
    layer.train()(inputs).sum().backward()
    torch.testing.assert_close(inputs.grad, weight.sum(dim=0).expand(3, -1))


def test_half_precision_is_read_under_its_own_autocast(base):
    model = load_base(base.folder, base.config, DecoderOptions(base_dtype="bfloat16"), AutoModel)
    kinds = []
    layer = model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda *_: kinds.append(torch.get_autocast_dtype("cpu")))
    ids = torch.arange(10, 16)[None]
    read(model, ids, torch.ones_like(ids))
    assert kinds == [torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")
