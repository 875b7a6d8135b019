"""What is set right in probabilities once they are mixed: their sharpness, and the rows whose
answers are empty or the same.

    one temperature   p_c^(1/T), normalised
    vector scaling    p_A^(1/T), p_B^(1/T), p_tie^(r/T) e^b, normalised: A and B share theirs, so
                      that exchanging them stays exact
    a special case    in its rows, beside that, p_c times (its rate of class c / the mean prediction
                      of class c), normalised

Vector scaling and each special case are used only where they pay on inner folds. What is mixed
comes as it is: the weights of the mix have seen the inner held-out rows, with and without a
correction alike.

Source: Guo et al. (2017), "On calibration of modern neural networks", on both scalings; Saerens et
al. (2002), "Adjusting the outputs of a classifier to new a priori probabilities", on the ratio of
rates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from humanpref.schema import SWAPPED_CLASSES
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, CASES, IDENTICAL

TIE = 2
SHARPNESS = (0.25, 4.0)
"""Of 1/T and r/T."""
BIAS = (-3.0, 3.0)
CASE_ROWS = 20
"""A special case is learned from at least so many rows."""
KINDS = {
    "identical answers": (IDENTICAL, IDENTICAL),
    "two empty answers": (BOTH_EMPTY, BOTH_EMPTY),
    "one empty answer": (A_EMPTY, B_EMPTY),
}
"""The special cases that are learned together: a case, and what it is when A and B are
exchanged."""


@dataclass(frozen=True)
class Correction:
    """A pure function of log probabilities, with its parameters."""

    temperature: float = 1.0
    """Above 1 softens, below 1 sharpens."""
    tie_scale: float = 1.0
    """r: how much more the tie is sharpened."""
    tie_bias: float = 0.0
    """b, in nats."""
    offsets: np.ndarray = field(default_factory=lambda: np.zeros((len(CASES), 3)))
    """(4, 3) nats added in the rows of each of `CASES`; zeros where nothing is known of them."""

    def __call__(self, logs: np.ndarray, cases: np.ndarray | None = None) -> np.ndarray:
        """Log probabilities (n, 3) from log probabilities (n, 3), and the rows' cases (n,) as
        `answer_cases` names them."""
        scores = logs / self.temperature
        scores[:, TIE] = self.tie_scale * scores[:, TIE] + self.tie_bias
        if cases is not None:
            for case, offset in zip(CASES, self.offsets, strict=True):
                scores[cases == case] += offset
        return log_softmax(scores, axis=1)


def fit_correction(
    logs: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    shrinkage: float,
    min_gain: float,
    folds: np.ndarray,
    cases: np.ndarray | None = None,
) -> tuple[Correction, list[dict[str, Any]]]:
    """The temperature, or what does better than that on inner folds.

    Parameters
    ----------
    logs : ndarray
        (n, 3) log probabilities.
    labels : ndarray
        (n, 3), hard or soft.
    weights : ndarray
        (n,) the rows' weights; 2 equals the row twice.
    shrinkage : float
        See `fit_temperature`, `fit_vector_scaling` and `fit_offsets`.
    min_gain : float
        A correction is used if it lowers the log loss of inner held-out rows by more, in nats over
        all rows.
    folds : ndarray
        (n,) the rows' inner folds. With one alone there is nothing to choose by: the temperature is
        all.
    cases : ndarray, optional
        (n,) the rows' cases, where they are known.

    Returns
    -------
    (Correction, list)
        And what was tried, as plain JSON types: `correction`, `gain` (nats over all rows, out of
        fold), `used`, and of special cases `rows`, `predicted` (the mean) and `rates` (shrunk),
        A_EMPTY standing for its mirror image as well.
    """

    def temperature(rows: np.ndarray) -> Correction:
        return fit_temperature(logs[rows], labels[rows], weights[rows], shrinkage)

    def vector(rows: np.ndarray) -> Correction:
        return fit_vector_scaling(logs[rows], labels[rows], weights[rows], shrinkage)

    def held_out(fit: Callable[[np.ndarray], Correction]) -> np.ndarray:
        """Each row's weighted loss under what the other folds give, (n,)."""
        losses = np.empty(len(logs))
        for fold in np.unique(folds):
            judged = folds == fold
            told = fit(~judged)(logs[judged], None if cases is None else cases[judged])
            losses[judged] = -(labels[judged] * told).sum(axis=1)
        return weights * losses

    everywhere = np.ones(len(logs), dtype=bool)
    if len(np.unique(folds)) < 2:
        return temperature(everywhere), []
    scaled = held_out(temperature)
    by_vector = held_out(vector)
    gain = float((scaled - by_vector).sum())
    tried: list[dict[str, Any]] = [
        {"correction": "vector scaling", "gain": gain, "used": gain > min_gain}
    ]
    scaling, scaled = (vector, by_vector) if gain > min_gain else (temperature, scaled)
    correction = scaling(everywhere)
    if cases is None:
        return correction, tried

    def with_offsets(rows: np.ndarray) -> Correction:
        return fit_offsets(
            scaling(rows), logs[rows], labels[rows], weights[rows], cases[rows], shrinkage
        )[0]

    gains = scaled - held_out(with_offsets)
    fitted, facts = fit_offsets(correction, logs, labels, weights, cases, shrinkage)
    offsets = np.zeros_like(fitted.offsets)
    for name, kind in KINDS.items():
        rows = np.isin(cases, kind)
        fact = {"correction": name, "rows": int(rows.sum()), "used": False}
        if weights[rows].sum() >= CASE_ROWS:
            gain = float(gains[rows].sum())
            fact |= {"gain": gain, "used": gain > min_gain, **facts[name]}
        tried.append(fact)
        if fact["used"]:
            places = [CASES.index(case) for case in kind]
            offsets[places] = fitted.offsets[places]
    return replace(correction, offsets=offsets), tried


