"""Soft labels: probabilities predicted by trained models. A model never gives a soft label to a row
whose label it was trained on."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax

from humanpref.data import (
    TrainingRows,
    as_pairs,
    has_ties,
    labels_of,
    prompt_keys,
    read_labels,
    swap_pairs,
    without_ties,
    write_pairs,
)
from humanpref.files import is_main_process
from humanpref.models import load_model
from humanpref.runs.artifact import Artifact, check_same_classes
from humanpref.runs.artifact_tables import OOF_FILE, PROMPT_KEY, read_oof
from humanpref.schema import (
    ID,
    LABEL_COLUMNS,
    SWAPPED_CLASSES,
    TEXT_COLUMNS,
    WEIGHT,
    InputError,
    counted,
)

logger = logging.getLogger(__name__)


class Teacher(NamedTuple):
    """A source of soft labels, and how much it counts."""

    path: Path
    """An artifact, or a CSV with `id` and the three probabilities (a submission, an oof.csv, or the
    output of `predict --labels`)."""
    share: float | None = None
    """Share of the targets, in (0, 1]. The labels get the remainder: 1 minus the shares of all
    teachers. If there are teachers without a share, they divide the remainder equally instead, and
    the labels get nothing."""
    temperature: float = 1.0
    """T, above 0: probabilities p become p^(1/T), divided by their sum. A T above 1 softens a
    teacher that is too confident."""


def taught(rows: TrainingRows, teachers: Sequence[Teacher]) -> TrainingRows:
    """Return the rows with new targets: a mean of the labels and the teachers' probabilities,
    weighted by their shares.

    A teacher judges one of its own training rows only by an out-of-fold prediction. If it has none,
    its share of that row goes to the other teachers, in proportion to their shares. Probabilities
    are averaged over both orders of A and B (see `soft_labels`).

    If the rows have two classes, a teacher's probabilities of A and B are divided by their sum.
    Extra rows keep their labels, and held-out rows are still evaluated on their labels.

    If a teacher was trained on the same rows, the metrics are too good (by 0.08 nats on 300
    synthetic rows), since it has also learned from the labels of the rows that are held out here.
    This is logged as a warning; only a separate teacher for each fold would avoid it.

    Raises
    ------
    InputError
        If a share or a temperature is invalid, if a file is invalid, if a row has no probabilities
        or has different texts in a teacher's file, if a teacher has no ties and the rows have, or
        if no teacher may judge a row (see `soft_labels`).
    """
    shares = _shares(teachers)
    told = []
    for teacher in teachers:
        path = Path(teacher.path)
        if path.is_dir():
            artifact = Artifact.load(path)
            if rows.ties and artifact.classes == 2:
                raise InputError(_NO_TIES.format(path))
            told.append(_soft_labels(artifact, rows.pairs))
            if artifact.rows[PROMPT_KEY].isin(prompt_keys(rows.pairs)).any():
                logger.warning(
                    "%s: was trained on these rows' labels, including those of rows that will be "
                    "held out, which flatters the metrics; evaluate on rows that the teacher "
                    "has not seen",
                    path,
                )
        else:
            told.append(_probabilities_by_id(path, rows.pairs, rows.ties))
    if not rows.ties:
        told = [without_ties(probabilities) for probabilities in told]
    softened = [
        _softened(probabilities, teacher.temperature)
        for probabilities, teacher in zip(told, teachers, strict=True)
    ]
    names = [str(teacher.path) for teacher in teachers]
    mean, total = _mean(softened, shares, rows.pairs, names), shares.sum()
    facts = [
        {
            "name": Path(teacher.path).name,
            "share": share,
            "temperature": teacher.temperature,
            "rows": int((~np.isnan(probabilities[:, 0])).sum()),
        }
        for teacher, share, probabilities in zip(teachers, shares.tolist(), told, strict=True)
    ]
    return dataclasses.replace(
        rows,
        targets=total * mean + (1 - total) * rows.targets,
        facts=rows.facts | {"teachers": facts},
    )


def _shares(teachers: Sequence[Teacher]) -> np.ndarray:
    """Return the teachers' shares of the targets, (teachers,), which sum to at most 1."""
    for path, share, temperature in teachers:
        if share is not None and not 0 < share <= 1:
            raise InputError(
                f"teacher {path}: expected a share above 0 and at most 1, got {share:g}"
            )
        if not 0 < temperature < np.inf:
            raise InputError(f"teacher {path}: expected a temperature above 0, got {temperature:g}")
    given = sum(teacher.share or 0 for teacher in teachers)
    without = sum(teacher.share is None for teacher in teachers)
    if given > 1 + 1e-9 or (without and given > 1 - 1e-9):
        most = "less than 1, since some teachers have no share" if without else "at most 1"
        raise InputError(f"--teacher: expected shares that sum to {most}, got {given:g}")
    shares = [
        (1 - given) / without if teacher.share is None else teacher.share for teacher in teachers
    ]
    # Rounding must not leave a label a share below 0.
    return np.array(shares) / max(1.0, sum(shares))


