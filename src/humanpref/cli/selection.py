"""`humanpref selection`: show how a boosted model selected its columns, step by step."""

import argparse
from typing import Any

from humanpref.cli.shared import add_command, add_path
from humanpref.schema import InputError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands, "selection", run, "show how a boosted model selected its columns, step by step"
    )
    add_path(command, "artifact", "ARTIFACT")
    add_path(command, "--figure", "PNG", "also draw the steps to this file")


def run(options: argparse.Namespace) -> int:
    from humanpref.files import check_writable
    from humanpref.reports.charts import FIGURE_SUFFIXES, selection_figure
    from humanpref.reports.table_text import markdown
    from humanpref.runs.artifact import Artifact
    from humanpref.runs.results import selection_path

    figure = options.figure
    if figure is not None:
        if figure.suffix.lower() not in FIGURE_SUFFIXES:
            suffixes = ", ".join(FIGURE_SUFFIXES)
            raise InputError(f"--figure {figure}: expected a name that ends in {suffixes}")
        check_writable(figure, inputs=[options.artifact])
    path = selection_path(Artifact.load(options.artifact))
    if figure is not None:
        selection_figure(path, figure, f"{options.artifact}: wrapper selection")
    print(markdown(path), end="")
    return 0
