"""The artifact: the folder that training hands to inference, and all that it hands over.

::

    ARTIFACT/
      artifact.json   format, preset, family, the backbone really used, the training rows' prior,
                      versions, members
      metrics.json    validation or out-of-fold metrics, and what happened while fitting
      oof.csv         id, fold and the three probabilities of every row that was predicted while
                      held out: rows of the training file alone, so that an id names one row
      rows.csv        id, digests of the prompt and of the answers, case of the answers, labels and
                      weight of every training row, for fits on oof.csv later; ids of extra rows
                      follow `extra-1:`, `extra-2:` …, their file
      model/          the one model, or fold-0/ … fold-(K-1)/: config.json, weights (safetensors),
                      tokenizer
"""

import contextlib
import importlib.metadata
import platform
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import humanpref
from humanpref import models
from humanpref.config import FAMILIES, Config
from humanpref.data import EXTRA_ID, answer_keys, as_pairs, prompt_keys, swap_pairs, weights_of
from humanpref.data.pairs import LABEL_SUM_TOLERANCE
from humanpref.files import read_json, write_whole
from humanpref.models import Model, libraries_of
from humanpref.models.budget import Budget, predict_within
from humanpref.schema import ID, LABEL_COLUMNS, WEIGHT, InputError
from humanpref.text.cases import answer_cases

FACTS_FILE = "artifact.json"
METRICS_FILE = "metrics.json"
OOF_FILE = "oof.csv"
ROWS_FILE = "rows.csv"
PROMPT_KEY = "prompt_key"
ANSWER_KEY = "answer_key"
CASE = "case"
FOLD = "fold"
FORMAT = 1
_LIBRARIES = (
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "safetensors",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "lightgbm",
    "xgboost",
)
_SAME_MODULE = {"xgboost": "xgboost-cpu"}
"""Distributions that bring the module of another: either will do."""


