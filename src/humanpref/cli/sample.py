"""`humanpref sample`: write the synthetic arena to files."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_option, add_path


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "sample", run, "write a synthetic arena whose true probabilities are known"
    )
    add_option(
        command,
        "--rows",
        "N",
        "number of training rows (default 1000); the number of test rows is one fifth of it",
        type=int,
        default=1_000,
    )
    add_option(
        command,
        "--seed",
        "S",
        "the random seed, which determines the files (default 42)",
        type=int,
        default=42,
    )
    add_path(command, "--out", "DIR", "the folder for the files", required=True)


def run(options: argparse.Namespace) -> int:
    from humanpref.arena import bayes_log_loss, write_arena

    arena = write_arena(options.out, options.rows, options.seed)
    print(f"{options.out}: {len(arena.train)} training and {len(arena.test)} test rows")
    print(f"best reachable log loss: {bayes_log_loss(arena.truth):.4f}")
    return 0
