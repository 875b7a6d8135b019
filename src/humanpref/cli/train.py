"""`humanpref train`: train a model on labeled rows and write an artifact."""

import argparse
import os
from pathlib import Path
from typing import Any

from humanpref.cli.shared import (
    add_command,
    add_format,
    add_option,
    add_overrides,
    add_path,
    format_and_rows,
    metrics_line,
    unlabeled_rows,
)
from humanpref.schema import InputError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(commands, "train", run, "train a model on labeled rows")
    add_option(command, "--preset", "NAME", "a name listed by `humanpref presets`")
    add_path(command, "--config", "FILE", "a TOML file whose options override those of the preset")
    add_overrides(command)
    add_path(command, "--train", "ROWS", "labeled rows, a file or a folder", required=True)
    add_format(command, "the format of --train (default: detected)")
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
        "[FORMAT:]ROWS[=WEIGHT]",
        "additional labeled rows, never held out, in this format (default: detected) and with this "
        "weight (default 1)",
        **several,
    )
    add_option(
        command,
        "--exclude-prompts",
        "[FORMAT:]ROWS",
        "leave out every row whose prompt occurs in these files",
        **several,
    )
    add_option(
        command,
        "--teacher",
        "CSV|ARTIFACT[=SHARE]",
        "learn these teachers' probabilities; SHARE is a teacher's part of the targets, at most 1; "
        "teachers without a SHARE divide the rest equally; if all have one, the labels keep the "
        "rest",
        **several,
    )
    add_option(
        command,
        "--teacher-temperature",
        "T",
        "soften the teachers' probabilities if above 1, sharpen them if below (default 1)",
        type=float,
        default=1.0,
    )
    add_path(
        command,
        "--from",
        "ARTIFACT",
        "start from the weights of another run of the same family and shapes",
        dest="earlier",
    )
    command.add_argument(
        "--drop-learned",
        action="store_true",
        help="leave out the rows whose prompts the --from run was trained on",
    )


def run(options: argparse.Namespace) -> int:
    from humanpref.config import load_config
    from humanpref.data import Extra
    from humanpref.runs.distillation import Teacher
    from humanpref.runs.results import notices
    from humanpref.runs.stages import Earlier
    from humanpref.runs.train import train
    from humanpref.training import device

    if options.drop_learned and options.earlier is None:
        raise InputError("--drop-learned: needs --from")
    config = load_config(options.preset, options.config, options.set)
    device.require_for(config)
    artifact = train(
        config,
        options.train,
        options.out,
        options.folds,
        extra=[
            Extra(*file_and_number(rows), format)
            for format, rows in map(format_and_rows, options.extra)
        ],
        exclude_prompts=[*map(unlabeled_rows, options.exclude_prompts)],
        teachers=[
            Teacher(*file_and_number(text, None), options.teacher_temperature)
            for text in options.teacher
        ],
        earlier=options.earlier and Earlier(options.earlier, options.drop_learned),
        format=options.format,
    )
    if artifact is not None:
        metrics = artifact.metrics
        if "log_loss" in metrics:
            print(metrics_line(metrics["held_out"], metrics))
        print("\n".join([*notices(metrics), f"artifact: {artifact.folder}"]))
    return 0


def file_and_number(text: str, default: float | None = 1.0) -> tuple[Path, float | None]:
    """Split FILE[=NUMBER] into its two parts, unless a file with the entire name exists."""
    file, _, number = text.rpartition("=")
    if file and not os.path.exists(text):
        try:
            return Path(file), float(number)
        except ValueError:
            pass
    return Path(text), default
