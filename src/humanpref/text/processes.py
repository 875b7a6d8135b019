"""Work on many texts, shared out to processes where there is enough of it. The result never depends
on their number."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import joblib

T, R = TypeVar("T"), TypeVar("R")


def processes_for(characters: int, each: int) -> int:
    """How many processes so many characters are worth, where one more pays for its start with
    `each`: at most one per core."""
    wanted = 1 + characters // each
    return min(wanted, joblib.cpu_count()) if wanted > 1 else 1


def in_parts(work: Callable[[Sequence[T]], R], items: Sequence[T], processes: int) -> list[R]:
    """What `work` makes of each part of the items, in their order; one part and no other process
    where `processes` is 1."""
    if processes == 1:
        return [work(items)]
    size = max(1, len(items) // (4 * processes))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    # joblib's processes are started afresh, not forked: a fork would inherit torch's threads in the
    # middle of their work.
    with joblib.Parallel(processes, backend="loky", idle_worker_timeout=10) as parallel:
        return list(parallel(joblib.delayed(work)(part) for part in parts))
