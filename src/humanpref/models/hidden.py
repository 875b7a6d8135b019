"""Hidden states of a batch, read with little padding."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from humanpref.training.batching import token_batches

BACKBONE_TOKENS = {True: 16_384, False: 1_024}
"""Tokens that the backbone reads in one call, on a GPU and on a CPU. A CPU is as fast with few; a
GPU needs many to be busy."""


def hidden_states(read: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """The backbone's last hidden states, (m, length, width), zeros at the padding that it did not
    have to read.

    Sequences of similar length go through the backbone together, without the padding that the
    longest of all would cost them (the two branches of a row differ, too).

    Parameters
    ----------
    read : callable
        From inputs, by name, to last hidden states: the backbone's call.
    inputs : dict
        (m, length) each, `attention_mask` among them; padded on either side.
    """
    mask = inputs["attention_mask"]
    real = mask.bool().cpu().numpy()
    length = mask.shape[1]
    batches = token_batches(real.sum(axis=1), BACKBONE_TOKENS[mask.device.type == "cuda"])
    made = []
    for rows in batches:
        places = np.flatnonzero(real[rows].any(axis=0))
        first, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
        chosen = torch.from_numpy(rows).to(mask.device)
        part = {name: tensor[chosen, first:end] for name, tensor in inputs.items()}
        made.append(nn.functional.pad(read(**part), (0, 0, first, length - end)))
    order = np.argsort(np.concatenate(batches))
    return torch.cat(made)[torch.from_numpy(order).to(mask.device)]
