"""Scores of tokens by a language model's own output layer, against transformers' own."""

import pytest

pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM

from humanpref.models.vocabulary import check_scores, token_scores
from humanpref.schema import InputError

KINDS = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 3.0},
    "qwen2": {"tie_word_embeddings": True},
}


def loaded(decoder_folder, kind, dtype=torch.float32):
    folder = decoder_folder(kind, **KINDS[kind])
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_are_those_of_the_model(kind, decoder_folder):
    model = loaded(decoder_folder, kind)
    ids, tokens = torch.arange(7, 19).view(2, 6), torch.tensor([11, 5, 300])
    with torch.inference_mode():
        own = model(input_ids=ids).logits[:, -1]
        vectors = model.base_model(input_ids=ids).last_hidden_state[:, -1]
        torch.testing.assert_close(token_scores(model, vectors), own)
        torch.testing.assert_close(token_scores(model, vectors, tokens), own[:, tokens])
    assert own.std() > 0.1
    check_scores(model, "base")


def test_a_bias_of_the_output_layer_counts(decoder_folder):
    model = loaded(decoder_folder, "llama")
    vectors, tokens = torch.randn(2, 16), torch.tensor([3, 1])
    before = token_scores(model, vectors, tokens)
    model.lm_head.bias = torch.nn.Parameter(torch.arange(float(len(model.lm_head.weight))))
    after = token_scores(model, vectors, tokens)
    torch.testing.assert_close(after - before, torch.tensor([[3.0, 1.0]] * 2))


def test_named_tokens_are_scored_in_float32_even_under_autocast(decoder_folder):
    model, tokens = loaded(decoder_folder, "llama", torch.bfloat16), torch.tensor([1, 2, 3])
    vectors = torch.randn(4, 16)
    exact = vectors.double() @ model.lm_head.weight[tokens].double().T
    with torch.autocast("cpu", torch.bfloat16):
        found = token_scores(model, vectors, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=1e-5)


def test_a_model_that_scales_its_scores_is_refused(decoder_folder):
    model = loaded(decoder_folder, "llama")
    model.lm_head.register_forward_hook(lambda *call: 2 * call[-1])
    own_layer = model.lm_head
    model.get_output_embeddings = lambda: torch.nn.Linear(16, len(own_layer.weight))
    with pytest.raises(InputError, match="backbone base: not supported, since it changes"):
        check_scores(model, "base")
