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
    choose_penalties,
    fit_regression,
    regression,
)
from humanpref.models.davidson import DavidsonRegression


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
    blocks = Blocks(*(rng.normal(size=(len(together), columns)) for columns in (3, 2, 2, 1)))
    told, counts = np.empty((len(pairs), 3)), np.zeros(len(pairs))
    for learned, judged in inner_splits(together, INNER_FOLDS, 42, labels):
        kept, out = blocks.rows(learned), blocks.rows(judged)
        assert learned[len(pairs) :].all()
        fitted = regression(blocks, 5, 7).fit(kept.x(), kept.z(), labels[learned], weights[learned])
        told[judged[: len(pairs)]] = fitted.predict_proba(out.x(), out.z())
        counts += judged[: len(pairs)]
    assert (counts == 1).all()
    losses = -(labels[: len(pairs)] * np.log(told)).sum(axis=1)
    _, _, inner = choose_penalties(together, blocks, labels, weights, (5, 5), (7,), 42)
    assert inner == pytest.approx(np.average(losses, weights=weights[: len(pairs)]), abs=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_principal_axes_lead_to_the_same_regression_in_fewer_iterations(
    pairs, weighted, monkeypatch
):
    rng, labels = np.random.default_rng(1), labels_of(pairs)
    n = len(pairs)
    weights = rng.choice([0.5, 2.0], n) if weighted else None
    length = rng.normal(size=(n, 1))
    # Columns that say nearly the same, as characters, words and lines do, one of zeros, and terms
    # beside them.
    x = np.hstack([length + 0.05 * rng.normal(size=(n, 6)), np.zeros((n, 1))])
    z = np.abs(length) + 0.05 * rng.normal(size=(n, 5))
    terms = sparse.random(n, 40, 0.1, "csr", random_state=2)
    blocks = Blocks(terms - terms[::-1], x, terms[:, :7], z)
    fitted = fit_regression(blocks, 3.0, 0.1, labels, weights)
    plain = regression(blocks, 3.0, 0.1).fit(blocks.x(), blocks.z(), labels, weights)
    np.testing.assert_allclose(
        fitted.predict_proba(blocks.x(), blocks.z()),
        plain.predict_proba(blocks.x(), blocks.z()),
        atol=2e-4,
    )
    assert fitted.iterations_ < plain.iterations_ / 2
    assert abs(fitted.w_[-1]) < 1e-9
    # And so are the penalties found.
    fit, iterations = DavidsonRegression.fit, []

    def counted(self, *arguments):
        iterations.append(fit(self, *arguments).iterations_)
        return self

    monkeypatch.setattr(DavidsonRegression, "fit", counted)
    choose_penalties(pairs, blocks, labels, weights, (3.0,), (0.1, 0.2), 42)
    assert max(iterations) < plain.iterations_ / 2


def test_columns_that_say_the_same_are_no_axis_of_their_own(pairs):
    rng, labels = np.random.default_rng(1), labels_of(pairs)
    x, z = rng.normal(size=(len(pairs), 3)), rng.normal(size=(len(pairs), 2))
    x[:, 2] = x[:, 0] / 3 - x[:, 1]
    empty = np.empty((len(pairs), 0))
    blocks = Blocks(empty, x, empty, z)
    fitted = fit_regression(blocks, 1.0, 1e-9, labels, None)
    plain = regression(blocks, 1.0, 1e-9).fit(x, z, labels)
    new = rng.normal(size=(50, 2))
    x_new = np.column_stack([new, new[:, 0] / 3 - new[:, 1]])
    np.testing.assert_allclose(
        fitted.predict_proba(x_new, z[:50]), plain.predict_proba(x_new, z[:50]), atol=1e-3
    )
    assert np.abs(fitted.w_).max() < 10
