"""Decoders on a T4: a residual stream beyond float16's range, and grouped-query attention."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from humanpref.models.pretrained import load_tokenizer

from .runs import fit, on_the_cpu, slow_but, tiny

LARGEST = torch.finfo(torch.half).max


@pytest.fixture(scope="session")
def large_decoder(decoder_folder, tmp_path_factory):
    """Return a tiny decoder's folder. Its weights and the outputs of its linear layers fit into
    float16, but not the residual stream, nor Gemma's norms that write to it."""

    def save(kind):
        folder = tmp_path_factory.mktemp("large") / kind
        plain = decoder_folder(kind, tie_word_embeddings=False, num_hidden_layers=6)
        model = AutoModelForCausalLM.from_pretrained(plain)
        embeddings = model.get_input_embeddings().weight.data
        # Gemma multiplies its embeddings; newer versions of transformers do so in their own type.
        largest = 60_000 / model.config.hidden_size**0.5 if kind == "gemma2" else 40_000
        embeddings *= largest / embeddings.abs().max()
        for layer in model.model.layers:
            if kind == "gemma2":  # it normalizes a layer's outputs
                layer.post_attention_layernorm.weight.data += 10_500
                layer.post_feedforward_layernorm.weight.data += 3_750
            else:
                for weight, factor in (
                    (layer.self_attn.v_proj, 300),
                    (layer.self_attn.o_proj, 300),
                    (layer.mlp.up_proj, 300),
                    (layer.mlp.down_proj, 900),
                ):
                    weight.weight.data *= factor
        model.save_pretrained(folder)
        load_tokenizer(str(plain)).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize("kind", [slow_but("llama"), slow_but("qwen2"), "gemma2"])
@pytest.mark.parametrize("family", ["decoder", slow_but("dpo")])
def test_a_residual_stream_beyond_float16(few, large_decoder, family, kind):
    ties = ("training.ties=davidson",) if family == "dpo" else ()
    config = tiny(family, large_decoder(kind), *ties)
    model = fit(config, few)
    assert model.report_["training"]["skipped_steps"] == 0
    backbone, stream = model.module_.backbone, []
    embeddings = backbone.get_input_embeddings()
    assert embeddings.weight.dtype == torch.half
    for name, part in backbone.named_modules():
        if name.endswith(("input_layernorm", ".norm")):
            part.register_forward_pre_hook(lambda _, states: stream.append(*states))
    probabilities = model.predict_proba(few)
    assert {states.dtype for states in stream} == {torch.float32}
    assert max(states.abs().max().item() for states in stream) > LARGEST
    with on_the_cpu():
        exact = fit(config, few).predict_proba(few)
    spread = exact.std(axis=0).max()
    assert spread > 1e-3
    np.testing.assert_allclose(probabilities, exact, atol=0.05 * spread)

    embeddings._forward_hooks.clear()
    if kind == "gemma2":  # what its norms write is as wide as what they are given
        for part in backbone.modules():
            part._forward_pre_hooks.clear()
    assert np.isnan(model.predict_proba(few)).any()


@pytest.mark.parametrize("kind", ["llama", slow_but("qwen2")])
def test_grouped_query_attention(few, decoder_folder, monkeypatch, kind):
    attend, calls = functional.scaled_dot_product_attention, set()

    def spy(query, key, value, **options):
        calls.add((query.shape[1] // key.shape[1], options.get("enable_gqa", False)))
        return attend(query, key, value, **options)

    def predicted(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        calls.clear()
        return fit(tiny("decoder", decoder_folder(kind)), few).predict_proba(few)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    turing = predicted(7, 5)
    assert calls == {(1, False)}
    ampere = predicted(8, 0)
    assert calls == {(2, True)}
    np.testing.assert_allclose(turing, ampere, atol=1e-5)
