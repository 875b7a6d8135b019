"""A Davidson regression on two blocks of features: a wide block (terms or embeddings), whose
columns are individually weak, and a block of structural features.

Each block has one penalty, chosen on inner folds of the training rows.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from humanpref.bar import Bar
from humanpref.logloss import row_log_losses
from humanpref.models.davidson import DavidsonRegression, Matrix
from humanpref.models.inner_folds import Labelled, Splits, choosing_splits

INNER_FOLDS = 4
ROUNDING = 1e-6
"""A column whose standard deviation is below this counts as constant and is not scaled: it varies
only by rounding error, which scaling would amplify."""
CLIP_STD = 10.0
"""Scaled features are clipped to the range from -`CLIP_STD` to `CLIP_STD`."""
EIGENVALUE_FLOOR = 1e-12
"""Principal axes with eigenvalues below this share of the largest one are dropped."""


class Side(NamedTuple):
    """The antisymmetric columns of n rows, which an exchange of A and B negates, or the symmetric
    ones, which it does not change. `wide` and `structure` are those of the two blocks."""

    wide: Matrix
    structure: np.ndarray

    def matrix(self) -> Matrix:
        """Return all columns, the wide block first."""
        if sparse.issparse(self.wide):
            return sparse.hstack(self, format="csr")
        return np.hstack(self)

    def rows(self, mask: np.ndarray) -> "Side":
        """Return the rows selected by the mask."""
        return Side(self.wide[mask], self.structure[mask])

    def penalties(self, wide: float, structure: float) -> np.ndarray:
        """Return the penalty of every column, (columns,), from the penalties of the two blocks."""
        return np.repeat([wide, structure], [self.wide.shape[1], self.structure.shape[1]])


class Blocks(NamedTuple):
    """The features of n rows: x changes sign if A and B are exchanged (antisymmetric); z does not
    change (symmetric)."""

    x: Side
    z: Side

    def rows(self, mask: np.ndarray) -> "Blocks":
        """Return the rows selected by the mask."""
        return Blocks(self.x.rows(mask), self.z.rows(mask))

    def matrices(self) -> tuple[Matrix, Matrix]:
        """Return x and z as the matrices that `DavidsonRegression` takes."""
        return self.x.matrix(), self.z.matrix()

    def regression(
        self, wide_penalty: float, structure_penalty: float, ties: bool = True
    ) -> DavidsonRegression:
        """Return an unfitted regression on these columns, with or without ties."""
        penalties = (side.penalties(wide_penalty, structure_penalty) for side in self)
        return DavidsonRegression(*penalties, ties)


class Penalties(NamedTuple):
    """The candidate L2 penalties for each block, in the unit of `DavidsonRegression`."""

    wide: tuple[float, ...]
    structure: tuple[float, ...]


class Choice(NamedTuple):
    """The chosen penalties, and their log loss on inner folds, in nats. The loss is None if there
    was only one candidate per block, or if there were too few prompts for choosing."""

    wide: float
    structure: float
    inner_log_loss: float | None


class Scales(NamedTuple):
    """How to scale features: the scale of each antisymmetric column (x), and the mean and the scale
    of each symmetric column (z).

    x is not centered, because an exchange of A and B would then do more than change its sign.
    """

    x_scale: np.ndarray
    z_mean: np.ndarray
    z_scale: np.ndarray

    def scaled(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the scaled columns of x and z, clipped to the range from -`CLIP_STD` to
        `CLIP_STD`.

        Without clipping, a column that hardly varied in the training rows could by itself decide
        the prediction for a row. Negating x still negates its scaled values, so x remains
        antisymmetric.
        """
        x, z = x / self.x_scale, (z - self.z_mean) / self.z_scale
        return np.clip(x, -CLIP_STD, CLIP_STD), np.clip(z, -CLIP_STD, CLIP_STD)


def scales(x: np.ndarray, z: np.ndarray, weights: np.ndarray) -> Scales:
    """Return the scales of the columns of x and z, given the rows' weights. A column that is
    constant up to rounding has scale 1."""
    z_mean = np.average(z, axis=0, weights=weights)
    variances = (np.average(columns**2, axis=0, weights=weights) for columns in (x, z - z_mean))
    x_scale, z_scale = (
        np.where(variance > ROUNDING**2, np.sqrt(variance), 1.0) for variance in variances
    )
    return Scales(x_scale, z_mean, z_scale)


