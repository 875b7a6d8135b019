"""The time limit for prediction, and the concessions made to stay within it, such as rows that are
not predicted."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable

from humanpref.schema import counted

logger = logging.getLogger(__name__)

ONE_ORDER = "no swap averaging"
UNREAD = "not predicted"


class Budget:
    """A wall-clock limit for prediction, which starts when this object is created.

    Attributes
    ----------
    given_up : Counter
        For each concession, the number of row predictions that it affected. A row counts once for
        each model.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.given_up: Counter[str] = Counter()
        self.started = clock()

    def spent(self) -> float:
        """Return the seconds since the start. If several processes were launched, all of them use
        the main process's clock, so that they make the same decisions."""
        spent = self.clock() - self.started
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate.utils import broadcast_object_list

            from humanpref.training.precision import process_state

            process_state()
            spent = broadcast_object_list([spent])[0]
        return spent

    def left(self) -> float:
        """Return the seconds left; below 0 once time has run out."""
        return self.seconds - self.spent()

    def share(self, part: float) -> "Budget":
        """Return a new budget for this share (0 to 1) of the remaining time. Concessions made
        under either budget are counted in the same `given_up`."""
        shared = Budget(max(0.0, part * self.left()), self.clock)
        shared.given_up = self.given_up
        return shared

    def log_summary(self) -> None:
        """Log the concessions made to stay within the limit, if there were any."""
        if lines := shortages(self.given_up):
            logger.warning("time budget of %.0f s: %s", self.seconds, ", ".join(lines))


def shortages(given_up: Counter[str]) -> list[str]:
    """Return one line for each concession made to stay within the budget.

    Examples
    --------
    >>> shortages(Counter({"not predicted": 3, "no swap averaging": 0}))
    ['not predicted: 3 row predictions (out of time)']
    """
    return [
        f"{name}: {counted(rows, 'row prediction')} (out of time)"
        for name, rows in (+given_up).items()
    ]
