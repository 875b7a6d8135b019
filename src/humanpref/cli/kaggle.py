"""`humanpref kaggle`: build a bundle, run it here, and exchange it with Kaggle."""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

from humanpref.cli import kaggle_estimate, kaggle_service
from humanpref.cli.shared import (
    add_command,
    add_format,
    add_group,
    add_option,
    add_overrides,
    add_path,
)
from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT
from humanpref.schema import InputError


def add(commands: Any) -> None:
    """Add the group `kaggle` to the parser."""
    group = add_group(commands, "kaggle", "everything related to Kaggle")
    add_dry_run(group)
    kaggle_estimate.add(group)
    kaggle_service.add(group)
    add_bundle(group)
    text = "find the packages that Kaggle's image lacks and lock them with hashes"
    add_image(add_command(group, "lock", lock, text))
    text = "check metadata and bundle against Kaggle's rules"
    command = add_command(group, "check", check, text)
    text = "a bundle (default: the checkout's own three metadata files)"
    add_path(command, "--bundle", "DIR", text)
    text = "provide a backbone's weights to a bundle's kernels"
    command = add_command(group, "weights", weights, text)
    metavar = "FOLDER|HUB_NAME|OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"
    text = "a folder to pack as a dataset, a name on the Hugging Face hub, or a model on Kaggle"
    add_option(command, "source", metavar, text)
    add_path(command, "--bundle", "DIR", "the bundle (default bundle)", default=Path("bundle"))


def add_dry_run(group: Any) -> None:
    """Add the command `dry-run` to the group."""
    text = "run both kernels here as Kaggle would, offline, and check the submission"
    command = add_command(group, "dry-run", dry_run, text)
    add_path(command, "--train", "ROWS", "labeled rows (default: the synthetic arena)")
    text = "rows to predict (default: the synthetic arena's, or part of --train)"
    add_path(command, "--test", "ROWS", text)
    add_format(command)
    add_option(command, "--preset", "NAME", "the preset to train (default tiny)", default="tiny")
    text = "train nothing; rehearse only the inference kernel, with this artifact"
    add_path(command, "--artifact", "A", text, action="append", default=[])
    add_competition(command)
    add_option(
        command, "--rows", "N", "cut or repeat the test rows to N rows, e.g. 25000", type=int
    )
    text = (
        "layout of /kaggle/input (default new); both makes one run for each, in OUT/new and "
        "OUT/legacy"
    )
    layouts = ("new", "legacy", "both")
    command.add_argument("--layout", choices=layouts, default="new", help=text)
    text = "kill a process that uses more memory, as Kaggle does at 30"
    add_option(command, "--memory", "GIB", text, type=float)
    text = (
        "inject a fault: missing-dataset, corrupt-wheel, corrupt-weights, slow, oom, no-labels, "
        "killed-training or killed-inference"
    )
    add_option(command, "--fault", "NAME", text)
    text = "simulate N GPUs with processes on the CPU (default 0: use this machine as it is)"
    add_option(command, "--gpus", "N", text, type=int, default=0)
    add_option(command, "--folds", "K", "train K fold models", type=int)
    text = "print the report as one JSON object, and everything else to standard error"
    command.add_argument("--json", action="store_true", help=text)
    add_overrides(command)
    text = "a folder for the results (default dry-run)"
    add_path(command, "--out", "DIR", text, default=Path("dry-run"))


def add_bundle(group: Any) -> None:
    """Add the command `bundle` to the group."""
    text = "stage the wheel dataset and the kernels for a push"
    command = add_command(group, "bundle", bundle, text)
    add_competition(command)
    text = "the preset to train on Kaggle (default sparse; with --artifact, none)"
    add_option(command, "--preset", "NAME", text)
    add_overrides(command)
    add_option(command, "--folds", "K", "train K fold models on Kaggle", type=int)
    text = "train on all rows, without a held-out score (training.validation_fraction=0)"
    command.add_argument("--all-rows", action="store_true", help=text)
    text = "time limit of the training kernel (default 11.5)"
    add_option(command, "--train-hours", "H", text, type=float)
    text = "time limit of the inference kernel (default 8.5)"
    add_option(command, "--infer-hours", "H", text, type=float)
    text = "predict with this artifact"
    add_path(command, "--artifact", "A", text, action="append", default=[])
    text = (
        "add NLTK's data, from FOLDER or from where NLTK finds it here (default: use the data in "
        "Kaggle's image)"
    )
    add_path(command, "--nltk", "FOLDER", text, nargs="*")
    add_image(command)
    text = "the bundle's folder (default bundle)"
    add_path(command, "--out", "DIR", text, default=Path("bundle"))


