"""The played device itself: what it refuses, counts and computes."""

import pytest
import torch
from torch import nn

from humanpref.training.inputs import moved


def test_devices_do_not_mix(gpu):
    here, there = torch.ones(2, 2), torch.ones(2, 2, device="cuda")
    assert there.device == torch.device("cuda", 0)
    for mixed in (lambda: here + there, lambda: there @ here, lambda: torch.cat([there, here])):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there + torch.tensor(1.0)).tolist() == [[2, 2], [2, 2]]
    assert there[torch.tensor([0])].shape == (1, 2)
    assert gpu.copies == {("index", "?"): 1}


def test_waits_and_copies_are_counted(gpu):
    tensor = moved({"x": torch.arange(3.0)}, torch.device("cuda"))["x"]
    ((kind, line),) = gpu.copies
    assert kind == "to the device"
    assert line.startswith("training/inputs.py:")
    gpu.clear()
    tensor.sum().item()
    assert tensor.sum() > 0  # a comparison on the device, and an item
    tensor[tensor > 0].nonzero()
    tensor.cpu()
    tensor.numpy(force=True)
    tensor.to("cuda")
    assert gpu.waits == {
        ("item", "?"): 2,
        ("boolean index", "?"): 1,
        ("nonzero", "?"): 1,
        ("to the host", "?"): 2,
    }
    assert not gpu.copies


def test_memory_has_an_end(gpu):
    torch.zeros(10, device="cuda")
    assert gpu.largest == 10
    gpu.room = 9
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(10, device="cuda")
    torch.zeros(10)
    assert gpu.failures == 1


def test_modules_move_and_change_their_dtype(gpu):
    layer = nn.Linear(2, 2).to("cuda", torch.half)
    assert {weight.dtype for weight in layer.parameters()} == {torch.half}
    for weight in layer.parameters():
        weight.data = weight.data.float()
    with torch.autocast("cuda", torch.half):
        outputs = layer(torch.ones(1, 2, device="cuda"))
    assert outputs.dtype == torch.half
    outputs.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert ("addmm", torch.half, "?") in gpu.dtypes


def test_products_in_half_precision_accumulate_in_float32():
    ones = torch.full((1, 4_096), 1.0, dtype=torch.half, device="cuda")
    assert (ones @ ones.T).item() == 4_096
    thousands = ones * 1_000
    assert (thousands @ thousands.T).isinf().item()
