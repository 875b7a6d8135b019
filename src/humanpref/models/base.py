"""The base class of all models. Models follow scikit-learn's conventions, take pairs frames, and
can be saved to and loaded from a folder."""

import dataclasses
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from humanpref.config import FAMILIES, SECTIONS, Config
from humanpref.config.bounds import hints_of, refuse
from humanpref.config.neural import LoopOptions
from humanpref.data.frames import as_pairs
from humanpref.data.pairs import WEIGHTS, are_weights, refuse_ties
from humanpref.data.submission import SUM_TOLERANCE
from humanpref.files import write_json
from humanpref.logloss import log_loss
from humanpref.models.bases import public_config
from humanpref.models.inner_folds import Labelled
from humanpref.schema import ID, TEXT_COLUMNS, InputError
from humanpref.text.token_memo import TokenMemos

CONFIG_FILE = "config.json"

Validation = tuple[pd.DataFrame, np.ndarray]
"""Held-out pairs and their labels, used only to report metrics during training."""


def _entry(method: Callable) -> Callable:
    """Wrap a method so that it refuses an unfitted model and converts its first argument to a pairs
    frame (`humanpref.data.as_pairs`)."""

    @functools.wraps(method)
    def entry(self: "Model", pairs: pd.DataFrame, *arguments: Any, **options: Any) -> Any:
        check_is_fitted(self)
        return method(self, as_pairs(pairs), *arguments, **options)

    return entry


def _arguments(config: Config) -> dict[str, Any]:
    """Convert a configuration to the keyword arguments of its family's constructor."""
    if isinstance(config.training, LoopOptions):
        return {section: getattr(config, section) for section in SECTIONS} | {"seed": config.seed}
    own = {**vars(config.model), **vars(config.inference)}
    return own | {"classes": config.training.classes, "seed": config.seed}


def _constructor(defaults: dict[str, Any]) -> Callable:
    """Return an `__init__` that takes options as keyword arguments, with these defaults, and only
    stores them."""

    def __init__(self: "Model", **options: Any) -> None:  # noqa: N807
        if unknown := options.keys() - defaults.keys():
            raise TypeError(f"unknown option {min(unknown)!r}; expected {', '.join(defaults)}")
        vars(self).update(defaults | options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    __init__.__signature__ = inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
            *(inspect.Parameter(name, keyword, default=own) for name, own in defaults.items()),
        ]
    )
    return __init__


