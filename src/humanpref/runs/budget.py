"""The time that predicting may take, and what was given up to keep to it."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger(__name__)

ONE_ORDER = "no swap averaging"
UNREAD = "not predicted"


class Budget:
    """Wall clock for predicting, counted from now on.

    Attributes
    ----------
    given_up : Counter
        Predictions of a row by what was given up for them; each model counts.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.given_up: Counter[str] = Counter()
        self.started = clock()

    def spent(self) -> float:
        """Return the seconds since the start. Of several launched processes the main one's clock
        counts, so that all of them decide alike."""
        spent = self.clock() - self.started
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate.utils import broadcast_object_list

            from humanpref.training.precision import process_state

            process_state()
            spent = broadcast_object_list([spent])[0]
        return spent

    def left(self) -> float:
        """Return the seconds left; below 0 once the time is over."""
        return self.seconds - self.spent()

    def share(self, part: float) -> "Budget":
        """Return a budget of this part of the time left. It counts into the same `given_up`."""
        shared = Budget(max(0.0, part * self.left()), self.clock)
        shared.given_up = self.given_up
        return shared

    def log_summary(self) -> None:
        """Log what was given up, if anything was."""
        if lines := shortages(self.given_up):
            logger.warning("time budget of %.0f s: %s", self.seconds, ", ".join(lines))


def shortages(given_up: Counter[str]) -> list[str]:
    """Return one line for each kind of thing that was given up.

    Examples
    --------
    >>> shortages(Counter({"not predicted": 3, "no swap averaging": 0}))
    ['not predicted: 3 row predictions (out of time)']
    """
    return [f"{name}: {rows} row predictions (out of time)" for name, rows in (+given_up).items()]
