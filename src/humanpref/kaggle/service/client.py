"""The Kaggle client, held to its word: answers are read, every wait is bounded, and nothing that it
prints gets out.

The installed `kaggle` does the talking. What it leaves to its caller is here: its exit codes say
nothing, so each answer is read; it waits for ever, so each call has a time limit; it repeats some
calls that may have been done already, so what changes something is sent once, and the caller finds
out (`UncertainError`) that it has to look.
"""

import base64
import contextlib
import io
import json
import logging
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanpref.files import read_json
from humanpref.kaggle.service import wire
from humanpref.kaggle.service.signin import secrets, sign_in
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

CALL_SECONDS = 180
"""At most so long for a whole call: a body that trickles never runs into the limit of one read."""
UPLOAD_SECONDS, UPLOAD_RATE = 600, 50_000
"""At most so long for the files of a dataset, and a second for every so many bytes of them."""
PIECE = 2**18
"""Bytes of a download that must come within `wire.READ_SECONDS`."""
TRIES = 6
"""How often a call that changes nothing is made before it is given up."""
LONGEST_PAUSE = 300
"""Seconds; a service that asks for more is not waited for."""

FAILED = ("ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED")
"""The states of a kernel's run that end it without success."""


class ServiceError(InputError):
    """Kaggle did not do what it was asked for. `seconds`: after so many it wants to be asked again,
    where it said so."""

    seconds = 0.0


class RefusedError(ServiceError):
    """Kaggle said no: nothing was done, and asking again is of no use."""


class NotThereError(RefusedError):
    """What was asked for does not exist, or is not this user's: Kaggle does not tell one from the
    other."""


class SignInError(RefusedError):
    """Kaggle does not know the credentials: no call will do any better."""


class BusyError(ServiceError):
    """Kaggle asked to come back later: nothing was done."""


class UncertainError(ServiceError):
    """No answer, or an answer that says nothing: what was asked for may have been done or not."""


class NoAnswerError(UncertainError):
    """Kaggle cannot be reached, or answers nothing."""


@dataclass(frozen=True)
class Kernel:
    """What the service has of a kernel: its current version."""

    version: int
    source: str
    sources: frozenset[str]
    """The datasets, competitions, kernels and models that it mounts."""


@dataclass(frozen=True)
class Saved:
    """The answer to a kernel's push: its version, and the sources that Kaggle left out."""

    ref: str
    version: int
    invalid: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """One submission: `status` is PENDING, COMPLETE or ERROR."""

    ref: int
    description: str
    status: str
    public_score: str
    error: str


def pause_after(attempt: int, error: ServiceError) -> float:
    """Seconds to wait after the failure of try `attempt`, from 0; raises the error itself where
    there is to be no other try."""
    pause = max(2.0**attempt, error.seconds)
    if attempt == TRIES - 1 or pause > LONGEST_PAUSE:
        raise error from None
    return pause


