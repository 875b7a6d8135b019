"""Davidson regression: a linear model of paired comparisons with ties that is swap-equivariant by
construction.

    P(A), P(B), P(tie)  ∝  exp(d/2), exp(-d/2), exp(nu)        d = x · w,   nu = c + z · v

w, v and c are learned. x are features that an exchange of A and B negates, and z features that it
does not change. The exchange therefore negates the margin d and keeps the tie score nu, so P(A) and
P(B) trade places. This is multinomial logistic regression restricted to that symmetry. Fitting it
on the original rows is equivalent to fitting the unrestricted model on the rows and their mirror
images, at half the cost.

Source: Davidson (1970), "On extending the Bradley-Terry model to accommodate ties in paired
comparison experiments", eq. 2.5.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

Matrix = Any
"""A dense array or a scipy sparse matrix of shape (n, columns)."""


def davidson_probabilities(d: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """Return P(A), P(B), P(tie) from the margin and the tie score.

    Parameters
    ----------
    d, nu : ndarray
        (n,) float64. The margin d is any real number. The tie score nu may also be -inf, in which
        case P(tie) is exactly 0.

    Returns
    -------
    ndarray
        (n, 3) float64, rows summing to 1. d = nu = 0 gives 1/3 for each class; d = 2 ln 2, nu = 0
        gives (4, 1, 2) / 7.
    """
    return np.exp(_log_probabilities(d, nu))


def davidson_loss(
    d: np.ndarray, nu: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the log loss summed over weighted rows, in nats, and its derivatives with respect to
    each row's d and nu.

    Parameters
    ----------
    d, nu, weights : ndarray
        (n,) float64. Where nu is -inf, the label of a tie must be 0.
    labels : ndarray
        (n, 3) float64, hard or soft.
    """
    logs = _log_probabilities(d, nu)
    by_a, by_b, by_nu = ((np.exp(logs) - labels) * weights[:, None]).T
    likelihoods = np.multiply(labels, logs, out=np.zeros_like(logs), where=labels > 0)
    return float(-(weights @ likelihoods.sum(axis=1))), (by_a - by_b) / 2, by_nu


def _log_probabilities(d: np.ndarray, nu: np.ndarray) -> np.ndarray:
    return log_softmax(np.stack([d / 2, -d / 2, nu], axis=1), axis=1)


class DavidsonRegression:
    """A Davidson regression on antisymmetric features x and symmetric features z, fitted by maximum
    likelihood with an L2 penalty.

    Parameters
    ----------
    penalty_x, penalty_z : ndarray
        L2 penalties, one for each column of x and of z, in units of rows: the fit minimizes sum_i
        loss_i + sum_j penalty_j w_j² / 2.
    ties : bool
        Whether there are ties. If not, the tie score is -inf, and `v_` and `c_` are 0.

    Attributes
    ----------
    w_, v_ : ndarray
        Weights of x and of z.
    c_ : float
        The tie score's constant, which is not penalized.
    parameters : ndarray
        Concatenation of `w_`, `v_` and `c_`.
    iterations_ : int
        Iterations of L-BFGS, at most 300.
    """

    def __init__(self, penalty_x: np.ndarray, penalty_z: np.ndarray, ties: bool = True) -> None:
        self.penalty_x = penalty_x
        self.penalty_z = penalty_z
        self.ties = ties

    def fit(
        self,
        x: Matrix,
        z: Matrix,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ) -> "DavidsonRegression":
        """Fit to labels (n, 3), hard or soft, with row weights (n,). The optimizer starts from
        `start`, the `parameters` of an earlier fit, or by default from zeros."""
        weights = np.ones(len(labels)) if weights is None else weights
        total, parts = weights.sum(), [x.shape[1], x.shape[1] + z.shape[1]]
        penalty = np.concatenate([self.penalty_x, self.penalty_z, [0.0]])
        # Parameters are rescaled so that the loss has roughly equal curvature in each of them,
        # assuming equally likely classes. The optimum is the same, but usually takes fewer
        # iterations: on 4,000 rows, 39 instead of 237 at best, and 101 instead of 97 at worst.
        curvature = [_squares(x, weights) / 6, _squares(z, weights) * 2 / 9, [total * 2 / 9]]
        curvature = np.concatenate(curvature) + penalty
        scale = 1 / np.sqrt(np.where(curvature > 0, curvature, 1.0))

        def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = scale * scaled
            w, v, c = np.split(parameters, parts)
            loss, by_d, by_nu = davidson_loss(x @ w, self._tie_scores(z, v, c), labels, weights)
            loss += penalty @ parameters**2 / 2
            gradient = np.concatenate([x.T @ by_d, z.T @ by_nu, [by_nu.sum()]])
            # Divide by the total weight, so that the optimizer's `ftol` means the same for any
            # number of rows.
            return loss / total, scale * (gradient + penalty * parameters) / total

        begin = np.zeros(len(scale)) if start is None else start / scale
        options = {"maxiter": 300, "ftol": 1e-9, "gtol": 3e-7, "maxcor": 10}
        # The optimizer's vectors are too short to divide among threads, and BLAS threads waiting
        # for a busy core are ruinous: alongside two other busy processes, one fit of 800 rows took
        # 14 s instead of 0.2 s.
        with threadpool_limits(1, user_api="blas"):
            optimum = minimize(objective, begin, jac=True, method="L-BFGS-B", options=options)
        self.parameters = scale * optimum.x
        self.w_, self.v_, (self.c_,) = np.split(self.parameters, parts)
        self.iterations_ = int(optimum.nit)
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the learned weights by name, for `restored`."""
        return {"w": self.w_, "v": self.v_, "c": np.array([self.c_])}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], ties: bool = True) -> "DavidsonRegression":
        """Return a fitted regression from the arrays that the method `arrays` returned."""
        regression = cls(np.empty(0), np.empty(0), ties)
        regression.w_, regression.v_, (regression.c_,) = (arrays[name] for name in ("w", "v", "c"))
        return regression

    def predict_proba(self, x: Matrix, z: Matrix) -> np.ndarray:
        """Return the probabilities of each row, (n, 3) float64."""
        return davidson_probabilities(x @ self.w_, self._tie_scores(z, self.v_, self.c_))

    def _tie_scores(self, z: Matrix, v: np.ndarray, c: np.ndarray | float) -> np.ndarray:
        """Return the tie score nu of each row, (n,)."""
        return z @ v + c if self.ties else np.full(z.shape[0], -np.inf)


def _squares(x: Matrix, weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum of each column's squares, (columns,)."""
    return weights @ (x.power(2) if sparse.issparse(x) else x**2)
