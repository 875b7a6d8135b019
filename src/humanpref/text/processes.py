"""Divide work on many texts among processes, if there is enough work. The result never depends on
the number of processes. joblib is imported only for more than one."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


def processes_for(characters: int, each: int) -> int:
    """Return the number of processes to use: one, plus one for every `each` characters, up to the
    number of cores."""
    wanted = 1 + characters // each
    if wanted == 1:
        return 1
    import joblib

    return min(wanted, joblib.cpu_count())


def in_parts(work: Callable[[Sequence[T]], R], items: Sequence[T], processes: int) -> list[R]:
    """Apply `work` to parts of the items in separate processes, and return the results in the order
    of the items. If `processes` is 1, apply `work` to all items in this process."""
    if processes == 1:
        return [work(items)]
    import joblib

    size = max(1, len(items) // (4 * processes))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    # loky starts new processes instead of forking: a fork could inherit the state of torch's
    # threads while these are running.
    with joblib.Parallel(processes, backend="loky", idle_worker_timeout=10) as parallel:
        return list(parallel(joblib.delayed(work)(part) for part in parts))
