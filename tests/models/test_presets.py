"""Every preset as it is, on a small random backbone of its own kind: trained for two steps, read,
saved and loaded."""

import importlib.util

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from transformers import AutoConfig

from humanpref.config import preset_names
from humanpref.config.neural import LoopOptions
from humanpref.data import labels_of
from humanpref.models import build_model, libraries_of, load_model
from humanpref.training.shapes import Shape

from ..shrunken import PUBLISHED


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
def test_a_preset_is_trained_read_saved_and_loaded(name, small_preset, tmp_path):
    config, rows = small_preset(name)
    if "bitsandbytes" in libraries_of(config) and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is missing: pip install 'humanpref[quantised]'")
    model = build_model(config).fit(rows, labels_of(rows))
    if isinstance(config.training, LoopOptions):
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
