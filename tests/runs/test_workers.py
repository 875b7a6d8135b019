"""GPUs played by processes on the CPU: together they read what one process reads, whatever becomes
of one of them."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from humanpref.cli.ending import ending_of
from humanpref.config import load_config
from humanpref.data import read_pairs, swap_pairs
from humanpref.models.base import Model
from humanpref.runs import schedule, workers
from humanpref.runs.budget import ONE_ORDER, UNREAD, Budget
from humanpref.runs.ensemble import Leaf, read_ensemble
from humanpref.runs.train import train
from humanpref.runs.workers import Job, ProcessEndedError, shared_out
from humanpref.schema import SWAPPED_CLASSES, InputError

TINY = (
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "model.max_length=64",
    "model.inputs=joint",
    "training.learning_rate=1e-2",
    "inference.swap_average=true",
)


class Lopsided(Model):
    """Looks at A's length more than at B's; fails on some rows, and ends its process on others."""

    bad, poison, journal = (), (), None

    def __init__(self): ...
    def __sklearn_is_fitted__(self):
        return True

    def learn(self, rows, validation, checkpoint): ...
    def save_state(self, folder): ...
    def load_state(self, folder): ...

    def predict_proba(self, pairs):
        if self.journal is not None:
            with self.journal.open("a") as file:
                file.write(f"{os.getpid()} {','.join(pairs['id'])}\n")
        if pairs["id"].isin(self.poison).any():
            kill()
        if pairs["id"].isin(self.bad).any():
            raise ValueError("a bad row")
        a, b = (
            pairs[f"response_{side}"].map(lambda turns: 1 + sum(map(len, turns))) for side in "ab"
        )
        return np.stack([2 * a, b, a], axis=1) / (3 * a + b).to_numpy()[:, None]


class KilledOnce(Lopsided):
    """Its process is killed in a certain call, if none was before: if the file is not there yet."""

    def __init__(self, file: Path, call: int = 1):
        self.file, self.calls = file, call

    def predict_proba(self, pairs):
        self.calls -= 1
        if self.calls == 0:
            with suppress(FileExistsError):
                self.file.touch(exist_ok=False)  # by one process, whatever the others do meanwhile
                kill()
        return super().predict_proba(pairs)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does for its memory


def leaf_of(load):
    """A leaf whose model a function of the test's makes."""
    return SimpleNamespace(folder=Path("model"), load=lambda memos: load())


@pytest.fixture
def crew(arena, tmp_path, monkeypatch):
    """Let the processes have a model of the test's; give the rows, what it says of them, and a
    function that shares them out.

    They are forked, which takes no time, and need not pickle the model.
    """
    monkeypatch.setattr(workers, "CONTEXT", multiprocessing.get_context("fork"))
    pairs = read_pairs(arena / "test.csv")

    def run(load, gpus=2, budget=None, isolate=True):
        told, failures, reason = np.full((len(pairs), 3), np.nan), {}, ""
        budget = budget or Budget(600)
        leaf = leaf_of(load)
        try:
            for result in shared_out(Job(leaf, pairs, isolate), budget, gpus):
                if isinstance(result.probabilities, str):
                    failures[int(result.rows[0])] = result.probabilities
                else:
                    told[result.rows] = result.probabilities
        except RuntimeError as error:
            reason = str(error)
        return told, failures, reason, dict(+budget.given_up)

    return pairs, Lopsided().predict_proba(pairs), run


@pytest.mark.parametrize(
    "gpus",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow), 30],
)
def test_rows_are_shared_out(crew, gpus):
    _, expected, run = crew
    told, *rest = run(Lopsided, gpus)
    np.testing.assert_allclose(told, expected)
    assert rest == [{}, "", {}]


@pytest.mark.parametrize("gpus", [1, 2])
def test_the_rows_of_a_process_that_is_killed_are_dealt_anew(crew, tmp_path, caplog, gpus):
    pairs, expected, run = crew
    told, failures, reason, given_up = run(lambda: KilledOnce(tmp_path / "killed"), gpus)
    np.testing.assert_allclose(told, expected)
    assert (failures, given_up) == ({}, {})
    dealt = len(pairs) // gpus
    assert reason in [
        f"GPU {gpu}: its process ended with -9 (SIGKILL, out of memory?)" for gpu in range(gpus)
    ]
    assert (
        f"its process ended with -9 (SIGKILL, out of memory?); reassigning {dealt} rows"
        in caplog.text
    )


