"""`humanpref blend`: combine artifacts trained on the same rows into one artifact."""

import argparse
from typing import Any, get_args

from humanpref.cli.shared import add_command, add_path
from humanpref.config.cpu import Mean


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "blend",
        run,
        "blend artifacts trained on the same rows into one, using their out-of-fold predictions",
    )
    add_path(command, "artifact", "ARTIFACT", nargs="+")
    add_path(command, "--out", "ARTIFACT", "a new folder for the blend", required=True)
    command.add_argument(
        "--mean",
        choices=get_args(Mean),
        default="arithmetic",
        help="how to average the members' probabilities (default arithmetic)",
    )


def run(options: argparse.Namespace) -> int:
    from humanpref.runs.blending import blend, render

    artifact = blend(options.artifact, options.out, options.mean)
    print(render(artifact.metrics), end="")
    print(f"artifact: {artifact.folder}")
    return 0
