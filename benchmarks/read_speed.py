"""How long does it take to read the competition's rows, and how much memory, by kind of file?

    python benchmarks/read_speed.py --train CSV [--rows 57477] [--kinds CSV gzip lines Parquet]

Repeats the rows of a labelled CSV up to a number, writes them as each kind of file, and reads each
three times in a process of its own. Prints the least CPU seconds and the peak resident memory.
Another checkout is measured by PYTHONPATH=OTHER/src; one without other formats reads `CSV` only.
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

READ = """
import sys, time
from humanpref.data import read_pairs
start = time.process_time()
read_pairs(sys.argv[1], labels=True)
spent = time.process_time() - start
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(spent, int(peak) / 1024)
"""
TEXTS = ["prompt", "response_a", "response_b"]


def write(kind: str, rows: pd.DataFrame, path: Path) -> None:
    """Write the rows, whose cells are those of the CSV, as one kind of file."""
    if kind == "CSV":
        rows.to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    elif kind == "gzip":
        path.write_bytes(gzip.compress(rows.to_csv(index=False).encode(), 1))
    else:
        turns = rows.assign(**{column: rows[column].map(json.loads) for column in TEXTS})
        if kind == "lines":
            turns.to_json(path, orient="records", lines=True, force_ascii=False)
        else:
            turns.to_parquet(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="labelled rows")
    parser.add_argument("--rows", type=int, default=57_477)
    kinds = ["CSV", "gzip", "lines", "Parquet"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    options = parser.parse_args()
    once = pd.read_csv(options.train, dtype=str, keep_default_na=False)
    rows = pd.concat([once] * (options.rows // len(once) + 1))[: options.rows]
    rows["id"] = list(map(str, range(len(rows))))
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            path = Path(folder, "rows")
            write(kind, rows, path)
            command = [sys.executable, "-c", READ, str(path)]
            runs = [
                [*map(float, subprocess.check_output(command, text=True).split())] for _ in range(3)
            ]
            spent, memory = (min(each) for each in zip(*runs, strict=True))
            print(
                f"{kind:8} {path.stat().st_size / 2**20:6.0f} MiB {spent:6.2f} s {memory:6.0f} MiB"
            )


if __name__ == "__main__":
    main()
