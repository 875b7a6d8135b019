"""Two GPUs, played by two processes on the CPU: what they say is what one process says."""

import os
import signal

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.experiment import train
from humanpref.files import read_json
from humanpref.kaggle import kernels, launch, predicting
from humanpref.models import load_model
from humanpref.models.budget import LEFT, Budget
from humanpref.schema import LABEL_COLUMNS

TINY = (
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "model.max_length=64",
    "training.learning_rate=1e-2",
)


@pytest.fixture(scope="module")
def trained(arena, tmp_path_factory):
    """The folder of a model that is quick to load: who works does not matter here, only how the work is shared."""
    folder = tmp_path_factory.mktemp("trained") / "artifact"
    return train(load_config("sparse"), arena / "train.csv", folder).folder / "model"


def gathered(folder, pairs, budget=None, workers=2):
    told = np.full((len(pairs), 3), np.nan)
    for rows, made in predicting.shared_out(folder, pairs, budget or Budget(600), workers):
        told[rows] = made
    return told


def test_two_processes_say_what_one_does(trained, arena):
    pairs = read_pairs(arena / "test.csv")
    expected = load_model(trained).predict_proba(pairs)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(gathered(trained, pairs), expected, atol=1e-6)


def test_no_time_for_anybody(trained, arena):
    pairs, budget = read_pairs(arena / "test.csv"), Budget(0)
    assert np.isnan(gathered(trained, pairs, budget)).all()
    assert budget.given_up == {LEFT: len(pairs)}


def killed(number, folder, pairs, until, pipe):
    """The first process is killed once it has sent two rows, as by the system for its memory; the other does its work."""
    if number == 0:
        pipe.send((np.array([0, 1]), np.full((2, 3), 1 / 3)))
        os.kill(os.getpid(), signal.SIGKILL)
    predicting._work(number, folder, pairs, until, pipe)


def test_a_process_that_is_killed_costs_its_own_rows(trained, arena, monkeypatch):
    pairs = read_pairs(arena / "test.csv")
    expected = load_model(trained).predict_proba(pairs)
    monkeypatch.setattr(predicting, "_work", killed)
    told, work = np.full((len(pairs), 3), np.nan), predicting.shared_out(trained, pairs, Budget(600), 2)
    with pytest.raises(RuntimeError, match="GPU 0: its process ended with -9"):  # noqa: PT012 (it says so at the end)
        for rows, made in work:
            told[rows] = made
    np.testing.assert_allclose(told[1::2], expected[1::2], atol=1e-6)
    assert np.flatnonzero(~np.isnan(told[::2, 0])).tolist() == [0, 1]


def test_the_kernel_uses_all_gpus(arena, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    folder = tmp_path / "input" / "notebooks" / "some-user" / "humanpref-train"
    folder.mkdir(parents=True)
    artifact = train(load_config("tiny", None, TINY), arena / "train.csv", folder / "artifact")
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.setattr(launch, "gpus", lambda: 2)
    shared = []
    monkeypatch.setattr(kernels, "shared_out", lambda *order: shared.append(order[3]) or predicting.shared_out(*order))
    kernels.infer(tmp_path / "input", working, arena / "test.csv", (0.4, 0.3, 0.3), 600)
    pairs = read_pairs(arena / "test.csv")
    made = pd.read_csv(working / "submission.csv")[list(LABEL_COLUMNS)].to_numpy()
    np.testing.assert_allclose(made, artifact.predict_proba(pairs), atol=1e-6)
    assert shared == [2]
    assert read_json(working / "status.json")["failures"] == []


def test_a_model_that_cannot_be_loaded(arena, tmp_path):
    with pytest.raises(RuntimeError, match=r"GPU \d: InputError.*config.json.*; GPU \d: InputError"):
        gathered(tmp_path, read_pairs(arena / "test.csv"))
