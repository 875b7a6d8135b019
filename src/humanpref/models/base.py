"""What every model is: scikit-learn's conventions on a pairs frame, and a folder that holds it."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from humanpref.config import Config
from humanpref.data.cells import as_pairs
from humanpref.data.submission import SUM_TOLERANCE
from humanpref.files import write_json
from humanpref.schema import TEXT_COLUMNS, InputError

CONFIG_FILE = "config.json"

Validation = tuple[pd.DataFrame, np.ndarray]
"""Held-out pairs and their labels, to report on while training."""


def _entry(method: Callable) -> Callable:
    """A method of a model that makes a pairs frame (`humanpref.data.as_pairs`) of every frame that
    a caller gives it."""

    @functools.wraps(method)
    def entry(self: "Model", pairs: pd.DataFrame, *arguments: Any, **options: Any) -> Any:
        return method(self, as_pairs(pairs), *arguments, **options)

    @functools.wraps(method)
    def fit(
        self: "Model",
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "Model":
        held = None if validation is None else (as_pairs(validation[0]), validation[1])
        for name, values in (("labels", labels), ("weights", weights)):
            if values is not None and len(values) != len(pairs):
                raise InputError(
                    f"fit: expected {len(pairs)} {name}, one for each row, got {len(values)}"
                )
        return method(self, as_pairs(pairs), labels, weights, held, checkpoint)

    return fit if method.__name__ == "fit" else entry


class Model(ABC):
    """A predictor of P(A), P(B), P(tie). `__init__` only stores the configuration; what is learned
    ends in `_`."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Validate the frames of callers in every family, so that none can forget to."""
        super().__init_subclass__(**options)
        for name in {"fit", "predict_proba", "costs", "margins", "rewards"} & vars(cls).keys():
            setattr(cls, name, _entry(vars(cls)[name]))

    swap_equivariant = False
    """True if exchanging A and B exchanges P(A) and P(B) by construction, so that averaging over
    both orders gains nothing."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.report_: dict[str, Any] = {}
        """Facts of the fit worth keeping (steps, seconds, the backbone really used …), as plain
        JSON types."""

    def check(self) -> None:  # noqa: B027 (most families have nothing to check)
        """Raise InputError for what would end a fit and can be known beforehand: a backbone that is
        not there, say."""

    @abstractmethod
    def fit(
        self,
        pairs: pd.DataFrame,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        validation: Validation | None = None,
        checkpoint: Path | None = None,
    ) -> "Model":
        """Learn from labelled pairs.

        Parameters
        ----------
        pairs : DataFrame
            n rows, read by `humanpref.data.as_pairs`; their own label columns are not looked at.
        labels : ndarray
            (n,) integers in {0, 1, 2} (A, B, tie), or (n, 3) probabilities.
        weights : ndarray, optional
            (n,) float, at least 0; 2 equals the row twice.
        validation : (DataFrame, ndarray), optional
            Rows to report on. They are never learned from.
        checkpoint : Path, optional
            A file or folder for a long fit to keep its state in, and to go on from if it is there;
            the caller removes it.

        Raises
        ------
        InputError
            For a column or cell that cannot be used, or labels or weights that are not one for each
            row.
        """

    @abstractmethod
    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        """P(A), P(B), P(tie) of each row: (n, 3) float64, rows summing to 1, in the order of the
        rows.

        The rows are read by `humanpref.data.as_pairs`, which raises InputError for what cannot be
        used.
        """

    def costs(self, pairs: pd.DataFrame) -> np.ndarray:
        """What predicting each row costs, (n,) at least 1, in a unit that the model's cheaper
        variants share; by default characters."""
        pairs = as_pairs(pairs)
        texts = zip(*(pairs[column] for column in TEXT_COLUMNS), strict=True)
        return np.array(
            [1 + sum(len(turn) for turns in row for turn in turns) for row in texts],
            dtype=np.float64,
        )

    def members(self) -> list["Model"]:
        """The models that this one asks and mixes by `mix`; none for most. Each may give up
        something of its own for time."""
        return []

    def mix(self, told: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
        """(n, 3) from what the m members say, (m, n, 3), NaN where one says nothing; NaN where none
        says anything."""
        raise NotImplementedError

    def cheaper(self) -> list[tuple[str, "Model"]]:
        """Variants of this model that cost less, each with what it gives up, in the order in which
        they are to be taken."""
        return []

    @abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write what was learned into an existing folder."""

    @abstractmethod
    def load_state(self, folder: Path) -> None:
        """Read it back, strictly."""

    def save(self, folder: str | Path) -> None:
        """Write the configuration and what was learned; `humanpref.models.load_model` reads it
        back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, self.config.to_dict())
        self.save_state(folder)


class BadRowsError(ValueError):
    """What was said of some rows is no probabilities: `said` (n, 3) of all rows, `bad` (n,)
    bool."""

    def __init__(self, reason: str, said: np.ndarray, bad: np.ndarray) -> None:
        super().__init__(reason)
        self.said, self.bad = said, bad


def predicted(model: Model, pairs: pd.DataFrame) -> np.ndarray:
    """What the model says of the rows, (n, 3) float64.

    Raises
    ------
    BadRowsError
        If that of some rows is no probabilities: not finite, negative, or not summing to 1.
    ValueError
        If it has another shape.
    """
    probabilities = model.predict_proba(pairs)
    if probabilities.shape != (len(pairs), 3):
        raise ValueError(
            f"expected probabilities of shape ({len(pairs)}, 3), got {probabilities.shape}"
        )
    with np.errstate(invalid="ignore"):
        sums = np.abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE
    bad = ~(sums & (np.isfinite(probabilities) & (probabilities >= 0)).all(axis=1))
    if bad.any():
        worst = probabilities[bad][0].tolist()
        raise BadRowsError(
            f"not finite, negative, or of another sum than 1 in {bad.sum()} rows, e.g. {worst}",
            probabilities,
            bad,
        )
    return probabilities


def as_probabilities(labels: np.ndarray) -> np.ndarray:
    """Labels (n,) in {0, 1, 2} or (n, 3) as (n, 3) float64.

    Raises
    ------
    ValueError
        For any other shape, or values that are not such labels.
    """
    labels = np.asarray(labels)
    if labels.ndim == 1 and np.isin(labels, (0, 1, 2)).all():
        return np.eye(3)[labels.astype(np.int64)]
    if labels.ndim == 2 and labels.shape[1] == 3:
        labels = labels.astype(np.float64)
        if (labels >= 0).all() and np.allclose(labels.sum(axis=1), 1, atol=1e-6):
            return labels
    raise ValueError(
        f"expected labels of shape (n,) in {{0, 1, 2}} or (n, 3) summing to 1, got shape "
        f"{labels.shape}"
    )


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load_arrays(path: Path, shapes: dict[str, tuple[int | None, ...]]) -> dict[str, np.ndarray]:
    """Read exactly these arrays from a safetensors file.

    Parameters
    ----------
    path : Path
        The file.
    shapes : dict
        The arrays' names and shapes; None stands for any length.

    Raises
    ------
    InputError
        If the file cannot be read, or an array is missing, too many, of another shape, or not
        finite.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from None
    check_names(path, set(shapes), set(arrays))
    for name, shape in shapes.items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(
            n not in (None, m) for n, m in zip(shape, found, strict=True)
        ):
            raise InputError(f"{path}: weight {name}: expected shape {shape}, got {found}")
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{path}: weight {name} has values that are not finite")
    return arrays


def check_names(path: Path, expected: set[str], found: set[str]) -> None:
    """Raise InputError unless both sets of weight names are the same."""
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        parts = [
            f"{kind} {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
            for kind, names in (("missing weights", missing), ("extra weights", extra))
            if names
        ]
        raise InputError(f"{path}: does not fit the model: {'; '.join(parts)}")
