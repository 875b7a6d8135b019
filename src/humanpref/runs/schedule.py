"""One model's work on some rows, in units that fit a time budget.

A unit is a block of rows in one order of A and B, read by the model or by a shorter variant of it.
First all rows are read in one order, the costliest first. After each block the rest is projected
at that block's throughput, in what rows cost (tokens). Where not even one order of all rows fits
into the time left, the next block goes to the first of the model's `shorter_variants` that fits.
Then the other order is read, as far as the time goes, of those rows that a policy puts first.
"""

import ctypes
import gc
import logging
import math
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pandas as pd

from humanpref.data import swap_pairs
from humanpref.data.submission import SUM_TOLERANCE
from humanpref.models import Model
from humanpref.runs.budget import ONE_ORDER, UNREAD, Budget
from humanpref.schema import ID, SWAPPED_CLASSES

logger = logging.getLogger(__name__)

FIRST_ROWS = 4
"""Rows of the first block. It includes what happens once (loading GPU kernels, say), so it shortens
no inputs unless not one more row would fit."""
BLOCK_SHARE = 1 / 8
"""Share of the time left that a block may take: a wrong projection then costs little. Rows that
fit twice are read at once."""
RESERVE = 0.1
"""Share of the time left that is never planned with."""
BLOCK_ROWS = 1_024
"""Most rows in a block where failures are isolated."""
MAX_FAILURES = 50
"""Failed calls in a row after which a model is given up. Finding the one bad row of a block takes
about ten."""
BROKEN = "CUDA error"
"""Marks errors after which a process cannot use its GPU any more: the row at fault is in the block
that raised it."""

Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Which rows get the second order first: from the first order's probabilities (n, 3), NaN where a
row was not read in full, and the costs (n,), to row numbers, the most important first. A function
of a module, so that it can be sent to another process."""


def costliest_first(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Order the rows by what they cost, whatever the first order said.

    Examples
    --------
    >>> costliest_first(np.zeros((3, 3)), np.array([1.0, 3.0, 2.0])).tolist()
    [1, 2, 0]
    """
    return np.argsort(-costs, kind="stable")


class Unit(NamedTuple):
    """Row numbers, the number of the variant that reads them, and whether A and B are exchanged."""

    rows: np.ndarray
    variant: int
    second: bool


class Result(NamedTuple):
    """Row numbers (m,) with their probabilities (m, 3); or one row number and why it has none."""

    rows: np.ndarray
    probabilities: np.ndarray | str
    final: bool = True
    """False: the second order of A and B is still to be read."""


