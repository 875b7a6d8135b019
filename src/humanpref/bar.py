"""Show the progress of long work: on a terminal, as a bar with the time left; elsewhere, in about
ten log lines."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")

QUIET_SECONDS = 10.0
"""Minimum number of seconds from the start of the work to the first log line, and from each log
line to the next."""
FIRST_SECONDS = 60.0
"""After this many seconds, the first line is logged even if less than a tenth of the work is
done."""
BAR_DELAY = 1.0
"""Work that takes fewer seconds than this shows no bar."""


class Bar:
    """Shows how much of some work is done and how long the rest will take. Only the main process
    shows anything.

    Parameters
    ----------
    name : str
        The work, such as `epoch 1/3`.
    total, done : int
        The number of steps, and how many of them were already done in an earlier session.
    unit : str
        What one step is called, in the singular.
    main : bool
        Whether this is the main process.
    quiet : float
        Minimum number of seconds between two log lines.

    Examples
    --------
    >>> bar = Bar("counting", total=3, unit="sheep")
    >>> for _ in range(3):
    ...     bar.advance()
    >>> bar.close()
    """

    def __init__(
        self,
        name: str,
        total: int,
        done: int = 0,
        unit: str = "step",
        main: bool = True,
        quiet: float = QUIET_SECONDS,
    ) -> None:
        self.name, self.total, self.unit, self.main, self.quiet = name, total, unit, main, quiet
        self.done = self.first = done
        self.bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit=unit,
            unit_scale=total >= 100_000,
            delay=BAR_DELAY,
            leave=False,
            disable=None if main else True,
        )
        self.started = self.told = time.perf_counter()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more steps as done, and show the progress, followed by `note`."""
        tenths, self.done = 10 * self.done // self.total, self.done + steps
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(steps)
        if not (self.bar.disable and self.main):
            return
        now = time.perf_counter()
        first = self.told == self.started and now - self.started >= FIRST_SECONDS
        tenth = 10 * self.done // self.total > tenths and now - self.told >= self.quiet
        if not (first or tenth):
            return
        self.told = now
        left = (now - self.started) / (self.done - self.first) * (self.total - self.done)
        amount = f"{self.done:,} of {self.total:,} {self.unit}s"
        parts = [amount, note, f"{tqdm.format_interval(left)} left"]
        logger.info("%s: %s", self.name, ", ".join(filter(None, parts)))

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def shown(items: Sequence[T], name: str, unit: str = "step") -> Iterator[T]:
    """Yield the items, and show on a `Bar` how many of them the caller has finished.

    Examples
    --------
    >>> [2 * item for item in shown([1, 2], "doubling")]
    [2, 4]
    """
    bar = Bar(name, len(items), unit=unit)
    try:
        for item in items:
            yield item
            bar.advance()
    finally:
        bar.close()
