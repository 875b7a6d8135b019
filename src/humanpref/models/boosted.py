"""Structural features and text similarities into gradient-boosted trees: minutes on the CPU,
without torch.

Trees know no symmetry, so it is given to them: they learn from every row in both orders of A and B
(antisymmetric columns with the other sign, classes A and B exchanged), and their scores for both
orders are averaged. A row and its mirror image stand in the same inner fold, each with half the
row's weight.

The inner splits, grouped by prompt and cut from the training rows alone, choose everything that is
chosen: the columns (if asked for), the number of trees, the temperature.
"""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import xgboost
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from humanpref.config.cpu import BoostedOptions
from humanpref.data import inner_splits
from humanpref.files import read_json, write_json, write_whole
from humanpref.logloss import log_loss
from humanpref.models.arrays import load_arrays, save_arrays
from humanpref.models.base import Model, Validation
from humanpref.models.selection import SELECTION_FILE, Selection, importance_order, select
from humanpref.schema import SWAPPED_CLASSES, InputError
from humanpref.text import features, overlap
from humanpref.text.overlap import CHARACTER_COLUMNS, WORD_COLUMNS, Similarities

STATE_FILE = "model.safetensors"
COLUMNS_FILE = "columns.json"
BOOSTER_FILE = "booster-{}.ubj"

INNER_FOLDS = 5
INNER_ROWS = 4_000
"""Inner folds are used until this many rows are held out: beyond, the choice is not noise."""
INNER_PROMPTS = 50
"""With fewer distinct prompts nothing is chosen: `DEFAULT_ROUNDS` trees per class, temperature
1."""
DEFAULT_ROUNDS = 100
BINS = 64
"""Cuts of a column that the trees choose from: a quarter of XGBoost's own number, for half the time
and the same inner loss."""

Splits = list[tuple[np.ndarray, np.ndarray]]
"""Of each inner fold, masks of the rows to learn from and of those to judge by."""

COLUMNS = (*features.ANTISYMMETRIC, *overlap.ANTISYMMETRIC, *features.SYMMETRIC, *overlap.SYMMETRIC)
"""Names of the columns of both matrices of `columns_of`, side by side."""


def columns_of(pairs: pd.DataFrame, similarities: Similarities) -> tuple[np.ndarray, np.ndarray]:
    """All columns that the trees may use, (n, columns) float32 each: antisymmetric, and symmetric
    in A and B."""
    x, z = features.structural_features(pairs)
    x_alike, z_alike = similarities.columns(pairs)
    return np.hstack([x, x_alike], dtype=np.float32), np.hstack([z, z_alike], dtype=np.float32)


class Rows(NamedTuple):
    """n rows to learn from: both kinds of columns, labels (n, 3) and weights (n,)."""

    x: np.ndarray
    z: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def part(self, mask: np.ndarray) -> "Rows":
        return Rows(*(values[mask] for values in self))


