"""One model's work on some rows, in units that fit a time budget.

A unit is a block of rows in one order of A and B, read by the model or by a shorter variant of it.
First all rows are read in one order, the costliest first. After each block, the time for the
remaining rows is projected from that block's throughput, measured in row costs (tokens). If even
one order of the remaining rows does not fit into the time left, the next block goes to the first of
the model's `shorter_variants` that fits. Then, as long as time remains, the rows are read in the
other order, beginning with those that gain most from it (`most_sensitive_first`).
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
from humanpref.schema import ID, SWAPPED_CLASSES, InputError, counted

logger = logging.getLogger(__name__)

FIRST_ROWS = 4
"""Rows in the first block. Its time includes one-time work such as loading GPU kernels. Therefore,
inputs are not shortened right after it unless there seems to be no time for even one more row."""
BLOCK_SHARE = 1 / 8
"""Share of the remaining time that one block may take, so that a wrong projection costs little. If
there is time to read all remaining rows twice, they form one block."""
RESERVE = 0.1
"""Share of the remaining time held in reserve when planning."""
BLOCK_ROWS = 1_024
"""Maximum rows in a block where failures are isolated."""
MAX_FAILURES = 50
"""Number of consecutive failed calls after which a model is abandoned. Finding the one bad row of a
block takes about ten failed calls."""
BROKEN = "CUDA error"
"""Text in the message of an error after which the process can no longer use its GPU. The row at
fault is in the block that was being read."""


def most_sensitive_first(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Order the rows by how much a preference for one position changes their probabilities, per
    unit of cost, highest first.

    In a model that prefers the first position, the logit of A is too high and the logit of B is too
    low. Shifting both by the same small amount moves the probabilities by a distance that depends
    only on the probabilities. It is largest if A and B are about equally likely and a tie is not.
    The rows are ordered by the square of this distance.

    Examples
    --------
    >>> unsure, sure, tie = [0.4, 0.4, 0.2], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8]
    >>> rows = np.array([sure, unsure, tie, unsure])
    >>> most_sensitive_first(rows, np.array([1.0, 1.0, 1.0, 2.0])).tolist()
    [1, 3, 0, 2]
    """
    a, b, tie = probabilities.T
    moved = (a * (1 - a + b)) ** 2 + (b * (1 - b + a)) ** 2 + (tie * (a - b)) ** 2
    return np.argsort(-moved / costs, kind="stable")


class Unit(NamedTuple):
    """A block of rows to read: their indices, the index of the model's variant that reads them, and
    whether A and B are exchanged."""

    rows: np.ndarray
    variant: int
    second: bool


class Result(NamedTuple):
    """A result of reading rows: their indices (m,) and probabilities (m, 3); or the index of one
    row and the reason why it has no probabilities."""

    rows: np.ndarray
    probabilities: np.ndarray | str
    final: bool = True
    """False if the second order of A and B has yet to be read."""


