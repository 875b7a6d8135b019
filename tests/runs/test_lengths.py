"""The lengths of rows in tokens."""

import numpy as np
import pandas as pd

from humanpref.config import load_config
from humanpref.runs.lengths import approximate_tokens, sequence_lengths, text_lengths

PAIRS = pd.DataFrame(
    {
        "prompt": [("a b", "c"), ("d",)],
        "response_a": [("e f g", "h i"), ()],
        "response_b": [("j", "k l m n"), ("o p",)],
    }
)


def words(texts):
    return [len(text.split()) for text in texts]


def test_the_turns_of_a_text_are_added():
    assert text_lengths(PAIRS, words).tolist() == [[3, 5, 5], [1, 0, 2]]
    assert approximate_tokens(["", "x" * 100]) == [0, 23]


def test_assumed_rows_are_as_long_as_public_ones():
    texts = text_lengths(None)
    assert texts.shape == (10, 3)
    assert np.array_equal(texts[:, 1], texts[:, 2])
    assert 550 < texts.sum(axis=1).mean() < 750


def test_sequences_are_cut_at_the_longest():
    texts = np.array([[10, 20, 30], [100, 500, 40]])
    dual = load_config("deberta-v3-base")
    assert sequence_lengths(dual, texts).tolist() == [[34, 44], [512, 144]]
    joint = load_config("deberta-best")
    assert sequence_lengths(joint, texts).tolist() == [[64], [256]]
    dpo = load_config("llama-3.2-1b-dpo")
    assert sequence_lengths(dpo, texts).tolist() == [[42, 52], [512, 152]]
    spoken = load_config("llama-3.2-1b-lora", None, ["model.system_prompt=" + "x" * 1_000])
    silent = load_config("llama-3.2-1b-lora", None, ["model.system_prompt="])
    longer = sequence_lengths(spoken, texts) - sequence_lengths(silent, texts)
    assert longer.tolist() == [[230], [0]]
