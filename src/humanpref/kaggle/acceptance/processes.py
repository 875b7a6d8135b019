"""Check the training kernel's launcher on two GPUs: with a fold model on each GPU, and with one
model on both."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pandas import read_csv

from humanpref.config import Config
from humanpref.data import write_pairs
from humanpref.kaggle.acceptance.backbones import save_small
from humanpref.kaggle.acceptance.setting import (
    Row,
    Setting,
    device,
    scratch,
    small,
    some_pairs,
    texts_of,
)
from humanpref.kaggle.runtime import launch
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_tables import OOF_FILE
from humanpref.runs.train import Run, train
from humanpref.schema import LABEL_COLUMNS
from humanpref.training.device import DRY_RUN, PLAYED_GPUS

SECONDS = 90
"""Time limit of each launched training."""
SHARE = 0.05
"""Largest accepted difference from the probabilities of a training in one process, as a share of
their standard deviation over the rows."""


def processes(setting: Setting) -> Iterator[Row]:
    """Train with two processes and with one, on the same rows, and compare the predictions."""
    if device().type == "cuda" and torch.cuda.device_count() < 2:
        yield Row("two processes", "folds, and one model", "there is one GPU", "two", None)
        return
    if device().type == "cpu":
        os.environ.update({DRY_RUN: "1", PLAYED_GPUS: "2", "ACCELERATE_USE_CPU": "true"})
    pairs = some_pairs(40)
    with scratch() as folder:
        backbone = save_small(folder / "random", "encoder", texts_of(pairs), setting.quick)
        write_pairs(folder / "train.csv", pairs)
        for case, folds in (("a fold on each GPU", 2), ("one model on both", None)):
            # Several batches per step, so that two processes have something to share.
            config = small("encoder", backbone, "training.accumulation=4")
            yield _compared(case, config, folder, folds)


def _compared(case: str, config: Config, folder: Path, folds: int | None) -> Row:
    csv, outs = folder / "train.csv", [folder / f"{kind}-{folds}" for kind in ("launched", "alone")]
    launch.train(Run.plan(config, csv, outs[0], folds), SECONDS, SECONDS)
    train(config, csv, outs[1], folds)
    found, expected = (read_csv(out / OOF_FILE)[list(LABEL_COLUMNS)].to_numpy() for out in outs)
    far, spread = float(np.abs(found - expected).max()), float(expected.std(axis=0).max())
    members = Artifact.load(outs[0]).metrics["members"]
    together = {record["training"]["processes"] for record in members.values()}
    number = max(together) if folds is None else len(launch.places(config))
    return Row(
        "two processes",
        case,
        f"{number} processes; held-out Δp {far:.1e} from one process, of a spread of {spread:.1e}",
        f"2 processes, at most {SHARE * spread:.1e}",
        bool(number == 2 and far <= SHARE * spread),
    )