def add_competition(command: Any) -> None:
    """Add the option `--competition` to a command."""
    text = f"one of {', '.join(COMPETITIONS)} (default {DEFAULT})"
    add_option(command, "--competition", "SLUG", text, default=DEFAULT)


def add_image(command: Any) -> None:
    """Add the option `--image` to a command."""
    text = "`pip freeze` of Kaggle's image (default wheels/image.txt)"
    add_path(command, "--image", "FREEZE", text)


def dry_run(options: argparse.Namespace) -> int:
    from humanpref.kaggle.rehearsal.dry_run import DryRun, dry_run

    both = options.layout == "both"
    passed, stream = True, sys.stderr if options.json else sys.stdout
    for layout in ("new", "legacy") if both else (options.layout,):
        rehearsal = DryRun(
            train=options.train,
            test=options.test,
            format=options.format,
            preset=options.preset,
            overrides=tuple(options.set),
            out=options.out / layout if both else options.out,
            layout=layout,
            test_rows=options.rows,
            artifacts=tuple(options.artifact),
            fault=options.fault,
            memory=options.memory,
            gpus=options.gpus,
            folds=options.folds,
            competition=options.competition,
        )
        report = dry_run(rehearsal, functools.partial(print, file=stream))
        print(json.dumps(report.to_dict()) if options.json else report.render())
        passed &= report.passed
    return 0 if passed else 1


def bundle(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.assemble import bundle
    from humanpref.kaggle.bundle.checkout import find_project
    from humanpref.kaggle.bundle.verdict import verdict
    from humanpref.kaggle.contract import KernelRun

    preset = options.preset or ("" if options.artifact else "sparse")
    if options.all_rows:
        options.set.append("training.validation_fraction=0")
    training = bool(options.set) or options.folds is not None or options.train_hours is not None
    if training and not preset:
        raise InputError(
            "--set, --folds, --all-rows and --train-hours need training, but --artifact alone "
            "trains nothing; add --preset"
        )
    hours = {"train_seconds": options.train_hours, "inference_seconds": options.infer_hours}
    limits = {name: 3600 * each for name, each in hours.items() if each is not None}
    limits |= {"folds": options.folds, "competition": options.competition}
    run = KernelRun(preset, tuple(options.set), **limits)
    folder = bundle(find_project(), options.out, run, options.artifact, options.nltk, options.image)
    trained = [f"the model trained with preset {preset}"] if preset else []
    models = [*map(str, options.artifact), *trained]
    mean = "the unweighted mean of " if len(models) > 1 else ""
    print(f"bundle: {folder}; predicts with {mean}{', '.join(models)}")
    share = run.config.training.validation_fraction if run.config and run.folds is None else 0
    if share:
        print(f"{share:.0%} of the rows are held out for a score; --all-rows trains on all of them")
    if line := verdict(run):
        print(line)
    return 0


def lock(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.checkout import find_project
    from humanpref.kaggle.bundle.wheels import remake_lock

    locked = remake_lock(find_project(), options.image)
    names = dict.fromkeys(f"{wheel.name} {wheel.version}" for wheel in locked)
    print("\n".join(names) or "nothing to vendor")
    return 0


def check(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.check import check_bundle, check_project
    from humanpref.kaggle.bundle.checkout import find_project

    folder = options.bundle
    findings = check_bundle(folder) if folder else check_project(find_project())
    for finding in findings:
        print(finding)
    errors = sum(finding.level == "error" for finding in findings)
    print(f"{errors} errors, {len(findings) - errors} warnings")
    return 1 if errors else 0


def weights(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.assemble import name_weights
    from humanpref.kaggle.bundle.sources import is_source

    if is_source("model", options.source):
        name_weights(options.source, options.bundle)
        print(f"{options.bundle}: both kernels mount {options.source}")
    else:
        from humanpref.kaggle.bundle.weights import pack_weights

        print(f"weights: {pack_weights(options.source, options.bundle)}")
    return 0
