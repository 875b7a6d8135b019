"""The true probabilities, and the lowest log loss that they leave."""

import numpy as np
import pandas as pd
import pytest

from humanpref.arena.latents import draw_answers, draw_conversations, draw_models
from humanpref.arena.truth import bayes_log_loss, true_probabilities
from humanpref.schema import ID, LABEL_COLUMNS, SWAPPED_CLASSES

ROWS = 500
NONE = np.zeros(ROWS, dtype=bool)


@pytest.fixture(scope="module")
def drawn():
    """The kinds of 500 prompts, and the two answers to each."""
    rng = np.random.default_rng(5)
    conversations = draw_conversations(ROWS, rng)
    a, b = (draw_answers(conversations, side, rng) for side in draw_models(ROWS, rng).T)
    return conversations["kind"], a, b


def answer(**changes):
    """One answer of 90 plain words, but for the changes."""
    columns = ["precise", "vague", "misspelled", "on_topic", "off_topic", "verdict", "silence"]
    return pd.DataFrame([dict.fromkeys(columns, 0) | {"words": 90} | changes])


def odds(a, b, kind="advice", identical=False):
    """log P(A) / P(B) and log P(tie) / sqrt(P(A) P(B)): the margin and the tie score."""
    (log_a, log_b, log_tie), *_ = np.log(true_probabilities(a, b, [kind], np.array([identical])))
    return log_a - log_b, log_tie - (log_a + log_b) / 2


def test_true_probabilities_are_probabilities(drawn):
    kind, a, b = drawn
    truth = true_probabilities(a, b, kind, NONE)
    assert (truth > 0).all()
    np.testing.assert_allclose(truth.sum(axis=1), 1, atol=1e-12)


def test_swapping_the_answers_swaps_the_probabilities(drawn):
    kind, a, b = drawn
    truth = true_probabilities(a, b, kind, NONE)
    mirrored = true_probabilities(b, a, kind, NONE)
    np.testing.assert_array_equal(mirrored, truth[:, SWAPPED_CLASSES])
    assert np.abs(mirrored - truth).max() > 0.3  # the answers do matter
    same = true_probabilities(a, a, kind, np.arange(ROWS) < 5)
    np.testing.assert_array_equal(same[:, 0], same[:, 1])


@pytest.mark.parametrize(
    ("better", "worse", "margin"),
    [
        ({"words": 990}, {}, 0.9 * np.tanh(np.log(10))),
        ({"precise": 6}, {"vague": 4, "misspelled": 2}, 1.6 * 1.2),
        ({"on_topic": 6, "off_topic": 2}, {"off_topic": 8}, 0.8 * 0.6),
        ({"verdict": 1}, {"verdict": -1}, 0.7),
        ({}, {"silence": 1}, 3.0),
        ({"silence": 1}, {"silence": 2}, 0.0),
    ],
)
def test_margin_by_hand(better, worse, margin):
    assert odds(answer(**better), answer(**worse)) == pytest.approx((margin, 0.0), abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "identical", "nu"),
    [("factual", False, -0.45), ("chat", False, 0.8), ("factual", True, 2.7), ("chat", True, 2.7)],
)
def test_the_kind_and_identical_answers_set_the_tie_score(kind, identical, nu):
    assert odds(answer(), answer(), kind, identical) == pytest.approx((0.0, nu), abs=1e-9)


def test_bayes_log_loss_by_hand():
    rows = [["x", 0.5, 0.25, 0.25], ["y", 1 / 3, 1 / 3, 1 / 3]]
    truth = pd.DataFrame(rows, columns=[ID, *LABEL_COLUMNS])
    assert bayes_log_loss(truth) == pytest.approx((1.5 * np.log(2) + np.log(3)) / 2)
