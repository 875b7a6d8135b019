"""Arguments and output lines that several commands share."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from humanpref.cli.examples import add_examples
from humanpref.schema import FORMATS, counted

Command = Callable[[argparse.Namespace], int]


def add_command(
    commands: Any, name: str, run: Command, text: str, **options: Any
) -> argparse.ArgumentParser:
    """Add a command that calls `run`, with `text` as its help."""
    command = _add_parser(commands, name, text, **options)
    command.set_defaults(run=run)
    return command


def add_group(commands: Any, name: str, text: str) -> Any:
    """Add a command that has subcommands."""
    group = _add_parser(commands, name, text)
    return group.add_subparsers(dest=f"{name}_command", required=True, metavar="COMMAND")


def _add_parser(commands: Any, name: str, text: str, **options: Any) -> argparse.ArgumentParser:
    description = text[0].upper() + text[1:] + "."
    command = commands.add_parser(
        name, help=text, description=description, allow_abbrev=False, **options
    )
    add_examples(command)
    return command


def add_option(
    command: Any, name: str, metavar: str, help: str | None = None, **options: Any
) -> None:
    """Add an argument that takes a value."""
    command.add_argument(name, metavar=metavar, help=help, **options)


def add_path(
    command: Any, name: str, metavar: str, help: str | None = None, **options: Any
) -> None:
    """Add an argument that is a path."""
    add_option(command, name, metavar, help, type=Path, **options)


def add_overrides(command: Any, text: str = "override options, e.g. training.epochs=3") -> None:
    """Add the option `--set` to a command."""
    add_option(command, "--set", "KEY=VALUE", text, nargs="+", action="extend", default=[])


def add_format(command: Any, text: str = "the format of the rows (default: detected)") -> None:
    """Add the option `--format` to a command."""
    command.add_argument("--format", choices=FORMATS, help=text)


def format_and_rows(text: str) -> tuple[str | None, str]:
    """Split [FORMAT:]ROWS into its two parts, unless a file with the entire name exists.

    Examples
    --------
    >>> format_and_rows("plain:rows.csv"), format_and_rows("rows.csv")
    (('plain', 'rows.csv'), (None, 'rows.csv'))
    """
    format, colon, rows = text.partition(":")
    is_format = colon and format in FORMATS and not os.path.exists(text)
    return (format, rows) if is_format else (None, text)


def unlabeled_rows(text: str) -> Any:
    """Parse the argument [FORMAT:]ROWS. If it names a format, read the rows without their labels,
    and return them; otherwise, return the path of the rows."""
    from humanpref.data import read_pairs

    format, rows = format_and_rows(text)
    return read_pairs(rows, labels=False, format=format) if format else Path(rows)


def add_study(command: Any) -> None:
    """Add the arguments of a command that trains several models on the same rows."""
    add_path(command, "--train", "ROWS", "labeled rows", required=True)
    add_format(command)
    add_path(command, "--out", "DIR", "a folder for the artifacts, table and figure", required=True)
    text = "number of grouped folds (default: hold out one fifth)"
    add_option(command, "--folds", "K", text, type=int)
    add_overrides(command, "override options in every run")


def metrics_line(title: str, metrics: dict[str, Any]) -> str:
    """Return one line with the model's log loss and its interval, the accuracy, and the log loss of
    the prior. If no row is a tie, add the area under the ROC curve and the Brier score of A against
    B. Append a warning if the prior has the lower log loss, or if the model was trained on some of
    the rows."""
    decided = ""
    if metrics.get("decided_rows") == metrics["rows"] and metrics["decided_auc"] is not None:
        decided = f"AUC {metrics['decided_auc']:.3f}, Brier {metrics['decided_brier']:.3f}, "
    line = (
        f"{title}: {counted(metrics['rows'], 'row')}, log loss {metrics['log_loss']:.4f} "
        f"[{metrics['log_loss_low']:.4f}, {metrics['log_loss_high']:.4f}], "
        f"accuracy {metrics['accuracy']:.3f}, {decided}"
        f"the prior's log loss {metrics['prior_log_loss']:.4f}"
    )
    if metrics["log_loss"] > metrics["prior_log_loss"] + 1e-9:
        line += "; warning: worse than the prior"
    if trained_on := metrics.get("rows_trained_on"):
        line += f"; optimistic: trained on {trained_on} of these rows"
    return line
