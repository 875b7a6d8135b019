"""Prediction within a time budget: measure, project, and give up in a stated order what does not
fit.

The rows are predicted in blocks, those that cost most first. After each block the rest is projected
at the throughput of that block, in what rows cost (tokens). Where it does not fit into the time
left, the next block is predicted by the first of the model's `cheaper` variants that does: without
swap averaging, then with shorter inputs. What no variant has time for is left.
"""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from humanpref.models.base import Model, predicted

logger = logging.getLogger(__name__)

FIRST_ROWS = 4
"""Rows of the first block. It holds what happens once (loading kernels, say): on its account alone
nothing is given up, unless not one more row would fit."""
BLOCK_SHARE = 1 / 8
"""A block is to take so much of the time left: a wrong projection then costs little. What fits
twice is done at once."""
RESERVE = 0.1
"""Share of the time left that is not planned with."""
ONE_ORDER = "no swap averaging"
LEFT = "not predicted"


class Budget:
    """Wall clock for predicting, from now on.

    Attributes
    ----------
    given_up : Counter
        Rows by what was given up for them; of several models each counts.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.given_up: Counter[str] = Counter()
        self.started = clock()

    def spent(self) -> float:
        """Seconds; of several processes the main one's count, so that all of them decide alike."""
        spent = self.clock() - self.started
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate.utils import broadcast_object_list

            from humanpref.training.precision import processes

            processes()
            spent = broadcast_object_list([spent])[0]
        return spent

    def left(self) -> float:
        """Seconds."""
        return self.seconds - self.spent()

    def share(self, part: float) -> "Budget":
        """A budget of this part of the time left; what is given up for it counts here, too."""
        shared = Budget(max(0.0, part * self.left()), self.clock)
        shared.given_up = self.given_up
        return shared

    def log_summary(self) -> None:
        """Log what was given up, if anything was."""
        if self.given_up:
            logger.warning(
                "time budget of %.0f s: %s", self.seconds, ", ".join(shortages(self.given_up))
            )


def shortages(given_up: Counter[str]) -> list[str]:
    """What was given up for lack of time, one line each. Of each model: a row that two models give
    up counts twice."""
    return [f"{name}: {rows} row predictions for lack of time" for name, rows in given_up.items()]


def predict_within(model: Model, pairs: pd.DataFrame, budget: Budget) -> np.ndarray:
    """Probabilities (n, 3) float64 in the order of the rows; NaN for rows that there was no time
    for.

    The members of a blend share the time: each has an equal part of what is left when its turn
    comes.
    """
    if members := model.submodels():
        shares = (budget.share(1 / (len(members) - number)) for number in range(len(members)))
        told = [
            predict_within(member, pairs, share)
            for member, share in zip(members, shares, strict=True)
        ]
        return model.mix(np.stack(told), pairs)
    made = np.full((len(pairs), 3), np.nan)
    for rows, variant in schedule(model, pairs, budget):
        made[rows] = predicted(variant, pairs.iloc[rows].reset_index(drop=True))
    return made


def schedule(
    model: Model, pairs: pd.DataFrame, budget: Budget, most: int = sys.maxsize
) -> Iterator[tuple[np.ndarray, Model]]:
    """The row numbers of one block after the other, at most so many, and the variant that there is
    time for.

    A block's time is what passes until the next one is asked for. Rows that do not fit the
    budget are not yielded.
    """
    variants = [("", model), *model.cheaper()]
    costs = [_costs(model, pairs)]
    order = np.argsort(-costs[0], kind="stable")
    done, chosen, rate, blocks = 0, 0, 0.0, 0
    while done < len(order) and (left := budget.left()) > 0:
        rest, capacity = order[done:], (1 - RESERVE) * rate * left
        size = _block(costs[chosen][rest], capacity) if blocks else FIRST_ROWS
        if blocks >= 2 or not size:
            before, chosen = chosen, _first_that_fits(variants, costs, pairs, rest, capacity)
            if chosen != before:
                share, name = (
                    capacity / costs[0][rest].sum(),
                    variants[chosen][0] or "as configured again",
                )
                logger.warning(
                    "time budget: %.0f s for %.0f %% of the %d rows left: %s",
                    left,
                    100 * share,
                    len(rest),
                    name,
                )
            size = _block(costs[chosen][rest], capacity)
        if not size:
            break
        rows, (name, variant) = rest[: min(size, most)], variants[chosen]
        if name:
            budget.given_up[name] += len(rows)
        started = budget.spent()
        yield rows, variant
        rate = float(costs[chosen][rows].sum()) / max(budget.spent() - started, 1e-9)
        done += len(rows)
        blocks += 1
    if done < len(order):
        budget.given_up[LEFT] += len(order) - done
        logger.warning(
            "time budget: spent, %d of %d rows are %s", len(order) - done, len(order), LEFT
        )


def _first_that_fits(
    variants: list[tuple[str, Model]],
    costs: list[np.ndarray],
    pairs: pd.DataFrame,
    rest: np.ndarray,
    capacity: float,
) -> int:
    """The number of the first variant that costs at most the capacity for the rest, or of the last;
    `costs` grows as needed."""
    for number, (_, variant) in enumerate(variants):
        if number == len(costs):
            costs.append(_costs(variant, pairs))
        if costs[number][rest].sum() <= capacity:
            return number
    return len(variants) - 1


def _costs(model: Model, pairs: pd.DataFrame) -> np.ndarray:
    """What each row costs, (n,); 1 where the model cannot say: the row at fault is found, and
    others spared, by predicting."""
    try:
        return model.costs(pairs)
    except Exception:
        logger.exception("time budget: every row is taken to cost the same")
        return np.ones(len(pairs))


def _block(costs: np.ndarray, capacity: float) -> int:
    """How many of the rows come next: all where they fit twice, else what takes its share, and at
    least one if that fits."""
    summed = np.cumsum(costs)
    if 2 * summed[-1] <= capacity:
        return len(costs)
    return int(np.searchsorted(summed, BLOCK_SHARE * capacity, side="right")) or int(
        summed[0] <= capacity
    )
