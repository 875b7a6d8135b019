"""An epoch's progress: a bar on a terminal, ten log lines elsewhere."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from humanpref.training import progress
from humanpref.training.progress import EpochBar, Progress


def lines(caplog, monkeypatch, steps, done, main=True):
    clock = iter(range(0, 1_000, 2))
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    caplog.clear()
    with caplog.at_level("INFO"):
        bar = EpochBar("epoch 1/2", steps, done, main)
        for step in range(done + 1, steps + 1):
            bar.update(step, 0.5)
        bar.close()
    return caplog.messages


def test_ten_lines_where_there_is_no_terminal(caplog, monkeypatch):
    messages = lines(caplog, monkeypatch, steps=40, done=0)
    # The clock advances by 2 s at each look, and is looked at once for each line.
    assert messages[0] == "epoch 1/2, step 4/40: mean loss 0.5000, 18 s left"
    assert len(messages) == 10
    assert messages[-1].endswith("step 40/40: mean loss 0.5000, 0 s left")


def test_steps_of_an_earlier_session_took_no_time_in_this_one(caplog, monkeypatch):
    messages = lines(caplog, monkeypatch, steps=40, done=34)
    assert messages == [
        "epoch 1/2, step 36/40: mean loss 0.5000, 4 s left",
        "epoch 1/2, step 40/40: mean loss 0.5000, 0 s left",
    ]


def test_few_steps_have_a_line_each_and_other_processes_none(caplog, monkeypatch):
    assert len(lines(caplog, monkeypatch, steps=3, done=0)) == 3
    assert lines(caplog, monkeypatch, steps=40, done=0, main=False) == []


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_has_a_bar_where_there_is_a_terminal(monkeypatch, main):
    bars = []
    monkeypatch.setattr(progress, "tqdm", lambda **options: bars.append(options))
    EpochBar("epoch 1/2", 40, 34, main)
    (options,) = bars
    assert (options["desc"], options["total"], options["initial"]) == ("epoch 1/2", 40, 34)
    assert options["disable"] is (None if main else True)  # tqdm looks for a terminal itself


def test_a_run_begins_with_nothing_done():
    values = asdict(Progress())
    assert values.pop("epochs") == []
    assert values.pop("stopped") is None
    assert set(values.values()) == {0}
