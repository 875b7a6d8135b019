"""Cosines and attention scores of a row: by hand, and their symmetry."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")

from humanpref.data import swap_pairs
from humanpref.models.pair_vectors import ANTISYMMETRIC_COSINES, SYMMETRIC_COSINES, pair_vectors
from humanpref.models.sentence import FrozenEncoder, Windows


class Given:
    """An encoder whose vectors are given, width 2; every text that is not known is a zero
    vector."""

    width = 2
    instructions = ("", "")

    def __init__(self, **vectors):
        self.known = {
            text: Windows(np.array(v, dtype=np.float32), np.array(t))
            for text, (v, t) in vectors.items()
        }

    def embed(self, passages, max_windows, batch_tokens, precision):
        none = Windows(np.zeros((1, 2), np.float32), np.ones(1))
        return {each: self.known.get(f"{each.instruction}{each.text}", none) for each in passages}


ENCODER = Given(
    ask=([[1, 0]], [5.0]),
    same=([[3, 0]], [5.0]),  # not of length 1: directions count
    apart=([[0, 1]], [5.0]),
    both=([[1, 0], [0, 1]], [30.0, 10.0]),
)


def compared(prompt, a, b):
    pairs = pd.DataFrame({"prompt": [prompt], "response_a": [a], "response_b": [b]})
    vectors = pair_vectors(pairs, ENCODER, 4, 100, "no")
    named = dict(zip(ANTISYMMETRIC_COSINES, vectors.antisymmetric[0], strict=True))
    return vectors, named | dict(zip(SYMMETRIC_COSINES, vectors.symmetric[0], strict=True))


def test_one_window_by_hand():
    vectors, found = compared(("ask",), ("same",), ("apart",))
    np.testing.assert_allclose(
        [vectors.prompt[0], vectors.a[0], vectors.b[0]], [[1, 0], [1, 0], [0, 1]], atol=1e-7
    )
    for name in ("prompt_cosine", "last_turn_cosine", "best_window_cosine", "attended_cosine"):
        assert found[f"{name}_difference"] == pytest.approx(1)
        assert found[f"{name}_distance"] == pytest.approx(1)
        assert found[f"{name}_mean"] == pytest.approx(0.5)
    assert found["answers_cosine"] == pytest.approx(0)
    assert found["attention_difference"] == pytest.approx(
        np.tanh(10)
    )  # (e^20 - e^0) / (e^20 + e^0)
    assert (found["coherence_mean"], found["coverage_difference"]) == pytest.approx((1, 0))


def test_several_windows_by_hand():
    vectors, found = compared(("ask",), ("both",), ("apart",))
    mean = np.array([0.75, 0.25])
    np.testing.assert_allclose(vectors.a[0], mean / np.linalg.norm(mean), atol=1e-7)
    assert found["prompt_cosine_difference"] == pytest.approx(0.75 / np.linalg.norm(mean))
    assert found["best_window_cosine_difference"] == pytest.approx(1)
    attention = 0.75 * np.exp(20) / (0.75 * np.exp(20) + 0.25)
    assert found["attended_cosine_difference"] == pytest.approx(attention, abs=1e-9)
    assert found["coherence_difference"] == pytest.approx(np.linalg.norm(mean) - 1)
    # A's second window is B, its first (three quarters of it) is not; all of B is in A.
    back = 0.25 * np.exp(20) / (0.25 * np.exp(20) + 0.75)
    assert found["coverage_difference"] == pytest.approx(0.25 - back, abs=1e-9)
    assert found["coverage_mean"] == pytest.approx((0.25 + back) / 2, abs=1e-9)


def test_the_last_turn_counts_by_itself():
    _, found = compared(("other", "ask"), ("same", "apart"), ("apart", "same"))
    assert found["last_turn_cosine_difference"] == pytest.approx(-1)
    assert (
        found["prompt_cosine_difference"] == 0
    )  # of whole conversations, which this encoder does not know
    _, found = compared(("other", "ask"), ("same", "same"), ("same",))
    assert found["last_turn_cosine_difference"] == pytest.approx(
        1
    )  # B left the last turn without an answer


def test_every_feature_keeps_its_symmetry(pairs, sentence_encoder):
    encoder = FrozenEncoder(str(sentence_encoder))
    few = pairs[:40].reset_index(drop=True)
    made, swapped = (pair_vectors(rows, encoder, 3, 1_000, "no") for rows in (few, swap_pairs(few)))
    assert made.antisymmetric.shape == (40, len(ANTISYMMETRIC_COSINES))
    assert made.symmetric.shape == (40, len(SYMMETRIC_COSINES))
    for j, name in enumerate(ANTISYMMETRIC_COSINES):
        np.testing.assert_allclose(
            swapped.antisymmetric[:, j], -made.antisymmetric[:, j], atol=1e-12, err_msg=name
        )
        assert np.abs(made.antisymmetric[:, j]).max() > 1e-3, name
    for j, name in enumerate(SYMMETRIC_COSINES):
        np.testing.assert_allclose(
            swapped.symmetric[:, j], made.symmetric[:, j], atol=1e-12, err_msg=name
        )
        assert made.symmetric[:, j].std() > 1e-3, name
    np.testing.assert_array_equal(swapped.a, made.b)


def test_nothing_to_compare():
    vectors, _ = compared((), (), ("",))
    assert np.isfinite(vectors.antisymmetric).all()
    assert not vectors.antisymmetric.any()
    assert not vectors.symmetric.any()
