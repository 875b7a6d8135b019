"""Fit the weights of a blend on its members' predictions for rows on which they were not trained.

    arithmetic   p = sum_m w_m p_m
    geometric    p ∝ exp(sum_m w_m ln p_m)

where p_m are the probabilities that member m predicts, w_m >= 0 and sum_m w_m = 1. The mean p is
then corrected, among other things by a temperature T (`humanpref.models.blend_correction`).

Fitting the weights is a convex problem for both means, and so is fitting 1/T once the weights are
known. The result therefore does not depend on a starting point.
"""

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from humanpref.config.cpu import BlendOptions
from humanpref.logloss import CLIP
from humanpref.models.blend_correction import (
    Correction,
    HeldOutRows,
    fit_correction,
    fit_temperature,
)
from humanpref.text.cases import CASES

logger = logging.getLogger(__name__)

GAP = 1e-6
"""A fit logs a warning if the mean log loss of its weights may exceed the minimum by more than
this, in nats."""


@dataclass(frozen=True)
class Blend:
    """A weighted mean of m members' probabilities, followed by a correction."""

    mean: str
    """`arithmetic` or `geometric`."""
    weights: np.ndarray
    """(m,) weights, at least 0 and summing to 1; a dropped member has weight 0."""
    correction: Correction = field(default_factory=Correction)
    """The correction that is applied to the mean."""
    ties: bool = True
    """Whether the members predict ties. If not, the log probability of a tie is -inf."""

    def __call__(self, probabilities: np.ndarray, cases: np.ndarray | None = None) -> np.ndarray:
        """Blend the members' probabilities, (m, n, 3), into (n, 3). `cases`, (n,), says which rows
        have empty or identical answers (`humanpref.text.cases`); without it, all rows are treated
        alike."""
        return np.exp(self.correction(self.mixed(probabilities), cases))

    def mixed(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the logarithm of the members' weighted mean, (n, 3), before it is corrected."""
        probabilities = np.maximum(probabilities, CLIP)
        if self.mean == "geometric":
            logs = np.tensordot(self.weights, np.log(probabilities), axes=1)
        else:
            logs = np.log(np.tensordot(self.weights, probabilities, axes=1))
        if not self.ties:
            logs[:, 2] = -np.inf
        return log_softmax(logs, axis=1) if self.mean == "geometric" else logs

    def facts(self) -> dict[str, Any]:
        """Return the kind of mean and the correction, but not the weights, as plain JSON types."""
        rates = zip(CASES, self.correction.rates, strict=True)
        return {
            "mean": self.mean,
            "temperature": self.correction.temperature,
            "rates": {case: own.tolist() for case, own in rates if own.any()},
        }


def mix(blend: Blend, probabilities: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Blend m members' probabilities, (m, n, 3), into (n, 3). In each row, only members whose
    probabilities are not NaN are used; if none of these has a positive weight, the result is NaN.

    `cases`, (n,), says which rows have empty or identical answers; see `humanpref.text.cases`.
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


def equal_blend(mean: str, members: int, ties: bool = True) -> Blend:
    """Return a blend of this many members with equal weights and no correction. `ties` says whether
    they predict ties."""
    return Blend(mean, np.full(members, 1 / members), ties=ties)


def fit_blend(
    probabilities: np.ndarray, rows: HeldOutRows, options: BlendOptions, ties: bool = True
) -> tuple[Blend, dict[int, str], list[dict[str, Any]]]:
    """Fit the weights with the lowest log loss, drop members that hardly lower it, and fit the
    correction.

    Parameters
    ----------
    probabilities : ndarray
        (m, n, 3) predictions of m members.
    rows : HeldOutRows
        The n predicted rows.
    options : BlendOptions
        `shrinkage` is s in two penalties, which are added to the log loss summed over all rows (in
        nats): s/2 |w - 1/m|² for the weights w, and s/2 (1/T - 1)² for the temperature T. They act
        as a Gaussian prior around the plain mean, with standard deviation 1/sqrt(s): 0.3 for
        s = 10. The prior matters with a thousand rows, where the weights would otherwise follow
        noise, but not with fifty thousand.

        `min_gain` is the number of nats by which a member must lower the summed log loss; otherwise
        it is dropped. The least useful member goes first, and the others are fitted again after
        each removal. The default, one nat, is the amount that Akaike's information criterion
        charges for a parameter.
    ties : bool
        Whether the members predict ties.

    Returns
    -------
    blend : Blend
        The blend of all m members; dropped ones have weight 0.
    dropped : dict
        The reason for dropping each dropped member, by the member's index.
    cases : list of dict
        Facts about rows with empty or identical answers; see `fit_correction`.

    Sources: Breiman (1996), "Stacked regressions", here with log loss instead of squared error;
    Genest and Zidek (1986), for both kinds of mean.
    """
    probabilities = np.maximum(probabilities, CLIP)
    dropped: dict[int, str] = {}
    kept = list(range(len(probabilities)))

    def fit(members: list[int]) -> tuple[np.ndarray, float]:
        """Return the weights, and their log loss at the best temperature, summed over all rows."""
        weights = _fit_weights(probabilities[members], rows, options)
        logs = Blend(options.mean, weights).mixed(probabilities[members])
        corrected = fit_temperature(logs, rows, options.shrinkage)(logs)
        return weights, float(rows.losses(corrected).sum())

    best, loss = fit(kept)
    while len(kept) > 1:
        trials = {member: fit([other for other in kept if other != member]) for member in kept}
        cheapest = min(trials, key=lambda member: trials[member][1])
        cost = trials[cheapest][1] - loss
        if cost >= options.min_gain:
            break
        dropped[cheapest] = (
            f"leaving it out {'raises' if cost > 0 else 'lowers'} the summed log loss by "
            f"{abs(cost):.2g} nats (a member must lower it by at least {options.min_gain:g})"
        )
        kept.remove(cheapest)
        best, loss = trials[cheapest]
    weights = np.zeros(len(probabilities))
    weights[kept] = best
    blend = Blend(options.mean, weights)
    logs = blend.mixed(probabilities)
    correction, cases = fit_correction(logs, rows, options.shrinkage, ties)
    return dataclasses.replace(blend, correction=correction, ties=ties), dropped, cases


def _fit_weights(probabilities: np.ndarray, rows: HeldOutRows, options: BlendOptions) -> np.ndarray:
    """Return the weights, (m,), that minimize the penalized log loss on the simplex."""
    equal = equal_blend(options.mean, len(probabilities)).weights
    total = rows.weights.sum()

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logs = Blend(options.mean, weights).mixed(probabilities)
        if options.mean == "geometric":
            residual = (np.exp(logs) - rows.labels) * rows.weights[:, None]
            gradient = np.tensordot(np.log(probabilities), residual, axes=2)
        else:
            ratio = rows.labels / np.exp(logs) * rows.weights[:, None]
            gradient = -np.tensordot(probabilities, ratio, axes=2)
        away = weights - equal
        loss = rows.losses(logs).sum() + options.shrinkage * away @ away / 2
        return loss / total, (gradient + options.shrinkage * away) / total

    optimum = minimize(
        objective,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(equal),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    weights = np.clip(optimum.x, 0, None)
    weights /= weights.sum()
    # The objective is convex, so it lies above its tangents. The gap therefore bounds the distance
    # to its minimum on the simplex.
    gradient = objective(weights)[1]
    gap = weights @ gradient - gradient.min()
    if not gap <= GAP:
        logger.warning(
            "blend: the log loss may be %.2g nats above its minimum (%s)", gap, optimum.message
        )
    return weights
