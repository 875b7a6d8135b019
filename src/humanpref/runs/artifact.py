"""The artifact: the folder through which training passes everything it learned to inference.

::

    ARTIFACT/
      artifact.json   format, preset, family, the backbone actually used, the training rows' prior,
                      versions, members; earlier stages; the digests of all files
      metrics.json    validation or out-of-fold metrics, and facts about the fit
      oof.csv         id, fold and the three probabilities of every row that was predicted while
                      it was held out; only rows of the training file, so that each id is unique
      rows.csv        id, digests of the prompt and of the answers, case of the answers, labels and
                      weight of every training row, to fit blends to oof.csv later; the ids of extra
                      rows start with a prefix for their file (`extra-1:`, `extra-2:` …), and the
                      ids of rows of earlier stages (`train --from`) with `extra-0:`
      model/          the single model, or fold-0/ … fold-(K-1)/: config.json, weights
                      (safetensors), tokenizer
"""

import math
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref import models
from humanpref.data import EXTRA_ID, as_pairs, swap_pairs
from humanpref.files import read_json
from humanpref.models import Model, libraries_of
from humanpref.models.blend import mean_of
from humanpref.runs.artifact_facts import FORMAT
from humanpref.runs.artifact_files import (
    DIGESTS,
    FACTS_FILE,
    RUN_FILE,
    check_contents,
    check_listed,
    copy_files,
    partial_of,
)
from humanpref.runs.artifact_tables import (
    FOLD,
    OOF_FILE,
    ROWS_FILE,
    read_oof,
    read_rows,
    rows_among,
)
from humanpref.runs.budget import Budget
from humanpref.runs.engine import predictions
from humanpref.runs.ensemble import Ensemble, Leaf, equal_mixture, read_ensemble
from humanpref.schema import ID, LABEL_COLUMNS, InputError, refuse_failures
from humanpref.text.cases import answer_cases

METRICS_FILE = "metrics.json"
CHAIN = "chain"
"""The key of `artifact.json` that lists the earlier stages of a run, first stage first."""
TRAINED = "trained"
"""The key of `artifact.json` for the numbers of trained and of planned models. Only the artifact
of an unfinished run has it."""


