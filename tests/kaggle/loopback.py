"""A stand-in for Kaggle's service on the loopback address, and the real client pointed at it.

The service keeps what it was sent (datasets and kernels with their versions and runs, submissions)
and answers as Kaggle is reported to answer, as far as the tests need it. It speaks HTTP and knows
nothing of our package. The client is the installed `kaggle`, always in a subprocess: importing it
reads credentials and makes a folder, which must not happen in the test process.

To add a call, write a method `(Request) -> Reply` and name it in `Service.answers`. To misbehave,
`Service.queue` replies to be given in place of the next answers (`None` drops the connection), or
faults: functions that get the request and the usual answer, such as `lost`, `slow` and
`half_an_upload`. `Service.watch` sees every request before and after it is dealt with.
"""

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

API = "/api/v1/"
UPLOAD = "/upload/"
FILES = "/files/"
"""Where downloads are redirected to: another host than the API's, as far as the client can see."""

USER = "some-user"
KEY = "0123456789abcdef-not-a-real-key"
TOKEN, REFRESH_TOKEN = "token-not-a-real-one", "refresh-token-not-a-real-one"

_OPEN = ("OAuthService/", "AccountService/")
"""What is called to sign in."""

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
        """`Service/Method` without the service's package, or `METHOD path` for what is no call of
        the API."""
        return (
            self.path.rpartition(".")[2]
            if self.path.startswith(API)
            else f"{self.method} {self.path}"
        )

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What to answer: a status, and a JSON value, a file's bytes, or nothing."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    """Seconds between two pieces of the body, which then comes in twenty."""

    @property
    def content(self) -> bytes:
        if isinstance(self.value, bytes):
            return self.value
        return b"" if self.value is None else json.dumps(self.value).encode()


def refusal(status: int, message: str) -> Reply:
    """An error as Kaggle words it: the status again in the body, where the client looks for it."""
    return Reply({"code": status, "message": message}, status)


Answer = Callable[[Request], Reply | None]
Fault = Callable[[Request, Answer], Reply | None]


def lost(request: Request, usual: Answer) -> None:
    """Do what is asked for, and drop the connection before the answer."""
    usual(request)


def garbled(value: Any) -> Fault:
    """Do what is asked for, and answer something else."""

    def answer(request: Request, usual: Answer) -> Reply:
        usual(request)
        return Reply(value)

    return answer


def slow(pause: float) -> Fault:
    """The usual answer, its body in twenty pieces with so many seconds between them."""
    return lambda request, usual: replace(usual(request), pause=pause)


