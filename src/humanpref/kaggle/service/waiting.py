"""Wait for Kaggle: ask again after ever longer pauses, and look for what was sent before sending it
again."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from humanpref.kaggle.service.client import ServiceError, retry

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds between two questions: at first, and at most."""
SETTLING_PAUSES = (0, 2, 4, 8, 16, 30)
"""Seconds before each look for something that may have arrived, until it counts as lost."""

T = TypeVar("T")


def poll(check: Callable[[], tuple[T | None, str]], what: str, limit: float) -> T:
    """Call `check` until it returns an answer, and show the state in the meantime.

    Parameters
    ----------
    check : callable
        Returns the answer, or None if there is none yet, and the state in words; raises if there
        will be no answer.
    what : str
        What is waited for, for messages.
    limit : float
        Seconds after which to give up.

    Raises
    ------
    ServiceError
        If the limit has passed, with the last state.
    """
    started, pause, last_state = time.monotonic(), FIRST_PAUSE, None
    with tqdm(bar_format="{desc} ({elapsed})", leave=False, disable=None) as line:
        while True:
            answer, state = check()
            line.set_description_str(f"{what}: {state}")
            if state != last_state:
                logger.info("%s: %s", what, state)
                last_state = state
            if answer is not None:
                return answer
            left = limit - (time.monotonic() - started)
            if left <= 0:
                raise ServiceError(
                    f"{what}: still {state} after {limit / 3600:.1f} hours; rerun the same command "
                    "to go on waiting"
                )
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE)


def settled(find: Callable[[], T | None]) -> T | None:
    """Look for something several times; None only if it is missing for a whole minute."""
    for pause in SETTLING_PAUSES:
        time.sleep(pause)
        if (result := find()) is not None:
            return result
    return None


def send_once(
    send: Callable[[], T], pending: Callable[[], bool], find: Callable[[], T | None]
) -> T:
    """Send something exactly once, even if the answer is lost or an earlier process was killed.

    Parameters
    ----------
    send : callable
        Records that it sends, sends, and returns the result.
    pending : callable
        Whether the record says that it was sent, but not with which result.
    find : callable
        Looks for it at Kaggle and returns the result; None if it is not there.

    Raises
    ------
    ServiceError
        The error of the last attempt.
    """

    def attempt() -> T:
        if pending() and (result := settled(find)) is not None:
            return result
        return send()

    return retry(attempt)
