"""Push a bundle's datasets and its two kernels, and wait for what comes of it.

Each push is written down before it is sent (`humanpref.kaggle.records`) and recognised at the service afterwards: the dataset
by its manifest, a kernel by its version number and its code. So the same command can be given again after any interruption,
and sends only what is not there yet.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from humanpref.files import sha256
from humanpref.kaggle.bundle import DATASET_FOLDER, KERNELS
from humanpref.kaggle.check import check_bundle
from humanpref.kaggle.client import FAILED, BusyError, Client, RefusedError, ServiceError, UncertainError
from humanpref.kaggle.kernels import MARKER, UNFINISHED, WEIGHTS_MARKER
from humanpref.kaggle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    check_owner,
    fill_owner,
    read_metadata,
    stage_kernel,
)
from humanpref.kaggle.records import Records
from humanpref.kaggle.waiting import poll, send_once
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

READY_SECONDS = 3_600
"""How long a dataset may take until its files can be read."""
RUN_SECONDS = 14 * 3_600
"""How long a kernel may take: 12 hours at most, and some in the queue."""
LOG_LINES = 20
"""So many of a failed run's last lines are shown."""


def push(client: Client, records: Records, bundle: Path, owner: str, datasets: bool, kernels: Iterable[str]) -> None:
    """Push what is asked for, in order; the inference kernel waits for the training kernel that it mounts.

    Parameters
    ----------
    client, records
        The service, and what was sent there from here.
    bundle : Path
        The folder that `humanpref kaggle bundle` made.
    owner : str
        The Kaggle user name to push under.
    datasets : bool
        Whether to push the datasets.
    kernels : iterable of str
        Of `humanpref.kaggle.bundle.KERNELS`, those to push.

    Raises
    ------
    InputError
        If what is staged cannot be pushed, Kaggle refuses it, or does not answer for long.
    """
    check_owner(owner)
    if client.user and client.user.lower() != owner:
        raise InputError(f"--user {owner}: the Kaggle credentials here are those of {client.user}")
    check(client, bundle)
    with records.locked():
        if datasets:
            for marker in (bundle / DATASET_FOLDER / MARKER, *sorted(bundle.glob(f"*/{WEIGHTS_MARKER}"))):
                push_dataset(client, records, marker, owner)
        for name in KERNELS:
            if name in kernels:
                push_kernel(client, records, bundle / name, owner)


def check(client: Client, bundle: Path) -> None:
    """Raise InputError for a bundle that Kaggle would refuse, or would take for something else than was meant."""
    findings = check_bundle(bundle)
    errors = [finding for finding in findings if finding.level == "error"]
    for finding in findings:
        if finding not in errors[:1]:
            logger.warning("%s", client.clean(str(finding)))
    if errors:
        raise InputError(client.clean(str(errors[0]).removeprefix("error: ")))


def push_dataset(client: Client, records: Records, marker: Path, owner: str) -> None:
    """Create the dataset of a manifest, or a new version, unless its current one has that manifest; wait until it is ready."""
    folder = marker.parent
    metadata = fill_owner(read_metadata(folder / DATASET_METADATA), owner)
    for path in folder.rglob("*"):
        if path.is_file():
            client.refuse_secrets(path)
    name, ref, digest = folder.name, metadata["id"], sha256(marker)

    def find() -> int | None:
        # A version that is being made has a number before its files can be read.
        version = client.dataset_version(ref)
        return version if version > records[name]["base"] or is_there() else None

    def is_there() -> bool:
        return _manifest_digest(client, ref, marker.name) == digest

    def send() -> int:
        base = client.dataset_version(ref)
        create = client.dataset_status(ref) is None
        logger.info("%s: uploading %s", ref, folder)
        with client.uploaded(folder, metadata, create, digest) as request:
            records.sending(name, ref=ref, marker=marker.name, digest=digest, base=base)
            _outcome(records, name, lambda: client.commit_dataset(request, ref))
        return 0

    if is_there():
        logger.info("%s: these files are there already", ref)
        if not _is(records[name], ref, digest):
            records.sending(name, ref=ref, marker=marker.name, digest=digest, base=0)
    else:
        send_once(send, lambda: _is(records[name], ref, digest, "sending"), find)
    try:
        wait_for_dataset(client, ref, marker.name, digest)
    except (BusyError, UncertainError):
        raise
    except ServiceError:
        # What has the number that was taken for ours is something else, or of no use.
        records.became(name, "refused")
        raise
    records.became(name, "done", version=client.dataset_version(ref))


