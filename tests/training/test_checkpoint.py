"""The checkpoint of a run: its random states, the processes that wrote it, and other runs'."""

import pytest

pytest.importorskip("torch")

import torch
from accelerate import Accelerator

from humanpref.runs.artifact_files import files_in
from humanpref.schema import InputError, counted
from humanpref.training.checkpoint import load_checkpoint, save_checkpoint


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