def _softened(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    if temperature == 1:
        return probabilities
    with np.errstate(divide="ignore"):  # a probability of 0 stays 0
        return softmax(np.log(probabilities) / temperature, axis=1)


_NO_TIES = "--teacher {}: has no probabilities of ties, so it cannot teach rows with ties"


def _probabilities_by_id(path: Path, pairs: pd.DataFrame, ties: bool) -> np.ndarray:
    table = read_labels(path).set_index(ID).reindex(pairs[ID])
    if ties and not has_ties(table):
        raise InputError(_NO_TIES.format(path))
    logger.info(
        "%s: probabilities are matched by id; if a model predicted them for its own training rows, "
        "they leak the labels",
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
    """Write rows with `soft_labels` as their labels to a file that `read_pairs` reads. If the
    artifacts have no ties, `winner_tie` is omitted. If given, `weight` replaces the rows' weights.

    Raises
    ------
    InputError
        If the weight is not positive; see also `soft_labels`.
    """
    if weight is not None and not 0 < weight < np.inf:
        raise InputError(f"--weight: expected a positive number, got {weight:g}")
    pairs = as_pairs(pairs)
    told = soft_labels(artifacts, pairs).T
    labelled = pairs.assign(**dict(zip(LABEL_COLUMNS, told, strict=True)))
    if artifacts[0].classes == 2:
        labelled = labelled.drop(columns=LABEL_COLUMNS[2])
    if is_main_process():
        write_pairs(path, labelled if weight is None else labelled.assign(**{WEIGHT: weight}))


def soft_labels(artifacts: list[Artifact], pairs: pd.DataFrame) -> np.ndarray:
    """Return the mean of the artifacts' probabilities, (n, 3).

    For one of its own training rows, an artifact gives its out-of-fold prediction. If it has none,
    it does not judge the row, and the mean is over the other artifacts.

    Both orders of A and B are averaged, unless exchanging A and B exchanges P(A) and P(B) by
    construction. For an out-of-fold prediction, the fold model that held the row out predicts the
    second order. If the artifact lacks that model (as blends and merged artifacts do), only the
    stored order counts.

    Raises
    ------
    InputError
        If all artifacts were trained on a row (matched by id and texts) and none of them held it
        out, which is the case for extra rows; or if some artifacts have ties and others have none.
    """
    check_same_classes(artifacts)
    pairs = as_pairs(pairs)
    told = [_soft_labels(artifact, pairs) for artifact in artifacts]
    names = [str(artifact.folder) for artifact in artifacts]
    return _mean(told, np.ones(len(told)), pairs, names)


def _mean(
    told: list[np.ndarray], weights: np.ndarray, pairs: pd.DataFrame, names: list[str]
) -> np.ndarray:
    """Return each row's weighted mean, (n, 3), over the probabilities that are not NaN.

    Raises
    ------
    InputError
        If all probabilities of a row are NaN.
    """
    judged = ~np.isnan(np.stack(told)[:, :, 0])
    if (lacking := pairs[ID][~judged.any(axis=0)]).size:
        several = f"each of {', '.join(names)}" if len(names) > 1 else names[0]
        raise InputError(
            f"{several}: was trained on {len(lacking)} of these rows (the first has id "
            f"{lacking.iloc[0]!r}) and has no out-of-fold prediction for them, so it would repeat "
            "their labels; train it with --folds"
        )
    weighted = judged * weights[:, None]
    return (weighted[:, :, None] * np.nan_to_num(told)).sum(axis=0) / weighted.sum(axis=0)[:, None]


def _soft_labels(artifact: Artifact, pairs: pd.DataFrame) -> np.ndarray:
    """Return the probabilities of one artifact, (n, 3); NaN for rows that it may not judge."""
    seen = artifact.knows(pairs)
    probabilities = np.full((len(pairs), 3), np.nan)
    near = ~seen & pd.Series(prompt_keys(pairs)).isin(artifact.rows[PROMPT_KEY]).to_numpy()
    if near.any():
        logger.warning(
            "%s: was trained on other rows with the prompts of %s; if they are the same rows with "
            "different ids, its predictions repeat the labels",
            artifact.folder,
            counted(int(near.sum()), "row"),
        )
    if seen.any() and artifact.held_out:
        probabilities = _both_orders_held_out(artifact, pairs)
        held = seen & ~np.isnan(probabilities[:, 0])
        text = "%s: using out-of-fold predictions for %d of its training rows"
        logger.info(text, artifact.folder, held.sum())
    if not seen.all():
        new = pairs[~seen].reset_index(drop=True)
        probabilities[~seen] = artifact.predict_proba(new)
        if not artifact.swap_equivariant:
            second = artifact.predict_proba(swap_pairs(new))[:, SWAPPED_CLASSES]
            probabilities[~seen] = (probabilities[~seen] + second) / 2
    return probabilities


def _both_orders_held_out(artifact: Artifact, pairs: pd.DataFrame) -> np.ndarray:
    """Return the held-out predictions, (n, 3), averaged over both orders of A and B unless the
    artifact is swap-equivariant; NaN for rows that were not held out."""
    first = artifact.out_of_fold(pairs)
    if artifact.swap_equivariant:
        return first
    judged, second = ~np.isnan(first[:, 0]), np.zeros((len(pairs), 3))
    models = np.zeros(len(pairs))
    for folder in artifact.members:
        if (folder / OOF_FILE).is_file():
            own = judged & pairs[ID].isin(read_oof(folder / OOF_FILE)[ID]).to_numpy()
            swapped = swap_pairs(pairs[own].reset_index(drop=True))
            if own.any():
                second[own] += load_model(folder).predict_proba(swapped)[:, SWAPPED_CLASSES]
            models += own
    both = models > 0
    if (lacking := judged & ~both).any():
        text = "%s: using only one order of A and B for %s, since none of its models held these "
        number = counted(int(lacking.sum()), "out-of-fold prediction")
        logger.warning(text + "rows out", artifact.folder, number)
    first[both] = (first[both] + second[both] / models[both, None]) / 2
    return first
