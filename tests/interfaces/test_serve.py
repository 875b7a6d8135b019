"""`POST /judge` and `GET /health`: what they answer, and what they refuse."""

import asyncio
import json
import re
import threading

import pytest

pytest.importorskip("starlette", reason="needs humanpref[serve]")
pytest.importorskip("uvicorn", reason="needs humanpref[serve]")
pytest.importorskip("httpx", reason="needs humanpref[test]")

from starlette.testclient import TestClient

import humanpref
from humanpref.interfaces.serve import Limits, application, listen
from humanpref.schema import TEXT_COLUMNS, InputError

PAIR = dict(zip(TEXT_COLUMNS, ("Why?", "So.", "Because:\n\n- one\n- two"), strict=True))
SWAPPED = PAIR | {"response_a": PAIR["response_b"], "response_b": PAIR["response_a"]}


def client_of(judge=None, raising=True, **limits):
    app = application(judge or humanpref.load(), limits=Limits(**limits))
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=raising)


def refused(response):
    """Return the status and the message of an error, which is JSON like any answer."""
    content = response.json()
    assert set(content) == {"error"}
    assert response.headers["connection"] == "close"
    return response.status_code, content["error"]


def test_one_pair_is_judged_as_in_python():
    response = client_of().post("/judge", json=PAIR)
    assert response.status_code == 200
    assert response.json() == humanpref.load().judge(*PAIR.values()).to_dict()
    swapped = client_of().post("/judge", json=SWAPPED).json()
    assert (swapped["p_a"], swapped["p_b"]) == (response.json()["p_b"], response.json()["p_a"])


def test_many_pairs_are_judged_in_order():
    judge = humanpref.load()
    turns = {column: ["Hello.", text] for column, text in PAIR.items()}
    rows = [PAIR, SWAPPED, turns]
    own = client_of().post("/judge", json=rows).json()
    expected = [judge.judge(*row.values()).to_dict() for row in rows]
    names = ("winner", "p_a", "p_b", "p_tie")
    assert own == [{name: each[name] for name in names} for each in expected]
    assert client_of().post("/judge", json=[]).json() == []
    roles = dict.fromkeys(PAIR, "assistant") | {"prompt": "user"}
    messages = {c: [{"role": roles[c], "content": text}] for c, text in PAIR.items()}
    for content in (messages, [messages]):
        response = client_of().post("/judge", json=content).json()
        assert (response if content is messages else response[0])["p_a"] == own[0]["p_a"]


@pytest.mark.parametrize("several", [False, True])
def test_strings_are_texts_and_lists_are_turns(several):
    # JSON within a string is a text that somebody wrote, here and in any row of a list.
    texts = {"prompt": '["a", "b"]', "response_a": '["c"]', "response_b": "null"}
    own = client_of().post("/judge", json=[texts, PAIR] if several else texts).json()
    expected = humanpref.load().judge(*([text] for text in texts.values()))
    assert (own[0] if several else own)["p_a"] == expected.p_a
    assert expected.p_a != humanpref.load().judge(["a", "b"], ["c"], [None]).p_a


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "expected an object with prompt, response_a, response_b, got int"),
        ({"prompt": "p", "response_a": "a"}, r"got \['prompt', 'response_a'\]"),
        (PAIR | {"reponse_a": "typo"}, "expected an object with .*'reponse_a'"),
        (PAIR | {"response_b": None}, r"three strings or three lists of turns, got \['NoneType'"),
        ([PAIR, PAIR | {"prompt": ["p"]}], r"row 2: expected three .* got \['list', 'str'\]"),
        ({column: [3] for column in PAIR}, "'prompt'"),
        ([PAIR, {column: [{"no": "role"}] for column in PAIR}], "row 2.*turn 1: expected a string"),
    ],
)
def test_unusable_pairs_are_refused_by_name(content, message):
    status, error = refused(client_of().post("/judge", json=content))
    assert status == 422
    assert re.search(message, error), error


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'"\\', b"[NaN]"]
)
def test_broken_json_is_refused(body):
    headers = {"Content-Type": "application/json"}
    status, error = refused(client_of().post("/judge", content=body, headers=headers))
    assert (status, error[:20]) == (400, "the body is not JSON")


def test_a_value_given_twice_is_refused():
    body = json.dumps(PAIR)[:-1] + ', "prompt": "another"}'
    headers = {"Content-Type": "application/json"}
    error = refused(client_of().post("/judge", content=body, headers=headers))
    assert error == (400, "the body is not JSON: key 'prompt' appears twice")


def test_a_refusal_is_short_whatever_was_sent():
    content = {str(number): "x" for number in range(50_000)}
    status, error = refused(client_of().post("/judge", json=content))
    assert status == 422
    assert len(error) < 400


