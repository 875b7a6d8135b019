"""What the Kaggle client sends: bounded in time, seen, and nothing printed."""

import contextlib
import io
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

READ_SECONDS = 60
"""At most so long without a byte: of an answer, or of one piece of a download."""


@dataclass
class Wire:
    """What went over it in a call: whether anything was sent, and the last answer."""

    used: bool = False
    response: Any = None


@contextlib.contextmanager
def guarded(seconds: float) -> Iterator[Wire]:
    """Bound what the client does in the block, and drop what it prints.

    The client gives none of its requests a time limit, those inside its own methods among them, so
    the limit of one read is set where all of them pass. The limit of the whole block is an alarm;
    it comes again, since the client's uploads take any error for a reason to try once more.
    """
    from requests.adapters import HTTPAdapter

    def expire(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} seconds")

    def send(adapter: HTTPAdapter, request: Any, **options: Any) -> Any:
        options["timeout"] = options.get("timeout") or READ_SECONDS
        wire.used, wire.response = True, None
        wire.response = unbounded(adapter, request, **options)
        return wire.response

    wire = Wire()
    unbounded, HTTPAdapter.send = HTTPAdapter.send, send
    handler = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield wire
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        HTTPAdapter.send = unbounded
