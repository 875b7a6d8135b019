"""A Davidson regression on two blocks of features: a wide one (terms, embeddings), each column
worth little, and structure.

Each block has one penalty, chosen on inner grouped folds of the training rows.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from threadpoolctl import threadpool_limits

from humanpref.data import inner_splits
from humanpref.logloss import row_log_losses
from humanpref.models.davidson import DavidsonRegression, Matrix

INNER_FOLDS = 4
INNER_ROWS = 4_000
"""Inner folds are used until this many rows are held out: beyond, the choice is not noise."""
ROUNDING = 1e-6
"""Smaller variation, in the units of a share or a cosine, is noise, which scaling would blow up."""

CLIP_STD = 10.0
"""Scaled structure is clipped to this many standard deviations from its mean."""
EIGENVALUE_FLOOR = 1e-12
"""Principal axes below this share of the largest eigenvalue are dropped."""


class Blocks(NamedTuple):
    """The matrices of n rows, antisymmetric (x) and symmetric (z), the wide block and the structure
    apart."""

    x_wide: Matrix
    x_structure: np.ndarray
    z_wide: Matrix
    z_structure: np.ndarray

    def rows(self, mask: np.ndarray) -> "Blocks":
        return Blocks(*(matrix[mask] for matrix in self))

    def x(self) -> Matrix:
        return _beside(self.x_wide, self.x_structure)

    def z(self) -> Matrix:
        return _beside(self.z_wide, self.z_structure)

    def structure_only(self) -> "Blocks":
        return self._replace(x_wide=self.x_wide[:, :0], z_wide=self.z_wide[:, :0])

    def rotated(self, weights: np.ndarray | None) -> tuple["Blocks", np.ndarray, np.ndarray]:
        """The structure along its principal axes; and these, x's and z's, as columns.

        Several columns of structure are correlated (characters, words, sentences), which L-BFGS
        follows slowly: 148 iterations fell to 16. Under one penalty for the block the optimum is
        the same one, seen from other axes.
        """
        weight = np.ones(len(self.x_structure)) if weights is None else weights
        axes_x, axes_z = (
            _axes(columns, weight) for columns in (self.x_structure, self.z_structure)
        )
        rotated = self._replace(
            x_structure=self.x_structure @ axes_x, z_structure=self.z_structure @ axes_z
        )
        return rotated, axes_x, axes_z


def _axes(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The principal axes of the columns, as columns; zeros for those along which there is nothing
    but rounding."""
    with threadpool_limits(1, user_api="blas"):  # as in `DavidsonRegression.fit`
        lengths, axes = np.linalg.eigh(columns.T @ (columns * weights[:, None]))
    return np.where(lengths > EIGENVALUE_FLOOR * lengths.max(initial=0), axes, 0)


