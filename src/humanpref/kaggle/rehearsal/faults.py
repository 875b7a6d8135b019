"""Faults that a dry run can plant."""

import shutil
from pathlib import Path

from humanpref.kaggle.contract import MARKER
from humanpref.kaggle.runtime.inputs import find_artifacts
from humanpref.kaggle.runtime.mounts import find

FAULTS = {
    "missing-dataset": "the wheel dataset is not mounted",
    "corrupt-wheel": "one byte of the package's wheel is changed",
    "corrupt-weights": "half of every artifact's weights is missing",
    "slow": "the time for predicting runs out before it begins",
    "oom": "the predicting process is killed for using too much memory",
    "no-labels": "train.csv has no labels",
}
"""The faults by name. With `no-labels`, the training kernel must end with an error. With the
others, nothing can be predicted: the inference kernel's commit run must end with an error and its
hidden rerun with exit code 0, and both must leave a valid submission and give the reason in
status.json."""
OOM_BYTES = 64 * 2**20
"""Memory limit of a process with fault `oom`: enough for pip and for the fallback, but too little
for the package."""


def damage_inputs(inputs: Path, fault: str | None) -> None:
    """Damage a kernel's mounted inputs according to the fault.

    The inputs are hard links, so each link is replaced with a damaged copy, and the staged file
    stays intact.
    """
    if fault == "missing-dataset":
        for marker in find(MARKER, inputs):
            shutil.rmtree(marker.parent)
    if fault == "corrupt-wheel":
        for wheel in inputs.rglob("humanpref-*.whl"):
            content = bytearray(wheel.read_bytes())
            content[len(content) // 2] ^= 1
            _replace(wheel, content)
    if fault == "corrupt-weights":
        for artifact in find_artifacts(inputs):
            for weights in artifact.rglob("*.safetensors"):
                content = weights.read_bytes()
                _replace(weights, content[: len(content) // 2])


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)
