"""Inference of a trained module over many rows: batches by length under a token budget, the order of the rows restored."""

import contextlib

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from humanpref.training.batching import token_batches
from humanpref.training.loop import Collate
from humanpref.training.precision import DTYPES, device_of_run, resolve


def predict_logits(
    module: nn.Module, collate: Collate, lengths: np.ndarray, batch_tokens: int, precision: str
) -> np.ndarray:
    """The module's logits for every row.

    Parameters
    ----------
    module : Module
        Takes what `collate` gives, returns logits (n, …). It is moved to the run's device, put into eval mode, and moved back:
        the fold models of an artifact share a GPU one after the other.
    collate : callable
        From row numbers to keyword arguments.
    lengths : ndarray
        (n,) tokens that each row costs.
    batch_tokens : int
        Tokens in one forward pass, padding included.
    precision : str
        As in the configuration.

    Returns
    -------
    ndarray
        (n, …) float64, the module's outputs in the order of the rows.
    """
    device = device_of_run()
    dtype = DTYPES.get(resolve(precision, device))
    autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    home = next(module.parameters()).device
    module.to(device).eval()
    logits: np.ndarray | None = None
    with torch.inference_mode(), autocast, tqdm(total=len(lengths), desc="predict", unit="row", disable=None) as bar:
        for rows in token_batches(lengths, batch_tokens):
            batch = {name: tensor.to(device) for name, tensor in collate(rows).items()}
            made = module(**batch).double().cpu().numpy()
            logits = np.empty((len(lengths), *made.shape[1:])) if logits is None else logits
            logits[rows] = made
            bar.update(len(rows))
    module.to(home)
    return np.empty((0, 3)) if logits is None else logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis in float64; rows sum to 1 to rounding."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
