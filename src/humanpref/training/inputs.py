"""Rows in the form that a module reads: token ids, padded batch by batch."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from humanpref.text.tokens import Tokenised

Collate = Callable[[np.ndarray], dict[str, Any]]
"""A function from row indices to a module's keyword arguments, on the CPU."""

Column = Callable[[Tokenised], np.ndarray]
"""A function from a sequence to one number per token."""


@dataclass(frozen=True)
class TokenRows:
    """The inputs of n rows, each of s sequences. Called with row indices, it returns a module's
    keyword arguments.

    Attributes
    ----------
    sequences : list
        n lists of s sequences.
    pad : int
        The token id used for padding, which is on the right.
    columns : dict
        The module's per-token inputs other than the token ids, by argument name. Their padding is
        0.
    on_host : tuple of str
        Names of the columns that the module reads on the host, as arrays.
    per_row : dict
        The module's per-row inputs, by argument name: arrays of shape (n, …).
    flags : dict
        Arguments that are the same for every batch.

    Examples
    --------
    >>> ids, zeros = np.arange(5, 8), np.zeros(3)
    >>> rows = TokenRows([[Tokenised(ids, zeros, zeros, False)]] * 2, pad=0)
    >>> rows(np.array([1]))["input_ids"].tolist()
    [[[5, 6, 7]]]
    """

    sequences: list[list[Tokenised]]
    pad: int
    columns: dict[str, Column] = field(default_factory=dict)
    on_host: tuple[str, ...] = ()
    per_row: dict[str, np.ndarray] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) int64, the number of tokens that each row costs: the length of its longest sequence
        times its number of sequences."""
        longest = (len(row) * max(len(sequence.ids) for sequence in row) for row in self.sequences)
        return np.fromiter(longest, dtype=np.int64, count=len(self.sequences))

    def __call__(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the module's keyword arguments for m rows.

        These are `input_ids`, `attention_mask` and the columns, each (m, s, length) int64; the
        sequences' `lengths`, (m, s) int64; the per-row inputs; and the flags. `lengths` and the
        columns named in `on_host` are arrays; everything else except the flags is a tensor.
        """
        chosen = [self.sequences[row] for row in rows]
        sequences = list(itertools.chain(*chosen))
        lengths = np.array([len(sequence.ids) for sequence in sequences])
        read = np.arange(lengths.max()) < lengths[:, None]
        shape = len(chosen), len(chosen[0]), lengths.max()

        def padded(column: Column, padding: int = 0) -> np.ndarray:
            batch = np.full(read.shape, padding, dtype=np.int64)
            batch[read] = np.concatenate(list(map(column, sequences)))
            return batch.reshape(shape)

        batch = {
            "input_ids": padded(lambda sequence: sequence.ids, self.pad),
            "attention_mask": read.astype(np.int64).reshape(shape),
            **{name: padded(column) for name, column in self.columns.items()},
        }
        on_host = {name: batch.pop(name) for name in self.on_host}
        batch |= {name: values[rows] for name, values in self.per_row.items()}
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        return {**tensors, **on_host, "lengths": lengths.reshape(shape[:2]), **self.flags}


class Examples(NamedTuple):
    """The data on which a module is trained.

    Attributes
    ----------
    collate : callable
        See `Collate`.
    labels : ndarray
        (n, 3), hard or soft.
    lengths : ndarray
        (n,) number of tokens that each row costs, to be compared with `forward_tokens`.
    weights : ndarray, optional
        (n,), at least 0, and not all 0. Weight 2 is equivalent to duplicating the row.
    """

    collate: Collate
    labels: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None = None


def moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch's tensors to a device."""
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
