"""Inference of a trained module over many rows: batches by length under a token budget, the order
of the rows restored.

Where several processes were launched, each does its share of the batches and all get the whole
result.
"""

import contextlib
import logging

import numpy as np
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from tqdm import tqdm

from humanpref.training.batching import token_batches
from humanpref.training.loop import Collate
from humanpref.training.precision import DTYPES, processes, resolve

logger = logging.getLogger(__name__)


def predict_logits(
    module: nn.Module, collate: Collate, lengths: np.ndarray, batch_tokens: int, precision: str
) -> np.ndarray:
    """The module's logits for every row.

    Parameters
    ----------
    module : Module
        Takes what `collate` gives, returns logits (n, …). It is moved to the run's device, put into
        eval mode, and moved back: the fold models of an artifact share a GPU one after the other.
    collate : callable
        From row numbers to keyword arguments.
    lengths : ndarray
        (n,) tokens that each row costs.
    batch_tokens : int
        Tokens in one forward pass, padding included. Where the memory is not enough, it is halved.
    precision : str
        As in the configuration.

    Returns
    -------
    ndarray
        (n, …) float64, the module's outputs in the order of the rows.

    Raises
    ------
    torch.OutOfMemoryError
        If a row does not fit alone.
    """
    launched = processes()
    device = launched.device
    dtype = DTYPES.get(resolve(precision, device))
    autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    home = next(module.parameters()).device
    module.to(device).eval()
    logits: np.ndarray | None = None
    own = token_batches(lengths, batch_tokens)[launched.process_index :: launched.num_processes]
    total = sum(len(rows) for rows in own)
    pending = own[::-1]
    try:
        with (
            torch.inference_mode(),
            autocast,
            tqdm(total=total, desc="predict", unit="row", disable=None) as bar,
        ):
            while pending:
                rows = pending.pop()
                made = _forward(module, collate(rows), device, alone=len(rows) == 1)
                if made is None:
                    batch_tokens = min(batch_tokens, int(lengths[rows].max()) * len(rows)) // 2
                    logger.warning(
                        "out of memory: from here on %d tokens in a forward pass", batch_tokens
                    )
                    left = np.concatenate([rows, *pending])
                    pending = [left[part] for part in token_batches(lengths[left], batch_tokens)][
                        ::-1
                    ]
                    continue
                logits = np.zeros((len(lengths), *made.shape[1:])) if logits is None else logits
                logits[rows] = made
                bar.update(len(rows))
    finally:
        module.to(home)
    if launched.num_processes > 1:
        # Each process did every so-manieth batch; those of the others are zeros here.
        logits = np.sum([part for part in gather_object([logits]) if part is not None], axis=0)
    return np.empty((0, 3)) if logits is None else logits


def _forward(
    module: nn.Module, batch: dict[str, Tensor], device: torch.device, alone: bool
) -> np.ndarray | None:
    """The module's outputs, float64; None where the memory was not enough, unless a row was
    alone."""
    try:
        made: Tensor = module(**{name: tensor.to(device) for name, tensor in batch.items()})
        return made.double().cpu().numpy()
    except torch.OutOfMemoryError:
        if alone:
            raise
    # Behind the block: the error holds the tensors of the pass.
    clear_device_cache()
    return None


def normalised(scores: np.ndarray, rule: str) -> np.ndarray:
    """Probabilities from scores of shape (n, …, 3), by the rule `inference.normalise` names."""
    if rule == "softmax":
        return softmax(scores)
    clipped = np.clip(scores, 1e-15, 1)
    return clipped / clipped.sum(axis=-1, keepdims=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis in float64; rows sum to 1 to rounding."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
