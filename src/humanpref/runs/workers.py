"""One model's rows shared out to a process for each GPU.

A row that fails costs that row alone, and so does a row that ends the process which predicts it:
what a process had not done when it ended is dealt anew, to the others or to a fresh process on its
GPU, within the same time.
"""

import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from humanpref.runs.budget import ONE_ORDER, UNREAD, Budget
from humanpref.runs.ensemble import Leaf
from humanpref.runs.schedule import BROKEN, Policy, Result, Schedule, describe
from humanpref.schema import InputError
from humanpref.training import device

logger = logging.getLogger(__name__)

MAX_DEATHS = 20
"""Processes that may end one after the other without any result before a GPU is used no more.
Finding the one row of a block that ends them takes about ten."""
MAX_LOADS = 2
"""The same for processes that end while they load the model."""
GRACE_SECONDS = 60
"""How long after the time is over a process that has not finished is taken to hang."""
CONTEXT: Any = multiprocessing.get_context("spawn")
"""How processes are started; a fork would inherit torch's threads in the middle of their work."""


class Job(NamedTuple):
    """What the processes share: a model on disk, the rows, and how they are read."""

    leaf: Leaf
    pairs: pd.DataFrame
    policy: Policy
    isolate: bool


def shared_out(job: Job, budget: Budget, gpus: int) -> Iterator[Result]:
    """Yield the results of a job from one process for each GPU.

    The first result has no rows: the model has been loaded. The rows of a process that ends before
    its time are dealt anew. Rows on which two processes have ended are tried apart from the others,
    in halves of halves, down to the single row; that one is given up.

    Raises
    ------
    InputError, RuntimeError
        At the end, if a process did not end well; every result has come by then. Unless failures
        are isolated: at the first one, but not for processes whose rows others could do.
    """
    crew = _Crew(job, budget, gpus)
    try:
        yield from crew.results()
    finally:
        crew.end()
    if crew.reasons and (job.isolate or crew.left):
        reasons = [
            f"{why} ({times} times)" if times > 1 else why for why, times in crew.reasons.items()
        ]
        counts = {"were dealt anew": crew.anew.sum() - crew.left, "have no process left": crew.left}
        raise RuntimeError(
            "; ".join(reasons + [f"{rows} rows {what}" for what, rows in counts.items() if rows])
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

    def __init__(self, job: Job, budget: Budget, gpus: int) -> None:
        self.job, self.budget, self.until = job, budget, time.time() + budget.left()
        self.usable = set(range(gpus))
        self.workers: list[_Worker] = []
        self.loaded = False
        rows = len(job.pairs)
        self.rest = np.arange(rows)
        self.suspects: list[np.ndarray] = []
        self.first = np.full((rows, 3), np.nan)
        """The first order's probabilities of rows that only lack the second one."""
        self.deaths = np.zeros(rows, dtype=np.int64)
        """Processes that ended with a row in flight."""
        self.barren: Counter[int] = Counter()
        """Processes of a GPU that ended one after the other without any result."""
        self.anew = np.zeros(rows, dtype=bool)
        self.reasons: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Rows that no process has."""
        return len(self.rest) + sum(map(len, self.suspects))

    def results(self) -> Iterator[Result]:
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
        """Give the rows that no process has to idle processes, else to fresh ones, else to those at
        work."""
        if self.budget.left() <= 0:
            rest = np.concatenate([self.rest, *self.suspects])
            if unread := int(np.isnan(self.first[rest, 0]).sum()):
                logger.warning("time budget: spent, %d rows are %s", unread, UNREAD)
                self.budget.given_up[UNREAD] += unread
            self.rest, self.suspects = rest[:0], []
            return
        idle: list[_Worker | int] = [worker for worker in self.workers if not len(worker.rows)]
        vacant = sorted(self.usable - {worker.gpu for worker in self.workers})
        if len(self.rest):
            takers = idle or vacant or [worker for worker in self.workers if not worker.apart]
            for number, taker in enumerate(takers):
                self._give(taker, self.rest[number :: len(takers)])
            self.rest = self.rest[:0] if takers else self.rest
            return
        for taker in [*idle, *vacant]:
            if self.suspects:
                self._give(taker, self.suspects.pop(), apart=True)

    def _give(self, taker: _Worker | int, rows: np.ndarray, apart: bool = False) -> None:
        """Give rows to a process, or to a fresh one on the GPU of this number."""
        if not len(rows):
            return
        if isinstance(taker, int):
            ours, theirs = CONTEXT.Pipe()
            arguments = (taker, self.job, self.until, theirs)
            process = CONTEXT.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that the pipe ends with the process
            taker = _Worker(taker, process, ours, rows[:0])
            self.workers.append(taker)
        taker.rows, taker.apart = np.union1d(taker.rows, rows), apart
        with suppress(OSError):  # it has just ended, as its pipe will say
            taker.pipe.send((rows, self.first[rows]))

    def _hear(self, worker: _Worker) -> Iterator[Result]:
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
            groups, why = groups[:1], f"{why} with this row alone"
            if not self.job.isolate:
                raise RuntimeError(why)
            self.budget.given_up[ONE_ORDER] -= int(np.isfinite(self.first[tried, 0]).sum())
            yield Result(tried, why)
        self.suspects += [rows for rows in groups if len(rows)]


def work(gpu: int, job: Job, until: float, pipe: connection.Connection) -> None:
    """Run one of the processes of `shared_out`, which ends when the one that started it does: its
    pipe ends then."""
    # Before torch is imported: this process sees its own GPU alone.
    os.environ["CUDA_VISIBLE_DEVICES"] = device.names(gpu + 1)[gpu]
    logging.basicConfig(level=logging.INFO, format=f"GPU {gpu}: %(message)s", stream=sys.stdout)
    budget = Budget(until - time.time())
    first = np.full((len(job.pairs), 3), np.nan)

    def tell(kind: str, content: Result | np.ndarray) -> None:
        pipe.send((kind, content, budget.given_up))
        budget.given_up.clear()

    try:
        rows, known = pipe.recv()
        first[rows] = known
        model = job.leaf.load({})
        pipe.send("loaded")
        while True:
            part, pairs = rows, job.pairs.iloc[rows].reset_index(drop=True)
            schedule = Schedule(model, pairs, budget, job.policy, job.isolate, first[part])
            for own in schedule.results(lambda own, part=part: pipe.send(("begins", part[own]))):
                result = own._replace(rows=part[own.rows])
                tell("result", result)
                if result.final:
                    rows = np.setdiff1d(rows, result.rows)
                else:
                    first[result.rows] = result.probabilities
                if pipe.poll():  # more rows: the time left is planned anew
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
