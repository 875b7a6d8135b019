"""The weights of a blend, fitted on members' predictions for rows that they did not learn from.

    arithmetic   p = sum_m w_m p_m
    geometric    p ∝ exp(sum_m w_m ln p_m)

with w_m >= 0, sum_m w_m = 1; then corrected (`humanpref.models.blend_correction`).

Both weight problems are convex, and so is that of 1/T once the weights are known: the fit does not
depend on a start.
"""

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from humanpref.config.cpu import BlendOptions
from humanpref.logloss import CLIP
from humanpref.models.blend_correction import Correction, fit_correction, fit_temperature
from humanpref.text.cases import CASES

logger = logging.getLogger(__name__)

GAP = 1e-6
"""The weights' mean log loss may exceed the least possible one by this many nats without a
warning."""
COPY = 1e-9
"""Members whose probabilities nowhere differ by more are copies."""


@dataclass(frozen=True)
class Blend:
    """How m members' probabilities become one: a pure function with its parameters."""

    mean: str
    """`arithmetic` or `geometric`."""
    weights: np.ndarray
    """(m,), at least 0, summing to 1; 0: dropped."""
    correction: Correction = field(default_factory=Correction)
    """Of the mean."""

    def __call__(self, probabilities: np.ndarray, cases: np.ndarray | None = None) -> np.ndarray:
        """(n, 3) from the members' (m, n, 3), and the rows' cases (`humanpref.text.cases`), where
        they are known."""
        return np.exp(self.correction(self.mixed(probabilities), cases))

    def mixed(self, probabilities: np.ndarray) -> np.ndarray:
        """The mean's log probabilities (n, 3), not corrected."""
        probabilities = np.maximum(probabilities, CLIP)
        if self.mean == "geometric":
            return log_softmax(np.tensordot(self.weights, np.log(probabilities), axes=1), axis=1)
        return np.log(np.tensordot(self.weights, probabilities, axes=1))

    def facts(self) -> dict[str, Any]:
        """Its mean and correction, without the weights, as plain JSON types."""
        own = self.correction
        return {
            "mean": self.mean,
            "temperature": own.temperature,
            "offsets": {
                case: offset.tolist()
                for case, offset in zip(CASES, own.offsets, strict=True)
                if offset.any()
            },
        }


