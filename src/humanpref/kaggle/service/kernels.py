"""Calls about kernels: save a kernel (which starts a run), and read the run's state and output."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from humanpref.kaggle.service.client import Client, RefusedError, UncertainError

FAILED = ("ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED")
"""The states of a run that failed or was canceled."""
SOURCES = ("dataset", "competition", "kernel", "model")
"""The kinds of sources that a kernel mounts."""


@dataclass(frozen=True)
class Kernel:
    """The state of a kernel on Kaggle: its current version, its code, the sources that it mounts
    (without their versions), and the time of its last run (None if Kaggle does not report it)."""

    version: int
    code: str
    sources: frozenset[str]
    ran: datetime | None = None

    def is_older(self, other: "Kernel | None") -> bool:
        """Return whether this kernel is known to have run before the other one."""
        return bool(other and other.ran and self.ran and other.ran > self.ran)


def save_kernel(client: Client, folder: Path, ref: str) -> int:
    """Push a staged kernel without retrying, and return its version. The push starts a run.

    Raises
    ------
    RefusedError
        If Kaggle refused it, saved it under a different name, or left out some of its sources.
    """
    answer = client.run(ref, lambda: client.api.kernels_push(str(folder)))
    if answer.error:
        raise RefusedError(f"{ref}: Kaggle refused the kernel: {client.clean(answer.error)}")
    if not (answer.ref and answer.version_number):
        raise UncertainError(f"{ref}: Kaggle's answer does not name the saved version")
    saved = "/".join(answer.ref.split("/")[-2:])
    if saved != ref:
        raise RefusedError(
            f"{ref}: Kaggle derived a different kernel, {saved}, from the title; correct the title "
            "or the id"
        )
    invalid = [
        f"{kind} {source}"
        for kind in SOURCES
        for source in getattr(answer, f"invalid_{kind}_sources") or ()
    ]
    if invalid:
        raise sources_left_out(ref, answer.version_number, invalid)
    return answer.version_number


def sources_left_out(ref: str, version: int, sources: Iterable[str]) -> RefusedError:
    """Return the error for a version that Kaggle saved without some of its sources."""
    return RefusedError(
        f"{ref}: Kaggle saved version {version} without {', '.join(sources)}, which may not exist "
        "or may have terms that you have not accepted; fix that and push again"
    )


def get_kernel(client: Client, ref: str) -> Kernel | None:
    """Return the kernel's current version; None if there is no such kernel."""
    answer = client.find(ref, client.kernels.get_kernel, **_names(ref))
    if answer is None:
        return None
    metadata = answer.metadata
    named = (each for kind in SOURCES for each in getattr(metadata, f"{kind}_data_sources") or ())
    version, code = metadata.current_version_number or 0, answer.blob.source or ""
    ran = getattr(metadata, "last_run_time", None)
    return Kernel(version, code, frozenset(map(unversioned, named)), ran)


def unversioned(source: str) -> str:
    """Return `owner/slug/version` without the version, which Kaggle may or may not include.

    Examples
    --------
    >>> unversioned("ada/train/3"), unversioned("ada/train")
    ('ada/train', 'ada/train')
    """
    return re.sub(r"^([^/]+/[^/]+)/[^/]+$", r"\1", source)


def run_status(client: Client, ref: str) -> tuple[str, str]:
    """Return the state of the kernel's latest run (QUEUED, RUNNING, COMPLETE, ERROR, …) and
    Kaggle's reason for a failure (empty if it gives none)."""
    answer = client.read(ref, client.kernels.get_kernel_session_status, **_names(ref))
    return answer.status.name, client.clean(answer.failure_message or "")


def run_output(client: Client, ref: str) -> tuple[dict[str, str], str]:
    """Return the URLs of the latest run's output files by name, and its log as text."""
    files, log = {}, ""
    for page in client.pages(ref, client.kernels.list_kernel_session_output, **_names(ref)):
        files |= {file.file_name: file.url for file in page.files or ()}
        log = log or _log_text(page.log or "")
    return files, log


def download_output(client: Client, url: str, path: Path) -> None:
    """Download a file from a URL that Kaggle returned, without sending credentials."""
    import requests

    def start() -> requests.Response:
        response = requests.get(url, stream=True)
        response.raise_for_status()
        return response

    client.download(path.name, path, start)


def gpu_hours(client: Client) -> tuple[float, float] | None:
    """Return the GPU hours used and allowed this week; None if Kaggle does not say."""
    answer = client.ask("GPU quota", client.kernels.get_accelerator_quota_statistics)
    quota = answer and answer.gpu_quota
    if not quota or None in (quota.time_used, quota.total_time_allowed):
        return None
    return quota.time_used.total_seconds() / 3600, quota.total_time_allowed.total_seconds() / 3600


def _names(ref: str) -> dict[str, Any]:
    owner, slug = ref.split("/")
    return {"user_name": owner, "kernel_slug": slug}


def _log_text(log: str) -> str:
    """Return a kernel's log as plain text; Kaggle stores it as a JSON list of fragments."""
    try:
        return "".join(piece["data"] for piece in json.loads(log))
    except (ValueError, TypeError, KeyError):
        return log
