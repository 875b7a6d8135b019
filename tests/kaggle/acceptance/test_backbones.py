"""Random backbones have the presets' sizes."""

import json

import pytest

pytest.importorskip("torch")

from humanpref.config import load_config
from humanpref.kaggle.acceptance.backbones import configuration, layers_of, without_dropout
from humanpref.kaggle.acceptance.runner import PRESETS
from humanpref.training.shapes import Shape


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_are_the_published_ones(preset):
    name = load_config(preset).model.backbone
    shape, published = Shape.of(configuration(name)), Shape.published(name)
    assert shape.layer_weights == published.layer_weights
    assert shape.embedding_weights == published.embedding_weights
    assert (shape.layers == published.layers) == (layers_of(name) == "")
    tiny = Shape.of(configuration(name, quick=True))
    assert (tiny.gated, tiny.scores, tiny.norms) == (shape.gated, shape.scores, shape.norms)
    assert tiny.weights < 1e6


def test_large_models_are_cut_to_a_stack():
    assert layers_of("google/gemma-2-9b-it") == ", 4 of 42 layers"


def test_without_dropout_changes_the_configuration_alone(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    values = {"hidden_dropout_prob": 0.1, "attention_dropout": 0.2, "hidden_size": 8}
    (source / "config.json").write_text(json.dumps(values))
    (source / "model.safetensors").write_bytes(b"weights")
    folder = without_dropout(source, tmp_path / "copy")
    assert json.loads((folder / "config.json").read_text()) == {
        "hidden_dropout_prob": 0.0,
        "attention_dropout": 0.0,
        "hidden_size": 8,
    }
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((source / "config.json").read_text()) == values
