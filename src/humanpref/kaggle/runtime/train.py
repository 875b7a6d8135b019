"""Train inside the training kernel, once humanpref is installed there, and write an artifact."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from humanpref.config import Config, load_config
from humanpref.config.gpu import needs_gpu, uses_gpu
from humanpref.files import folder_whole, read_json, write_json
from humanpref.kaggle.contract import UNFINISHED, KernelRun
from humanpref.kaggle.runtime import launch
from humanpref.kaggle.runtime.inputs import (
    check_weights,
    find,
    find_backbone,
    find_competition_file,
    use_nltk_data,
)
from humanpref.runs import train as experiment
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import RUN_FILE, partial_of
from humanpref.schema import counted
from humanpref.training import device

logger = logging.getLogger(__name__)

DESCENT_SHARE = 0.85
"""Share of the time for gradient descent; the rest is for installing, validating and saving."""


def train(
    input_root: Path, working: Path, run: dict[str, Any], install_seconds: float = 0.0
) -> None:
    """Train the run's preset on the competition's training file, and write the artifact to
    `working/artifact`. Record the peak memory, and whether time ran out, in `working/status.json`.

    If an earlier version of the kernel, mounted as a kernel source, left part of the same run, the
    run resumes from there. If time runs out, `working/artifact.partial` keeps the finished work for
    a later version. If any models are finished by then, it is an artifact of those models.

    Parameters
    ----------
    input_root, working : Path
        `/kaggle/input` and `/kaggle/working`, or the folders that replace them in a dry run.
    run : dict
        The values of `run.toml`; see `KernelRun`.
    install_seconds : float
        The seconds that the kernel has already used.

    Raises
    ------
    InputError
        If a file is missing, or the run's configuration or the rows are invalid.
    RuntimeError
        If the training fails.
    """
    started = time.perf_counter()
    use_nltk_data(input_root)
    wanted = KernelRun.from_dict(run)
    # Look for a GPU first, since checking the backbone takes long: it hashes gigabytes.
    backbone = [f"model.backbone={wanted.backbone}"] if wanted.backbone else []
    unresolved = load_config(wanted.preset, None, [*wanted.settings, *backbone])
    if uses_gpu(unresolved):
        lacking = device.lacking()
        if needs_gpu(unresolved):
            device.require(lacking, f"preset {wanted.preset}")
    config = resolve(wanted, input_root)
    train_csv = find_competition_file(wanted.rules.train, input_root, wanted.competition)
    out = working / "artifact"
    format = wanted.rules.format
    planned = experiment.Run.plan(config, train_csv, out, wanted.folds, format=format)
    resume_earlier_run(planned.identity, input_root, out)
    if not out.is_dir():
        logger.info("training %s on %s", config.preset or config.family, train_csv)
        left = wanted.train_seconds - install_seconds - (time.perf_counter() - started)
        launch.train(planned, left, DESCENT_SHARE * wanted.train_seconds)
    seconds = time.perf_counter() - started
    degraded, score = [], ""
    artifact = Artifact.load(out) if out.is_dir() else gathered(planned)
    if artifact is not None and "log_loss" in (metrics := artifact.metrics):
        score = (
            f"{metrics['held_out']}: {counted(metrics['rows'], 'row')}, log loss "
            f"{metrics['log_loss']:.4f}, the prior's {metrics['prior_log_loss']:.4f}"
        )
        logger.info("%s", score)
    if out.is_dir():
        logger.info("artifact in %s after %.0f s", out, seconds)
    else:
        trained = "no model can predict yet" if artifact is None else artifact.shortfall
        degraded = [f"ran out of time: {trained}"]
        told = f"{trained} ({score})" if score else trained
        logger.error("%s stopped after %.0f s: %s", UNFINISHED, seconds, told)
    path = working / "status.json"
    status = read_json(path) if path.exists() else {}  # the kernel has already written its part
    peak = launch.peak_memory_bytes()
    write_json(path, status | {"degraded": degraded, "peak_memory_bytes": peak})


def gathered(run: experiment.Run) -> Artifact | None:
    """Return an artifact of the models that an unfinished run has trained. Return None if there are
    no such models, or if the artifact cannot be written; this failure is only logged, so that the
    finished work is kept for a later version."""
    try:
        return run.gather()
    except Exception:
        logger.exception("%s: cannot write an artifact of the finished models", run.work)
        return None


def resume_earlier_run(run: dict[str, Any], input_root: Path, out: Path) -> None:
    """Copy the artifact that an earlier version of the kernel left for this run. If it left none,
    copy its unfinished work.

    Parameters
    ----------
    run : dict
        The run's identity; see `humanpref.runs.train.Run.identity`.
    input_root, out : Path
        The folder to search, and the folder of this run's artifact.
    """
    earlier = find(RUN_FILE, input_root)
    for target in (out, partial_of(out)):
        for path in earlier:
            if path.parent.name != target.name:
                continue
            if read_json(path) == run:
                with folder_whole(target) as copy:
                    if target == out:
                        Artifact.load(path.parent).copy(copy)
                    else:
                        shutil.copytree(path.parent, copy, dirs_exist_ok=True)
                logger.info("%s: resumed from an earlier version", path.parent)
                return
            logger.warning(
                "%s: ignored, since its run had a different configuration or rows", path.parent
            )


def resolve(run: KernelRun, input_root: Path) -> Config:
    """Return the run's configuration, completed with the backbone's folder under the input root."""
    overrides = run.settings
    if run.backbone:
        backbone = find_backbone(run.backbone, input_root)
        check_weights(backbone, run.backbone_manifest)
        overrides.append(f"model.backbone={backbone}")
    return load_config(run.preset, None, overrides)
