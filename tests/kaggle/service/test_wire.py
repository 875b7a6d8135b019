"""What the client sends is bounded in time and seen, and what it prints is dropped."""

import signal
import time

import pytest

from humanpref.kaggle.service.wire import READ_SECONDS, guarded

requests = pytest.importorskip("requests")


@pytest.fixture
def sent(monkeypatch):
    """The time limits of the requests that were sent; each is answered by its own number."""
    limits = []

    def send(adapter, request, timeout=None, **options):
        if request.url.endswith("/lost"):
            raise requests.exceptions.ConnectionError("lost")
        limits.append(timeout)
        response = requests.Response()
        response.status_code = 200
        response.url = request.url
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    return limits


def test_a_request_is_seen_and_has_a_time_limit(sent):
    with guarded(10) as traffic:
        assert (traffic.used, traffic.response) == (False, None)
        requests.get("http://kaggle.test/")
        response = requests.get("http://kaggle.test/a", timeout=5)
    assert traffic.used
    assert traffic.response is response
    assert sent == [READ_SECONDS, 5]


def test_an_earlier_answer_is_not_taken_for_that_of_a_lost_request(sent):
    with guarded(10) as traffic:
        requests.get("http://kaggle.test/")
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get("http://kaggle.test/lost")
    assert traffic.used
    assert traffic.response is None


def test_what_is_printed_is_dropped(capsys):
    with guarded(10):
        print("advice")
    print("kept")
    assert capsys.readouterr().out == "kept\n"


def test_the_alarm_comes_again_and_ends_with_the_block():
    before, send = signal.getsignal(signal.SIGALRM), requests.adapters.HTTPAdapter.send
    with guarded(0.05):
        for _ in range(2):
            with pytest.raises(TimeoutError, match="not finished after 0 seconds"):
                time.sleep(5)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is before
    assert requests.adapters.HTTPAdapter.send is send
