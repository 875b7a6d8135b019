"""Gradient-boosted trees (XGBoost) that are symmetric in A and B.

Trees are not symmetric by nature, so symmetry is imposed on them: they are trained on every row in
both orders of A and B, each with half the row's weight, and their scores for both orders are
averaged. Both orders of a row are in the same inner fold.
"""

from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import xgboost

from humanpref.bar import Bar
from humanpref.config.cpu import BoostedOptions
from humanpref.files import read_json
from humanpref.models.inner_folds import Splits
from humanpref.schema import SWAPPED_CLASSES, refuse_failures

BINS = 64
"""Maximum number of histogram bins per column. It is a quarter of XGBoost's default; training takes
half the time and reaches the same inner loss."""


class Columns(NamedTuple):
    """Columns of n rows: their names, their signs and their values, (n, columns). Exchanging A and
    B multiplies a column by its sign, 1 or -1."""

    names: list[str]
    signs: np.ndarray
    values: np.ndarray

    def chosen(self, columns: list[int]) -> "Columns":
        """Return the columns with these indices."""
        names = [self.names[column] for column in columns]
        return Columns(names, self.signs[columns], self.values[:, columns])

    def rows(self, mask: np.ndarray) -> "Columns":
        """Return the rows selected by the mask."""
        return self._replace(values=self.values[mask])

    def both_orders(self) -> np.ndarray:
        """Return the values as given, and with A and B exchanged, (2, n, columns)."""
        return np.stack([self.values, self.values * self.signs])


class Examples(NamedTuple):
    """n training rows: columns, labels (n, 3) and weights (n,)."""

    columns: Columns
    labels: np.ndarray
    weights: np.ndarray

    def rows(self, mask: np.ndarray) -> "Examples":
        """Return the rows selected by the mask."""
        return Examples(self.columns.rows(mask), self.labels[mask], self.weights[mask])

    def expanded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return m copies of the rows: one for each combination of a row, an order of A and B, and
        a class with a nonzero share in the row's label.

        Returns
        -------
        values : ndarray
            (m, columns) values of the copies.
        owners, classes : ndarray
            (m,) the index of the original row, and the class of the copy.
        weights : ndarray
            (m,) half the weight of the original row, times the share of the class.
        """
        labels = np.stack([self.labels, self.labels[:, SWAPPED_CLASSES]])
        shares = labels.transpose(0, 2, 1) * self.weights / 2  # (orders, classes, rows)
        orders, classes, owners = np.nonzero(shares)
        values = self.columns.both_orders()[orders, owners]
        return values, owners, classes, shares[orders, classes, owners]


class Trainer(NamedTuple):
    """Trains boosters with the given options, for three classes or, without ties, for two. Each
    booster uses one thread, and up to one booster per core trains at a time. Several threads in one
    booster would wait for the slowest of them at every step."""

    options: BoostedOptions
    seed: int
    ties: bool = True

    def seeds(self) -> list[int]:
        """Return the boosters' seeds, which fit into the signed 32-bit integers of XGBoost."""
        states = np.random.SeedSequence(self.seed).generate_state(self.options.seeds)
        return (states >> 1).tolist()

    def ensemble(self, examples: Examples, rounds: int) -> list[xgboost.Booster]:
        """Train one booster for each seed, with `rounds` trees per class."""
        numbers = range(self.options.seeds)
        return _at_once([(self._parameters(number), examples, rounds) for number in numbers])

    def best_rounds(self, examples: Examples, splits: Splits) -> int:
        """Return the number of trees per class: the configured one or, if none is configured, the
        one with the lowest mean log loss over the splits."""
        if self.options.rounds is not None:
            return self.options.rounds
        matrix, owners = _matrix(examples)
        parameters = self._parameters()
        bar = Bar("choosing the number of trees, at most", self.options.max_rounds, unit="round")
        history = xgboost.cv(
            parameters,
            matrix,
            self.options.max_rounds,
            folds=[tuple(np.flatnonzero(mask[owners]) for mask in split) for split in splits],
            seed=parameters["seed"],
            early_stopping_rounds=self.options.patience,
            as_pandas=False,
            callbacks=[_Shown(bar)],
        )
        bar.close()
        return len(history["test-mlogloss-mean"])  # the history ends with the best round

    def held_out_margins(
        self, examples: Examples, splits: Splits, rounds: int
    ) -> tuple[np.ndarray, Examples]:
        """Train one booster per split, all with the first seed, to score the rows that it holds
        out. Return the log scores, (m, 3), and the m examples that they are for: those that at
        least one split holds out."""
        boosters = _at_once(
            [(self._parameters(), examples.rows(known), rounds) for known, _ in splits]
        )
        scores = np.zeros(examples.labels.shape)
        for booster, (_, judged) in zip(boosters, splits, strict=True):
            scores[judged] = margins([booster], examples.columns.rows(judged))
        out = np.any([judged for _, judged in splits], axis=0)
        return scores[out], examples.rows(out)

    def _parameters(self, number: int = 0) -> dict:
        """Return the XGBoost parameters of the booster with this index."""
        return {
            "objective": "multi:softprob",
            "num_class": 3 if self.ties else 2,
            # Start from equal scores. Class rates estimated from all rows would leak labels of the
            # inner folds.
            "base_score": 0.5,
            "max_bin": BINS,
            "grow_policy": "lossguide",
            "max_depth": 0,
            "max_leaves": self.options.leaves,
            "learning_rate": self.options.learning_rate,
            "min_child_weight": self.options.min_child_weight,
            "reg_lambda": self.options.l2,
            "subsample": self.options.row_share,
            "colsample_bytree": self.options.column_share,
            "seed": self.seeds()[number],
            "nthread": 1,
            "verbosity": 0,
        }


