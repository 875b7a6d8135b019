"""Kernels in their boxes, with what their metadata names."""

import json
from pathlib import Path

import pytest

from humanpref.files import write_json
from humanpref.kaggle.contract import MARKER
from humanpref.kaggle.rehearsal.kernels import Kernels
from humanpref.kaggle.rehearsal.probe import Probe


def test_inputs_are_mounted_as_the_metadata_says(report, arena, tmp_path):
    sources = {("competition", "c"): arena, ("dataset", "me/d"): arena}
    sources["model", "a/b/c/d/1"] = arena
    kernels = Kernels(tmp_path, sources, report, print)
    metadata = {
        "competition_sources": ["c"],
        "dataset_sources": ["me/other"],
        "kernel_sources": ["me/k"],
        "model_sources": [],
    }
    kernels.mount(tmp_path / "input", metadata, Path("k.json"))
    mounted = sorted(
        str(path.parent.relative_to(tmp_path / "input"))
        for path in tmp_path.glob("input/**/train.csv")
    )
    assert mounted == ["competitions/c", "models/a/b/c/d/1"]
    assert any(
        "the dataset me/other is not available here" in warning for warning in report.warnings
    )
    assert any("the kernel me/k is not available here" in warning for warning in report.warnings)
    assert any("list your own in its model_sources" in warning for warning in report.warnings)


def write_kernel(folder: Path, code: str, kind: str = "script", **values) -> Path:
    """A kernel's metadata, with its code beside it."""
    name = "k.py" if kind == "script" else "k.ipynb"
    cells = {"cells": [{"cell_type": "code", "source": code}]}
    folder.mkdir()
    (folder / name).write_text(code if kind == "script" else json.dumps(cells))
    metadata = {"id": "me/kernel", "code_file": name, "kernel_type": kind}
    path = folder / "kernel-metadata.json"
    write_json(path, {**metadata, "enable_internet": False, **values})
    return path


@pytest.fixture
def kernels(tmp_path, report) -> Kernels:
    """Kernels without isolation, and a wheel dataset for them."""
    report.mode = "none"
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    write_json(dataset / MARKER, {"wheels": {}})
    (dataset / "humanpref-1.whl").write_bytes(b"whole")
    return Kernels(tmp_path, {("dataset", "me/d"): dataset}, report, [].append)


def test_a_kernel_that_writes_its_inputs_fails(tmp_path, kernels):
    """Mode none cannot keep it from doing so, but sees it."""
    code = "import os; open(os.environ['HUMANPREF_KAGGLE_ROOT'] + '/input/x', 'w').close()"
    kernels.run("train", write_kernel(tmp_path / "k", code))
    assert kernels.report.exit_codes["train"] == 0
    reasons = ["training: changed its input folder, which is read-only on Kaggle"]
    assert kernels.report.reasons == reasons


@pytest.mark.parametrize("kind", ["script", "notebook"])
def test_what_a_run_leaves(tmp_path, kernels, kind):
    code = (
        "import os, torchao; print(torchao.__version__, '__file__' in globals(), "
        "os.environ.get('KAGGLE_IS_COMPETITION_RERUN'))\n"
        "open('status.json', 'w').write('{\"peak_memory_bytes\": 7}')"
    )
    path = write_kernel(tmp_path / "k", code, kind)
    for name, variable in (("infer", None), ("rerun", "1")):
        working = kernels.run(name, path)
        line = f"0.10.0 {kind == 'script'} {variable}"
        assert (tmp_path / f"{name}.log").read_text() == f"{line}\n"
        assert kernels.echo.__self__[-1] == f"[{name}] {line}"
        report = kernels.report
        assert (report.exit_codes[name], report.reasons) == (0, [])
        assert (report.peak_memory_bytes[name], report.disk_bytes[name]) == (7, 24)
        assert 0 < report.seconds[name] < 60
        assert kernels.sources["kernel", "me/kernel"] == working == (tmp_path / name / "working")


def test_a_fault_is_planted_for_the_inference_kernel_alone(tmp_path, kernels):
    code = (
        "import glob, os\n"
        "(path,) = glob.glob(os.environ['HUMANPREF_KAGGLE_ROOT'] + '/input/datasets/me/d/*.whl')\n"
        "print(open(path, 'rb').read() == b'whole')"
    )
    path = write_kernel(tmp_path / "k", code, dataset_sources=["me/d"])
    kernels.report.fault = "corrupt-wheel"
    for name, whole in (("train", True), ("infer", False)):
        kernels.run(name, path)
        assert (tmp_path / f"{name}.log").read_text() == f"{whole}\n"
    assert kernels.report.reasons == []


def test_played_gpus_reach_the_kernel(tmp_path, kernels):
    code = (
        "import os; print(*(os.environ.get(name) for name in ('HUMANPREF_DRY_RUN', "
        "'HUMANPREF_DRY_RUN_GPUS', 'ACCELERATE_USE_CPU')))"
    )
    path = write_kernel(tmp_path / "k", code)
    for gpus, line in ((0, "1 None None"), (2, "1 2 true")):
        kernels.report.gpus = gpus
        kernels.run("rerun" if gpus else "infer", path)
        assert kernels.echo.__self__[-1].endswith(f"] {line}")


def test_a_later_version_mounts_what_the_one_before_left(tmp_path, kernels):
    code = (
        "import glob, os\n"
        "print(len(glob.glob(os.environ['HUMANPREF_KAGGLE_ROOT'] + '/input/**/x', recursive=1)))\n"
        "open('x', 'w').close()"
    )
    path = write_kernel(tmp_path / "k", code)
    for name in ("train", "resumed"):
        kernels.run(name, path)
    logs = [(tmp_path / f"{name}.log").read_text() for name in ("train", "resumed")]
    assert logs == ["0\n", "1\n"]
    assert kernels.report.reasons == []


def test_a_fault_without_a_process_to_kill_fails(tmp_path, kernels):
    kernels.report.fault = "killed-training"
    kernels.run("train", write_kernel(tmp_path / "k", "print('training: 9 rows')"))
    assert kernels.report.reasons == ["training: there was no process to kill"]


def test_too_much_memory_is_for_the_inference_kernel_alone(tmp_path, kernels):
    child = "import time; x = bytearray(100 * 2**20); time.sleep(1)"
    code = f"import subprocess, sys; print(subprocess.call([sys.executable, '-c', {child!r}]))"
    path = write_kernel(tmp_path / "k", code)
    kernels.report.fault = "oom"
    for name, exit_code in (("train", 0), ("infer", -9)):
        kernels.run(name, path)
        assert (tmp_path / f"{name}.log").read_text() == f"{exit_code}\n"


def test_a_box_that_is_not_isolated_and_a_kernel_with_internet_fail(tmp_path, kernels, monkeypatch):
    leaky = Probe("none", "succeeded", False, "succeeded", (), "", "succeeded", False)
    monkeypatch.setattr("humanpref.kaggle.rehearsal.kernels.probe", lambda box: leaky)
    path = write_kernel(tmp_path / "k", "pass", enable_internet=True)
    kernels.run("infer", path)
    assert kernels.report.probes == {"infer": leaky}
    assert kernels.report.reasons == [
        f"{path}: enable_internet is not false; the competition refuses such a kernel",
        "commit run: Python's sockets are not blocked",
    ]
