"""Two GPUs, played by two processes on the CPU: what they say is what one process says."""

import os
import signal

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import read_pairs, swap_pairs
from humanpref.experiment import train
from humanpref.files import read_json, write_json
from humanpref.kaggle import kernels, launch, predicting
from humanpref.models.base import Model
from humanpref.models.budget import LEFT, ONE_ORDER, Budget
from humanpref.schema import LABEL_COLUMNS, SWAPPED_CLASSES

TINY = (
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "model.max_length=64",
    "model.inputs=joint",
    "training.learning_rate=1e-2",
    "training.swap_augmentation=false",  # else both orders would say much the same
    "inference.swap_average=true",
)


@pytest.mark.parametrize("workers", [2, 3, 4, 5])
def test_each_order_is_read_once_and_a_share_of_the_rows_before_the_others(workers):
    assert [part.tolist() for (part,) in predicting._shares(11, 1, "orders")] == [list(range(11))]  # in both orders
    shares = predicting._shares(11, workers, "orders")
    assert len(shares) == workers - workers % 2
    for order in (0, 1):
        assert sorted(np.concatenate([row for share in shares[order::2] for row in share])) == list(range(11))
    assert sorted(np.concatenate([first for first, _ in shares])) == list(range(11))
    assert [first.tolist() for first, _ in shares] == [
        rows.tolist() for (rows,) in predicting._shares(11, len(shares), "rows")
    ]


class Lopsided(Model):
    """Looks at A's length more than at B's; a row costs 1 s on a clock of its own, and half of it for a cheaper variant."""

    now, speed, bad = 0.0, 1.0, ()

    def __init__(self): ...
    def fit(self, pairs, labels, weights=None, validation=None, checkpoint=None): ...
    def save_state(self, folder): ...
    def load_state(self, folder): ...

    def costs(self, pairs):
        return np.full(len(pairs), 1 / self.speed)

    def in_one_order(self):
        return self

    def cheaper(self):
        half = Lopsided()
        half.speed = 2.0
        return [("half", half)]

    def predict_proba(self, pairs):
        if (pairs["id"].isin(self.bad)).any():
            raise ValueError("a bad row")
        Lopsided.now += self.costs(pairs).sum()
        a, b = (pairs[f"response_{side}"].map(lambda turns: 1 + sum(map(len, turns))) for side in "ab")
        return np.stack([2 * a, b, a], axis=1) / (3 * a + b).to_numpy()[:, None]


def lopsided(number, folder, parts, until, pipe):
    """One of the processes, with such a model. The folder's name says what befalls the second one, or how much time there is."""
    if folder.name == "killed" and number == 1:  # once it has sent two rows, as by the system for its memory
        pipe.send((np.array([0, 1]), Lopsided().predict_proba(parts[0][:2])))
        os.kill(os.getpid(), signal.SIGKILL)
    if folder.name == "bad" and number == 1:
        Lopsided.bad = (parts[0]["id"][0], parts[1]["id"][3])
    if folder.name.isdigit():
        predicting.Budget = lambda _: Budget(int(folder.name), lambda: Lopsided.now)
    predicting.load_model = lambda _: Lopsided()
    predicting._work(number, folder, parts, until, pipe)


@pytest.fixture
def shared(arena, tmp_path, monkeypatch):
    """What each order of A and B says, and a function that shares the rows out: probabilities, failures, error, given up."""
    monkeypatch.setattr(predicting, "_work", lopsided)
    pairs = read_pairs(arena / "test.csv")
    own, other = Lopsided().predict_proba(pairs), Lopsided().predict_proba(swap_pairs(pairs))[:, SWAPPED_CLASSES]
    assert np.abs(own - other).max(axis=1).min() > 1e-3

    def run(what, split):
        told, failures, reason, budget = np.full((len(pairs), 3), np.nan), {}, "", Budget(600)
        try:
            for rows, made in predicting.shared_out(tmp_path / what, pairs, budget, 2, split):
                if isinstance(made, str):
                    failures[int(rows[0])] = made
                else:
                    told[rows] = made
        except RuntimeError as error:
            reason = str(error)
        return told, failures, reason, budget.given_up

    return own, other, run


class Blind(Lopsided):
    """Says nothing of some rows, or of every row."""

    blind, every, calls = frozenset(), False, 0

    def predict_proba(self, pairs):
        self.calls += 1
        made = super().predict_proba(pairs)
        made[np.array([self.every or key in self.blind for key in pairs["id"]])] = np.nan
        return made


def test_rows_without_probabilities_cost_themselves_alone(arena):
    """More of them than failed calls are allowed: it is known which they are, and nothing is searched for."""
    pairs = pd.concat([read_pairs(arena / "test.csv")] * 20, ignore_index=True)
    pairs["id"] = [str(number) for number in range(len(pairs))]
    model = Blind()
    model.blind = frozenset(pairs["id"][::2])
    assert len(model.blind) > 2 * predicting.MAX_FAILURES
    told, failures = np.full((len(pairs), 3), np.nan), []
    for rows, made in predicting.outcomes(model, pairs, Budget(np.inf)):
        if isinstance(made, str):
            failures.append((rows.tolist(), made[:24]))
        else:
            told[rows] = made
    np.testing.assert_allclose(told[1::2], Lopsided().predict_proba(pairs)[1::2])
    assert sorted(failures) == [([row], "BadRowsError: not finite") for row in range(0, len(pairs), 2)]
    assert model.calls < 10


