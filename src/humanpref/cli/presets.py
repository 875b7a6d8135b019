"""`humanpref presets`: list the presets, or one preset's options."""

import argparse
import json
from typing import Any

from humanpref.cli.shared import add_command


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(commands, "presets", run, "list the presets, or one preset's options")
    command.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="show each option of this preset: its value, type and effect",
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="print each preset with all its options as one line of JSON",
    )


def run(options: argparse.Namespace) -> int:
    from humanpref.config import load_config, preset_names
    from humanpref.config.describe import options_of

    if options.name is not None:
        for option in options_of(load_config(options.name)):
            value = "none" if option.value is None else option.value
            print(f"{option.key} = {value}  ({option.kind})\n    {option.text}")
        return 0
    for name in preset_names():
        config = load_config(name)
        print(json.dumps(config.to_dict()) if options.json else f"{name:20} {config.family}")
    return 0
