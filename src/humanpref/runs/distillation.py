"""Soft labels: probabilities predicted by trained models. A model never gives a soft label to a row
whose label it was trained on."""

import dataclasses
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.data import TrainingRows, as_pairs, labels_of, prompt_keys, read_labels, write_pairs
from humanpref.files import is_main_process
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_tables import PROMPT_KEY
from humanpref.schema import ID, LABEL_COLUMNS, TEXT_COLUMNS, WEIGHT, InputError

logger = logging.getLogger(__name__)


class Teacher(NamedTuple):
    """The source of soft labels, and how much they count relative to the original labels."""

    path: Path
    """An artifact, or a CSV with `id` and the three probabilities (a submission, an oof.csv, or the
    output of `predict --labels`)."""
    share: float = 1.0
    """s in (0, 1]: the targets are s times the teacher's probabilities plus 1 - s times the
    labels."""


def taught(rows: TrainingRows, teacher: Teacher) -> TrainingRows:
    """Return the rows with new targets: the teacher's probabilities, or a mix of these and the
    labels.

    Extra rows keep their labels, and held-out rows are still evaluated on their labels. If the
    teacher was trained on the same rows, it has also learned from the labels of the held-out ones,
    so the metrics are too good (by 0.08 nats on 300 synthetic rows). This is logged as a warning;
    only a separate teacher for each fold would avoid it.

    Raises
    ------
    InputError
        If the share is outside (0, 1], if the file is invalid, or if a row has no probabilities,
        has different texts in the teacher's file, or has a label that the teacher learned without
        holding it out (see `soft_labels`).
    """
    path, share = Path(teacher.path), teacher.share
    if not 0 < share <= 1:
        raise InputError(f"teacher {path}: expected a share above 0 and at most 1, got {share:g}")
    if path.is_dir():
        artifact = Artifact.load(path)
        probabilities = soft_labels([artifact], rows.pairs)
        if artifact.rows[PROMPT_KEY].isin(prompt_keys(rows.pairs)).any():
            logger.warning(
                "%s: was trained on these rows' labels, including those of rows that will be held "
                "out, which flatters the metrics; evaluate on rows that it has not seen",
                path,
            )
    else:
        probabilities = _probabilities_by_id(path, rows.pairs)
    targets = share * probabilities + (1 - share) * rows.targets
    facts = rows.facts | {"teacher": {"name": path.name, "share": share}}
    return dataclasses.replace(rows, targets=targets, facts=facts)


def _probabilities_by_id(path: Path, pairs: pd.DataFrame) -> np.ndarray:
    table = read_labels(path).set_index(ID).reindex(pairs[ID])
    logger.info(
        "%s: used as is, matched by id; predictions of a model for its own training rows would "
        "leak their labels",
        path,
    )
    wrong = {"no probabilities for": table[LABEL_COLUMNS[0]].isna().to_numpy()}
    for column in [column for column in TEXT_COLUMNS if column in table]:
        other = table[column].to_numpy() != pairs[column].to_numpy()
        wrong[f"column {column!r}: different texts than in"] = other
    for problem, rows in wrong.items():
        if rows.any():
            raise InputError(
                f"{path}: {problem} {rows.sum()} of {len(rows)} training rows, the first of them "
                f"id {pairs[ID][rows].iloc[0]!r}"
            )
    return labels_of(table)


def write_soft_labels(
    path: str | Path, artifacts: list[Artifact], pairs: pd.DataFrame, weight: float | None = None
) -> None:
    """Write rows with `soft_labels` as their labels, in the form that `read_pairs` reads. If given,
    `weight` replaces the rows' weights.

    Raises
    ------
    InputError
        If the weight is not positive; see also `soft_labels`.
    """
    if weight is not None and not 0 < weight < np.inf:
        raise InputError(f"--weight: expected a positive number, got {weight:g}")
    pairs = as_pairs(pairs)
    labelled = pairs.assign(
        **dict(zip(LABEL_COLUMNS, soft_labels(artifacts, pairs).T, strict=True))
    )
    if is_main_process():
        write_pairs(path, labelled if weight is None else labelled.assign(**{WEIGHT: weight}))


def soft_labels(artifacts: list[Artifact], pairs: pd.DataFrame) -> np.ndarray:
    """Return the mean of the artifacts' probabilities, (n, 3). If an artifact was trained on a row,
    the artifact's out-of-fold prediction for that row is used.

    Raises
    ------
    InputError
        If an artifact was trained on one of the rows (matched by id and texts) without ever holding
        it out, as is the case for extra rows.
    """
    pairs = as_pairs(pairs)
    return np.mean([_soft_labels(artifact, pairs) for artifact in artifacts], axis=0)


def _soft_labels(artifact: Artifact, pairs: pd.DataFrame) -> np.ndarray:
    seen = artifact.knows(pairs)
    nothing = np.full((len(pairs), 3), np.nan)
    probabilities = artifact.out_of_fold(pairs) if seen.any() else nothing
    lacking = pairs[ID][seen & np.isnan(probabilities[:, 0])]
    if len(lacking):
        raise InputError(
            f"{artifact.folder}: was trained on {len(lacking)} of these rows (the first has id "
            f"{lacking.iloc[0]!r}) and has no out-of-fold prediction for them, so it would repeat "
            "their labels; train it with --folds"
        )
    near = ~seen & pd.Series(prompt_keys(pairs)).isin(artifact.rows[PROMPT_KEY]).to_numpy()
    if near.any():
        logger.warning(
            "%s: %d rows share a prompt with its training rows; if they are the same rows with "
            "different ids, it repeats their labels",
            artifact.folder,
            near.sum(),
        )
    if seen.any():
        text = "%s: using out-of-fold predictions for %d of its training rows"
        logger.info(text, artifact.folder, seen.sum())
    if not seen.all():
        probabilities[~seen] = artifact.predict_proba(pairs[~seen].reset_index(drop=True))
    return probabilities
