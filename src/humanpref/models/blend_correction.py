"""Corrections of mixed probabilities: one temperature, and offsets for rows whose answers are empty
or identical.

    temperature       p_c^(1/T), normalised
    a special case    in its rows, beside that, p_c times (its rate of class c / the mean prediction
                      of class c), normalised

A special case is used only where it pays on inner folds. The weights of the mix have seen the inner
held-out rows, with and without a correction alike.

Source: Guo et al. (2017), "On calibration of modern neural networks", on the temperature; Saerens
et al. (2002), "Adjusting the outputs of a classifier to new a priori probabilities", on the ratio
of rates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from humanpref.schema import SWAPPED_CLASSES
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, CASES, IDENTICAL

SHARPNESS = (0.25, 4.0)
"""Bounds of 1/T."""
CASE_ROWS = 20
"""Fewest rows to learn a special case from."""
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
    offsets: np.ndarray = field(default_factory=lambda: np.zeros((len(CASES), 3)))
    """(4, 3) nats added in the rows of each of `CASES`; zeros where nothing is known of them."""

    def __call__(self, logs: np.ndarray, cases: np.ndarray | None = None) -> np.ndarray:
        """Log probabilities (n, 3) from log probabilities (n, 3), and the rows' cases (n,) as
        `answer_cases` names them."""
        scores = logs / self.temperature
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
    cases: np.ndarray,
) -> tuple[Correction, list[dict[str, Any]]]:
    """The temperature, and the special cases that lower the log loss of inner held-out rows.

    Parameters
    ----------
    logs : ndarray
        (n, 3) log probabilities.
    labels : ndarray
        (n, 3), hard or soft.
    weights : ndarray
        (n,) the rows' weights; 2 equals the row twice.
    shrinkage : float
        See `fit_temperature` and `fit_offsets`.
    min_gain : float
        A special case is used if it lowers the log loss of inner held-out rows by more, in nats
        over all rows.
    folds : ndarray
        (n,) the rows' inner folds. With one alone there is nothing to choose by: the temperature is
        all.
    cases : ndarray
        (n,) the rows' cases (`humanpref.text.cases.answer_cases`).

    Returns
    -------
    (Correction, list)
        And what was tried, as plain JSON types: `correction`, `gain` (nats over all rows, out of
        fold), `used`, and of special cases `rows`, `predicted` (the mean) and `rates` (shrunk),
        A_EMPTY standing for its mirror image as well.
    """

    def temperature(rows: np.ndarray) -> Correction:
        return fit_temperature(logs[rows], labels[rows], weights[rows], shrinkage)

    def held_out(fit: Callable[[np.ndarray], Correction]) -> np.ndarray:
        """Each row's weighted loss under what the other folds give, (n,)."""
        losses = np.empty(len(logs))
        for fold in np.unique(folds):
            judged = folds == fold
            log_probabilities = fit(~judged)(logs[judged], cases[judged])
            losses[judged] = -(labels[judged] * log_probabilities).sum(axis=1)
        return weights * losses

    everywhere = np.ones(len(logs), dtype=bool)
    correction = temperature(everywhere)
    if len(np.unique(folds)) < 2:
        return correction, []

    def with_offsets(rows: np.ndarray) -> Correction:
        return fit_offsets(
            temperature(rows), logs[rows], labels[rows], weights[rows], cases[rows], shrinkage
        )[0]

    gains = held_out(temperature) - held_out(with_offsets)
    tried: list[dict[str, Any]] = []
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
    probabilities, prior = np.exp(correction(logs)), max(shrinkage, 1.0)
    offsets, facts = np.zeros((len(CASES), 3)), {}
    for name, (case, mirrored) in KINDS.items():
        here, there = cases == case, cases == mirrored
        # A case that is its own mirror image has each row in both orders, at half the weight.
        share = 0.5 if case == mirrored else 1.0
        rows = share * (weights[here].sum() + weights[there].sum())
        if rows == 0:
            continue
        observed, expected = (
            share
            * (
                weights[here] @ values[here]
                + (weights[there] @ values[there])[list(SWAPPED_CLASSES)]
            )
            for values in (labels, probabilities)
        )
        predicted = expected / rows
        rates = (observed + prior * predicted) / (rows + prior)
        offset = np.log(rates / predicted)
        offsets[CASES.index(case)], offsets[CASES.index(mirrored)] = (
            offset,
            offset[list(SWAPPED_CLASSES)],
        )
        facts[name] = {"predicted": predicted.tolist(), "rates": rates.tolist()}
    return replace(correction, offsets=offsets), facts


def describe_correction(fact: dict[str, Any]) -> str:
    """One line on a special case that was tried."""
    line = f"{fact['correction']}, {fact['rows']} rows"
    if "gain" not in fact:
        return f"{line}: too few to learn from (used from {CASE_ROWS} on)"
    line += (
        f": {'used' if fact['used'] else 'not used'}, {fact['gain']:+.2f} nats gained out of fold "
        f"over all rows"
    )
    if fact["used"]:
        shown = (" ".join(f"{value:.3f}" for value in fact[key]) for key in ("predicted", "rates"))
        line += "; predicted {}, now {}".format(*shown)
        line += " (the empty one first)" if fact["correction"] == "one empty answer" else ""
    return line
