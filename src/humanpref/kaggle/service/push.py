"""Push a bundle's datasets and its two kernels, and wait for what comes of it.

Each push is written down before it is sent (`humanpref.kaggle.service.records`) and recognised at
the service afterwards: the dataset by its manifest, a kernel by its version number and its code. So
the same command can be given again after any interruption, and sends only what is not there yet.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from humanpref.files import sha256
from humanpref.kaggle.bundle.assemble import DATASET_FOLDER, KERNELS, kernels_of, read_run
from humanpref.kaggle.bundle.check import check_bundle
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    check_owner,
    fill_owner,
    read_metadata,
    stage_kernel,
)
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER
from humanpref.kaggle.service.client import (
    BusyError,
    Client,
    RefusedError,
    ServiceError,
    UncertainError,
)
from humanpref.kaggle.service.datasets import (
    commit_dataset,
    dataset_file,
    dataset_status,
    dataset_version,
    uploaded,
)
from humanpref.kaggle.service.kernels import (
    FAILED,
    SOURCES,
    Kernel,
    get_kernel,
    run_status,
    save_kernel,
)
from humanpref.kaggle.service.records import Records, describe, identity
from humanpref.kaggle.service.results import check_whole, wait_for_kernel
from humanpref.kaggle.service.waiting import poll, send_once, settled
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

READY_SECONDS = 3_600
"""How long a dataset may take until its files can be read."""


def push(
    client: Client,
    records: Records,
    bundle: Path,
    owner: str,
    datasets: bool,
    kernels: Iterable[str] | None,
) -> None:
    """Push what is asked for, in order; the inference kernel waits for the training kernel that it
    mounts.

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
    kernels : iterable of str, optional
        Of `humanpref.kaggle.bundle.assemble.KERNELS`, those to push; None: all that the bundle has.

    Raises
    ------
    InputError
        If what is staged cannot be pushed, Kaggle refuses it, or does not answer for long.
    """
    check_owner(owner)
    if client.user and client.user.lower() != owner:
        raise InputError(f"--user {owner}: the Kaggle credentials here are those of {client.user}")
    check(client, bundle)
    marker = bundle / DATASET_FOLDER / MARKER
    manifest = sha256(marker)
    staged = kernels_of(read_run(marker.parent))
    if kernels is not None and (missing := set(kernels) - set(staged)):
        raise InputError(
            f"{bundle}: has no {missing.pop()} kernel: it was made of artifacts alone, without "
            "--preset"
        )
    with records.locked():
        if datasets:
            for path in (marker, *sorted(bundle.glob(f"*/{WEIGHTS_MARKER}"))):
                push_dataset(client, records, path, owner, manifest)
        for name in staged:
            if kernels is None or name in kernels:
                push_kernel(client, records, bundle / name, owner, manifest)


def check(client: Client, bundle: Path) -> None:
    """Raise InputError for a bundle that Kaggle would refuse, or would take for something else than
    was meant."""
    findings = check_bundle(bundle)
    errors = [finding for finding in findings if finding.level == "error"]
    for finding in findings:
        if finding not in errors[:1]:
            logger.warning("%s", client.clean(str(finding)))
    if errors:
        raise InputError(client.clean(str(errors[0]).removeprefix("error: ")))


def push_dataset(client: Client, records: Records, marker: Path, owner: str, manifest: str) -> None:
    """Create the dataset of a manifest, or a new version, unless its current one has that manifest;
    wait until it is ready.

    `manifest` is the digest of the bundle's own manifest, that of the wheel dataset.
    """
    folder = marker.parent
    metadata = fill_owner(read_metadata(folder / DATASET_METADATA), owner)
    for path in folder.rglob("*"):
        if path.is_file():
            client.refuse_secrets(path)
    name, ref, digest = folder.name, metadata["id"], sha256(marker)
    entry = {"ref": ref, "marker": marker.name, "digest": digest, "manifest": manifest}

    def find() -> int | None:
        # A version that is being made has a number before its files can be read.
        version, base = dataset_version(client, ref) or 0, records[name]["base"]
        return version if (base is not None and version > base) or is_there() else None

    def is_there() -> bool | None:
        return _manifest_digest(client, ref, marker.name) == digest or None

    def send() -> int:
        create = dataset_status(client, ref) is None
        base = 0 if create else dataset_version(client, ref)
        logger.info("%s: uploading %s", ref, folder)
        with uploaded(client, folder, metadata, create, digest) as request:
            records.sending(name, **entry, base=base)
            _outcome(records, name, lambda: commit_dataset(client, request, ref))
        return 0

    if not _is(records[name], ref, digest):
        # First of all, so that nothing is taken for this bundle's that was pushed of the one
        # before.
        records.starting(name, **entry)
    if settled(is_there) if _is(records[name], ref, digest, "done") else is_there():
        logger.info("%s: these files are there already", ref)
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
    version = dataset_version(client, ref)
    records.became(name, "done", manifest=manifest, **({"version": version} if version else {}))


def wait(client: Client, records: Records, anyway: bool = False) -> Iterator[str]:
    """Wait until everything that was pushed of the last bundle is ready or has run; give a line for
    each as it is.

    Parameters
    ----------
    client, records
        The service, and what was sent there from here.
    anyway : bool
        Take a result that is not whole.

    Raises
    ------
    InputError
        If nothing was pushed, a push is not done, a run failed, or what it left is not whole or of
        another bundle.
    """
    names = records.latest()
    if not names:
        raise InputError(f"{records.path}: nothing was pushed from here; humanpref kaggle push")
    order = ["", *KERNELS]  # the datasets first
    for name in sorted(
        names, key=lambda name: (order.index(name if name in KERNELS else ""), name)
    ):
        entry = records.require(name, "push")
        if "marker" in entry:
            wait_for_dataset(client, entry["ref"], entry["marker"], entry["digest"])
        else:
            wait_for_kernel(client, records, name)
            check_whole(client, records, name, anyway)
        yield f"{describe(entry)}: {'ready' if 'marker' in entry else 'COMPLETE'}"


def wait_for_dataset(client: Client, ref: str, marker: str, digest: str) -> None:
    """Wait until the dataset is ready and its manifest, the file `marker`, is the one with this
    digest."""

    def check() -> tuple[bool | None, str]:
        status = dataset_status(client, ref)
        if status in ("FAILED", "DELETED"):
            raise RefusedError(
                f"{ref}: Kaggle could not make the dataset of these files ({status}); push it again"
            )
        if status != "READY":
            return None, status or "not there yet"
        # "Ready" may still be said of the version before.
        there = _manifest_digest(client, ref, marker) == digest
        return (
            there or None,
            "ready" if there else "ready, with another manifest than the one pushed",
        )

    poll(check, ref, READY_SECONDS)


def push_kernel(client: Client, records: Records, folder: Path, owner: str, manifest: str) -> None:
    """Push a kernel, which starts its run, unless this code has run, or runs, on what it mounts
    now."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = stage_kernel(folder / KERNEL_METADATA, Path(temporary), owner, manifest)
        metadata = read_metadata(staged / KERNEL_METADATA)
        code = staged / metadata["code_file"]
        client.refuse_secrets(code)
        name, ref, text = folder.name, metadata["id"], code.read_text(encoding="utf-8")
        mounted = _mounted(client, records, metadata, manifest)
        digest = hashlib.sha256(
            json.dumps([metadata, text, mounted], sort_keys=True).encode()
        ).hexdigest()
        sources = _sources(metadata)

        def current() -> Kernel | None:
            # What was pushed from here before does not go away because Kaggle once denies it.
            entry = records[name]
            known = entry.get("ref") == ref and (entry.get("version") or entry.get("base"))
            return settled(lambda: get_kernel(client, ref)) if known else get_kernel(client, ref)

        def find() -> int | None:
            kernel = get_kernel(client, ref)
            if (
                kernel is None
                or kernel.version <= records[name]["base"]
                or _code(kernel.source) != _code(text)
            ):
                return None
            if missing := sorted(sources - {_unversioned(source) for source in kernel.sources}):
                records.became(name, "refused", version=kernel.version)
                raise RefusedError(_left_out(ref, kernel.version, missing))
            return kernel.version

        def send() -> int:
            kernel = current()
            base = kernel.version if kernel else 0
            records.sending(
                name, ref=ref, digest=digest, manifest=manifest, inputs=mounted, base=base
            )
            saved = _outcome(records, name, lambda: save_kernel(client, staged))
            if saved.ref != ref:
                records.became(name, "refused", version=saved.version)
                raise RefusedError(
                    f"{ref}: Kaggle made another kernel, {saved.ref}, from its title; mend title "
                    "or id"
                )
            if saved.invalid:
                records.became(name, "refused", version=saved.version)
                raise RefusedError(_left_out(ref, saved.version, saved.invalid))
            return saved.version

        if _is(records[name], ref, digest, "done"):
            version, kernel = records[name]["version"], current()
            if (
                kernel is not None
                and kernel.version == version
                and run_status(client, ref)[0] not in FAILED
            ):
                logger.info("%s: version %d is this code on these inputs already", ref, version)
                return
        version = send_once(send, lambda: _is(records[name], ref, digest, "sending"), find)
        records.became(name, "done", version=version)
        logger.info("%s: pushed as version %d", ref, version)


