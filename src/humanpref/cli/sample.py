"""`humanpref sample`: the synthetic arena as files."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_path


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "sample", run, "write a synthetic arena whose true probabilities are known"
    )
    text = "training rows; a fifth as many test rows (default 1000)"
    command.add_argument("--rows", type=int, default=1_000, metavar="N", help=text)
    text = "the same seed, the same files (default 42)"
    command.add_argument("--seed", type=int, default=42, metavar="S", help=text)
    add_path(command, "--out", required=True, metavar="DIR", help="folder for the files")


def run(options: argparse.Namespace) -> int:
    from humanpref.arena import bayes_log_loss, write_arena

    arena = write_arena(options.out, options.rows, options.seed)
    print(f"{options.out}: {len(arena.train)} training and {len(arena.test)} test rows")
    print(f"best reachable log loss: {bayes_log_loss(arena.truth):.4f}")
    return 0
