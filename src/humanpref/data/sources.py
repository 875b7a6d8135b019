"""The rows that a run learns from: rows of the training file, which may be held out, and extra
rows, which never are."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from humanpref.data.folds import grouped_folds, prompt_keys
from humanpref.data.pairs import has_ties, labels_of, refuse_ties, weights_of, with_tie_column
from humanpref.data.reading import read_pairs
from humanpref.data.tables import source_name
from humanpref.schema import ID, LABEL_COLUMNS, TEXT_COLUMNS, WEIGHT, InputError, counted

logger = logging.getLogger(__name__)

EXTRA_ID = r"^extra-\d+:"
"""Regular expression that matches the id prefix of extra rows."""


class Extra(NamedTuple):
    """Extra labeled rows: a file, or any other source that `read_pairs` reads. The weight of each
    row (1 if there are no weights) is multiplied by `weight`. If `format` is None, the format is
    detected."""

    path: Any
    weight: float = 1.0
    format: str | None = None


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a run learns from, with their training targets.

    Attributes
    ----------
    pairs : DataFrame
        The n labeled rows of the training file, each of which may be held out.
    targets : ndarray
        (n, 3) training targets of `pairs`: the labels, or the labels mixed with a teacher's
        probabilities. Metrics always use the labels.
    extra : DataFrame
        The m extra rows, with labels and weights; they are never held out. The ids of the first
        extra file start with `extra-1:`, those of the second with `extra-2:` …
    facts : dict
        File names and row counts, as plain JSON types.
    ties : bool
        Whether there are ties. If not, a model of the rows has two classes.
    """

    pairs: pd.DataFrame
    targets: np.ndarray
    extra: pd.DataFrame
    facts: dict[str, Any]
    ties: bool = True

    def only(self, rows: np.ndarray) -> "TrainingRows":
        """Return a copy in which `pairs` has only the rows that a mask, (n,), selects. All extra
        rows are kept."""
        return replace(
            self, pairs=self.pairs[rows].reset_index(drop=True), targets=self.targets[rows]
        )

    def kept(self, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the rows that a model learns from while others are held out.

        Parameters
        ----------
        held : ndarray
            A mask (n,) of the held-out rows of `pairs`.

        Returns
        -------
        (ndarray, ndarray, int)
            A mask (n,) of `pairs`, a mask (m,) of `extra`, and the number of extra rows that the
            second mask leaves out because they share a normalized prompt with a held-out row.
        """
        shared = _has_prompt(self.extra, prompt_keys(self.pairs[held]))
        return ~held, ~shared & (self.extra[WEIGHT].to_numpy() > 0), int(shared.sum())

    def gathered(self, rows: np.ndarray, extra: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        """Join selected rows of the training file and selected extra rows.

        Parameters
        ----------
        rows : ndarray
            A mask (n,) of the rows of the training file, `pairs`.
        extra : ndarray
            A mask (m,) of the extra rows.

        Returns
        -------
        (DataFrame, ndarray)
            The k selected rows as one pairs frame, and their targets, (k, 3).
        """
        pairs = self.pairs[rows].reset_index(drop=True)
        if not extra.any():
            return pairs, self.targets[rows]
        more = self.extra[extra]
        together = pd.concat([_weighted(pairs), more[_COLUMNS]], ignore_index=True)
        return together, np.concatenate([self.targets[rows], labels_of(more)])


_COLUMNS = [ID, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT]


def _weighted(pairs: pd.DataFrame, factor: float = 1.0) -> pd.DataFrame:
    """Return the columns `_COLUMNS` of the rows, with each weight multiplied by `factor`. Rows
    without weights have weight 1."""
    weights = weights_of(pairs)
    return pairs.assign(**{WEIGHT: factor if weights is None else factor * weights})[_COLUMNS]


def _has_prompt(pairs: pd.DataFrame, keys: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of the rows whose prompt has one of the keys."""
    return pd.Series(prompt_keys(pairs)).isin(keys).to_numpy()


def read_training_rows(
    train_csv: Any,
    extra: Sequence[Extra] = (),
    exclude_prompts: Sequence[Any] = (),
    format: str | None = None,
    classes: int | None = None,
) -> TrainingRows:
    """Read the training file and the extra files, and drop rows with excluded prompts.

    Parameters
    ----------
    train_csv : path or object
        Labeled rows, optionally weighted: any source that `read_pairs` reads.
    extra : sequence of Extra
        Additional rows from other sources.
    exclude_prompts : sequence of paths or objects
        Rows with or without labels. Every row whose normalized prompt occurs in one of them is
        dropped, which keeps rows of the test set out of training.
    format : str, optional
        The format of `train_csv`, one of `humanpref.schema.FORMATS`. By default, it is detected.
    classes : int, optional
        2 for rows without ties, or 3. By default, the format of the training file decides
        (`humanpref.data.has_ties`).

    Raises
    ------
    InputError
        For an unusable file, an id in the training file that begins as the ids of extra rows do
        (`extra-1:`), an extra weight that is not positive and finite, or a tie if there are two
        classes; or if no training rows remain.
    """
    pairs = read_pairs(train_csv, labels=True, format=format)
    ties = has_ties(pairs) if classes is None else classes == 3
    pairs = _with_labels(pairs, ties, source_name(train_csv))
    if (taken := pairs[ID].str.contains(EXTRA_ID)).any():
        raise InputError(
            f"{source_name(train_csv)}: id {pairs[ID][taken].iloc[0]!r}: the prefix 'extra-N:' is "
            "reserved for extra rows"
        )
    frames = []
    facts: dict[str, Any] = {
        "file": Path(source_name(train_csv)).name,
        "rows": len(pairs),
        "extra": [],
    }
    excluded = [prompt_keys(read_pairs(path, labels=False)) for path in exclude_prompts]
    if excluded:
        pairs = _without_prompts(pairs, excluded, facts)
        if pairs.empty:
            raise InputError(f"{source_name(train_csv)}: the prompts of all its rows are excluded")
    for number, source in enumerate(extra, start=1):
        name = source_name(source.path)
        if not 0 < source.weight < np.inf:
            raise InputError(
                f"extra rows {name}: expected a positive weight, got {source.weight:g}"
            )
        frame = read_pairs(source.path, labels=True, format=source.format)
        if ties and not has_ties(frame):
            logger.warning("extra rows %s have no ties, so they lower P(tie) for all rows", name)
        frame = _with_labels(frame, ties, name)
        frame = _weighted(frame, source.weight)
        frame[ID] = f"extra-{number}:" + frame[ID]
        fact = {"file": Path(name).name, "weight": source.weight, "rows": len(frame)}
        if excluded:
            frame = _without_prompts(frame, excluded, fact)
        frames.append(frame)
        facts["extra"].append(fact)
    empty = pairs[:0].reindex(columns=_COLUMNS)
    together = pd.concat(frames, ignore_index=True) if frames else empty
    return TrainingRows(pairs, labels_of(pairs), together, facts, ties)


def _with_labels(pairs: pd.DataFrame, ties: bool, source: str | Path) -> pd.DataFrame:
    """Return the frame with all three label columns. Raises InputError if `ties` is False and a row
    is a tie."""
    if not ties:
        refuse_ties(labels_of(pairs), weights_of(pairs), source)
    return with_tie_column(pairs)


def _without_prompts(
    pairs: pd.DataFrame, excluded: list[np.ndarray], facts: dict[str, Any]
) -> pd.DataFrame:
    """Return the rows of a file whose prompts are not excluded, and record in `facts` how many rows
    were dropped."""
    kept = pairs[~_has_prompt(pairs, np.concatenate(excluded))].reset_index(drop=True)
    facts["excluded"] = len(pairs) - len(kept)
    logger.info(
        "%s: dropped %d of %d rows because their prompts are excluded",
        facts["file"],
        facts["excluded"],
        len(pairs),
    )
    return kept


def positive_weight_mask(pairs: pd.DataFrame, source: str | Path) -> np.ndarray:
    """Return a mask (n,) of the rows with a positive weight. A row of weight 0 is used neither for
    training nor for evaluation.

    Raises
    ------
    InputError
        If no row has a positive weight. `read_pairs` rejects such a file, but excluding prompts may
        leave only rows of weight 0.
    """
    weights = weights_of(pairs)
    positive = np.ones(len(pairs), dtype=bool) if weights is None else weights > 0
    if not positive.any():
        raise InputError(f"{source}: column 'weight': every row has weight 0")
    if not positive.all():
        left_out = counted(int((~positive).sum()), "row")
        logger.info("%s: leaving out %s of weight 0", source, left_out)
    return positive


def inner_splits(
    pairs: pd.DataFrame, k: int, seed: int, labels: np.ndarray, least: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split a model's training rows for model selection, in the way the run splits its own rows:
    grouped by prompt, with extra rows never held out.

    Parameters
    ----------
    pairs : DataFrame
        n rows, as returned by `TrainingRows.gathered`; extra rows are recognized by their ids.
    k, seed, labels
        As in `grouped_folds`; labels are (n, 3).
    least : int
        Minimum number of distinct prompts. If the rows of the training file have fewer than this or
        fewer than `k`, an empty list is returned.

    Returns
    -------
    list of (ndarray, ndarray)
        For each fold, masks (n,) of the rows to train on and of the rows to evaluate on. An extra
        row that shares a prompt with an evaluated row is in neither.
    """
    native = ~pairs[ID].str.contains(EXTRA_ID).to_numpy(dtype=bool)
    if not native.any():
        native = ~native
    keys = pd.Series(prompt_keys(pairs))
    if keys[native].nunique() < max(k, least):
        return []
    fold_of = np.full(len(pairs), -1)
    fold_of[native] = grouped_folds(pairs[native], k, seed, labels[native])
    judged = [fold_of == fold for fold in range(k)]
    return [(~keys.isin(keys[out]).to_numpy(), out) for out in judged]