class BoostedModel(Model, family="boosted"):
    """XGBoost on the columns of `columns_of`, several seeds averaged, averaged over both orders,
    divided by a temperature.

    After `fit`: `similarities_`, `columns_` (the places in `COLUMNS` of the columns that the
    trees see), `boosters_`, `temperature_` and `selection_` (None where nothing was selected, or
    not in this process). The parameters are the options of `humanpref.config.cpu.BoostedOptions`,
    and `seed`.
    """

    swap_equivariant = True

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "BoostedModel":
        options: BoostedOptions = self.config.model
        self.similarities_ = Similarities().fit(pairs)
        x, z = columns_of(pairs, self.similarities_)
        rows = Rows(x, z, labels, weights)
        splits = _inner_splits(pairs, labels, self.config.seed)
        self.columns_, self.selection_ = list(range(len(COLUMNS))), None
        rounds, self.temperature_, inner = options.rounds or DEFAULT_ROUNDS, 1.0, None
        if splits:
            if options.selection != "none":
                self.selection_ = self._select(rows, splits, checkpoint)
                self.columns_ = self.selection_.columns
            rounds = self._early_stopping(rows, splits)
            # One seed is a little surer of itself than the mean of several: the temperature errs on
            # the safe side.
            margins, judged = self._inner_margins(rows, splits, self.columns_, rounds)
            self.temperature_ = _fit_temperature(margins, judged)
            inner = _log_loss(margins / self.temperature_, judged)
        train = joblib.delayed(self._train)
        self.boosters_ = _at_once(
            train(rows, self.columns_, rounds, seed) for seed in self._seeds()
        )
        self.report_ = {
            "columns": len(self.columns_),
            "rounds": rounds,
            "temperature": self.temperature_,
            "inner_log_loss": inner,
        }
        return self

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        x, z = columns_of(pairs, self.similarities_)
        return softmax(
            self._margins(self.boosters_, x, z, self.columns_) / self.temperature_, axis=1
        )

    def save_state(self, folder: Path) -> None:
        arrays = {"temperature": np.array([self.temperature_])}
        arrays |= {
            "word_idf": self.similarities_.word_idf_,
            "character_idf": self.similarities_.character_idf_,
        }
        save_arrays(folder / STATE_FILE, arrays)
        write_json(folder / COLUMNS_FILE, [COLUMNS[column] for column in self.columns_])
        for number, booster in enumerate(self.boosters_):
            booster.save_model(folder / BOOSTER_FILE.format(number))
        if self.selection_ is not None:
            with write_whole(folder / SELECTION_FILE) as file:
                self.selection_.path.to_csv(file, index=False, lineterminator="\n")

    def load_state(self, folder: Path) -> None:
        shapes = {
            "temperature": (1,),
            "word_idf": (WORD_COLUMNS,),
            "character_idf": (CHARACTER_COLUMNS,),
        }
        arrays = load_arrays(folder / STATE_FILE, shapes)
        self.temperature_ = float(arrays["temperature"][0])
        self.similarities_ = Similarities()
        self.similarities_.word_idf_, self.similarities_.character_idf_ = (
            arrays["word_idf"],
            arrays["character_idf"],
        )
        names, known = read_json(folder / COLUMNS_FILE), COLUMNS
        if not (
            isinstance(names, list)
            and names
            and len(set(map(str, names)) & set(known)) == len(names)
        ):
            raise InputError(
                f"{folder / COLUMNS_FILE}: expected a list of distinct columns of this version of "
                "humanpref"
            )
        self.columns_ = [known.index(name) for name in names]
        expected = {BOOSTER_FILE.format(number) for number in range(self.config.model.seeds)}
        found = {path.name for path in folder.glob(BOOSTER_FILE.format("*"))}
        if found != expected:
            raise InputError(
                f"{folder}: expected the boosters {sorted(expected)}, found {sorted(found)}"
            )
        self.boosters_ = [_load_booster(folder / name, names) for name in sorted(expected)]
        self.selection_ = None

    def _seeds(self) -> list[int]:
        # XGBoost takes signed 32-bit seeds.
        states = np.random.SeedSequence(self.config.seed).generate_state(self.config.model.seeds)
        return [int(state >> 1) for state in states]

    def _parameters(self, seed: int) -> dict:
        options: BoostedOptions = self.config.model
        return {
            "objective": "multi:softprob",
            "num_class": 3,
            # Even scores to start from: class rates estimated from all rows would have seen the
            # inner folds.
            "base_score": 0.5,
            "tree_method": "hist",
            "max_bin": BINS,
            "device": "cpu",
            "grow_policy": "lossguide",
            "max_depth": 0,
            "max_leaves": options.leaves,
            "learning_rate": options.learning_rate,
            "min_child_weight": options.min_child_weight,
            "reg_lambda": options.l2,
            "subsample": options.row_share,
            "colsample_bytree": options.column_share,
            "seed": seed,
            "nthread": 1,  # see `_at_once`
            "verbosity": 0,
        }

    def _train(self, rows: Rows, columns: list[int], rounds: int, seed: int) -> xgboost.Booster:
        matrix, _ = self._both_orders(rows, columns)
        return xgboost.train(self._parameters(seed), matrix, rounds)

    def _early_stopping(self, rows: Rows, splits: Splits) -> int:
        """The number of trees per class at which the mean log loss over the inner splits is
        lowest."""
        options: BoostedOptions = self.config.model
        if options.rounds is not None:
            return options.rounds
        matrix, owners = self._both_orders(rows, self.columns_)
        both_orders = [tuple(np.flatnonzero(mask[owners]) for mask in split) for split in splits]
        seed = self._seeds()[0]
        history = xgboost.cv(
            self._parameters(seed),
            matrix,
            options.max_rounds,
            folds=both_orders,
            seed=seed,
            early_stopping_rounds=options.patience,
            as_pandas=False,
        )
        return len(history["test-mlogloss-mean"])  # which is cut off after the best round

    def _inner_margins(
        self, rows: Rows, splits: Splits, columns: list[int], rounds: int
    ) -> tuple[np.ndarray, Rows]:
        """Log scores (m, 3) of the held-out rows of the splits, and these m rows."""
        margins, train = np.zeros((len(rows.x), 3)), joblib.delayed(self._train)
        boosters = _at_once(
            train(rows.part(learned), columns, rounds, self._seeds()[0]) for learned, _ in splits
        )
        for booster, (_, judged) in zip(boosters, splits, strict=True):
            margins[judged] = self._margins([booster], rows.x[judged], rows.z[judged], columns)
        out = np.any([judged for _, judged in splits], axis=0)
        return margins[out], rows.part(out)

    def _margins(
        self, boosters: list[xgboost.Booster], x: np.ndarray, z: np.ndarray, columns: list[int]
    ) -> np.ndarray:
        """Log scores (n, 3), the mean over the boosters and over both orders of A and B."""
        total = np.zeros((len(x), 3))
        for sign, classes in _ORDERS:
            matrix = xgboost.DMatrix(
                np.hstack([sign * x, z])[:, columns],
                feature_names=[COLUMNS[column] for column in columns],
                nthread=1,
            )
            scores = np.zeros((len(x), 3))
            for booster in boosters:
                scores += booster.predict(matrix, output_margin=True)
            total += scores[:, classes]
        return total / (len(_ORDERS) * len(boosters))

    def _both_orders(self, rows: Rows, columns: list[int]) -> tuple[xgboost.DMatrix, np.ndarray]:
        """`_expanded` as XGBoost takes it, and the owners."""
        matrix, owners, classes, weights = _expanded(rows)
        names = [COLUMNS[column] for column in columns]
        matrix = xgboost.DMatrix(
            matrix[:, columns], classes, weight=weights, feature_names=names, nthread=1
        )
        return matrix, owners

    def _select(self, rows: Rows, splits: Splits, checkpoint: Path | None) -> Selection:
        """Choose among the columns that LightGBM ranks first, by the inner log loss of as many
        trees as suit all columns."""
        options: BoostedOptions = self.config.model
        rounds = self._early_stopping(rows, splits)
        matrix, _, classes, weights = _expanded(rows)
        order = importance_order(matrix, classes, weights, self._seeds()[0])

        def loss_of(columns: list[int]) -> float:
            return _log_loss(*self._inner_margins(rows, splits, columns, rounds))

        digest = hashlib.sha256(repr((self.config.to_dict(), rounds)).encode())
        for values in (*rows, *(mask for split in splits for mask in split)):
            digest.update(np.ascontiguousarray(values).tobytes())
        candidates = order[: options.candidates].tolist()
        return select(
            options.selection, candidates, COLUMNS, loss_of, checkpoint, digest.hexdigest()
        )