def test_a_process_that_is_killed_later_keeps_what_it_delivered(crew, tmp_path, caplog):
    _, expected, run = crew
    told, failures, reason, given_up = run(lambda: KilledOnce(tmp_path / "killed", call=2))
    np.testing.assert_allclose(told, expected)
    assert (failures, given_up) == ({}, {})
    assert reason.endswith("ended with -9 (SIGKILL, out of memory?)")
    # Of 12, less a first block of 4.
    assert "ended with -9 (SIGKILL, out of memory?); reassigning 8 rows" in caplog.text


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param([0], marks=pytest.mark.slow),
        pytest.param([23], marks=pytest.mark.slow),
        [5, 6],
        pytest.param([0, 7, 9, 23], marks=pytest.mark.slow),
    ],
)
def test_rows_that_end_every_process_cost_themselves_alone(crew, tmp_path, poison):
    pairs, expected, run = crew

    def load():
        model = Lopsided()
        model.poison, model.journal = set(pairs["id"].iloc[poison]), tmp_path / "journal"
        return model

    told, failures, reason, given_up = run(load)
    left = np.isin(np.arange(len(pairs)), poison)
    assert np.isnan(told[left]).all()
    np.testing.assert_allclose(told[~left], expected[~left])
    assert sorted(failures) == poison
    assert all(
        why.endswith(
            "its process ended with -9 (SIGKILL, out of memory?) while reading only this row"
        )
        for why in failures.values()
    )
    assert "ended with -9 (SIGKILL, out of memory?)" in reason
    assert given_up == {}
    # The block that ends a process is halved down to the row, which is tried alone.
    tried = [line.split()[1].split(",") for line in (tmp_path / "journal").read_text().splitlines()]
    for row in pairs["id"].iloc[poison]:
        sizes = [len(block) for block in tried if row in block]
        assert sizes == sorted(sizes, reverse=True)
        assert 2 <= len(sizes) <= 5
        assert sizes[0] > 1
        assert sizes[-1] == 1


def test_a_row_that_ends_the_process_while_it_is_measured(crew):
    """Before any block is predicted: a tokenizer can end a process as well."""
    pairs, expected, run = crew

    class Measures(Lopsided):
        def costs(self, frame):
            if pairs["id"][3] in set(frame["id"]):
                kill()
            return super().costs(frame)

    told, failures, _, given_up = run(Measures)
    assert list(failures) == [3]
    np.testing.assert_allclose(np.delete(told, 3, axis=0), np.delete(expected, 3, axis=0))
    assert given_up == {}


def test_a_model_that_ends_every_process_is_given_up(crew, monkeypatch):
    pairs, _, run = crew
    monkeypatch.setattr(workers, "MAX_DEATHS", 3)
    monkeypatch.setattr(Lopsided, "poison", set(pairs["id"]))
    told, _, reason, _ = run(Lopsided)
    assert np.isnan(told).all()
    assert sorted(reason.split("; ")) == [
        *(
            f"GPU {gpu}: its process ended with -9 (SIGKILL, out of memory?) (3 times)"
            for gpu in (0, 1)
        ),
        "no process is left for 24 rows",
    ]


def test_processes_that_end_while_they_load(crew, tmp_path):
    """Two of them, or the memory for two at once: the second try is alone. A GPU on which none gets
    further is left out."""
    _, expected, run = crew
    once = tmp_path / "once"

    def load_once():
        if not once.exists():
            once.touch()
            kill()
        return Lopsided()

    told, failures, reason, _ = run(load_once)
    np.testing.assert_allclose(told, expected)
    assert reason.endswith("ended with -9 (SIGKILL, out of memory?)")
    told, failures, reason, _ = run(kill)
    assert np.isnan(told).all()
    assert failures == {}
    assert {part for part in reason.split("; ") if part.startswith("GPU")} == {
        f"GPU {gpu}: its process ended with -9 (SIGKILL, out of memory?) (2 times)"
        for gpu in (0, 1)
    }


def test_one_gpu_that_cannot_load_leaves_its_rows_to_the_other(crew):
    _, expected, run = crew

    def load():
        if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
            raise MemoryError("taken by somebody else")
        return Lopsided()

    told, failures, reason, _ = run(load)
    np.testing.assert_allclose(told, expected)
    assert (failures, reason) == ({}, "GPU 1: MemoryError: taken by somebody else")


def test_a_gpu_that_broke_in_a_process_works_in_the_next(crew, tmp_path):
    """After a device-side assert, say, every call of the process fails: its rows are not at fault
    one by one."""
    pairs, expected, run = crew

    def load():
        model = Lopsided()
        plain = model.predict_proba

        def breaks(frame):
            if pairs["id"][7] in set(frame["id"]) or hasattr(model, "broken"):
                model.broken = True
                raise RuntimeError("CUDA error: device-side assert triggered")
            return plain(frame)

        model.predict_proba = breaks
        return model

    told, failures, _, _ = run(load)
    assert list(failures) == [7]
    why = "CUDA error: device-side assert triggered while reading only this row"
    assert failures[7].endswith(why)
    np.testing.assert_allclose(np.delete(told, 7, axis=0), np.delete(expected, 7, axis=0))


