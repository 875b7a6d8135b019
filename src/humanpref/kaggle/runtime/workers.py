"""What one model says of the test rows, here or in one process for each GPU.

A row that fails costs that row alone, and so does a row that ends the process which predicts it:
what a process had not done when it ended is dealt anew, to the others or to a fresh process on its
GPU, within the same time.
"""

import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref.models import Model, load_model
from humanpref.models.base import BadRowsError, predicted
from humanpref.models.budget import LEFT, Budget, schedule
from humanpref.schema import ID
from humanpref.training import device

logger = logging.getLogger(__name__)

BLOCK_ROWS = 1_024
"""At most so many rows are predicted between two writes of the submission."""
MAX_FAILURES = 50
"""After so many failed calls one after the other a model is given up. Finding the one bad row of a
block takes about ten."""
BROKEN = "CUDA error"
"""Stands in errors after which a process can do nothing more on its GPU: the row at fault is in the
block that raised it."""
MAX_DEATHS = 20
"""So many processes may end one after the other without any outcome before a GPU is used no more.
Finding the one row of a block that ends them takes about ten."""
MAX_LOADS = 2
"""The same of processes that end while they load the model."""
GRACE_SECONDS = 60
"""So long after the time is over a process that has not finished is taken to hang, and is ended."""
CONTEXT: Any = multiprocessing.get_context("spawn")
"""How processes are started; a fork would inherit torch's threads in the middle of their work."""

Outcome = tuple[np.ndarray, np.ndarray | str]
"""Row numbers (m,) with their probabilities (m, 3); or the number of one row, and why there are
none."""


