"""Faults that a dry run can inject."""

import shutil
from pathlib import Path

from humanpref.kaggle.contract import MARKER
from humanpref.kaggle.rehearsal.sandbox import Kill
from humanpref.kaggle.runtime.inputs import find_artifacts
from humanpref.kaggle.runtime.mounts import find

FAULTS = {
    "missing-dataset": "the wheel dataset is not mounted",
    "corrupt-wheel": "one byte of the package's wheel is changed",
    "corrupt-weights": "half of every artifact's weights is missing",
    "slow": "the time for predicting runs out before it begins",
    "oom": "the predicting process is killed for using too much memory",
    "no-labels": "train.csv has no labels",
    "killed-training": "a training process is killed; a second version resumes the run",
    "killed-inference": "a process that predicts for one GPU is killed",
}
"""The faults by name. With `no-labels`, the training kernel must end with an error. With
`killed-training`, it must end with an error that reports the kill, and a later version that mounts
its output must finish the run. With `killed-inference`, every row must still be predicted, and
status.json must report the kill. With any other fault, nothing can be predicted: the inference
kernel's commit run must end with an error and its hidden rerun with exit code 0, and both must
leave a valid submission and give the reason in status.json."""
OOM_BYTES = 64 * 2**20
"""Memory limit of a process with fault `oom`: enough for pip and for the fallback, but too little
for the package."""


def kill_of(fault: str | None, kernel: str) -> Kill | None:
    """Return the process that a fault kills during a kernel's run, or None. `kernel` is the run's
    key in `TITLES`."""
    if (fault, kernel) == ("killed-training", "train"):
        return Kill(r"training: [\d,]+ rows", "humanpref.kaggle.runtime.launch")
    if fault == "killed-inference" and kernel in ("infer", "rerun"):
        # The log has such a line as soon as a process has loaded the model.
        return Kill(r": 0 of [\d,]+ rows", "--multiprocessing-fork")
    return None


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
