"""Which weights of a frozen base learn, for every value of `model.peft`."""

import importlib.util
import sys
from functools import partial
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import peft.import_utils
import torch
from transformers import AutoModel

from humanpref.config import load_config
from humanpref.config.neural import DecoderOptions
from humanpref.files import write_json
from humanpref.models import build_model, load_model
from humanpref.models.adapters import adapt, import_peft, merged
from humanpref.schema import InputError


@pytest.fixture
def llama(decoder_folder):
    return AutoModel.from_pretrained(decoder_folder(), dtype=torch.bfloat16)


def learning(module):
    return {name for name, weight in module.named_parameters() if weight.requires_grad}


def adapted_layers(module):
    """The last names of the layers that have an adapter."""
    return {name.split(".lora_")[0].rpartition(".")[2] for name in learning(module)}


def test_lora_adapts_every_linear_layer_and_leaves_the_base_in_its_type(llama):
    before = {name: weight.clone() for name, weight in llama.named_parameters()}
    adapted = adapt(llama, DecoderOptions(peft="lora", lora_r=3, lora_alpha=12, lora_dropout=0.25))
    assert all(".lora_" in name for name in learning(adapted))
    assert adapted_layers(adapted) == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    for name, weight in adapted.named_parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    query = adapted.get_base_model().layers[0].self_attn.q_proj
    assert torch.equal(query.base_layer.weight, before["layers.0.self_attn.q_proj.weight"])
    assert query.lora_A["default"].weight.shape[0] == 3
    assert query.scaling["default"] == 4
    assert query.lora_dropout["default"].p == 0.25
    assert not query.use_dora["default"]


def test_rslora_scales_by_the_root_of_the_rank_and_dora_learns_magnitudes(llama, decoder_folder):
    adapted = adapt(llama, DecoderOptions(peft="rslora", lora_r=4, lora_alpha=8))
    assert adapted.get_base_model().layers[0].self_attn.q_proj.scaling["default"] == 4
    base = AutoModel.from_pretrained(decoder_folder())
    adapted = adapt(base, DecoderOptions(peft="dora", lora_r=4, lora_alpha=8))
    assert any("magnitude" in name for name in learning(adapted))
    assert adapted.get_base_model().layers[0].self_attn.q_proj.scaling["default"] == 2


def test_target_modules_are_names_with_commas(llama):
    adapted = adapt(llama, DecoderOptions(target_modules=" q_proj, v_proj,"))
    assert adapted_layers(adapted) == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("targets", "scaled", "inner"),
    [
        ("q_proj,down_proj", {"q_proj", "down_proj"}, {"down_proj"}),
        ("q_proj", {"q_proj"}, set()),
        ("all-linear", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),  # peft's own for Llama
    ],
)
def test_ia3_scales_the_inputs_of_feed_forward_layers(llama, targets, scaled, inner):
    adapted = adapt(llama, DecoderOptions(peft="ia3", target_modules=targets))
    config = adapted.peft_config["default"]
    assert set(config.target_modules) == scaled
    assert set(config.feedforward_modules) == inner


def test_layernorm_trains_the_norms_alone(llama):
    adapted = adapt(llama, DecoderOptions(peft="layernorm"))
    names = {name.removeprefix("base_model.model.") for name in learning(adapted)}
    layers = ("layers.0.input_layernorm", "layers.0.post_attention_layernorm")
    assert {f"{layer}.ln_tuning_layers.default.weight" for layer in layers} <= names
    assert "norm.ln_tuning_layers.default.weight" in names
    assert len(names) == 5


def test_bias_trains_the_biases_alone_or_says_that_there_are_none(llama, decoder_folder):
    base = AutoModel.from_pretrained(decoder_folder("qwen2"), dtype=torch.bfloat16)
    assert adapt(base, DecoderOptions(peft="bias")) is base
    names = {f"{name}_proj.bias" for name in "qkv"}
    assert {name.partition("self_attn.")[2] for name in learning(base)} == names
    assert base.layers[0].self_attn.q_proj.bias.dtype == torch.float32
    assert base.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"option model\.peft: backbone org/x has no biases"):
        adapt(llama, DecoderOptions(peft="bias", backbone="org/x"))


def test_head_freezes_the_base_and_none_trains_all_of_it(llama):
    assert adapt(llama, DecoderOptions(peft="head")) is llama
    assert learning(llama) == set()
    assert {weight.dtype for weight in llama.parameters()} == {torch.bfloat16}
    assert adapt(llama, DecoderOptions(peft="none")) is llama
    assert learning(llama) == {name for name, _ in llama.named_parameters()}
    assert {weight.dtype for weight in llama.parameters()} == {torch.float32}


@pytest.mark.parametrize("peft", ["lora", "rslora", "dora", "ia3", "layernorm", "head"])
def test_a_merged_base_computes_what_the_adapted_one_did(peft, decoder_folder):
    base = AutoModel.from_pretrained(decoder_folder("gemma2"), attn_implementation="eager")
    names, ids = set(base.state_dict()), torch.arange(3, 23).unsqueeze(0)
    adapted = adapt(base, DecoderOptions(peft=peft, lora_r=2)).eval()
    with torch.no_grad():
        plain = adapted(input_ids=ids).last_hidden_state
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=torch.manual_seed(0))
        expected = adapted(input_ids=ids).last_hidden_state
        base = merged(adapted)
        states = base(input_ids=ids).last_hidden_state
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(expected, plain) == (peft == "head")
    assert set(base.state_dict()) == names


def test_layers_that_the_base_does_not_have_are_refused(llama):
    with pytest.raises(
        InputError, match=r"option model\.target_modules: lora .*'query' of backbone org/x \(.+\)$"
    ):
        adapt(llama, DecoderOptions(target_modules="query", backbone="org/x"))


@pytest.mark.parametrize("loaded", [True, False])
def test_an_old_torchao_is_hidden_while_peft_looks_for_it(loaded, monkeypatch):
    monkeypatch.delitem(sys.modules, "torchao", raising=False)
    old = ModuleType("torchao")
    if loaded:
        monkeypatch.setitem(sys.modules, "torchao", old)
    answers = []

    def is_torchao_available():
        hidden = "torchao" in sys.modules and sys.modules["torchao"] is None
        answers.append(hidden)
        if not hidden:
            raise ImportError("an incompatible version of torchao")
        return False

    monkeypatch.setattr(peft.import_utils, "is_torchao_available", is_torchao_available)
    assert import_peft() is peft
    assert answers == [False, True]
    assert sys.modules.get("torchao") is (old if loaded else None)
    assert ("torchao" in sys.modules) == loaded


@pytest.mark.parametrize("library", ["peft", "bitsandbytes"])
def test_a_library_that_is_not_installed_is_named(library, monkeypatch, tmp_path):
    """Before anything is downloaded, trained or read."""
    config = load_config("llama-3.2-1b-lora", overrides=["model.quantisation=4bit"])
    write_json(tmp_path / "config.json", config.to_dict())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != library or None)
    for use in (partial(build_model, config), partial(load_model, tmp_path)):
        with pytest.raises(InputError, match=rf"^option model\..* needs {library}: pip install"):
            use()
    if library == "bitsandbytes":
        build_model(load_config("llama-3.2-1b-lora"))
