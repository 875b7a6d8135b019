import numpy as np
import pandas as pd
import pytest

from humanpref.data import swap_pairs
from humanpref.text import overlap as similarity
from humanpref.text.overlap import (
    ANTISYMMETRIC,
    SYMMETRIC,
    Similarities,
    trigram_counts,
    word_counts,
)


@pytest.fixture(scope="module")
def fitted(pairs):
    return Similarities().fit(pairs)


def test_shapes_symmetry_and_range(fitted, pairs):
    x, z = fitted.columns(pairs)
    assert x.shape == (len(pairs), len(ANTISYMMETRIC))
    assert z.shape == (len(pairs), len(SYMMETRIC))
    swapped_x, swapped_z = fitted.columns(swap_pairs(pairs))
    np.testing.assert_array_equal(swapped_x, -x)
    np.testing.assert_array_equal(swapped_z, z)
    assert (np.abs(x).sum(axis=0) > 0).all()
    assert (z.std(axis=0) > 0).all()
    assert ((z >= 0) & (z <= 1 + 1e-12)).all()


def test_cosines_worked_by_hand():
    model = Similarities()
    model.word_idf_, model.character_idf_ = (
        np.ones(similarity.WORD_COLUMNS),
        np.ones(similarity.CHARACTER_COLUMNS),
    )
    rows = pd.DataFrame(
        {"prompt": [("one two",)], "response_a": [("two ONE",)], "response_b": [("two three",)]}
    )
    x, z = model.columns(rows)
    named = dict(zip((*ANTISYMMETRIC, *SYMMETRIC), np.hstack([x, z])[0], strict=True))
    assert named["word_cosine_to_prompt_difference"] == pytest.approx(1 - 1 / 2)
    assert named["word_cosine_to_prompt_mean"] == pytest.approx(3 / 4)
    assert named["word_cosine_of_answers"] == pytest.approx(1 / 2)
    # Of five trigrams each ("two", "wo ", "o o", …), "one two" and "two one" share "one" and "two".
    assert named["character_cosine_to_prompt_distance"] == pytest.approx(2 / 5 - 1 / np.sqrt(5 * 7))


def test_counts():
    assert word_counts(["a A b", ""]).sum(axis=1).tolist() == [[3], [0]]
    counts = trigram_counts(["abcabc", "ab", "", "\ud83d\U0010ffffx"])
    assert counts.sum(axis=1).tolist() == [[4], [0], [0], [1]]
    assert counts[0].max() == 2
    many = trigram_counts(["".join(map(chr, range(0x4E00, 0x6E00)))])
    assert many.nnz > 0.9 * 0x2000  # hashed evenly: consecutive letters do not collide


def test_frequent_terms_weigh_less_and_a_text_counts_once(pairs):
    rows = pd.DataFrame(
        {
            "prompt": [("the cat",)] * 3,
            "response_a": [("the dog",)] * 3,
            "response_b": [("the",)] * 3,
        }
    )
    idf = Similarities().fit(rows).word_idf_
    the, cat = (word_counts([word]).indices[0] for word in ("the", "cat"))
    assert (idf[the], idf[cat]) == (pytest.approx(1), pytest.approx(np.log(4 / 2) + 1))


def test_chunks_change_nothing(fitted, pairs, monkeypatch):
    x, z = fitted.columns(pairs)
    monkeypatch.setattr(similarity, "CHUNK", 7)
    for found, expected in zip(fitted.columns(pairs), (x, z), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(Similarities().fit(pairs).character_idf_, fitted.character_idf_)
