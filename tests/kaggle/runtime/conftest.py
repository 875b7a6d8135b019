"""What the tests of several files here start from."""

from pathlib import Path

import pytest

from humanpref.kaggle.bundle.stage import stage_dataset
from humanpref.kaggle.contract import KernelRun

from ..tree import PROJECT


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    """The staged dataset of a run of the cheapest preset; no test changes it."""
    folder = tmp_path_factory.mktemp("wheels") / "dataset"
    return stage_dataset(folder, PROJECT, KernelRun("prior"))
