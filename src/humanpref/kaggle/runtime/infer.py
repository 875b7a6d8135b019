"""What the inference kernel calls once humanpref is installed: predict into a submission."""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from humanpref.config import from_dict
from humanpref.config.gpu import needs_gpu, uses_gpu
from humanpref.data import read_pairs, write_submission
from humanpref.files import read_json, write_json
from humanpref.kaggle.runtime import launch
from humanpref.kaggle.runtime.inputs import find_artifacts, point_to_base, tree, use_nltk_data
from humanpref.kaggle.runtime.workers import describe, free, outcomes, shared_out
from humanpref.models import load_model
from humanpref.models.base import CONFIG_FILE
from humanpref.models.blend import read_state
from humanpref.models.blend_weights import Blend, equal_blend, mix
from humanpref.models.budget import Budget, shortages
from humanpref.runs.artifact import Artifact
from humanpref.schema import CLASSES, ID, InputError
from humanpref.text.cases import answer_cases
from humanpref.training import device

logger = logging.getLogger(__name__)


def infer(
    input_root: Path,
    working: Path,
    test_csv: Path,
    prior: Sequence[float],
    seconds: float = math.inf,
) -> None:
    """Predict with every artifact under the input root, and keep `working/submission.csv` up to
    date all the while.

    A row's probabilities are the mean over the artifacts that predicted it, or the prior. One model
    is in memory at a time, be it a fold's or a blend's; a blend mixes those that are done. A model
    or a row that fails is logged with its traceback; the others go on. Each model has an equal
    share of the time that is left when its turn comes; what it gives up to keep to it
    (`humanpref.models.budget`) is logged. `degraded` in `working/status.json` lists all that makes
    the submission less than whole, and `artifacts` the rows that each predicted: what that is
    worth, the kernel decides.

    Parameters
    ----------
    input_root, working : Path
        `/kaggle/input` and `/kaggle/working`, or what stands for them.
    test_csv : Path
        The rows.
    prior : sequence of float
        (3,) the probabilities of rows that nothing predicts.
    seconds : float
        Of wall clock for all of it.

    Raises
    ------
    InputError
        If there is no artifact, or the rows cannot be read.
    """
    budget = Budget(seconds)
    use_nltk_data(input_root)
    pairs = read_pairs(test_csv, labels=False, lenient=True)
    rates = np.asarray(prior, dtype=np.float64)
    board = _Board(working, list(pairs[ID]), answer_cases(pairs), rates, budget.given_up)
    board.seconds["read"] = budget.spent()
    folders = find_artifacts(input_root)
    if not folders:
        raise InputError(
            f"{input_root}: no artifact.json under it; is the training kernel's output "
            f"attached?\n{tree(input_root)}"
        )
    parts: list[_Part] = []
    for folder in folders:
        board.artifacts[folder] = _Part(
            folder, np.full((len(pairs), len(CLASSES)), np.nan)
        )  # until it is read
        with board.failing(folder):
            board.artifacts[folder] = _parts_of_artifact(folder, len(pairs))
            parts += board.artifacts[folder].leaves()
    board.write()
    lacking = device.lacking() if any(part.neural for part in parts) else ""
    # What the quick ones leave over goes to those that can use it.
    for number, part in enumerate(sorted(parts, key=lambda part: part.neural)):
        with board.failing(part.folder):
            if part.needs_gpu:
                device.require(lacking, str(part.folder))
            point_to_base(part.folder, input_root)
            _predict_with(part, pairs, board, budget.share(1 / (len(parts) - number)))
        free()
        board.write()
    budget.log_summary()


@dataclass
class _Part:
    """A model on disk, or a mix of others; what it says of each row, (n, 3), NaN where it has said
    nothing."""

    folder: Path
    told: np.ndarray
    neural: bool = False
    """It takes its time."""
    needs_gpu: bool = False
    blend: Blend | None = None
    parts: list["_Part"] = field(default_factory=list)

    def leaves(self) -> Iterator["_Part"]:
        """The models that predict by themselves."""
        if self.blend is None:
            yield self
        for part in self.parts:
            yield from part.leaves()

    def probabilities(self, cases: np.ndarray) -> np.ndarray:
        """What is known by now: a row that only some of the parts have predicted is mixed from
        those."""
        if self.blend is None:
            return self.told
        return mix(self.blend, np.stack([part.probabilities(cases) for part in self.parts]), cases)


