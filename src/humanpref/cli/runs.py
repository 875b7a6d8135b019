"""`humanpref runs`: list the artifacts under a folder."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_option, add_path


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "runs", run, "list the artifacts under a folder, and whether they are comparable"
    )
    add_path(command, "folder", "DIR", "the folder to search recursively")
    add_option(
        command, "--sort", "COLUMN", "the column to sort by (default log_loss)", default="log_loss"
    )
    command.add_argument("--all", action="store_true", help="print all columns")
    add_path(command, "--csv", "FILE", "also write the table, with all columns, to this file")


def run(options: argparse.Namespace) -> int:
    from humanpref.files import check_writable, write_csv
    from humanpref.reports.table_text import markdown
    from humanpref.studies.listing import differences, in_short, runs

    if options.csv is not None:
        check_writable(options.csv)
    table = runs(options.folder, options.sort)
    if options.csv is not None:
        write_csv(options.csv, table)
    print(markdown(table if options.all else in_short(table)), end="")
    for difference in differences(table):
        print(difference)
    return 0
