"""The competition's files for a dry run: the synthetic arena, or the user's own rows."""

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.arena import make_arena
from humanpref.config import Config
from humanpref.data import (
    as_pairs,
    competition_cells,
    grouped_folds,
    held_out,
    positive_weight_mask,
    read_pairs,
    with_tie_column,
)
from humanpref.schema import ID, LABEL_COLUMNS, TEXT_COLUMNS

SYNTHETIC_ROWS = 2_000
"""Number of training rows in the synthetic arena, which has one fifth as many test rows."""
MOST_DROPPED = 100
"""Maximum number of training rows that `Competition.make_uneven` drops."""
HELD_OUT_ROWS = 1_000
"""Maximum number of test rows held out from `--train` if there is no `--test`."""


@dataclass
class Competition:
    """The competition's files, with their cells unchanged.

    Attributes
    ----------
    source : str
        A description of where the rows come from.
    train, test : DataFrame
        The rows that the kernels see.
    labels : DataFrame or None
        `id` and the label columns of the test rows, if they are known. The kernels never see them.
    """

    source: str
    train: pd.DataFrame
    test: pd.DataFrame
    labels: pd.DataFrame | None

    def repeat_test(self, rows: int) -> None:
        """Cut the test rows, or repeat them under new ids, so that there are `rows` of them."""
        ids = self.test[ID].astype(str).tolist()
        unused = (text for text in map(str, itertools.count(1)) if text not in set(ids))
        self.test = self.test.iloc[np.arange(rows) % len(ids)].reset_index(drop=True)
        self.test[ID] = list(itertools.islice(itertools.chain(ids, unused), rows))

    def make_uneven(self, config: Config) -> None:
        """Drop a test row if their number is even, and training rows until the last batch of an
        epoch has a single row, so that processes cannot share them equally."""
        self.repeat_test(len(self.test) - (len(self.test) + 1) % 2)
        training, pairs = config.training, as_pairs(self.train)
        for rows in range(len(pairs), max(1, len(pairs) - MOST_DROPPED), -1):
            held = held_out(pairs[:rows], training.validation_fraction, config.seed)
            if (rows - held.sum()) % training.batch_size == 1:
                self.train = self.train[:rows]
                return

    def write(self, folder: Path) -> None:
        """Write train.csv, test.csv and sample_submission.csv into a new folder."""
        folder.mkdir()
        sample = self.test[[ID]].assign(**dict.fromkeys(LABEL_COLUMNS, 1 / 3))
        frames = {"train": self.train, "test": self.test, "sample_submission": sample}
        for name, frame in frames.items():
            # Quote everything: csv would not quote a lone carriage return.
            style = {"lineterminator": "\n", "quoting": csv.QUOTE_ALL, "errors": "surrogatepass"}
            frame.to_csv(folder / f"{name}.csv", index=False, **style)


def read_competition(
    train: Path | None, test: Path | None, format: str | None = None
) -> Competition:
    """Read the user's rows, or generate the synthetic arena if there are none.

    Parameters
    ----------
    train, test : Path, optional
        Rows that `humanpref.data.read_pairs` reads. Without `test`, part of `train` is held out,
        grouped by prompt; without `train`, the arena's training rows are used.
    format : str, optional
        The format of both. By default, it is detected.

    Raises
    ------
    InputError
        For a file that the kernels would refuse.
    """
    if train is not None and test is None:
        return _hold_out(train, format)
    if train is None:
        arena = make_arena(SYNTHETIC_ROWS, seed=0)
        rows, source = arena.train, "the synthetic arena"
        if test is None:
            labels = arena.test_labels[[ID, *LABEL_COLUMNS]].astype({ID: str})
            return Competition(source, rows, arena.test, labels)
        source = f"{source}'s training rows and {test}"
    else:
        read_pairs(train, labels=True, format=format)
        rows, source = competition_cells(train, format), f"{train} and {test}"
    pairs = read_pairs(test, format=format)
    labels = with_tie_column(pairs)[[ID, *LABEL_COLUMNS]] if LABEL_COLUMNS[0] in pairs else None
    return Competition(source, rows, competition_cells(test, format)[[ID, *TEXT_COLUMNS]], labels)


def _hold_out(train: Path, format: str | None) -> Competition:
    """Split labeled rows by prompt into training rows and at most `HELD_OUT_ROWS` test rows."""
    pairs = read_pairs(train, labels=True, format=format)
    # Rows of weight 0 count in no metric.
    held = (grouped_folds(pairs, k=5, seed=42) == 0) & positive_weight_mask(pairs, train)
    test = np.flatnonzero(held)[:HELD_OUT_ROWS]
    cells = competition_cells(train, format)
    return Competition(
        f"{train}, part of it held out as the test",
        cells[~held],
        cells.iloc[test][[ID, *TEXT_COLUMNS]],
        with_tie_column(pairs).iloc[test][[ID, *LABEL_COLUMNS]].reset_index(drop=True),
    )