def test_rows_here_and_there_that_fail_do_not_add_up_to_a_model_that_does(arena, monkeypatch):
    pairs = pd.concat([read_pairs(arena / "test.csv")] * 20, ignore_index=True)
    pairs["id"] = [str(number) for number in range(len(pairs))]
    bad = pairs["id"][::30].tolist()
    monkeypatch.setattr(Lopsided, "bad", bad)
    done = list(predicting.outcomes(Lopsided(), pairs, Budget(np.inf)))
    assert sorted(pairs["id"][rows[0]] for rows, made in done if isinstance(made, str)) == sorted(bad)
    assert sum(len(rows) for rows, made in done if not isinstance(made, str)) == len(pairs) - len(bad)


def test_a_model_without_any_probability_is_given_up(arena):
    model = Blind()
    model.every = True
    pairs = pd.concat([read_pairs(arena / "test.csv")] * 20, ignore_index=True)
    with pytest.raises(RuntimeError, match=f"given up after {predicting.MAX_FAILURES} failed calls in a row"):
        list(predicting.outcomes(model, pairs, Budget(np.inf)))


def test_a_row_that_fails_in_one_order_has_the_other(shared):
    own, other, run = shared
    told, failures, reason, given_up = run("bad", "orders")
    expected = (own + other) / 2
    expected[[1, 6]] = own[[1, 6]]
    np.testing.assert_allclose(told, expected, atol=1e-12)
    assert failures == dict.fromkeys((1, 6), "ValueError: a bad row (with A and B exchanged)")
    assert (reason, given_up) == ("", {})


@pytest.mark.parametrize("split", ["rows", "orders"])
def test_a_process_that_is_killed_costs_its_own_part(shared, split):
    own, other, run = shared
    told, failures, reason, given_up = run("killed", split)
    expected = own.copy()
    if split == "rows":
        expected[5::2] = np.nan
    else:
        expected[[1, 3]] = (own + other)[[1, 3]] / 2
    np.testing.assert_allclose(told, expected, atol=1e-12)
    assert reason == "GPU 1: its process ended with -9"
    assert (failures, given_up) == ({}, {})


def test_no_time_for_anybody(shared):
    told, *_, given_up = shared[2]("0", "rows")
    assert np.isnan(told).all()
    assert given_up == {LEFT: len(told)}


@pytest.mark.parametrize("seconds", [18, 5])
def test_the_second_order_is_given_up_before_anything_else(shared, seconds):
    own, other, run = shared
    told, failures, reason, given_up = run(str(seconds), "orders")
    # What a process begins with takes it 12 s, and the second order as much again.
    begun = np.where(np.arange(len(own))[:, None] % 2, other, own)
    both, alone = (np.isclose(told, made).all(axis=1) for made in ((own + other) / 2, begun))
    left = np.isnan(told[:, 0])
    assert (both + alone + left == 1).all()
    assert (given_up[ONE_ORDER], given_up[LEFT]) == (alone.sum(), left.sum())
    assert (both.any(), given_up["half"] > 0, left.any()) == (
        (True, False, False) if seconds == 18 else (False, True, True)
    )
    assert (failures, reason) == ({}, "")


def test_both_splits_between_two_gpus_say_what_one_process_does(arena, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    folder = tmp_path / "input" / "notebooks" / "some-user" / "humanpref-train"
    folder.mkdir(parents=True)
    artifact = train(load_config("tiny", None, TINY), arena / "train.csv", folder / "artifact")
    pairs = read_pairs(arena / "test.csv")
    expected = artifact.predict_proba(pairs)
    assert np.abs(artifact.models[0].in_one_order().predict_proba(pairs) - expected).max() > 1e-3
    monkeypatch.setattr(launch, "gpus", lambda: 2)
    shared = []
    monkeypatch.setattr(kernels, "shared_out", lambda *order: shared.append(order[3:]) or predicting.shared_out(*order))
    config = read_json(folder / "artifact" / "model" / "config.json")
    for split in ("rows", "orders"):
        config["inference"]["split"] = split
        write_json(folder / "artifact" / "model" / "config.json", config)
        working = tmp_path / split
        working.mkdir()
        kernels.infer(tmp_path / "input", working, arena / "test.csv", (0.4, 0.3, 0.3), 600)
        made = pd.read_csv(working / "submission.csv")[list(LABEL_COLUMNS)].to_numpy()
        np.testing.assert_allclose(made, expected, atol=1e-6)
        status = read_json(working / "status.json")
        assert (status["degraded"], status["given_up"]) == ([], {})
    assert shared == [(2, "rows"), (2, "orders")]


def test_a_model_that_cannot_be_loaded(arena, tmp_path):
    with pytest.raises(RuntimeError, match=r"GPU \d: InputError.*config.json.*; GPU \d: InputError"):
        list(predicting.shared_out(tmp_path, read_pairs(arena / "test.csv"), Budget(600), 2))