class Client:
    """Kaggle's service as the user whose credentials are in place. Works in the main thread only
    (it uses the alarm signal).

    Raises
    ------
    InputError
        If the client is not installed, or there is no sign-in that works.
    """

    def __init__(self) -> None:
        with wire.guarded(CALL_SECONDS):
            self._api, self._way = sign_in()
        # With this argument the client prints every request, the credentials among the headers.
        self._api.args = [
            argument for argument in self._api.args if argument not in ("--verbose", "-v")
        ]
        values = self._api.config_values
        self.user: str = values.get("username", "")
        self._secrets = secrets(self._api)
        if "key" in values:
            self._secrets.append(base64.b64encode(f"{self.user}:{values['key']}".encode()).decode())
        self._sdk = self._api.build_kaggle_client()

    def clean(self, text: object) -> str:
        """The text in one line, not too long, and without the credentials, should a service have
        repeated them."""
        line = " ".join(str(text).split())
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line if len(line) <= 500 else f"{line[:497]}..."

    def refuse_secrets(self, path: Path) -> None:
        """Raise InputError if the file holds this user's credentials; only files that a person may
        have written are read."""
        if path.stat().st_size < 2**20:
            content = path.read_bytes()
            if any(secret.encode() in content for secret in self._secrets):
                raise InputError(
                    f"{path}: holds your Kaggle key; take it out before anything is uploaded"
                )

    # Datasets

    def dataset_status(self, ref: str) -> str | None:
        """READY, FAILED, or a step on the way there; None where there is no such dataset."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

        owner, slug = ref.split("/")
        request = _request(ApiGetDatasetStatusRequest, owner_slug=owner, dataset_slug=slug)
        with contextlib.suppress(NotThereError):
            return self._read(
                self._sdk.datasets.dataset_api_client.get_dataset_status, request, ref
            ).status.name
        return None

    def dataset_version(self, ref: str) -> int | None:
        """The number of the dataset's current version; None where the service does not tell."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        owner, slug = ref.split("/")
        request = _request(ApiGetDatasetRequest, owner_slug=owner, dataset_slug=slug)
        try:
            answer = self._read(self._sdk.datasets.dataset_api_client.get_dataset, request, ref)
            return answer.current_version_number or None
        except SignInError:
            raise
        except RefusedError:
            return None

    def dataset_file(self, ref: str, name: str) -> bytes | None:
        """The content of a small file in the dataset's current version; None where it is not
        there."""
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        owner, slug = ref.split("/")
        request = _request(
            ApiDownloadDatasetRequest, owner_slug=owner, dataset_slug=slug, file_name=name
        )

        def fetch(request: Any) -> bytes:
            return self._sdk.datasets.dataset_api_client.download_dataset(request).content

        with contextlib.suppress(NotThereError):
            content = self._read(fetch, request, f"{ref}: {name}")
            # Kaggle zips some files on their way out.
            with (
                contextlib.suppress(zipfile.BadZipFile),
                zipfile.ZipFile(io.BytesIO(content)) as archive,
            ):
                return archive.read(archive.namelist()[0])
            return content
        return None

    @contextlib.contextmanager
    def uploaded(
        self, folder: Path, metadata: dict[str, Any], create: bool, digest: str
    ) -> Iterator[Any]:
        """Upload a folder's files; in the block, `commit_dataset` makes a dataset or a version of
        them.

        Files that were uploaded before an interruption are not uploaded again, if the folder's
        `digest` is the same.
        """
        from kaggle.api.kaggle_api_extended import ResumableUploadContext
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType
        from kagglesdk.datasets.types.dataset_api_service import (
            ApiCreateDatasetRequest,
            ApiCreateDatasetVersionRequest,
            ApiCreateDatasetVersionRequestBody,
        )

        owner, slug = metadata["id"].split("/")
        texts = {"subtitle": metadata.get("subtitle"), "description": metadata.get("description")}
        keywords = metadata.get("keywords", [])
        if create:
            request = body = _request(
                ApiCreateDatasetRequest,
                owner_slug=owner,
                slug=slug,
                title=metadata["title"],
                license_name=metadata["licenses"][0]["name"],
                is_private=True,
                category_ids=keywords,
                files=[],
                **texts,
            )
        else:
            body = _request(
                ApiCreateDatasetVersionRequestBody,
                version_notes=digest,
                category_ids=keywords,
                files=[],
                **texts,
            )
            request = _request(
                ApiCreateDatasetVersionRequest, owner_slug=owner, dataset_slug=slug, body=body
            )
        context = ResumableUploadContext()
        # The client takes a file of the same path, size and time for the same file: one place for
        # each content.
        context._temp_dir = os.path.join(context._temp_dir, digest)
        refused = None
        with context:

            def upload(_: Any) -> None:
                quiet = not sys.stderr.isatty()
                # Some clients leave a file that could not be uploaded out and say nothing, others
                # end with a ValueError.
                with contextlib.suppress(ValueError):
                    self._api.upload_files(
                        body, None, str(folder), ApiBlobType.DATASET, context, quiet, "zip"
                    )
                expected = sum(path.name != "dataset-metadata.json" for path in folder.iterdir())
                done = sum(bool(file.token) for file in body.files)
                if done != expected:
                    raise UncertainError(
                        f"{metadata['id']}: {done} of {expected} files could be uploaded; the same "
                        "command goes on"
                    )

            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            try:
                self._call(upload, None, metadata["id"], UPLOAD_SECONDS + size // UPLOAD_RATE)
            except ServiceError:
                # An upload that the service forgot, or whose address it never gave, would be gone
                # on with for six days.
                for file in context._file_uploads:
                    if not file.get_token():
                        file.cleanup()
                raise
            try:
                yield request
            except RefusedError as error:
                # The block ends well for the client, so that it forgets these uploads: they may be
                # what is refused.
                refused = error
        if refused is not None:
            raise refused

    def commit_dataset(self, request: Any, ref: str) -> None:
        """Make a dataset, or a version of one, from uploaded files. Sent once."""
        datasets = self._sdk.datasets.dataset_api_client
        method = (
            datasets.create_dataset
            if hasattr(request, "license_name")
            else datasets.create_dataset_version
        )
        answer = self._call(method, request, ref)
        if answer.error or (answer.status or "").lower() not in ("", "ok"):
            raise RefusedError(
                f"{ref}: Kaggle did not take the dataset: "
                f"{self._reason(answer.error or answer.status)}"
            )
        if not (answer.status or answer.ref or answer.url):
            raise UncertainError(f"{ref}: Kaggle's answer does not say whether it took the dataset")

    # Kernels

    def save_kernel(self, folder: Path) -> Saved:
        """Push a staged kernel, which starts its run. Sent once."""
        ref = read_json(folder / "kernel-metadata.json")["id"]
        answer = self._call(lambda _: self._api.kernels_push(str(folder)), None, ref)
        if answer.error:
            raise RefusedError(
                f"{ref}: Kaggle did not take the kernel: {self._reason(answer.error)}"
            )
        if not (answer.ref and answer.version_number):
            raise UncertainError(f"{ref}: Kaggle's answer does not say what it saved")
        invalid = [
            f"{kind} {source}"
            for kind in ("dataset", "competition", "kernel", "model")
            for source in getattr(answer, f"invalid_{kind}_sources") or ()
        ]
        return Saved("/".join(answer.ref.split("/")[-2:]), answer.version_number, tuple(invalid))

    def kernel(self, ref: str) -> Kernel | None:
        """The kernel's current version; None where there is no such kernel."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        owner, slug = ref.split("/")
        request = _request(ApiGetKernelRequest, user_name=owner, kernel_slug=slug)
        with contextlib.suppress(NotThereError):
            answer = self._read(self._sdk.kernels.kernels_api_client.get_kernel, request, ref)
            found = answer.metadata
            kinds = (
                found.dataset_data_sources,
                found.competition_data_sources,
                found.kernel_data_sources,
            )
            sources = {
                source for kind in (*kinds, found.model_data_sources) for source in kind or ()
            }
            return Kernel(
                found.current_version_number or 0, answer.blob.source or "", frozenset(sources)
            )
        return None

    def run_status(self, ref: str) -> tuple[str, str]:
        """The state of the kernel's latest run (QUEUED, RUNNING, COMPLETE, ERROR, …), and what
        Kaggle says of a failure."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        owner, slug = ref.split("/")
        request = _request(ApiGetKernelSessionStatusRequest, user_name=owner, kernel_slug=slug)
        answer = self._read(
            self._sdk.kernels.kernels_api_client.get_kernel_session_status, request, ref
        )
        return answer.status.name, self.clean(answer.failure_message or "")

    def run_output(self, ref: str) -> tuple[list[tuple[str, str]], str]:
        """Names and addresses of the files that the kernel's latest run left, and its log as
        text."""
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        owner, slug = ref.split("/")
        files, log, token = [], "", ""
        while True:
            page = _request(
                ApiListKernelSessionOutputRequest, user_name=owner, kernel_slug=slug, page_size=100
            )
            if token:
                page.page_token = token
            answer = self._read(
                self._sdk.kernels.kernels_api_client.list_kernel_session_output, page, ref
            )
            files += [(file.file_name, file.url) for file in answer.files or ()]
            log = log or _log_text(answer.log or "")
            if not answer.next_page_token or answer.next_page_token == token:
                return files, log
            token = answer.next_page_token

    # Competitions

    def submit(
        self, competition: str, kernel: str, version: int, file: str, description: str
    ) -> tuple[int, str]:
        """Submit a kernel's version; give the submission's number, 0 where there is none, and
        Kaggle's words. Sent once."""
        from kagglesdk.competitions.types.competition_api_service import (
            ApiCreateCodeSubmissionRequest,
        )

        owner, slug = kernel.split("/")
        request = _request(
            ApiCreateCodeSubmissionRequest,
            competition_name=competition,
            kernel_owner=owner,
            kernel_slug=slug,
            kernel_version=version,
            file_name=file,
            submission_description=description,
        )
        answer = self._call(
            self._sdk.competitions.competition_api_client.create_code_submission,
            request,
            f"{kernel} version {version}",
        )
        if not (answer.ref or answer.message):
            raise UncertainError(
                f"{kernel} version {version}: Kaggle's answer does not say whether it was submitted"
            )
        return answer.ref, self.clean(answer.message)

    def submission(self, ref: int) -> Submission:
        """One submission by its number."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

        request = _request(ApiGetSubmissionRequest, ref=ref)
        method = self._sdk.competitions.competition_api_client.get_submission
        return self._submission(self._read(method, request, f"submission {ref}"))

    def submissions(self, competition: str) -> Iterator[Submission]:
        """All submissions of the user's team, the newest first."""
        from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

        token = ""
        while True:
            page = _request(ApiListSubmissionsRequest, competition_name=competition, page_size=100)
            if token:
                page.page_token = token
            answer = self._read(
                self._sdk.competitions.competition_api_client.list_submissions, page, competition
            )
            yield from map(self._submission, answer.submissions or ())
            if not answer.next_page_token or answer.next_page_token == token:
                return
            token = answer.next_page_token

    def submissions_left(self, competition: str) -> int | None:
        """How many submissions Kaggle would still take today; None where it does not tell."""
        from kagglesdk.competitions.types.competition_api_service import (
            ApiGetSubmissionLimitsRequest,
        )

        request = _request(ApiGetSubmissionLimitsRequest, competition_name=competition)
        method = self._sdk.competitions.competition_api_client.get_submission_limits
        answer = self._told(method, request, competition)
        return None if answer is None else answer.num_allowed_now

    def gpu_hours(self) -> tuple[float, float] | None:
        """Hours of GPU used and allowed this week; None where Kaggle does not tell."""
        from kagglesdk.kernels.types.kernels_api_service import (
            ApiGetAcceleratorQuotaStatisticsRequest,
        )

        method = self._sdk.kernels.kernels_api_client.get_accelerator_quota_statistics
        answer = self._told(method, ApiGetAcceleratorQuotaStatisticsRequest(), "GPU quota")
        quota = answer and answer.gpu_quota
        if quota is None or quota.time_used is None or quota.total_time_allowed is None:
            return None
        return (
            quota.time_used.total_seconds() / 3600,
            quota.total_time_allowed.total_seconds() / 3600,
        )

    # Downloads

    def download_competition(self, competition: str, path: Path) -> None:
        """Fetch the zip with all of the competition's files."""
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        request = _request(ApiDownloadDataFilesRequest, competition_name=competition)
        method = self._sdk.competitions.competition_api_client.download_data_files
        self._download(lambda: method(request), competition, path)

    def download(self, url: str, path: Path) -> None:
        """Fetch a file from the address that Kaggle gave for it; no credentials are sent there."""
        import requests

        def get() -> Any:
            response = requests.get(url, stream=True)
            response.raise_for_status()
            return response

        self._download(get, path.name, path)

    def _download(self, start: Callable[[], Any], what: str, path: Path) -> None:
        def fetch() -> None:
            response = self._call(lambda _: start(), None, what)
            pieces = response.iter_content(PIECE)
            with open(path, "wb") as file:
                while piece := self._call(
                    lambda _: next(pieces, b""), None, what, wire.READ_SECONDS
                ):
                    file.write(piece)

        self._retry(fetch)

    # One call

    def _told(self, method: Callable[[Any], Any], request: Any, what: str) -> Any | None:
        """The answer to a call that can be done without; None where Kaggle does not tell."""

        def ask() -> Any | None:
            try:
                return self._call(method, request, what)
            except (NoAnswerError, SignInError):
                raise
            except ServiceError:
                return None

        return self._retry(ask)

    def _read(self, method: Callable[[Any], Any], request: Any, what: str) -> Any:
        """A call that changes nothing, and so may be made again."""
        return self._retry(lambda: self._call(method, request, what))

    def _retry(self, call: Callable[[], Any]) -> Any:
        for attempt in range(TRIES):
            try:
                return call()
            except (BusyError, UncertainError) as error:
                pause = pause_after(attempt, error)
                logger.info("%s; again in %.0f seconds", error, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _call(
        self, method: Callable[[Any], Any], request: Any, what: str, seconds: float | None = None
    ) -> Any:
        """Make a call once, and say in our words what became of it: refused is only what was not
        sent, or what Kaggle says."""
        import requests

        try:
            with wire.guarded(seconds or CALL_SECONDS) as went:
                return method(request)
        except InputError:
            raise
        except requests.exceptions.HTTPError as error:
            raise self._judged(error.response, what, error) from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise NoAnswerError(
                f"{what}: no answer from Kaggle ({type(error).__name__}: {self.clean(error)})"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if not went.used:
                raise RefusedError(
                    f"{what}: the client does not send this: {self.clean(error)}"
                ) from None
            if went.response is not None and went.response.status_code >= 400:
                raise self._judged(went.response, what, error) from None
            # What the client's own reading of an answer ends in, if the answer is not what it
            # expects.
            raise UncertainError(
                f"{what}: Kaggle's answer cannot be read ({type(error).__name__}: "
                f"{self.clean(error)})"
            ) from None

    def _judged(self, response: Any, what: str, error: Exception) -> ServiceError:
        """What an HTTP error means for whoever asked."""
        from urllib3.exceptions import InvalidHeader
        from urllib3.util import Retry

        content, body = b"", None
        with contextlib.suppress(OSError, ValueError):
            content = response.content
            body = json.loads(content)
        readable = isinstance(body, dict)
        if readable and isinstance(body.get("error"), dict):
            body = body["error"]
        code = response.status_code
        with contextlib.suppress(ValueError, TypeError):
            # The client takes the code in the body for the error, whatever the status is.
            code = int(body.get("code", code)) if readable else code
        text = f"{what}: {(readable and self._reason(body)) or self.clean(error)} (HTTP {code})"
        if code == 401:
            return SignInError(f"{text}: Kaggle does not know these credentials ({self._way})")
        if code < 500 and code not in (408, 409, 429):
            if not readable and content:
                # A page, from whatever stands between.
                return UncertainError(text)
            return NotThereError(text) if code in (403, 404) else RefusedError(text)
        judged = (BusyError if code == 429 else UncertainError)(text)
        with contextlib.suppress(KeyError, ValueError, InvalidHeader):
            judged.seconds = Retry().parse_retry_after(response.headers["Retry-After"])
        return judged

    def _reason(self, error: Any) -> str:
        """The words of an error, which Kaggle gives as text or as an object."""
        return self.clean(
            error.get("message") or error.get("error") or "" if isinstance(error, dict) else error
        )

    def _submission(self, answer: Any) -> Submission:
        texts = (answer.description, answer.public_score, answer.error_description)
        description, score, error = (self.clean(text or "") for text in texts)
        return Submission(answer.ref, description, answer.status.name, score, error)


def _request(kind: Callable[[], Any], **values: Any) -> Any:
    request = kind()
    for name, value in values.items():
        if value is not None:
            setattr(request, name, value)
    return request


def _log_text(log: str) -> str:
    """A kernel's log as it was printed: Kaggle keeps it as a JSON list of pieces."""
    try:
        return "".join(piece["data"] for piece in json.loads(log))
    except (ValueError, TypeError, KeyError):
        return log
