"""The network on pairs: exact under swapping, its optimum, weights, soft labels, early stopping."""

import numpy as np
import pandas as pd

from humanpref.models.davidson import davidson_loss
from humanpref.models.inner_folds import Labelled
from humanpref.models.pair_network import Orders, PairNetwork, fit_network, network_shapes

PENALTY = 10.0


def orders_of(a, b):
    """As the embedding family makes them of vectors."""
    return Orders(np.hstack([a, b, a - b, a * b]), np.hstack([b, a, b - a, a * b]))


def drawn(rows, width=3, seed=0, sharpness=4.0):
    """Vectors, and labels that depend on products of their coordinates, which no linear model of
    differences can tell."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows, width))
    d = sharpness * (a[:, 0] * a[:, 1] - b[:, 0] * b[:, 1])
    nu = 2 - 2 * np.abs(a[:, 2] - b[:, 2])
    scores = np.exp(np.stack([d / 2, -d / 2, nu], axis=1))
    return orders_of(a, b), scores / scores.sum(axis=1, keepdims=True)


def loss_of(labels, probabilities):
    return -(labels * np.log(probabilities)).sum(axis=1).mean()


def test_it_learns_what_a_linear_model_cannot_and_swaps_exactly():
    orders, truth = drawn(1_000)
    network = PairNetwork(24, PENALTY, seed=1).fit(orders, truth, np.ones(1_000), 100)
    other, held = drawn(1_000, seed=9)
    found = network.predict_proba(other)
    entropy, uninformed = loss_of(held, held), loss_of(held, np.full((1_000, 3), 1 / 3))
    assert loss_of(held, found) - entropy < 0.2 * (uninformed - entropy)
    swapped = network.predict_proba(Orders(other.other, other.one))
    np.testing.assert_allclose(swapped[:, [1, 0, 2]], found, rtol=0, atol=1e-14)


def test_at_the_optimum_no_small_change_lowers_the_penalized_loss():
    orders, truth = drawn(60)
    weights = np.random.default_rng(3).uniform(0.5, 2, size=60)
    network = PairNetwork(3, PENALTY, seed=0).fit(orders, truth, weights, 5_000)

    def penalized(arrays):
        one, other = (np.tanh(u @ arrays["w"] + arrays["b"]) @ arrays["v"] for u in orders)
        d, nu = one[:, 0] - other[:, 0], arrays["c"] + one[:, 1] + other[:, 1]
        squares = (arrays["w"] ** 2).sum() + (arrays["v"] ** 2).sum()
        return davidson_loss(d, nu, truth, weights)[0] + PENALTY * squares / 2

    arrays = network.arrays()
    least = penalized(arrays)
    for name, values in arrays.items():
        for i in range(values.size):
            for step in (-1e-3, 1e-3):
                changed = values.copy()
                changed.flat[i] += step
                assert penalized(arrays | {name: changed}) > least - 1e-7


def test_weight_two_is_the_row_twice_and_zero_drops_it():
    orders, truth = drawn(80)
    weights = np.where(np.arange(80) < 10, 2.0, 1.0)
    weights[-5:] = 0
    rows = np.concatenate([np.arange(75), np.arange(10)])
    weighted = PairNetwork(8, PENALTY, seed=2).fit(orders, truth, weights, 30)
    twice = PairNetwork(8, PENALTY, seed=2).fit(orders.rows(rows), truth[rows], np.ones(85), 30)
    plain = PairNetwork(8, PENALTY, seed=2).fit(orders, truth, np.ones(80), 30)
    expected = twice.predict_proba(orders)
    np.testing.assert_allclose(weighted.predict_proba(orders), expected, atol=1e-7)
    assert np.abs(plain.predict_proba(orders) - expected).max() > 1e-3


def test_soft_labels_and_rates_without_information():
    zeros = Orders(np.zeros((30, 4)), np.zeros((30, 4)))
    soft = np.tile([0.2, 0.3, 0.5], (30, 1))
    made = PairNetwork(4, PENALTY, seed=0).fit(zeros, soft, np.ones(30), 50).predict_proba(zeros)
    np.testing.assert_allclose(made, np.tile([0.25, 0.25, 0.5], (30, 1)), atol=1e-6)


def test_the_seed_decides_the_start():
    orders, truth = drawn(50)
    made = [
        PairNetwork(4, PENALTY, seed).fit(orders, truth, np.ones(50), 10).predict_proba(orders)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 1e-4


def test_saved_as_arrays():
    orders, truth = drawn(20)
    network = PairNetwork(5, PENALTY, seed=0).fit(orders, truth, np.ones(20), 5)
    arrays = network.arrays()
    assert {name: array.shape for name, array in arrays.items()} == network_shapes(12, 5)
    again = PairNetwork.restored(arrays)
    np.testing.assert_array_equal(again.predict_proba(orders), network.predict_proba(orders))


def labelled(truth, prompts):
    """Rows with labels drawn from the truth, and this many distinct prompts."""
    rng = np.random.default_rng(5)
    hot = np.eye(3)[[rng.choice(3, p=row) for row in truth]]
    texts = [(f"prompt {i % prompts}",) for i in range(len(truth))]
    pairs = pd.DataFrame({"id": list(map(str, range(len(truth)))), "prompt": texts})
    return Labelled(pairs, hot, np.ones(len(truth)))


def test_early_stopping_ends_before_it_overfits():
    orders, truth = drawn(240, width=8, sharpness=1.0)
    rows = labelled(truth, 240)
    network, steps, inner = fit_network(orders, rows, PairNetwork(16, PENALTY, 0), None)
    again, known, nothing = fit_network(orders, rows, PairNetwork(16, PENALTY, 0), steps)
    assert (known, nothing) == (steps, None)
    np.testing.assert_array_equal(again.predict_proba(orders), network.predict_proba(orders))
    other, held = drawn(1_000, width=8, seed=9, sharpness=1.0)
    late = PairNetwork(16, PENALTY, seed=0).fit(orders, rows.labels, rows.weights, 300)
    assert loss_of(held, network.predict_proba(other)) < loss_of(held, late.predict_proba(other))
    assert steps < 100
    assert inner > 0


def test_too_few_prompts_for_inner_folds():
    orders, truth = drawn(12)
    network, steps, inner = fit_network(
        orders, labelled(truth, 1), PairNetwork(4, PENALTY, 0), None
    )
    assert steps > 0
    assert inner is None
    assert np.isfinite(network.predict_proba(orders)).all()