class Schedule:
    """The work of one loaded model on some rows.

    Parameters
    ----------
    model : Model
        A fitted model.
    pairs : DataFrame
        n rows, read by `humanpref.data.as_pairs`.
    budget : Budget
        The time limit; its `given_up` is updated while rows are read.
    isolate : bool
        If a block fails, halve it repeatedly to find the rows at fault, and continue with the
        others. By default, the first failure is raised.
    first : ndarray, optional
        (n, 3) results of an earlier process: the first order's probabilities for rows that still
        need only the second order, and NaN for all others.
    """

    def __init__(
        self,
        model: Model,
        pairs: pd.DataFrame,
        budget: Budget,
        isolate: bool = False,
        first: np.ndarray | None = None,
    ) -> None:
        self.pairs, self.budget, self.isolate = pairs, budget, isolate
        self.swap_averaged, one_order = model.swap_averaged, model.single_order()
        self.variants = [("", one_order), *one_order.shorter_variants()]
        """Pairs (concession, variant). The first variant makes no concession: its text is empty."""
        self.first = np.full((len(pairs), 3), np.nan) if first is None else first
        self.costs: dict[int, np.ndarray] = {}
        self.blocks, self.rate = 0, math.inf

    def results(self, begin: Callable[[np.ndarray], None] = lambda rows: None) -> Iterator[Result]:
        """Read unit by unit and yield the results. A row whose second order is also read is yielded
        twice, the second time with the mean of both orders.

        `begin` is called with the indices of the rows about to be tried.

        Raises
        ------
        RuntimeError
            After `MAX_FAILURES` consecutive failed calls.
        """
        failed = 0
        for unit in self._units():
            pending = [unit.rows]
            while pending:
                rows = pending.pop()
                begin(rows)
                try:
                    probabilities, bad = self._read(unit._replace(rows=rows))
                # Also SystemExit: a library that calls sys.exit must not end the other rows' work.
                except (Exception, SystemExit) as error:
                    if not self.isolate or BROKEN in str(error):
                        raise
                    failed += 1
                    how_many, first = counted(len(rows), "row"), self.pairs[ID][rows[0]]
                    logger.exception("%s failed, the first with id %r", how_many, first)
                    if len(rows) == 1:
                        yield self._failure(unit, rows, describe(error))
                    if failed == MAX_FAILURES:
                        raise RuntimeError(
                            f"abandoned after {failed} failed calls in a row, the last of them: "
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
        order = np.argsort(-self._costs(0), kind="stable")
        unread = yield from self._blocks(order[np.isnan(self.first[order, 0])], second=False)
        if len(unread):
            self.budget.given_up[UNREAD] += len(unread)
            logger.warning(
                "time budget: used up, %d of %d rows are %s", len(unread), len(order), UNREAD
            )
        if self.swap_averaged:
            order = most_sensitive_first(self.first, self._costs(0))
            yield from self._blocks(order[~np.isnan(self.first[order, 0])], second=True)

    def _blocks(self, rest: np.ndarray, second: bool) -> Generator[Unit, None, np.ndarray]:
        """Yield units of these rows while time remains, and return the rows that are left.

        The time until the next unit is requested counts as the current unit's duration.
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
                        "time budget: %.0f s left, enough for %.0f %% of the remaining %s: %s",
                        left,
                        100 * capacity / self._costs(0)[rest].sum(),
                        counted(len(rest), "row"),
                        self.variants[variant][0] or "back to the configured settings",
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
        """Return the index of the first variant for which the rows' total cost is at most
        `capacity`, or of the last variant if there is none."""
        indices = range(len(self.variants))
        return next((i for i in indices if self._costs(i)[rest].sum() <= capacity), indices[-1])

    def _costs(self, variant: int) -> np.ndarray:
        """Return the cost of each row in one order, (n,). If the model fails to compute costs and
        failures are isolated, every row costs 1; prediction will then find the row at fault."""
        if variant not in self.costs:
            try:
                self.costs[variant] = self.variants[variant][1].costs(self.pairs)
            except Exception:
                if not self.isolate:
                    raise
                logger.exception("time budget: cannot compute row costs; all rows count equally")
                self.costs[variant] = np.ones(len(self.pairs))
        return self.costs[variant]

    def _read(self, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows' probabilities (m, 3), and a mask (m,) of rows whose probabilities are
        invalid."""
        pairs = self.pairs.iloc[unit.rows].reset_index(drop=True)
        model = self.variants[unit.variant][1]
        probabilities = model.predict_proba(swap_pairs(pairs) if unit.second else pairs)
        if probabilities.shape != (len(pairs), 3):
            raise ValueError(
                f"expected probabilities of shape ({len(pairs)}, 3), got {probabilities.shape}"
            )
        if unit.second:
            probabilities = (self.first[unit.rows] + probabilities[:, SWAPPED_CLASSES]) / 2
        sums_to_1 = np.abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE  # False for NaN
        bad = ~(sums_to_1 & (probabilities >= 0).all(axis=1))
        if bad.all() or (bad.any() and not self.isolate):
            raise InputError(f"the model: {_no_probabilities(probabilities[bad][0].tolist())}")
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
    """Return how many rows to read next. `costs`, (n,), are the rows' costs, and `capacity` is the
    total cost for which there is time.

    If there is time to read all rows twice, read all of them. Otherwise, read as many as fit into
    `BLOCK_SHARE` of the time, but at least one if there is time for one.
    """
    summed = np.cumsum(costs)
    if 2 * summed[-1] <= capacity:
        return len(costs)
    return int(np.searchsorted(summed, BLOCK_SHARE * capacity, side="right")) or int(
        summed[0] <= capacity
    )


def _no_probabilities(values: list[float]) -> str:
    return f"expected probabilities that sum to 1, got {values}"


def free() -> None:
    """Release the memory of models that are no longer referenced."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc keeps freed memory in fragments
        ctypes.CDLL(None).malloc_trim(0)


def describe(error: BaseException) -> str:
    """Return the error's type and first line.

    Examples
    --------
    >>> describe(ValueError("a bad row"))
    'ValueError: a bad row'
    """
    return f"{type(error).__name__}: {error}".splitlines()[0]
