"""Does `predict` need more memory for five fold models than for one?

    python benchmarks/predict_memory.py --train CSV --test CSV [--set KEY=VALUE ...]

Trains preset `tiny` once and by five folds, wide enough that the weights are most of the memory,
and prints the peak resident memory of `humanpref predict` with each artifact.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WIDE = ("model.scratch_hidden_size=512", "model.scratch_layers=12", "model.max_length=64")


def run(*arguments: str | Path) -> float:
    """Run one `humanpref` command; give its peak resident memory in MiB."""
    command = [sys.executable, "-m", "humanpref.cli", "--quiet", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="labelled rows")
    parser.add_argument("--test", type=Path, required=True, help="rows to predict")
    parser.add_argument("--set", nargs="+", default=[], help="more options of the training")
    options = parser.parse_args()
    settings = [*WIDE, *options.set]
    peaks = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, folds in (("one", ()), ("five", ("--folds", "5"))):
            folder = Path(temporary) / name
            data = ("--train", options.train, "--out", folder)
            run("train", "--preset", "tiny", "--set", *settings, *data, *folds)
            out = Path(temporary) / "submission.csv"
            peaks.append(run("predict", folder, "--test", options.test, "--out", out))
            print(f"{name:5} {peaks[-1]:8.0f} MiB", flush=True)
    print(f"ratio {peaks[1] / peaks[0]:8.3f}")


if __name__ == "__main__":
    main()
