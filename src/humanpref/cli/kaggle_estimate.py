"""`humanpref kaggle estimate`: the memory and the hours of a run on Kaggle, before it starts."""

import argparse
from pathlib import Path
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_overrides, add_path


def add(group: Any) -> None:
    """Add the command to the group."""
    text = "estimate the GPU memory and the hours of training and inference on Kaggle's two T4"
    command = add_command(group, "estimate", run, text)
    what = command.add_mutually_exclusive_group()
    text = "the preset to train (default: every preset)"
    what.add_argument("--preset", metavar="NAME", help=text)
    text = "estimate only inference, with this artifact"
    what.add_argument("--artifact", type=Path, metavar="A", help=text)
    add_overrides(command)
    command.add_argument("--folds", type=int, metavar="K", help="train K fold models")
    paths = {
        "--train": "training rows whose lengths count (default: those of a public sample)",
        "--test": "test rows whose lengths count (default: those of --train)",
    }
    for name, text in paths.items():
        add_path(command, name, metavar="ROWS", help=text)
    add_format(command)
    numbers = {
        "--rows": "number of training rows (default 57,477, the competition's)",
        "--test-rows": "number of test rows (default 25,000, the hidden test's)",
    }
    for name, text in numbers.items():
        command.add_argument(name, type=int, metavar="N", help=text)


def run(options: argparse.Namespace) -> int:
    from humanpref.config import load_config, preset_names
    from humanpref.runs.estimate import ROWS, TEST_ROWS, estimate, estimate_artifact

    rows, test_rows = options.rows or ROWS, options.test_rows or TEST_ROWS
    if options.artifact:
        backbone = ""
        lengths = read_lengths(options.train, options.test, backbone, options.format)
        name = f"artifact {options.artifact}"
        print_lines(name, estimate_artifact(options.artifact, name, lengths, test_rows))
        return 0
    for preset in [options.preset] if options.preset else preset_names():
        config = load_config(preset, None, options.set)
        backbone = getattr(config.model, "backbone", "")
        lengths = read_lengths(options.train, options.test, backbone, options.format)
        name = f"preset {preset}"
        print_lines(name, estimate(config, name, lengths, rows, test_rows, options.folds))
    return 0


def print_lines(name: str, found: Any) -> None:
    """Print an estimate, or that the run needs no GPU."""
    if found is None:
        print(f"{name}: needs no GPU, since no model in it is pretrained")
    else:
        print("\n".join(found.lines()))


def read_lengths(
    train: Path | None, test: Path | None, backbone: str, format: str | None = None
) -> Any:
    """Return the lengths of the rows in the files, by the backbone's tokenizer if it is a folder;
    None without files."""
    from humanpref.data import read_pairs
    from humanpref.runs.lengths import Lengths, approximate_tokens, text_lengths

    files = [path for path in (train, test) if path]
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

    lengths = [text_lengths(read_pairs(path, format=format), count) for path in files]
    counted = " and ".join(
        f"the {len(each):,} rows of {path}" for path, each in zip(files, lengths, strict=True)
    )
    return Lengths(lengths[0], lengths[-1], f"rows as long as {counted} ({how})")
