"""A small bundle to push, and what the service is asked on the way."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

from humanpref.files import read_json, sha256, write_json
from humanpref.kaggle.bundle.image import read_image
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, KERNEL_METADATA, read_metadata

from ..loopback import USER, slow

ROOT = Path(__file__).parents[3]
MARKER = "humanpref-dataset.json"
WHEELS, TRAIN, INFER = (f"{USER}/humanpref-{name}" for name in ("wheels", "train", "infer"))
SAVE_KERNEL, SUBMIT = "KernelsApiService/SaveKernel", "CompetitionApiService/CreateCodeSubmission"
CREATE, VERSION = "DatasetApiService/CreateDataset", "DatasetApiService/CreateDatasetVersion"
DOWNLOAD = "DatasetApiService/DownloadDataset"
STATUS = "DatasetApiService/GetDatasetStatus"
RUN_STATUS = "KernelsApiService/GetKernelSessionStatus"
LIMITS = "CompetitionApiService/GetSubmissionLimits"
PAGE = b"<html>a proxy's page</html>"
PUSH = ("push", "--user", USER)
IMPATIENT = (0.5, 1.0)
TRICKLE = slow(0.1)
"""Two seconds for an answer, never half a second without a byte."""


def left_whole(code, **values):
    """The status.json of a run in which nothing went wrong: the dataset was the one that the code
    insists on."""
    return json.dumps({"manifest": inside(code), "degraded": [], **values}).encode()


def inside(code):
    """The digest that stands in a kernel's code, a script's or a notebook's."""
    (digest,) = re.findall(r'MANIFEST = \\?"(\w*)', code)
    return digest


def stage(bundle, content=b"stands for a wheel", preset="tiny"):
    """A bundle as `humanpref kaggle bundle` lays it out, with stand-ins for the large files; no
    preset: nothing is trained."""
    dataset = bundle / "dataset"
    (dataset / "artifacts" / "one").mkdir(parents=True, exist_ok=True)
    (dataset / "humanpref-0-py3-none-any.whl").write_bytes(content)
    (dataset / "run.toml").write_text(f'preset = "{preset}"\n')
    (dataset / "artifacts" / "one" / "metrics.json").write_text("{}")
    names = ("artifacts/one/metrics.json", "humanpref-0-py3-none-any.whl", "run.toml")
    files = [
        {"name": name, "bytes": (dataset / name).stat().st_size, "sha256": sha256(dataset / name)}
        for name in names
    ]
    image = read_image(ROOT / "wheels" / "image.txt").versions
    facts = {
        "version": "0",
        "image": {"versions": {name: str(version) for name, version in image.items()}},
        "wheels": {"humanpref": "0", "bitsandbytes": "0.49.2"},
    }
    write_json(dataset / MARKER, {"format": 1, "files": files, **facts})
    write_json(dataset / DATASET_METADATA, read_metadata(ROOT / DATASET_METADATA))
    lines = ("import os\n", 'MANIFEST = ""\n', "print(os)")
    notebook = {"cells": [cell(*lines)], "metadata": {"kernelspec": {"name": "python3"}}}
    code = {"train": 'MANIFEST = ""\nprint("trained")\n', "infer": json.dumps(notebook)}
    for name, path in (
        ("train", ROOT / "kernel" / "train" / KERNEL_METADATA),
        ("infer", ROOT / KERNEL_METADATA),
    ):
        metadata = read_metadata(path)
        if not preset:
            metadata["kernel_sources"] = []
        target = bundle / name / metadata["code_file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(code[name])
        write_json(bundle / name / KERNEL_METADATA, metadata)
    if not preset:
        shutil.rmtree(bundle / "train")


def cell(*lines):
    return {
        "cell_type": "code",
        "source": list(lines),
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }


def change(path, **values):
    write_json(path, read_json(path) | values)


def records(folder):
    return read_json(folder / ".humanpref" / "pushes.json")


def assert_once(service):
    """All was sent, whole, and nothing twice."""
    assert_sent(service, submissions=1)
    assert set(service.datasets[WHEELS]) == {
        MARKER,
        "humanpref-0-py3-none-any.whl",
        "run.toml",
        "artifacts.zip",
    }
    assert service.datasets[WHEELS]["humanpref-0-py3-none-any.whl"] == b"stands for a wheel"


def assert_sent(service, submissions):
    sent = [
        service.versions[WHEELS],
        service.kernels[TRAIN],
        service.kernels[INFER],
        service.submissions,
    ]
    assert [len(each) for each in sent] == [1, 1, 1, submissions]


def kill_at(service, commands, call, done, count=1):
    """Kill the running command at the `count`-th request of `call`."""
    seen = 0

    def watch(request, was_done):
        nonlocal seen
        if request.call == call and was_done == done:
            seen += 1
            if seen == count:
                os.kill(commands.pid, signal.SIGKILL)

    service.watch = watch
