"""Axes besides preference: values worked by hand, who follows what, exchanged answers, odd
texts."""

import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from humanpref.data import labels_of, prompt_keys, read_pairs, swap_pairs
from humanpref.evaluation.axes import Axis, axes_of, follow
from humanpref.schema import SWAPPED_CLASSES, InputError

A, B, TIE = 0, 1, 2
STATISTICS = ["people", "model", "excess", "margin"]


def axis_of(a, b=None):
    values = [a, np.zeros(len(a)) if b is None else b]
    return Axis("axis", "measure", "unit", np.array(values, dtype=np.float64), float)


def probabilities_of(margin, tie=0.25):
    a = 1 / (1 + np.exp(-np.asarray(margin, dtype=np.float64)))
    return np.column_stack([(1 - tie) * a, (1 - tie) * (1 - a), np.full(len(a), tie)])


def test_by_hand():
    labels = np.eye(3)[[A, TIE, A, B, B]]
    probabilities = np.array(
        [[0.6, 0.2, 0.2], [0, 0, 1], [0.3, 0.5, 0.2], [0.4, 0.4, 0.2], [0.5, 0.1, 0.4]]
    )
    axis = axis_of([3, 9, 5, 2, np.nan], [0, 0, 4, 4, 1])
    (found,) = follow([axis], labels, probabilities, np.arange(5), draws=20).to_dict("records")
    # Three decided rows have both values: differences 3, 1, -2 and so ranks 1, 0, -1 about their
    # mean; people 1, 1, -1.
    assert found["rows"] == 3
    assert found["people"] == pytest.approx((2 / 3) / np.sqrt(2 / 3 * (1 - 1 / 9)))
    # The model expects 1/2, -1/4, 0 of them, its margin ranks them 1, -1, 0, and it has no choice
    # in the last.
    assert found["model"] == pytest.approx((0.5 / 3) / np.sqrt(2 / 3 * (1 - (0.25 / 3) ** 2)))
    assert found["excess"] == pytest.approx(found["model"] - found["people"])
    assert found["margin"] == pytest.approx(0.5)
    assert [found["preferred"], found["rejected"]] == pytest.approx(
        [(3 + 5 + 4) / 3, (0 + 4 + 2) / 3]
    )
    assert [found["chosen"], found["passed_over"]] == pytest.approx(
        [(3 + 4 + 3) / 3, (0 + 5 + 3) / 3]
    )


def test_agrees_with_scipy():
    rng = np.random.default_rng(0)
    difference, margin = rng.integers(-4, 5, 300), rng.normal(size=300).round(1)
    classes = rng.integers(3, size=300)
    labels, decided = np.eye(3)[classes], classes != TIE
    found = follow(
        [axis_of(difference)], labels, probabilities_of(margin), np.arange(300), draws=50
    ).iloc[0]
    people = np.where(classes == A, 1, -1)
    assert found["people"] == pytest.approx(
        spearmanr(difference[decided], people[decided]).statistic
    )
    assert found["margin"] == pytest.approx(
        spearmanr(difference[decided], margin[decided]).statistic
    )
    for name in STATISTICS:
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    # Whole prompts are drawn: with one prompt every draw is all rows.
    alone = follow(
        [axis_of(difference)], labels, probabilities_of(margin), np.zeros(300), draws=5
    ).iloc[0]
    assert (
        alone["people_low"] == pytest.approx(alone["people_high"]) == pytest.approx(found["people"])
    )


def test_who_loves_length_is_shown():
    rng = np.random.default_rng(0)
    length, relevance = rng.normal(size=(2, 1_500))
    truth = probabilities_of(0.4 * length + 0.8 * relevance)
    classes = (rng.random((1_500, 1)) > truth.cumsum(axis=1)[:, :2]).sum(axis=1)
    axes = [axis_of(length), axis_of(relevance)]

    def of(margin):
        return follow(
            axes, np.eye(3)[classes], probabilities_of(margin), np.arange(1_500), draws=200
        )

    fair = of(0.4 * length + 0.8 * relevance)
    assert (fair["excess_low"] < 0).all()
    assert (fair["excess_high"] > 0).all()
    lover = of(3 * length)
    assert lover["margin"].tolist() == pytest.approx([1, 0], abs=0.1)
    assert lover["excess_low"][0] > 0.3
    assert lover["excess_high"][1] < 0
    hater = of(-3 * length)
    assert hater["margin"][0] == pytest.approx(-1)
    assert hater["excess_high"][0] < -0.3
    # Nothing but length, but no more of it than it deserves: its order is all length, its
    # probabilities are not to blame.
    timid = of(0.4 * length)
    assert timid["margin"][0] == pytest.approx(1)
    assert timid["excess_low"][0] < 0 < timid["excess_high"][0]
    indifferent = of(np.full(1_500, 0.3))
    assert (indifferent[["model", "margin"]] == 0).all(axis=None)