class Artifact:
    """A trained artifact on disk. Its models are loaded when they are first asked to predict.

    Attributes
    ----------
    folder : Path
    facts : dict
        The content of `artifact.json`.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts

    @classmethod
    def load(cls, folder: str | Path) -> "Artifact":
        """Open an artifact.

        Raises
        ------
        InputError
            If the folder is not an artifact, or one of another format; if what it says of itself
            cannot be used.
        """
        folder = Path(folder)
        if not (folder / FACTS_FILE).is_file():
            raise InputError(
                f"{folder}: not an artifact (no {FACTS_FILE} in it, which `humanpref train` writes)"
            )
        facts = read_json(folder / FACTS_FILE)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            found = facts.get("format") if isinstance(facts, dict) else facts
            raise InputError(
                f"{folder / FACTS_FILE}: expected format {FORMAT}, got {found!r}; made by another "
                "version of humanpref?"
            )
        members, prior = facts.get("members"), facts.get("prior")
        if not (
            isinstance(members, list)
            and members
            and all(isinstance(member, str) for member in members)
        ):
            raise InputError(
                f"{folder / FACTS_FILE}: key 'members': expected a list of folders, got {members!r}"
            )
        rates = (
            prior
            if isinstance(prior, list) and all(type(rate) in (int, float) for rate in prior)
            else []
        )
        if len(rates) != 3 or not (
            all(0 <= rate < np.inf for rate in rates) and 0 < sum(rates) < np.inf
        ):
            raise InputError(
                f"{folder / FACTS_FILE}: key 'prior': expected three class rates, got {prior!r}"
            )
        family = facts.get("family")
        if not (isinstance(family, str) and family in FAMILIES):
            raise InputError(
                f"{folder / FACTS_FILE}: key 'family': expected one of {', '.join(FAMILIES)}, got "
                f"{family!r}"
            )
        return cls(folder, facts)

    @property
    def prior(self) -> tuple[float, float, float]:
        """The class rates of the training rows, (A, B, tie)."""
        return tuple(self.facts["prior"])

    @property
    def swap_equivariant(self) -> bool:
        """Whether exchanging A and B exchanges P(A) and P(B) by construction."""
        return self.model.swap_equivariant

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        found = read_json(self.folder / METRICS_FILE)
        if not isinstance(found, dict):
            raise InputError(
                f"{self.folder / METRICS_FILE}: expected a JSON object, got {type(found).__name__}"
            )
        return found

    @cached_property
    def models(self) -> list[Model]:
        """The artifact's models: one, or one per fold."""
        return [models.load_model(self.folder / member) for member in self.facts["members"]]

    @property
    def versions(self) -> list[dict[str, str]]:
        """Versions of the libraries (`versions`) of every run that made one of its models: of a
        blend, its members' runs."""
        return self.facts.get("member_versions") or [self.facts.get("versions")]

    @property
    def written_by(self) -> set[tuple[str, str]]:
        """The libraries that count for its models (`humanpref.models.libraries_of`), each with
        every version that wrote one."""
        from humanpref.models.blend import leaves

        configs = [
            config for member in self.facts["members"] for config in leaves(self.folder / member)
        ]
        used = set().union(*map(libraries_of, configs))
        try:
            return {(name, found[name]) for found in self.versions for name in used & found.keys()}
        except (AttributeError, TypeError):
            raise InputError(
                f"{self.folder / FACTS_FILE}: key 'versions': expected versions by library"
            ) from None

    @property
    def model(self) -> Model:
        """The artifact's one model, or the mean of several."""
        if len(self.models) == 1:
            return self.models[0]
        from humanpref.models.mean import MeanModel  # and scipy with it

        return MeanModel(self.models)

    @property
    def oof(self) -> pd.DataFrame:
        """The predictions for held-out rows: `id`, `fold` and the three probabilities.

        Raises
        ------
        InputError
            If nothing was held out, or the table is not what was written.
        """
        path = self.folder / OOF_FILE
        if not path.is_file():
            raise InputError(
                f"{self.folder}: no {OOF_FILE} in it: nothing was held out in training; use --folds"
            )
        oof = read_oof(path)
        if FOLD not in oof:
            raise InputError(f"{path}: missing column {FOLD!r}")
        self._check_whole(path, oof, self.metrics.get("rows"))
        return oof

    @property
    def rows(self) -> pd.DataFrame:
        """The training rows without their texts: `id`, `prompt_key` (`humanpref.data.prompt_keys`),
        `answer_key` (`humanpref.data.answer_keys`), `case` (`humanpref.text.cases.answer_cases`),
        labels, `weight`. Artifacts of earlier versions lack `case`, or the answers' key, which is
        then empty.

        Raises
        ------
        InputError
            If the artifact holds no such table, or not the one that was written. A row too few
            would be one whose label a student may learn.
        """
        path = self.folder / ROWS_FILE
        if not path.is_file():
            raise InputError(
                f"{self.folder}: no {ROWS_FILE} in it; made by an older version? Train it again"
            )
        # Extra rows of different files may have the same id in a blend's table.
        rows = _read_table(path, (ID, PROMPT_KEY, ANSWER_KEY), (PROMPT_KEY, WEIGHT))
        rows[WEIGHT] = _as_numbers(
            path,
            rows,
            WEIGHT,
            "a finite number of at least 0",
            lambda found: (found >= 0) & np.isfinite(found),
        )
        self._check_whole(path, rows, self._least_rows())
        return rows if ANSWER_KEY in rows else rows.assign(**{ANSWER_KEY: ""})

    def _least_rows(self) -> int:
        """How many rows its models learned from or that were held out, at least: extra rows may be
        neither."""
        metrics = self.metrics
        held = (
            metrics.get("rows") if str(metrics.get("held_out")).startswith("validation") else None
        )
        return sum(
            rows for rows in (self.facts.get("training_rows"), held) if isinstance(rows, int)
        )

    def _check_whole(self, path: Path, table: pd.DataFrame, rows: Any) -> None:
        if isinstance(rows, int) and len(table) < rows:
            raise InputError(
                f"{path}: expected at least {rows} rows, got {len(table)}; is the file cut off?"
            )

    def knows(self, pairs: pd.DataFrame) -> np.ndarray:
        """Mask (n,) of the rows that were among its training rows, held out or not, whatever file
        they were in: by id, prompt and answers, in either order.

        Raises
        ------
        InputError
            If the artifact does not say which they were.
        """
        rows = self.rows
        rows = rows.assign(**{ID: rows[ID].str.replace(EXTRA_ID, "", regex=True)})
        pairs = as_pairs(pairs)
        return _among(pairs, rows) | _among(swap_pairs(pairs), rows)

    def out_of_fold(self, pairs: pd.DataFrame) -> np.ndarray:
        """What it said, while they were held out, of those rows that were in the training file, (n,
        3); NaN for all others, for extra rows with the same ids, too.

        Raises
        ------
        InputError
            As `oof` and `rows`.
        """
        pairs, rows, oof = as_pairs(pairs), self.rows, self.oof.set_index(ID)
        told = oof[list(LABEL_COLUMNS)].reindex(pairs[ID]).to_numpy()
        return np.where(
            _among(pairs, rows[~rows[ID].str.contains(EXTRA_ID)])[:, None], told, np.nan
        )

    @property
    def seconds(self) -> float | None:
        """`inference.seconds` of its models: what `humanpref predict` may take."""
        return getattr(self.models[0].config.inference, "seconds", None)

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        """Mean of the models' probabilities, (n, 3) float64, in the order of the rows, however long
        it takes.

        The rows are read by `humanpref.data.as_pairs`, which raises InputError for what cannot be
        used.
        """
        return self.model.predict_proba(pairs)

    def predict_within(self, pairs: pd.DataFrame, budget: Budget) -> np.ndarray:
        """The same within a budget: the mean of the models that had the time, NaN for rows that
        none had it for."""
        return predict_within(self.model, as_pairs(pairs), budget)


