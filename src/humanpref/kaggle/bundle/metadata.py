"""Read the metadata of kernels and datasets, fill in the owner, and stage a kernel.

In the committed files the owner is `INSERT_USERNAME`. A push fills in a user name only in staged
copies, so that the committed files work for everyone. Nothing here uses the network or the client.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from humanpref.files import read_json, write_whole
from humanpref.schema import InputError

OWNER_PLACEHOLDER = "INSERT_USERNAME"
"""Placeholder for the owner's Kaggle user name in the committed files."""

KERNEL_METADATA = "kernel-metadata.json"
DATASET_METADATA = "dataset-metadata.json"
"""The file names that the client expects for a folder's metadata."""

_NAME, _NAME_LENGTH = re.compile("[a-z0-9]+(-[a-z0-9]+)*"), 30  # a slug has at most 50 characters
# The client documents this rule for the owner in `owner/slug`, but enforces it only for models.
_USER_NAME = re.compile("[a-z0-9]+([-_][a-z0-9]+)*")


def read_text(path: Path) -> str:
    """Read a UTF-8 file and keep its line endings. Raise a one-line InputError if it cannot be
    read."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text ({error})") from None


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a metadata file.

    Raises
    ------
    InputError
        If the file cannot be read, repeats a key, or does not hold a JSON object.
    """
    metadata = read_json(path, unique_keys=True)
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: expected a JSON object, got {metadata!r:.80}")
    return metadata


def write_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Write a metadata file, creating its folder if necessary."""
    # Write ASCII, since the client reads a dataset's metadata in the machine's encoding.
    _write(path, json.dumps(metadata, indent=2) + "\n")


def check_owner(owner: str) -> None:
    """Raise InputError unless `owner` has the form of a Kaggle user name, as it appears in the URL
    of the user's profile."""
    if not _USER_NAME.fullmatch(owner):
        raise InputError(
            "owner: expected a Kaggle user name (lower-case letters and digits, single hyphens or "
            f"underscores between them), got {owner!r}"
        )


def check_name(name: str) -> None:
    """Raise InputError unless `name` can be an experiment's name, which becomes a part of slugs."""
    if not _NAME.fullmatch(name) or len(name) > _NAME_LENGTH or name == "accept":
        raise InputError(
            f"--name: expected at most {_NAME_LENGTH} lower-case letters and digits, with single "
            f"hyphens between them, other than 'accept', got {name!r:.80}"
        )


def fill_owner(metadata: dict[str, Any], owner: str, name: str = "") -> dict[str, Any]:
    """Return a copy of a metadata file's values with every `INSERT_USERNAME/` replaced by
    `owner/`. With the name of an experiment, the slugs `humanpref-…` become `humanpref-NAME-…`,
    and the title changes accordingly.

    Raises
    ------
    InputError
        If `owner` is not a user name, or the placeholder occurs where it is not an owner.
    """
    check_owner(owner)
    text, prefix = json.dumps(metadata), f'"{OWNER_PLACEHOLDER}/'
    if name:
        text = text.replace(f"{prefix}humanpref-", f"{prefix}humanpref-{name}-")
    filled = json.loads(text.replace(prefix, f'"{owner}/'))
    if name and filled["id"].startswith(f"{owner}/humanpref-{name}-"):
        words = name.replace("-", " ")
        filled["title"] = filled["title"].replace("humanpref", f"humanpref {words}", 1)
    for key, value in filled.items():
        if OWNER_PLACEHOLDER in json.dumps([key, value]):
            raise InputError(
                f"key {key}: expected {OWNER_PLACEHOLDER} only as an owner "
                f"({OWNER_PLACEHOLDER}/slug), got {value!r:.80}"
            )
    return filled


def read_code(folder: Path, code_file: Any) -> str:
    """Return a kernel's code, given the folder of its metadata and the value of `code_file` there.

    Raises
    ------
    InputError
        If `code_file` is not a path inside the folder, or cannot be read as UTF-8.
    """
    path = PurePosixPath(code_file if isinstance(code_file, str) else "")
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise InputError(
            f"code_file: expected a path inside the metadata's folder, got {code_file!r}"
        )
    return read_text(folder / path)


def fill_manifest(code: str, digest: str) -> str:
    """Return a kernel's code with a manifest's digest inserted, so that the kernel refuses any
    other dataset.

    Parameters
    ----------
    code : str
        A script, or a notebook as JSON.
    digest : str
        SHA-256 of the manifest.

    Raises
    ------
    InputError
        If the code does not have exactly one line for the digest.
    """
    empty, full = 'MANIFEST = ""', f'MANIFEST = "{digest}"'
    # In a notebook the code is in JSON strings.
    for old, new in ((empty, full), (json.dumps(empty)[1:-1], json.dumps(full)[1:-1])):
        if code.count(old) == 1:
            return code.replace(old, new)
    raise InputError(f"code_file: expected one line {empty}, to fill in the manifest's digest")


def stage_kernel(
    source_json: Path, folder: Path, owner: str | None = None, manifest: str = "", name: str = ""
) -> Path:
    """Create a folder that the client can push as a kernel: its metadata and its code.

    Parameters
    ----------
    source_json : Path
        The kernel's metadata; its `code_file` is relative to it.
    folder : Path
        Where to stage the kernel. A kernel staged there earlier is overwritten.
    owner : str, optional
        The Kaggle user name to push under; if None, the placeholder is kept.
    manifest : str
        SHA-256 of the only manifest that the kernel accepts; if empty, it accepts any.
    name : str
        The experiment's name for `fill_owner`.

    Returns
    -------
    Path
        `folder`, with `kernel-metadata.json` and the code at the same relative path.

    Raises
    ------
    InputError
        If the metadata, the code or the owner cannot be used; in that case nothing is written.
    """
    metadata = read_metadata(source_json)
    code_file = metadata.get("code_file")
    try:
        if owner is not None:
            metadata = fill_owner(metadata, owner, name)
        code = read_code(source_json.parent, code_file)
        if manifest:
            code = fill_manifest(code, manifest)
    except InputError as error:
        raise InputError(f"{source_json}: {error}") from None
    # The metadata is written last, so a folder that has it is complete.
    _write(folder / code_file, code)
    write_metadata(folder / KERNEL_METADATA, metadata)
    return folder


def kernel_code(path: Path) -> str:
    """Return the code that Kaggle would run: a script as it is, or a notebook's code cells."""
    text = read_text(path)
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as file:
        file.write(text)
