"""Davidson regression: a linear model of paired comparison with ties that is swap-equivariant by
construction.

    P(A), P(B), P(tie)  ∝  exp(d/2), exp(-d/2), exp(nu)        d = x · w,   nu = c + z · v

with x antisymmetric and z symmetric under an exchange of A and B. d then changes its sign and nu
stays, so that P(A) and P(B) change places. It is the multinomial logistic regression that is
restricted to that symmetry; fitting it on the rows as they are equals fitting the unrestricted one
on the rows and their mirror images, at half the cost.

Source: Davidson (1970), "On extending the Bradley-Terry model to accommodate ties in paired
comparison experiments", eq. 2.5.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

Matrix = Any
"""A dense array or a scipy sparse matrix of shape (n, columns)."""


def davidson_probabilities(d: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """P(A), P(B), P(tie) from the margin and the tie score.

    Parameters
    ----------
    d, nu : ndarray
        (n,) float64, any real numbers.

    Returns
    -------
    ndarray
        (n, 3) float64, rows summing to 1. d = nu = 0 gives a third each; d = 2 ln 2, nu = 0 gives
        (4, 1, 2) / 7.
    """
    scores = np.stack([d / 2, -d / 2, nu], axis=1)
    scores -= scores.max(axis=1, keepdims=True)
    raised = np.exp(scores)
    return raised / raised.sum(axis=1, keepdims=True)


class DavidsonRegression:
    """Fitted by maximum likelihood with an L2 penalty.

    Parameters
    ----------
    penalty_x, penalty_z : ndarray
        (columns of x,) and (columns of z,): each weight's, in units of rows: sum_i loss_i + sum_j
        penalty_j w_j² / 2.
    max_iterations : int
        Of L-BFGS.

    Attributes
    ----------
    w_, v_ : ndarray
        Weights of x and of z.
    c_ : float
        The tie score's constant; not penalised.
    """

    def __init__(
        self, penalty_x: np.ndarray, penalty_z: np.ndarray, max_iterations: int = 300
    ) -> None:
        self.penalty_x = penalty_x
        self.penalty_z = penalty_z
        self.max_iterations = max_iterations

    def fit(
        self,
        x: Matrix,
        z: Matrix,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ) -> "DavidsonRegression":
        """Fit to labels (n, 3), hard or soft, with row weights (n,); `start` is another fit's
        `parameters`."""
        weight = np.ones(len(labels)) if weights is None else weights
        columns, both = x.shape[1], x.shape[1] + z.shape[1]
        penalty = np.concatenate([self.penalty_x, self.penalty_z, [0.0]])
        transposed_x, transposed_z = x.T, z.T
        total = weight.sum()
        # The optimizer sees each weight in units in which the loss curves alike, about as it does
        # where the three classes are equally likely: the same optimum, mostly in fewer iterations
        # (237 to 39 at best, 97 to 101 at worst, of 4,000 rows).
        curvature = [_squares(x, weight) / 6, _squares(z, weight) * 2 / 9, [total * 2 / 9]]
        curved = np.concatenate(curvature) + penalty
        scale = 1 / np.sqrt(np.where(curved > 0, curved, 1.0))

        def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = scale * scaled
            d = x @ parameters[:columns]
            nu = z @ parameters[columns:both] + parameters[-1]
            scores = np.stack([d / 2, -d / 2, nu], axis=1)
            top = scores.max(axis=1, keepdims=True)
            log_sum = top[:, 0] + np.log(np.exp(scores - top).sum(axis=1))
            loss = weight @ (log_sum - (labels * scores).sum(axis=1))
            residual = (np.exp(scores - log_sum[:, None]) - labels) * weight[
                :, None
            ]  # d loss / d scores, (n, 3)
            by_d, by_nu = (residual[:, 0] - residual[:, 1]) / 2, residual[:, 2]
            gradient = np.concatenate([transposed_x @ by_d, transposed_z @ by_nu, [by_nu.sum()]])
            # Divided by the weight of all rows, so that the optimizer's `ftol` means the same at
            # any size.
            return (loss + penalty @ parameters**2 / 2) / total, scale * (
                gradient + penalty * parameters
            ) / total

        begin = np.zeros(both + 1) if start is None else start / scale
        bounds = {"maxiter": self.max_iterations, "ftol": 1e-9, "gtol": 3e-7, "maxcor": 10}
        # The optimizer's vectors are too short to share among threads, and BLAS threads that wait
        # for a busy core are ruinous: 14 s against 0.2 s for one fit of 800 rows was measured
        # beside two other busy processes.
        with threadpool_limits(1, user_api="blas"):
            found = minimize(objective, begin, jac=True, method="L-BFGS-B", options=bounds)
        self.parameters = scale * found.x
        self.w_, self.v_, self.c_ = (
            self.parameters[:columns],
            self.parameters[columns:both],
            float(self.parameters[-1]),
        )
        self.iterations_ = int(found.nit)
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learned, by name; `restored` reads it back."""
        return {"w": self.w_, "v": self.v_, "c": np.array([self.c_])}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray]) -> "DavidsonRegression":
        """A fitted regression from `arrays`."""
        made = cls(np.empty(0), np.empty(0))
        made.w_, made.v_, made.c_ = arrays["w"], arrays["v"], float(arrays["c"][0])
        return made

    def predict_proba(self, x: Matrix, z: Matrix) -> np.ndarray:
        """(n, 3) float64 probabilities."""
        return davidson_probabilities(x @ self.w_, z @ self.v_ + self.c_)


def _squares(x: Matrix, weight: np.ndarray) -> np.ndarray:
    """(columns,) the weighted sum of each column's squares."""
    return weight @ (x.power(2) if sparse.issparse(x) else x**2)
