"""Machines are played; a run that needs a GPU stops, is warned or starts accordingly."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from humanpref.config import load_config
from humanpref.schema import InputError
from humanpref.training import device

CU128 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
ON_CPU = "continuing on the CPU, which may take days"
P100, T4, H200 = ("Tesla P100-PCIE-16GB", (6, 0)), ("Tesla T4", (7, 5)), ("NVIDIA H200", (9, 0))


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((7, 5), CU128, True),
        ((6, 0), CU128, False),
        ((6, 1), ["sm_60"], True),  # the same major version, a newer minor one
        ((6, 0), ["sm_61"], False),
        ((8, 9), ["sm_80"], True),
        ((9, 0), ["sm_80"], False),
        ((10, 3), ["sm_100"], True),
        ((12, 0), ["sm_100"], False),
        ((12, 0), ["sm_50", "compute_90"], True),  # compiled when it is first used
        ((8, 9), ["compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 0), ["compute_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((11, 0), ["compute_100f"], False),
        ((7, 5), [], False),
        ((9, 4), ["gfx90a", "gfx942"], True),  # ROCm's, which stand for no capability
    ],
)
def test_which_machine_code_runs_where(capability, architectures, expected):
    assert device.runs(capability, architectures) is expected


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Play a machine: a stand-in for torch, which the process that looks imports in place of the
    real one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # and restored after a test that sets it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN", device.DRY_RUN):
        monkeypatch.delenv(name, raising=False)
    sources = Path(device.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{sources}")

    def play(*gpus, architectures=CU128, error=None):
        (tmp_path / "torch.py").write_text(
            f"""
__version__ = "2.10.0+cu128"
GPUS = {gpus!r}
class cuda:
    device_count = lambda: len(GPUS)
    get_arch_list = lambda: {architectures!r}
    get_device_capability = lambda number: GPUS[number][1]
    def get_device_name(number):
        if {error!r}:
            raise RuntimeError({error!r})
        return GPUS[number][0]
