"""No check ends the run: neither one that fails, crashes or hangs, nor the end of the time."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("peft")

from humanpref.kaggle.acceptance.runner import CHECKS, attempt, run, table, verdict
from humanpref.kaggle.acceptance.setting import Row, Setting

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu_acceptance.py"
QUICK = Setting(quick=True)


def broken(_):
    yield Row("a", "first", "1", "1", True)
    raise ValueError("two\nlines")


def test_an_error_is_a_row_and_earlier_rows_stay():
    first, second = attempt("a", broken, QUICK)
    assert first.passed
    assert (second.passed, second.measured) == (False, "ValueError: two lines")


def test_the_verdict_counts():
    rows = list(attempt("a", broken, QUICK))
    assert verdict(rows[:1]) == "PASS: 1 passed, 0 failed, 0 not judged"
    assert verdict(rows) == "FAIL: 1 passed, 1 failed, 0 not judged"
    # A run in which nothing could be judged has not passed.
    assert verdict([]).startswith("FAIL")
    assert "| a | first | 1 | 1 | PASS |" in table(rows)
    assert r"| a | x \| y | 1 | 1 | not judged |" in table([Row("a", "x | y", "1", "1", None)])


@pytest.mark.slow
def test_a_crash_and_a_hang_are_rows(capfd):
    checks = {
        # Iterators that call a function of another process.
        "crash": (partial(iter, os.abort), 120),
        "hang": (partial(iter, partial(time.sleep, 1_000)), 1),
        "device": CHECKS["device"],
    }
    crash, hang, device = run(QUICK, 480, checks)
    assert (crash.passed, crash.measured) == (False, "its process ended with -6")
    assert (hang.passed, hang.measured) == (False, "stopped after 1 s")
    assert device.check == "device"
    (late,) = run(QUICK, 0, {"hang": checks["hang"]})
    assert (late.passed, late.measured) == (False, "no time is left")
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_the_script_runs_every_check_in_small(tmp_path):
    command = [sys.executable, SCRIPT, "--quick", "--seconds", "2000", "--json", tmp_path / "rows"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--table", tmp_path / "table"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == (tmp_path / "table").read_text()
    assert done.stdout.splitlines()[-1].startswith("PASS: ")
    found = json.loads((tmp_path / "rows").read_text())
    assert found["verdict"] == done.stdout.splitlines()[-1]
    assert {row["check"] for row in found["rows"]} == {
        *(name for name in CHECKS if not name.startswith("speed")),
        *("memory", "training", "inference"),
    }
