"""What the tests of several files here start from."""

import shutil
from pathlib import Path

import pytest

from humanpref.kaggle.bundle.assemble import KERNELS
from humanpref.kaggle.bundle.metadata import DATASET_METADATA

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path) -> Path:
    """The committed metadata and code, to be spoilt."""
    for path in (
        DATASET_METADATA,
        *KERNELS.values(),
        "kernel/train/train.py",
        "kernel/infer/infer.ipynb",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / path, tmp_path / path)
    return tmp_path
