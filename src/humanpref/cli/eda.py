"""`humanpref eda`: write an HTML page with figures and tables about a file of pairs."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_format, add_option, add_path, unlabeled_rows
from humanpref.schema import counted


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "eda", run, "explore pairs: write an HTML page with their figures and tables"
    )
    add_path(command, "data", "ROWS", "rows with or without labels, a file or a folder")
    add_format(command, "the format of ROWS (default: detected)")
    text = "also show these rows, which are to be predicted, alongside ROWS"
    add_option(command, "--test", "[FORMAT:]ROWS", text)
    add_path(
        command, "--out", "DIR", "a new folder for the page, figures and tables", required=True
    )
    add_path(
        command,
        "--tokenizer",
        "FOLDER",
        "count the rows longer than 512, 1024 and 2048 tokens of this tokenizer",
    )


def run(options: argparse.Namespace) -> int:
    from humanpref.reports.eda import explore
    from humanpref.reports.page import PAGE_FILE

    test = options.test and unlabeled_rows(options.test)
    summary = explore(options.data, options.out, options.tokenizer, options.format, test)
    size = f"{counted(summary['rows'], 'row')}, {counted(summary['prompts'], 'prompt')}"
    print(f"{options.out / PAGE_FILE}: {size}")
    if summary["rows_left_out"]:
        print(f"rows left out: {summary['rows_left_out']}; see tables/faults.csv for the reasons")
    for reason in summary["left_out"]:
        print(f"left out: {reason}")
    return 0
