"""Divide one model's rows among several processes, one per GPU.

If a row fails or crashes the process that predicts it, only that row is lost. The unfinished rows
of a process that ends are reassigned to the other processes, or to a new process on the same GPU,
within the same time limit.
"""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from humanpref.runs.budget import ONE_ORDER, UNREAD, Budget
from humanpref.runs.ensemble import Leaf
from humanpref.runs.schedule import BROKEN, Result, Schedule, describe
from humanpref.schema import ID, InputError, counted
from humanpref.text.token_memo import TokenMemos
from humanpref.training import device

logger = logging.getLogger(__name__)

MAX_DEATHS = 20
"""A GPU is no longer used after this many consecutive processes on it have ended without any
result. Finding the one row of a block that crashes every process takes about ten processes."""
MAX_LOADS = 2
"""A GPU is no longer used after this many consecutive processes on it have ended while loading the
model."""
GRACE_SECONDS = 60
"""Seconds to wait, once time has run out, before treating an unfinished process as hung."""
CONTEXT: Any = multiprocessing.get_context("spawn")
"""Processes are spawned, since a forked process would inherit torch's threads in the middle of
their work."""


class ProcessEndedError(RuntimeError):
    """A process ended, usually because the system killed it for using too much memory, and no other
    process can predict its rows."""


class Job(NamedTuple):
    """The work that the processes share: a model on disk, the rows, and how to read them."""

    leaf: Leaf
    pairs: pd.DataFrame
    isolate: bool


def shared_out(job: Job, budget: Budget, gpus: int) -> Iterator[Result]:
    """Run a job in one process per GPU, and yield its results.

    The first result has no rows; it only reports that the model is loaded. If a process ends early,
    its rows are reassigned. The rows that it was reading are tried separately from the others, and
    repeatedly halved until the single row that crashes every process is found; that row is dropped.

    Raises
    ------
    ProcessEndedError
        Once all results have been yielded: if failures are isolated and a process failed, or if
        there are unpredicted rows and no process is left.
    InputError, RuntimeError
        At the first failure, unless failures are isolated.
    """
    crew = _Crew(job, budget, gpus)
    try:
        yield from crew.results()
    finally:
        crew.end()
    reasons = [f"{why} ({times} times)" if times > 1 else why for why, times in crew.ends.items()]
    left = crew.left()
    if len(left):
        reasons.append(f"no process is left for {counted(len(left), 'row')}")
    if reasons and (job.isolate or len(left)):
        raise ProcessEndedError("; ".join(reasons))


@dataclass
class _Worker:
    """A process, and the indices of the rows that it still has to predict."""

    gpu: int
    process: BaseProcess
    pipe: connection.Connection
    rows: np.ndarray
    apart: bool = False
    """Whether these rows were being read when an earlier process ended. If so, no other rows are
    added to them."""
    loaded: bool = False
    delivered: bool = False
    block: np.ndarray | None = None
    """The rows that the process is predicting now; None before the first block and between
    blocks."""

    @property
    def in_flight(self) -> np.ndarray:
        """The rows that may be at fault if the process ends now: none while it loads the model, all
        of its rows while it measures their costs, and then the current block."""
        if not self.loaded:
            return self.rows[:0]
        return self.rows if self.block is None else self.block