"""
        )

    return play


def test_two_t4(machine, caplog):
    machine(T4, T4)
    with caplog.at_level(logging.INFO):
        assert device.lacking() == ""
    assert caplog.messages == [
        "GPUs: 2: Tesla T4 (sm_75), Tesla T4 (sm_75); torch 2.10.0+cu128 is built for "
        + " ".join(CU128)
    ]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_no_gpu(machine):
    machine()
    assert device.lacking() == "none was found"


def test_a_p100_is_not_used(machine):
    machine(P100)
    reason = device.lacking()
    assert reason == (
        "torch 2.10.0+cu128 has no kernels for Tesla P100-PCIE-16GB (sm_60), only for "
        f"{' '.join(CU128)}"
    )
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("before", "after"), [(None, "1,2"), ("4,5,7", "5,7")])
def test_a_gpu_without_kernels_beside_others_is_hidden(machine, monkeypatch, before, after):
    machine(P100, T4, H200)
    if before:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    assert device.lacking() == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    assert device.names(2) == after.split(",")


def test_a_driver_that_torch_cannot_use(machine):
    machine(T4, error="The NVIDIA driver on your system is too old")
    assert "RuntimeError: The NVIDIA driver on your system is too old" in device.lacking()


@pytest.mark.parametrize(
    ("variables", "stops"),
    [
        ({}, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", device.DRY_RUN: "1"}, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_IS_COMPETITION_RERUN": "1"}, False),
    ],
)
def test_what_needs_a_gpu_stops_on_kaggle_and_is_warned_elsewhere(
    machine, monkeypatch, caplog, variables, stops
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    device.require("", "preset deberta-v3-small")
    assert not caplog.messages
    if stops:
        with pytest.raises(
            InputError, match=r"^preset deberta-v3-small: needs a GPU, and none was found; choose"
        ):
            device.require("none was found", "preset deberta-v3-small")
    else:
        device.require("none was found", "preset deberta-v3-small")
        assert caplog.messages[0].startswith(
            "preset deberta-v3-small: needs a GPU, and none was found; continuing"
        )


@pytest.mark.parametrize(
    ("preset", "rank", "what"),
    [
        ("deberta-v3-small", "0", "preset deberta-v3-small"),
        ("deberta-v3-small", "1", None),  # the main process speaks for all
        ("sparse", "0", None),
    ],
)
def test_a_run_needs_a_gpu_by_its_options(machine, monkeypatch, caplog, preset, rank, what):
    machine()
    monkeypatch.setenv("RANK", rank)
    device.require_for(load_config(preset))
    warned = [text for text in caplog.messages if "needs a GPU" in text]
    assert warned == ([f"{what}: needs a GPU, and none was found; {ON_CPU}"] if what else [])


def test_a_run_without_a_preset_is_named_by_its_family(machine, caplog):
    machine()
    device.require_for(replace(load_config("deberta-v3-small"), preset=""))
    assert caplog.messages[-1].startswith("family encoder: needs a GPU")


def test_gpus_are_counted_and_named(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.names(3) == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,,5,6")
    assert device.names(2) == ["3", "5"]
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 4))
    )
    assert device.gpus() == 4
    monkeypatch.setitem(sys.modules, "torch", None)
    assert device.gpus() == 0


def test_a_dry_run_plays_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(device.DRY_RUN, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv(device.PLAYED_GPUS, "2")
    assert device.gpus() == 0
    monkeypatch.setenv(device.DRY_RUN, "1")
    assert device.gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # in a process for one of them
    assert device.gpus() == 1


@pytest.mark.parametrize(("available", "initialized"), [(True, True), (True, False), (False, True)])
def test_launched_processes_leave_their_group(monkeypatch, available, initialized):
    calls = []
    distributed = SimpleNamespace(
        is_available=lambda: available,
        is_initialized=lambda: initialized,
        destroy_process_group=lambda: calls.append("left"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(distributed=distributed))
    device.leave_group()
    assert calls == (["left"] if available and initialized else [])
    monkeypatch.delitem(sys.modules, "torch")
    device.leave_group()


STARTS = """
import contextlib, json, os, sys
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from humanpref.cli.main import main
from humanpref.kaggle.runtime import infer, launch
from humanpref.runs.workers import Job, work
from humanpref.schema import InputError

def command(): main(["presets"])
def training():
    launch.processes = lambda config: sys.exit()
    launch.train(SimpleNamespace(config=None, models=["model"]), 1.0, 1.0)
def inference(): infer.infer(Path("nowhere"), Path("nowhere"), Path("nowhere.csv"), (1, 0, 0))
def worker():
    ours, theirs = Pipe()
    theirs.close()
    work(0, Job(None, (), False), 0.0, ours)

names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "GOMP_SPINCOUNT")
own = (*names, "OMP_WAIT_POLICY")
environment, found = {k: v for k, v in os.environ.items() if k not in own}, []
for given in json.loads(sys.argv[1]):
    for start in (command, training, inference, worker):
        os.environ.clear()
        os.environ.update(environment | given)
        with contextlib.suppress(InputError, SystemExit), contextlib.redirect_stdout(sys.stderr):
            start()
        found.append([*map(os.environ.get, names), "torch" in sys.modules])
print(json.dumps(found))
"""


def test_every_process_prepares_torch_before_it_imports_it():
    """What the user has set stays."""
    expandable = "expandable_segments:True"
    cases = [
        ({}, [expandable, expandable, "10000", False]),
        ({device.ALLOCATOR[0]: "own"}, ["own", None, "10000", False]),
        ({device.ALLOCATOR[1]: "own"}, [None, "own", "10000", False]),
        ({device.WAITING[0]: "ACTIVE"}, [expandable, expandable, None, False]),
        ({device.WAITING[1]: "1"}, [expandable, expandable, "1", False]),
    ]
    command = [sys.executable, "-c", STARTS, json.dumps([given for given, _ in cases])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [expected for _, expected in cases for _ in range(4)]
