"""A checkpoint, and runs that resume from theirs."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from accelerate import Accelerator

from humanpref.runs.artifact_files import files_in
from humanpref.schema import InputError, counted
from humanpref.training.checkpoint import load_checkpoint, save_checkpoint

from .task import WithDropout, fitted, launched, make_task, parameters


@pytest.fixture
def task():
    return make_task()


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_the_random_state_is_restored(accelerator, tmp_path):
    path = tmp_path / "run"
    torch.manual_seed(5)
    save_checkpoint(path, {"steps_per_epoch": 3, "seen": 7}, accelerator)
    expected = torch.rand(4)
    torch.rand(9)
    content = load_checkpoint(path, 3, accelerator)
    assert torch.equal(torch.rand(4), expected)
    assert content["seen"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_killed_save_leaves_the_earlier_checkpoint(accelerator, tmp_path, monkeypatch):
    path = tmp_path / "run"
    save_checkpoint(path, {"steps_per_epoch": 3, "seen": 1}, accelerator)
    left = []

    def killed(content, file):
        file.write(b"half")
        left.extend(files_in(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"steps_per_epoch": 3, "seen": 2}, accelerator)
    assert load_checkpoint(path, 3, accelerator)["seen"] == 1
    assert left == ["run"]  # an artifact of a killed run must not have the half


def test_only_the_main_process_writes(accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr(type(accelerator), "is_main_process", False)
    save_checkpoint(tmp_path / "run", {"steps_per_epoch": 3}, accelerator)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_run_is_refused(accelerator, tmp_path):
    path = tmp_path / "run"
    save_checkpoint(path, {"steps_per_epoch": 3}, accelerator)
    with pytest.raises(InputError, match=r"run: expected .* epochs of 4 steps, got 3; remove"):
        load_checkpoint(path, 4, accelerator)


@pytest.mark.parametrize(("written", "index"), [(2, 0), (1, 1)])
def test_another_number_of_processes_resumes(
    accelerator, tmp_path, monkeypatch, caplog, written, index
):
    """A process whose random state was not saved keeps its own."""
    caplog.set_level("INFO")
    path = tmp_path / "run"
    states = [
        {"cpu": torch.Generator().manual_seed(seed).get_state(), "cuda": None}
        for seed in (1, 2)[:written]
    ]
    torch.save({"steps_per_epoch": 3, "rng_states": states, "seen": 7}, path)
    monkeypatch.setattr(type(accelerator), "num_processes", index + 1)
    monkeypatch.setattr(type(accelerator), "process_index", index)
    torch.manual_seed(5)
    assert load_checkpoint(path, 3, accelerator)["seen"] == 7
    seed = 1 if index == 0 else 5
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert (
        f"written by {counted(written, 'process', 'es')} but resumed by {index + 1}" in caplog.text
    )


def test_each_process_gets_its_own_random_state(accelerator, tmp_path, monkeypatch):
    path = tmp_path / "run"
    states = [
        {"cpu": torch.Generator().manual_seed(seed).get_state(), "cuda": None} for seed in (1, 2)
    ]
    torch.save({"steps_per_epoch": 3, "rng_states": states}, path)
    monkeypatch.setattr(type(accelerator), "num_processes", 2)
    monkeypatch.setattr(type(accelerator), "process_index", 1)
    load_checkpoint(path, 3, accelerator)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_weights(task, tmp_path, monkeypatch, after):
    whole, report = fitted(task, module=WithDropout(), epochs=3, max_grad_norm=1.0, warmup=0.3)
    steps = []
    step = torch.optim.AdamW.step

    def interrupted(self, *arguments, **keywords):
        if len(steps) == after:
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, *arguments, **keywords)

    options = {"epochs": 3, "max_grad_norm": 1.0, "warmup": 0.3, "checkpoint_minutes": 1e-9}
    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(task, module=WithDropout(), checkpoint=tmp_path / "run", **options)
    monkeypatch.undo()
    torch.manual_seed(99)  # another process would have another state
    resumed, resumed_report = fitted(
        task, module=WithDropout(), checkpoint=tmp_path / "run", **options
    )
    np.testing.assert_array_equal(parameters(resumed), parameters(whole))
    assert resumed_report["steps"] == report["steps"] == 6
    for one, other in zip(resumed_report["epochs"], report["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-9)


def test_a_checkpoint_of_other_steps_is_refused(task, tmp_path):
    fitted(task, checkpoint=tmp_path / "run", batch_size=8)
    with pytest.raises(
        InputError, match=r"run: expected a checkpoint for epochs of 1 step, got 2; remove the file"
    ):
        fitted(task, checkpoint=tmp_path / "run", batch_size=16, epochs=2)


def test_a_run_out_of_time_is_resumed_where_it_stopped(task, tmp_path):
    options = {"module": WithDropout(), "epochs": 3, "max_grad_norm": 1.0, "validate": lambda: 1.0}
    whole, report = fitted(task, **options)
    for steps in (1, 2, 3):
        options |= {"module": WithDropout(), "checkpoint": tmp_path / "run"}
        _, stopped = fitted(task, seconds=1e-9, **options)
        assert (stopped["steps"], len(stopped["epochs"])) == (steps, (steps + 1) // 2)
        assert "stopped" in stopped
    resumed, resumed_report = fitted(task, **options | {"module": WithDropout()})
    np.testing.assert_array_equal(parameters(resumed), parameters(whole))
    assert "stopped" not in resumed_report
    assert resumed_report["epochs"] == report["epochs"]
    # A run that is done is not continued.
    _, again = fitted(task, **options | {"module": WithDropout()})
    assert again["steps"] == 6


def test_a_run_that_lost_patience_stays_stopped(task, tmp_path):
    figures = iter([0.5, 0.6, 0.1])
    options = {"epochs": 3, "patience": 1, "checkpoint": tmp_path / "run"}
    for _ in range(2):
        _, report = fitted(task, validate=lambda: next(figures), **options)
        assert "no improvement" in report["stopped"]
        assert report["steps"] == 4


# Two clocks that never agree: one process would save in steps in which the other does not.
UNEQUAL_CLOCKS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from task import fitted, make_task
from humanpref.training import loop
class Clock:
    now, tick = 0.0, 1.0 if os.environ["RANK"] == "0" else 1.7
    def perf_counter(self):
        self.now += self.tick
        return self.now
loop.time = Clock()
steps, save = [], loop.TrainingRun.save
def recorded(self, path):
    steps.append(self.progress.steps)
    save(self, path)
loop.TrainingRun.save = recorded
fitted(make_task(), batch_size=3, epochs=5, checkpoint_minutes=0.1, checkpoint=Path(sys.argv[2]))
Path(f"{sys.argv[2]}-{os.environ['RANK']}").write_text(str(steps))
"""


@pytest.mark.slow
def test_two_processes_whose_clocks_differ_save_together(tmp_path):
    launched(UNEQUAL_CLOCKS, tmp_path, 2, tmp_path / "run")
    steps = [(tmp_path / f"run-{rank}").read_text() for rank in (0, 1)]
    assert steps[0] == steps[1]
    assert len(json.loads(steps[0])) > 5 + 5  # after the 5 epochs, and between
