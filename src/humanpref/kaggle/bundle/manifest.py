"""The manifest of a folder to upload, and checks for files that Kaggle would not keep unchanged."""

import logging
from pathlib import Path
from typing import Any

from humanpref.files import damage, read_json, sha256, write_json
from humanpref.kaggle.bundle.metadata import DATASET_METADATA
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

MANIFEST_FORMAT = 1
_ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"}


def write_manifest(folder: Path, marker: str, facts: dict[str, Any]) -> Path:
    """Write the manifest: `facts`, plus the name, size and SHA-256 of every file in the folder.

    Parameters
    ----------
    folder : Path
        The folder to upload.
    marker : str
        Name of the manifest file.
    facts : dict
        Other entries of the manifest.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    InputError
        If the folder contains a file that Kaggle would drop or unpack, or that must not be
        uploaded.
    """
    if faults := upload_faults(folder):
        raise InputError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
    files = _files(folder, marker)
    write_json(folder / marker, {"format": MANIFEST_FORMAT, **facts, "files": files})
    size = sum(file["bytes"] for file in files)
    logger.info("%s: %d files, %s bytes", folder.name, len(files), f"{size:,}")
    return folder


def manifest_faults(folder: Path, marker: str) -> dict[str, str]:
    """Compare a folder with its manifest. Return the fault of each file that differs, by the file's
    name."""
    try:
        listed = {file["name"]: file for file in read_json(folder / marker)["files"]}
    except (InputError, TypeError, KeyError) as error:
        return {marker: f"not a manifest ({type(error).__name__}: {error})"}
    present = {file["name"]: file for file in _files(folder, marker)}
    faults = {}
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            faults[name] = "in the manifest, but missing"
        elif name not in listed:
            faults[name] = "not in the manifest"
        elif listed[name] != present[name]:
            faults[name] = "not the file that the manifest describes"
    return faults


def upload_faults(folder: Path) -> dict[str, str]:
    """Return the reason why each unsuitable file must not be uploaded, by the file's name."""
    return {
        path.relative_to(folder).as_posix(): fault
        for path in sorted(folder.rglob("*"))
        if (fault := _upload_fault(path))
    }


def _upload_fault(path: Path) -> str | None:
    if path.is_symlink():
        return "a link; replace it with the file itself"
    if not path.is_file():
        return None
    if path.stat().st_size == 0:
        return "an empty file, which Kaggle drops"
    if path.suffix.lower() in _ARCHIVES:
        return "an archive, which Kaggle unpacks on arrival; replace it with its files"
    return damage(path)


def _files(folder: Path, marker: str) -> list[dict[str, Any]]:
    # The client does not upload its own metadata file.
    own = (folder / marker, folder / DATASET_METADATA)
    return [
        {
            "name": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in own
    ]
