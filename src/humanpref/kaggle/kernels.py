"""What the two kernels call once humanpref is installed: train into an artifact, infer into a submission.

Both find their files by name under the input root, since Kaggle mounts the same source under more than one path
(`/kaggle/input/competitions/SLUG` or `/kaggle/input/SLUG`, and so on for datasets, models and kernels' outputs).
"""

import itertools
import json
import logging
import math
import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from humanpref import experiment
from humanpref.artifact import Artifact
from humanpref.config import Config, LoopOptions, from_dict, load_config
from humanpref.data import read_pairs, read_training_rows, write_submission
from humanpref.files import folder_whole, read_json, sha256, write_json
from humanpref.kaggle import launch
from humanpref.kaggle.metadata import COMPETITION
from humanpref.kaggle.predicting import describe, free, outcomes, shared_out
from humanpref.models import load_model
from humanpref.models.base import CONFIG_FILE
from humanpref.models.blend import Blend, equal_blend, mix, read_state
from humanpref.models.budget import Budget, shortages
from humanpref.schema import CLASSES, ID, InputError
from humanpref.text.cases import answer_cases
from humanpref.training import device

logger = logging.getLogger(__name__)

MARKER = "humanpref-dataset.json"
"""The manifest by which the kernels find the wheel dataset, and check it."""
WEIGHTS_MARKER = "humanpref-weights.json"
"""The manifest of a dataset of weights."""

UNFINISHED = "UNFINISHED:"
"""Stands in the log of a training kernel that left no artifact, though it ended well."""

TRAIN_SECONDS = 11.5 * 3600
"""The training kernel's time, of the 12 hours that Kaggle gives a run, where `run.toml` has no other."""
DESCENT_SHARE = 0.85
"""How much of it gradient descent gets; the rest is for the installation, for validating and for saving."""


@dataclass(frozen=True)
class Run:
    """What the dataset's `run.toml` says: the run that both kernels are for."""

    preset: str
    """A name from `humanpref.config.preset_names()`; empty: nothing is trained, the dataset's artifacts predict."""
    overrides: tuple[str, ...] = ()
    """`section.key=value`, as for `--set`."""
    backbone: str = ""
    """The folder of the pretrained model under the input root, by the last part or parts of its path; empty: none is needed."""
    backbone_manifest: str = ""
    """Of packed weights the SHA-256 of their manifest: no others are taken. Empty: any."""
    folds: int | None = None
    """Train so many fold models instead of one."""
    train_seconds: float | None = None
    """What the training kernel may take, from its first line to its last; unset: `TRAIN_SECONDS`."""
    inference_seconds: float | None = None
    """What the inference kernel may take, from its first line: what will not fit is given up (`humanpref.models.budget`). Unset:
    the kernel's own limit."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Run":
        """Build a run from the values of a TOML file. Raises InputError for an unknown or a missing key, or a wrong type."""
        kinds = {"preset": str, "overrides": list, "backbone": str, "backbone_manifest": str, "folds": int}
        kinds |= dict.fromkeys(("train_seconds", "inference_seconds"), (int, float))
        for key, value in values.items():
            if key not in kinds:
                raise InputError(f"run.toml: unknown key {key!r}; the keys are {', '.join(kinds)}")
            if not isinstance(value, kinds[key]) or isinstance(value, bool):
                raise InputError(f"run.toml: key {key}: got {value!r}")
        if "preset" not in values:
            raise InputError("run.toml: key preset is missing")
        return cls(**{**values, "overrides": tuple(values.get("overrides", ()))})

    @property
    def train_limit(self) -> float:
        """Seconds."""
        return TRAIN_SECONDS if self.train_seconds is None else self.train_seconds

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

    What an earlier version of the kernel left of the same run, mounted as a kernel source, is taken up. When the time is over,
    what is done by then stays in `working/artifact.partial`, for a later version.

    Parameters
    ----------
    input_root, working : Path
        `/kaggle/input` and `/kaggle/working`, or what stands for them.
    run : dict
        The values of `run.toml`; see `Run`.
    install_seconds : float
        What the kernel took until here.

    Raises
    ------
    InputError
        If a file is not found, or the run's configuration or the rows cannot be used.
    RuntimeError
        If the training fails.
    """
    started = time.perf_counter()
    use_nltk_data(input_root)
    wanted = Run.from_dict(run)
    # Before the backbone's gigabytes are checked.
    backbone = [f"model.backbone={wanted.backbone}"] if wanted.backbone else []
    plain = load_config(wanted.preset, None, [*wanted.overrides, *backbone])
    if plain.uses_gpu:
        lacking = device.lacking()
        if plain.needs_gpu:
            device.require(lacking, f"preset {wanted.preset}")
    config = resolve(wanted, input_root)
    train_csv = find_competition_file("train.csv", input_root)
    out = working / "artifact"
    take_up(experiment.run_of(config, read_training_rows(train_csv).pairs, wanted.folds), input_root, out)
    if not out.is_dir():
        logger.info("training %s on %s", config.preset or config.family, train_csv)
        left = wanted.train_limit - install_seconds - (time.perf_counter() - started)
        launch.train(config, train_csv, out, wanted.folds, left)
    finished = out.is_dir()
    seconds = {"install": install_seconds, "train": time.perf_counter() - started}
    degraded = [] if finished else ["its time was over before there was an artifact"]
    status = {"finished": finished, "degraded": degraded, "seconds": seconds, **_memory()}
    if finished:
        status |= {"artifact": "artifact", "prior": list(Artifact.load(out).prior)}
        logger.info("artifact in %s after %.0f s", out, seconds["train"])
    else:
        logger.error(
            "%s stopped after %.0f s, without an artifact. What was done is in %s: push the kernel again with this "
            "version's output among its kernel_sources, and it goes on from there",
            UNFINISHED, seconds["train"], experiment.partial_of(out),
        )  # fmt: skip
    path = working / "status.json"
    # The kernel wrote its part before.
    write_json(path, (read_json(path) if path.exists() else {}) | status)


