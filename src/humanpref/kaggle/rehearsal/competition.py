"""The competition's files for a dry run: the synthetic arena, or the user's own rows."""

import csv
import dataclasses
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
    labels_of,
    positive_weight_mask,
    read_pairs,
    with_tie_column,
)
from humanpref.extras import install_line
from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT, Competition
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS, InputError

SYNTHETIC_ROWS = 2_000
"""Number of training rows in the synthetic arena, which has one fifth as many test rows."""
MOST_DROPPED = 100
"""Maximum number of training rows that `Files.make_uneven` drops."""
HELD_OUT_ROWS = 1_000
"""Maximum number of test rows held out from `--train` if there is no `--test`."""


@dataclass
class Files:
    """The competition's files, with their cells unchanged.

    Attributes
    ----------
    source : str
        A description of where the rows come from.
    train, test : DataFrame
        The rows that the kernels see.
    labels : DataFrame or None
        `id` and the label columns of the test rows, if they are known. The kernels never see them.
    rules : Competition
        The competition.
    """

    source: str
    train: pd.DataFrame
    test: pd.DataFrame
    labels: pd.DataFrame | None
    rules: Competition = COMPETITIONS[DEFAULT]

    def repeat_test(self, rows: int) -> None:
        """Cut the test rows, or repeat them under new ids, so that there are `rows` of them."""
        ids = self.test[ID].astype(str).tolist()
        taken = set(ids)
        unused = (text for text in map(str, itertools.count(1)) if text not in taken)
        self.test = self.test.iloc[np.arange(rows) % len(ids)].reset_index(drop=True)
        self.test[ID] = list(itertools.islice(itertools.chain(ids, unused), rows))

    def make_uneven(self, config: Config) -> None:
        """Drop rows so that several processes cannot share them equally: one test row if their
        number is even, and training rows until the last batch has a single row. If that would take
        more than `MOST_DROPPED` rows, drop no training rows."""
        self.repeat_test(len(self.test) - (len(self.test) + 1) % 2)
        training = config.training
        pairs = read_pairs(self.train, format=self.rules.format)
        for rows in range(len(pairs), max(1, len(pairs) - MOST_DROPPED), -1):
            held = held_out(pairs[:rows], training.validation_fraction, config.seed)
            if (rows - held.sum()) % training.batch_size == 1:
                self.train = self.train[:rows]
                return

    def drop_labels(self) -> None:
        """Drop the labels of the training rows."""
        self.train = self.train.drop(columns=list(self.rules.submission[1:]))

    def write(self, folder: Path) -> None:
        """Write the training file, the test file and the sample submission into a new folder."""
        folder.mkdir()
        rules = self.rules
        answer = dict(zip(rules.submission[1:], rules.cells(rules.even), strict=True))
        sample = self.test[[ID]].assign(**answer)
        frames = {rules.train: self.train, rules.test: self.test, rules.sample: sample}
        for name, frame in frames.items():
            if name.endswith(".parquet"):
                try:
                    frame.to_parquet(folder / name, index=False)
                except ImportError:
                    line = install_line("parquet")
                    raise InputError(f"{name}: Parquet needs pyarrow: {line}") from None
                continue
            # Quote everything: csv would not quote a lone carriage return.
            style = {"lineterminator": "\n", "quoting": csv.QUOTE_ALL, "errors": "surrogatepass"}
            frame.to_csv(folder / name, index=False, **style)


def read_competition(
    train: Path | None,
    test: Path | None,
    format: str | None = None,
    rules: Competition = COMPETITIONS[DEFAULT],
) -> Files:
    """Return the files of a competition, made of the user's rows or, without them, of the synthetic
    arena.

    Parameters
    ----------
    train, test : Path, optional
        Rows that `humanpref.data.read_pairs` reads. Without `test`, part of `train` is held out,
        grouped by prompt; without `train`, the arena's training rows are used.
    format : str, optional
        The format of `train` and `test`. By default, it is detected.
    rules : Competition
        The competition.

    Raises
    ------
    InputError
        For a file that the kernels would refuse.
    """
    files = _read_files(train, test, format)
    files.rules = rules
    return _with_winners(files) if rules.names_winner else files


def _with_winners(files: Files) -> Files:
    """Rewrite files in the schema of WSDM Cup: no ties, each conversation as one plain text, and
    the winner's name instead of the labels."""
    won = labels_of(as_pairs(files.train))
    winner = np.take(MODEL_COLUMNS, (won[:, 1] > won[:, 0]).astype(int))
    rows = _plain(files.train).assign(winner=winner, language="English")
    test, labels = _plain(files.test).assign(scored=True), files.labels
    if labels is not None:
        decided = labels_of(labels)[:, 2] == 0
        test, labels = test[decided], labels[decided]
    source = f"{files.source}, without ties"
    return dataclasses.replace(
        files, source=source, train=rows[won[:, 2] == 0], test=test, labels=labels
    )


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the ids and the texts of the rows, each conversation as one text."""
    pairs = as_pairs(frame)
    return pairs[[ID]].assign(**{name: pairs[name].map("\n\n".join) for name in TEXT_COLUMNS})


def _read_files(train: Path | None, test: Path | None, format: str | None) -> Files:
    """Read the rows as files in the default competition's schema."""
    if train is not None and test is None:
        return _hold_out(train, format)
    if train is None:
        arena = make_arena(SYNTHETIC_ROWS, seed=0)
        rows, source = arena.train, "the synthetic arena"
        if test is None:
            labels = arena.test_labels[[ID, *LABEL_COLUMNS]].astype({ID: str})
            return Files(source, rows, arena.test, labels)
        source = f"{source}'s training rows and {test}"
    else:
        read_pairs(train, labels=True, format=format)
        rows, source = competition_cells(train, format), f"{train} and {test}"
    pairs = read_pairs(test, format=format)
    labels = with_tie_column(pairs)[[ID, *LABEL_COLUMNS]] if LABEL_COLUMNS[0] in pairs else None
    return Files(source, rows, competition_cells(test, format)[[ID, *TEXT_COLUMNS]], labels)


def _hold_out(train: Path, format: str | None) -> Files:
    """Split labeled rows by prompt into training rows and at most `HELD_OUT_ROWS` test rows."""
    pairs = read_pairs(train, labels=True, format=format)
    # Do not test on rows of weight 0, since no metric counts them.
    held = (grouped_folds(pairs, k=5, seed=42) == 0) & positive_weight_mask(pairs, train)
    test = np.flatnonzero(held)[:HELD_OUT_ROWS]
    cells = competition_cells(train, format)
    return Files(
        f"{train}, part of it held out as the test",
        cells[~held],
        cells.iloc[test][[ID, *TEXT_COLUMNS]],
        with_tie_column(pairs).iloc[test][[ID, *LABEL_COLUMNS]].reset_index(drop=True),
    )