_ORDERS = ((1, (0, 1, 2)), (-1, SWAPPED_CLASSES))
"""As it stands, and with A and B exchanged: the sign of the antisymmetric columns, and where the
classes go."""


def _expanded(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every row in both orders, and once per class that its label gives a share to: columns,
    owners, classes, weights."""
    columns, owners, classes, weights = [], [], [], []
    for sign, places in _ORDERS:
        both = np.hstack([sign * rows.x, rows.z])
        for label in range(3):
            weight = rows.labels[:, places[label]] * rows.weights / len(_ORDERS)
            owner = np.flatnonzero(weight > 0)
            columns.append(both[owner])
            owners.append(owner)
            classes.append(np.full(len(owner), label))
            weights.append(weight[owner])
    return (
        np.vstack(columns),
        np.concatenate(owners),
        np.concatenate(classes),
        np.concatenate(weights),
    )


def _inner_splits(pairs: pd.DataFrame, labels: np.ndarray, seed: int) -> Splits:
    """As many inner splits as are used; none where there are too few prompts to choose by."""
    splits = inner_splits(pairs, INNER_FOLDS, seed, labels, least=INNER_PROMPTS)
    return splits[: math.ceil(INNER_ROWS / max(1, int(splits[0][1].sum())))] if splits else []


def _fit_temperature(margins: np.ndarray, rows: Rows) -> float:
    """The temperature, from 1/4 to 4, at which the held-out log loss is lowest."""
    found = minimize_scalar(
        lambda log_t: _log_loss(margins / np.exp(log_t), rows),
        bounds=(-np.log(4), np.log(4)),
        method="bounded",
    )
    return float(np.exp(found.x))


def _log_loss(margins: np.ndarray, rows: Rows) -> float:
    """Weighted mean log loss of log scores (n, 3), in nats."""
    return log_loss(rows.labels, softmax(margins, axis=1), rows.weights)


def _at_once(trainings: Iterable[tuple]) -> list[xgboost.Booster]:
    """The boosters of these calls of `joblib.delayed`, in their order, each trained by one thread,
    as many at a time as there are cores. Of several threads on one booster each waits for the
    slowest at every step, and spins meanwhile."""
    return joblib.Parallel(-1, require="sharedmem")(trainings)


def _load_booster(path: Path, names: list[str]) -> xgboost.Booster:
    booster = xgboost.Booster()
    try:
        booster.load_model(path)
    except xgboost.core.XGBoostError as error:
        raise InputError(
            f"{path}: cannot be read as an XGBoost model ({str(error).splitlines()[0]})"
        ) from None
    if booster.feature_names != names:
        raise InputError(
            f"{path}: expected the columns of {COLUMNS_FILE}, got "
            f"{len(booster.feature_names or [])} others"
        )
    return booster
