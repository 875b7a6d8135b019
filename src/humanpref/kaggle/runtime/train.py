"""What the training kernel calls once humanpref is installed: train into an artifact."""

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from humanpref.config import Config, load_config
from humanpref.config.gpu import needs_gpu, uses_gpu
from humanpref.config.neural import LoopOptions
from humanpref.data import read_training_rows
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
from humanpref.training import device

logger = logging.getLogger(__name__)

DESCENT_SHARE = 0.85
"""How much of it gradient descent gets; the rest is for the installation, for validating and for
saving."""


def train(
    input_root: Path, working: Path, run: dict[str, Any], install_seconds: float = 0.0
) -> None:
    """Train what `run` says on the competition's train.csv, into `working/artifact`;
    `working/status.json` has the times.

    What an earlier version of the kernel left of the same run, mounted as a kernel source, is taken
    up. When the time is over, what is done by then stays in `working/artifact.partial`, for a later
    version.

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
    wanted = KernelRun.from_dict(run)
    # Before the backbone's gigabytes are checked.
    backbone = [f"model.backbone={wanted.backbone}"] if wanted.backbone else []
    plain = load_config(wanted.preset, None, [*wanted.overrides, *backbone])
    if uses_gpu(plain):
        lacking = device.lacking()
        if needs_gpu(plain):
            device.require(lacking, f"preset {wanted.preset}")
    config = resolve(wanted, input_root)
    train_csv = find_competition_file("train.csv", input_root)
    out = working / "artifact"
    resume_earlier_run(
        experiment.run_of(config, read_training_rows(train_csv).pairs, wanted.folds),
        input_root,
        out,
    )
    if not out.is_dir():
        logger.info("training %s on %s", config.preset or config.family, train_csv)
        left = wanted.train_seconds - install_seconds - (time.perf_counter() - started)
        launch.train(config, train_csv, out, wanted.folds, left)
    finished = out.is_dir()
    seconds = {"install": install_seconds, "train": time.perf_counter() - started}
    degraded = [] if finished else ["its time was over before there was an artifact"]
    status = {
        "finished": finished,
        "degraded": degraded,
        "seconds": seconds,
        "peak_memory_bytes": launch.peak_memory_bytes(),
    }
    if finished:
        status |= {"artifact": "artifact", "prior": list(Artifact.load(out).prior)}
        logger.info("artifact in %s after %.0f s", out, seconds["train"])
    else:
        logger.error(
            "%s stopped after %.0f s, without an artifact. What was done is in %s: push the kernel "
            "again with this "
            "version's output among its kernel_sources, and it goes on from there",
            UNFINISHED,
            seconds["train"],
            experiment.partial_of(out),
        )
    path = working / "status.json"
    # The kernel wrote its part before.
    write_json(path, (read_json(path) if path.exists() else {}) | status)


def resume_earlier_run(run: dict[str, Any], input_root: Path, out: Path) -> None:
    """Copy what an earlier version of the kernel left of this run: the artifact, or else what there
    is of it.

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
                logger.warning(
                    "%s: left alone, it is of another configuration or of other rows", folder
                )
                continue
            with folder_whole(target) as copy:
                shutil.copytree(folder, copy, dirs_exist_ok=True)
            logger.info("%s: taken up from an earlier version", folder)
            return


def resolve(run: KernelRun, input_root: Path) -> Config:
    """The run's configuration, with the backbone found under the input root, and its share of the
    time for gradient descent."""
    overrides = list(run.overrides)
    if run.backbone:
        backbone = find_backbone(run.backbone, input_root)
        check_weights(backbone, run.backbone_manifest)
        overrides.append(f"model.backbone={backbone}")
    config = load_config(run.preset, None, overrides)
    training = config.training
    if isinstance(training, LoopOptions) and training.seconds is None:
        # The same in every version of the kernel, whatever the installation took: a later one has
        # to know its run again.
        models = (run.folds or 1) * training.seeds
        seconds = DESCENT_SHARE * run.train_seconds / models
        config = replace(config, training=replace(training, seconds=seconds))
    return config
