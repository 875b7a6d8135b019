"""Push a dataset, and recognize it on Kaggle by its manifest."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from humanpref.files import sha256
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, fill_owner, read_metadata
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
from humanpref.kaggle.service.records import Records
from humanpref.kaggle.service.waiting import PendingError, poll, send_once, settled

logger = logging.getLogger(__name__)

READY_SECONDS = 3_600
"""Maximum number of seconds to wait until a dataset's files can be read."""
UNUSABLE = ("FAILED", "DELETED")
"""The states of a dataset whose files will never be readable."""


def push_dataset(
    client: Client, records: Records, marker: Path, owner: str, manifest: str, chosen: bool = True
) -> None:
    """Create a dataset, or a new version of it, unless its current version already has the manifest
    in the file `marker`. Then wait until the dataset is ready.

    `manifest` identifies the bundle to which the dataset belongs: it is the digest of the manifest
    of the bundle's wheel dataset, even if a dataset of weights is pushed. If `chosen` is False,
    nothing is pushed; but if the dataset's record was lost and Kaggle has the dataset, the record
    is restored.
    """
    folder = marker.parent
    metadata = fill_owner(read_metadata(folder / DATASET_METADATA), owner, records.name)
    for path in folder.rglob("*"):
        if path.is_file():
            client.refuse_secrets(path)
    name, ref, digest = folder.name, metadata["id"], sha256(marker)
    key = {"ref": ref, "digest": digest}
    entry = {**key, "marker": marker.name, "manifest": manifest}

    def is_there() -> bool | None:
        return manifest_digest(client, ref, marker.name) == digest or None

    def find() -> int | None:
        # A new version gets its number before its files can be read.
        version, base = dataset_version(client, ref) or 0, records[name]["base"]
        if version and base is not None:
            arrived = version > base
        else:
            arrived = dataset_status(client, ref) not in (None, "READY", *UNUSABLE)
        return version if arrived or is_there() else None

    def send() -> int:
        create = dataset_status(client, ref) is None
        base = 0 if create else dataset_version(client, ref)
        logger.info("%s: uploading %s", ref, folder)
        with (
            uploaded(client, folder, ref, digest) as files,
            records.sending(name, **entry, base=base),
        ):
            commit_dataset(client, metadata, files, create, digest)
        records.update(name, answered=True)
        return 0

    if not chosen:
        if records[name].get("ref") != ref and is_there():
            records.write(name, "done", **entry, version=dataset_version(client, ref))
        return
    if not records[name].items() >= key.items():
        # Written before anything is sent, so that no push of the previous bundle seems up to date.
        records.write(name, "starting", **entry)
    if settled(is_there) if records.has(name, "done", **key) else is_there():
        logger.info("%s: Kaggle has these files already", ref)
    elif not records.has(name, "sending", **key, answered=True):
        send_once(send, lambda: records.has(name, "sending", **key), find)
    try:
        wait_for_dataset(client, entry)
    except (BusyError, UncertainError):
        raise
    except ServiceError as error:
        if isinstance(error, PendingError) and may_become_ready(client, records[name]):
            raise
        # The version that seemed to be the pushed one is a different one, or unusable.
        records.update(name, state="refused")
        raise
    records.write(name, "done", **entry, version=dataset_version(client, ref))


def may_become_ready(client: Client, entry: dict[str, Any]) -> bool:
    """Return whether a recorded dataset that was not ready in time may still become ready. This is
    so if Kaggle is still processing it, or has accepted it but still shows the previous version.
    """
    status, version = dataset_status(client, entry["ref"]), dataset_version(client, entry["ref"])
    if status != "READY":
        return status is not None
    base = entry.get("base")
    replaced = bool(version) and base is not None and version > base + 1
    return bool(entry.get("answered")) and not replaced


def wait_for_dataset(client: Client, entry: dict[str, Any]) -> None:
    """Wait until a dataset is ready and has the manifest that its record names."""
    ref = entry["ref"]

    def check() -> tuple[bool | None, str]:
        status = dataset_status(client, ref)
        if status in UNUSABLE:
            raise RefusedError(
                f"{ref}: Kaggle could not create the dataset from these files ({status}); push it "
                "again"
            )
        if status != "READY":
            return None, status or "not yet visible"
        # The version that is ready may still be the previous one.
        if manifest_digest(client, ref, entry["marker"]) != entry["digest"]:
            return None, "ready, but not with the manifest that was pushed"
        return True, "ready"

    poll(check, ref, READY_SECONDS)


def manifest_digest(client: Client, ref: str, marker: str) -> str | None:
    """Return the SHA-256 of the manifest, the file `marker`, in a dataset's current version; None
    if the version has no such file."""
    content = dataset_file(client, ref, marker)
    return None if content is None else hashlib.sha256(content).hexdigest()