def _mounted(
    client: Client, records: Records, metadata: dict[str, Any], manifest: str
) -> dict[str, Any]:
    """The kernel's sources that were pushed from here, by what tells one push of them from another;
    kernels have to have run."""
    found = {}
    # A kernel may mount an earlier version of itself, to go on from there; it names that version.
    for source in sorted(_sources(metadata) - {metadata["id"]}):
        for name, entry in records.items():
            if entry.get("ref") == source and name != "submission":
                if entry["state"] != "done":
                    raise InputError(
                        f"{metadata['id']}: mounts {source}, whose last push is not done; push it "
                        "first"
                    )
                if name == DATASET_FOLDER and entry["digest"] != manifest:
                    raise InputError(
                        f"{metadata['id']}: mounts {source}, which is of another bundle; push it "
                        "first"
                    )
                if name in KERNELS:
                    wait_for_kernel(client, records, name)
                found[source] = identity(entry)
    return found


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
    content = dataset_file(client, ref, marker)
    return None if content is None else hashlib.sha256(content).hexdigest()


def _sources(metadata: dict[str, Any]) -> set[str]:
    return {
        _unversioned(source) for kind in SOURCES for source in metadata.get(f"{kind}_sources", [])
    }


def _unversioned(source: str) -> str:
    """`owner/slug/version` without its version; what the service names may have one or not."""
    parts = source.split("/")
    return "/".join(parts[:2]) if len(parts) == 3 else source


def _left_out(ref: str, version: int, sources: Iterable[str]) -> str:
    return (
        f"{ref}: Kaggle saved version {version} without {', '.join(sources)}: not there, or not "
        "accepted by you; "
        "mend it and push again"
    )


def _code(text: str) -> list[tuple[str, str]]:
    """A kernel's code by cells; a script is one. Kaggle keeps a notebook's code, not its every
    byte."""
    try:
        cells = json.loads(text)["cells"]
    except (ValueError, KeyError, TypeError):
        cells = [{"cell_type": "code", "source": text}]
    return [
        (cell["cell_type"], "".join(cell["source"]).replace("\r\n", "\n").strip()) for cell in cells
    ]
