"""Corrections of blended probabilities: one temperature, and offsets for rows whose answers are
empty or identical.

    temperature       p_c^(1/T), normalized
    a special case    after that, only in the case's rows: p_c times (the case's rate of class c /
                      the mean prediction of class c), normalized

A special case is used only if it lowers the loss on inner folds. The blend's weights were also
fitted on the inner held-out rows, but that affects the loss with and without the special case
alike, so the comparison is fair.

Source: Guo et al. (2017), "On calibration of modern neural networks", on the temperature; Saerens
et al. (2002), "Adjusting the outputs of a classifier to new a priori probabilities", on the ratio
of rates.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from humanpref.schema import SWAPPED_CLASSES
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, CASES, IDENTICAL

SHARPNESS = (0.25, 4.0)
"""Bounds of 1/T."""
CASE_ROWS = 20
"""Minimum number of rows for learning a special case."""
KINDS = {
    "identical answers": (IDENTICAL, IDENTICAL),
    "two empty answers": (BOTH_EMPTY, BOTH_EMPTY),
    "one empty answer": (A_EMPTY, B_EMPTY),
}
"""The special cases by name: a case and its mirror image, which are learned together."""


class HeldOutRows(NamedTuple):
    """n rows on which no member of the blend was trained.

    Attributes
    ----------
    labels : ndarray
        (n, 3), hard or soft.
    weights : ndarray
        (n,) float64. Weight 2 is equivalent to duplicating the row.
    folds : ndarray
        (n,) inner fold of each row. If there is only one, no rows are held out for model selection.
    cases : ndarray
        (n,) case of each row (`humanpref.text.cases.answer_cases`).
    """

    labels: np.ndarray
    weights: np.ndarray
    folds: np.ndarray
    cases: np.ndarray

    def part(self, mask: np.ndarray) -> "HeldOutRows":
        """Return the rows selected by the mask."""
        return HeldOutRows(*(values[mask] for values in self))

    def losses(self, logs: np.ndarray) -> np.ndarray:
        """Return each row's weighted loss in nats, (n,), for log probabilities (n, 3)."""
        return -self.weights * (self.labels * logs).sum(axis=1)


@dataclass(frozen=True)
class Correction:
    """A pure function, stored with its parameters, that corrects log probabilities."""

    temperature: float = 1.0
    """Values above 1 soften the probabilities; values below 1 sharpen them."""
    offsets: np.ndarray = field(default_factory=lambda: np.zeros((len(CASES), 3)))
    """(4, 3) nats to add to the log probabilities of the rows of each of `CASES`; zeros change
    nothing."""

    def __call__(self, logs: np.ndarray, cases: np.ndarray | None = None) -> np.ndarray:
        """Return the corrected log probabilities, (n, 3), of rows with these cases, (n,); see
        `answer_cases`."""
        scores = logs / self.temperature
        if cases is not None:
            for case, offset in zip(CASES, self.offsets, strict=True):
                scores[cases == case] += offset
        return log_softmax(scores, axis=1)


