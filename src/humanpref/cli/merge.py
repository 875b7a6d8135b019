"""`humanpref merge`: turn an artifact's fold models into one model."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_path
from humanpref.schema import counted


def add(commands: Any) -> None:
    """Add the command to the parser."""
    text = "merge the LoRA fold models of an artifact into one model of a higher rank"
    command = add_command(commands, "merge", run, text)
    add_path(command, "artifact", "ARTIFACT")
    add_path(command, "--out", "ARTIFACT", "a new folder for the merged model", required=True)
    text = "merge the adapter into a float32 copy of the base, which the artifact then contains"
    command.add_argument("--into-base", action="store_true", help=text)


def run(options: argparse.Namespace) -> int:
    from humanpref.runs.merging import merge

    artifact = merge(options.artifact, options.out, options.into_base)
    print(f"merged {counted(artifact.facts['merged'], 'model')} into one: {artifact.folder}")
    return 0
