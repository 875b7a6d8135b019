"""The temperature and the special cases: by hand, and used only where they pay."""

import numpy as np
import pandas as pd
import pytest

from humanpref.models.blend_correction import (
    CASE_ROWS,
    Correction,
    HeldOutRows,
    describe_correction,
    fit_correction,
    fit_offsets,
    fit_temperature,
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
    n = len(logs)
    return fit_correction(logs, HeldOutRows(labels, np.ones(n), np.arange(n) % 5, cases), 10.0, 1.0)


def rows_of(labels, cases):
    return HeldOutRows(labels, np.ones(len(labels)), np.zeros(len(labels)), cases)


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
    probabilities = np.exp(Correction(1.0, offsets=offsets)(logs, cases))
    np.testing.assert_allclose(probabilities, [[0.1 / 1.1, 0.4 / 1.1, 0.6 / 1.1], [0.1, 0.4, 0.5]])
    np.testing.assert_allclose(np.exp(Correction(1.0, offsets=offsets)(logs)), np.exp(logs))


def test_the_shrunk_rates_by_hand():
    logs = np.log(np.tile([0.3, 0.3, 0.4], (10, 1)))
    ties, cases = np.tile([0.0, 0.0, 1.0], (10, 1)), np.full(10, "identical", dtype=object)
    found, facts = fit_offsets(Correction(), logs, rows_of(ties, cases), 10.0)
    assert facts["identical answers"]["predicted"] == pytest.approx([0.3, 0.3, 0.4])
    assert facts["identical answers"]["rates"] == pytest.approx([0.15, 0.15, 0.7])
    np.testing.assert_allclose(found.offsets, [np.log([0.5, 0.5, 1.75]), [0] * 3, [0] * 3, [0] * 3])
    np.testing.assert_allclose(np.exp(found(logs, cases)), np.tile([0.15, 0.15, 0.7], (10, 1)))

    # 6 rows whose A is empty and 4 whose B is: seen from the empty side, 9 losses and a tie,
    # predicted (0.2, 0.5, 0.3).
    cases = np.repeat(np.array(["A empty", "B empty"], dtype=object), [6, 4])
    logs = np.log(np.repeat([[0.2, 0.5, 0.3], [0.5, 0.2, 0.3]], [6, 4], axis=0))
    labels = np.eye(3)[[1, 1, 1, 1, 1, 2, 0, 0, 0, 0]]
    found, facts = fit_offsets(Correction(), logs, rows_of(labels, cases), 10.0)
    assert facts["one empty answer"]["rates"] == pytest.approx([0.1, 0.7, 0.2])
    np.testing.assert_allclose(found.offsets[2], np.log([0.5, 1.4, 2 / 3]))
    np.testing.assert_allclose(found.offsets[3], np.log([1.4, 0.5, 2 / 3]))
    plain = np.full(10, "", dtype=object)
    none, facts = fit_offsets(Correction(), logs, rows_of(labels, plain), 0.0)
    assert not none.offsets.any()
    assert facts == {}
    # Without shrinkage nothing is certain either: one row stands for the prediction.
    certain, _ = fit_offsets(Correction(), logs, rows_of(labels, cases), 0.0)
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
    probabilities = np.exp(correction(logs, cases))
    assert probabilities[cases == "identical", 2].mean() == pytest.approx(
        found["identical answers"]["rates"][2], abs=0.05
    )
    np.testing.assert_array_equal(
        probabilities[cases != "identical"], np.exp(correction(logs))[cases != "identical"]
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
    once = HeldOutRows(labels, weights, folds, cases)
    weighted, tried = fit_correction(logs, once, 10.0, -100.0)
    alike = HeldOutRows(labels[rows], np.ones(len(rows)), folds[rows], cases[rows])
    repeated, again = fit_correction(logs[rows], alike, 10.0, -100.0)
    assert weighted.offsets[0].any()
    np.testing.assert_allclose(weighted(logs, cases), repeated(logs, cases), atol=1e-5)
    assert tried[0]["gain"] == pytest.approx(again[0]["gain"], abs=1e-3)


def test_without_folds_there_is_only_the_temperature():
    logs, _, labels, _ = arena(100)
    rows = HeldOutRows(labels, np.ones(100), np.zeros(100), np.full(100, "identical"))
    correction, tried = fit_correction(logs, rows, 10.0, 1.0)
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


def test_the_temperature_by_hand():
    # A third of the rows are A where 4/5 are predicted: T reaches its bound.
    logs, cases = np.log(np.tile([0.8, 0.1, 0.1], (30, 1))), np.full(30, "")
    labels = np.eye(3)[np.arange(30) % 3]
    assert fit_temperature(logs, rows_of(labels, cases), 0.0).temperature == pytest.approx(
        4, rel=1e-5
    )
    # And as sharp as the other bound allows where A is certain.
    certain = rows_of(np.eye(3)[np.zeros(30, dtype=int)], cases)
    assert fit_temperature(logs, certain, 0.0).temperature == pytest.approx(1 / 4, rel=1e-5)
    # Without labels that say otherwise the penalty keeps it at 1.
    exact = rows_of(np.exp(logs), cases)
    assert fit_temperature(logs, exact, 0.0).temperature == pytest.approx(1, abs=1e-4)
    strong = fit_temperature(logs, rows_of(labels, cases), 1e6).temperature
    assert strong == pytest.approx(1, abs=1e-4)


def test_rows_and_their_weighted_losses():
    rows = HeldOutRows(np.eye(3), np.array([1.0, 2.0, 0.0]), np.arange(3), np.array(["", "x", "y"]))
    np.testing.assert_allclose(rows.losses(np.log(np.full((3, 3), 0.5))), np.log(2) * rows.weights)
    part = rows.part(np.array([False, True, True]))
    assert part.cases.tolist() == ["x", "y"]
    assert part.labels.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_lines_on_special_cases():
    fact = {"correction": "one empty answer", "rows": 25, "used": False, "gain": 0.5}
    expected = "one empty answer, 25 rows: not used, +0.50 nats gained out of fold over all rows"
    assert describe_correction(fact) == expected
    used = fact | {"used": True, "predicted": [0.2, 0.5, 0.3], "rates": [0.1, 0.7, 0.2]}
    assert describe_correction(used) == (
        "one empty answer, 25 rows: used, +0.50 nats gained out of fold over all rows; predicted "
        "0.200 0.500 0.300, now 0.100 0.700 0.200 (the empty answer first)"
    )
    fact = {"correction": "identical answers", "rows": 3, "used": False}
    assert describe_correction(fact) == (
        "identical answers, 3 rows: too few to learn from (expected at least 20)"
    )