def take_up(run: dict[str, Any], input_root: Path, out: Path) -> None:
    """Copy what an earlier version of the kernel left of this run: the artifact, or else what there is of it.

    Parameters
    ----------
    run : dict
        See `experiment.run_of`.
    input_root, out : Path
        Where to look; the artifact's folder.
    """
    earlier = find(experiment.RUN_FILE, input_root)
    for target in (out, experiment.partial_of(out)):
        for folder in (path.parent for path in earlier if path.parent.name == target.name):
            if read_json(folder / experiment.RUN_FILE) != run:
                logger.warning("%s: left alone, it is of another configuration or of other rows", folder)
                continue
            with folder_whole(target) as copy:
                shutil.copytree(folder, copy, dirs_exist_ok=True)
            logger.info("%s: taken up from an earlier version", folder)
            return


def resolve(run: Run, input_root: Path) -> Config:
    """The run's configuration, with the backbone found under the input root, and its share of the time for gradient descent."""
    overrides = list(run.overrides)
    if run.backbone:
        backbone = find_backbone(run.backbone, input_root)
        check_weights(backbone, run.backbone_manifest)
        overrides.append(f"model.backbone={backbone}")
    config = load_config(run.preset, None, overrides)
    training = config.training
    if isinstance(training, LoopOptions) and training.seconds is None:
        # The same in every version of the kernel, whatever the installation took: a later one has to know its run again.
        models = (run.folds or 1) * training.seeds
        seconds = DESCENT_SHARE * run.train_limit / models
        config = replace(config, training=replace(training, seconds=seconds))
    return config