@pytest.mark.parametrize("texts", [["", "", ""], ["", "", "b"], ["\ud800", "a\x00", "\x85"]])
def test_unusual_texts_are_judged_alike_alone_and_among_others(texts):
    row = dict(zip(TEXT_COLUMNS, texts, strict=True))
    headers = {"Content-Type": "application/json"}
    own, (among, _) = (
        client_of().post("/judge", content=json.dumps(content), headers=headers).json()
        for content in (row, [row, PAIR])
    )
    assert among["p_a"] == own["p_a"] == humanpref.load().judge(*([text] for text in texts)).p_a


def test_other_sites_cannot_send_what_needs_no_permission():
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = client_of().post(
            "/judge", content=json.dumps(PAIR), headers={"Content-Type": kind}
        )
        assert refused(response)[0] == 415
        assert "access-control-allow-origin" not in response.headers


def test_the_limits_hold_at_their_edge():
    content = json.dumps(PAIR).encode()
    headers = {"Content-Type": "application/json; charset=utf-8"}
    for room, status in ((0, 200), (-1, 413)):
        client = client_of(body_bytes=len(content) + room)
        assert client.post("/judge", content=content, headers=headers).status_code == status
    assert client_of(pairs=2).post("/judge", json=[PAIR] * 2).status_code == 200
    error = refused(client_of(pairs=2).post("/judge", json=[PAIR] * 3))
    assert error == (413, "expected at most 2 pairs, got 3")


class Stuck:
    """A judge that waits until it is let go."""

    model = None

    def __init__(self):
        self.go, self.begun, self.calls = threading.Event(), threading.Event(), 0

    def judge(self, *texts):
        self.calls += 1
        self.begun.set()
        self.go.wait(20)
        return humanpref.load().judge(*texts)


def test_a_slow_judge_is_a_timeout_and_the_server_stays_alive():
    stuck = Stuck()
    with client_of(stuck, judge_seconds=0.05) as client:
        status, error = refused(client.post("/judge", json=PAIR))
        assert (status, error[:24]) == (503, "no judgement within 0.05")
        assert client.get("/health").json()["status"] == "ok"
        stuck.go.set()
        codes = {client.post("/judge", json=PAIR).status_code for _ in range(20)}
        assert 200 in codes


def test_nobody_waits_for_a_client_that_has_gone():
    stuck, scope = Stuck(), client_of().build_request("POST", "/judge", json=PAIR)
    app = application(stuck)
    headers = [(name.lower().encode(), value.encode()) for name, value in scope.headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/judge", "headers": headers}

    async def ask(stays):
        messages = [{"type": "http.request", "body": json.dumps(PAIR).encode()}]

        async def receive():
            if messages:
                return messages.pop()
            await asyncio.sleep(60 if stays else 0)
            return {"type": "http.disconnect"}

        sent = []

        async def send(message):
            sent.append(message)

        await app(dict(scope), receive, send)
        return sent[0]["status"]

    async def scenario():
        first = asyncio.create_task(ask(stays=True))
        await asyncio.to_thread(stuck.begun.wait, 20)
        await ask(stays=False)
        third = asyncio.create_task(ask(stays=True))
        stuck.go.set()
        return await first, await third

    assert asyncio.run(scenario()) == (200, 200)
    assert stuck.calls == 2


def test_a_defect_is_an_internal_error():
    class Broken:
        model = None

        def judge(self, *_):
            raise ZeroDivisionError("secret")

    response = client_of(Broken(), raising=False).post("/judge", json=PAIR)
    assert refused(response) == (500, "internal error: ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        client_of(Broken()).post("/judge", json=PAIR)


def test_unknown_paths_and_methods():
    client = client_of()
    assert refused(client.get("/nowhere"))[0] == 404
    assert refused(client.get("/judge/"))[0] == 404
    assert client.head("/health").status_code == 200
    response = client.get("/judge")
    assert refused(response)[0] == 405
    assert response.headers["allow"] == "POST"
    assert client.get("/health").json() == {
        "status": "ok",
        "model": "packaged",
        "version": humanpref.__version__,
    }


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("192.168.0.7:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_rebound_name_is_not_this_server(host, status):
    for path in ("/health", "/nowhere"):
        response = client_of().get(path, headers={"Host": host})
        expected = 404 if (status, path) == (200, "/nowhere") else status
        assert response.status_code == expected
        assert "version" not in response.json() or expected == 200


def test_an_address_that_cannot_be_had_is_refused():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127.0.0.1, port {port}: Addr"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="option --host: expected an address, got an empty"):
        listen("", 0)
    with pytest.raises(InputError, match="port 70000"):
        listen("127.0.0.1", 70000)
