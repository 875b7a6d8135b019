import numpy as np
import pytest

from humanpref.data import read_pairs, swap_pairs
from humanpref.text.features import (
    PROMPT_FEATURES,
    RESPONSE_FEATURES,
    antisymmetric_names,
    prompt_features,
    response_features,
    structure,
    symmetric_names,
)


def test_shapes_names_and_symmetry(pairs):
    x, z = structure(pairs)
    assert x.shape == (len(pairs), len(antisymmetric_names()))
    assert z.shape == (len(pairs), len(symmetric_names()))
    swapped_x, swapped_z = structure(swap_pairs(pairs))
    np.testing.assert_array_equal(swapped_x, -x)
    np.testing.assert_allclose(swapped_z, z, atol=1e-12)
    assert np.abs(x).sum() > 0


def test_counts_worked_by_hand():
    response = ("# Title\n\n- one\n- **two**\n\nIs it? Yes! I am sorry.", "```\nx = 1\n```")
    counts = dict(zip(RESPONSE_FEATURES, response_features(("one thing?", "more"), response), strict=True))
    for name, number in {
        "log_characters": len("\n\n".join(response)),
        "log_sentences": 3,
        "log_paragraphs": 3,
        "log_list_items": 2,
        "log_headings": 1,
        "log_bold": 1,
        "log_code_blocks": 1,
        "log_table_rows": 0,
        "log_questions": 1,
        "log_exclamations": 1,
        "last_turn_log_words": 2,
    }.items():
        assert counts[name] == pytest.approx(np.log1p(number)), name
    assert counts["refusal"] == 1
    assert counts["empty"] == 0
    assert counts["turns_without_answer"] == 0
    assert counts["prompt_words_used"] == pytest.approx(1 / 3)  # "one" of one, thing, more
    asked = dict(zip(PROMPT_FEATURES, prompt_features(("one thing?", "more")), strict=True))
    assert asked["prompt_log_turns"] == pytest.approx(np.log(3))
    assert asked["prompt_questions"] == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    "response",
    [
        (),
        ("",),
        ("", ""),
        (" \n ",),
        ("你好",),
        ("🙂" * 20,),
        ("x" * 50_000,),
        ("```",),
        ("|" * 50_000,),
        ("\n" * 50_000,),
        ("." * 50_000 + "x",),
        ("\n " * 25_000,),
        (" " * 50_000 + "x",),
        ("**" * 25_000,),
    ],
)
def test_any_text_gives_finite_numbers(response):
    assert np.isfinite(response_features(("p", ""), response)).all()
    assert np.isfinite(prompt_features(response)).all()


def test_empty_answers_and_missing_turns():
    counts = dict(zip(RESPONSE_FEATURES, response_features(("p", "q", "r"), ("", " ")), strict=True))
    assert counts["empty"] == 1
    assert counts["turns_without_answer"] == 3


def test_identical_answers(write_csv):
    x, z = structure(read_pairs(write_csv([(["p"], ["same text"], ["same text"], 2), (["p"], ["same"], ["other"], 0)])))
    named = dict(zip(symmetric_names(), z.T, strict=True))
    assert named["identical"].tolist() == [1, 0]
    assert named["jaccard"].tolist() == [1, 0]
    assert (x[0] == 0).all()
