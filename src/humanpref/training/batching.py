"""Batch rows: in shuffled windows for training, and within a token budget for inference."""

import numpy as np

Window = list[np.ndarray]
"""The micro-batches of one optimizer step, each an array of row indices."""


def shuffled_windows(
    rows: int, batch_size: int, accumulation: int, seed: int, epoch: int
) -> list[Window]:
    """Divide one epoch into optimizer steps: every row once, in an order drawn from (seed, epoch).

    The last micro-batch and the last window may be smaller; no row is dropped.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    batches = [order[start : start + batch_size] for start in range(0, rows, batch_size)]
    return [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]


def token_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Batch rows of similar length, at most `batch_tokens` tokens once padded.

    The longest rows come first, so that a run that will exceed memory does so immediately. A row
    that exceeds the budget gets a batch to itself.

    Parameters
    ----------
    lengths : ndarray
        (n,) number of tokens in each row.
    batch_tokens : int
        Tokens per batch, padding included.

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
        batches.append(order[start : start + size])
        start += size
    return batches
