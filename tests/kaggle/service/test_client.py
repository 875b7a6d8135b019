"""One call: what becomes of its answer, how long it may take, and when it is repeated."""

import base64
import io
import json
import time
from types import SimpleNamespace

import pytest

from humanpref.kaggle.service import wire
from humanpref.kaggle.service.client import (
    BusyError,
    NotThereError,
    RefusedError,
    ServiceError,
    SignInError,
    UncertainError,
    fill,
    request_for,
    retry,
)
from humanpref.schema import InputError

from ..loopback import KEY, USER
from .played import Asked, make_client

requests = pytest.importorskip("requests")

PAGE = b"<html>a proxy's page</html>"


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses made so far; they take no time."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def limits(monkeypatch):
    """The time limits of the guarded blocks so far."""
    limits, guarded = [], wire.guarded

    def watched(seconds):
        limits.append(seconds)
        return guarded(seconds)

    monkeypatch.setattr(wire, "guarded", watched)
    return limits


@pytest.fixture
def answers(monkeypatch):
    """The answers to come: (status, body) or (status, body, headers), or an error to raise."""
    answers = []

    def send(adapter, request, **options):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        response = requests.Response()
        response.status_code = status
        response.url = request.url
        response.headers.update(*headers)
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        response.raw = io.BytesIO(body)
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    return answers


def method(request: Asked):
    response = requests.get("http://kaggle.test/")
    response.raise_for_status()
    return response.json()


def careless(request: Asked):
    """As a method that reads the answer before it looks at the status."""
    return requests.get("http://kaggle.test/").json()["value"]


def refused(error):
    def raise_error(request: Asked):
        raise error

    return raise_error


# Signing in, and the credentials.


def test_the_signed_in_client(client):
    assert client.user == USER
    assert client.api.args == ["kernels", "status"]
    services = (client.datasets, client.kernels, client.competitions)
    assert services == ("the datasets", "the kernels", "the competitions")


def test_a_client_without_a_key(monkeypatch, limits):
    client = make_client(monkeypatch, {"token": "abc"}, ["abc"])
    assert client.user == ""
    assert client.clean("abc") == "***"
    assert limits == [180]


def test_clean(client):
    encoded = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
    assert client.clean(f" a\n\tb {KEY} {encoded} {KEY}") == "a b *** *** ***"
    assert client.clean(12) == "12"
    assert client.clean("x" * 500) == "x" * 500
    assert client.clean("x" * 501) == "x" * 497 + "..."


def test_a_file_with_a_key_is_refused(client, tmp_path):
    path = tmp_path / "code.py"
    path.write_text(f"key = '{KEY}'")
    with pytest.raises(InputError, match=r"code\.py: contains your Kaggle key"):
        client.refuse_secrets(path)
    path.write_text(KEY.ljust(2**20 - 1))
    with pytest.raises(InputError, match="contains your Kaggle key"):
        client.refuse_secrets(path)
    path.write_text(KEY.ljust(2**20))
    client.refuse_secrets(path)
    path.write_text("key = ''")
    client.refuse_secrets(path)


def test_the_message_of_an_error(client):
    assert client.clean("a  text") == "a text"
    assert client.clean({"message": f"for {KEY}", "error": "x"}) == "for ***"
    assert client.clean({"error": "x"}) == "x"
    assert client.clean({}) == ""