def fit_correction(
    logs: np.ndarray, rows: HeldOutRows, shrinkage: float, min_gain: float
) -> tuple[Correction, list[dict[str, Any]]]:
    """Fit the temperature and those special cases that lower the log loss on inner held-out folds.

    Parameters
    ----------
    logs : ndarray
        (n, 3) log probabilities.
    rows : HeldOutRows
        The rows of the fit. If they have a single fold, only the temperature is fitted.
    shrinkage : float
        See `fit_temperature` and `fit_offsets`.
    min_gain : float
        A special case is used if it lowers the log loss, summed over all inner held-out rows, by
        more than this many nats.

    Returns
    -------
    correction : Correction
    tried : list of dict
        One entry per special case, in plain JSON types: `correction` (its name), `rows` (their
        number) and `used`. If there are enough rows, also `gain` (out of fold, in nats, summed over
        all rows), `predicted` (the mean prediction) and `rates` (after shrinkage). A case and its
        mirror image share one entry.
    """
    correction = fit_temperature(logs, rows, shrinkage)
    folds = np.unique(rows.folds)
    if len(folds) < 2:
        return correction, []
    gains = np.empty(len(logs))
    for fold in folds:
        judged = rows.folds == fold
        known, out = rows.part(~judged), rows.part(judged)
        plain = fit_temperature(logs[~judged], known, shrinkage)
        with_offsets, _ = fit_offsets(plain, logs[~judged], known, shrinkage)
        before, after = (
            out.losses(fitted(logs[judged], out.cases)) for fitted in (plain, with_offsets)
        )
        gains[judged] = before - after
    fitted, facts = fit_offsets(correction, logs, rows, shrinkage)
    offsets, tried = np.zeros_like(fitted.offsets), []
    for name, kind in KINDS.items():
        own = np.isin(rows.cases, kind)
        fact = {"correction": name, "rows": int(own.sum()), "used": False}
        if rows.weights[own].sum() >= CASE_ROWS:
            gain = float(gains[own].sum())
            fact |= {"gain": gain, "used": gain > min_gain, **facts[name]}
        if fact["used"]:
            used = np.isin(CASES, kind)
            offsets[used] = fitted.offsets[used]
        tried.append(fact)
    return replace(correction, offsets=offsets), tried


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


def fit_offsets(
    correction: Correction, logs: np.ndarray, rows: HeldOutRows, shrinkage: float
) -> tuple[Correction, dict[str, dict[str, list[float]]]]:
    """Return the correction with the offsets of every special case that has rows. Also return each
    case's `predicted` mean and `rates`, by its name.

    The rates are the posterior mean under a Dirichlet prior: they average the rows' labels with
    `shrinkage` additional rows (at least one) that are labeled with the mean prediction. For
    example, with a shrinkage of 10, ten rows that are all ties and are predicted as (0.3, 0.3, 0.4)
    get the rates (0.15, 0.15, 0.7) and the offsets ln 0.5, ln 0.5 and ln 1.75.
    """
    probabilities, prior = np.exp(correction(logs)), max(shrinkage, 1.0)
    offsets, facts = np.zeros((len(CASES), 3)), {}
    for name, (case, mirrored) in KINDS.items():
        # Rows of the mirrored case count as rows of the case, with A and B exchanged. If a case is
        # its own mirror image, each row counts in both orders, at half its weight.
        own, other = (rows.weights * (rows.cases == kind) for kind in (case, mirrored))
        share = 0.5 if case == mirrored else 1.0
        count = share * (own + other).sum()
        if count == 0:
            continue
        observed, expected = (
            share * (own @ values + other @ values[:, SWAPPED_CLASSES])
            for values in (rows.labels, probabilities)
        )
        predicted = expected / count
        rates = (observed + prior * predicted) / (count + prior)
        offset = np.log(rates / predicted)
        offsets[CASES.index(case)] = offset
        offsets[CASES.index(mirrored)] = offset[list(SWAPPED_CLASSES)]
        facts[name] = {"predicted": predicted.tolist(), "rates": rates.tolist()}
    return replace(correction, offsets=offsets), facts


def describe_correction(fact: dict[str, Any]) -> str:
    """Return one line about a special case that was tried."""
    line = f"{fact['correction']}, {fact['rows']} rows: "
    if "gain" not in fact:
        return f"{line}too few to learn from (expected at least {CASE_ROWS})"
    use = "used" if fact["used"] else "not used"
    line += f"{use}, {fact['gain']:+.2f} nats gained out of fold over all rows"
    if fact["used"]:
        predicted, rates = (
            " ".join(f"{value:.3f}" for value in fact[key]) for key in ("predicted", "rates")
        )
        line += f"; predicted {predicted}, now {rates}"
        line += " (the empty answer first)" if fact["correction"] == "one empty answer" else ""
    return line
