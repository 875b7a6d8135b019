"""The rows that a run learns from: those of the training file, which may be held out, and extra
ones, which never are."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from humanpref.data.folds import grouped_folds, prompt_keys
from humanpref.data.pairs import labels_of, weights_of
from humanpref.data.pairs_csv import read_pairs
from humanpref.schema import ID, LABEL_COLUMNS, TEXT_COLUMNS, WEIGHT, InputError

logger = logging.getLogger(__name__)

EXTRA_ID = r"^extra-\d+:"
"""What stands before the ids of extra rows, as a pattern."""


class Extra(NamedTuple):
    """A file of more labelled rows, and the weight of each, times the row's own where the file has
    weights."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class TrainingRows:
    """What a run learns from.

    Attributes
    ----------
    pairs : DataFrame
        n labelled rows, each of which may be held out.
    targets : ndarray
        (n, 3): what is learned of them. Their labels, or a teacher's probabilities mixed with them;
        metrics always use the labels.
    extra : DataFrame
        m rows with labels and weights that are never held out; ids are those of their files behind
        `extra-1:`, `extra-2:` …
    facts : dict
        Files and counts, as plain JSON types.
    """

    pairs: pd.DataFrame
    targets: np.ndarray
    extra: pd.DataFrame
    facts: dict[str, Any]

    def only(self, rows: np.ndarray) -> "TrainingRows":
        """The file's rows in a mask (n,), and the extra rows."""
        return replace(
            self, pairs=self.pairs[rows].reset_index(drop=True), targets=self.targets[rows]
        )

    def kept(self, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Which rows a model learns from while others are held out.

        Parameters
        ----------
        held : ndarray
            (n,) bool.

        Returns
        -------
        (ndarray, ndarray, int)
            Masks (n,) of `pairs` and (m,) of `extra`, and how many extra rows are left out since
            they share a normalised prompt with a held-out row.
        """
        shared = pd.Series(prompt_keys(self.extra)).isin(prompt_keys(self.pairs[held])).to_numpy()
        return ~held, ~shared & (self.extra[WEIGHT].to_numpy() > 0), int(shared.sum())

    def gathered(self, own: np.ndarray, extra: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        """The pairs frame of the rows in both masks, and what to learn of them, (rows, 3)."""
        pairs = self.pairs[own].reset_index(drop=True)
        if not extra.any():
            return pairs, self.targets[own]
        weights = weights_of(pairs)
        columns = [ID, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT]
        pairs = pairs.assign(**{WEIGHT: 1.0 if weights is None else weights})
        more = self.extra[extra]
        together = pd.concat([pairs[columns], more[columns]], ignore_index=True)
        return together, np.concatenate([self.targets[own], labels_of(more)])


def read_training_rows(
    train_csv: str | Path, extra: Sequence[Extra] = (), exclude_prompts: Sequence[str | Path] = ()
) -> TrainingRows:
    """Read the training file, extra files, and take out what must not be learned.

    Parameters
    ----------
    train_csv : path
        Rows with labels, and weights if there are any.
    extra : sequence of Extra
        More of them, from other sources.
    exclude_prompts : sequence of paths
        CSVs in the competition's schema, with or without labels: no row is kept whose normalised
        prompt occurs in one of them. For public rows that the hidden test holds, say.

    Raises
    ------
    InputError
        For a file that cannot be used, an id that looks like an extra row's, a weight that is not
        positive, or if no training row is left.
    """
    pairs = read_pairs(train_csv, labels=True)
    if (taken := pairs[ID].str.contains(EXTRA_ID)).any():
        raise InputError(
            f"{train_csv}: id {pairs[ID][taken].iloc[0]!r}: such a beginning is kept for extra rows"
        )
    frames = []
    for number, source in enumerate(extra, start=1):
        if not 0 < source.weight < np.inf:
            raise InputError(
                f"extra rows {source.path}: expected a positive weight, got {source.weight:g}"
            )
        rows = read_pairs(source.path, labels=True)
        own = weights_of(rows)
        ids = f"extra-{number}:" + rows[ID]
        rows = rows.assign(
            **{ID: ids, WEIGHT: source.weight * (np.ones(len(rows)) if own is None else own)}
        )
        frames.append(rows[[ID, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT]])
    facts: dict[str, Any] = {"file": Path(train_csv).name, "rows": len(pairs)}
    facts["extra"] = [
        {"file": Path(source.path).name, "weight": source.weight, "rows": len(frame)}
        for source, frame in zip(extra, frames, strict=True)
    ]
    forbidden: set[str] = set()
    for path in exclude_prompts:
        forbidden |= set(prompt_keys(read_pairs(path, labels=False)))
    if exclude_prompts:
        pairs, facts["excluded"] = _without(pairs, forbidden)
        if pairs.empty:
            raise InputError(f"{train_csv}: the prompts of all its rows are excluded")
        for number, frame in enumerate(frames):
            frames[number], facts["extra"][number]["excluded"] = _without(frame, forbidden)
        logger.info(
            "excluded prompts: %d of %d training rows and %d of %d extra rows are left out",
            facts["excluded"],
            facts["rows"],
            sum(f["excluded"] for f in facts["extra"]),
            sum(f["rows"] for f in facts["extra"]),
        )
    empty = pairs[:0].reindex(columns=[ID, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT])
    together = pd.concat(frames, ignore_index=True) if frames else empty
    return TrainingRows(pairs, labels_of(pairs), together, facts)


def positive_weight_mask(pairs: pd.DataFrame, source: str | Path) -> np.ndarray:
    """Mask (n,) of the rows with a positive weight: weight 0 drops a row from training and from
    evaluation.

    Raises
    ------
    InputError
        If there is none. `read_pairs` accepts no such file, but excluded prompts may leave one.
    """
    weights = weights_of(pairs)
    positive = np.ones(len(pairs), dtype=bool) if weights is None else weights > 0
    if not positive.any():
        raise InputError(f"{source}: column 'weight': every row has weight 0")
    if not positive.all():
        logger.info("%s: %d rows of weight 0 are left out", source, (~positive).sum())
    return positive


def inner_splits(
    pairs: pd.DataFrame, k: int, seed: int, labels: np.ndarray, least: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits of a model's training rows to choose by, as the run itself splits: grouped by prompt,
    extra rows never held out.

    Parameters
    ----------
    pairs : DataFrame
        n rows, as `TrainingRows.gathered` gives them; the ids tell which are extra ones.
    k, seed, labels
        As in `grouped_folds`; labels are (n, 3).
    least : int
        With fewer distinct prompts of the file's own there is no split; nor with fewer than k.

    Returns
    -------
    list of (ndarray, ndarray)
        Of each fold, masks (n,) of the rows to learn from and of those to judge by. An extra row
        that shares a prompt with a judged row is in neither.
    """
    own = ~pairs[ID].str.contains(EXTRA_ID).to_numpy(dtype=bool)
    own = own if own.any() else ~own
    keys = pd.Series(prompt_keys(pairs))
    if keys[own].nunique() < max(k, least):
        return []
    fold_of = np.full(len(pairs), -1)
    fold_of[own] = grouped_folds(pairs[own], k, seed, labels[own])
    judged = [fold_of == fold for fold in range(k)]
    return [(~keys.isin(keys[out]).to_numpy(), out) for out in judged]


def _without(pairs: pd.DataFrame, forbidden: set[str]) -> tuple[pd.DataFrame, int]:
    out = pd.Series(prompt_keys(pairs)).isin(forbidden).to_numpy()
    return pairs[~out].reset_index(drop=True), int(out.sum())
