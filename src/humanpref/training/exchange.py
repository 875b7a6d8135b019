"""Exchange initial weights, numbers and gradients between the processes of one training run.

Each process computes its own gradients. They are added once per step, after every process has
reported success. DistributedDataParallel would add them during the backward pass, where a process
that runs out of memory would leave the others waiting.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, distributed, nn

from humanpref.training.learned import learned_state
from humanpref.training.precision import process_state

BUCKET = 25 * 2**20
"""Maximum size, in bytes, of the gradients that are copied into one tensor and added in one
call."""


def launched() -> bool:
    """Return whether this run has several processes."""
    return process_state().num_processes > 1


def summed(numbers: Tensor) -> Tensor:
    """Replace a tensor by its sum over all processes, and return it. Every process must call this
    function."""
    if launched():
        distributed.all_reduce(numbers)
    return numbers


def start_equal(module: nn.Module) -> None:
    """Copy the main process's learned weights and buffers to all other processes."""
    if launched():
        for tensor in learned_state(module).values():
            distributed.broadcast(tensor, src=0)


def add_gradients(weights: list[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes. A gradient that only some processes have
    counts as zeros in the other processes."""
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
    """Yield the gradients in groups of at most `BUCKET` bytes; a larger gradient is a group of its
    own. Gradients that are None become zeros."""
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