def wait(client: Client, records: Records) -> Iterator[str]:
    """Wait until everything that was pushed from here is ready or has run; give a line for each as it is.

    Raises
    ------
    InputError
        If nothing was pushed, a push is not done, or a run failed.
    """
    names = [name for name, _ in records.items() if name != "submission"]
    if not names:
        raise InputError(f"{records.path}: nothing was pushed from here; humanpref kaggle push")
    order = ["", *KERNELS]  # the datasets first
    for name in sorted(names, key=lambda name: (order.index(name if name in KERNELS else ""), name)):
        entry = records.require(name, "push")
        if "marker" in entry:
            wait_for_dataset(client, entry["ref"], entry["marker"], entry["digest"])
        else:
            wait_for_kernel(client, records, name)
        yield f"{entry['ref']} version {entry['version']}: {'ready' if 'marker' in entry else 'COMPLETE'}"


def wait_for_dataset(client: Client, ref: str, marker: str, digest: str) -> None:
    """Wait until the dataset is ready and its manifest, the file `marker`, is the one with this digest."""

    def check() -> tuple[bool | None, str]:
        status = client.dataset_status(ref)
        if status in ("FAILED", "DELETED"):
            raise RefusedError(f"{ref}: Kaggle could not make the dataset of these files ({status}); push it again")
        if status != "READY":
            return None, status or "not there yet"
        # "Ready" may still be said of the version before.
        there = _manifest_digest(client, ref, marker) == digest
        return there or None, "ready" if there else "ready, with another manifest than the one pushed"

    poll(check, ref, READY_SECONDS)


def push_kernel(client: Client, records: Records, folder: Path, owner: str) -> None:
    """Push a kernel, which starts its run, unless this code has run, or runs, on what it mounts now."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = stage_kernel(folder / KERNEL_METADATA, Path(temporary), owner)
        metadata = read_metadata(staged / KERNEL_METADATA)
        code = staged / metadata["code_file"]
        client.refuse_secrets(code)
        name, ref, text = folder.name, metadata["id"], code.read_text(encoding="utf-8")
        mounted = _mounted(client, records, metadata)
        digest = hashlib.sha256(json.dumps([metadata, text, mounted], sort_keys=True).encode()).hexdigest()
        sources = _sources(metadata)

        def find() -> int | None:
            kernel = client.kernel(ref)
            if kernel is None or kernel.version <= records[name]["base"] or _code(kernel.source) != _code(text):
                return None
            if missing := sorted(sources - {_unversioned(source) for source in kernel.sources}):
                records.became(name, "refused", version=kernel.version)
                raise RefusedError(_left_out(ref, kernel.version, missing))
            return kernel.version

        def send() -> int:
            kernel = client.kernel(ref)
            records.sending(name, ref=ref, digest=digest, base=kernel.version if kernel else 0)
            saved = _outcome(records, name, lambda: client.save_kernel(staged))
            if saved.ref != ref:
                records.became(name, "refused", version=saved.version)
                raise RefusedError(f"{ref}: Kaggle made another kernel, {saved.ref}, from its title; mend title or id")
            if saved.invalid:
                records.became(name, "refused", version=saved.version)
                raise RefusedError(_left_out(ref, saved.version, saved.invalid))
            return saved.version

        if _is(records[name], ref, digest, "done") and _still_good(client, ref, records[name]["version"]):
            logger.info("%s: version %d is this code on these inputs already", ref, records[name]["version"])
            return
        version = send_once(send, lambda: _is(records[name], ref, digest, "sending"), find)
        records.became(name, "done", version=version)
        logger.info("%s: pushed as version %d", ref, version)


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
        state, reason = client.run_status(ref)
        if state in FAILED:
            _show_log(client, ref)
            raise ServiceError(f"{ref} version {version}: the run ended with {state}{reason and f': {reason}'}")
        return (True if state == "COMPLETE" else None), state

    poll(check, f"{ref} version {version}", RUN_SECONDS)
    check_current(client, ref, version)


def wait_for_kernel(client: Client, records: Records, name: str) -> None:
    """The same, and of the training kernel an artifact is expected: raises ServiceError if its time was over before."""
    wait_for_run(client, records, name)
    ref, version = records[name]["ref"], records[name]["version"]
    if name == "train" and UNFINISHED in client.run_output(ref)[1]:
        raise ServiceError(
            f"{ref} version {version}: {UNFINISHED} its time was over before there was an artifact; to go on, add "
            f'"{ref}/{version}" to the kernel_sources of its kernel-metadata.json and push again'
        )


def check_current(client: Client, ref: str, version: int) -> None:
    """Raise ServiceError unless that version is the kernel's current one: the service tells of the current one alone."""
    kernel = client.kernel(ref)
    if kernel is None or kernel.version != version:
        found = f"version {kernel.version}" if kernel else "none"
        raise ServiceError(f"{ref}: version {version} was pushed from here, the current one is {found}; push again")


