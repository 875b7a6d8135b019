"""Waiting, and sending once: with a clock of the test's own."""

import pytest

from humanpref.kaggle.service.client import (
    TRIES,
    BusyError,
    RefusedError,
    ServiceError,
    UncertainError,
)
from humanpref.kaggle.service.waiting import LONGEST_PAUSE, SETTLING_PAUSES, poll, send_once


class Clock:
    def __init__(self):
        self.pauses = []

    def sleep(self, seconds):
        self.pauses.append(seconds)

    def __call__(self):
        return sum(self.pauses)


def test_poll_asks_after_ever_longer_pauses(caplog):
    clock, states = Clock(), iter(["QUEUED", *["RUNNING"] * 12, "COMPLETE"])

    def check():
        state = next(states)
        return (7 if state == "COMPLETE" else None), state

    with caplog.at_level("INFO"):
        assert poll(check, "a run", 10_000, sleep=clock.sleep, clock=clock) == 7
    assert clock.pauses[:3] == [5, 7.5, 11.25]
    assert clock.pauses == sorted(clock.pauses)
    assert clock.pauses[-1] == LONGEST_PAUSE
    assert caplog.messages == ["a run: QUEUED", "a run: RUNNING", "a run: COMPLETE"]


def test_poll_gives_up():
    clock = Clock()
    with pytest.raises(
        ServiceError,
        match=r"a run: still RUNNING after 2\.0 hours; the same command goes on waiting",
    ):
        poll(lambda: (None, "RUNNING"), "a run", 7_200, sleep=clock.sleep, clock=clock)
    assert clock() == 7_200


class Remote:
    """Something to send, whose calls end as `ends` says; `arrives` are the numbers of the calls
    that arrive all the same."""

    def __init__(self, *ends, arrives=(), pending=False):
        self.ends, self.arrives = list(ends), arrives
        self.sent, self.there, self.written = 0, False, pending

    def send(self):
        self.sent += 1
        self.written = True
        self.there = self.there or self.sent in self.arrives
        end = self.ends.pop(0)
        if end is None:
            return "answered"
        self.written = isinstance(end, UncertainError)
        raise end

    def once(self, clock):
        return send_once(
            self.send,
            lambda: self.written,
            lambda: "found" if self.there else None,
            sleep=clock.sleep,
        )


@pytest.mark.parametrize(
    ("remote", "result", "sent"),
    [
        (Remote(None), "answered", 1),
        (Remote(UncertainError("x"), arrives=[1]), "found", 1),
        (Remote(UncertainError("x"), None), "answered", 2),
        (Remote(BusyError("x"), BusyError("x"), None), "answered", 3),
        (Remote(None, pending=True), "answered", 1),
    ],
)
def test_send_once(remote, result, sent):
    assert remote.once(Clock()) == result
    assert remote.sent == sent


def test_what_was_pending_is_looked_for_first_and_long_enough():
    remote, clock = Remote(pending=True), Clock()
    remote.there = True
    assert remote.once(clock) == "found"
    assert remote.sent == 0
    remote, clock = Remote(None, pending=True), Clock()
    remote.once(clock)
    assert tuple(clock.pauses) == SETTLING_PAUSES


def test_send_once_gives_up():
    refused = Remote(RefusedError("no"))
    with pytest.raises(RefusedError, match="no"):
        refused.once(Clock())
    assert refused.sent == 1
    busy = Remote(*[BusyError("busy")] * TRIES)
    with pytest.raises(BusyError):
        busy.once(Clock())
    # A service that wants to be left alone for an hour is not waited for.
    error = BusyError("busy")
    error.seconds = 3_600
    patient = Remote(error)
    with pytest.raises(BusyError):
        patient.once(Clock())
    assert patient.sent == 1
