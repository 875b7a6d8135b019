"""The inference engine: models predict rows, one model at a time, within a time budget.

The command line and the kernel call this module. Only one model is in memory at a time, whether it
belongs to a fold or to a blend. `humanpref.runs.schedule` divides one model's work into units, and
`humanpref.runs.workers` divides it among several GPUs.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.runs.budget import Budget
from humanpref.runs.ensemble import Leaf
from humanpref.runs.schedule import Result, Schedule, describe, free
from humanpref.runs.workers import Job, shared_out
from humanpref.text.token_memo import TokenMemos
from humanpref.training import device

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """A result of one leaf (a single model), or its failure. A leaf's first outcome has no rows and
    only reports that the leaf is loaded.

    Attributes
    ----------
    leaf : Leaf
    rows : ndarray
        (m,) row indices. A failure has the index of the row that failed, or none if the whole leaf
        failed.
    probabilities : ndarray or str
        (m, 3), or the reason for the failure.
    """

    leaf: Leaf
    rows: np.ndarray
    probabilities: np.ndarray | str


NO_ROWS = np.empty(0, dtype=np.int64)


def outcomes(
    leaves: Sequence[Leaf],
    pairs: pd.DataFrame,
    budget: Budget,
    keep_going: bool = False,
    prepare: Callable[[Leaf], None] = lambda leaf: None,
) -> Iterator[Outcome]:
    """Let each model predict the rows, and free it before the next one is loaded.

    Models that need no GPU come first, since they are quick. When a model's turn comes and k models
    are left (including this one), it gets 1/k of the remaining time, which also covers loading it.
    If a model reads a row in both orders of A and B, the row is yielded twice, the second time with
    the mean of both predictions.

    Parameters
    ----------
    leaves : sequence of Leaf
        The models.
    pairs : DataFrame
        n rows, read by `humanpref.data.as_pairs`.
    budget : Budget
        The time for all models; its `given_up` records the work that did not fit.
    keep_going : bool
        Log failures and yield their reasons, and run each neural model in a separate process even
        on a single GPU, so that a crash costs one row rather than the run. By default, the first
        failure is raised, and separate processes are used only with two or more GPUs.
    prepare : callable
        Called with each leaf before it is loaded; an exception counts as the leaf's failure.
    """
    memos = TokenMemos()
    ordered = sorted(leaves, key=lambda leaf: leaf.uses_gpu)
    if not keep_going:  # report damage now, not after hours of work
        for leaf in ordered:
            leaf.check()
    for number, leaf in enumerate(ordered):
        share = budget.share(1 / (len(ordered) - number))
        try:
            if keep_going:
                leaf.check()
            prepare(leaf)
            gpus = usable_gpus(leaf)
            job = Job(leaf, pairs, keep_going)
            if gpus >= (1 if keep_going else 2):
                leaf.hash_base()
                results = shared_out(job, share, gpus)
            else:
                results = _results_here(job, share, memos)
            for result in results:
                yield Outcome(leaf, result.rows, result.probabilities)
        # Catch SystemExit as well: a library that calls sys.exit must not end the other models'
        # work.
        except (Exception, SystemExit) as error:
            if not keep_going:
                raise
            logger.exception("%s: failed", leaf.folder)
            yield Outcome(leaf, NO_ROWS, describe(error))
        free()


def predictions(
    leaves: Sequence[Leaf], pairs: pd.DataFrame, budget: Budget
) -> dict[Path, np.ndarray]:
    """Return a dict from each leaf's folder to its predictions, (n, 3) float64. Rows that did not
    fit the budget are NaN."""
    by_leaf = {leaf.folder: np.full((len(pairs), 3), np.nan) for leaf in leaves}
    for leaf, rows, probabilities in outcomes(leaves, pairs, budget):
        by_leaf[leaf.folder][rows] = probabilities
    return by_leaf


def usable_gpus(leaf: Leaf) -> int:
    """Return how many GPUs may share a leaf's rows. This is 0 if the model uses no GPU, or if
    several processes were launched, which already divide the model's batches among themselves."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return device.gpus() if leaf.uses_gpu and not launched else 0


def _results_here(job: Job, budget: Budget, memos: TokenMemos) -> Iterator[Result]:
    model = job.leaf.load(memos)
    yield Result(NO_ROWS, np.empty((0, 3)))
    yield from Schedule(model, job.pairs, budget, job.isolate).results()
