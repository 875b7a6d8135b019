"""`humanpref export`: write a decoder as a folder that transformers alone can read."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_path


def add(commands: Any) -> None:
    """Add the command to the parser."""
    text = "write an artifact's decoder as a plain folder, which transformers alone can read"
    command = add_command(commands, "export", run, text)
    add_path(command, "artifact", "ARTIFACT")
    text = "a new folder for the weights, the tokenizer and a card with a runnable example"
    add_path(command, "--out", "FOLDER", text, required=True)


def run(options: argparse.Namespace) -> int:
    from humanpref.interfaces.export import CARD_FILE, export

    folder = export(options.artifact, options.out)
    print(f"{folder}: a plain model; {CARD_FILE} says how to format its texts")
    return 0
