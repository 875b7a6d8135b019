"""Soft labels: what trained models say of rows, without ever repeating a label that they were
shown."""

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
    """Where soft labels come from, and how much they count beside the labels."""

    path: Path
    """An artifact, or a CSV with `id` and the three probabilities (a submission, an oof.csv, what
    `predict --labels` wrote)."""
    share: float = 1.0
    """s in (0, 1]: what is learned is s times the teacher's probabilities plus 1 - s times the
    labels."""


def taught(rows: TrainingRows, teacher: Teacher) -> TrainingRows:
    """The rows, with the teacher's probabilities as what is learned of them, alone or mixed with
    the labels.

    Extra rows keep their labels. The labels that held-out rows are judged by stay as they are. A
    teacher that was trained on the same rows has seen the labels of the held-out ones while it
    learned to label the others, which flatters the figures (by 0.08 nats on 300 synthetic rows):
    that is warned of, and only a teacher of each fold's own would take it away.

    Raises
    ------
    InputError
        For a share outside (0, 1], a file that cannot be used, a row that the teacher says nothing
        of, one that has other texts in the teacher's file, or one that it has only seen with its
        label (see `soft_labels`).
    """
    path, share = Path(teacher.path), teacher.share
    if not 0 < share <= 1:
        raise InputError(f"teacher {path}: expected a share above 0 and at most 1, got {share:g}")
    if path.is_dir():
        artifact = Artifact.load(path)
        told = soft_labels([artifact], rows.pairs)
        if artifact.rows[PROMPT_KEY].isin(prompt_keys(rows.pairs)).any():
            logger.warning(
                "%s: has learned from these rows' labels, those of the rows that will be held out, "
                "too: the figures flatter; "
                "judge by rows that it has not seen",
                path,
            )
    else:
        given = read_labels(path)
        unknown = ~rows.pairs[ID].isin(given[ID])
        if unknown.any():
            raise InputError(
                f"{path}: no probabilities for {unknown.sum()} of {len(unknown)} training rows, "
                "the first of them id "
                f"{rows.pairs[ID][unknown].iloc[0]!r}"
            )
        logger.info(
            "%s: taken as it is, by id; predictions of a model for the rows that it was fitted on "
            "would leak",
            path,
        )
        given = given.set_index(ID).loc[rows.pairs[ID]]
        texts = [column for column in TEXT_COLUMNS if column in given]
        other = np.any(
            [
                np.zeros(len(given)),
                *(given[c].to_numpy() != rows.pairs[c].to_numpy() for c in texts),
            ],
            axis=0,
        )
        if other.any():
            raise InputError(
                f"{path}: its ids are those of other rows: {other.sum()} of {len(other)} training "
                "rows have other texts, the "
                f"first of them id {rows.pairs[ID][other].iloc[0]!r}"
            )
        told = labels_of(given)
    targets = share * told + (1 - share) * rows.targets
    facts = rows.facts | {"teacher": {"name": path.name, "share": share}}
    return dataclasses.replace(rows, targets=targets, facts=facts)


def write_soft_labels(
    path: str | Path, artifacts: list[Artifact], pairs: pd.DataFrame, weight: float | None = None
) -> None:
    """Write rows with `soft_labels` as their labels, as `read_pairs` reads them; `weight`, if
    given, in place of their own.

    Raises
    ------
    InputError
        For a weight that is not positive, and as `soft_labels`.
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
    """Mean of what the artifacts say of rows, (n, 3); of a row that one was trained on it gives its
    out-of-fold prediction.

    Raises
    ------
    InputError
        If an artifact was trained on a row, by id and texts, that it has no out-of-fold prediction
        of; an extra row, say.
    """
    pairs = as_pairs(pairs)
    return np.mean([_soft_labels(artifact, pairs) for artifact in artifacts], axis=0)


def _soft_labels(artifact: Artifact, pairs: pd.DataFrame) -> np.ndarray:
    seen = artifact.knows(pairs)
    told = artifact.out_of_fold(pairs) if seen.any() else np.full((len(pairs), 3), np.nan)
    lacking = pairs[ID][seen & np.isnan(told[:, 0])]
    if len(lacking):
        raise InputError(
            f"{artifact.folder}: was trained on {len(lacking)} of these rows (the first of them id "
            f"{lacking.iloc[0]!r}) "
            "and has no out-of-fold prediction of them, so that it would repeat their labels; "
            "train it with --folds"
        )
    if seen.any():
        logger.info(
            "%s: out-of-fold predictions for %d rows that it was trained on",
            artifact.folder,
            seen.sum(),
        )
    near = ~seen & pd.Series(prompt_keys(pairs)).isin(artifact.rows[PROMPT_KEY]).to_numpy()
    if near.any():
        logger.warning(
            "%s: %d rows share a prompt with rows that it was trained on; if they are the same "
            "rows under other ids, it "
            "repeats their labels",
            artifact.folder,
            near.sum(),
        )
    if not seen.all():
        told[~seen] = artifact.predict_proba(pairs[~seen].reset_index(drop=True))
    return told
