"""Penalties are chosen by the file's own rows; the structure's principal axes change how the
regression is found, not which."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from humanpref.data import inner_splits, labels_of
from humanpref.models.blocks import (
    INNER_FOLDS,
    Blocks,
    Choice,
    Penalties,
    Scales,
    Side,
    fit_blocks,
    scales,
    state_shapes,
)
from humanpref.models.davidson import DavidsonRegression
from humanpref.models.inner_folds import Labelled


def blocks_of(x_wide, x, z_wide, z):
    return Blocks(Side(x_wide, x), Side(z_wide, z))


def test_the_inner_log_loss_is_that_of_the_files_own_rows(pairs):
    extra = pairs.iloc[:50].assign(
        id=[f"extra-2:{i}" for i in range(50)], prompt=[(f"another {i}",) for i in range(50)]
    )
    together = pd.concat([pairs, extra], ignore_index=True)
    labels, rng = (
        np.concatenate([labels_of(pairs), np.tile([1.0, 0, 0], (50, 1))]),
        np.random.default_rng(0),
    )
    weights = rng.choice([1.0, 2.0], len(together))
    blocks = blocks_of(*(rng.normal(size=(len(together), columns)) for columns in (3, 2, 2, 1)))
    probabilities, counts = np.empty((len(pairs), 3)), np.zeros(len(pairs))
    for learned, judged in inner_splits(together, INNER_FOLDS, 42, labels):
        kept, out = blocks.rows(learned), blocks.rows(judged)
        assert learned[len(pairs) :].all()
        fitted = blocks.regression(5, 7)
        fitted.fit(*kept.matrices(), labels[learned], weights[learned])
        probabilities[judged[: len(pairs)]] = fitted.predict_proba(*out.matrices())
        counts += judged[: len(pairs)]
    assert (counts == 1).all()
    losses = -(labels[: len(pairs)] * np.log(probabilities)).sum(axis=1)
    rows = Labelled(together, labels, weights)
    _, choice = fit_blocks(blocks, rows, Penalties((5, 5), (7,)), 42)
    assert choice.inner_log_loss == pytest.approx(
        np.average(losses, weights=weights[: len(pairs)]), abs=1e-4
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_the_principal_axes_lead_to_the_same_regression_in_fewer_iterations(
    pairs, weighted, monkeypatch
):
    rng, labels = np.random.default_rng(1), labels_of(pairs)
    n = len(pairs)
    weights = rng.choice([0.5, 2.0], n) if weighted else np.ones(n)
    length = rng.normal(size=(n, 1))
    # Columns that say nearly the same, as characters, words and lines do, one of zeros, and terms
    # beside them.
    x = np.hstack([length + 0.05 * rng.normal(size=(n, 6)), np.zeros((n, 1))])
    z = np.abs(length) + 0.05 * rng.normal(size=(n, 5))
    terms = sparse.random(n, 40, 0.1, "csr", random_state=2)
    blocks = blocks_of(terms - terms[::-1], x, terms[:, :7], z)
    rows, matrices = Labelled(pairs, labels, weights), blocks.matrices()
    fitted, choice = fit_blocks(blocks, rows, Penalties((3.0,), (0.1,)), 42)
    assert choice == (3.0, 0.1, None)
    plain = blocks.regression(3.0, 0.1).fit(*matrices, labels, weights)
    np.testing.assert_allclose(
        fitted.predict_proba(*matrices), plain.predict_proba(*matrices), atol=2e-4
    )
    assert fitted.iterations_ < plain.iterations_ / 2
    assert abs(fitted.w_[-1]) < 1e-9
    # And so are the penalties found.
    fit, iterations = DavidsonRegression.fit, []

    def counted(self, *arguments):
        iterations.append(fit(self, *arguments).iterations_)
        return self

    monkeypatch.setattr(DavidsonRegression, "fit", counted)
    fit_blocks(blocks, rows, Penalties((3.0,), (0.1, 0.2)), 42)
    assert max(iterations) < plain.iterations_ / 2


def test_columns_that_say_the_same_are_no_axis_of_their_own(pairs):
    rng, labels = np.random.default_rng(1), labels_of(pairs)
    x, z = rng.normal(size=(len(pairs), 3)), rng.normal(size=(len(pairs), 2))
    x[:, 2] = x[:, 0] / 3 - x[:, 1]
    empty = np.empty((len(pairs), 0))
    blocks, rows = blocks_of(empty, x, empty, z), Labelled(pairs, labels, np.ones(len(pairs)))
    fitted, _ = fit_blocks(blocks, rows, Penalties((1.0,), (1e-9,)), 42)
    plain = blocks.regression(1.0, 1e-9).fit(x, z, labels)
    new = rng.normal(size=(50, 2))
    x_new = np.column_stack([new, new[:, 0] / 3 - new[:, 1]])
    np.testing.assert_allclose(
        fitted.predict_proba(x_new, z[:50]), plain.predict_proba(x_new, z[:50]), atol=1e-3
    )
    assert np.abs(fitted.w_).max() < 10


def test_a_block_that_tells_nothing_gets_the_larger_penalty(pairs):
    """Chosen first for the structure without the wide block, then for the wide block beside it."""
    rng, labels = np.random.default_rng(3), labels_of(pairs)
    n = len(pairs)
    margin = labels[:, :1] - labels[:, 1:2] + rng.normal(size=(n, 1))
    noise, empty = rng.normal(size=(n, 30)), np.empty((n, 0))
    rows, few = Labelled(pairs, labels, np.ones(n)), (1.0, 1_000.0)
    _, choice = fit_blocks(blocks_of(noise, margin, empty, empty), rows, Penalties(few, few), 42)
    assert (choice.wide, choice.structure) == (1_000.0, 1.0)
    _, choice = fit_blocks(blocks_of(margin, noise, empty, empty), rows, Penalties(few, few), 42)
    assert (choice.wide, choice.structure) == (1.0, 1_000.0)
    # Without a wide block its first penalty stands for it.
    _, choice = fit_blocks(blocks_of(empty, margin, empty, empty), rows, Penalties(few, few), 42)
    assert (choice.wide, choice.structure) == (1.0, 1.0)
    # With fewer prompts than folds the largest penalties are the safe ones.
    same = Labelled(pairs.assign(prompt=[("same",)] * n), labels, np.ones(n))
    _, choice = fit_blocks(blocks_of(noise, margin, empty, empty), same, Penalties(few, few), 42)
    assert choice == Choice(1_000.0, 1_000.0, None)


def test_scales_by_hand():
    x = np.array([[3.0, 0.0], [-3.0, 0.0], [3.0, 1e-7]])
    z = np.array([[5.0], [7.0], [7.0]])
    fitted = scales(x, z, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(fitted.x_scale, [3, 1])
    np.testing.assert_allclose([*fitted.z_mean, *fitted.z_scale], [6, 1])
    found_x, found_z = fitted.scaled(
        np.array([[6.0, 11.0], [-300.0, -11]]), np.array([[7.0], [90]])
    )
    np.testing.assert_allclose(found_x, [[2, 10], [-10, -10]])
    np.testing.assert_allclose(found_z, [[1], [10]])


def test_shapes_of_what_is_saved():
    rng, z = np.random.default_rng(0), np.zeros((4, 3))
    fitted = scales(rng.normal(size=(4, 2)), z, np.ones(4))
    side_x, side_z = Side(np.empty((4, 5)), np.empty((4, 2))), Side(np.empty((4, 7)), z)
    regression = DavidsonRegression(side_x.penalties(1, 1), side_z.penalties(1, 1))
    x, z = (np.zeros((4, side.matrix().shape[1])) for side in (side_x, side_z))
    arrays = regression.fit(x, z, np.full((4, 3), 1 / 3)).arrays() | fitted._asdict()
    assert state_shapes(5, 7, 2, 3) == {name: array.shape for name, array in arrays.items()}
    assert set(Scales._fields) < arrays.keys()