def test_what_the_axes_measure(write_csv):
    rows = [
        (["Where is Rome?"], ["Rome is in Italy."], ["Bananas grow."], A),
        (
            ["Count", "on"],
            ["# One\n- two\n- three\n1. four", "**five**"],
            ["one", "```\ntwo\n```\n`three`"],
            B,
        ),
        (["Say nothing."], ["wqzx vvkj qqzp"], [""], TIE),
    ]
    fluency, relevance, formatting, length = axes_of(read_pairs(write_csv(rows)))
    assert [axis.name for axis in (fluency, relevance)] == ["fluency (proxy)", "relevance (proxy)"]
    assert relevance.values[0, 0] > 0.3
    assert relevance.values[1, 0] == 0
    assert formatting.values[0].tolist() == pytest.approx(np.log([1, 6, 1]))
    assert formatting.values[1].tolist() == pytest.approx(np.log([1, 3, 1]))
    assert formatting.level(np.log(6)) == pytest.approx(5)
    assert length.values[0, 0] == pytest.approx(np.log(18))
    assert length.level(np.log(18)) == pytest.approx(17)
    assert np.isnan(fluency.values[1, 2])
    assert fluency.level(np.log(1 / 8)) == pytest.approx(8)


def check_axes(pairs, **models):
    """Exchanging the answers exchanges their values, and changes no association; nothing but NaN is
    left without a number."""
    axes, swapped = axes_of(pairs, **models), axes_of(swap_pairs(pairs), **models)
    for axis, other in zip(axes, swapped, strict=True):
        np.testing.assert_allclose(axis.values, other.values[::-1], atol=1e-5)
        assert not np.isinf(axis.values).any()
    labels = labels_of(pairs)
    probabilities = np.random.default_rng(1).dirichlet([2, 2, 2], size=len(pairs))
    table = follow(axes, labels, probabilities, prompt_keys(pairs), draws=50)
    mirrored = follow(
        swapped,
        labels[:, SWAPPED_CLASSES],
        probabilities[:, SWAPPED_CLASSES],
        prompt_keys(pairs),
        draws=50,
    )
    assert len(table) == 4
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)
    pd.testing.assert_frame_equal(table, mirrored, atol=1e-5)
    return axes


ODD_ROWS = [
    (["What?"], ["This."], ["That."], A),
    ([None], [None], [None], B),
    ([], [], [], A),
    ([""], [""], ["Something."], B),
    (["\ud83d"], ["\udc00"], ["fine"], A),
    (["p" * 50_000], ["a " * 25_000], ["b"], B),
    (["请问今天天气怎么样？"], ["晴天。"], ["下雨。"], A),
    (["q"] * 36, ["a"] * 36, ["b"] * 35, TIE),
    (["q"], ["same"], ["same"], A),
]


def test_odd_texts(write_csv):
    check_axes(read_pairs(write_csv(ODD_ROWS)))
    # Surrogates that were not read from a file.
    raw = pd.DataFrame(
        {"prompt": [("\ud83d",)], "response_a": [("\udc00ab",)], "response_b": [("x" * 9,)]}
    )
    for axis in axes_of(raw):
        assert np.isfinite(axis.values).all()


def test_nothing_decided():
    labels = np.eye(3)[[TIE, TIE]]
    assert follow([axis_of([1, 2])], labels, probabilities_of([0, 1]), np.arange(2)).empty
    # One decided row: nothing varies.
    one = follow(
        [axis_of([1, 2])], np.eye(3)[[A, TIE]], probabilities_of([0, 1]), np.arange(2), draws=5
    ).iloc[0]
    assert (one[STATISTICS] == 0).all()
    assert one["preferred"] == 1


def test_with_models(write_csv, decoder_folder, sentence_encoder):
    pytest.importorskip("torch")
    pairs = read_pairs(write_csv(ODD_ROWS))
    axes = check_axes(pairs, language_model=decoder_folder(), sentence_encoder=sentence_encoder)
    assert [axis.name for axis in axes] == ["fluency", "relevance", "formatting", "length"]
    assert axes[0].measure.endswith("under tiny-llama, without the prompt")
    assert np.isfinite(axes[0].values[0]).tolist() == [
        True,
        False,
        False,
        False,
        True,
        True,
        True,
        True,
        True,
    ]
    assert (np.abs(axes[1].values) <= 1 + 1e-6).all()


def test_without_torch(write_csv, tmp_path, monkeypatch):
    pairs = read_pairs(write_csv(ODD_ROWS[:2]))
    for module in ("evaluation.perplexity", "models.sentence"):
        monkeypatch.delitem(sys.modules, f"humanpref.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"--language-model needs torch: pip install .*\[torch\]"):
        axes_of(pairs, language_model=tmp_path)
    with pytest.raises(InputError, match="--sentence-encoder needs torch"):
        axes_of(pairs, sentence_encoder=tmp_path)


def test_what_is_no_such_model(write_csv, sentence_encoder, tmp_path):
    pytest.importorskip("torch")
    pairs = read_pairs(write_csv(ODD_ROWS[:2]))
    with pytest.raises(InputError, match=r"--language-model .*nowhere: expected a folder"):
        axes_of(pairs, language_model=tmp_path / "nowhere")
    with pytest.raises(InputError, match="no weights, expected one of"):
        axes_of(pairs, language_model=tmp_path)
    with pytest.raises(InputError, match=r"not a decoder|lacks"):
        axes_of(pairs, language_model=sentence_encoder)
    with pytest.raises(InputError, match=r"--sentence-encoder .*nowhere: expected a folder"):
        axes_of(pairs, sentence_encoder=tmp_path / "nowhere")
