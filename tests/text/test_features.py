from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from humanpref.data import read_pairs, swap_pairs
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC, formatting_marks, structural_features

ODD = [
    (),
    ("",),
    ("", ""),
    (" \n ",),
    ("你好，世界。",),
    ("Привет, как дела? Это не то.",),
    ("مرحبا بالعالم",),
    ("🙂" * 20,),
    ("\ud83d", "\U0010ffff\x00"),
    ("x" * 50_000,),
    ("```",),
    ("|" * 50_000,),
    ("\n" * 50_000,),
    ("." * 50_000 + "x",),
    ("\n " * 25_000,),
    (" " * 50_000 + "x",),
    ("**" * 25_000,),
    ("`" * 50_000,),
    ("\\" * 50_000,),
    ("]" * 50_000,),
    ("a " * 25_000,),
    ("Certainly! I'm sorry, `x`: $$y$$ at https://a.b\n- def f(x)\n- 2",),
    ("plain",),
]


@pytest.fixture(scope="module")
def rows(pairs):
    """The synthetic rows, and every two texts next to each other in `ODD`, after others of them as
    prompts."""
    odd = [
        ("odd", prompt, a, b) for prompt, (a, b) in zip(reversed(ODD), pairwise(ODD), strict=False)
    ]
    odd.append(
        (
            "odd",
            ("Wie ist das Wetter?",),
            ("Das ist gut und nicht kalt.",),
            ("It is fine and that is all.",),
        )
    )
    odd.append(("odd", ("Say hello.",), ("Привет.",), ("Hello.",)))
    return pd.concat(
        [pairs, pd.DataFrame(odd, columns=["id", "prompt", "response_a", "response_b"])],
        ignore_index=True,
    )


@pytest.fixture(scope="module")
def both_orders(rows):
    return structural_features(rows), structural_features(swap_pairs(rows))


def test_exchanging_a_and_b_negates_one_matrix_and_keeps_the_other(both_orders):
    (x, z), (swapped_x, swapped_z) = both_orders
    np.testing.assert_array_equal(swapped_x, -x)
    np.testing.assert_array_equal(swapped_z, z)


def test_shapes_names_and_variation(rows, both_orders):
    (x, z), _ = both_orders
    assert x.shape == (len(rows), len(ANTISYMMETRIC)) == (len(rows), 22)
    assert z.shape == (len(rows), len(SYMMETRIC)) == (len(rows), 52)
    assert len({*ANTISYMMETRIC, *SYMMETRIC}) == 74
    assert np.isfinite(x).all()
    assert np.isfinite(z).all()
    for columns, names in ((x, ANTISYMMETRIC), (z, SYMMETRIC)):
        assert [
            name for name, column in zip(names, columns.T, strict=True) if not column.std()
        ] == []


def named(prompt, response):
    """The features of one response and its prompt: the means of two equal responses."""
    frame = pd.DataFrame({"prompt": [prompt], "response_a": [response], "response_b": [response]})
    x, z = structural_features(frame)
    assert not x.any()
    names = [name.removesuffix("_mean") for name in SYMMETRIC]
    return dict(zip(names, z[0].tolist(), strict=True))


def test_counts_worked_by_hand():
    response = ("# Title\n\n- one\n- **two**\n\nIs it? Yes! I am sorry.", "```\nx = 1\n```")
    counts = named(("one thing?", "more"), response)
    for name, number in {
        "log_characters": len("\n\n".join(response)),
        "log_words": 11,
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
        "prompt_log_characters": len("one thing?\n\nmore"),
        "prompt_log_words": 3,
        "prompt_log_turns": 2,
        "prompt_questions": 1,
    }.items():
        assert counts[name] == pytest.approx(np.log1p(number)), name
    assert counts["refusal"] == 1
    assert counts["empty"] == 0
    assert counts["turns_without_answer"] == 0
    assert counts["prompt_code"] == 0
    assert counts["prompt_words_used"] == pytest.approx(1 / 3)  # "one" of one, thing, more
    assert counts["words_from_prompt"] == pytest.approx(1 / 11)


def test_words_and_characters():
    counts = named(("p `def f(x)`",), ("It may be 12 AÉ. It may be",))
    assert counts["distinct_word_share"] == pytest.approx(5 / 8)  # it, may, be, 12, aé
    assert counts["mean_word_length"] == pytest.approx(18 / 8)
    assert counts["digit_share"] == pytest.approx(2 / 26)
    assert counts["upper_share"] == pytest.approx(4 / 26)
    assert counts["non_ascii_share"] == pytest.approx(1 / 26)
    assert counts["prompt_code"] == 1
    assert named(("p",), ("I’m sorry, but as an AI language model …",))["refusal"] == 1
    unspaced = named(("天気は?",), ("天気: ok да",))
    assert unspaced["log_words"] == pytest.approx(np.log1p(4))
    assert unspaced["prompt_non_ascii"] == pytest.approx(3 / 4)


def test_formatting_marks():
    response = (
        "# Title\nUse `x` and $$y$$, \\frac{1}{2}: **b**.\n| a | b |\n1. one\n- two",
        "```\nx\n```",
    )
    # A heading, inline code, three formulas, bold, a table row, two list items, a code block.
    assert formatting_marks(response) == 10
    assert formatting_marks(()) == formatting_marks(("plain",)) == 0


def test_empty_answers_and_missing_turns():
    counts = named(("p", "q", "r"), ("", " "))
    assert counts["empty"] == 1
    assert counts["turns_without_answer"] == 3


def test_identical_answers(write_csv):
    x, z = structural_features(
        read_pairs(
            write_csv([(["p"], ["same text"], ["same text"], 2), (["p"], ["same"], ["other"], 0)])
        )
    )
    columns = dict(zip(SYMMETRIC, z.T, strict=True))
    assert columns["identical"].tolist() == [1, 0]
    assert columns["jaccard"].tolist() == [1, 0]
    assert (x[0] == 0).all()