class Schedule:
    """The work of one loaded model on some rows.

    Parameters
    ----------
    model : Model
        Fitted.
    pairs : DataFrame
        n rows, read by `humanpref.data.as_pairs`.
    budget : Budget
        Its `given_up` is kept up to date while rows are read.
    policy : Policy
        Which rows get the second order first.
    isolate : bool
        Halve a block that fails down to the rows at fault and go on with the others. By default
        the first failure is raised.
    first : ndarray, optional
        (n, 3) what an earlier process read: the first order's probabilities of rows that only lack
        the second one, else NaN.
    """

    def __init__(
        self,
        model: Model,
        pairs: pd.DataFrame,
        budget: Budget,
        policy: Policy = costliest_first,
        isolate: bool = False,
        first: np.ndarray | None = None,
    ) -> None:
        self.pairs, self.budget, self.policy, self.isolate = pairs, budget, policy, isolate
        self.swap_averaged, one_order = model.swap_averaged, model.single_order()
        self.variants = [("", one_order), *one_order.shorter_variants()]
        self.first = np.full((len(pairs), 3), np.nan) if first is None else first
        self.costs: dict[int, np.ndarray] = {}
        self.blocks, self.rate = 0, math.inf

    def results(self, begin: Callable[[np.ndarray], None] = lambda rows: None) -> Iterator[Result]:
        """Read unit by unit and yield what was read. A row whose second order is read as well comes
        twice, the second time with the mean of both orders.

        `begin` is called with the row numbers that are tried next.

        Raises
        ------
        RuntimeError
            After `MAX_FAILURES` failed calls in a row.
        """
        failed = 0
        for unit in self._units():
            pending = [unit.rows]
            while pending:
                rows = pending.pop()
                begin(rows)
                try:
                    probabilities, bad = self._read(unit._replace(rows=rows))
                # SystemExit too: a library that calls sys.exit must not end the other rows' work.
                except (Exception, SystemExit) as error:
                    if not self.isolate or BROKEN in str(error):
                        raise
                    failed += 1
                    logger.exception(
                        "%d rows failed, the first with id %r", len(rows), self.pairs[ID][rows[0]]
                    )
                    if len(rows) == 1:
                        yield self._failure(unit, rows, describe(error))
                    if failed == MAX_FAILURES:
                        raise RuntimeError(
                            f"given up after {failed} failed calls in a row, the last of them: "
                            f"{describe(error)}"
                        ) from error
                    if len(rows) > 1:
                        pending += np.array_split(rows, 2)[::-1]
                else:
                    failed = 0
                    yield self._success(unit, rows[~bad], probabilities[~bad])
                    for row, values in zip(rows[bad], probabilities[bad].tolist(), strict=True):
                        reason = _no_probabilities(values)
                        logger.error("id %r: %s", self.pairs[ID][row], reason)
                        yield self._failure(unit, np.array([row]), reason)
                    continue
                free()

    def _units(self) -> Iterator[Unit]:
        order = costliest_first(self.first, self._costs(0))
        unread = yield from self._blocks(order[np.isnan(self.first[order, 0])], second=False)
        if len(unread):
            self.budget.given_up[UNREAD] += len(unread)
            logger.warning(
                "time budget: spent, %d of %d rows are %s", len(unread), len(order), UNREAD
            )
        if self.swap_averaged:
            order = self.policy(self.first, self._costs(0))
            yield from self._blocks(order[~np.isnan(self.first[order, 0])], second=True)

    def _blocks(self, rest: np.ndarray, second: bool) -> Generator[Unit, None, np.ndarray]:
        """Yield units of these rows as long as there is time, and return the rows that are left.

        A unit takes what passes until the next one is asked for.
        """
        variant = 0
        while len(rest) and (left := self.budget.left()) > 0:
            capacity = (1 - RESERVE) * self.rate * left
            measured = self.blocks > 0 or left == math.inf
            size = _block_size(self._costs(variant)[rest], capacity) if measured else FIRST_ROWS
            if not second and (self.blocks > 1 or not size):
                before, variant = variant, self._first_that_fits(rest, capacity)
                size = _block_size(self._costs(variant)[rest], capacity)
                if variant != before:
                    logger.warning(
                        "time budget: %.0f s for %.0f %% of the %d rows left: %s",
                        left,
                        100 * capacity / self._costs(0)[rest].sum(),
                        len(rest),
                        self.variants[variant][0] or "as configured again",
                    )
            if not size:
                break
            rows = rest[: min(size, BLOCK_ROWS)] if self.isolate else rest[:size]
            started = self.budget.spent()
            yield Unit(rows, variant, second)
            seconds = max(self.budget.spent() - started, 1e-9)
            self.rate = float(self._costs(variant)[rows].sum()) / seconds
            self.blocks += 1
            rest = rest[len(rows) :]
        return rest

    def _first_that_fits(self, rest: np.ndarray, capacity: float) -> int:
        """Return the number of the first variant that the rows fit by, or of the last one."""
        numbers = range(len(self.variants))
        fitting = (n for n in numbers if self._costs(n)[rest].sum() <= capacity)
        return next(fitting, numbers[-1])

    def _costs(self, variant: int) -> np.ndarray:
        """Return what each row costs in one order, (n,); 1 where a model fails at it and failures
        are isolated: predicting will find the row at fault."""
        if variant not in self.costs:
            try:
                self.costs[variant] = self.variants[variant][1].costs(self.pairs)
            except Exception:
                if not self.isolate:
                    raise
                logger.exception("time budget: every row counts the same")
                self.costs[variant] = np.ones(len(self.pairs))
        return self.costs[variant]

    def _read(self, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows' probabilities (m, 3), and which rows have none that are valid, (m,)."""
        pairs = self.pairs.iloc[unit.rows].reset_index(drop=True)
        model = self.variants[unit.variant][1]
        probabilities = model.predict_proba(swap_pairs(pairs) if unit.second else pairs)
        if probabilities.shape != (len(pairs), 3):
            raise ValueError(
                f"expected probabilities of shape ({len(pairs)}, 3), got {probabilities.shape}"
            )
        if unit.second:
            probabilities = (self.first[unit.rows] + probabilities[:, SWAPPED_CLASSES]) / 2
        sums_to_1 = np.abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE  # not if NaN
        bad = ~(sums_to_1 & (probabilities >= 0).all(axis=1))
        if bad.all() or (bad.any() and not self.isolate):
            raise ValueError(_no_probabilities(probabilities[bad][0].tolist()))
        return probabilities, bad

    def _success(self, unit: Unit, rows: np.ndarray, probabilities: np.ndarray) -> Result:
        given_up = self.budget.given_up
        if unit.second:
            given_up[ONE_ORDER] -= len(rows)
        elif unit.variant:
            given_up[self.variants[unit.variant][0]] += len(rows)
        elif self.swap_averaged:
            given_up[ONE_ORDER] += len(rows)
            self.first[rows] = probabilities
            return Result(rows, probabilities, final=False)
        return Result(rows, probabilities)

    def _failure(self, unit: Unit, row: np.ndarray, reason: str) -> Result:
        if unit.second:
            self.budget.given_up[ONE_ORDER] -= 1
        return Result(row, reason)


def _block_size(costs: np.ndarray, capacity: float) -> int:
    """Return how many of the rows come next: all where they fit twice, else those that take their
    share of the time, and at least one if that fits."""
    summed = np.cumsum(costs)
    if 2 * summed[-1] <= capacity:
        return len(costs)
    return int(np.searchsorted(summed, BLOCK_SHARE * capacity, side="right")) or int(
        summed[0] <= capacity
    )


def _no_probabilities(values: list[float]) -> str:
    return f"expected probabilities that sum to 1, got {values}"


def free() -> None:
    """Give back the memory of models that are no longer referenced."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc keeps what is freed, in pieces
        ctypes.CDLL(None).malloc_trim(0)


def describe(error: BaseException) -> str:
    """Return the error's type and first line.

    Examples
    --------
    >>> describe(ValueError("a bad row"))
    'ValueError: a bad row'
    """
    return f"{type(error).__name__}: {error}".splitlines()[0]
