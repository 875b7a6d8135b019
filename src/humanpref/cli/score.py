"""`humanpref score`: add probabilities or rewards to JSON lines."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_path


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "score",
        run,
        "add probabilities and a margin to JSON lines of pairs, or a reward to single responses",
    )
    add_path(command, "artifact", "ARTIFACT")
    text = (
        "lines with prompt, response_a and response_b, or with prompt and response; in each line, "
        "either all values are strings, or all are lists of turns"
    )
    add_path(command, "--in", "JSONL", text, dest="source", required=True)
    add_path(command, "--out", "JSONL", "the same lines with their scores", required=True)


def run(options: argparse.Namespace) -> int:
    from humanpref.files import check_writable, is_main_process
    from humanpref.interfaces.score import score
    from humanpref.runs.artifact import Artifact

    check_writable(options.out, inputs=[options.source, options.artifact])
    count = score(Artifact.load(options.artifact), options.source, options.out)
    if is_main_process():
        print(f"{options.out}: {count} lines")
    return 0