def infer(input_root: Path, working: Path, test_csv: Path, prior: Sequence[float], seconds: float = math.inf) -> None:
    """Predict with every artifact under the input root, and keep `working/submission.csv` up to date all the while.

    A row's probabilities are the mean over the artifacts that predicted it, or the prior. One model is in memory at a time, be
    it a fold's or a blend's; a blend mixes those that are done. A model or a row that fails is logged with its traceback; the
    others go on. Each model has an equal share of the time that is left when its turn comes; what it gives up to keep to it
    (`humanpref.models.budget`) is logged. `degraded` in `working/status.json` lists all that makes the submission less than
    whole, and `artifacts` the rows that each predicted: what that is worth, the kernel decides.

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
            f"{input_root}: no artifact.json under it; is the training kernel's output attached?\n{tree(input_root)}"
        )
    parts: list[_Part] = []
    for folder in folders:
        board.artifacts[folder] = _Part(folder, np.full((len(pairs), len(CLASSES)), np.nan))  # until it is read
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
    budget.tell()


@dataclass
class _Part:
    """A model on disk, or a mix of others; what it says of each row, (n, 3), NaN where it has said nothing."""

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
        """What is known by now: a row that only some of the parts have predicted is mixed from those."""
        if self.blend is None:
            return self.told
        return mix(self.blend, np.stack([part.probabilities(cases) for part in self.parts]), cases)


def _parts_of_artifact(folder: Path, rows: int) -> _Part:
    parts = [_parts_of_model(folder / member, rows) for member in Artifact.load(folder).facts["members"]]
    return _Part(folder, np.empty(0), blend=equal_blend("arithmetic", len(parts)), parts=parts)


def _parts_of_model(folder: Path, rows: int) -> _Part:
    config = from_dict(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    if config.family != "blend":
        return _Part(folder, np.full((rows, len(CLASSES)), np.nan), config.uses_gpu, config.needs_gpu)
    blend, members = read_state(folder, config.model.mean)
    return _Part(folder, np.empty(0), blend=blend, parts=[_parts_of_model(member, rows) for member in members])


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
        # SystemExit too: a library that calls sys.exit must not end the other models' work. MemoryError is an Exception.
        except (Exception, SystemExit) as error:
            logger.exception("%s: failed", folder)
            self.failures.append(f"{folder}: {describe(error)}")

    def write(self) -> None:
        """Write submission.csv and status.json, the former first: a status never promises more than there is."""
        with self.timed("write"):
            told = {folder: part.probabilities(self.cases) for folder, part in self.artifacts.items()}
            mean = equal_blend("arithmetic", len(told))
            probabilities = mix(mean, np.stack(list(told.values())), self.cases)
            missing = np.isnan(probabilities)
            write_submission(self.working / "submission.csv", self.ids, np.where(missing, self.prior, probabilities))
        fallback = int(missing[:, 0].sum())
        path = self.working / "status.json"
        # The kernel wrote the fallback's part before.
        status = read_json(path) if path.exists() else {}
        status |= {
            "rows": len(self.ids),
            "predicted": len(self.ids) - fallback,
            "fallback": fallback,
            "artifacts": [
                {"folder": str(folder), "rows": int((~np.isnan(rows[:, 0])).sum())} for folder, rows in told.items()
            ],
            "given_up": dict(self.given_up),
            "degraded": [
                *self.failures,
                *shortages(self.given_up),
                *([f"{fallback} of {len(self.ids)} rows have the prior"] if fallback else []),
            ],
            "seconds": status.get("seconds", {}) | self.seconds,
            **_memory(),
        }
        write_json(path, status)


def _predict_with(part: _Part, pairs: pd.DataFrame, board: _Board, budget: Budget) -> None:
    """Let one model predict, on all GPUs if it uses one; the submission is written after every block."""
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
        logger.info("%s: %d of %d rows", part.folder.name, (~np.isnan(part.told[:, 0])).sum(), len(pairs))


def _memory() -> dict[str, int]:
    """The most memory that one process has had so far: this one, or one that it started."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return {"peak_memory_bytes": max(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024}


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
    """Find a pretrained model's folder: it has a config.json or modules.json, and `name` is a part, or several, of its path.

    A sentence encoder's modules have folders with a config.json inside its own, so of nested folders the outer one counts.

    Raises
    ------
    InputError
        If there is none, or more than one.
    """
    parts = PurePosixPath(name).parts
    found = []
    for folder in find_backbones(input_root):
        own = folder.relative_to(input_root).parts
        named = any(own[i : i + len(parts)] == parts for i in range(len(own)))
        if named and not any(outer in folder.parents for outer in found):
            found.append(folder)
    if len(found) != 1:
        there = "\n".join(f"  {folder}" for folder in found) or tree(input_root)
        raise InputError(
            f"run.toml: key backbone: expected one folder {name!r} with a config.json under {input_root}, found {len(found)}"
            f"\n{there}"
        )
    return found[0]


def find_backbones(input_root: Path) -> list[Path]:
    """Find every folder with a config.json or a modules.json that is not a part of an artifact, outer ones first."""
    artifacts = find_artifacts(input_root)
    folders = {path.parent for name in ("config.json", "modules.json") for path in find(name, input_root)}
    own = [f for f in folders if not any(artifact == f or artifact in f.parents for artifact in artifacts)]
    return sorted(own, key=lambda folder: (len(folder.parts), folder))


def point_to_base(model: Path, input_root: Path) -> None:
    """Let a model that only names its base find it where this run has it mounted; it may have been trained elsewhere.

    Parameters
    ----------
    model : Path
        A model's folder.
    input_root : Path
        Where to look for a backbone with the weights that the model was trained on. If there is none, loading will say so.
    """
    if not (model / "base.json").is_file():
        return  # and torch, which the import below takes, is perhaps not needed
    from humanpref.models.checkpoint import base_digest
    from humanpref.models.pretrained import BASE_FILE, BASE_VARIABLE

    wanted = read_json(model / BASE_FILE)["sha256"]
    for folder in find_backbones(input_root):
        with suppress(InputError):  # a folder without weights is not the one
            if base_digest(folder) == wanted:
                os.environ[BASE_VARIABLE] = str(folder)
                return


def check_weights(backbone: Path, manifest: str = "") -> None:
    """Check a backbone that `humanpref kaggle weights` packed against its manifest; another one is taken as it is.

    Parameters
    ----------
    backbone : Path
        The folder.
    manifest : str
        The SHA-256 that the manifest itself has to have; empty: any.

    Raises
    ------
    InputError
        If a file is missing, or is not the one that was packed.
    """
    packed = (backbone / WEIGHTS_MARKER).is_file()
    if not packed and not manifest:
        return
    found = sha256(backbone / WEIGHTS_MARKER) if packed else "none"
    if manifest not in ("", found):
        raise InputError(
            f"{backbone / WEIGHTS_MARKER}: expected the manifest with SHA-256 {manifest}, got {found}; "
            "another version of the weights than the one pushed is mounted"
        )
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
