"""A stand-in for Kaggle's service on the loopback address, and the real client pointed at it.

The service keeps what it was sent (datasets, kernels) and answers as Kaggle is reported to answer, as far as the tests need
it. It speaks HTTP and knows nothing of our package. The client is the installed `kaggle`, always in a subprocess: importing it
reads credentials and makes a folder, which must not happen in the test process.

To add a call, write a method `(Request) -> Reply` and name it in `Service.answers`. To misbehave, `Service.queue` replies to be
given in place of the next answers, or put a function of your own into `answers` (it may sleep; `None` drops the connection).
"""

import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

API = "/api/v1/"
UPLOAD = "/upload/"

USER = "some-user"
KEY = "0123456789abcdef-not-a-real-key"

CLIENT_TIMEOUT = 60
"""Seconds after which a client that hangs is killed; it takes about one."""


@dataclass(frozen=True)
class Request:
    """One request as it came over the wire."""

    method: str
    target: str
    """The request line's target: a whole URL where the client went through the proxy."""
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def path(self) -> str:
        return urllib.parse.urlsplit(self.target).path

    @property
    def call(self) -> str:
        """`Service/Method` without the service's package, or `METHOD path` for what is no call of the API."""
        return self.path.rpartition(".")[2] if self.path.startswith(API) else f"{self.method} {self.path}"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What to answer: a status, and a JSON value or nothing."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, message: str) -> Reply:
    """An error as Kaggle words it: the status again in the body, where the client looks for it."""
    return Reply({"code": status, "message": message}, status)


Answer = Callable[[Request], Reply | None]


class Service:
    """The service, from `with Service() as service:` to the end of the block.

    Attributes
    ----------
    requests : list of Request
        All that came, in order, also what was refused.
    answers : dict of str to Answer
        What to do on each call (`KernelsApiService/SaveKernel`, …).
    datasets : dict of str to dict of str to bytes
        The files of each dataset by name, by `owner/slug`.
    kernels : dict of str to list of dict
        The bodies of each kernel's versions, by `owner/slug`.
    """

    def __init__(self, competitions: tuple[str, ...] = ()) -> None:
        self.competitions = competitions
        self.requests: list[Request] = []
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.kernels: dict[str, list[dict[str, Any]]] = {}
        self.answers: dict[str, Answer] = {
            "DatasetApiService/GetDatasetStatus": self._dataset_status,
            "DatasetApiService/CreateDataset": self._create_dataset,
            "BlobApiService/StartBlobUpload": self._start_upload,
            "KernelsApiService/SaveKernel": self._save_kernel,
        }
        self._queued: defaultdict[str, deque[Reply | None]] = defaultdict(deque)
        self._names: dict[str, str] = {}
        self._uploads: dict[str, bytes] = {}
        # One answer at a time: the answers share the state above.
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Service":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def queue(self, call: str, *replies: Reply | None) -> None:
        """Give these replies to the next requests of `call`, before its usual answer; None drops the connection."""
        self._queued[call].extend(replies)

    def received(self, call: str) -> list[Request]:
        """The requests of one call, in order."""
        return [request for request in self.requests if request.call == call]

    def answer(self, request: Request) -> Reply | None:
        with self._lock:
            self.requests.append(request)
            if self._queued[request.call]:
                return self._queued[request.call].popleft()
            if request.method == "PUT" and request.path.startswith(UPLOAD):
                return self._upload(request)
            if request.method != "POST" or not request.path.startswith(API):
                return refusal(403, f"this is no way to the service: {request.method} {request.target}")
            if not request.headers.get("authorization", "").startswith(("Basic ", "Bearer ")):
                return refusal(401, "Unauthenticated")
            if request.call not in self.answers:
                return refusal(501, f"the loopback service does not know {request.call}")
            return self.answers[request.call](request)

    def _dataset_status(self, request: Request) -> Reply:
        if "{ownerSlug}/{datasetSlug}".format(**request.json) not in self.datasets:
            return refusal(404, "Not found")
        return Reply({"status": "READY"})

    def _start_upload(self, request: Request) -> Reply:
        token = f"token-{len(self._names) + 1}"
        self._names[token] = request.json["name"]
        return Reply({"token": token, "createUrl": f"{self.url}{UPLOAD}{token}"})

    def _upload(self, request: Request) -> Reply:
        token = request.path.removeprefix(UPLOAD)
        if token not in self._names:
            return refusal(404, f"no upload has the token {token!r}")
        self._uploads[token] = request.body
        return Reply()

    def _create_dataset(self, request: Request) -> Reply:
        body = request.json
        name = "{ownerSlug}/{slug}".format(**body)
        tokens = [file["token"] for file in body.get("files", [])]
        if name in self.datasets or not set(tokens) <= set(self._uploads):
            return Reply({"status": "error", "error": f"{name} is in use, or not all of {tokens} were uploaded"})
        self.datasets[name] = {self._names[token]: self._uploads[token] for token in tokens}
        return Reply({"status": "ok", "ref": name, "url": f"http://localhost/datasets/{name}"})

    def _save_kernel(self, request: Request) -> Reply:
        body = request.json
        versions = self.kernels.setdefault(body["slug"], [])
        versions.append(body)
        # Kaggle saves a kernel whose sources are wrong, without them, and says so in the response alone.
        known = {
            "DatasetSources": ("datasetDataSources", self.datasets),
            "CompetitionSources": ("competitionDataSources", self.competitions),
            "KernelSources": ("kernelDataSources", self.kernels),
        }
        invalid = {
            f"invalid{name}": [source for source in body.get(key, []) if source not in sources]
            for name, (key, sources) in known.items()
        }
        return Reply(
            {
                "ref": f"/code/{body['slug']}",
                "url": f"http://localhost/code/{body['slug']}",
                "versionNumber": len(versions),
                "kernelId": 1 + list(self.kernels).index(body["slug"]),
                **invalid,
            }
        )


