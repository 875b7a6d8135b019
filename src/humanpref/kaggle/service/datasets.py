"""Calls about datasets: their state, their files, and new versions."""

import contextlib
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from humanpref.kaggle.service.client import (
    Client,
    NotThereError,
    RefusedError,
    ServiceError,
    UncertainError,
    fill,
    request_for,
    retry,
)

UPLOAD_SECONDS, UPLOAD_RATE = 600, 50_000
"""The time limit of an upload is `UPLOAD_SECONDS` plus its size in bytes divided by
`UPLOAD_RATE`."""


def dataset_status(client: Client, ref: str) -> str | None:
    """Return the name of the dataset's state: READY, FAILED, DELETED, or any other while Kaggle is
    still processing it; None if there is no such dataset."""
    answer = client.find(ref, client.datasets.get_dataset_status, **_names(ref))
    return answer and answer.status.name


def dataset_version(client: Client, ref: str) -> int | None:
    """Return the dataset's current version number; None if Kaggle does not report it."""
    answer = client.find(ref, client.datasets.get_dataset, **_names(ref))
    return (answer and answer.current_version_number) or None


def dataset_file(client: Client, ref: str, name: str) -> bytes | None:
    """Return the content of a small file in the dataset's current version; None if there is no
    such file."""
    method = client.datasets.download_dataset
    request = request_for(method, file_name=name, **_names(ref))
    try:
        content = retry(lambda: client.run(f"{ref}: {name}", lambda: method(request).content))
    except NotThereError:
        return None
    # Kaggle zips some files when it sends them.
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(archive.namelist()[0])
    return content


@contextlib.contextmanager
def uploaded(client: Client, folder: Path, ref: str, digest: str) -> Iterator[list[Any]]:
    """Upload a folder's files and yield them for `commit_dataset`, which creates a version from
    them.

    Files uploaded before an interruption are not uploaded again if the folder's `digest` is
    unchanged.
    """
    from kaggle.api.kaggle_api_extended import ResumableUploadContext
    from kagglesdk.blobs.types.blob_api_service import ApiBlobType

    files: list[Any] = []
    context = ResumableUploadContext()
    # The client treats files with the same path, size and time as identical, so keep different
    # contents apart.
    context._temp_dir = os.path.join(context._temp_dir, digest)
    refused = None
    with context:

        def upload() -> None:
            quiet, target = not sys.stderr.isatty(), SimpleNamespace(files=files)
            # Some client versions silently skip a file that fails; others raise ValueError.
            with contextlib.suppress(ValueError):
                client.api.upload_files(
                    target, None, str(folder), ApiBlobType.DATASET, context, quiet, "zip"
                )
            expected = sum(path.name != "dataset-metadata.json" for path in folder.iterdir())
            done = sum(bool(file.token) for file in files)
            if done != expected:
                raise UncertainError(
                    f"{ref}: only {done} of {expected} files were uploaded; rerun the same command "
                    "to resume"
                )

        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        try:
            client.run(ref, upload, seconds=UPLOAD_SECONDS + size // UPLOAD_RATE)
        except ServiceError:
            # Without this, the client would try for six days to resume an upload that Kaggle no
            # longer knows.
            for file in context._file_uploads:
                if not file.get_token():
                    file.cleanup()
            raise
        try:
            yield files
        except RefusedError as error:
            # These uploads may be the cause. Raise the error only after the context has ended, so
            # that the context discards them.
            refused = error
    if refused is not None:
        raise refused


def commit_dataset(
    client: Client, metadata: dict[str, Any], files: list[Any], create: bool, notes: str
) -> None:
    """Create a dataset, or a new version of one, from uploaded files, without retrying."""
    from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetVersionRequestBody

    ref, names = metadata["id"], _names(metadata["id"])
    content = {
        "subtitle": metadata.get("subtitle"),
        "description": metadata.get("description"),
        "category_ids": metadata.get("keywords", []),
        "files": files,
    }
    if create:
        answer = client.call(
            ref,
            client.datasets.create_dataset,
            owner_slug=names["owner_slug"],
            slug=names["dataset_slug"],
            title=metadata["title"],
            license_name=metadata["licenses"][0]["name"],
            is_private=True,
            **content,
        )
    else:
        body = fill(ApiCreateDatasetVersionRequestBody(), version_notes=notes, **content)
        answer = client.call(ref, client.datasets.create_dataset_version, body=body, **names)
    if answer.error or (answer.status or "").lower() not in ("", "ok"):
        raise RefusedError(
            f"{ref}: Kaggle refused the dataset: {client.clean(answer.error or answer.status)}"
        )
    if not (answer.status or answer.ref or answer.url):
        raise UncertainError(f"{ref}: Kaggle's answer does not say whether it accepted the dataset")


def _names(ref: str) -> dict[str, Any]:
    owner, slug = ref.split("/")
    return {"owner_slug": owner, "dataset_slug": slug}