def fit_temperature(
    logs: np.ndarray, labels: np.ndarray, weights: np.ndarray, shrinkage: float
) -> Correction:
    """The temperature of least log loss and s/2 (1/T - 1)², in nats over all rows; s is
    `shrinkage`."""

    def objective(sharpness: float) -> float:
        loss = -(weights @ (labels * log_softmax(logs * sharpness, axis=1)).sum(axis=1))
        return float(loss + shrinkage * (sharpness - 1) ** 2 / 2) / weights.sum()

    found = minimize_scalar(objective, bounds=SHARPNESS, method="bounded", options={"xatol": 1e-7})
    return Correction(float(1 / found.x))


def fit_vector_scaling(
    logs: np.ndarray, labels: np.ndarray, weights: np.ndarray, shrinkage: float
) -> Correction:
    """The vector scaling of least log loss and s/2 ((1/T - 1)² + (r/T - 1)² + b²): convex in 1/T,
    r/T and b."""
    total, start = weights.sum(), np.array([1.0, 1.0, 0.0])

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        sides, tie, bias = parameters
        scores = logs * (sides, sides, tie) + (0, 0, bias)
        told, away = log_softmax(scores, axis=1), parameters - start
        loss = -(weights @ (labels * told).sum(axis=1)) + shrinkage * away @ away / 2
        errors = (np.exp(told) - labels) * weights[:, None]
        slopes = (errors * logs).sum(axis=0)
        gradient = (
            np.array([slopes[:TIE].sum(), slopes[TIE], errors[:, TIE].sum()]) + shrinkage * away
        )
        return loss / total, gradient / total

    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[SHARPNESS, SHARPNESS, BIAS],
        options={"ftol": 1e-13, "gtol": 1e-9},
    )
    sides, tie, bias = map(float, found.x)
    return Correction(1 / sides, tie / sides, bias)


def fit_offsets(
    correction: Correction,
    logs: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    cases: np.ndarray,
    shrinkage: float,
) -> tuple[Correction, dict[str, dict[str, list[float]]]]:
    """The correction with the offsets of every special case that has rows, and each kind's
    `predicted` mean and `rates`.

    The rates are the posterior mean under a Dirichlet prior: the rows' labels, and the mean
    prediction as `shrinkage` rows more (at least one). Ten rows that are all ties, predicted (0.3,
    0.3, 0.4), have the rates (0.15, 0.15, 0.7) for a shrinkage of 10, and ln 0.5, ln 0.5 and ln
    1.75 as offsets.
    """
    told, prior = np.exp(correction(logs)), max(shrinkage, 1.0)
    offsets, facts = np.zeros((len(CASES), 3)), {}
    for name, (case, mirrored) in KINDS.items():
        here, there = cases == case, cases == mirrored
        # A case that is its own mirror image has each row in both orders, at half the weight.
        share = 0.5 if case == mirrored else 1.0
        rows = share * (weights[here].sum() + weights[there].sum())
        if rows == 0:
            continue
        seen, said = (
            share
            * (
                weights[here] @ values[here]
                + (weights[there] @ values[there])[list(SWAPPED_CLASSES)]
            )
            for values in (labels, told)
        )
        predicted = said / rows
        rates = (seen + prior * predicted) / (rows + prior)
        offset = np.log(rates / predicted)
        offsets[CASES.index(case)], offsets[CASES.index(mirrored)] = (
            offset,
            offset[list(SWAPPED_CLASSES)],
        )
        facts[name] = {"predicted": predicted.tolist(), "rates": rates.tolist()}
    return replace(correction, offsets=offsets), facts


def describe_correction(fact: dict[str, Any]) -> str:
    """One line on what was tried."""
    told = fact["correction"] + (f", {fact['rows']} rows" if "rows" in fact else "")
    if "gain" not in fact:
        return f"{told}: too few to learn from (used from {CASE_ROWS} on)"
    told += (
        f": {'used' if fact['used'] else 'not used'}, {fact['gain']:+.2f} nats gained out of fold "
        f"over all rows"
    )
    if fact["used"] and "rates" in fact:
        shown = (" ".join(f"{value:.3f}" for value in fact[key]) for key in ("predicted", "rates"))
        told += "; predicted {}, now {}".format(*shown)
        told += " (the empty one first)" if fact["correction"] == "one empty answer" else ""
    return told
