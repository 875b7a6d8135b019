"""A training's checkpoint: whole or not at all, with the random state."""

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from humanpref.schema import InputError
from humanpref.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def accelerator():
    """One process on the CPU."""
    return SimpleNamespace(
        device=torch.device("cpu"), is_main_process=True, num_processes=1, process_index=0
    )


def test_the_content_comes_back_and_random_numbers_go_on(accelerator, tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.manual_seed(3)
    save_checkpoint(path, {"steps_per_epoch": 5, "weights": torch.ones(2)}, accelerator)
    expected = torch.rand(4)
    torch.manual_seed(4)
    content = load_checkpoint(path, 5, accelerator)
    assert content["weights"].tolist() == [1, 1]
    assert torch.equal(torch.rand(4), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_second_checkpoint_replaces_the_first_only_when_it_is_written(
    accelerator, tmp_path, monkeypatch
):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"steps_per_epoch": 5, "step": 1}, accelerator)
    save_checkpoint(path, {"steps_per_epoch": 5, "step": 2}, accelerator)
    assert load_checkpoint(path, 5, accelerator)["step"] == 2

    def full(content, target):
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, {"steps_per_epoch": 5, "step": 3}, accelerator)
    assert load_checkpoint(path, 5, accelerator)["step"] == 2


def test_only_the_main_process_writes(accelerator, tmp_path):
    accelerator.is_main_process = False
    save_checkpoint(tmp_path / "checkpoint.pt", {"steps_per_epoch": 5}, accelerator)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("processes", "steps", "message"),
    [
        (2, 5, "a checkpoint for 1 processes, but this run has 2; remove it"),
        (1, 6, "a checkpoint for 5 steps in an epoch, but this run has 6; remove it"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(accelerator, tmp_path, processes, steps, message):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"steps_per_epoch": 5}, accelerator)
    accelerator.num_processes = processes
    with pytest.raises(InputError, match=message):
        load_checkpoint(path, steps, accelerator)


def test_each_process_gets_its_own_random_state(accelerator, tmp_path, monkeypatch):
    states = [
        {"cpu": torch.Generator().manual_seed(seed).get_state(), "cuda": None} for seed in (1, 2)
    ]
    monkeypatch.setattr("humanpref.training.checkpoint.gather_object", lambda own: states)
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"steps_per_epoch": 5}, accelerator)
    accelerator.num_processes, accelerator.process_index = 2, 1
    load_checkpoint(path, 5, accelerator)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(2)))
