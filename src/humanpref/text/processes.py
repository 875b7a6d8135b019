"""Split work on many texts between processes where there is enough of it. The result never depends
on their number."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import joblib

T, R = TypeVar("T"), TypeVar("R")


def processes_for(characters: int, each: int) -> int:
    """Return how many processes to use: one, and one more for each `each` characters, up to the
    number of cores."""
    wanted = 1 + characters // each
    return min(wanted, joblib.cpu_count()) if wanted > 1 else 1


def in_parts(work: Callable[[Sequence[T]], R], items: Sequence[T], processes: int) -> list[R]:
    """Apply `work` to parts of the items and return the results in order; with `processes` 1, to
    all items, in this process."""
    if processes == 1:
        return [work(items)]
    size = max(1, len(items) // (4 * processes))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    # joblib's processes are started afresh, not forked: a fork would inherit torch's threads in the
    # middle of their work.
    with joblib.Parallel(processes, backend="loky", idle_worker_timeout=10) as parallel:
        return list(parallel(joblib.delayed(work)(part) for part in parts))
