"""Limit the time that the Kaggle client's requests take, keep the last response, and suppress the
client's output."""

import contextlib
import io
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

READ_SECONDS = 60
"""Maximum seconds to wait for the next byte of an answer, or for the next piece of a download."""


@dataclass
class Traffic:
    """The traffic of a `guarded` block: whether anything was sent, and the last response."""

    used: bool = False
    response: Any = None


@contextlib.contextmanager
def guarded(seconds: float) -> Iterator[Traffic]:
    """Limit the time that the block and its requests to Kaggle take, and discard what the client
    prints.

    The client sets no time limits on its requests. All requests pass through `HTTPAdapter.send`, so
    the limit for a single read is set there. An alarm limits the entire block. The alarm goes off
    repeatedly, because the client's uploads retry after any error.
    """
    from requests.adapters import HTTPAdapter

    def expire(*_: object) -> None:
        raise TimeoutError(f"not finished after {seconds:.0f} seconds")

    def send(adapter: HTTPAdapter, request: Any, **options: Any) -> Any:
        options["timeout"] = options.get("timeout") or READ_SECONDS
        traffic.used, traffic.response = True, None
        traffic.response = unbounded(adapter, request, **options)
        return traffic.response

    traffic = Traffic()
    unbounded, HTTPAdapter.send = HTTPAdapter.send, send
    handler = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield traffic
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        HTTPAdapter.send = unbounded
