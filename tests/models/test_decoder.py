"""Decoders as classifiers: what learns and what does not, padding, the artifact and its base, and
bases that will not do."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.models import build_model, load_model
from humanpref.models.bases import BASE_VARIABLE
from humanpref.models.decoder import DecoderModel
from humanpref.models.pretrained import backbone_facts, base_digest, load_tokenizer
from humanpref.schema import TEXT_COLUMNS, InputError

SETTINGS = (
    "model.max_length=80",
    "model.system_prompt=",
    "model.question=Which?",
    "model.lora_dropout=0",
    "training.batch_size=16",
    "training.learning_rate=1e-2",
)


def config_with(folder, *overrides):
    return load_config(
        "llama-3.2-1b-lora", overrides=[f"model.backbone={folder}", *SETTINGS, *overrides]
    )


@pytest.fixture(scope="module")
def few(pairs):
    return pairs[:48].reset_index(drop=True)


@pytest.fixture(scope="module")
def ragged(few):
    """The same rows, from very short to as long as they are."""
    cut = few.copy()
    for column in TEXT_COLUMNS:
        cut[column] = [
            tuple(turn[: 2 * i] for turn in turns) for i, turns in enumerate(few[column])
        ]
    return cut


@pytest.fixture(scope="module")
def fitted(decoder_folder, few):
    return build_model(config_with(decoder_folder())).fit(few, labels_of(few))


def log_loss(model, pairs):
    return -np.log((model.predict_proba(pairs) * labels_of(pairs)).sum(axis=1)).mean()


@pytest.mark.slow
def test_sixteen_pairs_are_learned_by_heart(decoder_folder, pairs):
    some = pairs[:16].reset_index(drop=True)
    config = config_with(
        decoder_folder(), "training.epochs=40", "model.lora_r=8", "model.target_modules=all-linear"
    )
    assert log_loss(build_model(config).fit(some, labels_of(some)), some) < 0.1


@pytest.mark.slow
def test_the_first_loss_is_that_of_no_opinion(decoder_folder, few):
    model = DecoderModel.from_config(config_with(decoder_folder()))
    model.build(few)
    np.testing.assert_allclose(model.predict_proba(few), 1 / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("peft", "kind", "learns"),
    [
        ("lora", "llama", r"lora_[AB]"),
        pytest.param("rslora", "llama", r"lora_[AB]", marks=pytest.mark.slow),
        ("dora", "llama", r"lora_([AB]|magnitude)"),
        ("ia3", "llama", r"ia3_l"),
        ("layernorm", "gemma2", r"ln_tuning_layers"),
        pytest.param("bias", "qwen2", r"bias$", marks=pytest.mark.slow),
        ("head", "llama", None),
        pytest.param("none", "llama", r".", marks=pytest.mark.slow),
    ],
)
def test_what_learns_moves_and_nothing_else_does(peft, kind, learns, decoder_folder, few):
    folder = decoder_folder(kind)
    # The head starts at 0: what is below it learns from the second step on, and LoRA's A from the
    # third.
    config = config_with(
        folder, f"model.peft={peft}", "training.epochs=2", "training.weight_decay=0"
    )
    torch.manual_seed(config.seed)
    started = DecoderModel.from_config(config)
    started.build(few)
    model = build_model(config).fit(few, labels_of(few))
    before, after = started.module_.state_dict(), model.module_.state_dict()
    trainable = {name for name, weight in model.module_.named_parameters() if weight.requires_grad}
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == trainable
    below = {name for name in trainable if not name.startswith("head.")}
    assert trainable - below == {"head.1.weight"}
    assert bool(below) == (learns is not None)
    assert all(re.search(learns, name) for name in below)
    assert model.report_["training"]["trainable_parameters"] == sum(
        after[name].numel() for name in trainable
    )
    published = load_file(folder / "model.safetensors")
    frozen = {
        name.rsplit("layers.", 1)[-1].replace("base_layer.", "") for name in set(after) - trainable
    }
    same = [name for name in published if name.rsplit("layers.", 1)[-1] in frozen]
    assert peft == "none" or len(same) > 10
    for name in same:
        ours = next(
            key
            for key in after
            if key.replace("base_layer.", "").endswith(name.removeprefix("model."))
            and key not in trainable
        )
        assert torch.equal(published[name], after[ours])


@pytest.mark.parametrize(("bits", "packed"), [("4bit", torch.uint8), ("8bit", torch.int8)])
def test_a_quantised_base_is_trained_through_and_read(bits, packed, decoder_folder, few, tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs humanpref[quantised]")
    settings = (f"model.quantisation={bits}", "model.target_modules=all-linear")
    config = config_with(decoder_folder(), *settings, "training.weight_decay=0")
    torch.manual_seed(config.seed)
    started = DecoderModel.from_config(config)
    started.build(few)
    model = build_model(config).fit(few, labels_of(few))
    before, after = (dict(each.module_.named_parameters()) for each in (started, model))
    matrices = {name for name, weight in after.items() if weight.dtype == packed}
    assert len(matrices) == 14
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name, weight in after.items() if weight.requires_grad}
    assert {name.split(".")[-3] for name in moved} >= {"lora_A", "lora_B"}
    assert all(np.isfinite(epoch["train_loss"]) for epoch in model.report_["training"]["epochs"])
    exact = build_model(config_with(decoder_folder(), *settings[1:], "training.weight_decay=0"))
    probabilities = model.predict_proba(few)
    exact = exact.fit(few, labels_of(few)).predict_proba(few)
    assert 0 < np.abs(probabilities - exact).max() < 0.1
    model.save(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) < 40_000
    np.testing.assert_allclose(load_model(tmp_path).predict_proba(few), probabilities, atol=1e-6)


# GPT-2 stands for decoders that count positions absolutely, Gemma 2 for those whose layers see a
# window only.
@pytest.mark.parametrize(
    "kind", ["llama", pytest.param("qwen2", marks=pytest.mark.slow), "gemma2", "gpt2"]
)
def test_padding_batches_and_order_change_nothing(kind, decoder_folder, ragged):
    changes = (
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32}
        if kind == "gemma2"
        else {}
    )
    folder = decoder_folder(kind, **changes)
    config = config_with(folder, "model.max_length=256", "model.target_modules=all-linear")
    model = build_model(config).fit(ragged, labels_of(ragged))
    assert len(set(model.inputs(ragged).lengths)) > 20
    expected = model.predict_proba(ragged)
    assert np.ptp(expected, axis=0).max() > 0.01
    order = np.random.default_rng(0).permutation(len(ragged))
    for tokens in (1, 16 * 256):
        model.set_params(inference=replace(model.inference, batch_tokens=tokens))
        np.testing.assert_allclose(model.predict_proba(ragged), expected, atol=1e-4)
        shuffled = model.predict_proba(ragged.iloc[order].reset_index(drop=True))
        np.testing.assert_allclose(shuffled, expected[order], atol=1e-4)


def test_padding_stands_on_the_right_whatever_the_tokenizer_says(decoder_folder, ragged):
    model = DecoderModel.from_config(config_with(decoder_folder()))
    model.tokenizer_ = load_tokenizer(str(decoder_folder()))
    model.tokenizer_.padding_side = "left"
    inputs = model.inputs(ragged)
    short, long = inputs.lengths.argsort()[[0, -1]]
    mask = inputs(np.array([short, long]))["attention_mask"][:, 0]
    assert mask[1].all()
    shorter, longest = inputs.lengths[[short, long]]
    assert mask[0].tolist() == [1] * shorter + [0] * (longest - shorter)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["training.gradient_checkpointing=true", "training.forward_tokens=1"]
)
def test_less_memory_gives_the_same_model(option, decoder_folder, few, fitted):
    model = build_model(config_with(decoder_folder(), option)).fit(few, labels_of(few))
    np.testing.assert_allclose(model.predict_proba(few), fitted.predict_proba(few), atol=1e-4)


@pytest.mark.parametrize(
    "peft",
    [
        "lora",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dora", "ia3")),
        "layernorm",
    ],
)
def test_a_base_in_half_precision_with_what_learns_in_float32(peft, decoder_folder, few):
    model = build_model(
        config_with(decoder_folder(), "model.base_dtype=bfloat16", f"model.peft={peft}")
    )
    model.fit(few, labels_of(few))
    types = {weight.requires_grad: weight.dtype for weight in model.module_.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    assert np.isfinite(model.predict_proba(few)).all()


def test_the_head_with_a_hidden_layer_is_saved_and_loaded(decoder_folder, few, tmp_path):
    model = build_model(
        config_with(
            decoder_folder(),
            *("model.head=mlp", "model.dropout=0.1", "model.peft=head", "model.head_bias=true"),
        )
    )
    model.fit(few, labels_of(few)).save(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {
        f"head.{i}.{w}" for i in (1, 3) for w in ("weight", "bias")
    }
    np.testing.assert_allclose(
        load_model(tmp_path).predict_proba(few), model.predict_proba(few), atol=1e-5
    )


def test_a_missing_library_is_named_before_anything_is_loaded(
    decoder_folder, fitted, tmp_path, monkeypatch
):
    fitted.save(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        InputError, match=r"option model.peft: lora needs peft: pip install .*\[torch\]"
    ):
        build_model(config_with("no such folder"))
    build_model(config_with("no such folder", "model.peft=head"))  # needs none
    with pytest.raises(InputError, match=r"needs peft: pip install"):
        load_model(tmp_path)


@pytest.fixture
def travelled(fitted, decoder_folder, tmp_path, monkeypatch):
    """An artifact's model whose base is no longer where it was, and a copy of that base."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fitted.set_params(model=replace(fitted.model, backbone="gone/tiny-llama"))
    record = fitted.base_.record | {"name": "/gone/tiny-llama"}
    fitted.base_ = fitted.base_._replace(record=record)
    fitted.save(tmp_path / "artifact" / "model")
    base = tmp_path / "elsewhere" / "tiny-llama"
    shutil.copytree(decoder_folder(), base)
    return tmp_path / "artifact" / "model", base


