"""Divide work on many texts among processes, if there is enough work. The result never depends on
the number of processes. joblib is imported only if there are several processes."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")

PART = 2_000
"""Maximum number of items that one process works on at a time."""


def processes_for(characters: int, each: int) -> int:
    """Return the number of processes to use: one, plus one for every `each` characters, up to the
    number of cores."""
    wanted = 1 + characters // each
    if wanted == 1:
        return 1
    import joblib

    return min(wanted, joblib.cpu_count())


def in_parts(
    work: Callable[[Sequence[T]], R], items: Sequence[T], processes: int, name: str
) -> list[R]:
    """Apply `work` to parts of the items, in separate processes if `processes` is above 1. Return
    the results in the order of the items. `name` describes the work on the progress bar."""
    if processes == 1 and len(items) <= PART:
        return [work(items)]
    from humanpref.bar import shown

    size = PART if processes == 1 else max(1, len(items) // (4 * processes))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    with contextlib.ExitStack() as stack:
        results = map(work, parts)
        if processes > 1:
            import joblib

            # loky starts new processes instead of forking: a fork could inherit the state of
            # torch's threads while these are running.
            parallel = stack.enter_context(
                joblib.Parallel(
                    processes, backend="loky", return_as="generator", idle_worker_timeout=10
                )
            )
            results = parallel(joblib.delayed(work)(part) for part in parts)
        return [result for _, result in zip(shown(parts, name, "part"), results, strict=True)]
