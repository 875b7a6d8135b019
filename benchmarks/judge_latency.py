"""How long one judgement takes: cold, in a new process, and warm, with the model in memory.

    humanpref train --preset sparse --train CSV --out sparse
    humanpref train --preset tiny --train few.csv --out tiny
    humanpref train --preset deberta-v3-small --set model.backbone=FOLDER --train few.csv \\
        --out deberta
    python benchmarks/judge_latency.py --data CSV [--artifact sparse tiny deberta] [--cold 5]
        [--warm 200] [--python PYTHON]

The packaged judge is always measured, the artifacts in addition. Each judgement is of another row
of `--data`, in the same order for every model; how well an artifact is trained does not matter.

command     seconds of `humanpref judge --json`, from the start of the process to its end.
first       of that, `humanpref.load` and the first `judge()`, with the imports that they need.
warm        milliseconds of `judge()` afterwards, in one process.
processor   the same on the processor (all of it with OMP_NUM_THREADS=1): on a shared machine, what
            a quiet one would need.

`--python` is the interpreter of the new processes, such as one of an environment with nothing but
the wheel. All other times are wall-clock times, so that other work on the machine counts.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import humanpref
from humanpref.schema import TEXT_COLUMNS

FIRST = """
import json, sys, time
texts, model = json.load(sys.stdin)
started = time.perf_counter()
import humanpref
humanpref.load(model).judge(*texts)
print(time.perf_counter() - started)
"""
OPTIONS = ("--prompt", "--a", "--b")


def command_seconds(python: str, model: str | None, texts: Sequence[list[str]]) -> float:
    """Run `humanpref judge` in a new process and return its seconds. The texts, joined into one
    turn each, are arguments; what does not fit into one is cut."""
    pairs = zip(OPTIONS, ("\n\n".join(turns)[:30_000] for turns in texts), strict=True)
    arguments = [part for option, text in pairs for part in (option, text.replace("\0", ""))]
    arguments += ["--json", *(() if model is None else ("--model", model))]
    started = time.perf_counter()
    done = subprocess.run(
        [python, "-m", "humanpref.cli", "--quiet", "judge", *arguments],
        capture_output=True,
        check=True,
    )
    seconds = time.perf_counter() - started
    assert set(json.loads(done.stdout)) >= {"p_a", "p_b", "p_tie"}
    return seconds


def first_seconds(python: str, model: str | None, texts: Sequence[list[str]]) -> float:
    """Load the model in a new process and judge one row; return the seconds that these take."""
    given = json.dumps([texts, model])
    done = subprocess.run(
        [python, "-c", FIRST], input=given, capture_output=True, check=True, text=True
    )
    return float(done.stdout)


def warm_milliseconds(model: str | None, rows: list[list[list[str]]]) -> np.ndarray:
    """Judge the rows one by one, after a first one; return the milliseconds of each on the clock
    and on the processor, (rows, 2)."""
    judge, times = humanpref.load(model), []
    judge.judge(*rows[0])
    for texts in rows:
        started = time.perf_counter(), time.thread_time()
        judge.judge(*texts)
        times.append((time.perf_counter() - started[0], time.thread_time() - started[1]))
    return 1e3 * np.array(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="rows, labeled or not")
    parser.add_argument("--artifact", nargs="*", type=Path, default=[])
    parser.add_argument("--cold", type=int, default=5, help="processes for each model")
    parser.add_argument("--warm", type=int, default=200, help="judgements for each model")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()

    pairs = humanpref.read_pairs(options.data, labels=False)[: options.warm]
    rows = [list(map(list, row)) for row in zip(*(pairs[c] for c in TEXT_COLUMNS), strict=True)]
    print(f"{len(rows)} rows, {options.cold} processes for each model")
    print(
        "| judge | command, s: best | p50 | p95 | first, s: p50 | p95 | warm, ms: p50 | p95 | "
        "processor, ms: p50 | p95 |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for model in (None, *options.artifact):
        folder = None if model is None else str(model)
        some = rows[: options.cold]
        command = [command_seconds(options.python, folder, texts) for texts in some]
        first = [first_seconds(options.python, folder, texts) for texts in some]
        warm = warm_milliseconds(folder, rows)
        (c50, c95), (f50, f95), (w50, w95), (p50, p95) = (
            np.percentile(times, [50, 95]) for times in (command, first, *warm.T)
        )
        print(
            f"| {'packaged' if model is None else model.name} | {min(command):.2f} | {c50:.2f} | "
            f"{c95:.2f} | {f50:.2f} | {f95:.2f} | {w50:.1f} | {w95:.1f} | {p50:.1f} | {p95:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
