"""Prediction within a time budget: measure, project, and give up in a stated order what does not fit.

The rows are predicted in blocks, those that cost most first. After each block the rest is projected at the throughput of that
block, in what rows cost (tokens). Where it does not fit into the time left, the next block is predicted by the first of the
model's `cheaper` variants that does: without swap averaging, then with shorter inputs. What no variant has time for is left.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from humanpref.models.base import Model

logger = logging.getLogger(__name__)

FIRST_ROWS = 4
"""Rows of the first block. It holds what happens once (loading kernels, say): on its account alone nothing is given up, unless
not one more row would fit."""
BLOCK_SHARE = 1 / 8
"""A block is to take so much of the time left: a wrong projection then costs little. What fits twice is done at once."""
RESERVE = 0.1
"""Share of the time left that is not planned with."""
LEFT = "left to the fallback"


class Budget:
    """Wall clock for predicting, from now on.

    Attributes
    ----------
    given_up : Counter
        Rows by what was given up for them; of several models each counts.
    rates : mapping
        Of each model that has predicted, its cost per second at last.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.given_up: Counter[str] = Counter()
        self.rates: WeakKeyDictionary[Model, float] = WeakKeyDictionary()
        self.started = clock()

    def left(self) -> float:
        """Seconds; of several processes the main one's count, so that all of them decide alike."""
        left = self.seconds - (self.clock() - self.started)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate.utils import broadcast_object_list

            from humanpref.training.precision import processes

            processes()
            left = broadcast_object_list([left])[0]
        return left

    def share(self, part: float) -> "Budget":
        """A budget of this part of the time left, which knows and keeps the same of models and of what was given up."""
        shared = Budget(max(0.0, part * self.left()), self.clock)
        shared.given_up, shared.rates = self.given_up, self.rates
        return shared

    def tell(self) -> None:
        """Log what was given up, if anything was."""
        if self.given_up:
            told = ", ".join(f"{name}: {rows} rows" for name, rows in self.given_up.items())
            logger.warning("time budget of %.0f s: %s", self.seconds, told)


def predict_within(model: Model, pairs: pd.DataFrame, budget: Budget) -> np.ndarray:
    """Probabilities (n, 3) float64 in the order of the rows; NaN for rows that there was no time for."""
    variants = [("", model), *model.cheaper()]
    costs = [model.costs(pairs)]
    order = np.argsort(-costs[0], kind="stable")
    made = np.full((len(pairs), 3), np.nan)
    done, chosen, rate = 0, 0, budget.rates.get(model, 0.0)
    blocks = 2 if rate else 0
    while done < len(order) and (left := budget.left()) > 0:
        rest, capacity = order[done:], (1 - RESERVE) * rate * left
        size = _block(costs[chosen][rest], capacity) if blocks else min(FIRST_ROWS, len(rest))
        if blocks >= 2 or not size:
            before, chosen = chosen, _first_that_fits(variants, costs, pairs, rest, capacity)
            if chosen != before:
                share, name = capacity / costs[0][rest].sum(), variants[chosen][0] or "as configured again"
                logger.warning(
                    "time budget: %.0f s for %.0f %% of the %d rows left: %s", left, 100 * share, len(rest), name
                )
            size = _block(costs[chosen][rest], capacity)
        if not size:
            break
        rows, (name, variant) = rest[:size], variants[chosen]
        started = budget.left()
        made[rows] = variant.predict_proba(pairs.iloc[rows].reset_index(drop=True))
        if np.isnan(made[rows]).any():
            raise ValueError("the model's probabilities are not all finite")
        rate = float(costs[chosen][rows].sum()) / max(started - budget.left(), 1e-9)
        if name:
            budget.given_up[name] += size
        budget.rates[model] = rate
        done += size
        blocks += 1
    if done < len(order):
        budget.given_up[LEFT] += len(order) - done
        logger.warning("time budget: spent, %d of %d rows are %s", len(order) - done, len(order), LEFT)
    return made


def _first_that_fits(
    variants: list[tuple[str, Model]], costs: list[np.ndarray], pairs: pd.DataFrame, rest: np.ndarray, capacity: float
) -> int:
    """The number of the first variant that costs at most the capacity for the rest, or of the last; `costs` grows as needed."""
    for number, (_, variant) in enumerate(variants):
        if number == len(costs):
            costs.append(variant.costs(pairs))
        if costs[number][rest].sum() <= capacity:
            return number
    return len(variants) - 1


def _block(costs: np.ndarray, capacity: float) -> int:
    """How many of the rows come next: all where they fit twice, else what takes its share, and at least one if that fits."""
    summed = np.cumsum(costs)
    if 2 * summed[-1] <= capacity:
        return len(costs)
    return int(np.searchsorted(summed, BLOCK_SHARE * capacity, side="right")) or int(summed[0] <= capacity)
