"""What the two kernels call once humanpref is installed: train into an artifact, infer into a submission.

Both find their files by name under the input root, since Kaggle mounts the same source under more than one path
(`/kaggle/input/competitions/SLUG` or `/kaggle/input/SLUG`, and so on for datasets, models and kernels' outputs).
"""

import gc
import itertools
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from humanpref import experiment
from humanpref.artifact import Artifact
from humanpref.config import Config, load_config
from humanpref.data import read_pairs, write_submission
from humanpref.data.submission import SUM_TOLERANCE
from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.metadata import COMPETITION
from humanpref.models.budget import Budget
from humanpref.schema import CLASSES, ID, InputError

logger = logging.getLogger(__name__)

MARKER = "humanpref-dataset.json"
"""The manifest by which the kernels find the wheel dataset, and check it."""
WEIGHTS_MARKER = "humanpref-weights.json"
"""The manifest of a dataset of weights."""

BUDGET_SHARE = 0.95
"""Of the time until the inference process is ended: the rest is for loading the last model and writing the last file."""
CHUNK_ROWS = 1_024
"""Rows predicted between two writes of the submission."""
MAX_FAILURES = 50
"""After so many failed calls an artifact is given up. Finding the one bad row of a chunk takes about ten."""


@dataclass(frozen=True)
class Run:
    """What the dataset's `run.toml` says: the run that both kernels are for."""

    preset: str
    """A name from `humanpref.config.preset_names()`."""
    overrides: tuple[str, ...] = ()
    """`section.key=value`, as for `--set`."""
    backbone: str = ""
    """The folder of the pretrained model under the input root, by the last part or parts of its path; empty: none is needed."""
    folds: int | None = None
    """Train so many fold models instead of one."""
    inference_seconds: float | None = None
    """Stop predicting after so long and submit what is there; unset: the inference kernel's own limit."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Run":
        """Build a run from the values of a TOML file. Raises InputError for an unknown or a missing key, or a wrong type."""
        kinds = {"preset": str, "overrides": list, "backbone": str, "folds": int, "inference_seconds": (int, float)}
        for key, value in values.items():
            if key not in kinds:
                raise InputError(f"run.toml: unknown key {key!r}; the keys are {', '.join(kinds)}")
            if not isinstance(value, kinds[key]) or isinstance(value, bool):
                raise InputError(f"run.toml: key {key}: got {value!r}")
        if "preset" not in values:
            raise InputError("run.toml: key preset is missing")
        return cls(**{**values, "overrides": tuple(values.get("overrides", ()))})

    def to_toml(self) -> str:
        """The TOML text that `from_dict` reads back."""
        # A JSON string, number or list of strings is TOML too, as long as no character beyond the BMP is escaped.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        lines = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
        ]
        return "\n".join(lines) + "\n"


def train(input_root: Path, working: Path, run: dict[str, Any], install_seconds: float = 0.0) -> None:
    """Train what `run` says on the competition's train.csv, into `working/artifact`; `working/status.json` has the times.

    Parameters
    ----------
    input_root, working : Path
        `/kaggle/input` and `/kaggle/working`, or what stands for them.
    run : dict
        The values of `run.toml`; see `Run`.
    install_seconds : float
        What the kernel took until here, for the report.

    Raises
    ------
    InputError
        If a file is not found, or the run's configuration or the rows cannot be used.
    """
    started = time.perf_counter()
    use_nltk_data(input_root)
    wanted = Run.from_dict(run)
    config = resolve(wanted, input_root)
    train_csv = find_competition_file("train.csv", input_root)
    logger.info("training %s on %s", config.preset or config.family, train_csv)
    artifact = experiment.train(config, train_csv, working / "artifact", folds=wanted.folds)
    seconds = {"install": install_seconds, "train": time.perf_counter() - started}
    write_json(
        working / "status.json",
        {"artifact": "artifact", "prior": list(artifact.prior), "seconds": seconds, **_memory()},
    )
    logger.info("artifact written to %s after %.0f s", working / "artifact", seconds["train"])


def resolve(run: Run, input_root: Path) -> Config:
    """The run's configuration, with the backbone found under the input root."""
    overrides = list(run.overrides)
    if run.backbone:
        backbone = find_backbone(run.backbone, input_root)
        check_weights(backbone)
        overrides.append(f"model.backbone={backbone}")
    return load_config(run.preset, None, overrides)


