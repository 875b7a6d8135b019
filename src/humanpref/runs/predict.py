"""Artifacts and rows in, probabilities out."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data import as_pairs, positive_weight_mask, read_pairs
from humanpref.models.budget import Budget, shortages
from humanpref.runs.artifact import METRICS_FILE, Artifact
from humanpref.schema import InputError

logger = logging.getLogger(__name__)


def predict(
    artifacts: list[Artifact], pairs: pd.DataFrame, seconds: float | None = None
) -> tuple[np.ndarray, list[str]]:
    """Mean of the artifacts' probabilities, (n, 3) float64, in the order of the rows, and what
    makes it less than whole.

    With `seconds` of wall clock each artifact has an equal share of what is left when it begins,
    without them its own `inference.seconds`, if set; it gives up what will not fit
    (`humanpref.models.budget`). A row's mean is over the artifacts that had time for it; one that
    none had time for gets the mean of their class rates. One artifact is in memory at a time.

    Raises
    ------
    InputError
        If there was no time for a single row.
    """
    shared = None if seconds is None else Budget(seconds)
    predictions, given_up = [], Counter()
    pairs = as_pairs(pairs)
    for number, artifact in enumerate(artifacts):
        started = time.monotonic()
        loaded = Artifact(artifact.folder, artifact.facts)
        if shared is not None:
            budget = shared.share(1 / (len(artifacts) - number))
        elif loaded.seconds is not None:
            budget = Budget(loaded.seconds - (time.monotonic() - started))  # loading counts
        else:
            predictions.append(loaded.predict_proba(pairs))
            continue
        budget.given_up = given_up
        predictions.append(loaded.predict_within(pairs, budget))
    known = ~np.isnan(predictions).any(axis=2)  # (artifacts, n)
    if len(pairs) and not known.any():
        raise InputError(
            "predict: there was no time for a single row; give it more (--seconds, "
            "inference.seconds)"
        )
    prior = np.mean(
        [np.array(artifact.prior) / sum(artifact.prior) for artifact in artifacts], axis=0
    )
    counts = known.sum(axis=0)[:, None]
    probabilities = np.where(
        counts > 0, np.nansum(predictions, axis=0) / np.maximum(counts, 1), prior
    )
    missing = int((counts == 0).sum())
    return probabilities, shortages(given_up) + (
        [f"{missing} of {len(pairs)} rows have the prior"] if missing else []
    )


def rows_to_judge(
    artifacts: Sequence[Artifact], data_csv: str | Path
) -> tuple[pd.DataFrame, list[int]]:
    """Labelled rows to judge artifacts by, without those of weight 0, and on how many of them each
    was trained."""
    pairs = read_pairs(data_csv, labels=True)
    pairs = pairs[positive_weight_mask(pairs, data_csv)].reset_index(drop=True)
    trained_on = [int(artifact.learned_from(pairs).sum()) for artifact in artifacts]
    for artifact, learned in zip(artifacts, trained_on, strict=True):
        if learned:
            logger.warning(
                "%s was trained on %d of the %d rows in %s: these metrics flatter it (its held-out "
                "ones are in %s)",
                artifact.folder,
                learned,
                len(pairs),
                data_csv,
                artifact.folder / METRICS_FILE,
            )
    return pairs, trained_on