def test_the_artifact_holds_what_was_learned_and_names_the_base(travelled, fitted, decoder_folder):
    folder, _ = travelled
    assert {name.split(".")[0] for name in load_file(folder / "model.safetensors")} == {
        "backbone",
        "head",
    }
    assert all(
        "lora_" in name or "head." in name for name in load_file(folder / "model.safetensors")
    )
    assert [path.name for path in folder.rglob("*.safetensors")] == ["model.safetensors"]
    record = json.loads((folder / "base.json").read_text())
    assert record == {"name": "/gone/tiny-llama", "sha256": base_digest(decoder_folder())}


def test_the_base_is_found_by_the_variable_or_beside_the_artifact(
    travelled, fitted, few, monkeypatch
):
    folder, base = travelled
    expected = fitted.predict_proba(few)
    with pytest.raises(
        InputError,
        match=r"was trained on base /gone/tiny-llama .*it was not found; set HUMANPREF_BASE",
    ):
        load_model(folder)
    for place in (base, base.parent):
        monkeypatch.setenv(BASE_VARIABLE, str(place))
        np.testing.assert_allclose(load_model(folder).predict_proba(few), expected, atol=1e-5)
    monkeypatch.delenv(BASE_VARIABLE)
    base.rename(folder.parents[1] / "tiny-llama")
    np.testing.assert_allclose(load_model(folder).predict_proba(few), expected, atol=1e-5)


