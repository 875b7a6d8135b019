"""Check a kernel's run: whether it succeeded, and whether its result is complete and belongs to the
bundle that was pushed."""

import contextlib
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
from humanpref.kaggle.service.records import Records, describe
from humanpref.kaggle.service.waiting import poll
from humanpref.runs.artifact_files import FACTS_FILE

logger = logging.getLogger(__name__)

RUN_SECONDS = 14 * 3_600
"""Maximum number of seconds to wait for a kernel's run, which takes up to 12 hours and may first be
queued."""
LOG_LINES = 20
"""Number of lines shown from the end of a failed run's log."""
STATUS = "status.json"
"""The status file that a kernel writes next to its results."""


def wait_for_run(client: Client, records: Records, name: str) -> None:
    """Wait until the recorded version of a kernel has finished running.

    Parameters
    ----------
    client, records, name
        The client, the records, and the name of the kernel's entry in them.

    Raises
    ------
    ServiceError
        If the run failed (the last lines of its log are logged first), or if a different version
        has been pushed since.
    """
    entry = records.require(name, f"push --{name}")
    ref, what = entry["ref"], describe(entry)

    def check() -> tuple[bool | None, str]:
        state, reason = run_status(client, ref)
        if state in FAILED:
            for line in run_output(client, ref)[1].splitlines()[-LOG_LINES:]:
                logger.error("  %s", client.clean(line))
            raise ServiceError(f"{what}: the run ended with {state}{reason and f': {reason}'}")
        return state == "COMPLETE" or None, state

    poll(check, what, RUN_SECONDS)
    check_current(client, entry)


def check_finished(client: Client, entry: dict[str, Any], anyway: bool) -> None:
    """Raise ServiceError if a training run ran out of time. With `anyway`, only log a warning,
    provided that the run left an artifact of the models trained by then."""
    files, log = run_output(client, entry["ref"])
    told = next((line for line in log.splitlines() if UNFINISHED in line), "")
    if not told:
        return
    usable = any(file.endswith(f".partial/{FACTS_FILE}") for file in files)
    message = client.clean(f"{describe(entry)}: {told}")
    if anyway and usable:
        logger.warning("%s", message)
        return
    hint = "; to predict with the trained models, run push --infer --anyway" if usable else ""
    raise ServiceError(
        f'{message}; to resume it, add "{entry["ref"]}/{entry["version"]}" to the kernel_sources '
        f"of its kernel-metadata.json and push again{hint}"
    )


def check_current(client: Client, entry: dict[str, Any]) -> None:
    """Raise ServiceError unless the recorded version is the kernel's current one, the only version
    whose results Kaggle shows."""
    kernel = get_kernel(client, entry["ref"])
    if kernel is None or kernel.version != entry["version"]:
        current = f"version {kernel.version}" if kernel else "missing"
        raise ServiceError(
            f"{entry['ref']}: version {entry['version']} was pushed from here, but the current one "
            f"is {current}; push again"
        )


def check_whole(client: Client, entry: dict[str, Any], anyway: bool) -> dict[str, Any]:
    """Check that the recorded version of a kernel ran and left a complete result. Return the values
    of its status.json; empty if that file is missing or cannot be read.

    Raises
    ------
    ServiceError
        If the result is incomplete; the message gives the reasons. With `anyway`, the reasons are
        only logged.
    """
    files, _ = run_output(client, entry["ref"])
    content = None
    if STATUS in files:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, STATUS)
            download_output(client, files[STATUS], path)
            content = path.read_bytes()
    check_current(client, entry)  # otherwise the file may be from a version pushed in the meantime
    if reasons := "; ".join(faults(content, entry["manifest"])):
        hint = "" if anyway else " (--anyway accepts it as it is)"
        message = client.clean(f"{describe(entry)} is incomplete{hint}: {reasons}")
        if not anyway:
            raise ServiceError(message)
        logger.warning("%s", message)
    with contextlib.suppress(ValueError, TypeError):
        return dict(json.loads(content or b"{}"))
    return {}


def faults(content: bytes | None, manifest: str) -> list[str]:
    """Return the reasons not to use a run's result; empty if there are none.

    Parameters
    ----------
    content : bytes or None
        The contents of the run's status.json; None if it left none.
    manifest : str
        The digest of the manifest that was pushed with the kernel.
    """
    if content is None:
        return [f"it left no {STATUS}"]
    try:
        status: dict[str, Any] = dict(json.loads(content))
        ran_on = str(status.get("manifest", ""))
        degraded = [str(reason) for reason in status["degraded"]]
    except (ValueError, TypeError, KeyError):
        return [f"its {STATUS} does not say whether it is complete"]
    if ran_on == manifest:
        return degraded
    mounted = f"manifest {ran_on[:8]}" if ran_on else "none"
    pushed = f"manifest {manifest[:8]}"
    return [f"it ran on a dataset ({mounted}) other than the one pushed ({pushed})", *degraded]
