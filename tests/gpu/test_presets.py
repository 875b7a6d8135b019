"""Every preset that uses a GPU, as it is, on the played one."""

import numpy as np
import pytest
import torch

from humanpref.config import load_config, preset_names
from humanpref.config.neural import LoopOptions
from humanpref.models import load_model, sentence

from .runs import fit, on_the_cpu, untrained, weights

FROZEN = ["qwen3-embedding-0.6b", "bge-base"]
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


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_encoder_reads_in_half_precision(gpu, name, small_preset, tmp_path):
    penalties = ["model.embedding_penalties=10", "model.structure_penalties=100"]
    config, rows = small_preset(name, *penalties)
    rows = rows[:16].reset_index(drop=True)
    sentence.memo.clear()
    model = fit(config, rows)
    products = {dtype for operation, dtype, _ in gpu.dtypes if operation in ("mm", "addmm")}
    assert products == {torch.half}
    made = model.predict_proba(rows)
    model.save(tmp_path)
    assert {weight.dtype for weight in model.encoder_.module.parameters()} == {torch.float32}
    sentence.memo.clear()
    np.testing.assert_allclose(load_model(tmp_path).predict_proba(rows), made, atol=1e-6)
    sentence.memo.clear()
    with on_the_cpu():
        exact = fit(config, rows).predict_proba(rows)
    np.testing.assert_allclose(made, exact, atol=0.05 * exact.std(axis=0).max())


@pytest.mark.parametrize("scale", [10, 1e6])
def test_vectors_that_overflow_are_computed_in_float32(gpu, scale, small_preset, caplog):
    config, _ = small_preset(FROZEN[0])
    encoder = sentence.FrozenEncoder(config.model.backbone)
    texts = [sentence.Passage(text) for text in ("What is this?", "An answer to it.")]

    def vectors():
        sentence.memo.clear()
        found = encoder.embed(texts, 1, 512, "auto")
        return np.concatenate([found[text].vectors for text in texts])

    for layer in encoder.module.backbone.layers:
        layer.mlp.down_proj.weight.data *= scale
    made = vectors()
    told = "windows that overflow in torch.float16 and are embedded in float32: 2 of 2"
    assert (told in caplog.text) == (scale == 1e6)
    with on_the_cpu():
        encoder.module.cpu()
        exact = vectors()
    np.testing.assert_allclose(made, exact, atol=1e-5 if scale == 1e6 else 0.02)
