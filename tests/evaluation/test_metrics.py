import math

import numpy as np
import pytest

from humanpref.evaluation.metrics import (
    accuracy,
    bootstrap_interval,
    brier,
    confusion,
    decided,
    mean_and_interval,
    per_class,
    summarise,
)


def test_accuracy_worked_by_hand():
    labels = np.array([[1, 0, 0], [0, 0, 1]])
    assert accuracy(labels, np.array([[0.5, 0.25, 0.25], [1, 0, 0]])) == 0.5


def test_the_interval_of_independent_rows_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(1.0, 0.3, size=2_000)
    low, high = bootstrap_interval(values, np.arange(2_000))
    half = 1.96 * values.std() / math.sqrt(2_000)
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.2 * half
    )
    assert (low, high) == bootstrap_interval(values, np.arange(2_000))


def test_rows_of_one_prompt_count_as_one():
    values = np.repeat(np.random.default_rng(2).normal(size=100), 10)
    low, high = bootstrap_interval(values, np.repeat(np.arange(100), 10))
    independent_low, independent_high = bootstrap_interval(values, np.arange(1_000))
    assert (high - low) / (independent_high - independent_low) == pytest.approx(
        math.sqrt(10), rel=0.2
    )


def test_the_interval_covers():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.exponential(size=150), np.arange(150), draws=300)
        hits += low <= 1.0 <= high
    assert 85 <= hits <= 99


def test_the_choice_between_a_and_b_by_hand():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0.5, 0.5, 0]])
    told = np.array([[0.6, 0.2, 0.2], [0.2, 0.2, 0.6], [0.1, 0.3, 0.6], [0, 0, 1], [0, 0, 1]])
    # p is 0.75 for A, 0.5 for B, 0.25 for A.
    made = decided(labels, told)
    assert made["decided_rows"] == 3
    assert made["decided_accuracy"] == pytest.approx(1 / 3)
    assert made["decided_auc"] == 0.5
    assert made["decided_brier"] == pytest.approx((0.0625 + 0.25 + 0.5625) / 3)
    assert decided(labels[:1], told[:1])["decided_auc"] is None
    assert [*decided(labels[3:], told[3:]).values()] == [0, None, None, None]


def test_summary():
    labels, prior = np.eye(3)[[0, 0, 1, 2]], np.array([0.5, 0.25, 0.25])
    metrics = summarise(labels, labels * 0.7 + 0.1, prior, np.array(list("abcd")))
    assert metrics["rows"] == 4
    assert metrics["accuracy"] == 1
    assert metrics["log_loss"] == pytest.approx(-math.log(0.8))
    assert metrics["prior_log_loss"] == pytest.approx(1.5 * math.log(2))
    difference = -math.log(0.8) - 1.5 * math.log(2)
    assert metrics["against_prior"] == pytest.approx(difference)
    # A prompt gains ln 1.6 or ln 3.2, so that resampled means lie between these.
    assert -math.log(3.2) <= metrics["against_prior_low"] < difference
    assert difference < metrics["against_prior_high"] <= -math.log(1.6) + 1e-9


def test_one_prompt_has_no_interval(caplog):
    labels, prior = np.eye(3)[[0, 1]], np.full(3, 1 / 3)
    summarise(labels, labels * 0.7 + 0.1, prior, np.array(["a", "b"]))
    assert not caplog.text
    summarise(labels, labels * 0.7 + 0.1, prior, np.array(["a", "a"]))
    assert "only one prompt (2 rows): the interval has zero width" in caplog.text


def test_a_mean_with_its_interval():
    values, groups = np.arange(6.0), np.array(list("aabbcd"))
    low, high = bootstrap_interval(values, groups)
    assert mean_and_interval("loss", values, groups) == {
        "loss": 2.5,
        "loss_low": low,
        "loss_high": high,
    }
    few = mean_and_interval("loss", values, groups, draws=3)
    assert (
        (few["loss_low"], few["loss_high"]) == bootstrap_interval(values, groups, 3) != (low, high)
    )


def test_classes_worked_by_hand():
    labels = np.eye(3)[[0, 0, 1, 1]]
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]])
    assert confusion(labels, probabilities).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert brier(labels[:1], probabilities[:1]) == pytest.approx(0.04 + 0.01 + 0.01)
    a, b, tie = per_class(labels, probabilities)
    assert a == {
        "label": "A",
        "rows": 2,
        "precision": 0.5,
        "recall": 0.5,
        "log_loss": pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2),
        "predicted": pytest.approx(0.4),
    }
    assert (b["label"], b["rows"], b["predicted"]) == ("B", 2, 0.5)
    assert (tie["rows"], tie["precision"], tie["recall"], tie["log_loss"]) == (0, None, None, None)
