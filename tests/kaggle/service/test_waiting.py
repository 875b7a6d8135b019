"""Waiting, and sending once: with a clock of the test's own."""

import time

import pytest

from humanpref.kaggle.service.client import TRIES, BusyError, RefusedError, UncertainError
from humanpref.kaggle.service.waiting import (
    LONGEST_PAUSE,
    OUTAGE_SECONDS,
    SETTLING_PAUSES,
    PendingError,
    poll,
    send_once,
)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses made so far; they take no time, but the clock advances by them."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses))
    return pauses


def test_poll_asks_after_ever_longer_pauses(caplog, pauses):
    states = iter(["QUEUED", *["RUNNING"] * 12, "COMPLETE"])

    def check():
        state = next(states)
        return (7 if state == "COMPLETE" else None), state

    with caplog.at_level("INFO"):
        assert poll(check, "a run", 10_000) == 7
    assert pauses[:3] == [5, 7.5, 11.25]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert caplog.messages == ["a run: QUEUED", "a run: RUNNING", "a run: COMPLETE"]


def test_poll_gives_up(pauses):
    with pytest.raises(
        PendingError,
        match=r"a run: still RUNNING after 2\.0 hours; rerun the same command to keep waiting",
    ):
        poll(lambda: (None, "RUNNING"), "a run", 7_200)
    assert sum(pauses) == 7_200


def unanswered_until(pauses, seconds, error):
    """A check that Kaggle does not answer until so many seconds have passed."""

    def check():
        if sum(pauses) < seconds:
            raise error
        return 7, "COMPLETE"

    return check


@pytest.mark.parametrize("error", [UncertainError("no answer"), BusyError("busy")])
def test_an_outage_does_not_end_a_wait(caplog, pauses, error):
    with caplog.at_level("INFO"):
        assert poll(unanswered_until(pauses, 1_500, error), "a run", 50_000) == 7
    assert caplog.messages == ["a run: no answer, asking again", "a run: COMPLETE"]
    pauses.clear()
    with pytest.raises(type(error)):
        poll(unanswered_until(pauses, 10 * OUTAGE_SECONDS, error), "a run", 50_000)
    assert OUTAGE_SECONDS <= sum(pauses) <= OUTAGE_SECONDS + LONGEST_PAUSE


def test_only_the_time_since_the_last_answer_counts(pauses):
    def check():
        seconds = sum(pauses)
        if seconds % 2_000 < 1_500:
            raise UncertainError("no answer")
        return (7 if seconds > 9_000 else None), "RUNNING"

    assert poll(check, "a run", 50_000) == 7


@pytest.mark.parametrize(("asked", "kept"), [(600, 600), (7_200, OUTAGE_SECONDS), (1, 5)])
def test_a_wait_makes_the_pause_that_kaggle_asks_for(pauses, asked, kept):
    error = BusyError("busy")
    error.seconds = asked
    assert poll(unanswered_until(pauses, 1, error), "a run", 50_000) == 7
    assert pauses == [kept]


def test_a_refusal_ends_a_wait(pauses):
    with pytest.raises(RefusedError):
        poll(unanswered_until(pauses, 1, RefusedError("no")), "a run", 50_000)
    assert pauses == []


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

    def once(self):
        return send_once(self.send, lambda: self.written, lambda: "found" if self.there else None)


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
def test_send_once(pauses, remote, result, sent):
    assert remote.once() == result
    assert remote.sent == sent


def test_what_was_pending_is_looked_for_first_and_long_enough(pauses):
    remote = Remote(pending=True)
    remote.there = True
    assert remote.once() == "found"
    assert remote.sent == 0
    pauses.clear()
    remote = Remote(None, pending=True)
    remote.once()
    assert tuple(pauses) == SETTLING_PAUSES


def test_send_once_gives_up(pauses):
    refused = Remote(RefusedError("no"))
    with pytest.raises(RefusedError, match="no"):
        refused.once()
    assert refused.sent == 1
    busy = Remote(*[BusyError("busy")] * TRIES)
    with pytest.raises(BusyError):
        busy.once()
    # A service that wants to be left alone for an hour is not waited for.
    error = BusyError("busy")
    error.seconds = 3_600
    patient = Remote(error)
    with pytest.raises(BusyError):
        patient.once()
    assert patient.sent == 1
