"""`humanpref convert`: write pairs of any format in the competition's schema."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_path
from humanpref.schema import InputError

SUFFIXES = (".csv", ".jsonl")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    text = "write pairs of any format as a CSV or JSON lines in the competition's schema"
    command = add_command(commands, "convert", run, text)
    add_path(command, "source", "IN", "pairs, a file or a folder")
    add_path(command, "out", "OUT", f"a file whose name ends in {' or '.join(SUFFIXES)}")
    add_format(command, "the format of IN (default: detected)")
    text = "write the file even if it cannot hold all of IN"
    command.add_argument("--lossy", action="store_true", help=text)


def run(options: argparse.Namespace) -> int:
    from humanpref.data.reading import read
    from humanpref.data.writing import write_pairs
    from humanpref.files import check_writable

    if options.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"{options.out}: expected a name that ends in {' or '.join(SUFFIXES)}")
    check_writable(options.out, inputs=[options.source])
    reading = read(options.source, weights=True, format=options.format)
    lost = "; ".join(reading.lost)
    if lost and not options.lossy:
        raise InputError(f"{options.source}: would lose {lost}; convert it anyway with --lossy")
    write_pairs(options.out, reading.pairs)
    print(f"{options.out}: {len(reading.pairs)} rows, read as {reading.format}")
    if lost:
        print(f"lost: {lost}")
    return 0
