"""Batch rows: in shuffled windows for training, and within a token budget for inference."""

import numpy as np


def shuffled_windows(rows: int, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Divide one epoch into windows of `size` row indices, one window per optimizer step.

    Every row occurs exactly once, in an order drawn from (seed, epoch). The last window may be
    smaller.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return [order[start : start + size] for start in range(0, rows, size)]


def micro_batches(
    window: np.ndarray, lengths: np.ndarray, batch_rows: int, batch_tokens: int, processes: int
) -> list[list[np.ndarray]]:
    """Divide a window among processes, and each process's share into forward passes, largest first.

    Parameters
    ----------
    window : ndarray
        (m,) row indices.
    lengths : ndarray
        (n,) number of tokens in each of the run's n rows.
    batch_rows, batch_tokens : int
        Maximum number of rows, and of tokens including padding, in one forward pass. A row with
        more tokens gets a pass to itself.
    processes : int
        Number of processes. If there are fewer rows than processes, some processes have no passes.

    Returns
    -------
    list of list of ndarray
        For each process, the row indices of each of its passes.

    Examples
    --------
    >>> window, lengths = np.array([1, 2, 3, 4]), np.array([0, 10, 30, 40, 20])
    >>> [[rows.tolist() for rows in share] for share in micro_batches(window, lengths, 8, 40, 2)]
    [[[3], [1]], [[2], [4]]]
    """
    ordered = window[np.argsort(-lengths[window], kind="stable")]
    # Deal the rows out to the processes back and forth, as 0 1 1 0 0 1, to balance their tokens:
    # all processes wait for the one with the most tokens.
    turns, process = np.divmod(np.arange(len(ordered)), processes)
    process = np.where(turns % 2, processes - 1 - process, process)
    shares = [ordered[process == number] for number in range(processes)]
    cut = [
        [rows[part] for part in token_batches(lengths[rows], batch_tokens, batch_rows)]
        for rows in shares
    ]
    return [sorted(passes, key=lambda rows: -padded(lengths, rows)) for passes in cut]


def padded(lengths: np.ndarray, rows: np.ndarray) -> int:
    """Return the number of tokens of a batch, padding included."""
    return len(rows) * int(lengths[rows].max())


def token_batches(
    lengths: np.ndarray, batch_tokens: int, batch_rows: int | None = None
) -> list[np.ndarray]:
    """Group rows of similar length into batches of at most `batch_tokens` tokens, padding included.

    The longest rows come first, so that a run that will exceed memory does so immediately. A row
    that exceeds the budget gets a batch to itself.

    Parameters
    ----------
    lengths : ndarray
        (n,) number of tokens in each row.
    batch_tokens : int
        Tokens per batch, padding included.
    batch_rows : int, optional
        Maximum rows per batch. By default, there is no maximum.

    Returns
    -------
    list of ndarray
        Row indices; each row is in exactly one batch.
    """
    batches: list[np.ndarray] = []
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        size = size if batch_rows is None else min(size, batch_rows)
        batches.append(order[start : start + size])
        start += size
    return batches
