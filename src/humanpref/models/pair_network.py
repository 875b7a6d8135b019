"""A small neural network for pairs of answers that is swap-equivariant by construction.

    d = s(u) - s(u'),   nu = c + t(u) + t(u')      (s, t) = tanh(u W + b) V

u holds the features of a row, and u' those of the same row with A and B exchanged; W, b, V and c
are learned. The exchange negates the margin d and keeps the tie score nu, which the link of the
Davidson regression (`humanpref.models.davidson`) turns into probabilities.

The network is trained on all rows at once by L-BFGS, which draws no random numbers, so that a row
of weight 2 is equivalent to two rows. The number of steps limits overfitting.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits

from humanpref.bar import shown
from humanpref.logloss import log_loss
from humanpref.models.davidson import davidson_loss, davidson_probabilities
from humanpref.models.inner_folds import Labelled, Splits, choosing_splits

INNER_FOLDS = 4
MAX_STEPS = 300
"""Maximum number of steps that early stopping tries."""
PATIENCE = 20
"""Early stopping ends training once the inner log loss has not fallen for this many steps."""
DEFAULT_STEPS = 20
"""Number of steps if there are too few prompts for inner folds."""


class Orders(NamedTuple):
    """The inputs of the network for n rows as given (`one`), and with A and B exchanged (`other`),
    each (n, columns) float64."""

    one: np.ndarray
    other: np.ndarray

    def rows(self, mask: np.ndarray) -> "Orders":
        """Return the rows selected by the mask."""
        return Orders(self.one[mask], self.other[mask])


class PairNetwork:
    """A swap-equivariant network with one hidden layer; its formulas are in the module's docstring.

    Parameters
    ----------
    hidden : int
        Number of hidden units.
    penalty : float
        L2 penalty for the weights in W and V: for each weight w, the fit adds penalty w² / 2 to the
        loss summed over the rows.
    seed : int
        Seed for the initial W. The other parameters start at zero, except the tie score's constant
        c, which starts at the value for which P(tie) is the rate of ties.
    ties : bool
        Whether there are ties. If not, the tie score is -inf.

    Attributes
    ----------
    w_, b_, v_ : ndarray
        W, b and V: (columns, hidden), (hidden,) and (hidden, 2) float64.
    c_ : float
        The tie score's constant.
    """

    def __init__(self, hidden: int, penalty: float, seed: int, ties: bool = True) -> None:
        self.hidden, self.penalty, self.seed, self.ties = hidden, penalty, seed, ties

    def fit(
        self,
        orders: Orders,
        labels: np.ndarray,
        weights: np.ndarray,
        steps: int,
        after_step: Callable[["PairNetwork"], bool] | None = None,
    ) -> "PairNetwork":
        """Take at most `steps` steps of L-BFGS on labels (n, 3), hard or soft, with row weights
        (n,). `after_step` is called with the network after each step; training stops if it returns
        True."""
        columns, total = orders.one.shape[1], weights.sum()
        sizes = np.cumsum([columns * self.hidden, self.hidden, 2 * self.hidden])
        draws = np.random.default_rng(self.seed).normal(size=sizes[0]) / np.sqrt(max(columns, 1))
        ties = np.clip(weights @ labels[:, 2] / total, 1e-3, 1 - 1e-3)
        begin = np.zeros(sizes[-1] + 1)
        begin[: sizes[0]], begin[-1] = draws, np.log(2 * ties / (1 - ties))
        penalties = np.full(len(begin), self.penalty)
        penalties[sizes[0] : sizes[1]] = penalties[-1] = 0.0

        def place(parameters: np.ndarray) -> None:
            w, self.b_, v, (self.c_,) = np.split(parameters, sizes)
            self.w_, self.v_ = w.reshape(columns, self.hidden), v.reshape(self.hidden, 2)

        def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            place(parameters)
            units = [self._units(inputs) for inputs in orders]
            loss, by_d, by_nu = davidson_loss(*self._scores(*units), labels, weights)
            loss += penalties @ parameters**2 / 2
            gradient = penalties * parameters
            gradient[-1] += by_nu.sum()
            for inputs, own, sign in zip(orders, units, (1, -1), strict=True):
                by_outputs = np.stack([sign * by_d, by_nu], axis=1)
                by_sums = by_outputs @ self.v_.T * (1 - own**2)
                parts = inputs.T @ by_sums, by_sums.sum(axis=0), own.T @ by_outputs
                gradient[:-1] += np.concatenate([part.ravel() for part in parts])
            return loss / total, gradient / total

        def callback(intermediate_result: OptimizeResult) -> None:
            place(intermediate_result.x)
            if after_step is not None and after_step(self):
                raise StopIteration

        options = {"maxiter": steps, "ftol": 0.0, "gtol": 1e-7, "maxfun": 10 * steps}
        with threadpool_limits(1, user_api="blas"):  # as in `DavidsonRegression.fit`
            optimum = minimize(
                *(objective, begin), jac=True, method="L-BFGS-B", callback=callback, options=options
            )
        place(optimum.x)
        return self

    def predict_proba(self, orders: Orders) -> np.ndarray:
        """Return the probabilities of each row, (n, 3) float64."""
        return davidson_probabilities(*self._scores(*map(self._units, orders)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the learned weights by name, for `restored`."""
        return {"w": self.w_, "b": self.b_, "v": self.v_, "c": np.array([self.c_])}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], ties: bool = True) -> "PairNetwork":
        """Return a fitted network from the arrays that the method `arrays` returned."""
        network = cls(len(arrays["b"]), 0.0, 0, ties)
        network.w_, network.b_, network.v_ = arrays["w"], arrays["b"], arrays["v"]
        (network.c_,) = arrays["c"]
        return network

    def _units(self, inputs: np.ndarray) -> np.ndarray:
        return np.tanh(inputs @ self.w_ + self.b_)

    def _scores(self, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the margin d and the tie score nu, each (n,), from the hidden units of both
        orders, each (n, hidden)."""
        (s, t), (s_other, t_other) = (one @ self.v_).T, (other @ self.v_).T
        nu = self.c_ + t + t_other if self.ties else np.full(len(s), -np.inf)
        return s - s_other, nu


def network_shapes(columns: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of `PairNetwork.arrays`."""
    return {"w": (columns, hidden), "b": (hidden,), "v": (hidden, 2), "c": (1,)}


def fit_network(
    orders: Orders, rows: Labelled, network: PairNetwork, steps: int | None
) -> tuple[PairNetwork, int, float | None]:
    """Choose the number of steps on inner folds unless it is given, and train the network on all
    rows.

    Returns
    -------
    network : PairNetwork
        The given network, now fitted.
    steps : int
        The number of steps.
    inner_log_loss : float or None
        The log loss on inner folds at that number of steps, in nats; None if nothing was chosen.
    """
    inner = None
    splits = [] if steps else choosing_splits(rows, INNER_FOLDS, network.seed)
    if splits:
        steps, inner = _best_steps(orders, rows, network, splits)
    steps = steps or DEFAULT_STEPS
    return network.fit(orders, rows.labels, rows.weights, steps), steps, inner


def _best_steps(
    orders: Orders, rows: Labelled, network: PairNetwork, splits: Splits
) -> tuple[int, float]:
    """Return the number of steps with the lowest mean held-out log loss over the splits, and that
    loss. If training stops earlier on one split than on others, its last loss counts for the
    remaining steps."""
    paths, shares = [], []
    for learned, judged in shown(splits, "choosing the number of steps", "fold"):
        out, labels, weights = orders.rows(judged), rows.labels[judged], rows.weights[judged]
        losses: list[float] = []

        def after_step(network: PairNetwork) -> bool:
            losses.append(log_loss(labels, network.predict_proba(out), weights))  # noqa: B023
            return len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE  # noqa: B023

        own = orders.rows(learned), rows.labels[learned], rows.weights[learned]
        network.fit(*own, MAX_STEPS, after_step)
        paths.append(losses)
        shares.append(weights.sum())
    longest = max(map(len, paths))
    padded = [np.pad(path, (0, longest - len(path)), mode="edge") for path in paths]
    means = np.average(padded, axis=0, weights=shares)
    best = int(np.argmin(means))
    return best + 1, float(means[best])