def outcomes(
    model: Model,
    pairs: pd.DataFrame,
    budget: Budget,
    begin: Callable[[np.ndarray], None] | None = None,
) -> Iterator[Outcome]:
    """Predict block by block; a block that fails is halved down to the rows at fault.

    `begin`, if given, is told the numbers of the rows that are tried next.

    Raises
    ------
    RuntimeError
        After `MAX_FAILURES` failed calls, without one between that did not fail; at once where the
        GPU is of no more use to this process (`BROKEN`).
    """
    failed = 0  # one after the other
    for block, variant in schedule(model, pairs, budget, BLOCK_ROWS):
        pending = [block]
        while pending:
            rows = pending.pop()
            if begin is not None:
                begin(rows)
            try:
                made, bad, why = _said(variant, pairs.iloc[rows].reset_index(drop=True))
            # SystemExit too: a library that calls sys.exit must not end the other rows' work.
            # MemoryError is an Exception.
            except (Exception, SystemExit) as error:
                if BROKEN in str(error):
                    raise
                failed += 1
                logger.exception(
                    "%d rows failed, the first of them id %r", len(rows), pairs[ID].iloc[rows[0]]
                )
                if len(rows) == 1:
                    yield rows, describe(error)
                if failed == MAX_FAILURES:
                    raise RuntimeError(
                        f"given up after {failed} failed calls in a row, the last of them: "
                        f"{describe(error)}"
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
    """What the model says of the rows, (n, 3), of which it says nothing of use, (n,) bool, and why;
    raises where of none."""
    try:
        return predicted(model, pairs), np.zeros(len(pairs), dtype=bool), ""
    except BadRowsError as error:
        if error.bad.all():
            raise
        return error.said, error.bad, describe(error)


def shared_out(folder: Path, pairs: pd.DataFrame, budget: Budget, gpus: int) -> Iterator[Outcome]:
    """The outcomes of the model in a folder, from a process of its own for each GPU.

    The first outcome has no rows: the model has been loaded. The rows of a process that ends before
    its time are dealt anew. Rows on which two processes have ended are tried apart from the others,
    in halves of halves, down to the single row; that one is given up.

    Raises
    ------
    RuntimeError
        At the end, if a process did not end well; what there is has come by then.
    """
    crew = _Crew(folder, pairs, budget, gpus)
    try:
        yield from crew.outcomes()
    finally:
        crew.end()
    if crew.reasons:
        told = [
            f"{why} ({times} times)" if times > 1 else why for why, times in crew.reasons.items()
        ]
        counts = {"were dealt anew": crew.anew.sum() - crew.left, "have no process left": crew.left}
        raise RuntimeError(
            "; ".join(told + [f"{rows} rows {what}" for what, rows in counts.items() if rows])
        )


@dataclass
class _Worker:
    """A process, and the numbers of the rows that it still has to do."""

    gpu: int
    process: BaseProcess
    pipe: connection.Connection
    rows: np.ndarray
    apart: bool = False
    """These rows have ended two processes: no others are added to them."""
    loaded: bool = False
    delivered: bool = False
    block: np.ndarray | None = None
    """What it is predicting now; None before its first block and between two."""

    @property
    def in_flight(self) -> np.ndarray:
        """The rows that may be why it ended: none while it loads the model, and all while it
        measures them."""
        if not self.loaded:
            return self.rows[:0]
        return self.rows if self.block is None else self.block


class _Crew:
    """The processes that share a model's rows, and the rows that no process has."""

    def __init__(self, folder: Path, pairs: pd.DataFrame, budget: Budget, gpus: int) -> None:
        self.budget = budget
        self.order = folder, pairs, time.time() + budget.left()
        self.usable = set(range(gpus))
        self.workers: list[_Worker] = []
        self.loaded = False
        self.rest = np.arange(len(pairs))
        self.suspects: list[np.ndarray] = []
        self.deaths = np.zeros(len(pairs), dtype=np.int64)
        """Processes that ended with a row in flight."""
        self.barren: Counter[int] = Counter()
        """Processes of a GPU that ended one after the other without any outcome."""
        self.anew = np.zeros(len(pairs), dtype=bool)
        self.reasons: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Rows that no process has."""
        return len(self.rest) + sum(map(len, self.suspects))

    def outcomes(self) -> Iterator[Outcome]:
        """Deal and collect until no row is left that a process could do."""
        self._deal()
        while any(len(worker.rows) for worker in self.workers):
            patience = max(0.0, self.budget.left() + GRACE_SECONDS)
            # No timer takes the infinite.
            ready = connection.wait(
                [w.pipe for w in self.workers], patience if patience < 1e6 else None
            )
            for worker in [worker for worker in self.workers if worker.pipe in ready]:
                yield from self._hear(worker)
            for worker in [worker for worker in self.workers if len(worker.rows) and not ready]:
                yield from self._ended(worker, "its process did not finish in time", on_rows=False)
            self._deal()

    def end(self) -> None:
        """End all processes; they have nothing left to do, or nobody to do it for."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()  # so that its GPU is free for the next model

    def _deal(self) -> None:
        """Give the rows that no process has to those that wait, else to a fresh one, else to those
        at work."""
        if self.budget.left() <= 0:
            if self.left:
                logger.warning("time budget: spent, %d rows are %s", self.left, LEFT)
                self.budget.given_up[LEFT] += self.left
            self.rest, self.suspects = self.rest[:0], []
            return
        waiting: list[_Worker | int] = [worker for worker in self.workers if not len(worker.rows)]
        vacant = sorted(self.usable - {worker.gpu for worker in self.workers})
        if len(self.rest):
            takers = waiting or vacant or [worker for worker in self.workers if not worker.apart]
            for number, taker in enumerate(takers):
                self._give(taker, self.rest[number :: len(takers)])
            self.rest = self.rest[:0] if takers else self.rest
            return
        for taker in [*waiting, *vacant]:
            if self.suspects:
                self._give(taker, self.suspects.pop(), apart=True)

    def _give(self, taker: _Worker | int, rows: np.ndarray, apart: bool = False) -> None:
        """Give rows to a process, or to a fresh one on the GPU of this number."""
        if not len(rows):
            return
        if isinstance(taker, int):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=work, args=(taker, *self.order, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the pipe ends with the process
            taker = _Worker(taker, process, ours, rows[:0])
            self.workers.append(taker)
        taker.rows, taker.apart = np.union1d(taker.rows, rows), apart
        with suppress(OSError):  # it has just ended, as its pipe will say
            taker.pipe.send(rows)

    def _hear(self, worker: _Worker) -> Iterator[Outcome]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            yield from self._ended(
                worker, f"its process ended with {worker.process.exitcode}", on_rows=True
            )
            return
        match message:
            case "loaded":
                worker.loaded = True
                if not self.loaded:
                    self.loaded = True
                    yield self.rest[:0], np.empty((0, 3))
            case "begins", rows:
                worker.block = rows
            case "fails", why, on_rows:
                yield from self._ended(worker, why, on_rows)
            case _, rows, made, given_up:
                self.budget.given_up.update(given_up)
                worker.rows, worker.block = np.setdiff1d(worker.rows, rows), None
                if made is not None:
                    worker.delivered = True
                    yield rows, made

    def _ended(self, worker: _Worker, why: str, on_rows: bool) -> Iterator[Outcome]:
        """Take back what a process had not done. `on_rows`: what it was doing may be the reason,
        and not the model."""
        self.workers.remove(worker)
        worker.process.kill()  # one that says why it ends may hold its GPU's memory a while longer
        worker.process.join()
        if not len(worker.rows):
            logger.warning("GPU %d: %s, after all of its work", worker.gpu, why)
            return
        logger.error("GPU %d: %s; %d rows are dealt anew", worker.gpu, why, len(worker.rows))
        self.reasons[f"GPU {worker.gpu}: {why}"] += 1
        self.anew[worker.rows] = True
        self.barren[worker.gpu] = 0 if worker.delivered else self.barren[worker.gpu] + 1
        if not on_rows or self.barren[worker.gpu] >= (MAX_DEATHS if worker.loaded else MAX_LOADS):
            self.usable.discard(worker.gpu)
        flying = worker.in_flight if on_rows else worker.rows[:0]
        self.deaths[flying] += 1
        guilty = worker.rows[self.deaths[worker.rows] >= 2]
        self.rest = np.union1d(self.rest, np.setdiff1d(worker.rows, guilty))
        tried = np.intersect1d(guilty, flying)
        groups = [np.setdiff1d(guilty, tried), *np.array_split(tried, 2)]
        if len(flying) == len(tried) == 1:
            groups = groups[:1]
            yield tried, f"{why} with this row alone"
        self.suspects += [rows for rows in groups if len(rows)]


def work(
    gpu: int, folder: Path, pairs: pd.DataFrame, until: float, pipe: connection.Connection
) -> None:
    """One of the processes of `shared_out`. If the one that started it is gone, its pipe ends, and
    so does it."""
    # Before torch is imported: this process sees its own GPU alone.
    os.environ["CUDA_VISIBLE_DEVICES"] = device.names(gpu + 1)[gpu]
    logging.basicConfig(level=logging.INFO, format=f"GPU {gpu}: %(message)s", stream=sys.stdout)
    budget = Budget(until - time.time())

    def tell(kind: str, rows: np.ndarray, made: np.ndarray | str | None) -> None:
        pipe.send((kind, rows, made, budget.given_up))
        budget.given_up.clear()

    try:
        rows = pipe.recv()
        model = load_model(folder)
        pipe.send("loaded")
        while True:
            part = rows
            frame = pairs.iloc[part].reset_index(drop=True)
            for own, made in outcomes(model, frame, budget, partial(_begin, pipe, part)):
                tell("made", part[own], made)
                rows = np.setdiff1d(rows, part[own])
                if pipe.poll():  # more rows: the time left is planned anew
                    break
            else:
                tell("late", rows, None)
                rows = rows[:0]
            rows = np.union1d(rows, pipe.recv())
    except EOFError:
        return
    except (Exception, SystemExit) as error:
        logger.exception("%s: failed", folder)
        pipe.send(("fails", describe(error), BROKEN in str(error)))


def _begin(pipe: connection.Connection, part: np.ndarray, own: np.ndarray) -> None:
    pipe.send(("begins", part[own]))


def free() -> None:
    """Give back the memory of models that are no longer referenced."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
