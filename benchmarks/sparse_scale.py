"""What fit and predict cost as the rows grow: seconds and peak memory, on the synthetic arena at
real-like lengths.

    python benchmarks/sparse_scale.py [--rows 1000 4000 16000 57477] [--presets sparse …] [--set
    sparse:model.max_terms=9 …]
                                      [--predict 0] [--json FILE]

The texts are made as long as real ones (the competition's medians: a prompt of 91 characters, an
answer of 1,040; 99th percentiles 4,698 and 6,750): lengths are drawn from log-normal distributions,
other rows' texts stand behind a row's last turn, and that is cut. Each run has a process of its
own; its peak memory is resident memory, that of the processes which it starts and what the rows
themselves take included. It fits on every row and predicts the same rows (with `--predict N`, the
first N). Seconds are of the wall clock; CPU seconds (of all threads) stand beside them for machines
that are shared. The exponent is the slope of ln(CPU seconds of the fit) over ln(rows), fitted to
all sizes of a preset: 1 is linear growth.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from humanpref.arena import write_arena
from humanpref.config import load_config
from humanpref.data import labels_of, read_pairs
from humanpref.files import check_writable, write_json
from humanpref.models import build_model
from humanpref.reports.table_text import markdown
from humanpref.schema import TEXT_COLUMNS

SEED = 42


def lengthen(pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows with texts as long as real ones: other rows' texts behind their own, cut to length;
    labels stay the row's."""
    rng = np.random.default_rng(SEED)
    others = rng.permutation(len(pairs))
    longer = pairs.copy()
    for column in TEXT_COLUMNS:
        texts = pairs[column].tolist()
        median, sigma = (91, 1.3) if column == "prompt" else (1_040, 0.85)
        wanted = np.exp(rng.normal(np.log(median), sigma, len(pairs)))
        column_of = []
        for row, turns in enumerate(texts):
            *before, last = turns or ("",)
            rest, place = max(0, int(wanted[row]) - sum(map(len, before))), row
            while len(last) < rest:
                place = (place + 1) % len(pairs)
                last = "\n\n".join([last, *texts[others[place]]])
            column_of.append((*before, last[:rest]))
        longer[column] = column_of
    return longer


def run(preset: str, rows: int, overrides: list[str], predict: int) -> dict[str, float]:
    """One measurement, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        write_arena(Path(folder), rows, SEED)
        pairs = lengthen(read_pairs(Path(folder, "train.csv"), labels=True))
    characters = sum(
        len(turn) for column in TEXT_COLUMNS for turns in pairs[column] for turn in turns
    )
    model = build_model(load_config(preset, overrides=overrides))
    wall, cpu, peak = [time.perf_counter()], [used()[0]], 0.0
    for step in (
        lambda: model.fit(pairs, labels_of(pairs)),
        lambda: model.predict_proba(pairs[:predict] if predict else pairs),
    ):
        step()
        wall.append(time.perf_counter())
        seconds, gib = used()
        cpu.append(seconds)
        peak = max(peak, gib)
    return {
        "preset": preset,
        "rows": rows,
        "million_characters": characters / 1e6,
        "fit_seconds": wall[1] - wall[0],
        "fit_cpu_seconds": cpu[1] - cpu[0],
        "predict_seconds": wall[2] - wall[1],
        "predict_cpu_seconds": cpu[2] - cpu[1],
        "predicted_rows": min(predict, rows) if predict else rows,
        "peak_gib": peak,
    }


def used() -> tuple[float, float]:
    """CPU seconds of this process and of those that it started, and GiB at their peaks of those
    that are there yet."""
    own = psutil.Process()
    ended = own.cpu_times()
    seconds, kib = ended.children_user + ended.children_system, 0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            times = process.cpu_times()
            seconds += times.user + times.system
            status = Path(f"/proc/{process.pid}/status").read_text()
            kib += int(status.partition("VmHWM:")[2].split()[0])
    return seconds, kib / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 4_000, 16_000, 57_477])
    parser.add_argument("--presets", nargs="*", default=["sparse"])
    parser.add_argument("--set", action="append", default=[], metavar="PRESET:KEY=VALUE")
    parser.add_argument("--predict", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--one", action="store_true", help=argparse.SUPPRESS
    )  # the measuring process
    options = parser.parse_args()
    overrides = {
        name: [t.partition(":")[2] for t in options.set if t.partition(":")[0] == name]
        for name in options.presets
    }
    if options.one:
        preset, rows = options.presets[0], options.rows[0]
        print(json.dumps(run(preset, rows, overrides[preset], options.predict)))
        return
    if options.json:
        check_writable(options.json)

    records = []
    for preset in options.presets:
        for rows in options.rows:
            command = [sys.executable, __file__, "--one", "--presets", preset, "--rows", str(rows)]
            command += ["--predict", str(options.predict)]
            for override in overrides[preset]:
                command += ["--set", f"{preset}:{override}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            records.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(records[-1]), file=sys.stderr, flush=True)
    table = pd.DataFrame(records)
    exponents = {}
    for preset, part in table.groupby("preset", sort=False):
        if len(part) > 1:
            exponents[preset] = float(
                np.polyfit(np.log(part["rows"]), np.log(part["fit_cpu_seconds"]), 1)[0]
            )
    print(markdown(table), end="")
    for preset, exponent in exponents.items():
        print(f"{preset}: the fit's CPU seconds grow like rows^{exponent:.2f}")
    if options.json:
        write_json(options.json, {"runs": records, "exponents": exponents})


if __name__ == "__main__":
    main()
