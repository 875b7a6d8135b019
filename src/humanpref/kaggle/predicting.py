"""What one model says of the test rows, here or in one process for each GPU. A row that fails costs that row alone."""

import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.models import Model, load_model
from humanpref.models.base import predicted
from humanpref.models.budget import Budget, schedule
from humanpref.schema import ID

logger = logging.getLogger(__name__)

BLOCK_ROWS = 1_024
"""At most so many rows are predicted between two writes of the submission."""
MAX_FAILURES = 50
"""After so many failed calls a model is given up. Finding the one bad row of a block takes about ten."""

Outcome = tuple[np.ndarray, np.ndarray | str]
"""Row numbers (m,) with their probabilities (m, 3); or the number of one row, and why there are none."""


def outcomes(model: Model, pairs: pd.DataFrame, budget: Budget) -> Iterator[Outcome]:
    """Predict block by block; a block that fails is halved down to the rows at fault.

    Raises
    ------
    RuntimeError
        After `MAX_FAILURES` failed calls.
    """
    failed = 0
    for block, variant in schedule(model, pairs, budget, BLOCK_ROWS):
        pending = [block]
        while pending:
            rows = pending.pop()
            try:
                made = predicted(variant, pairs.iloc[rows].reset_index(drop=True))
            # SystemExit too: a library that calls sys.exit must not end the other rows' work. MemoryError is an Exception.
            except (Exception, SystemExit) as error:
                failed += 1
                logger.exception("%d rows failed, the first of them id %r", len(rows), pairs[ID].iloc[rows[0]])
                if len(rows) == 1:
                    yield rows, describe(error)
                if failed == MAX_FAILURES:
                    raise RuntimeError(
                        f"given up after {failed} failed calls, the last of them: {describe(error)}"
                    ) from error
                if len(rows) > 1:
                    pending += np.array_split(rows, 2)[::-1]
            else:
                yield rows, made
                continue
            free()


def shared_out(folder: Path, pairs: pd.DataFrame, budget: Budget, workers: int) -> Iterator[Outcome]:
    """The outcomes of the model in a folder, each GPU with a process of its own that predicts every so-manieth row.

    Raises
    ------
    RuntimeError
        When all have ended, if one of them did not end well; what the others made has come by then.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in the middle of their work
    running: dict[connection.Connection, tuple[Any, int, np.ndarray]] = {}
    reasons = []
    until = time.time() + budget.left()
    for number in range(workers):
        rows = np.arange(number, len(pairs), workers)
        ours, theirs = context.Pipe(duplex=False)
        order = (number, folder, pairs.iloc[rows].reset_index(drop=True), until, theirs)
        process = context.Process(target=_work, args=order, daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the process
        running[ours] = process, number, rows
    try:
        while running:
            for pipe in connection.wait(list(running)):
                process, number, rows = running[pipe]
                try:
                    message = pipe.recv()
                except EOFError:
                    process.join()
                    if process.exitcode:
                        reasons.append(f"GPU {number}: its process ended with {process.exitcode}")
                    del running[pipe]
                    continue
                if isinstance(message, Counter):
                    budget.given_up.update(message)
                elif isinstance(message, str):
                    reasons.append(message)
                else:
                    own, made = message
                    yield rows[own], made
    finally:
        for process, _, _ in running.values():
            process.kill()
    if reasons:
        raise RuntimeError("; ".join(reasons))


def _work(number: int, folder: Path, pairs: pd.DataFrame, until: float, pipe: connection.Connection) -> None:
    """One of the processes of `shared_out`. If the one that started it is gone, sending fails, and it ends."""
    # Before torch is imported: this process sees its own GPU alone.
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    logging.basicConfig(level=logging.INFO, format=f"GPU {number}: %(message)s", stream=sys.stdout)
    budget = Budget(until - time.time())
    try:
        for outcome in outcomes(load_model(folder), pairs, budget):
            pipe.send(outcome)
    except (Exception, SystemExit) as error:
        logger.exception("%s: failed", folder)
        pipe.send(f"GPU {number}: {describe(error)}")
    pipe.send(budget.given_up)


def free() -> None:
    """Give back the memory of models that are no longer referenced."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