def _mounted(client: Client, records: Records, metadata: dict[str, Any]) -> dict[str, int]:
    """The versions of the kernel's sources that were pushed from here; those that are kernels have to have run."""
    versions = {}
    # A kernel may mount an earlier version of itself, to go on from there; it names that version.
    for source in sorted(_sources(metadata) - {metadata["id"]}):
        for name, entry in records.items():
            if entry.get("ref") == source and name != "submission":
                if entry["state"] != "done":
                    raise InputError(f"{metadata['id']}: mounts {source}, whose last push is not done; push it first")
                if name in KERNELS:
                    wait_for_kernel(client, records, name)
                versions[source] = entry["version"]
    return versions


def _still_good(client: Client, ref: str, version: int) -> bool:
    kernel = client.kernel(ref)
    return kernel is not None and kernel.version == version and client.run_status(ref)[0] not in FAILED


def _outcome(records: Records, name: str, send: Any) -> Any:
    """Send; where it is known that nothing was done, write that down."""
    try:
        return send()
    except (BusyError, RefusedError):
        records.became(name, "refused")
        raise


def _is(entry: dict[str, Any], ref: str, digest: str, state: str | None = None) -> bool:
    same = entry.get("ref") == ref and entry.get("digest") == digest
    return same and state in (None, entry["state"])


def _manifest_digest(client: Client, ref: str, marker: str) -> str | None:
    content = client.dataset_file(ref, marker)
    return None if content is None else hashlib.sha256(content).hexdigest()


def _sources(metadata: dict[str, Any]) -> set[str]:
    kinds = ("dataset", "competition", "kernel", "model")
    return {_unversioned(source) for kind in kinds for source in metadata.get(f"{kind}_sources", [])}


def _unversioned(source: str) -> str:
    """`owner/slug/version` without its version; what the service names may have one or not."""
    parts = source.split("/")
    return "/".join(parts[:2]) if len(parts) == 3 else source


def _left_out(ref: str, version: int, sources: Iterable[str]) -> str:
    return (
        f"{ref}: Kaggle saved version {version} without {', '.join(sources)}: not there, or not accepted by you; "
        "mend it and push again"
    )


def _code(text: str) -> list[tuple[str, str]]:
    """A kernel's code by cells; a script is one. Kaggle keeps a notebook's code, not its every byte."""
    try:
        cells = json.loads(text)["cells"]
    except (ValueError, KeyError, TypeError):
        cells = [{"cell_type": "code", "source": text}]
    return [(cell["cell_type"], "".join(cell["source"]).replace("\r\n", "\n").strip()) for cell in cells]


def _show_log(client: Client, ref: str) -> None:
    _, log = client.run_output(ref)
    for line in log.splitlines()[-LOG_LINES:]:
        logger.error("  %s", client.clean(line))
