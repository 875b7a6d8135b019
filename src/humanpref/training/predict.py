"""Run a trained module over many rows, in batches of rows of similar length within a token budget.

If several processes were launched, each takes its share of the batches and all get the complete
result.
"""

import contextlib
import logging
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from scipy.special import softmax
from torch import Tensor, nn

from humanpref.bar import Bar
from humanpref.training.batching import token_batches
from humanpref.training.inputs import Collate, moved
from humanpref.training.precision import DTYPES, process_state, resolve

logger = logging.getLogger(__name__)


def predict_logits(
    module: nn.Module,
    collate: Collate,
    lengths: np.ndarray,
    batch_tokens: int,
    precision: str,
    name: str = "predict",
) -> np.ndarray:
    """Compute the module's outputs for every row.

    Parameters
    ----------
    module : Module
        Takes the keyword arguments from `collate` and returns (n, …). It is put into eval mode and
        moved to the run's device, where it stays.
    collate : callable
        A function from row indices to keyword arguments.
    lengths : ndarray
        (n,) number of tokens in each row.
    batch_tokens : int
        Maximum number of tokens in one forward pass, padding included; halved whenever memory runs
        out.
    precision : str
        See the option `inference.precision`.
    name : str
        Name of this work on the progress bar.

    Returns
    -------
    ndarray
        (n, …) float64, in the order of the rows.

    Raises
    ------
    InputError
        If the device does not support the precision.
    torch.OutOfMemoryError
        If a single row does not fit into memory.
    """
    launched = process_state()
    device = launched.device
    dtype = DTYPES.get(resolve(precision, device, "inference.precision"))
    autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    module.to(device).eval()
    logits: np.ndarray | None = None
    own = token_batches(lengths, batch_tokens)[launched.process_index :: launched.num_processes]
    pending = own[::-1]
    # Count tokens: long rows come first, so the number of remaining rows would say little about the
    # remaining time.
    tokens = sum(int(lengths[rows].sum()) for rows in own)
    bar = Bar(name, max(1, tokens), unit="token", main=launched.process_index == 0)
    with torch.inference_mode(), autocast, contextlib.closing(bar):
        while pending:
            rows = pending.pop()
            outputs = _forward(module, moved(collate(rows), device), alone=len(rows) == 1)
            if outputs is None:
                batch_tokens = min(batch_tokens, int(lengths[rows].max()) * len(rows)) // 2
                logger.warning(
                    "out of memory: from now on, %d tokens per forward pass", batch_tokens
                )
                left = np.concatenate([rows, *pending])
                batches = token_batches(lengths[left], batch_tokens)
                pending = [left[batch] for batch in reversed(batches)]
                continue
            logits = np.zeros((len(lengths), *outputs.shape[1:])) if logits is None else logits
            logits[rows] = outputs
            bar.advance(int(lengths[rows].sum()))
    if launched.num_processes > 1:
        # Each process has zeros for the other processes' batches.
        logits = np.sum([part for part in gather_object([logits]) if part is not None], axis=0)
    return np.empty((0, 3)) if logits is None else logits


def _forward(module: nn.Module, batch: dict[str, Any], alone: bool) -> np.ndarray | None:
    """Return the module's outputs as float64. If memory runs out, return None, or raise the error
    if the batch is a single row (`alone`)."""
    try:
        outputs: Tensor = module(**batch)
        return outputs.double().cpu().numpy()
    except torch.OutOfMemoryError:
        if alone:
            raise
    # Clear the cache outside the except block, where the error still references the forward pass's
    # tensors.
    clear_device_cache()
    return None


def normalised(scores: np.ndarray, rule: str, ties: bool = True) -> np.ndarray:
    """Turn scores (n, …, 3) into probabilities by `rule`, a value of `inference.normalise`. Without
    ties, only the scores of A and B count, and P(tie) is exactly 0."""
    if not ties:
        decided = normalised(scores[..., :2], rule)
        return np.concatenate([decided, np.zeros_like(decided[..., :1])], axis=-1)
    if rule == "softmax":
        return softmax(scores, axis=-1)
    clipped = np.clip(scores, 1e-15, 1)
    return clipped / clipped.sum(axis=-1, keepdims=True)