class _Crew:
    """The processes that share a model's rows, and the rows not assigned to any process."""

    def __init__(self, job: Job, budget: Budget, gpus: int) -> None:
        self.job, self.budget, self.until = job, budget, time.time() + budget.left()
        self.usable = set(range(gpus))
        self.workers: list[_Worker] = []
        self.loaded = False
        self.rest = np.arange(len(job.pairs))
        self.suspects: list[np.ndarray] = []
        """Groups of rows that were being read when a process ended, to be tried separately."""
        self.first = np.full((len(job.pairs), 3), np.nan)
        """Probabilities from the first order, for rows that need only the second order now."""
        self.barren: Counter[int] = Counter()
        """How many consecutive processes have ended without any result, by GPU."""
        self.ends: Counter[str] = Counter()
        """How often a process ended early, by GPU and reason."""

    def left(self) -> np.ndarray:
        """Return the rows not assigned to any process."""
        return np.concatenate([self.rest, *self.suspects])

    def results(self) -> Iterator[Result]:
        """Assign rows and yield results until no process has rows left."""
        self._deal()
        while any(len(worker.rows) for worker in self.workers):
            patience = max(0.0, self.budget.left() + GRACE_SECONDS)
            # `wait` does not accept an infinite timeout.
            ready = connection.wait(
                [w.pipe for w in self.workers], patience if patience < 1e6 else None
            )
            for worker in [worker for worker in self.workers if worker.pipe in ready]:
                yield from self._hear(worker)
            for worker in [worker for worker in self.workers if len(worker.rows) and not ready]:
                yield from self._ended(worker, "its process did not finish in time", on_rows=False)
            self._deal()

    def end(self) -> None:
        """Kill all processes: they have no work left, or nobody is waiting for their results."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()  # so that its GPU is free for the next model

    def _deal(self) -> None:
        """Assign the remaining rows to idle processes. If no process is idle, start new ones; if no
        GPU is free, add the rows to those of busy processes. Rows in `suspects` go only to idle or
        new processes."""
        if self.budget.left() <= 0:
            unread = int(np.isnan(self.first[self.left(), 0]).sum())
            if unread:
                logger.warning("time budget: used up, %s %s", counted(unread, "row"), UNREAD)
                self.budget.given_up[UNREAD] += unread
            self.rest, self.suspects = self.rest[:0], []
            return
        idle = [worker for worker in self.workers if not len(worker.rows)]
        vacant = sorted(self.usable - {worker.gpu for worker in self.workers})
        if len(self.rest):
            takers = idle or [self._start(gpu) for gpu in vacant[: len(self.rest)]]
            takers = takers or [worker for worker in self.workers if not worker.apart]
            takers = takers[: len(self.rest)]
            for number, taker in enumerate(takers):
                self._give(taker, self.rest[number :: len(takers)])
            self.rest = self.rest[:0] if takers else self.rest
            return
        while self.suspects and (idle or vacant):
            taker = idle.pop(0) if idle else self._start(vacant.pop(0))
            self._give(taker, self.suspects.pop(), apart=True)

    def _start(self, gpu: int) -> _Worker:
        ours, theirs = CONTEXT.Pipe()
        arguments = (gpu, self.job, self.until, theirs)
        process = CONTEXT.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()  # only the new process has it open now, so the pipe closes when that exits
        self.workers.append(_Worker(gpu, process, ours, self.rest[:0]))
        return self.workers[-1]

    def _give(self, taker: _Worker, rows: np.ndarray, apart: bool = False) -> None:
        taker.rows, taker.apart = np.union1d(taker.rows, rows), apart
        with suppress(OSError):  # the process has just ended; reading its pipe will show that
            taker.pipe.send((rows, self.first[rows]))

    def _hear(self, worker: _Worker) -> Iterator[Result]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode
            killed = f" ({signal.Signals(-code).name}, out of memory?)" if code < 0 else ""
            yield from self._ended(worker, f"its process ended with {code}{killed}", on_rows=True)
            return
        match message:
            case "loaded":
                worker.loaded = True
                if not self.loaded:
                    self.loaded = True
                    yield Result(self.rest[:0], np.empty((0, 3)))
            case "begins", rows:
                worker.block = rows
            case "fails", why, on_rows:
                if not self.job.isolate:
                    kind, _, text = why.partition(": ")
                    raise (InputError(text) if kind == InputError.__name__ else RuntimeError(why))
                yield from self._ended(worker, why, on_rows)
            case "spent", rows, given_up:
                self.budget.given_up.update(given_up)
                worker.rows = np.setdiff1d(worker.rows, rows)
            case "result", result, given_up:
                self.budget.given_up.update(given_up)
                worker.block, worker.delivered = None, True
                if result.final:
                    worker.rows = np.setdiff1d(worker.rows, result.rows)
                else:
                    self.first[result.rows] = result.probabilities
                yield result

    def _ended(self, worker: _Worker, why: str, on_rows: bool) -> Iterator[Result]:
        """Take back the unfinished rows of a process that ended. `on_rows` tells whether
        it may have ended because of the rows that it was reading, rather than because of the
        model."""
        self.workers.remove(worker)
        worker.process.kill()  # a process that reported a failure may still hold GPU memory
        worker.process.join()
        if not len(worker.rows):
            logger.warning("GPU %d: %s, after finishing all of its work", worker.gpu, why)
            return
        unfinished = counted(len(worker.rows), "row")
        logger.error("GPU %d: %s; reassigning %s", worker.gpu, why, unfinished)
        self.ends[f"GPU {worker.gpu}: {why}"] += 1
        self.barren[worker.gpu] = 0 if worker.delivered else self.barren[worker.gpu] + 1
        if not on_rows or self.barren[worker.gpu] >= (MAX_DEATHS if worker.loaded else MAX_LOADS):
            self.usable.discard(worker.gpu)
        read = worker.in_flight if on_rows else worker.rows[:0]
        self.rest = np.union1d(self.rest, np.setdiff1d(worker.rows, read))
        if len(read) > 1 or not worker.apart:
            self.suspects += [half for half in np.array_split(read, 2) if len(half)]
            return
        if len(read):
            why = f"{why} while reading only this row"
            if not self.job.isolate:
                raise ProcessEndedError(f"id {self.job.pairs[ID].iloc[read[0]]!r}: {why}")
            self.budget.given_up[ONE_ORDER] -= int(np.isfinite(self.first[read, 0]).sum())
            yield Result(read, why)


def work(gpu: int, job: Job, until: float, pipe: connection.Connection) -> None:
    """Predict rows in one of the processes of `shared_out`. The process ends when its parent does,
    since its pipe then closes."""
    # Set before torch is imported, so that this process sees only its own GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = device.names(gpu + 1)[gpu]
    device.prepare()
    logging.basicConfig(level=logging.INFO, format=f"GPU {gpu}: %(message)s", stream=sys.stdout)
    budget = Budget(until - time.time())
    first = np.full((len(job.pairs), 3), np.nan)

    def tell(kind: str, content: Result | np.ndarray) -> None:
        pipe.send((kind, content, budget.given_up))
        budget.given_up.clear()

    def announce(part: np.ndarray, rows: np.ndarray) -> None:
        pipe.send(("begins", part[rows]))

    try:
        rows, known = pipe.recv()
        first[rows] = known
        model = job.leaf.load(TokenMemos())
        pipe.send("loaded")
        while True:
            part, pairs = rows, job.pairs.iloc[rows].reset_index(drop=True)
            schedule = Schedule(model, pairs, budget, job.isolate, first[part])
            for result in schedule.results(partial(announce, part)):
                result = result._replace(rows=part[result.rows])
                tell("result", result)
                if result.final:
                    rows = np.setdiff1d(rows, result.rows)
                else:
                    first[result.rows] = result.probabilities
                if pipe.poll():  # more rows have arrived; plan the remaining time again
                    break
            else:
                tell("spent", rows)
                rows = rows[:0]
            more, known = pipe.recv()
            first[more], rows = known, np.union1d(rows, more)
    except EOFError:
        return
    except (Exception, SystemExit) as error:
        logger.exception("%s: failed", job.leaf.folder)
        pipe.send(("fails", describe(error), BROKEN in str(error)))
