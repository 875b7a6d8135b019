"""Run a backbone over a batch of sequences with little padding."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from humanpref.training.batching import token_batches

BACKBONE_TOKENS = {True: 16_384, False: 1_024}
"""Maximum number of tokens per call of the backbone on a GPU (True) and on a CPU (False). A CPU is
just as fast with few tokens, whereas a GPU needs many to be fully used."""


def hidden_states(
    read: Callable[..., Tensor], inputs: dict[str, Tensor], lengths: np.ndarray
) -> Tensor:
    """Compute the backbone's last hidden states, (m, length, width); they are zero at padding that
    the backbone did not read.

    Sequences of similar length go through the backbone together, so that they are not padded to the
    longest of all (even the two sequences of one row can differ in length).

    Parameters
    ----------
    read : callable
        The backbone, as a function from named inputs to last hidden states.
    inputs : dict
        Tensors (m, length), including `input_ids`; padded on the right.
    lengths : ndarray
        (m,) number of tokens in each sequence. The caller passes them, because counting them in the
        mask would make the host wait for the device.
    """
    device, length = inputs["input_ids"].device, inputs["input_ids"].shape[1]
    batches = token_batches(lengths, BACKBONE_TOKENS[device.type == "cuda"])
    if len(batches) == 1:
        return read(**inputs)
    order, states = torch.from_numpy(np.concatenate(batches)).to(device), []
    for rows, chosen in zip(batches, order.split([len(rows) for rows in batches]), strict=True):
        end = max(1, int(lengths[rows].max()))
        part = {name: tensor[chosen, :end] for name, tensor in inputs.items()}
        states.append(nn.functional.pad(read(**part), (0, 0, 0, length - end)))
    return torch.cat(states)[order.argsort()]


def last_states(
    read: Callable[..., Tensor], input_ids: Tensor, attention_mask: Tensor, lengths: np.ndarray
) -> Tensor:
    """Return the hidden state of each row's last token, (n, width).

    Each row has one sequence: ids and mask are (n, 1, length), padded on the right, and `lengths`,
    (n, 1), counts the tokens. For `read`, see `hidden_states`.
    """
    inputs = {"input_ids": input_ids[:, 0], "attention_mask": attention_mask[:, 0]}
    hidden = hidden_states(read, inputs, lengths[:, 0])
    last = attention_mask[:, 0].sum(dim=1) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
