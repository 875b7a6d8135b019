"""Waiting for a service: asking again after ever longer pauses, with a line that says what it is
at."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from humanpref.kaggle.service.client import (
    TRIES,
    BusyError,
    ServiceError,
    UncertainError,
    pause_after,
)

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds between two questions: at first, and at most."""
SETTLING_PAUSES = (0, 2, 4, 8, 16, 30)
"""Seconds before each look for what may have arrived, until it is taken for lost."""

T = TypeVar("T")


def poll(
    check: Callable[[], tuple[T | None, str]],
    what: str,
    limit: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Ask until there is an answer.

    Parameters
    ----------
    check : callable
        Gives the answer, or None where there is none yet, and the state in words; raises where
        there will be none.
    what : str
        What is waited for.
    limit : float
        Seconds after which it is given up.
    sleep, clock : callable
        For tests: how to pass the time, and how to tell it.

    Raises
    ------
    ServiceError
        If the limit has passed, with the last state.
    """
    started, pause, said = clock(), FIRST_PAUSE, None
    with tqdm(bar_format="{desc} ({elapsed})", leave=False, disable=None) as line:
        while True:
            answer, state = check()
            line.set_description_str(f"{what}: {state}")
            if state != said:
                logger.info("%s: %s", what, state)
                said = state
            if answer is not None:
                return answer
            left = limit - (clock() - started)
            if left <= 0:
                raise ServiceError(
                    f"{what}: still {state} after {limit / 3600:.1f} hours; the same command goes "
                    "on waiting"
                )
            sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE)


def settled(
    find: Callable[[], T | None], *, sleep: Callable[[float], None] = time.sleep
) -> T | None:
    """Look for what should be there, more than once: None only if it is not there for a minute."""
    for pause in SETTLING_PAUSES:
        sleep(pause)
        if (found := find()) is not None:
            return found
    return None


def send_once(
    send: Callable[[], T],
    pending: Callable[[], bool],
    find: Callable[[], T | None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Have something sent exactly once, whatever becomes of the answer, now or in a process that
    was killed before.

    Parameters
    ----------
    send : callable
        Writes down that it sends, sends, and gives what it became.
    pending : callable
        Whether it is written down that it was sent, and not what it became.
    find : callable
        Looks for it at the service; None where it is not there.
    sleep : callable
        For tests: how to pass the time.

    Raises
    ------
    ServiceError
        What the last try ended in.
    """
    for attempt in range(TRIES):
        if pending() and (found := settled(find, sleep=sleep)) is not None:
            return found
        try:
            return send()
        except (BusyError, UncertainError) as error:
            pause = pause_after(attempt, error)
            logger.info("%s; looking again in %.0f seconds", error, pause)
            sleep(pause)
    raise AssertionError("the last try returns or raises")