def fit_blocks(
    blocks: Blocks, rows: Labelled, penalties: Penalties, seed: int, ties: bool = True
) -> tuple[DavidsonRegression, Choice]:
    """Choose a penalty for each block and fit the regression, with or without ties, on the blocks'
    columns.

    The structural columns are correlated (characters, words, sentences), which slows L-BFGS down:
    rotating them to their principal axes reduced 148 iterations to 16. Since the block has a single
    penalty, the rotation does not change the optimum.
    """
    axes = [_principal_axes(side.structure, rows.weights) for side in blocks]
    rotated = Blocks(
        *(Side(side.wide, side.structure @ own) for side, own in zip(blocks, axes, strict=True))
    )
    choice = _choose(rotated, rows, penalties, seed, ties)
    fitted = rotated.regression(choice.wide, choice.structure, ties)
    fitted.fit(*rotated.matrices(), rows.labels, rows.weights)
    for learned, own in zip((fitted.w_, fitted.v_), axes, strict=True):
        structure = learned[len(learned) - len(own) :]
        structure[:] = own @ structure
    return fitted, choice


def state_shapes(
    wide_x: int, wide_z: int, scaled_x: int, scaled_z: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that a model saves: its `Scales` and its regression weights.
    x has `wide_x` unscaled and `scaled_x` scaled columns; z has `wide_z` and `scaled_z`."""
    return {
        "x_scale": (scaled_x,),
        "z_mean": (scaled_z,),
        "z_scale": (scaled_z,),
        "w": (wide_x + scaled_x,),
        "v": (wide_z + scaled_z,),
        "c": (1,),
    }


def _principal_axes(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the principal axes of k features, (n, k), as a (k, k) matrix with one axis per column.
    An axis is zero if the features vary along it only by rounding errors."""
    with threadpool_limits(1, user_api="blas"):  # as in `DavidsonRegression.fit`
        variances, axes = np.linalg.eigh(columns.T @ (columns * weights[:, None]))
    return np.where(variances > EIGENVALUE_FLOOR * variances.max(initial=0), axes, 0)


def _choose(blocks: Blocks, rows: Labelled, penalties: Penalties, seed: int, ties: bool) -> Choice:
    """Choose the structural block's penalty in fits without the wide block. Then keep it, and
    choose the wide block's penalty.

    The vocabularies and scales were fitted on all rows, including those that an inner fold holds
    out, but not on labels. The losses are still good enough for ranking penalties.
    """
    wide, structure = penalties
    if len(structure) == len(wide) == 1:
        return Choice(wide[0], structure[0], None)
    splits = choosing_splits(rows, INNER_FOLDS, seed)
    if not splits:
        return Choice(max(wide), max(structure), None)
    candidates = [(wide[0], penalty) for penalty in structure]
    structure_only = Blocks(*(Side(side.wide[:, :0], side.structure) for side in blocks))
    best = _best(structure_only, candidates, rows, splits, ties)
    if any(side.wide.shape[1] for side in blocks):
        candidates = [(penalty, best.structure) for penalty in wide]
        best = _best(blocks, candidates, rows, splits, ties)
    return best


def _best(
    blocks: Blocks,
    candidates: list[tuple[float, float]],
    rows: Labelled,
    splits: Splits,
    ties: bool,
) -> Choice:
    """Return the (wide, structure) penalties with the lowest mean held-out log loss over the
    splits. Each fit starts from the solution of the previous one."""
    losses, total = np.zeros(len(candidates)), 0.0
    bar = Bar("choosing penalties", len(splits) * len(candidates), unit="fit")
    for learned, judged in splits:
        matrices, out = blocks.rows(learned).matrices(), blocks.rows(judged).matrices()
        labels, weights = rows.labels[learned], rows.weights[learned]
        start, total = None, total + rows.weights[judged].sum()
        for i, candidate in enumerate(candidates):
            fitted = blocks.regression(*candidate, ties).fit(*matrices, labels, weights, start)
            start = fitted.parameters
            out_losses = row_log_losses(rows.labels[judged], fitted.predict_proba(*out))
            losses[i] += rows.weights[judged] @ out_losses
            bar.advance()
    bar.close()
    best = int(np.argmin(losses))
    return Choice(*candidates[best], float(losses[best] / total))
