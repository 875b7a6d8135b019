"""`humanpref serve`: a real server, and clients that mean it no good."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("starlette", reason="needs humanpref[serve]")
pytest.importorskip("uvicorn", reason="needs humanpref[serve]")

import humanpref
from humanpref.extras import install_line

JSON = {"Content-Type": "application/json"}


class Server:
    """A server process on a free port of this machine."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "humanpref.cli", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.line = self.process.stdout.readline()
        assert self.line, self.process.stderr.read()
        self.port = int(self.line.split(": a page")[0].rpartition(":")[2])

    def ask(self, method, path, body=None, headers=JSON):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def raw(self, content):
        """Send bytes and nothing more; return the answer and the seconds until the end of it."""
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(content)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return answer, time.monotonic() - started

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


def pair(number):
    return {"prompt": "Why?", "response_a": "So. " * (1 + number), "response_b": "Because. " * 9}


@pytest.mark.slow
def test_two_hundred_requests_at_once_lose_nothing(server):
    def ask(number):
        content = pair(number) if number % 2 else [pair(number), pair(number + 1)]
        return server.ask("POST", "/judge", json.dumps(content))

    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(ask, range(200)))
    judge = humanpref.load()
    expected = [judge.judge(*pair(number).values()).p_a for number in range(201)]
    assert len(set(expected)) > 20
    for number, (status, content) in enumerate(answers):
        own = [content] if number % 2 else content
        assert status == 200
        assert [each["p_a"] for each in own] == expected[number : number + len(own)]


@pytest.mark.slow
def test_hostile_clients_get_an_answer_and_leave_the_server_alive(server):
    start = b"POST /judge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with ThreadPoolExecutor(9) as threads:
        # Headers that never end, a connection that says nothing, and a body that stops halfway.
        slow = [
            threads.submit(server.raw, content)
            for content in (start, b"", start + b"Content-Length: 500\r\n\r\n{")
        ]
        assert server.ask("POST", "/judge", b" " * 10_000_000)[0] == 413
        assert server.ask("POST", "/judge", iter([b" " * 1_000_000] * 10))[0] == 413
        # What is refused for another reason is read first, so that the client hears why.
        for method, path, headers, status in (
            ("POST", "/judge", {"Content-Type": "text/plain"}, 415),
            ("POST", "/judge", JSON | {"Host": "evil.example"}, 421),
            ("POST", "/nowhere", JSON, 404),
            ("PUT", "/judge", JSON, 405),
        ):
            assert server.ask(method, path, b" " * 4_000_000, headers)[0] == status
        assert server.ask("POST", "/judge", b'{"prompt": ')[0] == 400
        assert server.ask("POST", "/judge", b"[" * 1_000_000)[0] == 400
        assert server.ask("GET", "/etc/passwd")[0] == 404
        assert server.ask("GET", "/health", headers={"Host": "evil.example"})[0] == 421
        answer, _ = server.raw(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        # While the slow ones wait, others are served.
        assert not any(each.done() for each in slow)
        assert server.ask("POST", "/judge", json.dumps(pair(3)))[0] == 200
        (headers, first), (nothing, second), (half, third) = (each.result() for each in slow)
    assert headers == nothing == b""
    assert half.startswith(b"HTTP/1.1 408")
    assert all(9 < seconds < 30 for seconds in (first, second, third))
    assert server.ask("POST", "/judge", json.dumps(pair(3)))[0] == 200
    assert server.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_running_requests(number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("this process, and so its children, ignores the signal, as in the background")
    server = Server()
    try:
        content = json.dumps([pair(3500) | {"prompt": ""}] * 250)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(server.ask, "POST", "/judge", content)
            time.sleep(0.3)  # it has arrived, or waits to be accepted
            assert not running.done()
            code, _, err = server.end(number)
            status, answers = running.result()
        assert (status, len(answers)) == (200, 250)
        assert code in (-number, 128 + number)
        # No line for each request.
        assert set(err.splitlines()) <= {"humanpref: interrupted", "humanpref: stopped by SIGTERM"}
    finally:
        server.process.kill()


@pytest.mark.parametrize(
    ("host", "warns"), [("127.0.0.1", False), ("LOCALHOST", False), ("0.0.0.0", True)]
)
def test_another_host_than_loopback_is_warned_about(run, monkeypatch, caplog, host, warns):
    served = []
    monkeypatch.setattr(
        "humanpref.interfaces.serve.serve", lambda socket, app: served.append((socket, app))
    )
    with caplog.at_level("WARNING"):
        code, out, _ = run("serve", "--host", host, "--port", "0")
    assert (code, len(served)) == (0, 1)
    assert out.startswith(f"http://{host}:")
    assert ("other machines may reach" in caplog.text) is warns


def test_what_cannot_be_served_is_refused_in_one_line(run):
    for arguments, message in (
        (("nowhere",), "nowhere"),
        (("--port", "70000"), "port 70000"),
        (("--host", "no such host"), "cannot listen on no such host"),
        (("--host", ""), "option --host: expected an address"),
    ):
        code, out, err = run("serve", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_missing_libraries_are_named(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "humanpref.interfaces.serve", raising=False)
    monkeypatch.delattr("humanpref.interfaces.serve", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = run("serve")
    assert (code, err) == (2, f"humanpref: serve needs uvicorn: {install_line('serve')}\n")
