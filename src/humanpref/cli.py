"""The command line: one parser, one function per command, no logic.

Exit codes: 0 done; 1 a dry run that failed its check, or a defect of ours (with its traceback); 2
input that cannot be used, said in one line on standard error.
"""

import argparse
import functools
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from humanpref import __version__
from humanpref.config import load_config, preset_names
from humanpref.config.cpu import Mean
from humanpref.schema import InputError
from humanpref.training import device


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that is not UTF-8, a file name that is not: an odd letter on it is better
            # than a traceback.
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(message)s",
        stream=sys.stderr,
    )
    # transformers' own remarks (weights that a task head does not use, and the like) are checked by
    # us, strictly.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = options.run(options)
        device.leave_group()
        return code
    except InputError as error:
        if options.traceback:
            raise
        print(f"humanpref: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has gone (`humanpref presets | head`); nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if options.traceback or error.filename is None:
            raise
        print(f"humanpref: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("humanpref: interrupted", file=sys.stderr)
        return 130


def sample(options: argparse.Namespace) -> int:
    from humanpref.arena import bayes_log_loss, write_arena

    arena = write_arena(options.out, options.rows, options.seed)
    print(f"{options.out}: {len(arena.train)} training and {len(arena.test)} test rows")
    print(f"best reachable log loss: {bayes_log_loss(arena.truth):.4f}")
    return 0


def eda(options: argparse.Namespace) -> int:
    from humanpref.reports.eda import explore
    from humanpref.reports.page import PAGE_FILE

    summary = explore(options.data, options.out, options.tokenizer)
    print(f"{options.out / PAGE_FILE}: {summary['rows']} rows, {summary['prompts']} prompts")
    if summary["rows_left_out"]:
        print(f"rows left out: {summary['rows_left_out']}; tables/faults.csv says why")
    for reason in summary["left_out"]:
        print(f"left out: {reason}")
    return 0


def train(options: argparse.Namespace) -> int:
    from humanpref.config.gpu import needs_gpu
    from humanpref.data import Extra
    from humanpref.files import is_main_process
    from humanpref.runs.distillation import Teacher
    from humanpref.runs.train import train

    config = load_config(options.preset, options.config, options.set)
    if needs_gpu(config) and is_main_process():
        device.require(
            device.lacking(),
            f"preset {config.preset}" if config.preset else f"family {config.family}",
        )
    artifact = train(
        config,
        options.train,
        options.out,
        options.folds,
        extra=[Extra(*_file_and_number(text)) for text in options.extra],
        exclude_prompts=options.exclude_prompts,
        teacher=None if options.teacher is None else Teacher(*_file_and_number(options.teacher)),
    )
    if artifact is None:
        return 0
    metrics = artifact.metrics
    if "log_loss" in metrics:
        print(_figures(metrics["held_out"], metrics))
    for name, member in metrics["members"].items():
        if stopped := member.get("training", {}).get("stopped"):
            print(f"{name}: training stopped {stopped}")
        for left_out in member.get("blend", {}).get("left_out", []):
            print(
                f"{name}: blended without {left_out}, which needs a model folder "
                "(model.backbone=FOLDER)"
            )
    print(f"artifact: {artifact.folder}")
    return 0


def predict(options: argparse.Namespace) -> int:
    from humanpref.data import read_pairs, write_submission
    from humanpref.files import check_writable, is_main_process
    from humanpref.runs.artifact import Artifact
    from humanpref.runs.distillation import write_soft_labels
    from humanpref.runs.train import predict

    if options.weight is not None and not options.labels:
        raise InputError("--weight: goes with --labels")
    if options.seconds is not None and options.labels:
        raise InputError("--seconds: does not go with --labels, which would learn the fallback")
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise InputError(f"--seconds: expected a number above 0, got {options.seconds:g}")
    check_writable(options.out, inputs=[options.test, *options.artifact])
    artifacts = [Artifact.load(folder) for folder in options.artifact]
    pairs = read_pairs(
        options.test, labels=False, weights=options.labels and options.weight is None
    )
    degraded: list[str] = []
    if options.labels:
        write_soft_labels(options.out, artifacts, pairs, options.weight)
    else:
        probabilities, degraded = predict(artifacts, pairs, options.seconds)
        if is_main_process():
            write_submission(options.out, pairs["id"].tolist(), probabilities)
    if is_main_process():
        print("\ndegraded: ".join([f"{options.out}: {len(pairs)} rows", *degraded]))
    return 0


def score(options: argparse.Namespace) -> int:
    from humanpref.files import check_writable, is_main_process
    from humanpref.interfaces.score import score
    from humanpref.runs.artifact import Artifact

    check_writable(options.out, inputs=[options.source, options.artifact])
    count = score(Artifact.load(options.artifact), options.source, options.out)
    if is_main_process():
        print(f"{options.out}: {count} lines")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from humanpref.files import check_new, check_writable, write_json
    from humanpref.reports.evaluate import evaluate_artifacts, write_evaluation
    from humanpref.reports.page import PAGE_FILE
    from humanpref.runs.artifact import Artifact
    from humanpref.runs.train import rows_to_judge

    if options.json is not None:
        check_writable(options.json, inputs=[options.data, *options.artifact])
    if options.html is not None:
        check_new(options.html, inputs=options.artifact)
        if options.json is not None and options.html.resolve().is_relative_to(
            options.json.resolve()
        ):
            raise InputError(f"--html {options.html}: is also --json, or lies in it")
    artifacts = [Artifact.load(folder) for folder in options.artifact]
    pairs, trained_on = rows_to_judge(artifacts, options.data)
    metrics, tables = evaluate_artifacts(
        artifacts, pairs, options.language_model, options.sentence_encoder
    )
    for of, rows in zip(metrics["artifacts"].values(), trained_on, strict=True):
        of["rows_trained_on"] = rows
    if options.json is not None:
        # The metrics of a single artifact stand alone.
        alone = len(artifacts) == 1
        write_json(options.json, next(iter(metrics["artifacts"].values())) if alone else metrics)
    for name, of in metrics["artifacts"].items():
        print(_figures(str(options.data) if len(artifacts) == 1 else name, of))
    for found in metrics["differences"]:
        interval = f"[{found['low']:+.4f}, {found['high']:+.4f}]"
        print(f"{found['artifact']} against {found['to']}: {found['log_loss']:+.4f} {interval}")
    if options.html is not None:
        write_evaluation(options.html, f"Judged on {options.data.name}", metrics, tables)
        print(f"page: {options.html / PAGE_FILE}")
    return 0


def blend(options: argparse.Namespace) -> int:
    from humanpref.runs.blending import blend, render

    artifact = blend(options.artifact, options.out, options.mean)
    print(render(artifact.metrics), end="")
    print(f"artifact: {artifact.folder}")
    return 0


def compare(options: argparse.Namespace) -> int:
    from humanpref.studies.compare import Contender, compare, markdown

    backbones = dict(_key_value(text, "--backbone") for text in options.backbone)
    contenders = []
    for preset in options.presets.split(","):
        backbone = [f"model.backbone={backbones.pop(preset)}"] if preset in backbones else []
        for peft in options.peft.split(",") if options.peft else [None]:
            name, method = (
                (preset, []) if peft is None else (f"{preset}-{peft}", [f"model.peft={peft}"])
            )
            contenders.append(Contender(name, preset, (*options.set, *backbone, *method)))
    if backbones:
        raise InputError(
            f"--backbone: {', '.join(backbones)} is not among --presets {options.presets}"
        )
    print(markdown(compare(contenders, options.train, options.out, options.folds)), end="")
    return 0


def ablate_softmax(options: argparse.Namespace) -> int:
    from humanpref.studies.ablations import ablate_softmax
    from humanpref.studies.compare import markdown

    table = ablate_softmax(
        options.preset, tuple(options.set), options.train, options.out, options.folds
    )
    print(markdown(table), end="")
    return 0


def ablate_preprocessing(options: argparse.Namespace) -> int:
    from humanpref.studies.ablations import ablate_preprocessing
    from humanpref.studies.compare import markdown

    table = ablate_preprocessing(
        options.preset, tuple(options.set), options.train, options.out, options.folds
    )
    print(markdown(table), end="")
    return 0


def ablate_system_prompt(options: argparse.Namespace) -> int:
    from humanpref.studies.ablations import ablate_system_prompt
    from humanpref.studies.compare import markdown

    table = ablate_system_prompt(
        options.preset, tuple(options.set), options.train, options.out, options.folds
    )
    print(markdown(table), end="")
    return 0


def _key_value(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{option} {text!r}: expected NAME=VALUE")
    return key, value


def _file_and_number(text: str) -> tuple[Path, float]:
    """FILE or FILE=NUMBER, the number 1 where there is none; a file's own name may hold a "="."""
    if os.path.exists(text):
        return Path(text), 1.0
    file, _, number = text.rpartition("=")
    try:
        return (Path(file), float(number)) if file else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0


def runs(options: argparse.Namespace) -> int:
    from humanpref.files import check_writable, write_whole
    from humanpref.studies.compare import markdown
    from humanpref.studies.listing import differences, runs

    if options.csv is not None:
        check_writable(options.csv)
    table = runs(options.folder, options.sort)
    if options.csv is not None:
        with write_whole(options.csv) as file:
            table.to_csv(file, index=False, lineterminator="\n")
    print(markdown(table), end="")
    for difference in differences(table):
        print(difference)
    return 0


def selection(options: argparse.Namespace) -> int:
    from humanpref.files import check_writable
    from humanpref.reports.charts import FIGURE_SUFFIXES, selection_figure
    from humanpref.runs.artifact import Artifact
    from humanpref.runs.train import selection_path
    from humanpref.studies.compare import markdown

    if options.figure is not None:
        if options.figure.suffix.lower() not in FIGURE_SUFFIXES:
            raise InputError(
                f"--figure {options.figure}: expected a name that ends in "
                f"{', '.join(FIGURE_SUFFIXES)}"
            )
        check_writable(options.figure, inputs=[options.artifact])
    path = selection_path(Artifact.load(options.artifact))
    if options.figure is not None:
        selection_figure(path, options.figure, f"{options.artifact}: wrapper selection")
    print(markdown(path), end="")
    return 0


def presets(options: argparse.Namespace) -> int:
    if options.name is not None:
        from humanpref.config.describe import options_of

        for option in options_of(load_config(options.name)):
            value = "none" if option.value is None else option.value
            print(f"{option.key} = {value}  ({option.kind})\n    {option.text}")
        return 0
    for name in preset_names():
        config = load_config(name)
        print(json.dumps(config.to_dict()) if options.json else f"{name:20} {config.family}")
    return 0


def kaggle_dry_run(options: argparse.Namespace) -> int:
    from humanpref.kaggle.rehearsal.dry_run import dry_run

    both = options.layout == "both"
    passed = True
    for layout in ("new", "legacy") if both else (options.layout,):
        report = dry_run(
            train=options.train,
            test=options.test,
            preset=options.preset,
            overrides=tuple(options.set),
            out=options.out / layout if both else options.out,
            layout=layout,
            test_rows=options.rows,
            artifacts=options.artifact,
            fault=options.fault,
            memory=options.memory,
            echo=functools.partial(print, file=sys.stderr if options.json else sys.stdout),
        )
        print(json.dumps(report.to_dict()) if options.json else report.render())
        passed &= report.passed
    return 0 if passed else 1


def kaggle_data(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.fetch import fetch_data

    print(f"{options.out}: {', '.join(fetch_data(Client(), options.competition, options.out))}")
    return 0


def kaggle_push(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.assemble import KERNELS
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.push import push
    from humanpref.kaggle.service.records import Records

    kernels = [name for name in KERNELS if getattr(options, name)]
    everything = not (options.dataset or kernels)
    records = Records(Path.cwd())
    push(
        Client(),
        records,
        options.bundle,
        options.user,
        datasets=options.dataset or everything,
        kernels=None if everything else kernels,
    )
    for entry in map(records.__getitem__, records.latest()):
        print(f"{entry['ref']}: version {entry.get('version', '-')}, {entry['state']}")
    return 0


def kaggle_wait(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.push import wait
    from humanpref.kaggle.service.records import Records

    for line in wait(Client(), Records(Path.cwd()), options.anyway):
        print(line)
    return 0


def kaggle_output(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.fetch import fetch_output
    from humanpref.kaggle.service.records import Records

    names = fetch_output(
        Client(), Records(Path.cwd()), "train" if options.train else "infer", options.out
    )
    print(f"{options.out}: {', '.join(names)}")
    return 0


def kaggle_submit(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.records import Records
    from humanpref.kaggle.service.submit import submit

    submission = submit(
        Client(), Records(Path.cwd()), options.competition, options.message, options.anyway
    )
    print(f"submission {submission.ref}: public score {submission.public_score or 'not told'}")
    return 0


def kaggle_status(options: argparse.Namespace) -> int:
    from humanpref.kaggle.service.client import Client
    from humanpref.kaggle.service.records import Records
    from humanpref.kaggle.service.submit import status

    for line in status(Client(), Records(Path.cwd()), options.competition):
        print(line)
    return 0


def kaggle_bundle(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.assemble import bundle
    from humanpref.kaggle.bundle.stage import find_project
    from humanpref.kaggle.runtime.kernels import Run

    limits = {
        f"{name}_seconds": hours * 3600
        for name, hours in (("train", options.train_hours), ("inference", options.infer_hours))
        if hours is not None
    }
    preset = options.preset or ("" if options.artifact else "sparse")
    if not preset and (options.set or options.folds is not None or options.train_hours is not None):
        raise InputError(
            "--set, --folds and --train-hours are for training: beside --artifact, --preset asks "
            "for it"
        )
    run = Run(preset, tuple(options.set), folds=options.folds, **limits)
    folder = bundle(find_project(), options.out, run, options.artifact, options.nltk, options.image)
    models = [*map(str, options.artifact), *([f"what preset {preset} trains"] if preset else [])]
    print(
        f"bundle: {folder}, to predict with "
        f"{'the equal mean of ' * (len(models) > 1)}{', '.join(models)}"
    )
    return 0


def kaggle_lock(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.assemble import lock
    from humanpref.kaggle.bundle.stage import find_project

    locked = lock(find_project(), options.image)
    print(
        "\n".join(f"{name} {entry.version}" for name, entry in locked.items())
        or "nothing to vendor"
    )
    return 0


def kaggle_check(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.check import check_bundle, check_project
    from humanpref.kaggle.bundle.stage import find_project

    findings = (
        check_project(find_project()) if options.bundle is None else check_bundle(options.bundle)
    )
    for finding in findings:
        print(finding)
    errors = sum(finding.level == "error" for finding in findings)
    print(f"{errors} errors, {len(findings) - errors} warnings")
    return 1 if errors else 0


def kaggle_weights(options: argparse.Namespace) -> int:
    from humanpref.kaggle.bundle.assemble import is_model_source, name_weights

    if is_model_source(options.source):
        name_weights(options.source, options.bundle)
        print(f"{options.bundle}: both kernels mount {options.source}")
    else:
        from humanpref.kaggle.bundle.weights import pack_weights

        print(f"weights: {pack_weights(options.source, options.bundle)}")
    return 0


def _figures(title: str, figures: dict) -> str:
    return (
        f"{title}: {figures['rows']} rows, log loss {figures['log_loss']:.4f} "
        f"[{figures['log_loss_low']:.4f}, {figures['log_loss_high']:.4f}], accuracy "
        f"{figures['accuracy']:.3f}, "
        f"the prior's log loss {figures['prior_log_loss']:.4f}"
        + (
            f"; flattering: trained on {learned} of these rows"
            if (learned := figures.get("rows_trained_on"))
            else ""
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="humanpref",
        description=(
            "Predict which of two language-model answers a human prefers: P(A), P(B), P(tie)."
        ),
    )
    parser.add_argument("--version", action="version", version=f"humanpref {__version__}")
    parser.add_argument("--quiet", action="store_true", help="no progress messages")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an input error was found"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = _command(
        commands, "sample", sample, "write a synthetic arena whose true probabilities are known"
    )
    command.add_argument(
        "--rows",
        type=int,
        default=1_000,
        metavar="N",
        help="training rows; a fifth as many test rows (default 1000)",
    )
    command.add_argument(
        "--seed",
        type=int,
        default=42,
        metavar="S",
        help="the same seed, the same files (default 42)",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the files"
    )

    command = _command(commands, "eda", eda, "look at a CSV: one HTML page, its figures and tables")
    command.add_argument(
        "data",
        type=Path,
        metavar="CSV",
        help="rows in the competition's schema, with labels or without",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a new folder for page, figures, tables",
    )
    command.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="count the rows that are cut at 512, 1024 and 2048 of its tokens",
    )

    command = _command(
        commands, "train", train, "train a model on a labelled CSV and write an artifact"
    )
    _configuration(command)
    command.add_argument(
        "--train",
        type=Path,
        required=True,
        metavar="CSV",
        help="rows in the competition's schema, with labels",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="ARTIFACT", help="a new folder for the artifact"
    )
    command.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="train K models on grouped folds and keep out-of-fold predictions",
    )
    command.add_argument(
        "--extra",
        nargs="+",
        action="extend",
        default=[],
        metavar="CSV[=WEIGHT]",
        help="more labelled rows, never held out; each of the weight (default 1)",
    )
    command.add_argument(
        "--exclude-prompts",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="CSV",
        help="leave out every row whose prompt occurs in these files",
    )
    command.add_argument(
        "--teacher",
        metavar="CSV|ARTIFACT[=SHARE]",
        help=(
            "learn its probabilities in place of the labels, or SHARE of them mixed with the labels"
        ),
    )

    command = _command(
        commands,
        "predict",
        predict,
        "write a submission; several artifacts: the mean of their probabilities",
    )
    command.add_argument("artifact", type=Path, nargs="+", metavar="ARTIFACT")
    command.add_argument(
        "--test", type=Path, required=True, metavar="CSV", help="rows in the competition's schema"
    )
    command.add_argument("--out", type=Path, required=True, metavar="CSV", help="the submission")
    command.add_argument(
        "--labels",
        action="store_true",
        help="write whole rows with the probabilities as soft labels, for train to read",
    )
    command.add_argument(
        "--weight",
        type=float,
        metavar="W",
        help="with --labels: write this weight in place of the rows' own",
    )
    command.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="be done within so long, and say what was given up for it",
    )

    command = _command(
        commands,
        "score",
        score,
        "add probabilities and a margin to JSON lines of pairs, or a reward to single responses",
    )
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument(
        "--in",
        dest="source",
        type=Path,
        required=True,
        metavar="JSONL",
        help=(
            "lines with prompt, response_a and response_b, or prompt and response; all texts, or "
            "all lists of turns"
        ),
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="JSONL", help="the same lines with their scores"
    )

    command = _command(
        commands,
        "blend",
        blend,
        "blend artifacts of the same rows by their out-of-fold predictions into one artifact",
    )
    command.add_argument("artifact", type=Path, nargs="+", metavar="ARTIFACT")
    command.add_argument(
        "--out", type=Path, required=True, metavar="ARTIFACT", help="a new folder for the blend"
    )
    command.add_argument(
        "--mean",
        choices=get_args(Mean),
        default="arithmetic",
        help="of the members' probabilities (default arithmetic)",
    )

    command = _command(
        commands, "evaluate", evaluate, "judge artifacts on labelled rows; several: side by side"
    )
    command.add_argument("artifact", type=Path, nargs="+", metavar="ARTIFACT")
    command.add_argument("--data", type=Path, required=True, metavar="CSV", help="rows with labels")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    command.add_argument(
        "--html", type=Path, metavar="DIR", help="a new folder for a page, its figures and tables"
    )
    command.add_argument(
        "--language-model",
        type=Path,
        metavar="FOLDER",
        help="measure fluency by its perplexity, not by a proxy",
    )
    command.add_argument(
        "--sentence-encoder",
        type=Path,
        metavar="FOLDER",
        help="measure relevance by its embeddings, not by a proxy",
    )

    command = _command(
        commands,
        "compare",
        compare,
        "train several presets on the same rows and folds; one table, one figure",
    )
    command.add_argument(
        "--presets", required=True, metavar="A,B,…", help="see `humanpref presets`"
    )
    command.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="PRESET=FOLDER",
        help="the weights of a preset",
    )
    command.add_argument(
        "--peft",
        metavar="A,B,…",
        help="each preset with each of these: lora,dora,ia3,layernorm,head …",
    )
    _study(command)

    ablate = commands.add_parser(
        "ablate", help="the report's ablations", description="The report's ablations."
    )
    ablations = ablate.add_subparsers(dest="ablation", required=True, metavar="NAME")
    command = _command(
        ablations,
        "softmax",
        ablate_softmax,
        "a softmax or log-softmax before the loss, none at inference",
    )
    command.add_argument(
        "--preset", default="tiny", metavar="NAME", help="the recipe (default tiny)"
    )
    _study(command)

    command = _command(
        ablations,
        "preprocessing",
        ablate_preprocessing,
        "the report's NLTK preprocessing, and its mistake, before TF-IDF",
    )
    command.add_argument(
        "--preset", default="sparse", metavar="NAME", help="the recipe (default sparse)"
    )
    _study(command)

    command = _command(
        ablations,
        "system-prompt",
        ablate_system_prompt,
        "a decoder without and with instructions before the conversation",
    )
    command.add_argument(
        "--preset",
        default="llama-3.2-1b-lora",
        metavar="NAME",
        help="the recipe (default llama-3.2-1b-lora)",
    )
    _study(command)

    command = _command(
        commands, "selection", selection, "how a boosted model chose its columns, step by step"
    )
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--figure", type=Path, metavar="PNG", help="draw it there, too")

    command = _command(
        commands,
        "runs",
        runs,
        "list the artifacts under a folder, and whether they may be compared",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="searched through all its levels")
    command.add_argument("--sort", default="log_loss", metavar="COLUMN", help="default log_loss")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")

    command = _command(commands, "presets", presets, "list the presets, or one preset's options")
    command.add_argument(
        "name", nargs="?", metavar="NAME", help="show its options: value, type, what each does"
    )
    command.add_argument(
        "--json", action="store_true", help="each with all its options, one JSON object a line"
    )

    kaggle = commands.add_parser(
        "kaggle",
        help="everything that concerns Kaggle",
        description="Everything that concerns Kaggle.",
    )
    kaggle_commands = kaggle.add_subparsers(dest="kaggle_command", required=True, metavar="COMMAND")
    command = _command(
        kaggle_commands,
        "dry-run",
        kaggle_dry_run,
        "run both kernels here as Kaggle would, offline, and check the submission",
    )
    command.add_argument(
        "--train", type=Path, metavar="CSV", help="labelled rows (default: the synthetic arena)"
    )
    command.add_argument(
        "--test",
        type=Path,
        metavar="CSV",
        help="rows to predict (default: the synthetic arena's, or a part of --train)",
    )
    command.add_argument(
        "--preset", default="tiny", metavar="NAME", help="what to train (default tiny)"
    )
    command.add_argument(
        "--artifact",
        type=Path,
        action="append",
        default=[],
        metavar="A",
        help="train nothing: rehearse the inference kernel alone, with this artifact",
    )
    command.add_argument(
        "--rows", type=int, metavar="N", help="repeat the test rows until there are N, e.g. 25000"
    )
    command.add_argument(
        "--layout",
        choices=("new", "legacy", "both"),
        default="new",
        help=(
            "how Kaggle lays out /kaggle/input (default new); both: one run for each, into OUT/new "
            "and OUT/legacy"
        ),
    )
    command.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="kill a process that holds more, as Kaggle at 30",
    )
    command.add_argument(
        "--fault",
        metavar="NAME",
        help=(
            "let something go wrong: missing-dataset, corrupt-wheel, corrupt-weights, slow, oom or "
            "no-labels"
        ),
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="the report as one JSON object; all else on standard error",
    )
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override one option, e.g. training.epochs=1",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("dry-run"),
        metavar="DIR",
        help="where the results go (default dry-run)",
    )
    _kaggle_client(kaggle_commands)

    command = _command(
        kaggle_commands,
        "bundle",
        kaggle_bundle,
        "stage the wheel dataset and both kernels for a push",
    )
    command.add_argument(
        "--preset",
        metavar="NAME",
        help="what to train there (default sparse; with --artifact: nothing)",
    )
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override one option, e.g. training.epochs=1",
    )
    command.add_argument("--folds", type=int, metavar="K", help="train K fold models there")
    command.add_argument(
        "--train-hours",
        type=float,
        metavar="H",
        help="what the training kernel may take (default 11.5)",
    )
    command.add_argument(
        "--infer-hours",
        type=float,
        metavar="H",
        help="what the inference kernel may take (default 8.5)",
    )
    command.add_argument(
        "--artifact",
        type=Path,
        action="append",
        default=[],
        metavar="A",
        help="predict with this artifact (several: their mean)",
    )
    command.add_argument(
        "--nltk",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help=(
            "bring NLTK's data (from FOLDER, or where NLTK finds it here); Kaggle's image has its "
            "own"
        ),
    )
    command.add_argument(
        "--image",
        type=Path,
        metavar="FREEZE",
        help="`pip freeze` of Kaggle's image (default wheels/image.txt)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("bundle"),
        metavar="DIR",
        help="the bundle's folder (default bundle)",
    )

    command = _command(
        kaggle_commands,
        "lock",
        kaggle_lock,
        "find what Kaggle's image lacks and lock it with hashes",
    )
    command.add_argument(
        "--image",
        type=Path,
        metavar="FREEZE",
        help="`pip freeze` of Kaggle's image (default wheels/image.txt)",
    )

    command = _command(
        kaggle_commands, "check", kaggle_check, "check metadata and bundle by Kaggle's rules"
    )
    command.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="a bundle (default: the checkout's own three metadata files)",
    )

    command = _command(
        kaggle_commands,
        "weights",
        kaggle_weights,
        "let a bundle's kernels have a backbone's weights",
    )
    command.add_argument(
        "source",
        metavar="FOLDER|HUB_NAME|OWNER/MODEL/FRAMEWORK/VARIATION/VERSION",
        help=(
            "a folder to pack as a dataset, a name on the Hugging Face hub, or a model that Kaggle "
            "has"
        ),
    )
    command.add_argument(
        "--bundle", type=Path, default=Path("bundle"), metavar="DIR", help="default bundle"
    )
    return parser


def _kaggle_client(commands) -> None:
    """The commands that talk to Kaggle."""
    competition = argparse.ArgumentParser(add_help=False)
    competition.add_argument(
        "--competition",
        default="llm-classification-finetuning",
        metavar="SLUG",
        help="default %(default)s",
    )
    command = _command(
        commands, "data", kaggle_data, "fetch the competition's files", parents=[competition]
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="a new folder for them (default data)",
    )

    command = _command(
        commands,
        "push",
        kaggle_push,
        "push a bundle: what is named, or all; only what is not there yet is sent",
    )
    command.add_argument("--user", required=True, metavar="NAME", help="your Kaggle user name")
    command.add_argument(
        "--bundle", type=Path, default=Path("bundle"), metavar="DIR", help="default bundle"
    )
    command.add_argument(
        "--dataset", action="store_true", help="the wheel dataset, and packed weights"
    )
    command.add_argument(
        "--train", action="store_true", help="the training kernel, which starts its run"
    )
    command.add_argument(
        "--infer",
        action="store_true",
        help="the inference kernel, once the training kernel that it mounts has run",
    )

    anyway = argparse.ArgumentParser(add_help=False)
    anyway.add_argument(
        "--anyway", action="store_true", help="take a result that is not whole, too"
    )
    _command(
        commands,
        "wait",
        kaggle_wait,
        "wait until what was pushed from here is ready and has run",
        parents=[anyway],
    )

    command = _command(
        commands,
        "output",
        kaggle_output,
        "fetch what the pushed kernel's run left: the inference kernel's, or --train",
    )
    command.add_argument("--train", action="store_true", help="of the training kernel")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("output"),
        metavar="DIR",
        help="a new folder for it (default output)",
    )

    command = _command(
        commands,
        "submit",
        kaggle_submit,
        "submit the pushed version of the inference kernel, once, and wait for its score",
        parents=[competition, anyway],
    )
    command.add_argument(
        "--message", required=True, metavar="TEXT", help="for the list of submissions"
    )

    _command(
        commands,
        "status",
        kaggle_status,
        "where everything pushed from here stands; submissions and GPU hours left",
        parents=[competition],
    )


def _command(commands, name: str, run, text: str, **options) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", **options
    )
    command.set_defaults(run=run)
    return command


def _study(command: argparse.ArgumentParser) -> None:
    command.add_argument("--train", type=Path, required=True, metavar="CSV", help="labelled rows")
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder for artifacts, table and figure",
    )
    command.add_argument(
        "--folds", type=int, metavar="K", help="grouped folds (default: one held-out fifth)"
    )
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override one option in every run",
    )


def _configuration(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", metavar="NAME", help="see `humanpref presets`")
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML with the same keys, over the preset"
    )
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override one option, e.g. training.epochs=3",
    )


if __name__ == "__main__":
    sys.exit(main())