def test_a_process_is_gone_before_the_next_on_its_gpu(crew, tmp_path):
    """One that says why it ends may take its time to end, and has the GPU's memory until then."""
    _, expected, run = crew
    first, alive = tmp_path / "first", tmp_path / "alive"

    def load():
        if not first.exists():
            first.write_text(str(os.getpid()))
            threading.Thread(target=time.sleep, args=[2]).start()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if Path("/proc", first.read_text()).exists():
            alive.touch()
        return Lopsided()

    told, failures, *_ = run(load, gpus=1)
    np.testing.assert_allclose(told, expected)
    assert failures == {}
    assert not alive.exists()


def test_a_process_that_hangs_costs_its_rows_and_no_more_time(crew, monkeypatch):
    _, expected, run = crew
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.5)

    class Hangs(Lopsided):
        def predict_proba(self, pairs):
            if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
                time.sleep(20)
            return super().predict_proba(pairs)

    started = time.monotonic()
    told, failures, reason, given_up = run(Hangs, budget=Budget(1.5))
    assert time.monotonic() - started < 15
    left = np.isnan(told[:, 0])
    np.testing.assert_allclose(told[~left], expected[~left])
    assert (left.sum(), failures, given_up) == (12, {}, {UNREAD: 12})
    assert reason.startswith("GPU 1: its process did not finish in time")


def test_a_row_that_fails_costs_itself_alone(crew, monkeypatch):
    pairs, expected, run = crew
    monkeypatch.setattr(Lopsided, "bad", {pairs["id"][3]})
    told, failures, reason, given_up = run(Lopsided)
    assert failures == {3: "ValueError: a bad row"}
    np.testing.assert_allclose(np.delete(told, 3, axis=0), np.delete(expected, 3, axis=0))
    assert (reason, given_up) == ("", {})


def test_no_time_for_anybody(crew):
    told, failures, reason, given_up = crew[2](Lopsided, budget=Budget(0))
    assert np.isnan(told).all()
    assert (failures, reason, given_up) == ({}, "", {UNREAD: len(told)})


def test_what_is_dealt_anew_has_the_time_that_is_left(crew, tmp_path):
    """A process is killed, and before the fresh one has loaded the model the time is over."""
    _, expected, run = crew
    killed = tmp_path / "killed"

    def load():
        if killed.exists():
            time.sleep(2.2)
        return KilledOnce(killed, call=2)

    told, failures, reason, given_up = run(load, gpus=1, budget=Budget(2))
    left = np.isnan(told[:, 0])
    np.testing.assert_allclose(told[~left], expected[~left])
    assert (left.sum(), given_up) == (20, {UNREAD: 20})
    assert (failures, reason) == ({}, "GPU 0: its process ended with -9 (SIGKILL, out of memory?)")


def test_rows_dealt_anew_are_shortened_where_there_is_no_time_for_more(crew):
    """One GPU cannot go on; the other one, at work, plans the time left for both."""
    _, expected, run = crew

    class Slow(Lopsided):
        share = 1.0

        def costs(self, frame):
            return np.full(len(frame), self.share)

        def shorter_variants(self):
            half = Slow()
            half.share = 0.1
            return [("a tenth", half)]

        def predict_proba(self, frame):
            time.sleep(0.1 * self.share * len(frame))
            return super().predict_proba(frame)

    def load():
        if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
            time.sleep(0.3)
            raise MemoryError("no")
        return Slow()

    told, failures, _, given_up = run(load, budget=Budget(2.0))  # of 24 rows x 0.1 s
    np.testing.assert_allclose(told, expected)
    assert failures == {}
    assert set(given_up) == {"a tenth"}


def test_only_the_second_order_is_read_anew_where_the_first_was_delivered(crew, tmp_path):
    pairs, expected, run = crew
    mean = (expected + Lopsided().predict_proba(swap_pairs(pairs))[:, SWAPPED_CLASSES]) / 2
    texts = dict(zip(pairs["id"], pairs["response_a"], strict=True))
    (tmp_path / "journal").touch()

    class Counted(Lopsided):
        swap_averaged = True

        def predict_proba(self, frame):
            first = all(
                texts[key] == text
                for key, text in zip(frame["id"], frame["response_a"], strict=True)
            )
            with (tmp_path / "orders").open("a") as file:
                file.write(f"{'a' if first else 'b'} {','.join(frame['id'])}\n")
            if not first and not (tmp_path / "killed").exists():
                (tmp_path / "killed").touch()
                kill()
            return super().predict_proba(frame)

    told, failures, reason, given_up = run(Counted, gpus=1)
    np.testing.assert_allclose(told, mean)
    assert (failures, given_up) == ({}, {})
    assert reason == "GPU 0: its process ended with -9 (SIGKILL, out of memory?)"
    calls = [line.split() for line in (tmp_path / "orders").read_text().splitlines()]
    read = {
        order: [key for own, rows in calls if own == order for key in rows.split(",")]
        for order in "ab"
    }
    assert sorted(read["a"]) == sorted(pairs["id"])
    assert set(read["b"]) == set(pairs["id"])