# What becomes of one call.


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"message": "No"}, RefusedError, "me/a: No (HTTP 400)"),
        (400, {"error": {"code": 404, "message": "No"}}, NotThereError, "me/a: No (HTTP 404)"),
        (400, {"error": "No"}, RefusedError, "me/a: No (HTTP 400)"),
        (400, {"code": "INVALID", "message": "No"}, RefusedError, "me/a: No (HTTP 400)"),
        (400, {"code": None, "message": "No"}, RefusedError, "me/a: No (HTTP 400)"),
        (400, b"", RefusedError, "me/a: 400 Client Error"),
        (400, {}, RefusedError, "me/a: 400 Client Error"),
        (400, PAGE, UncertainError, "me/a: 400 Client Error"),
        (400, [1], UncertainError, "me/a: 400 Client Error"),
        (401, {"message": "Who?"}, SignInError, "do"),
        (401, PAGE, SignInError, "does not accept these credentials (a key file)"),
        (402, {"message": "No"}, RefusedError, "(HTTP 402)"),
        (403, {"message": "No"}, NotThereError, "(HTTP 403)"),
        (404, {"message": f"No {KEY}"}, NotThereError, "me/a: No *** (HTTP 404)"),
        (405, {"message": "No"}, RefusedError, "(HTTP 405)"),
        (408, {"message": "No"}, UncertainError, "(HTTP 408)"),
        (409, {"message": "No"}, UncertainError, "(HTTP 409)"),
        (410, {"message": "No"}, RefusedError, "(HTTP 410)"),
        (428, {"message": "No"}, RefusedError, "(HTTP 428)"),
        (429, {"message": "No"}, BusyError, "me/a: No (HTTP 429)"),
        (430, {"message": "No"}, RefusedError, "(HTTP 430)"),
        (499, {"message": "No"}, RefusedError, "(HTTP 499)"),
        (500, {"message": "No"}, UncertainError, "me/a: No (HTTP 500)"),
        (500, PAGE, UncertainError, "(HTTP 500)"),
    ],
)
def test_an_answer_that_is_an_error(client, answers, status, body, kind, words):
    answers.append((status, body))
    with pytest.raises(ServiceError) as caught:
        client.call("me/a", method)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert caught.value.seconds == 0


@pytest.mark.parametrize(
    ("status", "after", "seconds"),
    [(429, "7", 7), (503, "7", 7), (400, "7", 0), (429, "soon", 0), (429, "-1", 0)],
)
def test_the_pause_that_kaggle_asks_for(client, answers, status, after, seconds):
    answers.append((status, {}, {"Retry-After": after}))
    with pytest.raises(ServiceError) as caught:
        client.call("me/a", method)
    assert caught.value.seconds == seconds


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("The title 'a' is already in use", RefusedError),
        ("A kernel with this slug already exists", RefusedError),
        ("Conflict", UncertainError),
    ],
)
def test_a_conflict_passes_unless_a_name_is_taken(client, answers, message, kind):
    answers.append((409, {"code": 409, "message": message}))
    with pytest.raises(ServiceError) as caught:
        client.call("me/a", method)
    assert type(caught.value) is kind


def test_a_pause_that_is_too_long_is_named(client, answers, pauses):
    answers.append((429, {"message": "Slow down"}, {"Retry-After": "301"}))
    with pytest.raises(BusyError, match=r"Slow down .*; Kaggle asks to wait 301 seconds$"):
        client.read("me/a", method)
    assert pauses == []


def test_an_answer(client, answers, limits):
    answers.append((200, {"value": 3}))
    assert client.call("me/a", method) == {"value": 3}
    assert limits == [180]
    assert client.run("me/a", lambda: 4, seconds=9) == 4
    assert limits == [180, 9]


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, AttributeError])
def test_a_request_that_the_client_does_not_send(client, error):
    with pytest.raises(RefusedError, match=r"^me/a: the client refuses to send this: .*a title"):
        client.call("me/a", refused(error("a title")))


@pytest.mark.parametrize("body", [PAGE, {}, [], 1])
def test_an_answer_that_cannot_be_read(client, answers, body):
    answers.append((200, body))
    with pytest.raises(UncertainError, match=r"^me/a: (Kaggle's answer cannot be read|no answer)"):
        client.call("me/a", careless)


@pytest.mark.parametrize(("status", "kind"), [(399, UncertainError), (400, RefusedError)])
def test_an_error_that_the_client_does_not_notice(client, answers, status, kind):
    answers.append((status, {"message": "No"}))
    with pytest.raises(ServiceError) as caught:
        client.call("me/a", careless)
    assert type(caught.value) is kind


def test_no_answer(client, answers):
    answers += [requests.exceptions.ConnectionError(f"gone with {KEY}"), ValueError("odd")]
    with pytest.raises(UncertainError, match=r"me/a: no answer .*ConnectionError: gone with \*"):
        client.call("me/a", method)
    with pytest.raises(UncertainError, match="me/a: Kaggle's answer cannot be read"):
        client.call("me/a", method)
    with pytest.raises(UncertainError, match=r"no answer from Kaggle \(TimeoutError"):
        client.call("me/a", refused(TimeoutError("late")))


