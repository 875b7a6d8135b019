"""`humanpref convert`: read pairs in any format, and write them in the competition's schema."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_path
from humanpref.schema import InputError, counted

SUFFIXES = (".csv", ".jsonl")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    text = "write pairs of any format as a CSV or JSON lines in the competition's schema"
    command = add_command(commands, "convert", run, text)
    add_path(command, "source", "IN", "pairs, a file or a folder")
    add_path(command, "out", "OUT", f"a file whose name ends in {' or '.join(SUFFIXES)}")
    add_format(command, "the format of IN (default: detected)")
    text = "leave out the rows that cannot be read, and list them with the reasons in this file"
    add_path(command, "--drop-bad-rows", "CSV", text, dest="dropped")
    text = "write the file even if OUT cannot hold everything that is in IN"
    command.add_argument("--lossy", action="store_true", help=text)


def run(options: argparse.Namespace) -> int:
    import pandas as pd

    from humanpref.data.reading import read
    from humanpref.data.rows import REMARKS, Fault
    from humanpref.data.writing import write_pairs
    from humanpref.files import check_writable, write_csv

    if options.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"{options.out}: expected a name that ends in {' or '.join(SUFFIXES)}")
    check_writable(options.out, inputs=[options.source])
    listed = options.dropped is not None
    if listed:
        if options.dropped.resolve() == options.out.resolve():
            raise InputError(f"--drop-bad-rows {options.dropped}: expected a file other than OUT")
        check_writable(options.dropped, inputs=[options.source])
    reading = read(options.source, weights=True, format=options.format, keep_faults=listed)
    lost = "; ".join(reading.lost)
    if lost and not options.lossy:
        raise InputError(f"{options.source}: would lose {lost}; convert it anyway with --lossy")
    if listed:
        bad = [fault for fault in reading.faults if fault.kind not in REMARKS]
        write_csv(options.dropped, pd.DataFrame(bad, columns=Fault._fields))
        print(f"{options.dropped}: {counted(len(bad), 'row')} left out")
    write_pairs(options.out, reading.pairs)
    print(f"{options.out}: {counted(len(reading.pairs), 'row')}, read as {reading.format}")
    if lost:
        print(f"lost: {lost}")
    return 0
