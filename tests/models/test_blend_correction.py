"""The temperature, and the class rates of the special cases: by hand, and on drawn rows."""

import numpy as np
import pandas as pd
import pytest

from humanpref.models.blend_correction import (
    Correction,
    HeldOutRows,
    describe_correction,
    fit_correction,
    fit_rates,
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
    return fit_correction(logs, rows_of(labels, cases), 10.0)


def rows_of(labels, cases):
    return HeldOutRows(labels, np.ones(len(labels)), cases)


def test_the_correction_by_hand():
    logs = np.log([[0.2, 0.2, 0.6], [0.1, 0.4, 0.5]])
    # T = 1/2 squares.
    np.testing.assert_allclose(
        np.exp(Correction(0.5)(logs)),
        [[0.04 / 0.44, 0.04 / 0.44, 0.36 / 0.44], [0.01 / 0.42, 0.16 / 0.42, 0.25 / 0.42]],
    )
    rates = np.zeros((4, 3))
    rates[CASES.index("A empty")] = [0.05, 0.85, 0.1]
    cases = np.array(["A empty", "identical"], dtype=object)
    # Whatever the temperature, and only where the case has rates.
    probabilities = np.exp(Correction(0.5, rates)(logs, cases))
    np.testing.assert_allclose(probabilities[0], [0.05, 0.85, 0.1])
    np.testing.assert_allclose(probabilities[1], [0.01 / 0.42, 0.16 / 0.42, 0.25 / 0.42])
    np.testing.assert_allclose(np.exp(Correction(1.0, rates)(logs)), np.exp(logs))


def test_a_class_that_the_members_exclude_stays_excluded():
    logs = np.log([[0.3, 0.7, 1.0]] * 3) + np.array([0, 0, -np.inf])
    cases = np.array(["identical", "A empty", "B empty"], dtype=object)
    rates, _ = fit_rates(rows_of(np.empty((0, 3)), cases[:0]), 10.0)
    told = np.exp(Correction(1.0, rates)(logs, cases))
    expected = [[0.5, 0.5, 0], [0.04 / 0.92, 0.88 / 0.92, 0], [0.88 / 0.92, 0.04 / 0.92, 0]]
    np.testing.assert_allclose(told, expected)


def test_without_ties_the_rates_have_none():
    cases = np.array(["A empty", "B empty", "A empty"], dtype=object)
    rows = rows_of(np.array([[0.0, 1, 0], [1, 0, 0], [1, 0, 0]]), cases)
    rates, facts = fit_rates(rows, 10.0, ties=False)
    won = (1 + 10 * 0.04 / 0.92) / 13
    assert rates[CASES.index("A empty")] == pytest.approx([won, 1 - won, 0])
    assert rates[CASES.index("identical")].tolist() == [0.5, 0.5, 0]
    assert (rates[:, 2] == 0).all()
    assert [fact["rates"][2] for fact in facts] == [0, 0, 0]
    told = np.exp(Correction(1.0, rates)(np.log([[0.3, 0.7, 1.0]]) - [0, 0, np.inf], cases[:1]))
    assert told[0] == pytest.approx([won, 1 - won, 0])
    assert told[0, 2] == 0


def test_the_rates_by_hand():
    # Without a row they are the known ones.
    identical, lost = [0.06, 0.06, 0.88], [0.04, 0.88, 0.08]
    rates, facts = fit_rates(rows_of(np.empty((0, 3)), np.empty(0, dtype=object)), 10.0)
    np.testing.assert_allclose(rates, [identical, identical, lost, [0.88, 0.04, 0.08]])
    assert [fact["rows"] for fact in facts] == [0, 0, 0]
    assert facts[2] == {
        "correction": "one empty answer",
        "rows": 0,
        "rates": pytest.approx([0.04, 0.88, 0.08]),
    }
    # 10 wins of A among identical answers outweigh them, but A and B stay alike.
    cases = np.full(10, "identical", dtype=object)
    rates, facts = fit_rates(rows_of(np.tile([1.0, 0, 0], (10, 1)), cases), 10.0)
    np.testing.assert_allclose(rates[0], [0.28, 0.28, 0.44])
    np.testing.assert_allclose(rates[1:], [identical, lost, [0.88, 0.04, 0.08]])
    assert facts[0]["rows"] == 10
    # 6 rows whose A is empty and 4 whose B is: seen from the empty side, 9 losses and a tie.
    cases = np.repeat(np.array(["A empty", "B empty"], dtype=object), [6, 4])
    rows = rows_of(np.eye(3)[[1, 1, 1, 1, 1, 2, 0, 0, 0, 0]], cases)
    rates, facts = fit_rates(rows, 10.0)
    assert facts[2]["rates"] == pytest.approx([0.02, 0.89, 0.09])
    np.testing.assert_allclose(rates[2:], [[0.02, 0.89, 0.09], [0.89, 0.02, 0.09]])
    # Without shrinkage nothing is certain either: the known rates count as one row.
    certain, _ = fit_rates(rows, 0.0)
    np.testing.assert_allclose(certain[2], np.array([0.04, 9.88, 1.08]) / 11)


def test_rows_without_a_case_are_not_touched():
    logs, _, labels, rng = arena(1_000)
    cases = np.full(1_000, "", dtype=object)
    cases[rng.permutation(1_000)[:8]] = np.repeat(np.array(CASES, dtype=object), 2)
    correction, facts = fitted(logs, labels, cases)
    assert [fact["rows"] for fact in facts] == [2, 2, 4]
    plain, special = cases == "", cases != ""
    np.testing.assert_array_equal(correction(logs, cases)[plain], correction(logs)[plain])
    # The blend's own predictions of the other rows do not matter.
    np.testing.assert_array_equal(
        correction(logs, cases)[special], correction(logs[::-1], cases)[special]
    )


def test_exchanging_a_and_b_exchanges_the_probabilities():
    logs, _, labels, rng = arena(600)
    cases = rng.choice(np.array(["", *CASES], dtype=object), 600)
    empty_loses = np.where(cases == "A empty", 1, np.where(cases == "B empty", 0, 2))
    labels[cases != ""] = np.eye(3)[empty_loses[cases != ""]]
    correction, _ = fitted(logs, labels, cases)
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
    weighted, _ = fit_correction(logs, HeldOutRows(labels, weights, cases), 10.0)
    alike = HeldOutRows(labels[rows], np.ones(len(rows)), cases[rows])
    repeated, _ = fit_correction(logs[rows], alike, 10.0)
    np.testing.assert_allclose(weighted.rates, repeated.rates)
    np.testing.assert_allclose(weighted(logs, cases), repeated(logs, cases), atol=1e-5)


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
    rows = HeldOutRows(np.eye(3), np.array([1.0, 2.0, 0.0]), np.array(["", "x", "y"]))
    np.testing.assert_allclose(rows.losses(np.log(np.full((3, 3), 0.5))), np.log(2) * rows.weights)
    part = rows.part(np.array([False, True, True]))
    assert part.cases.tolist() == ["x", "y"]
    assert part.labels.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_lines_on_special_cases():
    fact = {"correction": "one empty answer", "rows": 25, "rates": [0.1, 0.7, 0.2]}
    line = "one empty answer, 25 rows: 0.100 0.700 0.200 (empty wins, loses, tie)"
    assert describe_correction(fact) == line
    fact = {"correction": "identical answers", "rows": 3, "rates": [0.05, 0.05, 0.9]}
    line = "identical answers, 3 rows: 0.050 0.050 0.900 (A, B, tie)"
    assert describe_correction(fact) == line
