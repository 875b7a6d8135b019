from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from humanpref.data import read_pairs, swap_pairs
from humanpref.text.features import (
    PAIR_FEATURES,
    PLAIN,
    PROMPT_FEATURES,
    RESPONSE_FEATURES,
    antisymmetric_names,
    prompt_features,
    response_features,
    structure,
    symmetric_names,
)

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
    return structure(rows), structure(swap_pairs(rows))


def constant(columns, names):
    """The names of the columns that have one value in every row."""
    return [name for name, values in zip(names, columns.T, strict=True) if np.ptp(values) == 0]


def test_antisymmetric(both_orders):
    (x, _), (swapped, _) = both_orders
    np.testing.assert_array_equal(swapped, -x)
    assert constant(x, antisymmetric_names()) == []


def test_symmetric(both_orders):
    (_, z), (_, swapped) = both_orders
    np.testing.assert_array_equal(swapped, z)
    assert constant(z, symmetric_names()) == []


def test_shapes_names_and_parts(pairs, both_orders):
    (x, z), _ = both_orders
    assert x.shape[1] == len(antisymmetric_names()) == len(RESPONSE_FEATURES)
    assert (
        z.shape[1]
        == len(symmetric_names())
        == 2 * len(RESPONSE_FEATURES) + len(PROMPT_FEATURES) + len(PAIR_FEATURES)
    )
    assert np.isfinite(x).all()
    assert np.isfinite(z).all()
    assert set(RESPONSE_FEATURES) | set(PROMPT_FEATURES) | set(PAIR_FEATURES) > PLAIN
    plain_x, plain_z = structure(pairs, PLAIN)
    for plain, names, all_columns, all_names in (
        (plain_x, antisymmetric_names(PLAIN), x, antisymmetric_names()),
        (plain_z, symmetric_names(PLAIN), z, symmetric_names()),
    ):
        np.testing.assert_array_equal(
            plain, all_columns[: len(pairs), [all_names.index(name) for name in names]]
        )


def test_counts_worked_by_hand():
    response = ("# Title\n\n- one\n- **two**\n\nIs it? Yes! I am sorry.", "```\nx = 1\n```")
    counts = dict(
        zip(RESPONSE_FEATURES, response_features(("one thing?", "more"), response), strict=True)
    )
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


def named(prompt, response):
    return dict(zip(RESPONSE_FEATURES, response_features(prompt, response), strict=True))


def test_layout_vocabulary_and_repetition():
    counts = named(
        ("p",), ("Use `x` and $$y$$, \\frac{1}{2}: [here](https://a.b).\n| a | b |\n1. one 🙂",)
    )
    for name, number in {
        "log_inline_code": 1,
        "log_latex": 3,
        "log_links": 2,
        "log_table_rows": 1,
        "log_numbered_items": 1,
        "log_emoji": 1,
        "log_lines": 2,
    }.items():
        assert counts[name] == pytest.approx(np.log1p(number)), name
    counts = named(("p",), ("It may be the one. It may be the one.",))
    assert counts["hedge_share"] == pytest.approx(1 / 5)
    assert counts["stopword_share"] == pytest.approx(3 / 5)  # it, be, the
    assert counts["distinct_word_pair_share"] == pytest.approx(
        5 / 9
    )  # the five, "one it" among them, and no more
    # 26 letters in 10 words and 2 sentences: 4.71 * 2.6 + 0.5 * 5 - 21.43 is below 0.
    assert counts["readability"] == 0
    hard = named(("p",), ("Internationalisation necessitates institutionalised considerations.",))
    assert hard["readability"] == 30
    assert named(("p",), ("I’m sorry, but as an AI language model …",))["refusal"] == 1
    assert named(("p",), ("Of course! Let me know.",))["log_pleasantries"] == pytest.approx(
        np.log(3)
    )


def test_scripts_and_languages():
    asked = ("Wie ist das Wetter und der Wind?",)
    assert named(asked, ("Das ist nicht schlecht und der Wind ist mild.",))["other_language"] == 0
    assert named(asked, ("The weather is fine and that is all.",))["other_language"] == 1
    assert named(asked, ("Погода",))["script_agreement"] == 0
    assert named(asked, ("42!",))["script_agreement"] == 1
    mixed = named(("天気は?",), ("天気: ok да",))
    assert (mixed["cjk_share"], mixed["latin_share"], mixed["cyrillic_share"]) == (
        1 / 3,
        1 / 3,
        1 / 3,
    )
    assert mixed["log_words"] == pytest.approx(np.log1p(4))
    assert named(("天気",), ("\U0010ffff ok",))["cjk_share"] == 0
    assert named(("ok",), ("ok", "Ok ok"))["last_turn_agreement"] == 1


def test_empty_answers_and_missing_turns():
    counts = named(("p", "q", "r"), ("", " "))
    assert counts["empty"] == 1
    assert counts["turns_without_answer"] == 3


def test_identical_answers(write_csv):
    x, z = structure(
        read_pairs(
            write_csv([(["p"], ["same text"], ["same text"], 2), (["p"], ["same"], ["other"], 0)])
        )
    )
    named = dict(zip(symmetric_names(), z.T, strict=True))
    assert named["identical"].tolist() == [1, 0]
    assert named["jaccard"].tolist() == [1, 0]
    assert (x[0] == 0).all()
