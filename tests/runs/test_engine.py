"""Models one after the other: their order, their shares of the time, what fails, and what is in
memory meanwhile."""

import gc
import math
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.runs import engine
from humanpref.runs.budget import ONE_ORDER, UNREAD, Budget
from humanpref.runs.engine import outcomes, predictions, usable_gpus
from humanpref.runs.ensemble import Leaf
from humanpref.runs.schedule import Result
from humanpref.schema import InputError
from humanpref.training import device

QUICK, NEURAL = load_config("prior"), load_config("tiny")
A, B = [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class StandIn:
    """It takes some seconds a row and once to load, and says the same of every row."""

    def __init__(self, answer=A, seconds=1.0, loading=0.0, averaged=False, error=None):
        self.answer, self.seconds, self.loading = answer, seconds, loading
        self.swap_averaged, self.error = averaged, error

    def single_order(self):
        return self

    def shorter_variants(self):
        return []

    def costs(self, pairs):
        return np.full(len(pairs), self.seconds)

    def predict_proba(self, pairs):
        self.clock.now += self.seconds * len(pairs)
        if self.error is not None:
            raise self.error
        return np.tile(self.answer, (len(pairs), 1))


@pytest.fixture
def pairs():
    one = {"prompt": ("p",), "response_a": ("a",), "response_b": ("b",)}
    return pd.DataFrame([{"id": str(row), **one} for row in range(8)])


@pytest.fixture
def saved(monkeypatch):
    """Make leaves of stand-ins; gives the function, the clock, and the names of those loaded."""
    clock, models, loaded = Clock(), {}, []
    monkeypatch.setattr(device, "gpus", lambda: 0)

    def load(leaf, memos):
        loaded.append(leaf.folder.name)
        model = models[leaf.folder]
        if isinstance(model, BaseException):
            raise model
        model.clock = clock
        clock.now += model.loading
        return model

    def save(name, model, config=QUICK):
        models[Path(name)] = model
        return Leaf(Path(name), config)

    monkeypatch.setattr(Leaf, "load", load)
    return save, clock, loaded


def test_quick_models_come_first_and_each_has_its_share_of_the_time(saved, pairs):
    save, clock, loaded = saved
    leaves = [
        save("slow", StandIn(seconds=9), NEURAL),
        save("one", StandIn(seconds=1)),
        save("two", StandIn(seconds=1, loading=2)),
    ]
    made = predictions(leaves, pairs, budget := Budget(90, clock))
    assert loaded == ["one", "two", "slow"]
    # What the quick ones leave over, 72 seconds, is the slow one's.
    assert clock.now <= 90
    known = {folder.name: int((~np.isnan(own[:, 0])).sum()) for folder, own in made.items()}
    assert known == {"slow": 7, "one": 8, "two": 8}
    assert budget.given_up == {UNREAD: 1}


def test_loading_counts(saved, pairs):
    save, clock, _ = saved
    leaves = [save("one", StandIn(loading=15)), save("two", StandIn(seconds=0.5))]
    made = predictions(leaves, pairs, budget := Budget(30, clock))
    assert np.isnan(made[Path("one")]).all()
    assert (made[Path("two")] == A).all()
    assert budget.given_up == {UNREAD: 8}


def test_shares_are_equal_parts_of_what_is_left(saved, pairs, monkeypatch):
    save, clock, _ = saved
    shares = []
    share = Budget.share
    monkeypatch.setattr(
        Budget, "share", lambda budget, part: shares.append(part) or share(budget, part)
    )
    predictions([save(str(n), StandIn()) for n in range(4)], pairs, Budget(100, clock))
    assert shares == [1 / 4, 1 / 3, 1 / 2, 1]


def test_the_outcomes_of_a_leaf(saved, pairs):
    """The first says that it is loaded, the last one of a row is the mean of both orders."""
    save, clock, _ = saved
    leaf = save("one", StandIn(averaged=True))
    made = list(outcomes([leaf], pairs, budget := Budget(math.inf, clock)))
    assert [outcome.leaf for outcome in made] == [leaf] * 3
    assert [len(outcome.rows) for outcome in made] == [0, 8, 8]
    assert made[0].probabilities.shape == (0, 3)
    assert made[1].probabilities[0].tolist() == A
    np.testing.assert_allclose(made[2].probabilities, [[0.45, 0.45, 0.1]] * 8)
    np.testing.assert_allclose(
        predictions([leaf], pairs, Budget(math.inf, clock))[leaf.folder], [[0.45, 0.45, 0.1]] * 8
    )
    assert budget.given_up[ONE_ORDER] == 0


@pytest.mark.parametrize(
    "error", [InputError("a weight is missing"), MemoryError("too large"), SystemExit("bye")]
)
@pytest.mark.parametrize("loading", [True, False])
def test_the_first_failure_is_raised(saved, pairs, error, loading):
    save, clock, loaded = saved
    leaves = [save("bad", error if loading else StandIn(error=error)), save("good", StandIn())]
    with pytest.raises(type(error), match=str(error)):
        predictions(leaves, pairs, Budget(math.inf, clock))
    assert loaded == ["bad"]


def test_damage_of_any_model_is_told_before_the_first_is_loaded(saved, pairs):
    def damaged():
        raise InputError("changed since it was written")

    save, clock, loaded = saved
    good, bad = save("good", StandIn()), replace(save("bad", StandIn()), check=damaged)
    with pytest.raises(InputError, match="changed since"):
        predictions([good, bad], pairs, Budget(math.inf, clock))
    assert loaded == []
    made = list(outcomes([good, bad], pairs, Budget(math.inf, clock), keep_going=True))
    assert made[-1].probabilities == "InputError: changed since it was written"
    assert loaded == ["good"]


@pytest.mark.parametrize(
    "error", [InputError("a weight is missing"), MemoryError("too large"), SystemExit("bye")]
)
def test_a_model_that_fails_leaves_the_others_alone_where_that_is_asked_for(
    saved, pairs, error, caplog
):
    save, clock, loaded = saved
    bad, good = save("bad", error), save("good", StandIn(B))
    made = list(outcomes([bad, good], pairs, Budget(math.inf, clock), keep_going=True))
    assert loaded == ["bad", "good"]
    assert [outcome.leaf for outcome in made] == [bad, good, good]
    assert [len(outcome.rows) for outcome in made] == [0, 0, 8]
    assert made[0].probabilities == f"{type(error).__name__}: {error}"
    assert made[2].probabilities.tolist() == [B] * 8
    assert "bad: failed" in caplog.text
    assert "Traceback" in caplog.text


def test_a_row_that_fails_is_an_outcome_where_that_is_asked_for(saved, pairs):
    save, clock, _ = saved
    model = StandIn()
    plain = model.predict_proba

    def predict_proba(frame):
        if "5" in set(frame["id"]):
            raise ValueError("a bad row")
        return plain(frame)

    model.predict_proba = predict_proba
    made = list(outcomes([save("one", model)], pairs, Budget(math.inf, clock), keep_going=True))
    failed, done = (
        [outcome for outcome in made if isinstance(outcome.probabilities, str) == failing]
        for failing in (True, False)
    )
    assert [(o.rows.tolist(), o.probabilities) for o in failed] == [([5], "ValueError: a bad row")]
    assert sorted(row for outcome in done for row in outcome.rows) == [0, 1, 2, 3, 4, 6, 7]


def test_an_interruption_is_no_failure(saved, pairs):
    save, clock, _ = saved
    leaf = save("one", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(outcomes([leaf], pairs, Budget(math.inf, clock), keep_going=True))


def test_each_leaf_is_prepared_before_it_is_loaded(saved, pairs):
    save, clock, loaded = saved
    one, two = save("one", StandIn()), save("two", StandIn())

    def prepare(leaf):
        loaded.append(f"prepares {leaf.folder}")
        if leaf is one:
            raise InputError("no GPU is here")

    made = list(
        outcomes([one, two], pairs, Budget(math.inf, clock), keep_going=True, prepare=prepare)
    )
    assert loaded == ["prepares one", "prepares two", "two"]
    assert made[0].probabilities == "InputError: no GPU is here"


def test_a_model_is_freed_before_the_next_is_loaded(saved, pairs, monkeypatch):
    alive = weakref.WeakSet()
    count = []

    class Counted(StandIn):
        def __init__(self):
            super().__init__()
            count.append(len(alive))
            self.itself = self  # so that it takes the garbage collector to free it
            alive.add(self)

    def load(leaf, memos):
        model = Counted()
        model.clock = Clock()
        return model

    monkeypatch.setattr(Leaf, "load", load)
    leaves = [Leaf(Path(str(number)), QUICK) for number in range(5)]
    gc.collect()
    gc.disable()
    try:
        for _ in outcomes(leaves, pairs, Budget(math.inf), keep_going=True):
            pass
        assert count == [0] * 5
        assert len(alive) == 0
    finally:
        gc.enable()


def test_models_of_one_tokenizer_share_its_token_ids(pairs, monkeypatch):
    seen = []
    monkeypatch.setattr(Leaf, "load", lambda leaf, memos: seen.append(memos) or load())

    def load():
        model = StandIn()
        model.clock = Clock()
        return model

    leaves = [Leaf(Path(name), QUICK) for name in "ab"]
    predictions(leaves, pairs, Budget(math.inf))
    predictions(leaves, pairs, Budget(math.inf))
    assert seen[0] is seen[1]
    assert seen[0] is not seen[2]


@pytest.mark.parametrize(
    ("gpus", "keep_going", "shared"),
    [(0, True, 0), (1, True, 1), (1, False, 0), (2, False, 2), (2, True, 2)],
)
def test_neural_models_have_a_process_for_each_gpu(
    saved, pairs, monkeypatch, gpus, keep_going, shared
):
    """From two GPUs on, or where a crash must not end the run, from one."""
    save, clock, loaded = saved
    monkeypatch.setattr(device, "gpus", lambda: gpus)
    jobs = []

    def shared_out(job, budget, number):
        jobs.append((job, budget.left(), number))
        yield Result(np.arange(0), np.empty((0, 3)))
        yield Result(np.arange(8), np.tile(B, (8, 1)))

    monkeypatch.setattr(engine, "shared_out", shared_out)
    monkeypatch.setattr(Leaf, "hash_base", lambda leaf: jobs.append(leaf))
    neural, quick = save("neural", StandIn(), NEURAL), save("quick", StandIn())
    made = list(outcomes([neural, quick], pairs, Budget(100, clock), keep_going=keep_going))
    # Before its processes, which all need the digest of its base.
    assert jobs[:1] == [neural] * bool(shared)
    jobs = jobs[1:]
    assert [number for *_, number in jobs] == [shared] * bool(shared)
    assert loaded == ["quick", "neural"][: 1 if shared else 2]
    if shared:
        assert jobs[0][:2] == ((neural, pairs, keep_going), 92)
        assert made[-1].leaf is neural
        assert made[-1].probabilities.tolist() == [B] * 8


def test_only_a_process_of_its_own_has_gpus_to_share_out(monkeypatch):
    monkeypatch.setattr(device, "gpus", lambda: 2)
    neural = Leaf(Path("neural"), NEURAL)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (usable_gpus(neural), usable_gpus(Leaf(Path("quick"), QUICK))) == (2, 0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert usable_gpus(neural) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")  # which `accelerate launch` started
    assert usable_gpus(neural) == 0


def test_no_leaves_and_no_rows(saved, pairs):
    save, clock, _ = saved
    assert predictions([], pairs, Budget(10, clock)) == {}
    leaf = save("one", StandIn())
    assert predictions([leaf], pairs[:0], Budget(10, clock))[leaf.folder].shape == (0, 3)
