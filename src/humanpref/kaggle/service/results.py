"""What a kernel's run came to: whether it ended well, and whether what it left is whole and of the
bundle that was pushed."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from humanpref.kaggle.contract import UNFINISHED
from humanpref.kaggle.service.client import Client, ServiceError
from humanpref.kaggle.service.kernels import (
    FAILED,
    download_output,
    get_kernel,
    run_output,
    run_status,
)
from humanpref.kaggle.service.records import Records
from humanpref.kaggle.service.waiting import poll

logger = logging.getLogger(__name__)

RUN_SECONDS = 14 * 3_600
"""How long a kernel may take: 12 hours at most, and some in the queue."""
LOG_LINES = 20
"""So many of a failed run's last lines are shown."""
STATUS = "status.json"
"""What a kernel leaves beside its results."""


def wait_for_run(client: Client, records: Records, name: str) -> None:
    """Wait until the recorded version of a kernel has run.

    Raises
    ------
    ServiceError
        If the run failed, after the last lines of its log; or if another version was pushed since.
    """
    entry = records.require(name, f"push --{name}")
    ref, version = entry["ref"], entry["version"]

    def check() -> tuple[bool | None, str]:
        state, reason = run_status(client, ref)
        if state in FAILED:
            _show_log(client, ref)
            raise ServiceError(
                f"{ref} version {version}: the run ended with {state}{reason and f': {reason}'}"
            )
        return (True if state == "COMPLETE" else None), state

    poll(check, f"{ref} version {version}", RUN_SECONDS)
    check_current(client, ref, version)


def wait_for_kernel(client: Client, records: Records, name: str) -> None:
    """The same, and of the training kernel an artifact is expected: raises ServiceError if its time
    was over before."""
    wait_for_run(client, records, name)
    ref, version = records[name]["ref"], records[name]["version"]
    if name == "train" and UNFINISHED in run_output(client, ref)[1]:
        raise ServiceError(
            f"{ref} version {version}: {UNFINISHED} its time was over before there was an "
            "artifact; to go on, add "
            f'"{ref}/{version}" to the kernel_sources of its kernel-metadata.json and push again'
        )


def check_current(client: Client, ref: str, version: int) -> None:
    """Raise ServiceError unless that version is the kernel's current one: the service tells of the
    current one alone."""
    kernel = get_kernel(client, ref)
    if kernel is None or kernel.version != version:
        found = f"version {kernel.version}" if kernel else "none"
        raise ServiceError(
            f"{ref}: version {version} was pushed from here, the current one is {found}; push again"
        )


def check_whole(client: Client, records: Records, name: str, anyway: bool) -> None:
    """Check by its status.json that the recorded version of a kernel, which has run, left a whole
    result of its bundle.

    Raises
    ------
    ServiceError
        If it did not, with the reasons; with `anyway` they are only logged.
    """
    entry = records[name]
    ref, version = entry["ref"], entry["version"]
    files, _ = run_output(client, ref)
    content = None
    if STATUS in dict(files):
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, STATUS)
            download_output(client, dict(files)[STATUS], path)
            content = path.read_bytes()
    # What was fetched is of that version only if nobody pushed another one meanwhile.
    check_current(client, ref, version)
    reasons = "; ".join(faults(content, entry["manifest"]))
    if reasons and not anyway:
        raise ServiceError(
            client.clean(
                f"{ref} version {version} is not whole (--anyway takes it as it is): {reasons}"
            )
        )
    if reasons:
        logger.warning("%s", client.clean(f"{ref} version {version} is not whole: {reasons}"))


def faults(content: bytes | None, manifest: str) -> list[str]:
    """Why a run's result is not to be used; empty where all is well.

    Parameters
    ----------
    content : bytes or None
        Of its status.json; None: it left none.
    manifest : str
        The digest of the manifest that was pushed with the kernel.
    """
    if content is None:
        return [f"it left no {STATUS}"]
    try:
        status: dict[str, Any] = dict(json.loads(content))
        found, degraded = status.get("manifest", ""), [str(reason) for reason in status["degraded"]]
    except (ValueError, TypeError, KeyError):
        return [f"its {STATUS} does not say whether it is whole"]
    if found == manifest:
        return degraded
    ran = f"manifest {str(found)[:8]}" if found else "none"
    pushed = f"manifest {manifest[:8]}"
    return [f"it ran on another dataset ({ran}) than the one pushed ({pushed})", *degraded]


def _show_log(client: Client, ref: str) -> None:
    _, log = run_output(client, ref)
    for line in log.splitlines()[-LOG_LINES:]:
        logger.error("  %s", client.clean(line))
