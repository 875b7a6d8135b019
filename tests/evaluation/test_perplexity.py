import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from humanpref.evaluation.perplexity import LONGEST, LanguageModel, TokenLogProbabilities


def test_perplexity_by_hand(decoder_folder):
    folder = decoder_folder()
    texts = [
        "The house of the king.",
        "What?",
        "",
        "The house of the king.",
        "word " * 400,
        "[SEP]",
    ]
    model = LanguageModel(str(folder))
    assert model.longest == LONGEST
    means = model.log_probabilities(texts)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, mean in zip(texts, means, strict=True):
        plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        ids = [tokenizer.bos_token_id, *plain][:LONGEST]
        by_token = []
        for end in range(1, len(ids)):
            with torch.inference_mode():
                scores = reference(torch.tensor([ids[:end]])).logits[0, -1]
            by_token.append(float(torch.log_softmax(scores, dim=0)[ids[end]]))
        assert mean == pytest.approx(
            np.mean(by_token) if by_token else np.nan, abs=1e-4, nan_ok=True
        )
    assert len(ids) > 2  # "[SEP]" is text, not one token
    assert len(model.log_probabilities([])) == 0


def test_a_model_reads_no_more_than_its_positions(decoder_folder):
    model = LanguageModel(str(decoder_folder(max_position_embeddings=32)))
    assert model.longest == 32
    long, cut = model.log_probabilities(["word " * 100, "word " * 200])
    assert long == pytest.approx(cut)


def test_padding_is_not_scored():
    """A model that gives every next token a quarter, whatever came before."""

    class Uniform(torch.nn.Module):
        def forward(self, input_ids, **_):
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 4)})

    module = TokenLogProbabilities(Uniform())
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    sums = module(torch.tensor([[0, 1, 2], [3, 1, 0]]), mask)
    assert sums.tolist() == [[pytest.approx(2 * np.log(1 / 4))], [pytest.approx(np.log(1 / 4))]]
