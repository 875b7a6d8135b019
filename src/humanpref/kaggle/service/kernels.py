"""The calls on Kaggle's kernels: save one, which starts its run, and what became of the run."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanpref.files import read_json
from humanpref.kaggle.service.client import Client, RefusedError, UncertainError, request

FAILED = ("ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED")
"""The states of a kernel's run that end it without success."""
SOURCES = ("dataset", "competition", "kernel", "model")
"""The kinds of sources that a kernel mounts."""


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


def save_kernel(client: Client, folder: Path) -> Saved:
    """Push a staged kernel, which starts its run. Sent once."""
    ref = read_json(folder / "kernel-metadata.json")["id"]
    answer = client.call(ref, lambda: client.api.kernels_push(str(folder)))
    if answer.error:
        raise RefusedError(f"{ref}: Kaggle did not take the kernel: {client.reason(answer.error)}")
    if not (answer.ref and answer.version_number):
        raise UncertainError(f"{ref}: Kaggle's answer does not say what it saved")
    invalid = [
        f"{kind} {source}"
        for kind in SOURCES
        for source in getattr(answer, f"invalid_{kind}_sources") or ()
    ]
    return Saved("/".join(answer.ref.split("/")[-2:]), answer.version_number, tuple(invalid))


def get_kernel(client: Client, ref: str) -> Kernel | None:
    """The kernel's current version; None where there is no such kernel."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    asked = _request(ApiGetKernelRequest, ref)
    answer = client.find(ref, client.kernels.get_kernel, asked)
    if answer is None:
        return None
    found = answer.metadata
    sources = frozenset(
        source for kind in SOURCES for source in getattr(found, f"{kind}_data_sources") or ()
    )
    return Kernel(found.current_version_number or 0, answer.blob.source or "", sources)


def run_status(client: Client, ref: str) -> tuple[str, str]:
    """The state of the kernel's latest run (QUEUED, RUNNING, COMPLETE, ERROR, …), and what Kaggle
    says of a failure."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    asked = _request(ApiGetKernelSessionStatusRequest, ref)
    answer = client.read(ref, client.kernels.get_kernel_session_status, asked)
    return answer.status.name, client.clean(answer.failure_message or "")


def run_output(client: Client, ref: str) -> tuple[list[tuple[str, str]], str]:
    """Names and addresses of the files that the kernel's latest run left, and its log as text."""
    from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

    asked = _request(ApiListKernelSessionOutputRequest, ref)
    files, log = [], ""
    method = client.kernels.list_kernel_session_output
    for answer in client.pages(ref, method, asked):
        files += [(file.file_name, file.url) for file in answer.files or ()]
        log = log or _log_text(answer.log or "")
    return files, log


def download_output(client: Client, url: str, path: Path) -> None:
    """Fetch a file from the address that Kaggle gave for it; no credentials are sent there."""
    import requests

    def start() -> Any:
        response = requests.get(url, stream=True)
        response.raise_for_status()
        return response

    client.download(path.name, path, start)


def gpu_hours(client: Client) -> tuple[float, float] | None:
    """Hours of GPU used and allowed this week; None where Kaggle does not tell."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetAcceleratorQuotaStatisticsRequest

    method = client.kernels.get_accelerator_quota_statistics
    answer = client.told("GPU quota", method, ApiGetAcceleratorQuotaStatisticsRequest())
    quota = answer and answer.gpu_quota
    if quota is None or quota.time_used is None or quota.total_time_allowed is None:
        return None
    used, allowed = quota.time_used, quota.total_time_allowed
    return used.total_seconds() / 3600, allowed.total_seconds() / 3600


def _request(kind: Callable[[], Any], ref: str) -> Any:
    owner, slug = ref.split("/")
    return request(kind, user_name=owner, kernel_slug=slug)


def _log_text(log: str) -> str:
    """A kernel's log as it was printed: Kaggle keeps it as a JSON list of pieces."""
    try:
        return "".join(piece["data"] for piece in json.loads(log))
    except (ValueError, TypeError, KeyError):
        return log
