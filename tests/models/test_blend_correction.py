"""The temperature and the special cases: by hand, and used only where they pay."""

import numpy as np
import pandas as pd
import pytest

from humanpref.models.blend_correction import (
    CASE_ROWS,
    Correction,
    describe_correction,
    fit_correction,
    fit_offsets,
)
from humanpref.text.cases import CASES, answer_cases

SWAPPED = [1, 0, 2]
MIRROR = {
    "": "",
    "identical": "identical",
    "both empty": "both empty",
    "A empty": "B empty",
    "B empty": "A empty",
}


def arena(rows, seed=0):
    """Log probabilities, the true probabilities that they are, labels drawn from them, and what
    draws."""
    rng = np.random.default_rng(seed)
    logs = np.log(rng.dirichlet([3, 3, 3], rows))
    truth = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    drawn = (rng.random((rows, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    return logs, truth, np.eye(3)[np.minimum(drawn, 2)], rng


def fitted(logs, labels, cases):
    return fit_correction(
        logs, labels, np.ones(len(logs)), 10.0, 1.0, np.arange(len(logs)) % 5, cases
    )


def test_the_correction_by_hand():
    logs = np.log([[0.2, 0.2, 0.6], [0.1, 0.4, 0.5]])
    # T = 1/2 squares.
    np.testing.assert_allclose(
        np.exp(Correction(0.5)(logs)),
        [[0.04 / 0.44, 0.04 / 0.44, 0.36 / 0.44], [0.01 / 0.42, 0.16 / 0.42, 0.25 / 0.42]],
    )
    offsets = np.zeros((4, 3))
    offsets[CASES.index("A empty")] = np.log([0.5, 2, 1])
    cases = np.array(["A empty", "identical"], dtype=object)
    told = np.exp(Correction(1.0, offsets=offsets)(logs, cases))
    np.testing.assert_allclose(told, [[0.1 / 1.1, 0.4 / 1.1, 0.6 / 1.1], [0.1, 0.4, 0.5]])
    np.testing.assert_allclose(np.exp(Correction(1.0, offsets=offsets)(logs)), np.exp(logs))


def test_the_shrunk_rates_by_hand():
    told = np.log(np.tile([0.3, 0.3, 0.4], (10, 1)))
    ties, cases = np.tile([0.0, 0.0, 1.0], (10, 1)), np.full(10, "identical", dtype=object)
    found, facts = fit_offsets(Correction(), told, ties, np.ones(10), cases, 10.0)
    assert facts["identical answers"]["predicted"] == pytest.approx([0.3, 0.3, 0.4])
    assert facts["identical answers"]["rates"] == pytest.approx([0.15, 0.15, 0.7])
    np.testing.assert_allclose(found.offsets, [np.log([0.5, 0.5, 1.75]), [0] * 3, [0] * 3, [0] * 3])
    np.testing.assert_allclose(np.exp(found(told, cases)), np.tile([0.15, 0.15, 0.7], (10, 1)))

    # 6 rows whose A is empty and 4 whose B is: seen from the empty side, 9 losses and a tie,
    # predicted (0.2, 0.5, 0.3).
    cases = np.repeat(np.array(["A empty", "B empty"], dtype=object), [6, 4])
    told = np.log(np.repeat([[0.2, 0.5, 0.3], [0.5, 0.2, 0.3]], [6, 4], axis=0))
    labels = np.eye(3)[[1, 1, 1, 1, 1, 2, 0, 0, 0, 0]]
    found, facts = fit_offsets(Correction(), told, labels, np.ones(10), cases, 10.0)
    assert facts["one empty answer"]["rates"] == pytest.approx([0.1, 0.7, 0.2])
    np.testing.assert_allclose(found.offsets[2], np.log([0.5, 1.4, 2 / 3]))
    np.testing.assert_allclose(found.offsets[3], np.log([1.4, 0.5, 2 / 3]))
    none = fit_offsets(Correction(), told, labels, np.ones(10), np.full(10, "", dtype=object), 0.0)
    assert not none[0].offsets.any()
    # Without shrinkage nothing is certain either: one row stands for the prediction.
    certain, _ = fit_offsets(Correction(), told, labels, np.ones(10), cases, 0.0)
    assert np.isfinite(certain.offsets).all()


def test_special_cases_are_used_where_they_pay_and_there_are_enough():
    logs, truth, labels, rng = arena(1_000)
    cases = np.full(1_000, "", dtype=object)
    cases[rng.permutation(1_000)[:100]] = np.repeat(
        np.array(CASES, dtype=object), [40, CASE_ROWS - 1, 21, 20]
    )
    labels[np.isin(cases, ["identical", "both empty"])] = [0, 0, 1]  # what the blend does not know
    blend_knows = np.isin(cases, ["A empty", "B empty"])
    labels[blend_knows] = truth[blend_knows]
    correction, tried = fitted(logs, labels, cases)
    found = {fact["correction"]: fact for fact in tried}
    assert found["identical answers"]["used"]
    assert found["identical answers"]["gain"] > 10
    assert found["identical answers"]["rows"] == 40
    assert not found["two empty answers"]["used"]
    assert "too few" in describe_correction(found["two empty answers"])
    assert not found["one empty answer"]["used"]
    told = np.exp(correction(logs, cases))
    assert told[cases == "identical", 2].mean() == pytest.approx(
        found["identical answers"]["rates"][2], abs=0.05
    )
    np.testing.assert_array_equal(
        told[cases != "identical"], np.exp(correction(logs))[cases != "identical"]
    )
    assert not correction.offsets[1:].any()


def test_a_random_case_earns_nothing():
    """What is fitted on some folds is judged on another, with a column that means nothing and
    without it."""
    differences, used = [], []
    for seed in range(20):
        logs, _, labels, rng = arena(500, seed)
        cases = rng.choice(np.array(["", *CASES], dtype=object), 500)
        known = np.arange(500) < 400
        with_cases, tried = fitted(logs[known], labels[known], cases[known])
        nothing = np.full(400, "", dtype=object)
        without, _ = fitted(logs[known], labels[known], nothing)
        used += [fact["used"] for fact in tried]
        losses = [
            -(labels[~known] * correction(logs[~known], cases[~known])).sum(axis=1).mean()
            for correction in (with_cases, without)
        ]
        differences.append(losses[0] - losses[1])
    assert len(used) == 60
    assert np.mean(used) <= 0.15
    # Not better by more than chance: two standard errors.
    assert np.mean(differences) > -2 * np.std(differences) / np.sqrt(len(differences))


def test_exchanging_a_and_b_exchanges_the_probabilities():
    logs, _, labels, rng = arena(600)
    cases = rng.choice(np.array(["", *CASES], dtype=object), 600)
    empty_loses = np.where(cases == "A empty", 1, np.where(cases == "B empty", 0, 2))
    labels[cases != ""] = np.eye(3)[empty_loses[cases != ""]]
    correction, tried = fitted(logs, labels, cases)
    assert all(fact["used"] for fact in tried)
    mirrored = np.array([MIRROR[case] for case in cases], dtype=object)
    swapped = correction(logs[:, SWAPPED], mirrored)
    np.testing.assert_allclose(swapped[:, SWAPPED], correction(logs, cases), atol=1e-12)
    # And the mirror images of all rows teach the same.
    again, _ = fitted(logs[:, SWAPPED], labels[:, SWAPPED], mirrored)
    np.testing.assert_allclose(again(logs, cases), correction(logs, cases), atol=1e-6)


def test_a_row_of_weight_two_is_the_row_twice_and_of_none_is_not_there():
    logs, _, labels, rng = arena(300)
    cases = rng.choice(np.array(["", "identical"], dtype=object), 300)
    weights = rng.choice([0.0, 1.0, 2.0], 300)
    rows = np.repeat(np.arange(300), weights.astype(int))
    folds = np.arange(300) % 5
    weighted, tried = fit_correction(logs, labels, weights, 10.0, -100.0, folds, cases)
    repeated, again = fit_correction(
        logs[rows], labels[rows], np.ones(len(rows)), 10.0, -100.0, folds[rows], cases[rows]
    )
    assert weighted.offsets[0].any()
    np.testing.assert_allclose(weighted(logs, cases), repeated(logs, cases), atol=1e-5)
    assert tried[0]["gain"] == pytest.approx(again[0]["gain"], abs=1e-3)


def test_without_folds_there_is_only_the_temperature():
    logs, _, labels, _ = arena(100)
    correction, tried = fit_correction(
        logs, labels, np.ones(100), 10.0, 1.0, np.zeros(100), np.full(100, "identical")
    )
    assert tried == []
    assert correction.temperature != 1
    assert not correction.offsets.any()


def test_cases_of_answers():
    rows = {
        "": (("x",), ("y",)),
        "identical": (("x", "y"), ("x", "y ")),
        "both empty": ((), (" \n", "")),
        "A empty": (("", "\t"), ("y", "")),
        "B empty": (("x",), ("",)),
    }
    pairs = pd.DataFrame(rows.values(), columns=["response_a", "response_b"])
    assert answer_cases(pairs).tolist() == list(rows)
    swapped = pairs.rename(columns={"response_a": "response_b", "response_b": "response_a"})
    assert answer_cases(swapped).tolist() == [MIRROR[case] for case in rows]
    assert answer_cases(pairs[:0]).shape == (0,)
