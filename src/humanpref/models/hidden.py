"""Run a backbone over a batch of sequences with little padding."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from humanpref.training.batching import token_batches

BACKBONE_TOKENS = {True: 16_384, False: 1_024}
"""Tokens per call of the backbone on a GPU (True) and on a CPU (False). A CPU is just as fast with
few tokens, whereas a GPU needs many to be fully used."""


def hidden_states(read: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """Compute the backbone's last hidden states, (m, length, width); they are zero at padding that
    the backbone did not read.

    Sequences of similar length go through the backbone together, so that they are not padded to the
    longest of all (even the two branches of one row differ in length).

    Parameters
    ----------
    read : callable
        The backbone, as a function from named inputs to last hidden states.
    inputs : dict
        Tensors (m, length), including `attention_mask`; padded on either side.
    """
    mask = inputs["attention_mask"]
    real = mask.bool().cpu().numpy()
    length = mask.shape[1]
    batches = token_batches(real.sum(axis=1), BACKBONE_TOKENS[mask.device.type == "cuda"])
    states = []
    for rows in batches:
        places = np.flatnonzero(real[rows].any(axis=0))
        first, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
        chosen = torch.from_numpy(rows).to(mask.device)
        part = {name: tensor[chosen, first:end] for name, tensor in inputs.items()}
        states.append(nn.functional.pad(read(**part), (0, 0, first, length - end)))
    order = np.argsort(np.concatenate(batches))
    return torch.cat(states)[torch.from_numpy(order).to(mask.device)]
