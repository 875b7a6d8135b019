"""Gradient-boosted trees on structural features and text similarities. They train within minutes on
the CPU and do not need torch.

The columns (if selection is requested), the number of trees and the temperature are all chosen on
inner folds of the training rows.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from humanpref.config.cpu import BoostedOptions
from humanpref.files import write_csv
from humanpref.logloss import log_loss
from humanpref.models.arrays import STATE_FILE, load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.inner_folds import Labelled, Splits, choosing_splits
from humanpref.models.selection import SELECTION_FILE, Selection, importance_order, select
from humanpref.models.trees import Columns, Examples, Trainer, load_booster, margins
from humanpref.schema import InputError
from humanpref.text import features, overlap
from humanpref.text.overlap import CHARACTER_COLUMNS, WORD_COLUMNS, Similarities

BOOSTER_FILE = "booster-{}.json"
INNER_FOLDS = 5
INNER_PROMPTS = 50
"""Minimum number of distinct prompts for tuning. With fewer, the temperature is 1, and
`DEFAULT_ROUNDS` trees per class are trained unless the options set a number."""
DEFAULT_ROUNDS = 100

_ANTISYMMETRIC = (*features.ANTISYMMETRIC, *overlap.ANTISYMMETRIC)
_SYMMETRIC = (*features.SYMMETRIC, *overlap.SYMMETRIC)
COLUMNS = (*_ANTISYMMETRIC, *_SYMMETRIC)
"""Names of all columns that the trees may use."""


def columns_of(pairs: pd.DataFrame, similarities: Similarities) -> Columns:
    """Compute the values of `COLUMNS` for each row, as float32."""
    structure, likeness = features.structural_features(pairs), similarities.columns(pairs)
    blocks = [block for kind in zip(structure, likeness, strict=True) for block in kind]
    signs = np.repeat([-1, 1], [len(_ANTISYMMETRIC), len(_SYMMETRIC)]).astype(np.float32)
    return Columns(list(COLUMNS), signs, np.hstack(blocks, dtype=np.float32))


class BoostedModel(Model, family="boosted"):
    """XGBoost on the columns of `columns_of`. The log scores are averaged over several seeds and
    both orders of A and B, and then divided by a temperature.

    The parameters are the options of `humanpref.config.cpu.BoostedOptions`, and `seed`.

    Attributes
    ----------
    similarities_ : Similarities
    columns_ : list of int
        The indices in `COLUMNS` of the columns that the trees use.
    boosters_ : list of Booster
        One per seed.
    temperature_ : float
    selection_ : Selection or None
        None if no columns were selected, or if the model was loaded from a folder.
    """

    swap_equivariant = True

    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        options: BoostedOptions = self.config.model
        trainer = Trainer(options, self.config.seed, self.ties)
        self.similarities_ = Similarities().fit(rows.pairs)
        columns = columns_of(rows.pairs, self.similarities_)
        examples = Examples(columns, rows.labels, rows.weights)
        splits = choosing_splits(rows, INNER_FOLDS, self.config.seed, INNER_PROMPTS)
        self.columns_, self.selection_ = list(range(len(COLUMNS))), None
        rounds, self.temperature_, inner = options.rounds or DEFAULT_ROUNDS, 1.0, None
        if splits:
            if options.selection != "none":
                self.selection_ = select_columns(trainer, examples, splits, checkpoint)
                self.columns_ = self.selection_.columns
                examples = examples._replace(columns=examples.columns.chosen(self.columns_))
            rounds = trainer.best_rounds(examples, splits)
            # The temperature is fitted to the boosters of a single seed. These are slightly more
            # confident than the mean of several seeds, so it errs toward softer predictions.
            log_scores, judged = trainer.held_out_margins(examples, splits, rounds)
            self.temperature_ = fit_temperature(log_scores, judged)
            inner = _log_loss(log_scores / self.temperature_, judged)
        self.boosters_ = trainer.ensemble(examples, rounds)
        self.report_ = {
            "columns": len(self.columns_),
            "rounds": rounds,
            "temperature": self.temperature_,
            "inner_log_loss": inner,
        }

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        columns = columns_of(pairs, self.similarities_).chosen(self.columns_)
        return softmax(margins(self.boosters_, columns) / self.temperature_, axis=1)

    def save_state(self, folder: Path) -> None:
        arrays = {
            "temperature": np.array([self.temperature_]),
            "word_idf": self.similarities_.word_idf_,
            "character_idf": self.similarities_.character_idf_,
        }
        save_arrays(folder / STATE_FILE, arrays)
        for number, booster in enumerate(self.boosters_):
            booster.save_model(folder / BOOSTER_FILE.format(number))
        if self.selection_ is not None:
            write_csv(folder / SELECTION_FILE, self.selection_.path)

    def load_state(self, folder: Path) -> None:
        shapes = {
            "temperature": (1,),
            "word_idf": (WORD_COLUMNS,),
            "character_idf": (CHARACTER_COLUMNS,),
        }
        arrays = load_arrays(folder / STATE_FILE, shapes)
        self.temperature_ = float(arrays["temperature"][0])
        self.similarities_, self.selection_ = Similarities(), None
        self.similarities_.word_idf_ = arrays["word_idf"]
        self.similarities_.character_idf_ = arrays["character_idf"]
        paths = map(BOOSTER_FILE.format, range(self.config.model.seeds))
        self.boosters_ = [load_booster(folder / path, self.ties) for path in paths]
        # Each booster file holds the names of the columns that it was trained on.
        names = [tuple(booster.feature_names or ()) for booster in self.boosters_]
        if len(set(names)) > 1 or not names[0] or not set(names[0]) <= set(COLUMNS):
            raise InputError(
                f"{folder}: expected boosters that all use the same columns, and only columns of "
                "this version of humanpref"
            )
        self.columns_ = [COLUMNS.index(name) for name in names[0]]


def select_columns(
    trainer: Trainer, examples: Examples, splits: Splits, checkpoint: Path | None
) -> Selection:
    """Among the columns that LightGBM ranks highest, select those that lower the log loss on inner
    folds. Every comparison uses the number of trees that is best with all columns."""
    rounds = trainer.best_rounds(examples, splits)
    values, _, classes, weights = examples.expanded()
    order = importance_order(values, classes, weights, trainer.seeds()[0])
    options = trainer.options

    def loss_of(columns: list[int]) -> float:
        chosen = examples._replace(columns=examples.columns.chosen(columns))
        return _log_loss(*trainer.held_out_margins(chosen, splits, rounds))

    candidates = order[: options.candidates].tolist()
    return select(options.selection, candidates, COLUMNS, loss_of, checkpoint)


def fit_temperature(log_scores: np.ndarray, rows: Examples) -> float:
    """Return the temperature from 1/4 to 4 that minimizes the log loss of log scores (n, 3)."""
    optimum = minimize_scalar(
        lambda log_t: _log_loss(log_scores / np.exp(log_t), rows),
        bounds=(-np.log(4), np.log(4)),
        method="bounded",
    )
    return float(np.exp(optimum.x))


def _log_loss(log_scores: np.ndarray, rows: Examples) -> float:
    """Return the weighted mean log loss of log scores (n, 3), in nats."""
    return log_loss(rows.labels, softmax(log_scores, axis=1), rows.weights)
