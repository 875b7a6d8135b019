"""The calls on Kaggle's datasets: where one stands, what is in it, and new versions of it."""

import contextlib
import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from humanpref.kaggle.service.client import (
    Client,
    RefusedError,
    ServiceError,
    SignInError,
    UncertainError,
    request,
)

UPLOAD_SECONDS, UPLOAD_RATE = 600, 50_000
"""At most so long for the files of a dataset, and a second for every so many bytes of them."""


def dataset_status(client: Client, ref: str) -> str | None:
    """READY, FAILED, or a step on the way there; None where there is no such dataset."""
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

    asked = _request(ApiGetDatasetStatusRequest, ref)
    answer = client.find(ref, client.datasets.get_dataset_status, asked)
    return answer and answer.status.name


def dataset_version(client: Client, ref: str) -> int | None:
    """The number of the dataset's current version; None where the service does not tell."""
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

    asked = _request(ApiGetDatasetRequest, ref)
    try:
        answer = client.read(ref, client.datasets.get_dataset, asked)
        return answer.current_version_number or None
    except SignInError:
        raise
    except RefusedError:
        return None


def dataset_file(client: Client, ref: str, name: str) -> bytes | None:
    """The content of a small file in the dataset's current version; None where it is not there."""
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    asked = _request(ApiDownloadDatasetRequest, ref, file_name=name)
    download = client.datasets.download_dataset
    content = client.find(f"{ref}: {name}", lambda: download(asked).content)
    if content is not None:
        # Kaggle zips some files on their way out.
        with (
            contextlib.suppress(zipfile.BadZipFile),
            zipfile.ZipFile(io.BytesIO(content)) as archive,
        ):
            return archive.read(archive.namelist()[0])
    return content


@contextlib.contextmanager
def uploaded(
    client: Client, folder: Path, metadata: dict[str, Any], create: bool, digest: str
) -> Iterator[Any]:
    """Upload a folder's files; in the block, `commit_dataset` makes a dataset or a version of them.

    Files that were uploaded before an interruption are not uploaded again, if the folder's `digest`
    is the same.
    """
    from kaggle.api.kaggle_api_extended import ResumableUploadContext
    from kagglesdk.blobs.types.blob_api_service import ApiBlobType

    asked, body = _new_dataset(metadata) if create else _new_version(metadata, digest)
    context = ResumableUploadContext()
    # The client takes a file of the same path, size and time for the same file: one place for each
    # content.
    context._temp_dir = os.path.join(context._temp_dir, digest)
    refused = None
    with context:

        def upload() -> None:
            quiet = not sys.stderr.isatty()
            # Some clients leave a file that could not be uploaded out and say nothing, others end
            # with a ValueError.
            with contextlib.suppress(ValueError):
                client.api.upload_files(
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
            client.call(metadata["id"], upload, seconds=UPLOAD_SECONDS + size // UPLOAD_RATE)
        except ServiceError:
            # An upload that the service forgot, or whose address it never gave, would be gone on
            # with for six days.
            for file in context._file_uploads:
                if not file.get_token():
                    file.cleanup()
            raise
        try:
            yield asked
        except RefusedError as error:
            # The block ends well for the client, so that it forgets these uploads: they may be what
            # is refused.
            refused = error
    if refused is not None:
        raise refused


def commit_dataset(client: Client, asked: Any, ref: str) -> None:
    """Make a dataset, or a version of one, from uploaded files. Sent once."""
    datasets = client.datasets
    create = hasattr(asked, "license_name")
    method = datasets.create_dataset if create else datasets.create_dataset_version
    answer = client.call(ref, method, asked)
    if answer.error or (answer.status or "").lower() not in ("", "ok"):
        raise RefusedError(
            f"{ref}: Kaggle did not take the dataset: "
            f"{client.reason(answer.error or answer.status)}"
        )
    if not (answer.status or answer.ref or answer.url):
        raise UncertainError(f"{ref}: Kaggle's answer does not say whether it took the dataset")


def _request(kind: Callable[[], Any], ref: str, **values: Any) -> Any:
    owner, slug = ref.split("/")
    return request(kind, owner_slug=owner, dataset_slug=slug, **values)


def _new_dataset(metadata: dict[str, Any]) -> tuple[Any, Any]:
    """The request for a new dataset, and the part of it that lists the files: itself."""
    from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest

    owner, slug = metadata["id"].split("/")
    asked = request(
        ApiCreateDatasetRequest,
        owner_slug=owner,
        slug=slug,
        title=metadata["title"],
        license_name=metadata["licenses"][0]["name"],
        is_private=True,
        **_described(metadata),
    )
    return asked, asked


def _new_version(metadata: dict[str, Any], notes: str) -> tuple[Any, Any]:
    """The request for a new version of a dataset, and the part of it that lists the files."""
    from kagglesdk.datasets.types.dataset_api_service import (
        ApiCreateDatasetVersionRequest,
        ApiCreateDatasetVersionRequestBody,
    )

    body = request(ApiCreateDatasetVersionRequestBody, version_notes=notes, **_described(metadata))
    return _request(ApiCreateDatasetVersionRequest, metadata["id"], body=body), body


def _described(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "subtitle": metadata.get("subtitle"),
        "description": metadata.get("description"),
        "category_ids": metadata.get("keywords", []),
        "files": [],
    }
