"""Every preset that is trained by gradient descent, as it is, on the played GPU."""

import numpy as np
import pytest
import torch

from humanpref.config import load_config, preset_names
from humanpref.config.neural import LoopOptions
from humanpref.models import load_model

from .runs import fit, untrained, weights

PRESETS = [name for name in preset_names() if isinstance(load_config(name).training, LoopOptions)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_trained_read_saved_and_loaded(gpu, name, small_preset, tmp_path):
    # bitsandbytes' kernels are CUDA's own, which cannot be played.
    overrides = ["model.quantisation=none"] if "qlora" in name else []
    config, rows = small_preset(name, *overrides)
    before = weights(untrained(config, rows))
    model = fit(config, rows)
    report = model.report_["training"]
    assert (report["device"], report["precision"]) == ("cuda", "fp16")
    assert (report["steps"], report["skipped_steps"]) == (2, 0)
    assert all(np.isfinite(epoch["train_loss"]) for epoch in report["epochs"])
    after = weights(model.module_)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    trained = {name for name, weight in model.module_.named_parameters() if weight.requires_grad}
    # LoRA's B starts at 0, and so does a decoder's head: what is below learns a step later.
    late = {name for name in trained if "lora_A" in name}
    assert trained - late <= moved <= trained
    probabilities = model.predict_proba(rows)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    model.save(tmp_path)
    np.testing.assert_allclose(load_model(tmp_path).predict_proba(rows), probabilities, atol=1e-6)
