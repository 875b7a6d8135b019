"""Corrections of a blend's probabilities: one temperature T for all rows, and class rates for the
special cases, which are rows whose answers are empty or identical.

    all rows         p_c becomes p_c^(1/T) for each class c, and is then normalized
    special cases    p_c becomes the rate of class c among rows of the same case

The members' predictions for special cases are of little use. People almost always call identical
answers a tie and reject an empty answer, but a thousand rows contain fewer than ten special cases,
too few for a model to learn from. The rates therefore start from known rates and move toward those
of the training rows.

Source: Guo et al. (2017), "On calibration of modern neural networks", on the temperature; the
fourth place of the LMSYS competition (Kaggle, 2024), on the known rates. These agree with 54 rows
of PandaLM's test set in which one answer is empty: the empty answer won 1, lost 51 and tied 2.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from humanpref.data.pairs import without_ties
from humanpref.schema import SWAPPED_CLASSES, counted
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, CASES, IDENTICAL

SHARPNESS = (0.25, 4.0)
"""Bounds of 1/T."""
KINDS = {
    "identical answers": (IDENTICAL, IDENTICAL, (0.06, 0.06, 0.88)),
    "two empty answers": (BOTH_EMPTY, BOTH_EMPTY, (0.06, 0.06, 0.88)),
    "one empty answer": (A_EMPTY, B_EMPTY, (0.04, 0.88, 0.08)),
}
"""For each special case, by name: the case, the case that it becomes if A and B are exchanged, and
the known rates of A, B and tie. Rates are learned from the rows of both cases."""


class HeldOutRows(NamedTuple):
    """n rows on which no member of the blend was trained.

    Attributes
    ----------
    labels : ndarray
        (n, 3), hard or soft.
    weights : ndarray
        (n,) float64. Weight 2 is equivalent to duplicating the row.
    cases : ndarray
        (n,) special case of each row, or an empty string (`humanpref.text.cases.answer_cases`).
    """

    labels: np.ndarray
    weights: np.ndarray
    cases: np.ndarray

    def part(self, mask: np.ndarray) -> "HeldOutRows":
        """Return the rows selected by the mask."""
        return HeldOutRows(*(values[mask] for values in self))

    def losses(self, logs: np.ndarray) -> np.ndarray:
        """Return each row's weighted loss in nats, (n,), for log probabilities (n, 3)."""
        return -self.weights * (self.labels * logs).sum(axis=1)


@dataclass(frozen=True)
class Correction:
    """A temperature, and class rates for special cases, that correct log probabilities."""

    temperature: float = 1.0
    """Values above 1 soften the probabilities; values below 1 sharpen them."""
    rates: np.ndarray = field(default_factory=lambda: np.zeros((len(CASES), 3)))
    """(4, 3) rates of A, B and tie for each of `CASES`. They replace the probabilities of rows of
    that case, unless they are all 0."""

    def __call__(self, logs: np.ndarray, cases: np.ndarray | None = None) -> np.ndarray:
        """Correct the log probabilities of n rows, (n, 3). `cases`, (n,), holds each row's special
        case, if any (`answer_cases`); without it, only the temperature is applied."""
        scores = logs / self.temperature
        if cases is not None:
            for case, rates in zip(CASES, self.rates, strict=True):
                own = cases == case
                if rates.any() and own.any():
                    # A class that the members exclude (-inf) stays excluded.
                    with np.errstate(divide="ignore"):
                        scores[own] = np.where(np.isneginf(scores[own]), -np.inf, np.log(rates))
        return log_softmax(scores, axis=1)


def fit_correction(
    logs: np.ndarray, rows: HeldOutRows, shrinkage: float, ties: bool = True
) -> tuple[Correction, list[dict[str, Any]]]:
    """Fit the temperature and the class rates of the special cases.

    Parameters
    ----------
    logs : ndarray
        (n, 3) log probabilities.
    rows : HeldOutRows
        The rows of the fit.
    shrinkage, ties
        See `fit_temperature` and `fit_rates`.

    Returns
    -------
    correction : Correction
    facts : list of dict
        One entry per special case, in plain JSON types; see `fit_rates`.
    """
    rates, facts = fit_rates(rows, shrinkage, ties)
    return replace(fit_temperature(logs, rows, shrinkage), rates=rates), facts


def fit_temperature(logs: np.ndarray, rows: HeldOutRows, shrinkage: float) -> Correction:
    """Fit the temperature T that minimizes the log loss summed over all rows (in nats) plus the
    penalty s/2 (1/T - 1)², where s is `shrinkage`."""

    def objective(sharpness: float) -> float:
        loss = rows.losses(log_softmax(logs * sharpness, axis=1)).sum()
        return (loss + shrinkage * (sharpness - 1) ** 2 / 2) / rows.weights.sum()

    optimum = minimize_scalar(
        objective, bounds=SHARPNESS, method="bounded", options={"xatol": 1e-7}
    )
    return Correction(float(1 / optimum.x))


def fit_rates(
    rows: HeldOutRows, shrinkage: float, ties: bool = True
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Fit the class rates of the special cases.

    They are the posterior mean under a Dirichlet prior: the labels of a case's rows are averaged
    with `shrinkage` additional rows (at least one) that have the rates known beforehand (`KINDS`).
    For example, with a shrinkage of 10, ten rows with identical answers that are all ties give the
    rates (0.03, 0.03, 0.94). If `ties` is False, no row is a tie, and the known rates of A and B
    are divided by their sum.

    Returns
    -------
    rates : ndarray
        (4, 3), for each of `CASES`.
    facts : list of dict
        One entry per special case, in plain JSON types: `correction` (its name), `rows` (their
        number) and `rates`. The cases in which only A or only B is empty share one entry.
    """
    prior, learned, facts = max(shrinkage, 1.0), np.empty((len(CASES), 3)), []
    for name, (case, mirrored, known) in KINDS.items():
        # Rows of the mirrored case count as rows of the case, with A and B exchanged. If a case is
        # its own mirror image, each row counts in both orders, at half its weight.
        own, other = (rows.weights * (rows.cases == kind) for kind in (case, mirrored))
        share = 0.5 if case == mirrored else 1.0
        expected = np.array(known) if ties else without_ties(np.array([known]))[0]
        observed = share * (own @ rows.labels + other @ rows.labels[:, SWAPPED_CLASSES])
        rates = (observed + prior * expected) / (share * (own + other).sum() + prior)
        learned[CASES.index(case)] = rates
        learned[CASES.index(mirrored)] = rates[list(SWAPPED_CLASSES)]
        count = int(np.isin(rows.cases, (case, mirrored)).sum())
        facts.append({"correction": name, "rows": count, "rates": rates.tolist()})
    return learned, facts


def describe_correction(fact: dict[str, Any]) -> str:
    """Return one line about the class rates of a special case."""
    order = "empty wins, loses" if fact["correction"] == "one empty answer" else "A, B"
    rates = " ".join(f"{rate:.3f}" for rate in fact["rates"])
    return f"{fact['correction']}, {counted(fact['rows'], 'row')}: {rates} ({order}, tie)"
