"""The metadata of the two kernels and of the wheel dataset: read it, fill in its owner, stage it
for the client.

The committed files name the owner `INSERT_USERNAME`. Whoever pushes fills in their own name, on
staged copies only: the committed files stay the same for everybody. Nothing here touches the
network or imports the client.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from humanpref.files import read_json, write_whole
from humanpref.schema import InputError

OWNER_PLACEHOLDER = "INSERT_USERNAME"
"""What stands for the owner's Kaggle user name in the committed files."""

KERNEL_METADATA = "kernel-metadata.json"
DATASET_METADATA = "dataset-metadata.json"
"""The names under which the client looks for a folder's metadata."""

_OWNED_KEYS = ("id", "dataset_sources", "kernel_sources")
"""Where the committed files name what belongs to the owner, as `owner/slug`."""

# The rule that the client states for the owner's part of an `owner/slug` (and checks for models
# alone).
_USER_NAME = re.compile("[a-z0-9]+([-_][a-z0-9]+)*")


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read a metadata file.

    Raises
    ------
    InputError
        If the file cannot be read, is not JSON, or holds something other than an object.
    """
    metadata = read_json(path)
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: expected a JSON object, got {_excerpt(metadata)}")
    return metadata


def check_owner(owner: str) -> None:
    """Raise InputError unless `owner` can be a Kaggle user name, as it stands in the address of the
    user's page."""
    if not _USER_NAME.fullmatch(owner):
        raise InputError(
            "owner: expected a Kaggle user name (lower-case letters and digits, single hyphens or "
            "underscores between them), "
            f"got {owner!r}"
        )


def fill_owner(metadata: dict[str, Any], owner: str) -> dict[str, Any]:
    """Put a Kaggle user name in the placeholder's place.

    Parameters
    ----------
    metadata : dict
        Of a kernel or of a dataset; it is not changed.
    owner : str
        The user name that `id`, `dataset_sources` and `kernel_sources` get where they say
        `INSERT_USERNAME/slug`. An owner who is named already stays: a kernel may mount what belongs
        to others.

    Returns
    -------
    dict
        The filled-in copy.

    Raises
    ------
    InputError
        If `owner` is not a user name, or the placeholder stands anywhere else.
    """
    check_owner(owner)
    filled = {
        key: _fill(value, owner) if key in _OWNED_KEYS else value for key, value in metadata.items()
    }
    for key, value in filled.items():
        if OWNER_PLACEHOLDER in json.dumps([key, value]):
            raise InputError(
                f"key {key}: {OWNER_PLACEHOLDER} is filled in only as the owner of "
                f"{', '.join(_OWNED_KEYS)} "
                f"({OWNER_PLACEHOLDER}/slug), got {_excerpt(value)}"
            )
    return filled


def fill_manifest(code: str, digest: str) -> str:
    """Put a manifest's digest into a kernel's code, a script or a notebook, which then refuses any
    other dataset.

    Raises
    ------
    InputError
        If the code has no line for it, or more than one.
    """
    empty, full = 'MANIFEST = ""', f'MANIFEST = "{digest}"'
    # A notebook has its code in JSON strings.
    for old, new in ((empty, full), (json.dumps(empty)[1:-1], json.dumps(full)[1:-1])):
        if code.count(old) == 1:
            return code.replace(old, new)
    raise InputError(f"expected one line {empty}, for the digest of the dataset's manifest")


def stage_kernel(
    source_json: str | Path, folder: str | Path, owner: str, manifest: str = ""
) -> Path:
    """Make a folder that the client can push as a kernel: the metadata with its owner, and the code
    file.

    Parameters
    ----------
    source_json : path
        The committed metadata; its `code_file` is relative to it.
    folder : path
        Where to stage. It is made if it is not there; a kernel staged there before is replaced.
    owner : str
        The Kaggle user name to push under.
    manifest : str
        The digest of the manifest that the kernel is to insist on; empty: it takes any.

    Returns
    -------
    Path
        `folder`, with `kernel-metadata.json` and the code file at the same relative path.

    Raises
    ------
    InputError
        If the metadata or the code file cannot be used, the owner is not a user name, or `folder`
        is where the committed files are. Nothing is written then.
    """
    source_json, folder = Path(source_json), Path(folder)
    check_owner(owner)
    if folder.resolve() == source_json.parent.resolve():
        raise InputError(
            f"{folder}: expected another folder than that of the committed {source_json.name}"
        )
    committed = read_metadata(source_json)
    try:
        metadata = fill_owner(committed, owner)
    except InputError as error:
        raise InputError(f"{source_json}: {error}") from None
    return _stage(source_json, folder, metadata, manifest)


def copy_kernel(source_json: str | Path, folder: str | Path) -> Path:
    """Do as `stage_kernel` does, with the owner left to be filled in: the copy can be staged as the
    original can."""
    return _stage(Path(source_json), Path(folder), read_metadata(source_json))


def _stage(source_json: Path, folder: Path, metadata: dict[str, Any], manifest: str = "") -> Path:
    code_file = metadata.get("code_file")
    if not isinstance(code_file, str) or not code_file:
        raise InputError(
            f"{source_json}: key code_file: expected the path of the code, got "
            f"{_excerpt(code_file)}"
        )
    # A path out of the folder would be staged, or overwritten, beside it.
    if PurePosixPath(code_file).is_absolute() or ".." in PurePosixPath(code_file).parts:
        raise InputError(
            f"{source_json}: key code_file: expected a path inside the file's own folder, got "
            f"{code_file!r}"
        )
    code = _read_code(source_json, code_file)
    if manifest:
        try:
            code = fill_manifest(code, manifest)
        except InputError as error:
            raise InputError(f"{source_json.parent / code_file}: {error}") from None
    # The metadata comes last: a folder that has it is complete.
    _write(folder / code_file, code)
    write_metadata(folder / KERNEL_METADATA, metadata)
    return folder


def write_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Write a metadata file; its folder is made if it is not there."""
    # ASCII with escapes, since the client reads a dataset's metadata in the machine's encoding,
    # whatever that is.
    _write(path, json.dumps(metadata, indent=2) + "\n")


def _fill(value: Any, owner: str) -> Any:
    """`value` with the placeholder replaced where it is the owner; what is not text is for the
    validator to judge."""
    if isinstance(value, list):
        return [_fill(item, owner) for item in value]
    if isinstance(value, str) and value.startswith(f"{OWNER_PLACEHOLDER}/"):
        return owner + value.removeprefix(OWNER_PLACEHOLDER)
    return value


def _read_code(source_json: Path, code_file: str) -> str:
    path = source_json.parent / code_file
    try:
        # Not read_text: it would turn the line ends into this machine's.
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(
            f"{source_json}: key code_file: {path} cannot be read ({error.strerror})"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source_json}: key code_file: expected UTF-8 text in {path} ({error})"
        ) from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: the folder cannot be made ({error.strerror})") from None
    with write_whole(path) as file:
        file.write(text)


def _excerpt(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
