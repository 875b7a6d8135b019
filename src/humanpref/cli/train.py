"""`humanpref train`: train a model on labeled rows and write an artifact."""

import argparse
import os
from pathlib import Path
from typing import Any

from humanpref.cli.shared import add_command, add_option, add_overrides, add_path, metrics_line


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "train", run, "train a model on a labeled CSV and write an artifact"
    )
    add_option(command, "--preset", "NAME", "see `humanpref presets`")
    add_path(command, "--config", "FILE", "TOML with the same keys, which overrides the preset")
    add_overrides(command)
    add_path(
        command, "--train", "CSV", "rows in the competition's schema, with labels", required=True
    )
    add_path(command, "--out", "ARTIFACT", "a new folder for the artifact", required=True)
    add_option(
        command,
        "--folds",
        "K",
        "train K models on grouped folds and keep out-of-fold predictions",
        type=int,
    )
    several = {"nargs": "+", "action": "extend", "default": []}
    add_option(
        command,
        "--extra",
        "CSV[=WEIGHT]",
        "additional labeled rows, never held out, with this weight (default 1)",
        **several,
    )
    add_path(
        command,
        "--exclude-prompts",
        "CSV",
        "leave out every row whose prompt occurs in these files",
        **several,
    )
    add_option(
        command,
        "--teacher",
        "CSV|ARTIFACT[=SHARE]",
        "learn a teacher's probabilities instead of the labels, or mix them in with weight SHARE",
    )


def run(options: argparse.Namespace) -> int:
    from humanpref.config import load_config
    from humanpref.data import Extra
    from humanpref.runs.distillation import Teacher
    from humanpref.runs.results import notices
    from humanpref.runs.train import train
    from humanpref.training import device

    config = load_config(options.preset, options.config, options.set)
    device.require_for(config)
    artifact = train(
        config,
        options.train,
        options.out,
        options.folds,
        extra=[Extra(*file_and_number(text)) for text in options.extra],
        exclude_prompts=options.exclude_prompts,
        teacher=None if options.teacher is None else Teacher(*file_and_number(options.teacher)),
    )
    if artifact is not None:
        metrics = artifact.metrics
        if "log_loss" in metrics:
            print(metrics_line(metrics["held_out"], metrics))
        print("\n".join([*notices(metrics), f"artifact: {artifact.folder}"]))
    return 0


def file_and_number(text: str) -> tuple[Path, float]:
    """Split FILE=NUMBER; the number defaults to 1. The name of an existing file may contain "="."""
    file, _, number = text.rpartition("=")
    if file and not os.path.exists(text):
        try:
            return Path(file), float(number)
        except ValueError:
            pass
    return Path(text), 1.0
