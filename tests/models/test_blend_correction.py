"""Scaling and special cases: by hand, recovered where they are known, used where they pay and left
where they do not."""

import numpy as np
import pandas as pd
import pytest

from humanpref.models.blend_correction import (
    CASE_ROWS,
    Correction,
    describe_correction,
    fit_correction,
    fit_offsets,
    fit_vector_scaling,
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


def arena(rows, seed=0, sides=1.0, tie=1.0, bias=0.0):
    """Log probabilities that a scaling would make the true ones, these, labels drawn from them, and
    what draws."""
    rng = np.random.default_rng(seed)
    logs = np.log(rng.dirichlet([3, 3, 3], rows))
    truth = np.exp(logs * (sides, sides, tie) + (0, 0, bias))
    truth /= truth.sum(axis=1, keepdims=True)
    drawn = (rng.random((rows, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    return logs, truth, np.eye(3)[np.minimum(drawn, 2)], rng


def fitted(logs, labels, cases=None, weights=None, shrinkage=10.0, min_gain=1.0):
    weights = np.ones(len(logs)) if weights is None else weights
    return fit_correction(
        logs, labels, weights, shrinkage, min_gain, np.arange(len(logs)) % 5, cases
    )


def test_the_correction_by_hand():
    logs = np.log([[0.2, 0.2, 0.6], [0.1, 0.4, 0.5]])
    # T = 1/2 squares, and r = 1/2 takes that back for the tie; e^b = 2.
    scaled = np.exp(Correction(0.5, 0.5, np.log(2))(logs))
    np.testing.assert_allclose(
        scaled, [[0.04 / 1.28, 0.04 / 1.28, 1.2 / 1.28], [0.01 / 1.17, 0.16 / 1.17, 1 / 1.17]]
    )
    offsets = np.zeros((4, 3))
    offsets[CASES.index("A empty")] = np.log([0.5, 2, 1])
    cases = np.array(["A empty", "identical"], dtype=object)
    told = np.exp(Correction(1.0, offsets=offsets)(logs, cases))
    np.testing.assert_allclose(told, [[0.1 / 1.1, 0.4 / 1.1, 0.6 / 1.1], [0.1, 0.4, 0.5]])
    np.testing.assert_allclose(np.exp(Correction(1.0, offsets=offsets)(logs)), np.exp(logs))


def test_vector_scaling_is_recovered_and_shrunk():
    logs, truth, _, _ = arena(2_000, sides=1.3, tie=0.8, bias=0.25)
    found = fit_vector_scaling(logs, truth, np.ones(len(logs)), 0.0)  # soft labels leave no noise
    assert (
        1 / found.temperature,
        found.tie_scale / found.temperature,
        found.tie_bias,
    ) == pytest.approx((1.3, 0.8, 0.25), abs=1e-4)
    np.testing.assert_allclose(np.exp(found(logs)), truth, atol=1e-5)
    pulled = fit_vector_scaling(logs, truth, np.ones(len(logs)), 1e9)
    np.testing.assert_allclose(
        (pulled.temperature, pulled.tie_scale, pulled.tie_bias), (1, 1, 0), atol=1e-5
    )


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


def test_scaling_is_used_where_it_pays():
    for seed in range(5):
        logs, truth, labels, _ = arena(2_000, seed, tie=1.5, bias=0.4)
        correction, (tried,) = fitted(logs, labels)
        assert tried["used"]
        assert tried["gain"] > 3
        plain = np.exp(Correction(correction.temperature)(logs))
        better = np.abs(np.exp(correction(logs)) - truth).mean()
        assert better < np.abs(plain - truth).mean()
        assert describe_correction(tried).startswith("vector scaling: used, +")
    gains = []
    for seed in range(20):
        logs, _, labels, _ = arena(500, seed, sides=1.2, tie=1.2)
        correction, (tried,) = fitted(logs, labels)
        gains.append(tried["gain"])
        assert tried["used"] == (tried["gain"] > 1)
        assert (correction.tie_scale == 1 and correction.tie_bias == 0) == (not tried["used"])
    assert np.mean(gains) < 0
    assert np.mean(np.array(gains) > 1) <= 0.2


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
        without, _ = fitted(logs[known], labels[known])
        used += [fact["used"] for fact in tried[1:]]
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
    logs, _, labels, rng = arena(600, sides=1.2, tie=0.7, bias=0.3)
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
    logs, _, labels, rng = arena(300, tie=1.5)
    cases = rng.choice(np.array(["", "identical"], dtype=object), 300)
    weights = rng.choice([0.0, 1.0, 2.0], 300)
    rows = np.repeat(np.arange(300), weights.astype(int))
    folds = np.arange(300) % 5
    weighted, tried = fit_correction(logs, labels, weights, 10.0, -100.0, folds, cases)
    repeated, again = fit_correction(
        logs[rows], labels[rows], np.ones(len(rows)), 10.0, -100.0, folds[rows], cases[rows]
    )
    assert weighted.offsets[0].any()
    assert weighted.tie_bias != 0
    np.testing.assert_allclose(weighted(logs, cases), repeated(logs, cases), atol=1e-5)
    assert tried[0]["gain"] == pytest.approx(again[0]["gain"], abs=1e-3)


def test_without_folds_there_is_only_the_temperature():
    logs, _, labels, _ = arena(100, tie=2.0)
    correction, tried = fit_correction(
        logs, labels, np.ones(100), 10.0, 1.0, np.zeros(100), np.full(100, "identical")
    )
    assert tried == []
    assert correction.temperature != 1
    assert correction.tie_scale == 1
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
