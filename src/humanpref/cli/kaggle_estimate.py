"""`humanpref kaggle estimate`: estimate the memory and the hours that a run will take on Kaggle."""

import argparse
from pathlib import Path
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_option, add_overrides, add_path
from humanpref.schema import InputError


def add(group: Any) -> None:
    """Add the command `estimate` to the group."""
    text = "estimate the GPU memory and the hours of training and inference on Kaggle's two T4"
    command = add_command(group, "estimate", estimated, text)
    what = command.add_mutually_exclusive_group()
    add_option(what, "--preset", "NAME", "the preset to train (default: every preset)")
    add_path(what, "--artifact", "A", "estimate only inference, with this artifact")
    add_overrides(command)
    add_option(command, "--folds", "K", "train K fold models", type=int)
    text = "take the lengths of training texts from these rows (default: from a public sample)"
    add_path(command, "--train", "ROWS", text)
    text = "take the lengths of test texts from these rows (default: from those of --train)"
    add_path(command, "--test", "ROWS", text)
    add_format(command)
    text = "number of training rows (default 57,477, the competition's)"
    add_option(command, "--rows", "N", text, type=int)
    text = "number of test rows (default 25,000, the hidden test's)"
    add_option(command, "--test-rows", "N", text, type=int)


def estimated(options: argparse.Namespace) -> int:
    from humanpref.config import preset_names
    from humanpref.kaggle.contract import KernelRun
    from humanpref.runs.estimate import ROWS, TEST_ROWS, estimate, estimate_artifact

    rows = ROWS if options.rows is None else options.rows
    test_rows = TEST_ROWS if options.test_rows is None else options.test_rows
    if min(rows, test_rows) < 1:
        raise InputError(f"--rows {rows}, --test-rows {test_rows}: expected at least 1 of each")
    if options.artifact:
        name, lengths = f"artifact {options.artifact}", read_lengths(options)
        print_lines(name, estimate_artifact(options.artifact, name, lengths, test_rows))
        return 0
    for preset in [options.preset] if options.preset else preset_names():
        name, run = f"preset {preset}", KernelRun(preset, options.set, folds=options.folds)
        lengths = read_lengths(options, run.pretrained or "")
        print_lines(name, estimate(run.config, name, lengths, rows, test_rows, run.folds))
    return 0


def print_lines(name: str, found: Any) -> None:
    """Print an estimate. If it is None, print that the run needs no GPU."""
    if found is None:
        print(f"{name}: needs no GPU, since no model in it is pretrained")
    else:
        print("\n".join(found.lines()))


def read_lengths(options: argparse.Namespace, backbone: str = "") -> Any:
    """Return the lengths, in tokens, of the rows in the files of `--train` and `--test`; None if
    neither is given. The tokenizer in the folder `backbone` counts the tokens; if there is no such
    folder, they are estimated from the number of characters."""
    from humanpref.data import read_pairs
    from humanpref.runs.lengths import Lengths, approximate_tokens, text_lengths

    files = [path for path in (options.train, options.test) if path]
    if not files:
        return None
    count, how = approximate_tokens, "0.23 tokens for each character"
    if backbone and Path(backbone).is_dir():
        from humanpref.models.pretrained import load_tokenizer
        from humanpref.text.tokens import text_ids

        tokenizer = load_tokenizer(backbone)
        how = "its tokenizer's tokens"

        def count(texts: list[str]) -> list[int]:
            return [len(ids) for ids in text_ids(texts, tokenizer)]

    lengths = [text_lengths(read_pairs(path, format=options.format), count) for path in files]
    counted = " and ".join(
        f"the {len(each):,} rows of {path}" for path, each in zip(files, lengths, strict=True)
    )
    return Lengths(lengths[0], lengths[-1], f"rows as long as {counted} ({how})")