def test_a_row_whose_second_order_ends_every_process_keeps_its_first(crew):
    pairs, expected, run = crew
    mean = (expected + Lopsided().predict_proba(swap_pairs(pairs))[:, SWAPPED_CLASSES]) / 2
    bad, text = pairs["id"][5], pairs["response_a"][5]

    class Ends(Lopsided):
        swap_averaged = True

        def predict_proba(self, frame):
            mine = frame[frame["id"] == bad]
            if len(mine) and mine["response_a"].iloc[0] != text:
                kill()
            return super().predict_proba(frame)

    told, failures, _, given_up = run(Ends)
    np.testing.assert_allclose(told[5], expected[5])
    np.testing.assert_allclose(np.delete(told, 5, axis=0), np.delete(mean, 5, axis=0))
    assert list(failures) == [5]
    assert given_up == {}


def test_each_process_chooses_the_second_orders_and_counts_what_it_gives_up(crew, monkeypatch):
    pairs, expected, run = crew
    mean = (expected + Lopsided().predict_proba(swap_pairs(pairs))[:, SWAPPED_CLASSES]) / 2

    class Averaged(Lopsided):
        swap_averaged = True

    monkeypatch.setattr(schedule, "most_sensitive_first", lambda *_: np.arange(5))
    told, _, reason, given_up = run(Averaged)
    # Of the rows 0, 2, 4 … and 1, 3, 5 … the first five.
    np.testing.assert_allclose(told[:10], mean[:10])
    np.testing.assert_allclose(told[10:], expected[10:])
    assert (given_up, reason) == ({ONE_ORDER: 14}, "")


def test_the_first_failure_is_raised_where_failures_are_not_isolated(crew, monkeypatch):
    pairs, _, run = crew
    monkeypatch.setattr(Lopsided, "bad", {pairs["id"][3]})
    *_, reason, _ = run(Lopsided, isolate=False)
    assert reason == "ValueError: a bad row"

    def load():
        raise InputError("a weight is missing")

    with pytest.raises(InputError, match="a weight is missing"):
        run(load, isolate=False)
    monkeypatch.setattr(Lopsided, "bad", ())
    monkeypatch.setattr(Lopsided, "poison", {pairs["id"][3]})
    *_, reason, _ = run(Lopsided, isolate=False)
    assert reason == (
        f"id {pairs['id'][3]!r}: its process ended with -9 (SIGKILL, out of memory?) while reading "
        "only this row"
    )
    with pytest.raises(ProcessEndedError) as raised:
        list(shared_out(Job(leaf_of(Lopsided), pairs[3:4], False), Budget(600), 2))
    assert ending_of(raised.value) == (reason, 2)  # one line, not a traceback
    monkeypatch.setattr(Lopsided, "poison", ())
    *_, reason, _ = run(kill, isolate=False)
    assert "no process is left for 24 rows" in reason


def test_a_process_whose_rows_another_could_do_is_no_failure(crew, tmp_path, caplog):
    _, expected, run = crew
    told, failures, reason, _ = run(lambda: KilledOnce(tmp_path / "killed"), isolate=False)
    np.testing.assert_allclose(told, expected)
    assert (failures, reason) == ({}, "")
    assert "its process ended with -9 (SIGKILL, out of memory?); reassigning 12 rows" in caplog.text


@pytest.mark.slow
def test_two_processes_say_what_one_does(arena, tmp_path):
    pytest.importorskip("torch")
    artifact = train(load_config("tiny", None, TINY), arena / "train.csv", tmp_path / "artifact")
    pairs = read_pairs(arena / "test.csv")
    leaf = read_ensemble(artifact.folder / "model")
    made = np.full((len(pairs), 3), np.nan)
    for result in shared_out(Job(leaf, pairs, True), Budget(600), 2):
        made[result.rows] = result.probabilities
    np.testing.assert_allclose(made, artifact.predict_proba(pairs), atol=1e-6)


def test_a_model_that_cannot_be_loaded(arena, tmp_path):
    job = Job(Leaf(tmp_path, load_config("prior")), read_pairs(arena / "test.csv"), True)
    with pytest.raises(
        RuntimeError, match=r"GPU \d: InputError.*config.json.*; GPU \d: InputError"
    ):
        list(shared_out(job, Budget(600), 2))