class Artifact:
    """A trained artifact on disk.

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
        """Open an artifact; no model is loaded. Each file's content is checked against its digest
        when the file is first used.

        Raises
        ------
        InputError
            If the folder is not an artifact or has a different format, if its artifact.json is
            damaged, if a file is missing, or if a link leads out of it.
        """
        folder = Path(folder)
        path = folder / FACTS_FILE
        if not path.is_file():
            _check_finished(folder)
            raise InputError(
                f"{folder}: not an artifact; it has no {FACTS_FILE}, which `humanpref train` writes"
            )
        facts = read_json(path)
        with refuse_failures(f"{path}: damaged, or written by a different version of humanpref"):
            if facts["format"] != FORMAT:
                raise InputError(
                    f"{path}: expected format {FORMAT}, got {facts['format']!r}; was it written by "
                    "a different version of humanpref?"
                )
            check_listed(folder, facts)
            rates = np.array(facts["prior"], dtype=np.float64)
            if rates.shape != (3,) or rates.min() < 0 or not np.isclose(rates.sum(), 1):
                raise ValueError(f"expected three class rates, got {facts['prior']}")
        return cls(folder, facts)

    @property
    def files(self) -> list[str]:
        """The relative paths of the artifact's files, except `artifact.json`. Any other files in
        its folder are neither read nor copied."""
        return [name for name in self.facts[DIGESTS] if name != FACTS_FILE]

    def checked(self, name: str) -> Path:
        """Return the path of a file or folder, after checking its contents against the digests.
        Raises InputError if they were damaged or changed."""
        check_contents(self.folder, self.facts, self.folder / name)
        return self.folder / name

    def copy(self, target: Path, member: str | None = None) -> None:
        """Copy the artifact, or only one of its models, to a folder, after checking its contents.
        Raises InputError if they were damaged or changed."""
        inside = "" if member is None else f"{member}/"
        names = [name for name in self.files if name.startswith(inside)]
        for name in names:
            self.checked(name)
        names = names if inside else [FACTS_FILE, *names]
        copy_files(self.folder / inside, target, [name.removeprefix(inside) for name in names])

    @cached_property
    def members(self) -> list[Path]:
        """The folders of the artifact's models, checked."""
        return [self.checked(member) for member in self.facts["members"]]

    @property
    def prior(self) -> tuple[float, float, float]:
        """The class rates of the training rows, (A, B, tie)."""
        return tuple(self.facts["prior"])

    @property
    def classes(self) -> int:
        """The number of classes: 3, or 2 if the models never predict a tie (P(tie) is 0)."""
        return self.facts["classes"]

    @property
    def shortfall(self) -> str:
        """A message that says how many models an unfinished run has trained; empty for a finished
        run."""
        if TRAINED not in self.facts:
            return ""
        trained, planned = self.facts[TRAINED]
        return f"only {trained} of {planned} models were trained"

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        return read_json(self.checked(METRICS_FILE))

    @cached_property
    def models(self) -> list[Model]:
        """The artifact's models (a single one, or one per fold), all loaded into memory."""
        return [models.load_model(member) for member in self.members]

    @cached_property
    def ensemble(self) -> Ensemble:
        """The artifact's models and how to combine them; no model is loaded."""
        folders, check = self.facts["members"], partial(check_contents, self.folder, self.facts)
        return equal_mixture([read_ensemble(self.folder / name, check) for name in folders])

    @property
    def swap_equivariant(self) -> bool:
        """Whether, by construction, exchanging A and B exchanges P(A) and P(B)."""
        return all(leaf.swap_equivariant for leaf in self.ensemble.leaves())

    @property
    def versions(self) -> list[dict[str, str]]:
        """The library versions (see the function `versions`) of each run that trained one of the
        artifact's models. For a blend, these are the runs of its members."""
        return self.facts.get("member_versions") or [self.facts["versions"]]

    @property
    def written_by(self) -> set[tuple[str, str]]:
        """The name and version of each library that affects the artifact's models (see
        `humanpref.models.libraries_of`). If models were written with different versions of a
        library, each version is included."""
        used = set().union(*(libraries_of(leaf.config) for leaf in self.ensemble.leaves()))
        with refuse_failures(f"{self.folder / FACTS_FILE}: key 'versions': cannot be read"):
            return {(name, run[name]) for run in self.versions for name in used & run.keys()}

    @property
    def held_out(self) -> bool:
        """Whether training held rows out, so that `oof` has predictions for them."""
        return OOF_FILE in self.files

    @property
    def oof(self) -> pd.DataFrame:
        """The predictions for held-out rows: `id`, `fold` and the three probabilities.

        Raises
        ------
        InputError
            If nothing was held out, or if the table is damaged.
        """
        if not self.held_out:
            raise InputError(
                f"{self.folder}: has no {OOF_FILE}, since training held nothing out; train with "
                "--folds"
            )
        return read_oof(self.checked(OOF_FILE))

    @property
    def rows(self) -> pd.DataFrame:
        """The training rows without their texts: `id`, `prompt_key` (`humanpref.data.prompt_keys`),
        `answer_key` (`humanpref.data.answer_keys`), `case` (`humanpref.text.cases.answer_cases`),
        labels, `weight`.

        Raises
        ------
        InputError
            If the table is damaged.
        """
        return read_rows(self.checked(ROWS_FILE))

    def knows(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return a mask, (n,), of the rows that are among the artifact's training rows, including
        extra rows and held-out rows. Rows match if their id, prompt and answers are the same; the
        answers may be in either order.

        Raises
        ------
        InputError
            See `rows`.
        """
        rows = self.rows
        rows = rows.assign(**{ID: rows[ID].str.replace(EXTRA_ID, "", regex=True)})
        pairs = as_pairs(pairs)
        return rows_among(pairs, rows) | rows_among(swap_pairs(pairs), rows)

    def learned_from(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return a mask, (n,), of the rows on which at least one model of the artifact was trained.

        Raises
        ------
        InputError
            See `rows`.
        """
        known = self.knows(pairs)
        if not self.held_out or self.oof[FOLD].nunique() > 1:
            return known
        return known & np.isnan(self.out_of_fold(pairs)[:, 0])

    def out_of_fold(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return the held-out prediction of each row, (n, 3). Rows that were not held out, and rows
        that are not in the training file (such as extra rows with the same ids), get NaN.

        Raises
        ------
        InputError
            See `oof` and `rows`.
        """
        pairs, rows = as_pairs(pairs), self.rows
        probabilities = self.oof.set_index(ID)[list(LABEL_COLUMNS)].reindex(pairs[ID]).to_numpy()
        known = rows_among(pairs, rows[~rows[ID].str.contains(EXTRA_ID)])
        return np.where(known[:, None], probabilities, np.nan)

    @property
    def seconds(self) -> float:
        """The default time limit of `humanpref predict` with this artifact: the option
        `inference.seconds` of its models. It is infinite if the option is not set or the artifact
        is a blend."""
        first = read_ensemble(self.folder / self.facts["members"][0])
        inference = first.config.inference if isinstance(first, Leaf) else None
        return getattr(inference, "seconds", None) or math.inf

    def predict_proba(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return the mean of the models' probabilities, (n, 3) float64, in the order of the rows.
        There is no time limit, and only one model is in memory at a time.

        The rows are read by `humanpref.data.as_pairs`, which raises InputError for invalid input.
        """
        pairs = as_pairs(pairs)
        by_leaf = predictions(self.ensemble.leaves(), pairs, Budget(math.inf))
        return self.ensemble.probabilities(by_leaf, answer_cases(pairs))


def check_same_classes(artifacts: Sequence[Artifact]) -> None:
    """Raise InputError if some artifacts have a class for ties and others have none, since the mean
    of their probabilities would have no meaning."""
    for artifact in artifacts:
        if artifact.classes != artifacts[0].classes:
            raise InputError(
                f"{artifact.folder}: has {artifact.classes} classes, but {artifacts[0].folder} has "
                f"{artifacts[0].classes}; models with and without ties cannot be combined"
            )


def load_model(folder: str | Path) -> Model:
    """Load the model in a folder: either one written by `Model.save`, or an artifact, whose model
    is the mean of its fold models.

    Raises
    ------
    InputError
        If the model is incomplete or damaged, or cannot predict a row.
    """
    if not (Path(folder) / FACTS_FILE).is_file():
        _check_finished(Path(folder))
        return models.load_model(folder)
    fold_models = Artifact.load(folder).models
    return fold_models[0] if len(fold_models) == 1 else mean_of(fold_models)


def _check_finished(folder: Path) -> None:
    for work in (folder, partial_of(folder)):
        if (work / RUN_FILE).is_file():
            raise InputError(
                f"{folder}: its training run is unfinished; start it again with the same command "
                f"to resume it from {work}"
            )
