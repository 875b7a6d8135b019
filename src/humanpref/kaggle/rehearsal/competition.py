"""The competition's files for a dry run: the synthetic arena, or rows of the user's own."""

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.arena import make_arena
from humanpref.data import grouped_folds, positive_weight_mask, read_pairs
from humanpref.schema import ID, LABEL_COLUMNS, TEXT_COLUMNS

SYNTHETIC_ROWS = 2_000
"""Training rows of the synthetic arena; it has a fifth as many test rows."""
HELD_OUT_ROWS = 1_000
"""At most so many rows of `--train` become the test, where there is no `--test`."""


@dataclass
class Competition:
    """The competition's files, each cell as it stands.

    Attributes
    ----------
    source : str
        Where the rows are from.
    train, test : DataFrame
        What the kernels get to see.
    labels : DataFrame or None
        `id` and the label columns of test rows, where they are known. The kernels never see them.
    """

    source: str
    train: pd.DataFrame
    test: pd.DataFrame
    labels: pd.DataFrame | None

    def repeat_test(self, rows: int) -> None:
        """Cut or repeat the test to `rows` rows; a repeated row gets an id of its own."""
        own = self.test[ID].astype(str).tolist()
        fresh = (text for text in map(str, itertools.count(1)) if text not in set(own))
        self.test = self.test.iloc[np.arange(rows) % len(own)].reset_index(drop=True)
        self.test[ID] = [*own[:rows], *itertools.islice(fresh, max(0, rows - len(own)))]

    def write(self, folder: Path) -> None:
        """Write train.csv, test.csv and sample_submission.csv into a new folder."""
        folder.mkdir()
        sample = self.test[[ID]].assign(**dict.fromkeys(LABEL_COLUMNS, 1 / 3))
        for name, frame in (
            ("train", self.train),
            ("test", self.test),
            ("sample_submission", sample),
        ):
            # All quoted: csv would leave a lone carriage return without quotes.
            frame.to_csv(
                folder / f"{name}.csv",
                index=False,
                lineterminator="\n",
                quoting=csv.QUOTE_ALL,
                errors="surrogatepass",
            )


def read_competition(train: Path | None, test: Path | None) -> Competition:
    """Read the user's rows, or draw the synthetic arena where there are none.

    Parameters
    ----------
    train, test : Path, optional
        CSVs in the competition's schema. Without `test`, a part of `train` is held out, grouped by
        prompt; without `train`, the arena's training rows are used.

    Raises
    ------
    InputError
        For a file that the kernels would refuse.
    """
    if train is not None and test is None:
        return _hold_out(train)
    if train is None:
        arena = make_arena(SYNTHETIC_ROWS, seed=0)
        rows, source = arena.train, "the synthetic arena"
        if test is None:
            labels = arena.test_labels[[ID, *LABEL_COLUMNS]].astype({ID: str})
            return Competition(source, rows, arena.test, labels)
        source = f"{source}'s training rows and {test}"
    else:
        read_pairs(train, labels=True)
        rows, source = _read_cells(train), f"{train} and {test}"
    pairs = read_pairs(test)
    labels = pairs[[ID, *LABEL_COLUMNS]] if LABEL_COLUMNS[0] in pairs else None
    return Competition(source, rows, _read_cells(test)[[ID, *TEXT_COLUMNS]], labels)


def _hold_out(train: Path) -> Competition:
    """Split a labelled CSV by prompt into training rows and at most `HELD_OUT_ROWS` test rows."""
    pairs = read_pairs(train, labels=True)
    # A row of weight 0 counts for no metric.
    held = (grouped_folds(pairs, k=5, seed=42) == 0) & positive_weight_mask(pairs, train)
    test = np.flatnonzero(held)[:HELD_OUT_ROWS]
    cells = _read_cells(train)
    return Competition(
        f"{train}, a part of it held out as the test",
        cells[~held],
        cells.iloc[test][[ID, *TEXT_COLUMNS]],
        pairs.iloc[test][[ID, *LABEL_COLUMNS]].reset_index(drop=True),
    )


def _read_cells(path: Path) -> pd.DataFrame:
    """Read a CSV that `read_pairs` has accepted, each cell as it stands."""
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", errors="surrogatepass", newline="") as file:
        header, *rows = (row for row in csv.reader(file) if row)
    return pd.DataFrame(rows, columns=header)
