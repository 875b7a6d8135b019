"""The inference kernel's entry point in humanpref: predict, and write the submission."""

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.data import read_pairs, without_ties, write_submission
from humanpref.files import read_json, write_json
from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT
from humanpref.kaggle.contract import check_classes
from humanpref.kaggle.runtime import launch
from humanpref.kaggle.runtime.inputs import find_artifacts, point_to_base, tree, use_nltk_data
from humanpref.models.blend_weights import equal_blend, mix
from humanpref.runs.artifact import Artifact
from humanpref.runs.budget import Budget, shortages
from humanpref.runs.engine import Outcome, outcomes
from humanpref.runs.ensemble import Ensemble, Leaf
from humanpref.runs.schedule import describe
from humanpref.schema import ID, InputError
from humanpref.text.cases import answer_cases
from humanpref.training import device

logger = logging.getLogger(__name__)


def infer(
    input_root: Path,
    working: Path,
    test_csv: Path,
    prior: Sequence[float],
    seconds: float = math.inf,
    competition: str = DEFAULT,
) -> None:
    """Predict with every artifact under the input root, keeping `working/submission.csv` up to date
    throughout.

    A row's probabilities are the mean over the artifacts that predicted it, or the prior if none
    did; in a competition without ties, P(A) and P(B) are divided by their sum. If a model or row
    fails, the traceback is logged and the others continue. In `working/status.json`, `degraded`
    lists every reason why the submission is incomplete, and `artifacts` gives the number of rows
    that each artifact predicted. From these, the kernel decides whether the submission is good
    enough.

    Parameters
    ----------
    input_root, working : Path
        `/kaggle/input` and `/kaggle/working`, or the folders that replace them in a dry run.
    test_csv : Path
        The rows to predict.
    prior : sequence of float
        The probabilities of rows that no model predicts, (3,).
    seconds : float
        Wall-clock limit for the whole call; work that does not fit is skipped
        (`humanpref.runs.schedule`).
    competition : str
        The slug of the competition, which determines the form of the submission.

    Raises
    ------
    InputError
        If there is no artifact, or the rows cannot be read.
    """
    budget = Budget(seconds)
    device.prepare()
    use_nltk_data(input_root)
    format = COMPETITIONS[competition].format
    pairs = read_pairs(test_csv, labels=False, lenient=True, format=format)
    writer = SubmissionWriter(working, pairs, prior, budget, competition)
    folders = find_artifacts(input_root)
    if not folders:
        raise InputError(
            f"{input_root}: contains no artifact.json; is the training kernel's output "
            f"attached?\n{tree(input_root)}"
        )
    leaves = [leaf for folder in folders for leaf in writer.add(folder)]
    writer.write()
    lacking = device.lacking() if any(leaf.uses_gpu for leaf in leaves) else ""

    def prepare(leaf: Leaf) -> None:
        if leaf.needs_gpu:
            device.require(lacking, str(leaf.folder))
        point_to_base(leaf.folder, input_root)

    before = time.perf_counter()
    for outcome in outcomes(leaves, pairs, budget, keep_going=True, prepare=prepare):
        writer.seconds["predict" if len(outcome.rows) else "load"] += time.perf_counter() - before
        writer.take(outcome)
        before = time.perf_counter()
    writer.write()
    budget.log_summary()


class SubmissionWriter:
    """The predictions so far, and the submission and status files that hold them."""

    def __init__(
        self,
        working: Path,
        pairs: pd.DataFrame,
        prior: Sequence[float],
        budget: Budget,
        competition: str = DEFAULT,
    ) -> None:
        self.competition = COMPETITIONS[competition]
        self.working, self.ids, self.prior = working, list(pairs[ID]), np.asarray(prior, float)
        self.cases, self.given_up = answer_cases(pairs), budget.given_up
        self.seconds = {"read": budget.spent(), "load": 0.0, "predict": 0.0, "write": 0.0}
        self.artifacts: dict[Path, Ensemble | None] = {}
        self.log_losses: dict[Path, float | None] = {}
        """The log loss on each artifact's held-out rows; None if its metrics do not include one."""
        self.predictions: dict[Path, np.ndarray] = {}
        self.failures: list[str] = []

    def add(self, folder: Path) -> list[Leaf]:
        """Add an artifact and return its models; if it cannot be read, record why."""
        self.artifacts[folder] = None
        try:
            artifact = Artifact.load(folder)
            check_classes(folder, artifact.classes, self.competition)
            self.artifacts[folder] = ensemble = artifact.ensemble
            with contextlib.suppress(InputError, AttributeError):  # predictions do not need metrics
                self.log_losses[folder] = artifact.metrics.get("log_loss")
            if artifact.shortfall:
                logger.warning("%s: %s", folder, artifact.shortfall)
                self.failures.append(f"{folder}: {artifact.shortfall}")
        except Exception as error:
            logger.exception("%s: failed", folder)
            self.failures.append(f"{folder}: {describe(error)}")
            return []
        self.predictions |= {leaf.folder: self._nothing() for leaf in ensemble.leaves()}
        return ensemble.leaves()

    def take(self, outcome: Outcome) -> None:
        """Record a model's predictions of some rows, or the reason why it failed, and rewrite the
        files."""
        leaf, rows, probabilities = outcome
        if isinstance(probabilities, str):
            row = f"id {self.ids[rows[0]]!r}: " if len(rows) else ""
            self.failures.append(f"{leaf.folder}: {row}{probabilities}")
        else:
            self.predictions[leaf.folder][rows] = probabilities
            predicted = _predicted(self.predictions[leaf.folder])
            logger.info("%s: %d of %d rows", leaf.folder.name, predicted, len(self.ids))
        self.write()

    def write(self) -> None:
        """Write submission.csv, then status.json; in this order, the status never claims more than
        has been written."""
        started = time.perf_counter()
        parts = [
            ensemble.probabilities(self.predictions, self.cases) if ensemble else self._nothing()
            for ensemble in self.artifacts.values()
        ]
        ties = self.competition.classes == 3
        known = np.stack(parts if ties else list(map(without_ties, parts)))
        mixed = mix(equal_blend("arithmetic", len(parts), ties), known, self.cases)
        submission = np.where(np.isnan(mixed), self.prior, mixed)
        path = self.working / "submission.csv"
        write_submission(path, self.ids, submission, self.competition.submission)
        self.seconds["write"] += time.perf_counter() - started
        rows, predicted = len(self.ids), _predicted(mixed)
        fallback = [f"{rows - predicted} of {rows} rows have the prior"] if predicted < rows else []
        path = self.working / "status.json"
        # The kernel has already written the fallback's entries.
        status = read_json(path) if path.exists() else {}
        status |= {
            "rows": rows,
            "predicted": predicted,
            "fallback": rows - predicted,
            "artifacts": [
                {
                    "folder": str(folder),
                    "rows": _predicted(part),
                    "log_loss": self.log_losses.get(folder),
                }
                for folder, part in zip(self.artifacts, parts, strict=True)
            ],
            "given_up": dict(+self.given_up),
            "degraded": [*self.failures, *shortages(self.given_up), *fallback],
            "seconds": status.get("seconds", {}) | self.seconds,
            "peak_memory_bytes": launch.peak_memory_bytes(),
        }
        write_json(path, status)

    def _nothing(self) -> np.ndarray:
        return np.full((len(self.ids), 3), np.nan)


def _predicted(probabilities: np.ndarray) -> int:
    """Return the number of rows that have probabilities, rather than NaN."""
    return int((~np.isnan(probabilities[:, 0])).sum())
