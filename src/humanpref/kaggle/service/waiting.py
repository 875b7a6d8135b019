"""Wait for Kaggle: poll with increasing pauses, and look for the result of an earlier request
before sending it again."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from humanpref.kaggle.service.client import BusyError, ServiceError, UncertainError, retry

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Initial and maximum number of seconds between two polls."""
OUTAGE_SECONDS = 1_800
"""Maximum number of seconds that a wait continues without an answer from Kaggle. A pause that
Kaggle asks for during a wait has the same maximum."""
SETTLING_PAUSES = (0, 2, 4, 8, 16, 30)
"""Pauses, in seconds, before each successive check of whether an unanswered request reached Kaggle.
If the last check finds nothing, the request counts as lost."""

T = TypeVar("T")


class PendingError(ServiceError):
    """A wait ran out of time. Nothing failed, and an answer may still arrive later."""


def poll(check: Callable[[], tuple[T | None, str]], what: str, limit: float) -> T:
    """Call `check` until it gives an answer, and return that answer. Show the state in the
    meantime. Calls that Kaggle does not answer are repeated for up to `OUTAGE_SECONDS`.

    Parameters
    ----------
    check : callable
        Returns a pair: the answer, or None if there is none yet, and a description of the state.
        Raises an error if there will be no answer.
    what : str
        The name of the thing waited for, used in messages.
    limit : float
        Seconds after which to stop waiting.

    Raises
    ------
    PendingError
        If the limit has passed; the message includes the last state.
    ServiceError
        If Kaggle has not answered for too long.
    """
    started, pause, last_state = time.monotonic(), FIRST_PAUSE, None
    answered = started
    with tqdm(bar_format="{desc} ({elapsed})", leave=False, disable=None) as line:
        while True:
            requested = 0.0
            try:
                answer, state = check()
                answered = time.monotonic()
            except (BusyError, UncertainError) as error:
                if time.monotonic() - answered >= OUTAGE_SECONDS:
                    raise
                answer, state = None, "no answer, asking again"
                requested = min(error.seconds, OUTAGE_SECONDS)
            line.set_description_str(f"{what}: {state}")
            if state != last_state:
                logger.info("%s: %s", what, state)
                last_state = state
            if answer is not None:
                return answer
            left = limit - (time.monotonic() - started)
            if left <= 0:
                raise PendingError(
                    f"{what}: still {state} after {limit / 3600:.1f} hours; rerun the same command "
                    "to keep waiting"
                )
            time.sleep(min(max(pause, requested), left))
            pause = min(1.5 * pause, LONGEST_PAUSE)


def settled(find: Callable[[], T | None]) -> T | None:
    """Call `find` repeatedly until it finds something, and return that; return None after a full
    minute without a result."""
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
        Records that the request is being sent, sends it, and returns the result.
    pending : callable
        Returns whether the request is recorded as sent but its result is unknown.
    find : callable
        Looks for the result on Kaggle and returns it, or None if Kaggle does not have it.

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