def margins(boosters: list[xgboost.Booster], columns: Columns) -> np.ndarray:
    """Return the log scores (n, 3), averaged over the boosters and over both orders of A and B. If
    the boosters have two classes, the log score of a tie is -inf."""
    one, other = (
        np.sum(
            [booster.predict(matrix, output_margin=True) for booster in boosters],
            axis=0,
            dtype=np.float64,
        )
        for matrix in (
            xgboost.DMatrix(values, feature_names=columns.names, nthread=1)
            for values in columns.both_orders()
        )
    )
    classes = one.shape[1]
    mean = (one + other[:, SWAPPED_CLASSES[:classes]]) / (2 * len(boosters))
    return np.pad(mean, [(0, 0), (0, 3 - classes)], constant_values=-np.inf)


def load_booster(path: Path, ties: bool = True) -> xgboost.Booster:
    """Read a booster that `Booster.save_model` wrote as JSON. XGBoost trusts the indices of nodes
    and columns in a file, and a wrong index would crash the process, so the indices are checked
    first. The booster must have three classes, or two without `ties`.

    Raises
    ------
    InputError
        If the file cannot be read, or is not a booster of `Trainer`.
    """
    with refuse_failures(f"{path}: cannot be read as an XGBoost model"):
        _check_booster(read_json(path, True)["learner"], 3 if ties else 2)
        return xgboost.Booster(model_file=path)


def _check_booster(learner: dict, expected: int) -> None:
    """Raise ValueError (or another exception, if a part is missing) for a booster with a structure
    that `Trainer` cannot have produced for the expected number of classes."""
    parameters, booster = learner["learner_model_param"], learner["gradient_booster"]
    sizes = ("num_class", "num_target", "num_feature")
    classes, targets, columns = (int(parameters[name]) for name in sizes)
    if (
        (booster["name"], learner["objective"]["name"]) != ("gbtree", "multi:softprob")
        or (classes, targets) != (expected, 1)
        or len(learner["feature_names"]) not in (0, columns)
    ):
        raise ValueError(f"expected trees for {expected} classes, and a name for each column")
    model, trees = booster["model"], booster["model"]["trees"]
    if (
        model["iteration_indptr"] != list(range(0, len(trees) + 1, classes))
        or model["tree_info"] != list(range(classes)) * (len(trees) // classes)
        or int(model["gbtree_model_param"]["num_trees"]) != len(trees)
        or any(model.get("cats", {}).values())
    ):
        raise ValueError("expected a tree of each class in each round")
    for number, tree in enumerate(trees):
        _check_tree(tree, number, columns)


def _check_tree(tree: dict, number: int, columns: int) -> None:
    """Raise ValueError unless each node but the first is the child of exactly one earlier node, and
    splits use existing columns."""
    parameters = {name: int(value) for name, value in tree["tree_param"].items()}
    arrays = {name: np.array(tree[name]) for name in (*_INDICES, *_NUMBERS)}
    if (
        any(arrays[name].dtype.kind not in "ib" for name in _INDICES)
        or any(arrays[name].dtype.kind not in "if" for name in _NUMBERS)
        or any(array.shape != (parameters["num_nodes"],) for array in arrays.values())
        or not all(np.isfinite(array).all() for array in arrays.values())
        or any(tree[name] for name in tree if name.startswith("categories"))
        or parameters["num_feature"] != columns
        or parameters["size_leaf_vector"] > 1
    ):
        raise ValueError(f"tree {number} has invalid arrays")
    left, right, parents, splits, default_left, types = (arrays[name] for name in _INDICES)
    nodes = np.flatnonzero(left >= 0)
    owners, children = np.tile(nodes, 2), np.concatenate([left[nodes], right[nodes]])
    if (
        sorted(children) != list(range(1, len(left)))
        or (children <= owners).any()
        or (parents[children] != owners).any()
        or (np.delete([left, right], nodes, axis=1) != -1).any()
        or (splits < 0).any()
        or (splits >= columns).any()
        or types.any()
        or not np.isin(default_left, (0, 1)).all()
    ):
        raise ValueError(f"tree {number} is not a tree on {columns} columns")


_INDICES = (
    *("left_children", "right_children", "parents"),
    *("split_indices", "default_left", "split_type"),
)
_NUMBERS = ("split_conditions", "base_weights", "loss_changes", "sum_hessian")


def _at_once(trainings: list[tuple[dict, Examples, int]]) -> list[xgboost.Booster]:
    bar = Bar("boosting", sum(rounds for *_, rounds in trainings), unit="round")
    boosters = joblib.Parallel(-1, require="sharedmem")(
        joblib.delayed(_train)(*training, bar) for training in trainings
    )
    bar.close()
    return boosters


def _train(parameters: dict, examples: Examples, rounds: int, bar: Bar) -> xgboost.Booster:
    return xgboost.train(parameters, _matrix(examples)[0], rounds, callbacks=[_Shown(bar)])


class _Shown(xgboost.callback.TrainingCallback):
    """A callback that advances a progress bar by one for each round. Boosters that train at the
    same time may share the bar."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def after_iteration(self, model: object, epoch: int, evals_log: dict) -> bool:
        self.bar.advance()
        return False


def _matrix(examples: Examples) -> tuple[xgboost.DMatrix, np.ndarray]:
    """Return the copies of `Examples.expanded` in XGBoost's format, and the index of each copy's
    original row."""
    values, owners, classes, weights = examples.expanded()
    names = examples.columns.names
    matrix = xgboost.DMatrix(values, classes, weight=weights, feature_names=names, nthread=1)
    return matrix, owners
