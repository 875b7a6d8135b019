"""The Davidson regression: by hand, against a logistic regression, its optimum and symmetry."""

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from humanpref.models.davidson import DavidsonRegression, davidson_probabilities


def drawn(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2))
    truth = davidson_probabilities(x @ [1.0, -0.5, 0.0], z @ [0.8, 0.0] - 0.3)
    labels = np.eye(3)[[rng.choice(3, p=p) for p in truth]]
    return x, z, labels, truth


def test_numbers_worked_by_hand():
    probabilities = davidson_probabilities(
        np.array([0.0, 2 * np.log(2), -2 * np.log(2), 2e4]),
        np.array([0.0, 0.0, 0.0, 1e4 + np.log(3)]),
    )
    np.testing.assert_allclose(
        probabilities,
        [[1 / 3] * 3, [4 / 7, 1 / 7, 2 / 7], [1 / 7, 4 / 7, 2 / 7], [1 / 4, 0, 3 / 4]],
        atol=1e-12,
    )


def test_swapping_changes_places_exactly():
    x, z, labels, _ = drawn()
    model = DavidsonRegression(np.ones(3), np.ones(2)).fit(x, z, labels)
    np.testing.assert_allclose(
        model.predict_proba(-x, z), model.predict_proba(x, z)[:, [1, 0, 2]], atol=1e-14
    )
    swapped = DavidsonRegression(np.ones(3), np.ones(2)).fit(-x, z, labels[:, [1, 0, 2]])
    np.testing.assert_allclose(swapped.w_, model.w_, atol=1e-6)


def test_equals_the_logistic_regression_on_the_rows_and_their_mirror_images():
    x, z, labels, _ = drawn()
    both_x, both_z = np.vstack([x, -x]), np.vstack([z, z])
    classes = np.concatenate([labels.argmax(axis=1), labels[:, [1, 0, 2]].argmax(axis=1)])
    other = LogisticRegression(C=1e6, tol=1e-10, max_iter=5_000).fit(
        np.hstack([both_x, both_z]), classes
    )
    model = DavidsonRegression(np.full(3, 1e-6), np.full(2, 1e-6)).fit(x, z, labels)
    np.testing.assert_allclose(
        model.predict_proba(x, z), other.predict_proba(np.hstack([x, z])), atol=2e-4
    )


def test_recovers_the_truth_and_sparse_equals_dense():
    x, z, labels, truth = drawn(rows=20_000)
    model = DavidsonRegression(np.full(3, 1e-3), np.full(2, 1e-3)).fit(x, z, labels)
    np.testing.assert_allclose(model.w_, [1.0, -0.5, 0.0], atol=0.05)
    np.testing.assert_allclose([*model.v_, model.c_], [0.8, 0.0, -0.3], atol=0.05)
    assert np.abs(model.predict_proba(x, z) - truth).max() < 0.05
    other = DavidsonRegression(np.full(3, 1e-3), np.full(2, 1e-3)).fit(
        sparse.csr_matrix(x), sparse.csr_matrix(z), labels
    )
    np.testing.assert_allclose(other.w_, model.w_, atol=1e-6)


def test_the_optimum_is_one(monkeypatch):
    x, z, labels, _ = drawn()
    captured = {}
    import humanpref.models.davidson as module

    def spy(objective, begin, **keywords):
        captured["objective"], captured["found"] = objective, minimize(objective, begin, **keywords)
        return captured["found"]

    minimize = module.minimize
    monkeypatch.setattr(module, "minimize", spy)
    model = DavidsonRegression(np.ones(3), np.ones(2)).fit(x, z, labels, np.linspace(0, 2, len(x)))
    value, gradient = captured["objective"](captured["found"].x)
    assert np.abs(gradient).max() < 1e-5
    # The optimizer has units of its own for the weights; in those of the columns, too, no step from
    # the optimum pays.
    probabilities, weights = model.predict_proba(x, z), np.linspace(0, 2, len(x))
    residual = (probabilities - labels) * weights[:, None]
    by_w = x.T @ (residual[:, 0] - residual[:, 1]) / 2 + model.w_
    by_v = z.T @ residual[:, 2] + model.v_
    assert (
        max(np.abs(by_w).max(), np.abs(by_v).max(), abs(residual[:, 2].sum())) / weights.sum()
        < 1e-5
    )
    point = np.random.default_rng(5).normal(size=6)
    error = check_grad(
        lambda p: captured["objective"](p)[0], lambda p: captured["objective"](p)[1], point
    )
    assert error < 1e-6
    assert value < captured["objective"](point)[0]


@pytest.mark.parametrize("weighted", [False, True])
def test_weights_and_soft_labels(weighted):
    x, z, labels, _ = drawn(rows=50)
    penalties = (np.ones(3), np.ones(2))
    if weighted:
        weights = np.where(np.arange(50) < 20, 2.0, 1.0)
        first = DavidsonRegression(*penalties).fit(x, z, labels, weights)
        rows = np.r_[np.arange(50), np.arange(20)]
        second = DavidsonRegression(*penalties).fit(x[rows], z[rows], labels[rows])
    else:
        soft = 0.5 * labels + 0.5 * labels[:, [1, 2, 0]]
        first = DavidsonRegression(*penalties).fit(x, z, soft)
        mixed = np.concatenate([labels, labels[:, [1, 2, 0]]])
        second = DavidsonRegression(*penalties).fit(
            np.vstack([x, x]), np.vstack([z, z]), mixed, np.full(100, 0.5)
        )
    np.testing.assert_allclose(second.parameters, first.parameters, atol=1e-4)


def test_a_column_of_zeros_without_a_penalty_has_no_weight():
    x, z, labels, _ = drawn()
    x[:, 1] = 0
    model = DavidsonRegression(np.array([1.0, 0.0, 1.0]), np.ones(2)).fit(x, z, labels)
    assert model.w_[1] == 0
    assert np.isfinite(model.predict_proba(x, z)).all()


def test_saved_arrays_restore_the_regression():
    x, z, labels, _ = drawn()
    model = DavidsonRegression(np.ones(3), np.ones(2)).fit(x, z, labels)
    arrays = model.arrays()
    assert {name: array.shape for name, array in arrays.items()} == {
        "w": (3,),
        "v": (2,),
        "c": (1,),
    }
    restored = DavidsonRegression.restored(arrays)
    assert restored is not model
    np.testing.assert_array_equal(restored.predict_proba(x, z), model.predict_proba(x, z))
    np.testing.assert_array_equal([*arrays["w"], *arrays["v"], model.c_], model.parameters)


def test_from_the_optimum_there_is_nothing_to_do():
    x, z, labels, _ = drawn()
    first = DavidsonRegression(np.ones(3), np.ones(2)).fit(x, z, labels)
    again = DavidsonRegression(np.ones(3), np.ones(2)).fit(x, z, labels, start=first.parameters)
    assert again.iterations_ < 2 < first.iterations_
    np.testing.assert_allclose(again.parameters, first.parameters, atol=1e-3)
