"""What the processes of one training run tell each other: initial weights, numbers and gradients.

Each process computes its own gradients, and they are added once per step, after every process has
reported that it succeeded. DistributedDataParallel would add them during the backward pass, where a
process that runs out of memory leaves the others waiting for it.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn

from humanpref.training.learned import learned_state
from humanpref.training.precision import process_state

BUCKET = 25 * 2**20
"""Bytes of gradients that are copied into one tensor to be added at once."""


def launched() -> bool:
    """Return whether this run has several processes."""
    return process_state().num_processes > 1


def summed(numbers: Tensor) -> Tensor:
    """Add a tensor of all processes, in place. Every process must call this function."""
    if launched():
        distributed.all_reduce(numbers)
    return numbers


def start_equal(module: nn.Module) -> None:
    """Give every process the main one's learned weights and buffers."""
    if launched():
        for tensor in learned_state(module).values():
            distributed.broadcast(tensor, src=0)


def add_gradients(weights: list[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes. If only some processes have one, it
    counts as zeros in the others."""
    if not launched():
        return
    used = torch.tensor([weight.grad is not None for weight in weights], device=weights[0].device)
    used = summed(used.int()).tolist()
    for bucket in _buckets(weight for weight, users in zip(weights, used, strict=True) if users):
        flat = bucket[0].view(-1) if len(bucket) == 1 else torch.cat([g.view(-1) for g in bucket])
        summed(flat)
        if len(bucket) > 1:
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.view(-1).copy_(part)


def _buckets(weights: Iterable[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Yield the gradients in groups of at most `BUCKET` bytes; a larger one is its own group."""
    bucket: list[Tensor] = []
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        if bucket and sum(g.nbytes for g in bucket) + weight.grad.nbytes > BUCKET:
            yield bucket
            bucket = []
        bucket.append(weight.grad)
    if bucket:
        yield bucket
