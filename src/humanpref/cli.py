"""The command line: one parser, one function per command, no logic.

Exit codes: 0 done; 1 a dry run that failed its check, or a defect of ours (with its traceback); 2 input that cannot be used,
said in one line on standard error.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from humanpref import __version__
from humanpref.config import load_config, preset_names
from humanpref.schema import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    # transformers' own remarks (weights that a task head does not use, and the like) are checked by us, strictly.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return options.run(options)
    except InputError as error:
        if options.traceback:
            raise
        print(f"humanpref: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has gone (`humanpref presets | head`); nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("humanpref: interrupted", file=sys.stderr)
        return 130


def sample(options: argparse.Namespace) -> int:
    from humanpref.data.synthetic import bayes_log_loss, write_arena

    arena = write_arena(options.out, options.rows, options.seed)
    print(f"{options.out}: {len(arena.train)} training and {len(arena.test)} test rows")
    print(f"best reachable log loss: {bayes_log_loss(arena.truth):.4f}")
    return 0


def train(options: argparse.Namespace) -> int:
    from humanpref.experiment import train

    config = load_config(options.preset, options.config, options.set)
    artifact = train(config, options.train, options.out, options.folds)
    if artifact is None:
        return 0
    metrics = artifact.metrics
    if "log_loss" in metrics:
        print(_figures(metrics["held_out"], metrics))
    print(f"artifact: {artifact.folder}")
    return 0


def predict(options: argparse.Namespace) -> int:
    from humanpref.artifact import Artifact
    from humanpref.data import read_pairs, write_submission
    from humanpref.experiment import predict
    from humanpref.files import check_writable

    check_writable(options.out, inputs=[options.test])
    artifacts = [Artifact.load(folder) for folder in options.artifact]
    pairs = read_pairs(options.test, labels=False)
    write_submission(options.out, pairs["id"].tolist(), predict(artifacts, pairs))
    print(f"{options.out}: {len(pairs)} rows")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from humanpref.artifact import Artifact
    from humanpref.experiment import evaluate
    from humanpref.files import check_writable, write_json

    if options.json is not None:
        check_writable(options.json, inputs=[options.data])
    figures = evaluate(Artifact.load(options.artifact), options.data)
    if options.json is not None:
        write_json(options.json, figures)
    print(_figures(str(options.data), figures))
    return 0


def compare(options: argparse.Namespace) -> int:
    from humanpref.comparison import Contender, compare, markdown

    backbones = dict(_key_value(text, "--backbone") for text in options.backbone)
    contenders = []
    for preset in options.presets.split(","):
        backbone = [f"model.backbone={backbones.pop(preset)}"] if preset in backbones else []
        contenders.append(Contender(preset, preset, (*options.set, *backbone)))
    if backbones:
        raise InputError(f"--backbone: {', '.join(backbones)} is not among --presets {options.presets}")
    print(markdown(compare(contenders, options.train, options.out, options.folds)), end="")
    return 0


def ablate_softmax(options: argparse.Namespace) -> int:
    from humanpref.ablation import ablate_softmax
    from humanpref.comparison import markdown

    table = ablate_softmax(options.preset, tuple(options.set), options.train, options.out, options.folds)
    print(markdown(table), end="")
    return 0


def _key_value(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{option} {text!r}: expected NAME=VALUE")
    return key, value


def selection(options: argparse.Namespace) -> int:
    from humanpref.artifact import Artifact
    from humanpref.comparison import markdown
    from humanpref.evaluation.figures import selection_figure
    from humanpref.experiment import selection_path
    from humanpref.files import check_writable

    if options.figure is not None:
        check_writable(options.figure)
    path = selection_path(Artifact.load(options.artifact))
    if options.figure is not None:
        selection_figure(path, options.figure, f"{options.artifact}: wrapper selection")
    print(markdown(path), end="")
    return 0


def presets(options: argparse.Namespace) -> int:
    for name in preset_names():
        config = load_config(name)
        print(json.dumps(config.to_dict()) if options.json else f"{name:20} {config.family}")
    return 0


def kaggle_dry_run(options: argparse.Namespace) -> int:
    from humanpref.kaggle.dry_run import dry_run

    report = dry_run(
        train=options.train, test=options.test, preset=options.preset, overrides=tuple(options.set), out=options.out
    )
    print(report.render())
    return 0 if report.passed else 1


def _figures(title: str, figures: dict) -> str:
    return (
        f"{title}: {figures['rows']} rows, log loss {figures['log_loss']:.4f} "
        f"[{figures['log_loss_low']:.4f}, {figures['log_loss_high']:.4f}], accuracy {figures['accuracy']:.3f}, "
        f"the prior's log loss {figures['prior_log_loss']:.4f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="humanpref", description="Predict which of two language-model answers a human prefers: P(A), P(B), P(tie)."
    )
    parser.add_argument("--version", action="version", version=f"humanpref {__version__}")
    parser.add_argument("--quiet", action="store_true", help="no progress messages")
    parser.add_argument("--traceback", action="store_true", help="show where an input error was found")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = _command(commands, "sample", sample, "write a synthetic arena whose true probabilities are known")
    command.add_argument(
        "--rows", type=int, default=1_000, metavar="N", help="training rows; a fifth as many test rows (default 1000)"
    )
    command.add_argument("--seed", type=int, default=42, metavar="S", help="the same seed, the same files (default 42)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")

    command = _command(commands, "train", train, "train a model on a labelled CSV and write an artifact")
    _configuration(command)
    command.add_argument(
        "--train", type=Path, required=True, metavar="CSV", help="rows in the competition's schema, with labels"
    )
    command.add_argument("--out", type=Path, required=True, metavar="ARTIFACT", help="a new folder for the artifact")
    command.add_argument(
        "--folds", type=int, metavar="K", help="train K models on grouped folds and keep out-of-fold predictions"
    )

    command = _command(
        commands, "predict", predict, "write a submission; several artifacts: the mean of their probabilities"
    )
    command.add_argument("artifact", type=Path, nargs="+", metavar="ARTIFACT")
    command.add_argument("--test", type=Path, required=True, metavar="CSV", help="rows in the competition's schema")
    command.add_argument("--out", type=Path, required=True, metavar="CSV", help="the submission")

    command = _command(commands, "evaluate", evaluate, "log loss, its interval and accuracy on labelled rows")
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--data", type=Path, required=True, metavar="CSV", help="rows with labels")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")

    command = _command(
        commands, "compare", compare, "train several presets on the same rows and folds; one table, one figure"
    )
    command.add_argument("--presets", required=True, metavar="A,B,…", help="see `humanpref presets`")
    command.add_argument(
        "--backbone", action="append", default=[], metavar="PRESET=FOLDER", help="the weights of a preset"
    )
    _study(command)

    ablate = commands.add_parser("ablate", help="the report's ablations", description="The report's ablations.")
    ablations = ablate.add_subparsers(dest="ablation", required=True, metavar="NAME")
    command = _command(
        ablations, "softmax", ablate_softmax, "a softmax or log-softmax before the loss, none at inference"
    )
    command.add_argument("--preset", default="tiny", metavar="NAME", help="the recipe (default tiny)")
    _study(command)

    command = _command(commands, "selection", selection, "how a boosted model chose its columns, step by step")
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--figure", type=Path, metavar="PNG", help="draw it there, too")

    command = _command(commands, "presets", presets, "list the presets")
    command.add_argument("--json", action="store_true", help="each with all its options, one JSON object a line")

    kaggle = commands.add_parser(
        "kaggle", help="everything that concerns Kaggle", description="Everything that concerns Kaggle."
    )
    kaggle_commands = kaggle.add_subparsers(dest="kaggle_command", required=True, metavar="COMMAND")
    command = _command(
        kaggle_commands,
        "dry-run",
        kaggle_dry_run,
        "run both kernels here as Kaggle would, offline, and check the submission",
    )
    command.add_argument("--train", type=Path, metavar="CSV", help="labelled rows (default: the synthetic arena)")
    command.add_argument(
        "--test",
        type=Path,
        metavar="CSV",
        help="rows to predict (default: the synthetic arena's, or a part of --train)",
    )
    command.add_argument("--preset", default="tiny", metavar="NAME", help="what to train (default tiny)")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one option, e.g. training.epochs=1"
    )
    command.add_argument(
        "--out", type=Path, default=Path("dry-run"), metavar="DIR", help="where the results go (default dry-run)"
    )
    return parser


def _command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _study(command: argparse.ArgumentParser) -> None:
    command.add_argument("--train", type=Path, required=True, metavar="CSV", help="labelled rows")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder for artifacts, table and figure"
    )
    command.add_argument("--folds", type=int, metavar="K", help="grouped folds (default: one held-out fifth)")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one option in every run"
    )


def _configuration(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", metavar="NAME", help="see `humanpref presets`")
    command.add_argument("--config", type=Path, metavar="FILE", help="TOML with the same keys, over the preset")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one option, e.g. training.epochs=3"
    )


if __name__ == "__main__":
    sys.exit(main())
