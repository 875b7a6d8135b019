# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # humanpref: inference
#
# The kernel first writes a valid `submission.csv` with the class rates of the training rows. Then
# it installs humanpref from the wheel dataset, without a network, and replaces those rates with
# predictions, block by block. Failures after the first step are logged and listed in `status.json`
# under `degraded`; in the hidden rerun, they do not invalidate the submission. In the commit run,
# which the push starts, an artifact that predicts nothing ends the kernel with an error, so that
# Kaggle does not accept it for submission.
#
# `make kernels` writes the pushed notebook, `kernel/infer/infer.ipynb`, from `kernel/infer.py` and
# the code that the kernels share.

# %%
import contextlib
import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
import traceback
from pathlib import Path

from bootstrap import (
    INPUT,
    WORKING,
    check_dataset,
    find_dataset,
    go_offline,
    install,
    manifest_digest,
    one_line,
)

from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT, WINNERS, Competition
from humanpref.kaggle.runtime.mounts import find, tree

# %% [markdown]
# The fallback: the same class rates, or the same winner, for every id of the test file.

# %%
SUBMISSION, STATUS, LOG = WORKING / "submission.csv", WORKING / "status.json", WORKING / "infer.log"


def say(text: str) -> None:
    """Print a line and, if there is space, keep it in the log file."""
    print(text, flush=True)
    with (
        contextlib.suppress(OSError),
        open(LOG, "a", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(f"{text}\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_status() -> None:
    """Write the status file. If that fails, only log it, since the submission does not need it."""
    try:
        write_whole(STATUS, json.dumps(status, indent=2))
    except OSError as error:
        say(f"{STATUS}: {one_line(error)}")


def find_test() -> tuple[Competition, Path]:
    """Return the competition and the path of its test file. The file must have a sample submission
    next to it, and the competition's name in its path. If there is no such file, a test.csv under
    any other path counts as the default competition's."""
    known = [*COMPETITIONS.values(), COMPETITIONS[DEFAULT]]
    for number, competition in enumerate(known):
        for path in find(competition.test, INPUT):
            named = competition.slug in path.parts or number == len(known) - 1
            if named and path.with_name(competition.sample).is_file():
                return competition, path
    raise RuntimeError(f"no test.csv with a sample_submission.csv next to it; {tree(INPUT)}")


def columns_of(path: Path, columns: list[str]) -> list[list[str]]:
    """Return the named columns of a CSV or a Parquet file as text, row by row."""
    if path.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        # Without pandas, which uses a thread that can abort Python if Python exits soon afterwards.
        table = ParquetFile(path).read(columns, use_threads=False)
        cells = [table[column].to_pylist() for column in columns]
        return [[*map(str, row)] for row in zip(*cells, strict=True)]
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        places = [header.index(column) for column in columns]
        return [[row[place] for place in places] for row in rows if row]


def as_rates(values: list[float]) -> list[float]:
    """Scale three class rates to a sum of 1; raise ValueError for invalid values."""
    rates = [float(value) for value in values]
    total = sum(rates)
    if (
        len(rates) != 3
        or not all(math.isfinite(rate) and rate >= 0 for rate in rates)
        or total <= 0
    ):
        raise ValueError(f"expected three class rates, got {values!r}")
    return [rate / total for rate in rates]


def find_prior(competition: Competition, test_csv: Path) -> tuple[list[float], str]:
    """Return the class rates of the training rows and their source: an artifact, otherwise the
    training file, otherwise equal rates."""
    for path in find("artifact.json", INPUT):
        try:
            return as_rates(json.loads(path.read_text(encoding="utf-8"))["prior"]), str(path)
        except Exception as error:
            say(f"{path}: no usable prior ({type(error).__name__}: {error})")
    train_csv = test_csv.with_name(competition.train)
    try:
        labels = columns_of(train_csv, list(competition.submission[1:]))
        if competition.names_winner:
            labels = [[row[0] == winner for winner in (*WINNERS, "tie")] for row in labels]
        return as_rates([sum(float(row[i]) for row in labels) for i in range(3)]), str(train_csv)
    except Exception as error:
        say(f"{train_csv}: no usable class rates ({type(error).__name__}: {error})")
    return competition.even, f"a {'third' if competition.classes == 3 else 'half'} each"


started = time.perf_counter()
WORKING.mkdir(parents=True, exist_ok=True)
competition, test_csv = find_test()
ids = [row[0] for row in columns_of(test_csv, [competition.submission[0]])]
prior, prior_source = find_prior(competition, test_csv)
cells = competition.cells(prior)
rows = io.StringIO()
csv.writer(rows, lineterminator="\n").writerows(
    [competition.submission, *([key, *cells] for key in ids)]
)
try:
    write_whole(SUBMISSION, rows.getvalue())
except OSError as error:
    raise RuntimeError(f"{SUBMISSION}: {one_line(error)}") from None
status = {
    "manifest": "",
    "run": "rerun" if os.environ.get("KAGGLE_IS_COMPETITION_RERUN") else "commit",
    "rows": len(ids),
    "predicted": 0,
    "fallback": len(ids),
    "prior": prior,
    "prior_source": prior_source,
    "competition": competition.slug,
    "artifacts": [],
    "degraded": [f"{len(ids)} of {len(ids)} rows have the prior"],
    "log": LOG.name,
    "seconds": {"fallback": time.perf_counter() - started},
}
write_status()
say(
    f"fallback written: {len(ids)} rows of {', '.join(f'{rate:.4f}' for rate in prior)} "
    f"({prior_source})"
)

# %% [markdown]
# The predictions come from a separate process. If it crashes, runs out of memory or exceeds the
# time limit, the submission is kept as it was at that moment.

# %%
SECONDS = 8.5 * 3600  # the competition allows 9 hours
CODE = """
import json, logging, sys, traceback
from pathlib import Path
from humanpref.kaggle.runtime.infer import infer

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
arguments = json.loads(sys.argv[1])
folders = (Path(arguments[name]) for name in ("input", "working", "test"))
try:
    infer(*folders, arguments["prior"], arguments["seconds"], arguments["competition"])
except Exception as error:
    traceback.print_exc()
    sys.exit("inference failed: " + f"{type(error).__name__}: {error}".splitlines()[0])
"""
FAILED = "inference failed: "


def predict() -> None:
    """Install humanpref, run its inference and log its output; raise an error if either fails."""
    go_offline()
    dataset = find_dataset()
    status["manifest"] = manifest_digest(dataset)
    write_status()
    install(check_dataset(dataset))
    status["seconds"]["install"] = time.perf_counter() - started - status["seconds"]["fallback"]
    write_status()
    run = tomllib.loads((dataset / "run.toml").read_text(encoding="utf-8"))
    if (bundled := run.get("competition", DEFAULT)) != competition.slug:
        raise RuntimeError(
            f"{dataset / 'run.toml'}: is for the competition {bundled}, but {competition.slug} is "
            "mounted"
        )
    limit = max(0, run.get("inference_seconds", SECONDS) - (time.perf_counter() - started))
    # The process gets less time than the limit, since starting and exiting also take time; this way
    # it normally ends on its own.
    seconds = limit - min(60, limit / 10)
    arguments = {
        "input": str(INPUT),
        "working": str(WORKING),
        "test": str(test_csv),
        "prior": prior,
        "seconds": seconds,
        "competition": competition.slug,
    }
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", CODE, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    alarm = threading.Timer(limit, stop)
    alarm.start()
    cause = ""
    try:
        for line in child.stdout:
            say(line.rstrip())
            if line.startswith(FAILED):
                cause = f": {line.removeprefix(FAILED).strip()}"
        code = child.wait()
    finally:
        alarm.cancel()
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    if late.is_set():
        raise TimeoutError(f"stopped after {time.perf_counter() - started:.0f} seconds")
    if code != 0:
        name = f" ({signal.Signals(-code).name}; out of memory?)" if code < 0 else ""
        raise RuntimeError(f"the inference process ended with {code}{name}{cause}")


reasons = []
try:
    predict()
except Exception as error:
    reasons.append(one_line(error))
    say(traceback.format_exc())
try:
    status = json.loads(STATUS.read_text(encoding="utf-8"))  # the inference process added to it
except (OSError, ValueError) as error:
    reasons.append(f"{STATUS}: {error}")
status["degraded"] = reasons + status["degraded"]
status["seconds"]["total"] = time.perf_counter() - started
write_status()
say(
    f"submission.csv: {status['rows']} rows, {status['predicted']} predicted, {status['fallback']} "
    "fallback" + "".join(f"\ndegraded: {reason}" for reason in status["degraded"])
)
idle = [
    f"{entry['folder']} predicted nothing" for entry in status["artifacts"] if not entry["rows"]
]
if status["run"] == "commit" and (idle or not status["predicted"]):
    raise RuntimeError("; ".join([*(idle or ["nothing was predicted"]), *status["degraded"]]))