def test_our_own_errors_and_defects_pass(client):
    with pytest.raises(InputError, match=r"^ours$"):
        client.call("me/a", refused(InputError("ours")))
    with pytest.raises(ZeroDivisionError):
        client.call("me/a", refused(ZeroDivisionError()))


def test_requests_are_of_the_methods_type():
    request = request_for(method, owner="me", number=0, title=None)
    assert type(request) is Asked
    assert vars(request) == {"owner": "me", "number": 0}
    assert fill(request, title="x") is request
    assert request.title == "x"


# Repeating a call.


def failing(*errors):
    """A function that raises these errors one after the other and then returns 7."""
    errors = list(errors)

    def attempt():
        if errors:
            raise errors.pop(0)
        return 7

    return attempt


def test_a_call_is_repeated_after_ever_longer_pauses(pauses, caplog):
    with caplog.at_level("INFO"):
        assert retry(failing(*[BusyError("busy"), UncertainError("lost")] * 2)) == 7
    assert pauses == [1, 2, 4, 8]
    assert caplog.messages[:2] == [
        "busy; trying again in 1 seconds",
        "lost; trying again in 2 seconds",
    ]


def test_the_sixth_attempt_is_the_last(pauses):
    assert retry(failing(*[BusyError("busy")] * 5)) == 7
    assert pauses == [1, 2, 4, 8, 16]
    with pytest.raises(BusyError, match="the last"):
        retry(failing(*[BusyError("busy")] * 5, BusyError("the last")))
    assert len(pauses) == 10


def test_a_refused_call_is_not_repeated(pauses):
    with pytest.raises(RefusedError):
        retry(failing(RefusedError("no")))
    assert pauses == []


def test_kaggle_is_given_the_pause_that_it_asks_for(pauses):
    error = BusyError("busy")
    error.seconds = 300
    assert retry(failing(error)) == 7
    assert pauses == [300]
    error.seconds = 301
    with pytest.raises(BusyError):
        retry(failing(error))
    assert pauses == [300]


def test_read_and_find(client, answers, pauses):
    answers += [(500, {}), (200, {"value": 3})]
    assert client.read("me/a", method) == {"value": 3}
    assert pauses == [1]
    answers += [(500, {}), (200, {"value": 3}), (404, {})]
    assert client.find("me/a", method) == {"value": 3}
    assert client.find("me/a", method) is None
    answers.append((400, {}))
    with pytest.raises(RefusedError):
        client.find("me/a", method)


def test_ask(client, answers, caplog, pauses):
    answers += [(200, {"value": 3}), (500, {"message": "No"}), (401, {})]
    assert client.ask("me/a", method) == {"value": 3}
    assert client.ask("me/a", method) is None
    assert caplog.messages == ["me/a: No (HTTP 500)"]
    with pytest.raises(SignInError):
        client.ask("me/a", method)
    assert pauses == []


@pytest.mark.parametrize("last", [None, "", "2"])
def test_pages(client, last):
    asked, tokens = [], ["1", "2", last]

    def listed(request: Asked):
        asked.append(vars(request))
        return SimpleNamespace(next_page_token=tokens[len(asked) - 1])

    pages = list(client.pages("me/a", listed, name="x"))
    assert [page.next_page_token for page in pages] == tokens
    first = {"name": "x", "page_size": 100}
    assert asked == [first, first | {"page_token": "1"}, first | {"page_token": "2"}]


class Download:
    """A download in two pieces, the second of which may fail."""

    def __init__(self, error=None):
        self.error = error

    def iter_content(self, size):
        yield b"x" * size
        if self.error:
            raise self.error
        yield b"y"


def test_download(client, limits, pauses, tmp_path):
    path = tmp_path / "file"
    downloads = [Download(ConnectionError("gone")), Download()]
    client.download("me/a", path, lambda: downloads.pop(0))
    assert path.read_bytes() == b"x" * 262_144 + b"y"
    assert pauses == [1]
    assert limits == [180, 60, 60, 180, 60, 60, 60]


def test_a_call_ends_at_its_limit(client):
    def hang():
        while True:
            pass

    with pytest.raises(UncertainError, match="not finished after 0 seconds"):
        client.run("me/a", hang, seconds=0.05)
