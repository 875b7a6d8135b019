"""The weights of a blend: both means by hand, the optimum by brute force, what is dropped."""

from types import SimpleNamespace

import numpy as np
import pytest

from humanpref.config.cpu import BlendOptions
from humanpref.logloss import log_loss
from humanpref.models import blend_weights
from humanpref.models.blend_correction import Correction, HeldOutRows
from humanpref.models.blend_weights import Blend, equal_blend, fit_blend, mix


def arena(rows=600, noises=(0.3, 0.6, 0.9), seed=0):
    """Labels drawn from known probabilities, and members that know them up to noise of their
    own."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 0.8, (rows, 3))
    probabilities = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    labels = np.eye(3)[[rng.choice(3, p=row) for row in probabilities]]
    members = np.exp([truth + rng.normal(0, noise, truth.shape) for noise in noises])
    return members / members.sum(axis=2, keepdims=True), labels


def fitted(probabilities, labels, weights=None, **options):
    """The blend of rows in one fold, where only the temperature is corrected, and what it drops."""
    n = len(labels)
    weights = np.ones(n) if weights is None else weights
    rows = HeldOutRows(labels, weights, np.full(n, "", dtype=object))
    blend, dropped, _ = fit_blend(probabilities, rows, BlendOptions(**options))
    return blend, dropped


def test_both_means_and_the_temperature_by_hand():
    probabilities = np.array([[[0.2, 0.2, 0.6]], [[0.6, 0.2, 0.2]]])
    np.testing.assert_allclose(
        Blend("arithmetic", np.array([0.25, 0.75]))(probabilities), [[0.5, 0.2, 0.3]], atol=1e-12
    )
    # sqrt(0.12), 0.2, sqrt(0.12) over their sum; and 0.04^(1/2) = 0.2.
    root = np.sqrt(0.12)
    expected = np.array([[root, 0.2, root]]) / (2 * root + 0.2)
    np.testing.assert_allclose(equal_blend("geometric", 2)(probabilities), expected, atol=1e-12)
    # T = 1/2 squares: 0.04, 0.04, 0.36 of 0.44.
    sharpened = Blend("arithmetic", np.array([1.0, 0.0]), Correction(0.5))(probabilities)
    np.testing.assert_allclose(sharpened, np.array([[0.04, 0.04, 0.36]]) / 0.44, atol=1e-12)
    softened = Blend("geometric", np.array([1.0, 0.0]), Correction(2.0))(probabilities)
    np.testing.assert_allclose(
        softened, np.sqrt(probabilities[0]) / np.sqrt(probabilities[0]).sum(), atol=1e-12
    )


def test_a_certain_mistake_is_not_infinite():
    probabilities = np.array([[[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]])
    for mean in ("arithmetic", "geometric"):
        blended = equal_blend(mean, 2)(probabilities)
        assert np.isfinite(np.log(blended)).all()
        blend, _ = fitted(probabilities, np.array([[0.0, 1.0, 0.0]]), mean=mean)
        assert np.isfinite(blend(probabilities)).all()


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_weights_are_the_best_on_the_simplex(mean):
    probabilities, labels = arena()
    blend, dropped = fitted(probabilities, labels, mean=mean, shrinkage=0, min_gain=0)
    assert not dropped
    assert blend.weights.sum() == pytest.approx(1)
    reached = log_loss(labels, Blend(mean, blend.weights)(probabilities))
    steps = np.linspace(0, 1, 41)
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]
    losses = [log_loss(labels, Blend(mean, np.clip(point, 0, 1))(probabilities)) for point in grid]
    assert reached <= min(losses) + 1e-7
    assert np.abs(blend.weights - grid[int(np.argmin(losses))]).max() < 0.026


def test_the_temperature_is_the_best_and_undoes_a_known_one():
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, (4_000, 3))
    truth = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    # A member that is twice too sure of itself; soft labels leave no noise.
    sure = truth**2 / (truth**2).sum(axis=1, keepdims=True)
    blend, _ = fitted(sure[None], truth, shrinkage=0)
    assert blend.correction.temperature == pytest.approx(2, abs=1e-4)
    np.testing.assert_allclose(blend(sure[None]), truth, atol=1e-4)
    assert 1 < fitted(sure[None], truth, shrinkage=1_000)[0].correction.temperature < 1.9


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_duplicate_changes_nothing(mean):
    probabilities, labels = arena()
    alone, _ = fitted(probabilities, labels, mean=mean)
    with_copy = np.concatenate([probabilities, probabilities[:1]])
    doubled, dropped = fitted(with_copy, labels, mean=mean)
    assert len(dropped) == 1
    assert dropped.keys() < {0, 3}
    np.testing.assert_allclose(doubled(with_copy), alone(probabilities), atol=1e-6)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_random_member_is_dropped(mean):
    probabilities, labels = arena()
    noise = np.random.default_rng(5).dirichlet([1, 1, 1], size=len(labels))[None]
    alone, _ = fitted(probabilities, labels, mean=mean)
    with_noise, dropped = fitted(np.concatenate([noise, probabilities]), labels, mean=mean)
    assert list(dropped) == [0]
    assert "leaving it out" in dropped[0]
    np.testing.assert_allclose(with_noise.weights, [0, *alone.weights], atol=1e-6)


def test_shrinkage_pulls_towards_the_plain_mean_and_less_with_more_rows():
    probabilities, labels = arena(400, noises=(0.3, 0.6))
    free = fitted(probabilities, labels, shrinkage=0, min_gain=0)[0].weights
    default = fitted(probabilities, labels, min_gain=0)[0].weights
    strong = fitted(probabilities, labels, shrinkage=1e9, min_gain=0)[0]
    assert free[0] > default[0] > strong.weights[0]
    np.testing.assert_allclose(strong.weights, 0.5, atol=1e-6)
    assert strong.correction.temperature == pytest.approx(1, abs=1e-6)
    many = np.full(len(labels), 100.0)
    assert (
        abs(fitted(probabilities, labels, many, min_gain=0)[0].weights[0] - free[0])
        < abs(default[0] - free[0]) / 5
    )


def test_a_row_of_weight_two_is_the_row_twice():
    probabilities, labels = arena(200)
    weights = np.where(np.arange(200) < 60, 2.0, 1.0)
    twice = np.concatenate([probabilities, probabilities[:, :60]], axis=1)
    weighted, _ = fitted(probabilities, labels, weights)
    repeated, _ = fitted(twice, np.concatenate([labels, labels[:60]]))
    np.testing.assert_allclose(weighted.weights, repeated.weights, atol=1e-5)
    assert weighted.correction.temperature == pytest.approx(
        repeated.correction.temperature, abs=1e-5
    )


def test_a_member_is_kept_if_it_gains_as_much_as_is_asked():
    probabilities, labels = arena()
    losses = {}
    for kept in ([0, 1], [0]):
        blend, _ = fitted(probabilities[kept], labels, min_gain=0)
        losses[len(kept)] = len(labels) * log_loss(labels, blend(probabilities[kept]))
    gain = losses[1] - losses[2]
    assert fitted(probabilities[:2], labels, min_gain=gain * 0.99)[1] == {}
    blend, dropped = fitted(probabilities[:2], labels, min_gain=gain * 1.01)
    assert list(dropped) == [1]
    expected = f"raises the summed log loss by {gain:.2g} nats (a member must lower it by"
    assert expected in dropped[1]
    assert blend.weights.tolist() == [1, 0]


def test_rows_that_only_some_members_predicted():
    members = np.array([[[0.2, 0.2, 0.6]] * 3, [[0.6, 0.2, 0.2]] * 3])
    members[0, 1] = members[:, 2] = np.nan
    mixed = mix(Blend("arithmetic", np.array([0.25, 0.75])), members, np.full(3, ""))
    np.testing.assert_allclose(mixed[:2], [[0.5, 0.2, 0.3], [0.6, 0.2, 0.2]])
    assert np.isnan(mixed[2]).all()
    # A member of weight 0 does not stand in for the others.
    assert np.isnan(
        mix(Blend("arithmetic", np.array([1.0, 0.0])), members, np.full(3, ""))[1]
    ).all()


def test_the_facts_of_a_blend():
    rates = np.zeros((4, 3))
    rates[0] = [0, 0, 1]
    blend = Blend("geometric", np.array([1.0]), Correction(2.0, rates))
    expected = {"mean": "geometric", "temperature": 2.0, "rates": {"identical": [0, 0, 1]}}
    assert blend.facts() == expected


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_fit_that_stops_early_warns_how_far_it_may_be_off(monkeypatch, caplog, mean):
    probabilities, labels = arena()
    fitted(probabilities, labels, mean=mean)
    assert caplog.messages == []

    def stopped(objective, start, **options):
        return SimpleNamespace(x=start, message="stopped at the start")

    monkeypatch.setattr(blend_weights, "minimize", stopped)
    fitted(probabilities, labels, mean=mean)
    assert "nats above its minimum (stopped at the start)" in caplog.messages[0]
