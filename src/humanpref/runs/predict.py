"""Predict probabilities for rows with one or more artifacts."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data import as_pairs, positive_weight_mask, read_pairs
from humanpref.data.tables import source_name
from humanpref.runs.artifact import METRICS_FILE, Artifact, check_same_classes
from humanpref.runs.budget import Budget, shortages
from humanpref.runs.engine import predictions
from humanpref.runs.ensemble import equal_mixture
from humanpref.schema import InputError
from humanpref.text.cases import answer_cases

logger = logging.getLogger(__name__)


def predict(
    artifacts: Sequence[Artifact], pairs: pd.DataFrame, seconds: float | None = None
) -> tuple[np.ndarray, list[str]]:
    """Predict with one or more artifacts, keeping only one model in memory at a time.

    Parameters
    ----------
    artifacts : sequence of Artifact
        Each row gets the mean prediction of the artifacts that had time for it. If no artifact had
        time for a row, it gets the mean of the artifacts' class rates.
    pairs : DataFrame
        n rows, read by `humanpref.data.as_pairs`.
    seconds : float, optional
        Wall-clock limit for all artifacts together. By default, each artifact has its own limit,
        `inference.seconds`, if set. Work that does not fit is skipped (`humanpref.runs.schedule`).

    Returns
    -------
    (ndarray, list of str)
        Probabilities (n, 3) float64 in the order of the rows, and one line for each concession made
        to stay within the limit.

    Raises
    ------
    InputError
        If some artifacts have ties and others have none, or if there was not enough time for even
        one row.
    """
    check_same_classes(artifacts)
    pairs = as_pairs(pairs)
    ensemble = equal_mixture([artifact.ensemble for artifact in artifacts])
    limited = [(artifact.ensemble, artifact.seconds) for artifact in artifacts]
    by_leaf, given_up = {}, Counter()
    for part, limit in limited if seconds is None else [(ensemble, seconds)]:
        budget = Budget(limit)
        by_leaf |= predictions(part.leaves(), pairs, budget)
        given_up += budget.given_up
    probabilities = ensemble.probabilities(by_leaf, answer_cases(pairs))
    missing = np.isnan(probabilities[:, 0])
    if len(pairs) and missing.all():
        raise InputError(
            "predict: there was not enough time for even one row; allow more time (--seconds, "
            "inference.seconds)"
        )
    rates = [np.array(artifact.prior) / sum(artifact.prior) for artifact in artifacts]
    probabilities[missing] = np.mean(rates, axis=0)
    fallback = [f"{missing.sum()} of {len(pairs)} rows have the prior"] if missing.any() else []
    return probabilities, shortages(given_up) + fallback


def rows_to_judge(
    artifacts: Sequence[Artifact], data_csv: Any, format: str | None = None
) -> tuple[pd.DataFrame, list[int]]:
    """Read the labeled rows on which to evaluate artifacts, skipping rows of weight 0. Return the
    rows and, for each artifact, the number of these rows on which it was trained."""
    pairs, name = read_pairs(data_csv, labels=True, format=format), source_name(data_csv)
    pairs = pairs[positive_weight_mask(pairs, name)].reset_index(drop=True)
    trained_on = [int(artifact.learned_from(pairs).sum()) for artifact in artifacts]
    for artifact, learned in zip(artifacts, trained_on, strict=True):
        if learned:
            logger.warning(
                "%s was trained on %d of the %d rows in %s, so these metrics flatter it (its "
                "held-out metrics are in %s)",
                artifact.folder,
                learned,
                len(pairs),
                name,
                artifact.folder / METRICS_FILE,
            )
    return pairs, trained_on
