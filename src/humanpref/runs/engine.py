"""The inference engine: models predict rows one after the other within a time budget.

What the command line and the kernel call. One model is in memory at a time, be it a fold's or a
blend's. How one model's work is cut into units is in `humanpref.runs.schedule`, how several GPUs
share it in `humanpref.runs.workers`.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.runs.budget import Budget
from humanpref.runs.ensemble import Leaf, Memos
from humanpref.runs.schedule import Policy, Result, Schedule, costliest_first, describe, free
from humanpref.runs.workers import Job, shared_out
from humanpref.training import device

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """Row numbers (m,) with a leaf's probabilities (m, 3), or why there are none: for one row, or
    without any row for the whole leaf. The first outcome of a leaf has no rows: it is loaded."""

    leaf: Leaf
    rows: np.ndarray
    probabilities: np.ndarray | str


NO_ROWS = np.empty(0, dtype=np.int64)


def outcomes(
    leaves: Sequence[Leaf],
    pairs: pd.DataFrame,
    budget: Budget,
    policy: Policy = costliest_first,
    keep_going: bool = False,
    prepare: Callable[[Leaf], None] = lambda leaf: None,
) -> Iterator[Outcome]:
    """Let each model predict the rows, and free it before the next one is loaded.

    Quick models come first, and neural ones after them. Each has an equal share of the time that is
    left when its turn comes, loading included. A row comes twice where both orders of A and B are
    read, the second time with their mean.

    Parameters
    ----------
    leaves : sequence of Leaf
        The models.
    pairs : DataFrame
        n rows, read by `humanpref.data.as_pairs`.
    budget : Budget
        Time for all of them; `given_up` says what did not fit.
    policy : Policy
        Which rows get the second order first.
    keep_going : bool
        Log failures and yield why, and let a neural model predict in a process of its own even on a
        single GPU: a crash then costs a row and not the run. By default the first failure is
        raised, and processes are started from two GPUs on.
    prepare : callable
        Called with each leaf before it is loaded; what it raises is the leaf's failure.
    """
    memos: Memos = {}
    ordered = sorted(leaves, key=lambda leaf: leaf.uses_gpu)
    for number, leaf in enumerate(ordered):
        share = budget.share(1 / (len(ordered) - number))
        try:
            prepare(leaf)
            gpus = usable_gpus(leaf)
            job = Job(leaf, pairs, policy, keep_going)
            if gpus >= (1 if keep_going else 2):
                results = shared_out(job, share, gpus)
            else:
                results = _results_here(job, share, memos)
            for result in results:
                yield Outcome(leaf, result.rows, result.probabilities)
        # SystemExit too: a library that calls sys.exit must not end the other models' work.
        except (Exception, SystemExit) as error:
            if not keep_going:
                raise
            logger.exception("%s: failed", leaf.folder)
            yield Outcome(leaf, NO_ROWS, describe(error))
        free()


def predictions(
    leaves: Sequence[Leaf], pairs: pd.DataFrame, budget: Budget, policy: Policy = costliest_first
) -> dict[Path, np.ndarray]:
    """Return what each leaf predicts, (n, 3) float64 by its folder; NaN for rows that did not fit
    the budget."""
    by_leaf = {leaf.folder: np.full((len(pairs), 3), np.nan) for leaf in leaves}
    for leaf, rows, probabilities in outcomes(leaves, pairs, budget, policy):
        by_leaf[leaf.folder][rows] = probabilities
    return by_leaf


def usable_gpus(leaf: Leaf) -> int:
    """Return how many GPUs may share a leaf's rows: none for a model that uses none, and none where
    several processes were launched, which share its batches."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return device.gpus() if leaf.uses_gpu and not launched else 0


def _results_here(job: Job, budget: Budget, memos: Memos) -> Iterator[Result]:
    model = job.leaf.load(memos)
    yield Result(NO_ROWS, np.empty((0, 3)))
    yield from Schedule(model, job.pairs, budget, job.policy, job.isolate).results()