def infer(
    input_root: Path, working: Path, test_csv: Path, prior: Sequence[float], seconds: float | None = None
) -> None:
    """Predict with every artifact under the input root, and keep `working/submission.csv` up to date all the while.

    A row's probabilities are the mean over the artifacts that predicted it, or the prior. An artifact or a row that fails
    is logged with its traceback and listed in `working/status.json`; the others go on.

    Parameters
    ----------
    input_root, working : Path
        `/kaggle/input` and `/kaggle/working`, or what stands for them.
    test_csv : Path
        The rows.
    prior : sequence of float
        (3,) the probabilities of rows that nothing predicts.
    seconds : float, optional
        The time until the process is ended. With `BUDGET_SHARE` of it as their budget the artifacts give up what will not fit
        (`humanpref.models.budget`), and `given_up` in `working/status.json` says for how many rows. Each has an equal share of
        what is left when it begins.

    Raises
    ------
    InputError
        If there is no artifact, or the rows cannot be read.
    """
    started = time.perf_counter()
    use_nltk_data(input_root)
    pairs = read_pairs(test_csv, labels=False, lenient=True)
    budget = None if seconds is None else Budget(BUDGET_SHARE * seconds)
    board = _Board(working, list(pairs[ID]), np.asarray(prior, dtype=np.float64), budget)
    board.seconds["read"] = time.perf_counter() - started
    folders = find_artifacts(input_root)
    if not folders:
        raise InputError(
            f"{input_root}: no artifact.json under it; is the training kernel's output attached?\n{tree(input_root)}"
        )
    for number, folder in enumerate(folders):
        try:
            _predict_with(folder, pairs, board, 1 / (len(folders) - number))
        # SystemExit too: a library that calls sys.exit must not end the other artifacts' work. MemoryError is an Exception.
        except (Exception, SystemExit) as error:
            logger.exception("%s: failed", folder)
            board.failures.append(f"{folder}: {describe(error)}")
        finally:
            _free()
            board.write()
    if budget is not None:
        budget.tell()
    if not board.counts.any():
        logger.error("no row was predicted")


@dataclass
class _Board:
    """The running sums over artifacts, and the files that show them."""

    working: Path
    ids: list[str]
    prior: np.ndarray
    budget: Budget | None
    sums: np.ndarray = field(init=False)
    counts: np.ndarray = field(init=False)
    seconds: dict[str, float] = field(init=False)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sums = np.zeros((len(self.ids), len(CLASSES)))
        self.counts = np.zeros(len(self.ids), dtype=np.int64)
        self.seconds = dict.fromkeys(("read", "load", "predict", "write"), 0.0)

    def add(self, rows: slice, probabilities: np.ndarray) -> None:
        """Count probabilities; rows of NaN are those that there was no time for."""
        self.sums[rows] += np.nan_to_num(probabilities)
        self.counts[rows] += ~np.isnan(probabilities[:, 0])

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started

    def write(self) -> None:
        """Write submission.csv and status.json, the former first: a status never promises more than there is."""
        with self.timed("write"):
            predicted = self.counts > 0
            mean = self.sums / np.maximum(self.counts, 1)[:, None]
            write_submission(self.working / "submission.csv", self.ids, np.where(predicted[:, None], mean, self.prior))
        path = self.working / "status.json"
        # The kernel wrote the fallback's part before.
        status = read_json(path) if path.exists() else {}
        status |= {
            "rows": len(self.ids),
            "predicted": int(predicted.sum()),
            "fallback": int((~predicted).sum()),
            "artifacts": self.artifacts,
            "failures": self.failures,
            "given_up": dict(self.budget.given_up) if self.budget else {},
            "seconds": status.get("seconds", {}) | self.seconds,
            **_memory(),
        }
        write_json(path, status)


def _predict_with(folder: Path, pairs: pd.DataFrame, board: _Board, share: float) -> None:
    """Add one artifact's predictions to the board, chunk by chunk; a chunk that fails is halved down to the rows at fault.

    The chunks have, by their rows, equal parts of the artifact's `share` of the budget.
    """
    budget = board.budget.share(share) if board.budget else None
    with board.timed("load"):
        artifact = Artifact.load(folder)
        _ = artifact.models  # loaded here, so that the time is counted as loading
    entry = {"folder": str(folder), "rows": 0}
    board.artifacts.append(entry)
    pending = [slice(start, min(start + CHUNK_ROWS, len(pairs))) for start in range(0, len(pairs), CHUNK_ROWS)][::-1]
    failed = 0
    while pending:
        rows = pending.pop()
        size = rows.stop - rows.start
        try:
            with board.timed("predict"):
                chunk = pairs.iloc[rows].reset_index(drop=True)
                if budget is None:
                    probabilities = artifact.predict_proba(chunk)
                else:
                    waiting = size + sum(other.stop - other.start for other in pending)
                    probabilities = artifact.predict_within(chunk, budget.share(size / waiting))
                told = probabilities[~np.isnan(probabilities[:, 0])] if budget else probabilities
                _check(told, len(told) if budget else size)
        except (Exception, SystemExit) as error:
            failed += 1
            logger.exception("%s: rows %d to %d failed", folder, rows.start + 1, rows.stop)
            if size == 1:
                board.failures.append(f"{folder}: id {board.ids[rows.start]!r}: {describe(error)}")
            if failed == MAX_FAILURES:
                raise RuntimeError(
                    f"given up after {failed} failed calls, the last of them: {describe(error)}"
                ) from error
            if size > 1:
                middle = rows.start + size // 2
                pending += [slice(middle, rows.stop), slice(rows.start, middle)]
        else:
            board.add(rows, probabilities)
            entry["rows"] += len(told)
            board.write()
            logger.info("%s: %d of %d rows", folder.name, entry["rows"], len(pairs))
            continue
        _free()


