"""Every preset as it is, on a small random backbone of its own kind: trained for two steps, read,
saved and loaded."""

import importlib.util
import tomllib
from importlib import resources

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from transformers import AutoConfig, AutoModel

from humanpref.config import load_config, preset_names
from humanpref.config.neural import LoopOptions
from humanpref.data import labels_of
from humanpref.models import build_model, libraries_of, load_model
from humanpref.models.scratch import train_tokenizer
from humanpref.schema import TEXT_COLUMNS
from humanpref.training.shapes import Shape

SHAPES = resources.files("humanpref.training").joinpath("shapes.toml")
PUBLISHED = tomllib.loads(SHAPES.read_text("utf-8"))
DEBERTA_V3 = {
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
"""What shapes.toml leaves out, since it has no weights."""


def shrunken(backbone: str) -> dict:
    """The published configuration of a backbone, with two narrow layers."""
    last = backbone.rpartition("/")[2].lower()
    published = PUBLISHED[last.removesuffix("-it").removesuffix("-instruct")]
    sizes = {
        **published,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    if "num_key_value_heads" in sizes:
        ratio = published["num_attention_heads"] // published["num_key_value_heads"]
        sizes |= {"num_key_value_heads": max(1, 4 // ratio), "head_dim": 16}
        sizes["max_position_embeddings"] = 2_048
    if "embedding_size" in sizes:
        sizes["embedding_size"] = 32
    return sizes | (DEBERTA_V3 if sizes["model_type"] == "deberta-v2" else {})


@pytest.fixture(scope="module")
def folder_of(pairs, tmp_path_factory, decoder_folder, sentence_encoder):
    """Save a small random backbone for a configuration, as a publisher would."""

    def save(config):
        if not isinstance(config.training, LoopOptions):
            return sentence_encoder
        sizes = shrunken(config.model.backbone)
        kind = sizes.pop("model_type")
        if "num_key_value_heads" in sizes:
            del sizes["vocab_size"]
            return decoder_folder(kind, **sizes)
        folder = tmp_path_factory.mktemp("backbone") / kind
        tokenizer = train_tokenizer([turn for turns in pairs["prompt"] for turn in turns], 400)
        sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def decided(pairs):
    """Sixteen short rows without ties, from which DPO would learn nothing."""
    rows = pairs[labels_of(pairs)[:, 2] == 0][:16].reset_index(drop=True)
    for column in TEXT_COLUMNS:
        rows[column] = [tuple(turn[:60] for turn in turns[:2]) for turns in rows[column]]
    return rows


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_is_what_transformers_makes_of_it(name):
    """A misspelled key would be ignored, and the default taken."""
    sizes = dict(PUBLISHED[name])
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    assert Shape.of(config) == Shape.published(f"publisher/{name}-instruct")
    # DeBERTa's configuration takes this one without declaring it.
    declared = {"position_buckets", *AutoConfig.for_model(config.model_type).to_dict()}
    assert sizes.keys() <= declared


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_trained_read_saved_and_loaded(name, folder_of, pairs, decided, tmp_path):
    config = load_config(name)
    if "bitsandbytes" in libraries_of(config) and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is missing: pip install 'humanpref[quantised]'")
    loop = isinstance(config.training, LoopOptions)
    rows = decided if loop else pairs
    settings = []
    if getattr(config.model, "backbone", "scratch") != "scratch":
        settings += [f"model.backbone={folder_of(config)}"]
    if loop:
        # Dual inputs are both orders in one pass.
        dual = getattr(config.model, "inputs", "") == "dual"
        doubled = getattr(config.training, "swap_augmentation", False) and not dual
        batch = len(rows) * (1 + doubled) // (2 * config.training.accumulation)
        settings += [f"training.batch_size={batch}"]
    config = load_config(name, overrides=settings)

    model = build_model(config).fit(rows, labels_of(rows))
    if loop:
        report = model.report_["training"]
        assert report["steps"] == 2
        assert all(np.isfinite(epoch["train_loss"]) for epoch in report["epochs"])
        check_weights(config, rows, model)
    probabilities = model.predict_proba(rows)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    model.save(tmp_path)
    np.testing.assert_allclose(load_model(tmp_path).predict_proba(rows), probabilities, atol=1e-6)


def check_weights(config, rows, model):
    """Check that exactly the trained weights have moved."""
    started = build_model(config)
    torch.manual_seed(config.seed)
    started.build(rows)
    before, after = (dict(each.module_.named_parameters()) for each in (started, model))
    trained = {name for name, weight in after.items() if weight.requires_grad}
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved <= trained
    # LoRA's B starts at 0, and so does a decoder's head: what is below learns a step later.
    late = {name for name in trained if "lora_A" in name}
    assert moved >= trained - late, sorted(trained - late - moved)
