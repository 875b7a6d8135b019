"""One played GPU for the life of the process, which therefore runs no other tests."""

import os
import sys
from pathlib import Path

import pytest
import torch

from .played import played_gpu


def pytest_collection_modifyitems(items):
    if any(Path(__file__).parent not in item.path.parents for item in items):
        raise pytest.UsageError("tests/gpu changes torch for the life of its process: run it alone")


@pytest.fixture(autouse=True, scope="session")
def _device():
    if sys.platform != "linux" or torch.backends.cuda.is_built():
        pytest.skip("a GPU is played by torch's CPU build, on Linux")
    os.environ["ACCELERATE_USE_CPU"] = "false"
    # transformers loads weights in threads, and a dispatch mode belongs to one thread.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "true"
    with played_gpu() as gpu:
        yield gpu


@pytest.fixture(autouse=True)
def gpu(_device):
    """The played GPU, its record empty."""
    _device.clear()
    return _device


@pytest.fixture(scope="session")
def few(pairs):
    """Twelve rows: three batches of four."""
    return pairs[:12].reset_index(drop=True)


@pytest.fixture(scope="session")
def backbone_of(decoder_folder):
    """Return the backbone of a tiny model of a family."""
    return lambda family: "scratch" if family == "encoder" else decoder_folder()