def half_an_upload(request: Request, usual: Answer) -> Reply:
    """Take the first half of an upload, and be unavailable for the rest."""
    usual(replace(request, body=request.body[: len(request.body) // 2]))
    return Reply(status=503)


class Service:
    """The service, from `with Service() as service:` to the end of the block.

    Attributes
    ----------
    requests : list of Request
        All that came, in order, also what was refused.
    answers : dict of str to Answer
        What to do on each call (`KernelsApiService/SaveKernel`, …).
    watch : callable
        Gets each request and whether it was dealt with yet; in the second case the answer was not
        sent.
    datasets : dict of str to dict of str to bytes
        The files of each dataset's readable version by name, by `owner/slug`.
    versions : dict of str to list of dict of str to bytes
        All versions of each dataset; the last may not be readable yet.
    processing : int
        How many questions for the status a new version takes until it can be read. Those that come
        before are told of the version before: Kaggle says that a dataset is ready, and means the
        old one.
    kernels : dict of str to list of dict
        The bodies of each kernel's versions, by `owner/slug`.
    next_run : list of str
        The states that the runs of kernels pushed from now on go through, one a question.
    outputs, log, failure
        What a run leaves, by name, or a function that makes it of the code that ran; prints; and is
        said to have failed of.
    untold : bool
        Do not tell the number of a dataset's version.
    competitions, models : tuple of str
        What the service has.
    data : dict of str to bytes or None
        The competition's files; None: its rules are not accepted.
    submissions : list of dict
        All, the oldest first.
    submissions_left : int
        Submissions that are still taken.
    """

    def __init__(self, competitions: tuple[str, ...] = ()) -> None:
        self.competitions = competitions
        self.models: tuple[str, ...] = ()
        self.requests: list[Request] = []
        self.watch: Callable[[Request, bool], None] = lambda request, done: None
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.versions: dict[str, list[dict[str, bytes]]] = {}
        self.processing = 0
        self.kernels: dict[str, list[dict[str, Any]]] = {}
        self.next_run = ["QUEUED", "RUNNING", "COMPLETE"]
        self.outputs: dict[str, bytes | Callable[[str], bytes]] = {}
        self.untold = False
        self.log = ""
        self.failure = ""
        self.data: dict[str, bytes] | None = {}
        self.submissions: list[dict[str, Any]] = []
        self.submissions_left = 5
        self.score = ["PENDING", "COMPLETE"]
        self.answers: dict[str, Answer] = {
            "DatasetApiService/GetDatasetStatus": self._dataset_status,
            "DatasetApiService/GetDataset": self._dataset,
            "DatasetApiService/DownloadDataset": self._dataset_file,
            "DatasetApiService/CreateDataset": self._create_dataset,
            "DatasetApiService/CreateDatasetVersion": self._create_dataset_version,
            "BlobApiService/StartBlobUpload": self._start_upload,
            "KernelsApiService/SaveKernel": self._save_kernel,
            "KernelsApiService/GetKernel": self._kernel,
            "KernelsApiService/GetKernelSessionStatus": self._run_status,
            "KernelsApiService/ListKernelSessionOutput": self._run_output,
            "KernelsApiService/GetAcceleratorQuotaStatistics": self._quota,
            "CompetitionApiService/DownloadDataFiles": self._competition_files,
            "CompetitionApiService/CreateCodeSubmission": self._submit,
            "CompetitionApiService/GetSubmission": self._submission,
            "CompetitionApiService/ListSubmissions": self._list_submissions,
            "CompetitionApiService/GetSubmissionLimits": self._limits,
            "OAuthService/IntrospectToken": self._introspect,
            "AccountService/GenerateAccessToken": self._refresh,
        }
        self._queued: defaultdict[str, deque[Reply | Fault | None]] = defaultdict(deque)
        self._names: dict[str, str] = {}
        self._lengths: dict[str, int] = {}
        self._uploads: dict[str, bytes] = {}
        self._unready: dict[str, int] = {}
        self._runs: dict[str, list[str]] = {}
        self.files: dict[str, bytes] = {}
        # One answer at a time: the answers share the state above.
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Service":
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def queue(self, call: str, *replies: Reply | Fault | None) -> None:
        """Give these replies to the next requests of `call`, before its usual answer; None drops
        the connection."""
        self._queued[call].extend(replies)

    def received(self, call: str) -> list[Request]:
        """The requests of one call, in order."""
        return [request for request in self.requests if request.call == call]

    def answer(self, request: Request) -> Reply | None:
        with self._lock:
            self.requests.append(request)
            self.watch(request, False)
            try:
                if not self._queued[request.call]:
                    return self._usual(request)
                reply = self._queued[request.call].popleft()
                return reply(request, self._usual) if callable(reply) else reply
            finally:
                self.watch(request, True)

    def _usual(self, request: Request) -> Reply | None:
        if request.method == "PUT" and request.path.startswith(UPLOAD):
            return self._upload(request)
        if request.method == "GET" and request.path in self.files:
            # A signed address: credentials have no business here.
            return (
                refusal(400, "authorized")
                if "authorization" in request.headers
                else Reply(self.files[request.path])
            )
        if request.method != "POST" or not request.path.startswith(API):
            return refusal(403, f"this is no way to the service: {request.method} {request.target}")
        key = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if not request.call.startswith(_OPEN) and request.headers.get("authorization") not in (
            f"Basic {key}",
            f"Bearer {TOKEN}",
        ):
            return refusal(401, "Unauthenticated")
        if request.call not in self.answers:
            return refusal(501, f"the loopback service does not know {request.call}")
        return self.answers[request.call](request)

    def _redirect(self, name: str, content: bytes) -> Reply:
        return Reply(status=302, headers={"Location": self._address(name, content)})

    def _address(self, name: str, content: bytes) -> str:
        path = f"{FILES}{len(self.files)}/{urllib.parse.quote(name)}"
        self.files[path] = content
        return f"{self.url}{path}"

    def _dataset_status(self, request: Request) -> Reply:
        name = "{ownerSlug}/{datasetSlug}".format(**request.json)
        if name not in self.versions:
            return refusal(404, "Not found")
        self._unready[name] -= 1
        if self._unready[name] < 0:
            self.datasets[name] = self.versions[name][-1]
        return Reply({"status": "READY" if name in self.datasets else "BLOBS_RECEIVED"})

    def _dataset(self, request: Request) -> Reply:
        name = "{ownerSlug}/{datasetSlug}".format(**request.json)
        if name not in self.versions:
            return refusal(403, "Permission 'datasets.get' was denied")
        return Reply(
            {"ref": name}
            if self.untold
            else {"ref": name, "currentVersionNumber": len(self.versions[name])}
        )

    def _dataset_file(self, request: Request) -> Reply:
        files = self.datasets.get("{ownerSlug}/{datasetSlug}".format(**request.json), {})
        name = request.json["fileName"]
        return self._redirect(name, files[name]) if name in files else refusal(404, "Not found")

    def _start_upload(self, request: Request) -> Reply:
        token = f"token-{len(self._names) + 1}"
        self._names[token] = request.json["name"]
        self._lengths[token] = request.json.get("contentLength", 0)
        return Reply({"token": token, "createUrl": f"{self.url}{UPLOAD}{token}"})

    def _upload(self, request: Request) -> Reply:
        token = request.path.removeprefix(UPLOAD)
        if token not in self._names:
            return refusal(404, f"no upload has the token {token!r}")
        span = request.headers.get("content-range", "")
        if not span:
            self._uploads[token] = b""
        if not span.startswith("bytes */"):
            self._uploads[token] += request.body
        had = len(self._uploads.get(token, b""))
        if had == self._lengths[token]:
            return Reply()
        return Reply(status=308, headers={"Range": f"bytes=0-{had - 1}"} if had else {})

    def _create_dataset(self, request: Request) -> Reply:
        body = request.json
        name = "{ownerSlug}/{slug}".format(**body)
        if name in self.versions:
            return Reply({"status": "error", "error": f"{name} is in use"})
        return self._new_version(name, body)

    def _create_dataset_version(self, request: Request) -> Reply:
        name = "{ownerSlug}/{datasetSlug}".format(**request.json)
        if name not in self.versions:
            return refusal(404, "Not found")
        return self._new_version(name, request.json["body"])

    def _new_version(self, name: str, body: dict[str, Any]) -> Reply:
        tokens = [file["token"] for file in body.get("files", [])]
        if any(len(self._uploads.get(token, b"")) != self._lengths.get(token) for token in tokens):
            return Reply({"status": "error", "error": f"not all of {tokens} were uploaded"})
        files = {self._names[token]: self._uploads[token] for token in tokens}
        self.versions.setdefault(name, []).append(files)
        self._unready[name] = self.processing
        if not self.processing:
            self.datasets[name] = files
        return Reply({"status": "ok", "ref": name, "url": f"http://localhost/datasets/{name}"})

    def _kernel_versions(self) -> Iterator[str]:
        return (
            f"{name}/{number}"
            for name, saved in self.kernels.items()
            for number in range(1, len(saved))
        )

    def _save_kernel(self, request: Request) -> Reply:
        body = request.json
        versions = self.kernels.setdefault(body["slug"], [])
        versions.append(body)
        # Kaggle saves a kernel whose sources are wrong, without them, and says so in the response
        # alone.
        self._runs[body["slug"]] = list(self.next_run)
        known = {
            "ModelSources": ("modelDataSources", self.models),
            "DatasetSources": ("datasetDataSources", self.datasets),
            "CompetitionSources": ("competitionDataSources", self.competitions),
            "KernelSources": ("kernelDataSources", {*self.kernels, *self._kernel_versions()}),
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

    def _kernel(self, request: Request) -> Reply:
        versions = self.kernels.get("{userName}/{kernelSlug}".format(**request.json))
        if not versions:
            return refusal(403, "Permission 'kernels.get' was denied")
        body, source = versions[-1], versions[-1]["text"]
        if body["kernelType"] == "notebook":
            # Kept as a value, not as text.
            source = json.dumps(json.loads(source), indent=1, sort_keys=True)
        sources = {key: value for key, value in body.items() if key.endswith("DataSources")}
        metadata = {"ref": body["slug"], "currentVersionNumber": len(versions), **sources}
        return Reply({"metadata": metadata, "blob": {"source": source}})

    def _run_status(self, request: Request) -> Reply:
        states = self._runs.get("{userName}/{kernelSlug}".format(**request.json))
        if states is None:
            return refusal(403, "Permission 'kernels.get' was denied")
        state = states.pop(0) if len(states) > 1 else states[0]
        return Reply(
            {"status": state, **({"failureMessage": self.failure} if state == "ERROR" else {})}
        )

    def _run_output(self, request: Request) -> Reply:
        # Two files a page.
        start = int(request.json.get("pageToken", 0))
        code = self.kernels["{userName}/{kernelSlug}".format(**request.json)][-1]["text"]
        left = {name: made(code) if callable(made) else made for name, made in self.outputs.items()}
        page = list(left.items())[start : start + 2]
        files = [
            {"fileName": name, "url": self._address("output", content)} for name, content in page
        ]
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(self.outputs) else {}
        pieces = [
            {"stream_name": "stdout", "time": 1.0, "data": line}
            for line in self.log.splitlines(keepends=True)
        ]
        return Reply({"files": files, "log": json.dumps(pieces), **more})

    def _quota(self, request: Request) -> Reply:
        return Reply({"gpuQuota": {"timeUsed": "9000s", "totalTimeAllowed": "108000s"}})

    def _competition_files(self, request: Request) -> Reply:
        if self.data is None or request.json["competitionName"] not in self.competitions:
            return refusal(
                403,
                "You must accept this competition's rules before you'll be able to download files.",
            )
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as files:
            for name, content in self.data.items():
                files.writestr(name, content)
        return self._redirect("all.zip", archive.getvalue())

    def _submit(self, request: Request) -> Reply:
        body = request.json
        name = "{kernelOwner}/{kernelSlug}".format(**body)
        if self._runs.get(name) != ["COMPLETE"] or body["kernelVersion"] > len(self.kernels[name]):
            return refusal(400, "Submission not allowed: the notebook's version has not run")
        if not self.submissions_left:
            return refusal(400, "Submission not allowed: your team has used its daily allowance")
        self.submissions_left -= 1
        number = 1001 + len(self.submissions)
        self.submissions.append(
            {
                "ref": number,
                "description": body["submissionDescription"],
                "fileName": body["fileName"],
                "states": list(self.score),
                "kernel": (name, body["kernelVersion"]),
            }
        )
        return Reply({"message": "Successfully submitted", "ref": number})

    def _submission(self, request: Request) -> Reply:
        for submission in self.submissions:
            if submission["ref"] == request.json["ref"]:
                if len(submission["states"]) > 1:
                    del submission["states"][0]
                return Reply(_shown(submission))
        return refusal(404, "Not found")

    def _list_submissions(self, request: Request) -> Reply:
        # Two a page.
        start = int(request.json.get("pageToken", 0))
        newest = self.submissions[::-1]
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(newest) else {}
        return Reply(
            {
                "submissions": [_shown(submission) for submission in newest[start : start + 2]],
                **more,
            }
        )

    def _introspect(self, request: Request) -> Reply:
        known = request.json.get("token") == TOKEN
        return Reply({"active": True, "username": USER} if known else {})

    def _refresh(self, request: Request) -> Reply:
        if request.json.get("refreshToken") != REFRESH_TOKEN:
            return refusal(401, "Unauthenticated")
        return Reply({"token": TOKEN, "expiresIn": 43_200})

    def _limits(self, request: Request) -> Reply:
        return Reply({"numToday": len(self.submissions), "numAllowedNow": self.submissions_left})


def _shown(submission: dict[str, Any]) -> dict[str, Any]:
    shown = {key: submission[key] for key in ("ref", "description", "fileName")}
    state = submission["states"][0]
    shown["status"] = state
    if state == "COMPLETE":
        shown["publicScore"] = "1.01234"
    elif state == "ERROR":
        shown["errorDescription"] = "Notebook Timeout"
    return shown


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
    # Built up from nothing: a credential, a proxy or a no_proxy of the person who runs the tests
    # must not get in.
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "KAGGLE_CONFIG_DIR": str(home / "config"),
        "KAGGLE_USERNAME": USER,
        "KAGGLE_KEY": KEY,
        # The client's own way to http://localhost:80; the proxy takes it to a port that needs no
        # privilege.
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": service.url,
        # So that a client that tries the real service, over TLS, is seen to try (as a CONNECT,
        # which is refused).
        "https_proxy": service.url,
    }


def run_client(service: Service, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `kaggle ARGUMENTS` against the service."""
    return _python(service, home, "-m", "kaggle", *arguments)


def run_client_script(service: Service, home: Path, script: str, *arguments: str) -> str:
    """Run Python code that uses the client's `KaggleApi`, which must exit with 0, and return its
    standard output."""
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
        # Else every answer with a body waits for the acknowledgement of its head.
        disable_nagle_algorithm = True
        # Ends the thread of a client that was killed in the middle of a request.
        timeout = CLIENT_TIMEOUT

        def _serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = service.answer(Request(self.command, self.path, headers, self._body()))
            if reply is None:
                self.close_connection = True
                return
            content = reply.content
            self.send_response(reply.status)
            if content:
                kind = "octet-stream" if isinstance(reply.value, bytes) else "json"
                self.send_header("Content-Type", f"application/{kind}")
            headers = {"Content-Length": str(len(content)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if headers["Content-Length"] != str(len(content)):
                # It promises more than comes.
                self.close_connection = True
            if not reply.pause:
                self.wfile.write(content)
                return
            piece = max(1, len(content) // 20)
            # The client may have gone.
            with contextlib.suppress(OSError):
                for start in range(0, len(content), piece):
                    time.sleep(reply.pause)
                    self.wfile.write(content[start : start + piece])

        # The names that http.server looks for.
        do_CONNECT = do_GET = do_POST = do_PUT = _serve  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            # An empty file comes so: the client's HTTP library takes a length of 0 for an unknown
            # one.
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