def client_environment(service: Service, home: Path) -> dict[str, str]:
    """The whole environment of a client that can reach `service` and nothing else.

    Parameters
    ----------
    service : Service
        The running service.
    home : Path
        A folder for all that the client keeps: configuration, interrupted uploads.
    """
    for folder in (home / "config", home / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    # Built up from nothing: a credential, a proxy or a no_proxy of the person who runs the tests must not get in.
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "KAGGLE_CONFIG_DIR": str(home / "config"),
        "KAGGLE_USERNAME": USER,
        "KAGGLE_KEY": KEY,
        # The client's own way to http://localhost:80; the proxy takes it to a port that needs no privilege.
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": service.url,
        # So that a client that tries the real service, over TLS, is seen to try (as a CONNECT, which is refused).
        "https_proxy": service.url,
    }


def run_client(service: Service, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `kaggle ARGUMENTS` against the service."""
    return _python(service, home, "-m", "kaggle", *arguments)


def run_client_script(service: Service, home: Path, script: str, *arguments: str) -> str:
    """Run Python code that uses the client's `KaggleApi`, which must exit with 0, and return its standard output."""
    finished = _python(service, home, "-c", script, *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def _python(service: Service, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = client_environment(service, home)
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT,
        check=False,
    )


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Ends the thread of a client that was killed in the middle of a request.
        timeout = CLIENT_TIMEOUT

        def _serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = service.answer(Request(self.command, self.path, headers, self._body()))
            if reply is None:
                self.close_connection = True
                return
            content = b"" if reply.value is None else json.dumps(reply.value).encode()
            self.send_response(reply.status)
            if content:
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_CONNECT = do_GET = do_POST = do_PUT = _serve  # noqa: N815 (http.server looks for these names)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            # An empty file comes so: the client's HTTP library takes a length of 0 for an unknown one.
            chunks = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(chunks)

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the requests out of the test's output; `Service.requests` has them."""

    return Handler
