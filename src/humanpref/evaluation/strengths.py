"""How strong each model is: a Bradley-Terry ranking of the models behind the answers, with ties."""

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm

from humanpref.data import labels_of
from humanpref.models.davidson import DavidsonRegression, davidson_probabilities
from humanpref.schema import MODEL_COLUMNS

PENALTY = 0.1
"""L2 penalty on a strength, in rows: a normal prior with a standard deviation of 3.2 log-odds. It
matters to models that always won, always lost, or never met the others, whose strength would else
be without bound."""
ELO = 400 / np.log(10)
"""Points of an Elo rating per unit of log-odds."""


def model_strengths(
    pairs: pd.DataFrame, level: float = 0.95
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Fit Davidson's model to who met whom: P(A), P(B), P(tie) ∝ exp(d/2), exp(-d/2), exp(nu), d =
    s_A - s_B + first.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame with models and labels, hard or soft.
    level : float
        Coverage of the intervals: normal ones, from the curvature of the penalised likelihood
        (Laplace). Rows count as independent. Between groups of models that never met they rest on
        the penalty alone, and are wide.

    Returns
    -------
    ranking : DataFrame
        One row per model, strongest first: `rank`, `model`, `rows`, `strength` (log-odds of a win
        against a loss, against the mean model) with `low` and `high`, `elo` (the same, 400 / ln 10
        points a unit, 1000 in the mean), `group` (models of different groups never met, directly or
        over others; 1 is the largest).
    figures : dict
        `tie_score` (nu), `first` (what being answer A is worth, log-odds), each with its interval,
        `rows` and `groups`. Source: Davidson (1970), eq. 2.5; the order effect: Davidson and Beaver
        (1977).
    """
    models, place = np.unique(pairs[list(MODEL_COLUMNS)].to_numpy(dtype=str), return_inverse=True)
    a, b = place.reshape(-1, 2).T
    count = len(models)
    # Rows of the same two models in the same order differ in their label only: one row each, with
    # soft labels and a weight.
    meeting, index = np.unique(a * count + b, return_inverse=True)
    weights = np.bincount(index).astype(np.float64)
    labels = (
        np.stack([np.bincount(index, weights=column) for column in labels_of(pairs).T], axis=1)
        / weights[:, None]
    )
    first, second = meeting // count, meeting % count
    rows = np.arange(len(meeting))
    ones = np.ones(len(meeting))
    # A model that met itself says nothing of its strength: the two entries of its row add up to
    # zero.
    x = sparse.csr_matrix(
        (
            np.concatenate([ones, -ones, ones]),
            (np.tile(rows, 3), np.concatenate([first, second, 0 * rows + count])),
        ),
        shape=(len(rows), count + 1),
    )
    penalty = np.full(count + 1, PENALTY)
    fit = DavidsonRegression(penalty, np.empty(0)).fit(x, np.empty((len(rows), 0)), labels, weights)

    # Curvature of the log likelihood in (d, nu), then in the parameters.
    p_a, p_b, p_tie = davidson_probabilities(x @ fit.w_, np.full(len(rows), fit.c_)).T
    by_d = weights * ((p_a + p_b) - (p_a - p_b) ** 2) / 4
    by_both = -weights * (p_a - p_b) / 2 * p_tie
    by_nu = weights * p_tie * (1 - p_tie)
    information = np.zeros((count + 2, count + 2))
    information[:-1, :-1] = (x.T @ sparse.diags(by_d) @ x).toarray() + np.diag(penalty)
    information[:-1, -1] = information[-1, :-1] = x.T @ by_both
    information[-1, -1] = by_nu.sum() + 1e-9
    covariance = np.linalg.inv(information)
    z = norm.ppf(0.5 + level / 2)
    against_mean = np.eye(count) - 1 / count
    strength = against_mean @ fit.w_[:count]
    half = z * np.sqrt(np.diag(against_mean @ covariance[:count, :count] @ against_mean))

    graph = sparse.coo_matrix((ones, (first, second)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    by_size = np.argsort(-np.bincount(component), kind="stable")
    group = np.argsort(by_size, kind="stable")[component] + 1
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
    ranking.insert(0, "rank", np.arange(1, count + 1))
    figures: dict[str, float] = {"rows": len(pairs), "groups": int(group.max())}
    for name, value, at in (("first", fit.w_[count], -2), ("tie_score", fit.c_, -1)):
        error = z * float(np.sqrt(covariance[at, at]))
        figures |= {
            name: float(value),
            f"{name}_low": float(value) - error,
            f"{name}_high": float(value) + error,
        }
    return ranking, figures