def _check(probabilities: np.ndarray, rows: int) -> None:
    """Raise ValueError unless these are probabilities: what is not must not reach the running sums."""
    if probabilities.shape != (rows, len(CLASSES)):
        raise ValueError(f"expected probabilities of shape ({rows}, {len(CLASSES)}), got {probabilities.shape}")
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all()):
        raise ValueError("the probabilities are not all finite and at least 0")
    if (np.abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise ValueError("the probabilities of a row do not sum to 1")


def _free() -> None:
    """Give back the memory of models that are no longer referenced."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _memory() -> dict[str, int]:
    """The most memory that this process has had so far."""
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def describe(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def find(name: str, root: Path, depth: int = 8) -> list[Path]:
    """Find the files called `name` at most `depth` folders below `root`, nearest first."""
    found = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        if name in files:
            # Kaggle may show one mount under two paths.
            found.setdefault(os.path.realpath(Path(folder, name)), Path(folder, name))
        if len(Path(folder).relative_to(root).parts) >= depth:
            folders.clear()
    return sorted(found.values(), key=lambda path: (len(path.parts), str(path)))


def tree(root: Path, limit: int = 60) -> str:
    """List what is under `root`, for a message that says what was there instead."""
    lines = (f"  {path.relative_to(root)}" for path in root.rglob("*") if len(path.relative_to(root).parts) <= 6)
    listed = sorted(itertools.islice(lines, limit))
    return "\n".join([f"{root} holds:", *(listed or ["  nothing"]), *(["  …"] if len(listed) == limit else [])])


def find_competition_file(name: str, input_root: Path) -> Path:
    """Find a file of the competition's, in either layout.

    Raises
    ------
    InputError
        If it is not there.
    """
    found = [path for path in find(name, input_root) if COMPETITION in path.parts]
    if not found:
        raise InputError(
            f"{input_root}: no {name} in a folder {COMPETITION}; is the competition attached?\n{tree(input_root)}"
        )
    return found[0]


def find_artifacts(input_root: Path) -> list[Path]:
    """Find the artifacts' folders: those with an artifact.json, but not the fold models within another artifact."""
    # Nearest first, so that an artifact comes before what is inside it.
    folders: list[Path] = []
    for path in find("artifact.json", input_root):
        unfinished = path.parent.name.endswith(".partial")
        if not unfinished and not any(folder in path.parents for folder in folders):
            folders.append(path.parent)
    return sorted(folders)


def find_backbone(name: str, input_root: Path) -> Path:
    """Find a pretrained model's folder: it has a config.json, and `name` is a part, or several, of its path.

    Raises
    ------
    InputError
        If there is none, or more than one.
    """
    parts = PurePosixPath(name).parts
    artifacts = find_artifacts(input_root)
    found = []
    for path in find("config.json", input_root):
        own = path.parent.relative_to(input_root).parts
        named = any(own[i : i + len(parts)] == parts for i in range(len(own)))
        if named and not any(folder == path.parent or folder in path.parents for folder in artifacts):
            found.append(path.parent)
    if len(found) != 1:
        there = "\n".join(f"  {folder}" for folder in found) or tree(input_root)
        raise InputError(
            f"run.toml: key backbone: expected one folder {name!r} with a config.json under {input_root}, found {len(found)}"
            f"\n{there}"
        )
    return found[0]


def check_weights(backbone: Path) -> None:
    """Check a backbone that `humanpref kaggle weights` packed against its manifest; another one is taken as it is.

    Raises
    ------
    InputError
        If a file is missing, or is not the one that was packed.
    """
    if not (backbone / WEIGHTS_MARKER).is_file():
        return
    for entry in read_json(backbone / WEIGHTS_MARKER)["files"]:
        path = backbone / entry["name"]
        if not path.is_file():
            raise InputError(f"{path}: named by {WEIGHTS_MARKER}, but not there\n{tree(backbone)}")
        if (path.stat().st_size, sha256(path)) != (entry["bytes"], entry["sha256"]):
            raise InputError(f"{path}: not the file that {WEIGHTS_MARKER} describes; is an older version mounted?")


def use_nltk_data(input_root: Path) -> None:
    """Let NLTK look first into the wheel dataset, where the dataset brings data; called before NLTK is imported."""
    folders = [path.with_name("nltk_data") for path in find(MARKER, input_root)]
    found = [str(folder) for folder in folders if folder.is_dir()]
    if found:
        os.environ["NLTK_DATA"] = os.pathsep.join(found)