class Scales(NamedTuple):
    """The scale of each column of x, and the mean and the scale of each column of z; x is not
    centred: that would break its symmetry."""

    x_scale: np.ndarray
    z_mean: np.ndarray
    z_scale: np.ndarray

    def scaled(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Structure in units of its scale, at most `CLIP_STD` from its mean.

        A column that hardly varied in the training rows must not decide a row by itself. Negated
        values of x give negated ones, so that swapping A and B stays exact.
        """
        x, z = x / self.x_scale, (z - self.z_mean) / self.z_scale
        return np.clip(x, -CLIP_STD, CLIP_STD), np.clip(z, -CLIP_STD, CLIP_STD)


def scales(x: np.ndarray, z: np.ndarray, weights: np.ndarray | None) -> Scales:
    """The scales of weighted rows; a column that is constant but for rounding is left as it is."""
    mean = np.average(z, axis=0, weights=weights)
    squares = (
        np.average(x**2, axis=0, weights=weights),
        np.average((z - mean) ** 2, axis=0, weights=weights),
    )
    x_scale, z_scale = (np.where(square > ROUNDING**2, np.sqrt(square), 1.0) for square in squares)
    return Scales(x_scale, mean, z_scale)


def regression(blocks: Blocks, wide_penalty: float, structure_penalty: float) -> DavidsonRegression:
    """An unfitted regression on these blocks' columns."""

    def penalties(wide: Matrix, structure: np.ndarray) -> np.ndarray:
        return np.repeat([wide_penalty, structure_penalty], [wide.shape[1], structure.shape[1]])

    return DavidsonRegression(
        penalties(blocks.x_wide, blocks.x_structure), penalties(blocks.z_wide, blocks.z_structure)
    )


def fit_regression(
    blocks: Blocks,
    wide_penalty: float,
    structure_penalty: float,
    labels: np.ndarray,
    weights: np.ndarray | None,
) -> DavidsonRegression:
    """The regression on these blocks' columns, found along the structure's principal axes."""
    rotated, axes_x, axes_z = blocks.rotated(weights)
    fitted = regression(blocks, wide_penalty, structure_penalty).fit(
        rotated.x(), rotated.z(), labels, weights
    )
    for found, axes in ((fitted.w_, axes_x), (fitted.v_, axes_z)):
        found[len(found) - len(axes) :] = axes @ found[len(found) - len(axes) :]
    return fitted


def choose_penalties(
    pairs: pd.DataFrame,
    blocks: Blocks,
    labels: np.ndarray,
    weights: np.ndarray | None,
    wide_penalties: tuple[float, ...],
    structure_penalties: tuple[float, ...],
    seed: int,
) -> tuple[float, float, float | None]:
    """The structure's penalty, chosen without the wide block; then the wide block's, beside it; and
    the inner log loss of the choice (None where there was nothing to choose, or too few prompts to
    choose by).

    What the blocks were made with (vocabularies, scales) has seen the inner held-out rows, though
    not their labels: enough to rank penalties by.
    """
    if len(structure_penalties) == len(wide_penalties) == 1:
        return wide_penalties[0], structure_penalties[0], None
    splits = inner_splits(pairs, INNER_FOLDS, seed, labels)
    if not splits:
        return max(wide_penalties), max(structure_penalties), None
    blocks, _, _ = blocks.rotated(weights)
    splits = splits[: math.ceil(INNER_ROWS / max(1, int(splits[0][1].sum())))]
    candidates = [(wide_penalties[0], penalty) for penalty in structure_penalties]
    losses = _inner_losses(blocks.structure_only(), candidates, labels, weights, splits)
    structure_penalty = structure_penalties[int(np.argmin(losses))]
    if blocks.x_wide.shape[1] == blocks.z_wide.shape[1] == 0:
        return wide_penalties[0], structure_penalty, float(np.min(losses))
    candidates = [(penalty, structure_penalty) for penalty in wide_penalties]
    losses = _inner_losses(blocks, candidates, labels, weights, splits)
    return wide_penalties[int(np.argmin(losses))], structure_penalty, float(np.min(losses))


def _inner_losses(
    blocks: Blocks,
    penalties: list[tuple[float, float]],
    labels: np.ndarray,
    weights: np.ndarray | None,
    splits: list[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Mean held-out log loss of each (wide, structure) penalty over the splits; each fit starts
    from the last."""
    weight = np.ones(len(labels)) if weights is None else weights
    losses, total = np.zeros(len(penalties)), 0.0
    for learned, judged in splits:
        kept, out = blocks.rows(learned), blocks.rows(judged)
        x, z, out_x, out_z = kept.x(), kept.z(), out.x(), out.z()
        start, total = None, total + weight[judged].sum()
        for i, penalty in enumerate(penalties):
            fitted = regression(blocks, *penalty).fit(x, z, labels[learned], weight[learned], start)
            start = fitted.parameters
            probabilities = fitted.predict_proba(out_x, out_z)
            losses[i] += weight[judged] @ row_log_losses(labels[judged], probabilities)
    return losses / total


def _beside(wide: Matrix, structure: np.ndarray) -> Matrix:
    return (
        sparse.hstack([wide, structure], format="csr")
        if sparse.issparse(wide)
        else np.hstack([wide, structure])
    )
