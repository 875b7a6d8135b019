"""The `humanpref` command: its parser and its error handling.

Exit codes: 0 for success; 1 for a dry run or check that failed, or for a bug in this package (with
a traceback); 2 for input that cannot be used, a full disk, or too little memory, reported in one
line on standard error; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
"""

import argparse
import difflib
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from humanpref import __version__
from humanpref.cli import (
    blend,
    compare,
    convert,
    eda,
    ending,
    evaluate,
    export,
    judge,
    kaggle,
    merge,
    predict,
    presets,
    runs,
    sample,
    score,
    selection,
    serve,
    train,
)
from humanpref.cli.examples import add_examples
from humanpref.training import device

COMMANDS = (
    judge,
    sample,
    convert,
    eda,
    train,
    predict,
    score,
    serve,
    blend,
    merge,
    export,
    evaluate,
    compare,
    selection,
    runs,
    presets,
    kaggle,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # If the terminal or a file name is not UTF-8, an escape is better than a traceback.
            stream.reconfigure(errors="backslashreplace")
    whole = parser()
    options = whole.parse_args(arguments)
    if options.command is None:
        whole.print_help(sys.stderr)
        return 2
    level = logging.WARNING if options.quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ending.Printable())
    logging.basicConfig(level=level, handlers=[handler])
    # The package itself checks for the problems that transformers warns about, such as unused
    # weights of a head.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    device.prepare()
    try:
        with ending.signals_raised():
            code = options.run(options)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # The program that reads the output has ended, as in `humanpref presets | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        found = ending.ending_of(error)
        if found is None or (options.traceback and not isinstance(error, KeyboardInterrupt)):
            raise
        line, code = found
        print(f"humanpref: {ending.one_line(line)}", file=sys.stderr)
        ending.drop_unwritten_output()
        return code
    finally:
        device.leave_group()


def parser() -> argparse.ArgumentParser:
    """Build the parser with all commands."""
    whole = _Parser(
        prog="humanpref",
        allow_abbrev=False,
        description="Predict which of two language-model answers a human prefers: "
        "P(A), P(B), P(tie).",
    )
    whole.add_argument("--version", action="version", version=f"humanpref {__version__}")
    whole.add_argument("--quiet", action="store_true", help="no progress messages")
    whole.add_argument(
        "--traceback", action="store_true", help="show the traceback of an input error"
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    add_examples(whole)
    return whole


class _Parser(argparse.ArgumentParser):
    """Reports an unknown option before a missing option, since the unknown option may be a
    misspelling of the missing one. For an unknown command or choice, suggests the most similar
    known one."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            hint = _hint(str(value), choices)
            hint = hint or f"; expected one of {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"unknown {value!r}{hint}")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        known = self._option_string_actions
        # Only a command's own parser knows which options are allowed after the command.
        for argument in () if args is None or self._subparsers else args:
            option = argument.partition("=")[0]
            if option == "--":
                break
            if re.match("--?[A-Za-z]", option) and " " not in argument and option not in known:
                self.error(f"unknown option {option}{_hint(option, [*known])}")
        return super().parse_known_args(args, namespace)


def _hint(text: str, known: list[str]) -> str:
    """Return a hint that suggests the known name most similar to a text; empty if none is close."""
    meant = difflib.get_close_matches(text, known, 1)
    return f"; did you mean {meant[0]}?" if meant else ""