def _among(pairs: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Mask (n,) of the pairs that are in a table of `Artifact.rows`."""
    known = set(zip(rows[ID], rows[PROMPT_KEY], rows[ANSWER_KEY], strict=True))
    pairs = as_pairs(pairs)
    keys = zip(pairs[ID], prompt_keys(pairs), answer_keys(pairs), strict=True)
    return np.array([key in known or (*key[:2], "") in known for key in keys], dtype=bool)


def load_model(folder: str | Path) -> Model:
    """The model in a folder: an artifact's (of folds and seeds the mean), or one that `save` wrote.

    Raises
    ------
    InputError
        If the folder does not hold one, whole: a missing or an extra weight is an error.
    """
    if (Path(folder) / FACTS_FILE).is_file():
        return Artifact.load(folder).model
    return models.load_model(folder)


def facts_of(
    config: Config,
    members: list[str],
    prior: np.ndarray,
    training_rows: int,
    data_sha256: str,
    backbone: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of `artifact.json`, the file that makes a folder an artifact.

    Parameters
    ----------
    config : Config
        The run's.
    members : list of str
        The models' folders inside the artifact.
    prior : ndarray
        (3,) class rates of the training rows.
    training_rows : int
        Rows that any member learned from.
    data_sha256 : str
        Digest of the training rows (`humanpref.data.digest_of`).
    backbone : dict, optional
        The pretrained model that was really used, whatever the preset is called.
    """
    return {
        "format": FORMAT,
        "preset": config.preset,
        "family": config.family,
        "seed": config.seed,
        "backbone": backbone,
        "members": members,
        "prior": [float(rate) for rate in prior],
        "training_rows": training_rows,
        "data_sha256": data_sha256,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
    }


def write_oof(
    path: Path, pairs: pd.DataFrame, probabilities: np.ndarray, fold: np.ndarray | None = None
) -> None:
    """Write held-out predictions keyed by id: `id`, `fold` (if given) and the three
    probabilities."""
    frame = pd.DataFrame(probabilities, columns=list(LABEL_COLUMNS))
    frame.insert(0, ID, pairs[ID].to_numpy())
    if fold is not None:
        frame.insert(1, FOLD, fold)
    with write_whole(path) as file:
        frame.to_csv(file, index=False, lineterminator="\n")


def read_oof(path: Path) -> pd.DataFrame:
    """Read what `write_oof` wrote; ids as text.

    Raises
    ------
    InputError
        For a file that is not such a table. The message names it, and the row (counted from 1 below
        the header) and column.
    """
    table = _read_table(path, (ID,))
    if FOLD in table:
        folds = _as_numbers(
            path, table, FOLD, "a fold's number", lambda found: (found >= 0) & (found % 1 == 0)
        )
        table[FOLD] = folds.astype(np.int64)
    return table


def _read_table(path: Path, key: tuple[str, ...], columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a table of ids and three probabilities, no `key` in it twice. What else is in it stays
    text."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # pandas' own errors, and bytes that are no text
        raise InputError(
            f"{path}: not a valid CSV ({' '.join(str(error).split())}); is it whole?"
        ) from None
    for column in (ID, *columns, *LABEL_COLUMNS):
        if column not in table:
            raise InputError(f"{path}: missing column {column!r}")
    _refuse(
        path,
        table,
        table.duplicated([column for column in key if column in table]),
        f"column {ID!r}",
        "each row once",
        table[ID],
    )
    for column in LABEL_COLUMNS:
        table[column] = _as_numbers(
            path, table, column, "a number in [0, 1]", lambda found: found.between(0, 1)
        )
    sums = table[list(LABEL_COLUMNS)].sum(axis=1)
    _refuse(
        path, table, (sums - 1).abs() > LABEL_SUM_TOLERANCE, "the probabilities", "a sum of 1", sums
    )
    return table


def _as_numbers(
    path: Path,
    table: pd.DataFrame,
    column: str,
    expected: str,
    valid: Callable[[pd.Series], pd.Series],
) -> pd.Series:
    numbers = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
    _refuse(path, table, ~valid(numbers), f"column {column!r}", expected, table[column])
    return numbers


def _refuse(
    path: Path, table: pd.DataFrame, wrong: pd.Series, place: str, expected: str, found: pd.Series
) -> None:
    """Raise InputError for the first row that is wrong."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}: row {row + 1} (id {table[ID].iloc[row]!r}): {place}: expected {expected}, "
            f"got {found.tolist()[row]!r}"
        )


def write_rows(path: Path, pairs: pd.DataFrame) -> None:
    """Write the labelled rows that `Artifact.rows` reads."""
    weights = weights_of(pairs)
    keys = {PROMPT_KEY: prompt_keys(pairs), ANSWER_KEY: answer_keys(pairs)}
    frame = pairs[[ID]].assign(**keys, **{CASE: answer_cases(pairs)})
    frame[list(LABEL_COLUMNS)] = pairs[list(LABEL_COLUMNS)]
    frame[WEIGHT] = 1.0 if weights is None else weights
    with write_whole(path) as file:
        frame.to_csv(file, index=False, lineterminator="\n")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries that a result depends on, as
    installed."""
    found = {"python": platform.python_version(), "humanpref": humanpref.__version__}
    for name in _LIBRARIES:
        for distribution in (name, _SAME_MODULE.get(name, name)):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(distribution)
    return found
