"""`humanpref predict`: write a submission or soft labels for rows, using one or more artifacts."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_path
from humanpref.schema import ID, InputError, counted


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "predict",
        run,
        "write a submission; with several artifacts, their probabilities are averaged",
    )
    add_path(command, "artifact", nargs="+", metavar="ARTIFACT")
    text = "the rows to predict, a file or a folder"
    add_path(command, "--test", required=True, metavar="ROWS", help=text)
    add_format(command)
    add_path(command, "--out", required=True, metavar="CSV", help="the submission")
    text = "instead of a submission, write rows with soft labels, as input for `humanpref train`"
    command.add_argument("--labels", action="store_true", help=text)
    text = "with --labels, give every row this weight instead of its own"
    command.add_argument("--weight", type=float, metavar="W", help=text)
    text = "finish within this many seconds, and report each concession made to do so"
    command.add_argument("--seconds", type=float, metavar="S", help=text)


def run(options: argparse.Namespace) -> int:
    from humanpref.data import write_submission
    from humanpref.data.formats.detect import CHOSEN_REJECTED
    from humanpref.data.reading import DRAWN, read
    from humanpref.files import check_writable, is_main_process
    from humanpref.runs.artifact import Artifact
    from humanpref.runs.distillation import write_soft_labels
    from humanpref.runs.predict import predict

    if options.weight is not None and not options.labels:
        raise InputError("--weight: can only be used with --labels")
    if options.seconds is not None and options.labels:
        raise InputError(
            "--seconds: cannot be used with --labels, since rows that are not predicted in time "
            "would get class rates as soft labels"
        )
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise InputError(f"--seconds: expected a number above 0, got {options.seconds:g}")
    check_writable(options.out, inputs=[options.test, *options.artifact])
    artifacts = [Artifact.load(folder) for folder in options.artifact]
    weights = options.labels and options.weight is None
    reading = read(options.test, False, weights=weights, format=options.format)
    if reading.format == CHOSEN_REJECTED and not options.labels:
        raise InputError(f"{options.test}: {DRAWN}, or use --labels, which also writes the texts")
    pairs = reading.pairs
    degraded: list[str] = []
    if options.labels:
        write_soft_labels(options.out, artifacts, pairs, options.weight)
    else:
        probabilities, degraded = predict(artifacts, pairs, options.seconds)
        if is_main_process():
            write_submission(options.out, pairs[ID].tolist(), probabilities)
    if is_main_process():
        print("\ndegraded: ".join([f"{options.out}: {counted(len(pairs), 'row')}", *degraded]))
    return 0
