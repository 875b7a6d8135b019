"""Rank the models that wrote the answers, with a Bradley-Terry model that allows ties."""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from humanpref.data import has_ties, labels_of
from humanpref.evaluation.intervals import Z
from humanpref.models.davidson import DavidsonRegression
from humanpref.schema import MODEL_COLUMNS

PENALTY = 0.1
"""L2 penalty p: the fit adds p s²/2 for each strength s to the loss summed over the rows. This is a
normal prior with a standard deviation of 3.2 log-odds. It keeps all strengths finite, even those of
models that always won, always lost, or never met the others."""
ELO = 400 / np.log(10)
"""Elo points per unit of log-odds."""


def model_strengths(pairs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """Estimate the strength of each model that wrote answers, by Davidson's regression.

    P(A), P(B), P(tie) ∝ exp(d/2), exp(-d/2), exp(nu), where d = s_A - s_B + first. s_A and s_B are
    the strengths of the two models, first is the advantage of being answer A, and nu is the tie
    score.

    The 95 % intervals are normal approximations from the curvature of the penalized likelihood
    (Laplace). Rows are treated as independent. If groups of models never met, the difference
    between the groups depends only on the penalty, so the intervals are wide.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame with models and labels, hard or soft.

    Returns
    -------
    ranking : DataFrame
        One row per model, strongest first: `rank`, `model`, `rows`, `strength` (log-odds of winning
        rather than losing against an average model) with its interval, `low` to `high`, `elo` (the
        strength as a rating with mean 1000 and 400 / ln 10 points per unit), `group` (models in
        different groups never met, directly or through other models; group 1 has the most models).
    metrics : dict
        `tie_score` (nu) and `first` (the advantage of being answer A, in log-odds), each with its
        interval, `_low` to `_high`; the numbers of `rows` and `groups`. If the rows' format has no
        ties, the model has none, and there is no `tie_score`.

    Source: Davidson (1970), eq. 2.5; the order effect: Davidson and Beaver (1977).
    """
    models, place = np.unique(pairs[list(MODEL_COLUMNS)].to_numpy(dtype=str), return_inverse=True)
    a, b = place.reshape(-1, 2).T
    count, ones = len(models), np.ones(len(pairs))
    # If a model met itself, the two entries in that row cancel.
    indicators = sparse.identity(count, format="csr")
    x = sparse.hstack([indicators[a] - indicators[b], ones[:, None]], format="csr")
    penalty = np.full(count + 1, PENALTY)
    z = np.empty((len(pairs), 0))
    ties = has_ties(pairs)
    fit = DavidsonRegression(penalty, np.empty(0), ties).fit(x, z, labels_of(pairs))
    covariance = _covariance(x, penalty, fit.predict_proba(x, z))
    against_mean = np.eye(count) - 1 / count
    strength = against_mean @ fit.w_[:count]
    half = Z * np.sqrt(np.diag(against_mean @ covariance[:count, :count] @ against_mean))
    graph = sparse.coo_matrix((ones, (a, b)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    by_size = np.argsort(-np.bincount(component), kind="stable")
    group = np.argsort(by_size)[component] + 1
    ranking = pd.DataFrame(
        {
            "model": models,
            "rows": np.bincount(a, minlength=count) + np.bincount(b[a != b], minlength=count),
            "strength": strength,
            "low": strength - half,
            "high": strength + half,
            "elo": 1000 + ELO * strength,
            "group": group,
        }
    ).sort_values("strength", ascending=False, ignore_index=True, kind="stable")
    ranking.insert(0, "rank", ranking.index + 1)
    metrics: dict[str, float] = {"rows": len(pairs), "groups": int(group.max())}
    errors = Z * np.sqrt(np.diag(covariance)[count:])
    names = ("first", "tie_score") if ties else ("first",)
    for name, value, error in zip(names, fit.parameters[count:], errors, strict=False):
        metrics |= {name: value, f"{name}_low": value - error, f"{name}_high": value + error}
    return ranking, metrics


def _covariance(x: sparse.csr_matrix, penalty: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the covariance of the fitted parameters: the weights of x, then the tie score. It is
    the inverse of the curvature."""
    p_a, p_b, p_tie = probabilities.T
    by_d = ((p_a + p_b) - (p_a - p_b) ** 2) / 4
    by_both = x.T @ (-(p_a - p_b) / 2 * p_tie)
    by_nu = (p_tie * (1 - p_tie)).sum() + 1e-9
    by_weights = (x.T @ sparse.diags(by_d) @ x).toarray() + np.diag(penalty)
    return np.linalg.inv(np.block([[by_weights, by_both[:, None]], [by_both, by_nu]]))
