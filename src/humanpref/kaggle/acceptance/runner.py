"""Run the checks one by one, each in its own process with a time limit, and make one table of
their results."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pandas as pd

from humanpref.kaggle.acceptance import card
from humanpref.kaggle.acceptance.attention import attention
from humanpref.kaggle.acceptance.correctness import parity, resume
from humanpref.kaggle.acceptance.out_of_memory import out_of_memory
from humanpref.kaggle.acceptance.processes import processes
from humanpref.kaggle.acceptance.setting import Row, Setting
from humanpref.kaggle.acceptance.speed import speed
from humanpref.reports.table_text import markdown

SECONDS = 480.0
"""Time limit of all checks together."""
PRESETS = (
    "deberta-v3-small",
    "deberta-v3-base",
    "deberta-best",
    "albert-base-v2",
    "llama-3.2-1b-lora",
    "llama-3.2-1b-dpo",
    "gemma-2-9b-qlora",
    "qwen-2.5-7b-qlora",
)
Check = Callable[[Setting], Iterable[Row]]
FIRST = "device"
CHECKS: dict[str, tuple[Check, float]] = {
    FIRST: (card.check, 60),
    "parity with the CPU": (parity, 120),
    "resume": (resume, 60),
    "out of memory": (out_of_memory, 60),
    "fused attention": (attention, 60),
    "two processes": (processes, 150),
    **{f"speed of {preset}": (partial(speed, preset=preset), 60) for preset in PRESETS},
}
"""The checks and their time limits in seconds, in order."""


def attempt(name: str, check: Check, setting: Setting) -> Iterator[Row]:
    """Run a check in this process and yield its rows. An error becomes a row that failed."""
    try:
        yield from check(setting)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        yield Row(name, "error", reason, "no error", False)


def run(
    setting: Setting, seconds: float = SECONDS, checks: dict[str, tuple[Check, float]] = CHECKS
) -> list[Row]:
    """Run each check in its own process, and return the rows of all checks. A check that hangs is
    killed. For a check that crashes or is killed, a row that failed is added.

    Parameters
    ----------
    setting : Setting
        The options of the checks.
    seconds : float
        Time limit of all checks together. The limits in `checks` are scaled by `seconds / SECONDS`.
    checks : dict
        Functions and time limits, as in `CHECKS`; other processes must be able to import the
        functions.
    """
    context = multiprocessing.get_context("forkserver")
    # A server process imports this module once, and each check is a fork of that process. A fork
    # can use CUDA only if no import has started it; with this variable, looking for GPUs does not.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    context.set_forkserver_preload([__name__])
    until, rows = time.monotonic() + seconds, []
    for name, (check, own) in checks.items():
        limit = min(own * seconds / SECONDS, until - time.monotonic())
        print(f"{name}: at most {max(0.0, limit):.0f} s", file=sys.stderr, flush=True)
        if limit <= 0:
            late = f"{seconds:.0f} s for all checks"
            rows.append(Row(name, "error", "no time is left", late, False))
            continue
        found = list(_watched(context, name, check, setting, limit))
        if name == FIRST and any(row.passed is False for row in found):
            # Perhaps an import has started CUDA. New processes start more slowly, but without it.
            context = multiprocessing.get_context("spawn")
            found = list(_watched(context, name, check, setting, limit))
        rows += found
    return rows


def _watched(
    context: Any, name: str, check: Check, setting: Setting, seconds: float
) -> Iterator[Row]:
    """Run a check in another process, and yield its rows until it ends or its time runs out."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, name, check, setting))
    started = time.monotonic()
    process.start()
    sender.close()
    reason = ""
    try:
        while receiver.poll(max(0.0, seconds - (time.monotonic() - started))):
            if (row := receiver.recv()) is None:
                break
            yield row
        else:
            reason = f"stopped after {seconds:.0f} s"
    except EOFError:
        process.join(5)
        reason = f"its process ended with {process.exitcode}"
    if not reason:
        process.join(5)
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # the process has no group of its own yet, or has just ended
            process.kill()
    process.join()
    if reason:
        yield Row(name, "error", reason, "an end", False)


def _work(sender: Connection, name: str, check: Check, setting: Setting) -> None:
    """Run a check in this process, send its rows through the pipe, and send None at the end."""
    os.setsid()  # so that the processes that the check starts can be killed with it
    os.dup2(2, 1)  # standard output is for the table
    for row in attempt(name, check, setting):
        sender.send(row)
    sender.send(None)


def table(rows: list[Row]) -> str:
    """Return the rows as one Markdown table."""
    names = {True: "PASS", False: "FAIL", None: "not judged"}
    cells = [[row.check, row.case, row.measured, row.expected, names[row.passed]] for row in rows]
    columns = ["check", "case", "measured", "expected", "result"]
    return markdown(pd.DataFrame(cells, columns=columns))


def verdict(rows: list[Row]) -> str:
    """Return PASS or FAIL, with the number of rows for each result.

    Examples
    --------
    >>> verdict([Row("resume", "encoder", "", "", True), Row("memory", "", "", "", None)])
    'PASS: 1 passed, 0 failed, 1 not judged'
    """
    number = {result: sum(row.passed is result for row in rows) for result in (True, False, None)}
    word = "FAIL" if number[False] or not number[True] else "PASS"
    return f"{word}: {number[True]} passed, {number[False]} failed, {number[None]} not judged"
