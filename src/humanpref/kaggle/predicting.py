"""What one model says of the test rows, here or in one process for each GPU. A row that fails costs that row alone.

A model that reads both orders of A and B is shared out to two GPUs in one of two ways (`inference.split`), equal in cost and in
what comes out. `rows`, the default, which every model can: each reads half of the rows, in both orders. `orders`: each reads all
rows, in one order; it begins with the half that `rows` would give it and goes on with the other's. That is good for early and for
broken ends: every row is predicted after half of the time, and where one process dies or fails on a row, the other one's order
stands. Of the time budget's steps (`humanpref.models.budget`) the first, no swap averaging, is then a row that was read once.
"""

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

from humanpref.data import swap_pairs
from humanpref.models import Model, load_model
from humanpref.models.base import BadRowsError, predicted
from humanpref.models.budget import LEFT, ONE_ORDER, Budget, schedule
from humanpref.schema import ID, SWAPPED_CLASSES

logger = logging.getLogger(__name__)

BLOCK_ROWS = 1_024
"""At most so many rows are predicted between two writes of the submission."""
MAX_FAILURES = 50
"""After so many failed calls one after the other a model is given up. Finding the one bad row of a block takes about ten."""

Outcome = tuple[np.ndarray, np.ndarray | str]
"""Row numbers (m,) with their probabilities (m, 3); or the number of one row, and why there are none."""


def outcomes(model: Model, pairs: pd.DataFrame, budget: Budget, whole: bool = False) -> Iterator[Outcome]:
    """Predict block by block; a block that fails is halved down to the rows at fault. With `whole` by no cheaper variant.

    Raises
    ------
    RuntimeError
        After `MAX_FAILURES` failed calls, without one between that did not fail.
    """
    failed = 0  # one after the other
    for block, variant in schedule(model, pairs, budget, BLOCK_ROWS, whole):
        pending = [block]
        while pending:
            rows = pending.pop()
            try:
                made, bad, why = _said(variant, pairs.iloc[rows].reset_index(drop=True))
            # SystemExit too: a library that calls sys.exit must not end the other rows' work. MemoryError is an Exception.
            except (Exception, SystemExit) as error:
                failed += 1
                logger.exception("%d rows failed, the first of them id %r", len(rows), pairs[ID].iloc[rows[0]])
                if len(rows) == 1:
                    yield rows, describe(error)
                if failed == MAX_FAILURES:
                    raise RuntimeError(
                        f"given up after {failed} failed calls in a row, the last of them: {describe(error)}"
                    ) from error
                if len(rows) > 1:
                    pending += np.array_split(rows, 2)[::-1]
            else:
                failed = 0
                yield rows[~bad], made[~bad]
                for row in rows[bad]:
                    logger.error("id %r: %s", pairs[ID].iloc[row], why)
                    yield np.array([row]), why
                continue
            free()


def _said(model: Model, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, str]:
    """What the model says of the rows, (n, 3), of which it says nothing of use, (n,) bool, and why; raises where of none."""
    try:
        return predicted(model, pairs), np.zeros(len(pairs), dtype=bool), ""
    except BadRowsError as error:
        if error.bad.all():
            raise
        return error.said, error.bad, describe(error)


def shared_out(
    folder: Path, pairs: pd.DataFrame, budget: Budget, workers: int, split: str = "rows"
) -> Iterator[Outcome]:
    """The outcomes of the model in a folder, from a process of its own for each GPU.

    With the split `orders` a row comes twice, the second time with the mean over both orders of A and B.

    Raises
    ------
    RuntimeError
        When all have ended, if one of them did not end well; what the others made has come by then.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in the middle of their work
    running: dict[connection.Connection, tuple[Any, int, int, np.ndarray]] = {}
    reasons = []
    frames = (pairs, swap_pairs(pairs))
    told, heard = np.full((2, len(pairs), 3), np.nan), np.zeros((2, len(pairs)), dtype=bool)  # of each frame
    late = np.zeros(len(pairs), dtype=bool)
    until = time.time() + budget.left()
    for number, parts in enumerate(_shares(len(pairs), workers, split)):
        ours, theirs = context.Pipe(duplex=False)
        order = number % 2 if split == "orders" else 0
        own = [frames[order].iloc[rows].reset_index(drop=True) for rows in parts]
        process = context.Process(target=_work, args=(number, folder, own, until, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the process
        running[ours] = process, number, order, np.concatenate(parts)
    try:
        while running:
            for pipe in connection.wait(list(running)):
                process, number, order, rows = running[pipe]
                try:
                    message = pipe.recv()
                except EOFError:
                    process.join()
                    if process.exitcode:
                        reasons.append(f"GPU {number}: its process ended with {process.exitcode}")
                    del running[pipe]
                    continue
                if isinstance(message, Counter):
                    if message.pop(LEFT, 0):
                        late[rows[~heard[order, rows]]] = True
                    budget.given_up.update(message)
                elif isinstance(message, str):
                    reasons.append(message)
                else:
                    own, made = rows[message[0]], message[1]
                    heard[order, own] = True
                    if isinstance(made, str):
                        yield own, f"{made} (with A and B exchanged)" if order else made
                    else:
                        told[order, own] = made[:, SWAPPED_CLASSES] if order else made
                        yield own, np.nanmean(told[:, own], axis=0)
    finally:
        for process, *_ in running.values():
            process.kill()
    once = ~np.isnan(told[:, :, 0]).all(axis=0)
    budget.given_up += Counter({ONE_ORDER: int((late & once).sum()), LEFT: int((late & ~once).sum())})
    if reasons:
        raise RuntimeError("; ".join(reasons))


def _shares(rows: int, workers: int, split: str) -> list[list[np.ndarray]]:
    """The row numbers of a process: every so-manieth; with `orders` then those of its neighbour, which reads the other order."""
    if split == "rows" or workers == 1:
        return [[np.arange(number, rows, workers)] for number in range(workers)]
    own = _shares(rows, workers - workers % 2, "rows")
    return [own[number] + own[number ^ 1] for number in range(len(own))]


def _work(number: int, folder: Path, parts: list[pd.DataFrame], until: float, pipe: connection.Connection) -> None:
    """One of the processes of `shared_out`. If the one that started it is gone, sending fails, and it ends."""
    # Before torch is imported: this process sees its own GPU alone.
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    logging.basicConfig(level=logging.INFO, format=f"GPU {number}: %(message)s", stream=sys.stdout)
    budget = Budget(until - time.time())
    try:
        model = load_model(folder)
        if len(parts) > 1:
            model = model.in_one_order()
        done = 0
        for part in parts:
            if budget.given_up[LEFT]:  # there is no time for a second order, then
                break
            if done:
                logger.info("the second order of A and B, of %d rows", len(part))
            for rows, made in outcomes(model, part, budget, whole=done > 0):
                pipe.send((done + rows, made))
            done += len(part)
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
