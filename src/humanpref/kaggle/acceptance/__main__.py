"""Run every check on this machine's GPU and print one table; the last line says PASS or FAIL."""

import argparse
import logging
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from humanpref.files import write_json, write_whole
from humanpref.kaggle.acceptance.runner import CHECKS, SECONDS, run, table, verdict
from humanpref.kaggle.acceptance.setting import Setting
from humanpref.training.device import prepare


def main(words: list[str] | None = None) -> int:
    """Run the checks named on the command line, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m humanpref.kaggle.acceptance",
        description="Check on a GPU what the project says about GPUs.",
    )
    add = parser.add_argument
    text = "tiny models, to try the checks themselves, with or without a GPU; nothing is timed"
    add("--quick", action="store_true", help=text)
    text = "pretrained backbones to check the precision with, too (default: random weights only)"
    add("--weights", type=Path, nargs="+", default=[], metavar="FOLDER", help=text)
    add("--only", nargs="+", metavar="CHECK", choices=CHECKS, help="only these checks: %(choices)s")
    text = "time limit of all checks in seconds (default %(default).0f)"
    add("--seconds", type=float, default=SECONDS, metavar="S", help=text)
    add("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    add("--table", type=Path, metavar="FILE", help="also write the table to a file")
    options = parser.parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    prepare()
    started = time.monotonic()
    setting = Setting(options.quick, tuple(path.absolute() for path in options.weights))
    rows = run(setting, options.seconds, {name: CHECKS[name] for name in options.only or CHECKS})
    text = f"{table(rows)}\n{verdict(rows)}\n"
    if options.table:
        with write_whole(options.table) as file:
            file.write(text)
    if options.json:
        facts = {"verdict": verdict(rows), "seconds": round(time.monotonic() - started, 1)}
        write_json(options.json, facts | {"rows": [asdict(row) for row in rows]})
    print(text, end="")
    return 0 if text.splitlines()[-1].startswith("PASS") else 1


if __name__ == "__main__":
    sys.exit(main())