def test_another_base_is_refused(travelled, monkeypatch):
    folder, base = travelled
    state = load_file(base / "model.safetensors")
    state["model.norm.weight"][0] += 1e-3
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setenv(BASE_VARIABLE, str(base))
    with pytest.raises(
        InputError,
        match=r"sha256 \w{16}…\); .*elsewhere/tiny-llama holds different weights \(sha256 \w{16}",
    ):
        load_model(folder)


def bert(folder):
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=500,
    )
    BertModel(config).save_pretrained(folder)


def drop(folder):
    state = load_file(folder / "model.safetensors")
    del state["model.layers.0.self_attn.q_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "overrides", "message"),
    [
        (shutil.rmtree, (), "no such model here"),
        (lambda folder: (folder / "model.safetensors").unlink(), (), "no weights, expected one of"),
        (drop, (), "lacks 1 weight .*q_proj"),
        (bert, (), "not a decoder"),
        (None, ("model.max_length=513",), "max_length: backbone .* reads 512 tokens, not 513"),
        (
            None,
            ("model.max_length=32", "model.system_prompt=" + "be fair " * 20),
            r"take \d+ of the 32 tokens",
        ),
        (None, ("model.target_modules=query",), "lora cannot be applied to 'query'"),
        (None, ("model.peft=bias",), "has no biases"),
        (None, ("model.base_dtype=float16",), "float16 needs a GPU"),
        (None, ("model.quantisation=4bit", "model.peft=bias"), "none with peft=bias"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU refuses")
def test_what_will_not_do(spoil, overrides, message, decoder_folder, few, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(decoder_folder(), folder)
    if spoil:
        spoil(folder)
    with pytest.raises(InputError, match=message):
        build_model(config_with(folder, *overrides)).fit(few, labels_of(few))


def test_a_base_that_is_packed_already_counts_whole():
    """4-bit weights lie two in a byte."""
    base = LlamaModel(
        LlamaConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            vocab_size=9,
        )
    )
    whole = backbone_facts("base", base)["parameters"]
    matrix = base.layers[0].mlp.up_proj
    matrix.weight = torch.nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    assert backbone_facts("base", base)["parameters"] == whole


@pytest.mark.slow
def test_lora_works_beside_an_old_torchao(tmp_path):
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("__version__ = '0.10.0'\n")
    (tmp_path / "torchao-0.10.0.dist-info").mkdir()
    (tmp_path / "torchao-0.10.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n"
    )
    code = """
import sys, torch
from peft.import_utils import is_torchao_available
try:
    is_torchao_available()
    sys.exit("this peft does not mind: the test shows nothing")
except ImportError:
    pass
from transformers import LlamaConfig, LlamaModel
from humanpref.config.neural import DecoderOptions
from humanpref.models.decoder import PairDecoder
tiny = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
tiny |= dict(intermediate_size=8, vocab_size=9)
module = PairDecoder(LlamaModel(LlamaConfig(**tiny)), DecoderOptions())
print(sum("lora" in name for name, _ in module.named_parameters()))
import torchao
print(torchao.__version__)
"""
    source = Path(__file__).parents[2] / "src"
    paths = os.pathsep.join([str(tmp_path), str(source)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["14", "0.10.0"], done.stderr[-800:]