class Model(ClassifierMixin, BaseEstimator, ABC):
    """A scikit-learn classifier that predicts P(A), P(B) and P(tie) for each pair of answers.

    The constructor takes the options of `humanpref.config` by keyword and only stores them; `fit`
    validates them. The CPU families take each option of their `model` and `inference` sections as a
    separate argument, and `classes`; the neural families take the sections `model`, `training` and
    `inference` as three arguments. All families take `seed`. The names of learned attributes end in
    `_`.

    Examples
    --------
    >>> from humanpref.models.prior import PriorModel
    >>> PriorModel(seed=1).get_params()
    {'classes': None, 'seed': 1}
    """

    family: ClassVar[str]
    """A key of `FAMILIES`, set as in `class SparseModel(Model, family="sparse")`."""
    classes_ = np.arange(3)
    """A, B, tie."""
    held_out_: np.ndarray | None = None
    """The fitted model's probabilities for the validation rows, (n, 3) float64, equal to the result
    of `predict_proba`. None if `fit` has not computed them, as in most families."""
    report_: dict[str, Any]
    """Facts about the fit worth keeping (steps, seconds, the backbone actually used …), as plain
    JSON types."""
    memos: TokenMemos | None = None
    """The token ids shared with other models; set by `share_token_ids`."""
    start: Path | None = None
    """The folder of a saved model of the same family and shapes, from whose weights `fit` starts.
    Only families trained by gradient descent use it. By default, they start from the backbone in
    their options."""
    _origin: Config
    """Configuration that supplies what the constructor does not take: the preset and, in the CPU
    families, the options of the section `training` other than `classes`."""

    def __init_subclass__(cls, family: str | None = None, **options: Any) -> None:
        """Derive the constructor from the family's options, and apply `_entry` to the methods that
        take a pairs frame."""
        super().__init_subclass__(**options)
        if family is not None:
            sections = {name: kind() for name, kind in FAMILIES[family]._asdict().items()}
            cls.family, cls._origin = family, Config(family, **sections)
            cls.__init__ = _constructor(_arguments(cls._origin))
        for name in {"predict_proba", "costs", "cut_rows", "margins", "rewards"} & vars(cls).keys():
            setattr(cls, name, _entry(vars(cls)[name]))

    swap_equivariant = False
    """True if, by construction, exchanging A and B exchanges P(A) and P(B). Averaging over both
    orders then gains nothing."""

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return an unfitted model with this configuration, which must be of this family.

        Examples
        --------
        >>> from humanpref.config import load_config
        >>> type(model).from_config(load_config("prior")).seed
        42
        """
        model = cls(**_arguments(config))
        model._origin = config
        return model

    @property
    def config(self) -> Config:
        """The parameters as a validated configuration.

        Raises
        ------
        InputError
            If a parameter has the wrong type or is out of range; the message names it.
        """
        own, sections = vars(self), {}
        for section, kind in FAMILIES[self.family]._asdict().items():
            if section in own:
                if type(own[section]) is not kind:
                    refuse(section, kind.__name__, own[section])
                sections[section] = own[section]
            elif section == "training":
                shared = self._origin.training
                sections[section] = dataclasses.replace(shared, classes=own["classes"])
            else:
                sections[section] = kind(**{name: own[name] for name in hints_of(kind)})
        return dataclasses.replace(self._origin, seed=self.seed, **sections)

    @property
    def ties(self) -> bool:
        """Whether the model predicts ties. With two classes (option `training.classes`), it does
        not, and P(tie) is exactly 0."""
        return self.config.training.classes != 2

    def check(self) -> None:
        """Raise InputError for problems that would make `fit` fail and can be found beforehand,
        such as a missing backbone."""

    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Learn from labeled pairs.

        Parameters
        ----------
        pairs : DataFrame
            n rows, read by `humanpref.data.as_pairs`; any label columns are ignored.
        labels : ndarray
            (n,) integers in {0, 1, 2} (A, B, tie), or (n, 3) probabilities.
        weights : ndarray, optional
            (n,) float, 0 or from 1e-9 to 1e9. Weight 2 is equivalent to duplicating the row, weight
            0 to dropping it.
        validation : (DataFrame, ndarray), optional
            Rows on which metrics are reported. They are never used for training.
        checkpoint : Path, optional
            A file or folder where a long fit saves its state. If it exists, the fit resumes from
            it. The caller deletes it afterwards.

        Raises
        ------
        InputError
            If an option, a column, a cell or a weight is invalid, if the number of labels or
            weights differs from the number of rows, if no row has a positive weight, or if a row is
            a tie and the model has two classes.

        Examples
        --------
        >>> model.fit(pairs, [0, 0, 1, 2]) is model
        True
        """
        self.config  # noqa: B018 (accessing it validates the parameters)
        self.report_, self.held_out_ = {}, None
        given = [("labels", labels, pairs), ("weights", weights, pairs)]
        if validation is not None:
            given.append(("validation labels", validation[1], validation[0]))
        for name, values, rows in given:
            if values is not None and len(values) != len(rows):
                raise InputError(
                    f"fit: {name}: expected one per row ({len(rows)}), got {len(values)}"
                )
        weights = np.ones(len(pairs)) if weights is None else np.asarray(weights, np.float64)
        if (wrong := ~are_weights(weights)).any():
            raise InputError(f"fit: weights: expected {WEIGHTS}, got {weights[wrong][0]:g}")
        if not self.ties:
            refuse_ties(as_probabilities(labels), weights, "fit")
        rows = Labelled(as_pairs(pairs), as_probabilities(labels), weights).part(weights > 0)
        if not len(rows.pairs):
            raise InputError("fit: expected at least one row of positive weight, got none")
        if validation is not None:
            validation = as_pairs(validation[0]), as_probabilities(validation[1])
        self.learn(rows, validation, checkpoint)
        return self

    @abstractmethod
    def learn(self, rows: Labelled, validation: Validation | None, checkpoint: Path | None) -> None:
        """Do the work of `fit`, which has validated the arguments. The labels of `rows` are (n, 3)
        and the weights (n,), both float64; all weights are positive."""

    @abstractmethod
    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return P(A), P(B) and P(tie) of each row, (n, 3) float64, in the order of the input rows.
        Each row sums to 1.

        The rows are read by `humanpref.data.as_pairs`, which raises InputError for invalid input.

        Examples
        --------
        >>> model.predict_proba(pairs[:1])
        array([[0.5 , 0.25, 0.25]])
        """

    def predict(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return the most probable class of each row, (n,) integers: 0 for A, 1 for B, 2 for a tie.

        Examples
        --------
        >>> model.predict(pairs)
        array([0, 0, 0, 0])
        """
        return self.classes_[self.predict_proba(pairs).argmax(axis=1)]

    def score(
        self, pairs: pd.DataFrame, labels: np.ndarray, weights: np.ndarray | None = None
    ) -> float:
        """Return the negative mean log loss on the labels, in nats.

        Examples
        --------
        >>> round(model.score(pairs, [0, 0, 1, 2]), 4)
        -1.0397
        """
        return -log_loss(as_probabilities(labels), self.predict_proba(pairs), weights)

    @property
    def swap_averaged(self) -> bool:
        """Whether `predict_proba` is the mean of two passes, one for each order of A and B."""
        return False

    def single_order(self) -> "Model":
        """Return the same fitted model without swap averaging."""
        return self

    def shorter_variants(self) -> list[tuple[str, "Model"]]:
        """Return cheaper variants of this model, most expensive first, as (description, model), for
        example with the description "inputs cut to 512 tokens". The list is empty in most families.
        If this model averages both orders of A and B, so do the variants."""
        return []

    def costs(self, pairs: pd.DataFrame) -> np.ndarray:
        """Estimate the cost of predicting each row in one order of A and B, (n,) float64, at least
        1. The unit is characters by default. A model and its `shorter_variants` have the same
        unit."""
        texts = zip(*(as_pairs(pairs)[column] for column in TEXT_COLUMNS), strict=True)
        return np.array(
            [1.0 + sum(len(turn) for turns in row for turn in turns) for row in texts],
            dtype=np.float64,
        )

    def cut_rows(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return a mask, (n,) bool, of the rows that the model reads only in part, because a text
        is too long."""
        return np.zeros(len(pairs), dtype=bool)

    def share_token_ids(self, memos: TokenMemos) -> None:
        """Share the token ids of texts, cached in `memos`, with every model that is given the same
        `memos` and has an equal tokenizer. Call this before fitting or predicting. It has no effect
        on models without a tokenizer."""
        self.memos = memos

    def try_out(self) -> None:
        """Predict one short row. `load_model` calls this to refuse a damaged model immediately,
        rather than at the first prediction.

        Raises
        ------
        ValueError
            If a probability is negative or NaN, or if the probabilities do not sum to 1.
        """
        texts = zip(TEXT_COLUMNS, ("How much is 2 + 2?", "It is 4.", "5, I guess"), strict=True)
        row = pd.DataFrame({ID: ["0"], **{column: [(text,)] for column, text in texts}})
        probabilities = self.predict_proba(row)
        # NaN fails both comparisons.
        sums = np.abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE
        if not (sums.all() and (probabilities >= 0).all()):
            raise ValueError(f"expected probabilities, got {probabilities.tolist()}")

    @abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write the learned state to an existing folder."""

    @abstractmethod
    def load_state(self, folder: Path) -> None:
        """Read the state that `save_state` wrote; raise InputError if it is damaged."""

    def save(self, folder: str | Path) -> None:
        """Write the configuration and the learned state; `humanpref.models.load_model` reads them
        back."""
        check_is_fitted(self)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, public_config(self.config.to_dict()))
        self.save_state(folder)


def as_probabilities(labels: np.ndarray) -> np.ndarray:
    """Convert labels, either (n,) classes in {0, 1, 2} or (n, 3) probabilities, to (n, 3) float64
    probabilities.

    Raises
    ------
    ValueError
        If the labels have a different shape or invalid values.

    Examples
    --------
    >>> as_probabilities([2, 0])
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    labels = np.asarray(labels)
    if labels.ndim == 1 and np.isin(labels, (0, 1, 2)).all():
        return np.eye(3)[labels.astype(np.int64)]
    if labels.ndim == 2 and labels.shape[1] == 3:
        labels = labels.astype(np.float64)
        if (labels >= 0).all() and np.allclose(labels.sum(axis=1), 1, atol=1e-6):
            return labels
    raise ValueError(
        "expected labels of shape (n,) with values in {0, 1, 2}, or of shape (n, 3) with rows that "
        f"sum to 1, got shape {labels.shape}"
    )