def _parts_of_artifact(folder: Path, rows: int) -> _Part:
    parts = [
        _parts_of_model(folder / member, rows) for member in Artifact.load(folder).facts["members"]
    ]
    return _Part(folder, np.empty(0), blend=equal_blend("arithmetic", len(parts)), parts=parts)


def _parts_of_model(folder: Path, rows: int) -> _Part:
    config = from_dict(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    if config.family != "blend":
        return _Part(
            folder, np.full((rows, len(CLASSES)), np.nan), uses_gpu(config), needs_gpu(config)
        )
    blend, members = read_state(folder, config.model.mean)
    return _Part(
        folder,
        np.empty(0),
        blend=blend,
        parts=[_parts_of_model(member, rows) for member in members],
    )


@dataclass
class _Board:
    """What was predicted by now, and the files that show it."""

    working: Path
    ids: list[str]
    cases: np.ndarray
    prior: np.ndarray
    given_up: Counter[str]
    seconds: dict[str, float] = field(init=False)
    artifacts: dict[Path, _Part] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seconds = dict.fromkeys(("read", "load", "predict", "write"), 0.0)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started

    @contextmanager
    def failing(self, folder: Path) -> Iterator[None]:
        """Log and list what goes wrong in the block, and go on after it."""
        try:
            yield
        # SystemExit too: a library that calls sys.exit must not end the other models' work.
        # MemoryError is an Exception.
        except (Exception, SystemExit) as error:
            logger.exception("%s: failed", folder)
            self.failures.append(f"{folder}: {describe(error)}")

    def write(self) -> None:
        """Write submission.csv and status.json, the former first: a status never promises more than
        there is."""
        with self.timed("write"):
            told = {
                folder: part.probabilities(self.cases) for folder, part in self.artifacts.items()
            }
            mean = equal_blend("arithmetic", len(told))
            probabilities = mix(mean, np.stack(list(told.values())), self.cases)
            missing = np.isnan(probabilities)
            write_submission(
                self.working / "submission.csv",
                self.ids,
                np.where(missing, self.prior, probabilities),
            )
        fallback = int(missing[:, 0].sum())
        path = self.working / "status.json"
        # The kernel wrote the fallback's part before.
        status = read_json(path) if path.exists() else {}
        status |= {
            "rows": len(self.ids),
            "predicted": len(self.ids) - fallback,
            "fallback": fallback,
            "artifacts": [
                {"folder": str(folder), "rows": int((~np.isnan(rows[:, 0])).sum())}
                for folder, rows in told.items()
            ],
            "given_up": dict(self.given_up),
            "degraded": [
                *self.failures,
                *shortages(self.given_up),
                *([f"{fallback} of {len(self.ids)} rows have the prior"] if fallback else []),
            ],
            "seconds": status.get("seconds", {}) | self.seconds,
            "peak_memory_bytes": launch.peak_memory_bytes(),
        }
        write_json(path, status)


def _predict_with(part: _Part, pairs: pd.DataFrame, board: _Board, budget: Budget) -> None:
    """Let one model predict, on all GPUs if it uses one; the submission is written after every
    block."""
    gpus = launch.gpus() if part.neural else 0
    if gpus:
        told = shared_out(part.folder, pairs, budget, gpus)
        with board.timed("load"):
            next(told, None)
    else:
        with board.timed("load"):
            model = load_model(part.folder)
        told = outcomes(model, pairs, budget)
    while True:
        with board.timed("predict"):
            rows, made = next(told, (None, None))
        if rows is None:
            return
        if isinstance(made, str):
            board.failures.append(f"{part.folder}: id {board.ids[rows[0]]!r}: {made}")
            continue
        part.told[rows] = made
        board.write()
        logger.info(
            "%s: %d of %d rows", part.folder.name, (~np.isnan(part.told[:, 0])).sum(), len(pairs)
        )
