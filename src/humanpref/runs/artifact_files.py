"""The files of an artifact: which ones belong to it, and whether they have changed since they were
written.

`artifact.json` lists the digests of all files, including its own. The digest of a JSON file covers
only its values, so that white space and the order of keys do not matter.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from humanpref.files import is_main_process, read_json, sha256, write_json
from humanpref.schema import InputError

FACTS_FILE = "artifact.json"
DIGESTS = "digests"
"""The key of `artifact.json` that lists the digests, by the files' paths in the artifact."""
CHECKPOINT = ".checkpoint"
"""The end of the name of an unfinished model's checkpoint, which is not part of an artifact."""
RUN_FILE = "run.json"
"""The file that identifies an unfinished run."""
_SETTLED_SECONDS = 2
"""A digest is remembered only if the file's last change is at least this long ago. Two changes in
quick succession may fall into one tick of the file system's clock; the second then leaves the
file's time unchanged."""

_known: dict[tuple, str] = {}


def partial_of(out: Path) -> Path:
    """Return the folder in which an artifact is built until it is complete."""
    return out.with_name(out.name + ".partial")


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write `artifact.json`, with the digests of all files in the folder. This is the last step of
    writing an artifact.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     seal(Path(folder), {"format": 1})
    ...     sorted(read_json(Path(folder, "artifact.json")))
    ['digests', 'format']
    """
    facts = {key: value for key, value in facts.items() if key != DIGESTS}
    digests = {name: content_digest(folder / name) for name in files_in(folder)}
    digests[FACTS_FILE] = _digest_of_facts(facts | {DIGESTS: digests})
    write_json(folder / FACTS_FILE, facts | {DIGESTS: digests})


def check_listed(folder: Path, facts: dict[str, Any]) -> None:
    """Check that `artifact.json` matches its own digest, that all files and models that it lists
    exist, and that the models' folders contain no other files. The files' contents are not checked.

    Raises
    ------
    InputError
        If a check fails, or if a link leads out of the artifact.
    """
    found, digests, members = files_in(folder), facts[DIGESTS], facts["members"]
    if digests[FACTS_FILE] != _digest_of_facts(facts):
        raise InputError(_changed(folder / FACTS_FILE))
    if missing := digests.keys() - {FACTS_FILE, *found}:
        raise InputError(f"{folder / min(missing)}: missing, but listed in {FACTS_FILE}")
    # A model in a folder outside the artifact would have no digests.
    if not members or not digests.keys() >= {f"{member}/config.json" for member in members}:
        raise InputError(
            f"{folder / FACTS_FILE}: key 'members': expected models of this artifact, got {members}"
        )
    inside = tuple(f"{member}/" for member in members)
    if foreign := {name for name in found if name.startswith(inside)} - digests.keys():
        raise InputError(f"{folder / min(foreign)}: not a file of this artifact; remove it")


def check_contents(folder: Path, facts: dict[str, Any], path: Path) -> None:
    """Check the contents of a file in the artifact's folder, or of all files in a folder there,
    against their digests. If `accelerate launch` started several processes, only the main one
    checks; a process that was started for a single GPU trusts its parent process.

    Raises
    ------
    InputError
        If a file was damaged or changed since it was written.
    """
    if not is_main_process():
        return
    name = path.relative_to(folder).as_posix()
    for own, digest in facts[DIGESTS].items():
        inside = own == name or own.startswith(f"{name}/")
        if inside and content_digest(folder / own) != digest:
            raise InputError(_changed(folder / own))


def files_in(folder: Path) -> list[str]:
    """List the files in a folder by their relative paths, except `artifact.json`, hidden ones and
    checkpoints.

    Raises
    ------
    InputError
        For a link that leads out of the folder, and for anything other than files and folders.
    """
    root, found = folder.resolve(), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") or part.endswith(CHECKPOINT) for part in name.parts):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise InputError(f"{path}: a link that leads out of {folder}")
        if path.is_file():
            found.append(name.as_posix())
        elif path.is_symlink() or not path.is_dir():
            raise InputError(f"{path}: expected a file or a folder")
    return [name for name in found if name != FACTS_FILE]


def copy_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy the files with these relative paths from one folder to another; links become files."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file or, if it is JSON, of its values. The result is cached in this
    process until the file changes."""
    stat = path.stat()
    # A program can set a file's modification time (mtime), but not its change time (ctime).
    key = (path.suffix, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key in _known:
        return _known[key]
    digest = value_digest(read_json(path, True)) if path.suffix == ".json" else sha256(path)
    if time.time() - stat.st_ctime > _SETTLED_SECONDS:
        _known[key] = digest
    return digest


def _digest_of_facts(facts: dict[str, Any]) -> str:
    digests = {name: digest for name, digest in facts[DIGESTS].items() if name != FACTS_FILE}
    return value_digest(facts | {DIGESTS: digests})


def value_digest(value: Any) -> str:
    """Return the SHA-256 of a value of plain JSON types; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _changed(path: Path) -> str:
    return f"{path}: damaged or changed since it was written; copy the artifact again"
