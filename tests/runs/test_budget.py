"""A budget, on a clock of the test's own."""

import doctest
import math
from collections import Counter

import pytest

from humanpref.runs import budget as module
from humanpref.runs.budget import Budget, shortages


class Clock:
    now = 5.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_time_runs_from_the_start(clock):
    budget = Budget(10, clock)
    assert (budget.spent(), budget.left()) == (0, 10)
    clock.now += 4
    assert (budget.spent(), budget.left()) == (4, 6)
    clock.now += 7
    assert budget.left() == -1
    assert Budget(math.inf, clock).left() == math.inf


def test_the_wall_clock_is_the_default():
    budget = Budget(100)
    assert 0 <= budget.spent() < 10
    assert 90 < budget.left() <= 100


def test_a_share_is_a_part_of_what_is_left_and_counts_for_the_whole(clock):
    budget = Budget(10, clock)
    clock.now += 4
    share = budget.share(1 / 3)
    assert (share.seconds, share.left()) == (2, 2)
    clock.now += 1
    assert (share.left(), budget.left()) == (1, 5)
    share.given_up["half"] += 3
    assert budget.given_up == {"half": 3}
    clock.now += 9
    assert budget.share(0.5).left() == 0


def test_what_was_given_up_is_logged(clock, caplog):
    budget = Budget(10, clock)
    budget.given_up["no swap averaging"] = 0
    budget.log_summary()
    assert caplog.text == ""
    budget.given_up.update({"half": 3, "not predicted": 1})
    budget.log_summary()
    assert [record.getMessage() for record in caplog.records] == [
        "time budget of 10 s: half: 3 row predictions (out of time), "
        "not predicted: 1 row prediction (out of time)"
    ]


def test_nothing_given_up_is_no_shortage():
    assert shortages(Counter()) == shortages(Counter(half=0, other=-1)) == []


def test_the_examples_hold():
    found = doctest.testmod(module, extraglobs={"Counter": Counter})
    assert (found.attempted, found.failed) == (1, 0)
