"""Faults planted in a kernel's mounted inputs."""

import os
import shutil

from humanpref.config import load_config
from humanpref.kaggle.contract import MARKER
from humanpref.kaggle.rehearsal.faults import damage_inputs, kill_of
from humanpref.runs import train as experiment


def test_a_fault_leaves_what_was_staged_alone(arena, tmp_path):
    """The mounts are hard links to it."""
    artifact = tmp_path / "artifact"
    experiment.train(load_config("prior"), arena / "train.csv", artifact, None)
    staged, inputs = tmp_path / "staged", tmp_path / "input"
    shutil.copytree(artifact, staged / "artifacts" / "prior")
    (staged / "humanpref-1.whl").write_bytes(b"a wheel")
    before = {path: path.read_bytes() for path in staged.rglob("*") if path.is_file()}
    shutil.copytree(staged, inputs / "d", copy_function=os.link)
    damage_inputs(inputs, None)
    assert {
        path: (inputs / "d" / path.relative_to(staged)).read_bytes() for path in before
    } == before
    for fault in ("corrupt-wheel", "corrupt-weights"):
        damage_inputs(inputs, fault)
    changed = [
        path
        for path in before
        if (inputs / "d" / path.relative_to(staged)).read_bytes() != before[path]
    ]
    assert sorted(path.suffix for path in changed) == [".safetensors", ".whl"]
    assert {path: path.read_bytes() for path in before} == before


def test_only_the_kernel_of_a_fault_loses_a_process():
    kernels = ("train", "resumed", "infer", "rerun")
    assert [bool(kill_of("killed-training", kernel)) for kernel in kernels] == [1, 0, 0, 0]
    assert [bool(kill_of("killed-inference", kernel)) for kernel in kernels] == [0, 0, 1, 1]
    assert not any(kill_of(fault, kernel) for fault in (None, "oom") for kernel in kernels)


def test_a_missing_dataset_is_gone_from_its_mount(tmp_path):
    for name in ("d", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "d" / MARKER).touch()
    damage_inputs(tmp_path, "missing-dataset")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
