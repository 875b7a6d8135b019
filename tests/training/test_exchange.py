"""What processes add and share, in one process and in two."""

import pytest
import torch
from torch import nn

from humanpref.training.exchange import add_gradients, launched, start_equal, summed

from .task import launched as in_processes


def test_one_process_exchanges_nothing():
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    start_equal(layer)
    add_gradients(layer.parameters())
    assert not launched()
    assert layer.weight.grad is None
    assert torch.equal(layer.weight, before)
    assert summed(torch.arange(3)).tolist() == [0, 1, 2]


TWO_PROCESSES = """
import torch
from torch import nn
from humanpref.training import exchange
from humanpref.training.precision import process_state

rank = process_state().process_index
assert exchange.launched()
assert exchange.summed(torch.tensor([1, rank])).tolist() == [2, 1]

torch.manual_seed(rank)
module = nn.Linear(2, 2)
module.frozen = nn.Linear(2, 2).requires_grad_(False)
module.register_buffer("counts", torch.full((2,), rank))
frozen = module.frozen.weight.clone()
exchange.start_equal(module)
torch.manual_seed(0)
assert torch.equal(module.weight, nn.Linear(2, 2).weight)
assert module.counts.tolist() == [0, 0]
assert torch.equal(module.frozen.weight, frozen)

# Six weights: a bucket of one that is larger than any, of several, and one missing per process.
floats = exchange.BUCKET // 4
sizes = [(3,), (floats + 1,), (2, 5), (4,), (floats // 2,), (floats // 2,)]
weights = [nn.Parameter(torch.zeros(size)) for size in sizes]
unused = nn.Parameter(torch.zeros(2))
for number, weight in enumerate(weights):
    if number not in (2, 3 + rank):
        weight.grad = torch.full_like(weight, 10.0 * number + rank)
        weight.grad.view(-1)[-1] = 7 + rank
if rank == 0:
    weights[2].grad = torch.arange(10.0).reshape(2, 5)
exchange.add_gradients([*weights[:2], unused, *weights[2:]])
assert unused.grad is None
expected = [1.0, 21.0, None, 31.0 , 40.0, 101.0]
for number, (weight, value) in enumerate(zip(weights, expected)):
    if value is not None:
        assert (weight.grad.view(-1)[:-1] == value).all(), number
        last = {3: 8, 4: 7}.get(number, 15)
        assert weight.grad.view(-1)[-1] == last, number
assert torch.equal(weights[2].grad, torch.arange(10.0).reshape(2, 5))
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    in_processes(TWO_PROCESSES, tmp_path, 2)