def mix(blend: Blend, probabilities: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Blend (m, n, 3) into (n, 3), each row by the weights of the members that are not NaN; NaN
    where there is none.

    `cases` (n,) are the rows' (`humanpref.text.cases`).
    """
    known = ~np.isnan(probabilities[:, :, 0].transpose())  # (n, m)
    mixed = np.full(probabilities.shape[1:], np.nan)
    for pattern in np.unique(known, axis=0):
        weights = blend.weights[pattern]
        if weights.sum() > 0:
            rows = (known == pattern).all(axis=1)
            mixed[rows] = dataclasses.replace(blend, weights=weights / weights.sum())(
                probabilities[pattern][:, rows], cases[rows]
            )
    return mixed


def equal_blend(mean: str, members: int) -> Blend:
    """Equal weights, no correction."""
    return Blend(mean, np.full(members, 1 / members))


def fit_blend(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    mean: str = "arithmetic",
    shrinkage: float = 10.0,
    min_gain: float = 1.0,
) -> tuple[Blend, dict[int, str]]:
    """The blend of least log loss, without the members that it does not need.

    Parameters
    ----------
    probabilities : ndarray
        (m, n, 3): each member's, for rows that it did not learn from.
    labels : ndarray
        (n, 3), hard or soft.
    weights : ndarray, optional
        (n,) the rows' weights; 2 equals the row twice.
    mean : str
        `arithmetic` or `geometric`.
    shrinkage : float
        s in the penalties s/2 |w - 1/m|² and s/2 (1/T - 1)², in nats over all rows. It is a
        Gaussian prior of standard deviation 1/sqrt(s) around the plain mean, 0.3 for s = 10: felt
        with a thousand rows, whose weights would else follow noise, and not with fifty thousand.
    min_gain : float
        A member whose removal costs less than this, in nats over all rows, is dropped, the cheapest
        first, and the others are fitted again. One nat is Akaike's price of one parameter.

    Returns
    -------
    (Blend, dict)
        The blend of all m members, and why members were dropped (weight 0), by their number. A copy
        of an earlier member is dropped before anything is fitted, so that it changes nothing.

    Source: Breiman (1996), "Stacked regressions", with log loss for squares; Genest and Zidek
    (1986) on both means.
    """
    row_weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    probabilities = np.maximum(np.asarray(probabilities, dtype=np.float64), CLIP)
    dropped: dict[int, str] = {}
    kept: list[int] = []
    for member, own in enumerate(probabilities):
        twin = next(
            (other for other in kept if np.abs(own - probabilities[other]).max() <= COPY), None
        )
        if twin is None:
            kept.append(member)
        else:
            dropped[member] = f"the same as member {twin + 1}"

    def fit(members: list[int]) -> tuple[Blend, float]:
        return _fit_all(probabilities[members], labels, row_weights, mean, shrinkage)

    best, loss = fit(kept)
    while len(kept) > 1:
        trials = {member: fit([other for other in kept if other != member]) for member in kept}
        cheapest = min(trials, key=lambda member: trials[member][1])
        cost = trials[cheapest][1] - loss
        if cost >= min_gain:
            break
        change = (
            f"raises the log loss by {cost:.2g}"
            if cost > 0
            else f"lowers the log loss by {-cost:.2g}"
        )
        dropped[cheapest] = (
            f"leaving it out {change} nats over all rows (kept from {min_gain:g} on)"
        )
        kept.remove(cheapest)
        best, loss = trials[cheapest]
    all_weights = np.zeros(len(probabilities))
    all_weights[kept] = best.weights
    return dataclasses.replace(best, weights=all_weights), dropped


def fit_corrected_blend(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    options: BlendOptions,
    folds: np.ndarray,
    cases: np.ndarray,
) -> tuple[Blend, dict[int, str], list[dict[str, Any]]]:
    """The blend of `fit_blend` with the correction of `fit_correction`: the blend, why members were
    dropped, what was tried."""
    blend, dropped = fit_blend(
        probabilities, labels, weights, options.mean, options.shrinkage, options.min_gain
    )
    counts = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    correction, tried = fit_correction(
        blend.mixed(probabilities),
        labels,
        counts,
        options.shrinkage,
        options.min_gain,
        folds,
        cases,
    )
    return dataclasses.replace(blend, correction=correction), dropped, tried


def _fit_all(
    probabilities: np.ndarray,
    labels: np.ndarray,
    row_weights: np.ndarray,
    mean: str,
    shrinkage: float,
) -> tuple[Blend, float]:
    """A blend that keeps every member, and its log loss summed over the rows, the penalties
    apart."""
    weights = _fit_weights(probabilities, labels, row_weights, mean, shrinkage)
    blend = Blend(mean, weights)
    mixed = blend.mixed(probabilities)
    correction = fit_temperature(mixed, labels, row_weights, shrinkage)
    loss = -(row_weights @ (labels * correction(mixed)).sum(axis=1))
    return dataclasses.replace(blend, correction=correction), float(loss)


def _fit_weights(
    probabilities: np.ndarray,
    labels: np.ndarray,
    row_weights: np.ndarray,
    mean: str,
    shrinkage: float,
) -> np.ndarray:
    """The weights (m,) on the simplex."""
    members, total = len(probabilities), row_weights.sum()
    equal = np.full(members, 1 / members)
    if members == 1:
        return equal
    logs = np.log(probabilities)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        if mean == "geometric":
            scores = np.tensordot(weights, logs, axes=1)
            log_sum = logsumexp(scores, axis=1, keepdims=True)
            loss = row_weights @ (log_sum[:, 0] - (labels * scores).sum(axis=1))
            gradient = np.tensordot(
                logs, (np.exp(scores - log_sum) - labels) * row_weights[:, None], axes=2
            )
        else:
            mixed = np.maximum(np.tensordot(weights, probabilities, axes=1), CLIP)
            loss = -(row_weights @ (labels * np.log(mixed)).sum(axis=1))
            gradient = -np.tensordot(probabilities, labels / mixed * row_weights[:, None], axes=2)
        away = weights - equal
        return (loss + shrinkage * away @ away / 2) / total, (gradient + shrinkage * away) / total

    on_simplex = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-13, "maxiter": 500}
    found = minimize(
        objective,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints=on_simplex,
        options=options,
    )
    weights = np.clip(found.x, 0, None)
    weights /= weights.sum()
    # A convex function lies above its tangents: w · g - min g bounds how far the loss is above the
    # least one on the simplex.
    gradient = objective(weights)[1]
    gap = weights @ gradient - gradient.min()
    if not gap <= GAP:
        logger.warning(
            "blend: the weights' log loss may be %.2g above the least possible (%s)",
            gap,
            found.message,
        )
    return weights
