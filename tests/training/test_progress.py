"""An epoch's progress where there is no terminal: ten log lines from the main process."""

import logging

import pytest

pytest.importorskip("torch")

from humanpref.training import progress
from humanpref.training.progress import EpochBar


@pytest.fixture
def clock(monkeypatch):
    """Play a clock on which every step takes two seconds."""
    times = iter(range(100, 10_000, 2))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))


def lines(caplog, steps, done=0, main=True):
    with caplog.at_level(logging.INFO):
        bar = EpochBar("epoch 2/3", steps, done, main)
        for step in range(done + 1, steps + 1):
            bar.update(step, 0.5)
        bar.close()
    return caplog.messages


def test_a_tenth_of_the_steps_is_a_line(clock, caplog):
    messages = lines(caplog, 40)
    assert len(messages) == 10
    assert messages[0] == "epoch 2/3, step 4/40: mean loss 0.5000, 18 s left"
    assert messages[-1] == "epoch 2/3, step 40/40: mean loss 0.5000, 0 s left"


def test_fewer_than_ten_steps_have_a_line_each(clock, caplog):
    assert len(lines(caplog, 3)) == 3


def test_steps_of_an_earlier_session_are_not_timed(clock, caplog):
    # Step 6 is the first of this session: one step took two seconds, four are left.
    assert lines(caplog, 10, done=5)[0] == "epoch 2/3, step 6/10: mean loss 0.5000, 8 s left"


def test_other_processes_are_silent(clock, caplog):
    assert lines(caplog, 10, main=False) == []
