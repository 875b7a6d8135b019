"""Write files and folders whole or not at all, and compute digests of files."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError, safe_open

from humanpref.schema import InputError


@contextlib.contextmanager
def _path_errors(path: Path) -> Iterator[None]:
    """Turn errors about a path (missing, not allowed, too long, not a path) into one line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise InputError(
            f"{str(path)!r}: cannot be written ({getattr(error, 'strerror', None) or error})"
        ) from None


def is_main_process() -> bool:
    """Whether this process writes files: one of those that `accelerate launch` starts does."""
    return os.environ.get("RANK", "0") == "0"


STREAMS = frozenset(map(Path, ("/dev/stdout", "/dev/null")))
"""Outputs that are written into, not replaced."""


def _check_file(path: Path) -> None:
    """Raise InputError for a folder, a device or anything else that is not a file."""
    if path.exists() and not path.is_file():
        kind = "is a folder" if path.is_dir() else "is not a file"
        raise InputError(f"{path}: cannot be written ({kind})")


def _check_folder(folder: Path, path: Path) -> None:
    """Check that files can be made in the folder of `path` by making one: permissions alone do not
    tell (/proc)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        raise InputError(
            f"{path}: cannot be written ({folder} is not a folder that can be written)"
        ) from None


def _check_outside(path: Path, inputs: Iterable[str | Path]) -> None:
    for source in inputs:
        if path.resolve().is_relative_to(Path(source).resolve()):
            raise InputError(f"{path}: lies in {source}, which is read; name a place outside it")


def check_writable(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check, before hours of work, that a file can be written at `path`, and that it is neither one
    of the `inputs` nor inside one.

    Raises
    ------
    InputError
        If a check fails.
    """
    path = Path(path)
    with _path_errors(path):
        if path in STREAMS:
            return
        _check_file(path)
        _check_folder(path.resolve().parent, path)
        if any(path.exists() and Path(other).exists() and path.samefile(other) for other in inputs):
            raise InputError(f"{path}: is also the input, which it would replace")
        _check_outside(path, inputs)


def _prefix(path: Path) -> str:
    """Return the prefix of temporary names beside `path`; the whole name may leave no room for a
    suffix."""
    return f".{path.name[:40]}."


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[TextIO]:
    """Open a temporary UTF-8 text file that replaces `path` when the block succeeds and is removed
    when it fails.

    If `path` is a symbolic link, its target is replaced; `STREAMS` are written into. Characters
    that UTF-8 cannot encode (file names in another encoding) are escaped, as JSON reads them.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written.
    """
    path = Path(path)
    text = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    if path in STREAMS:
        with open(path, **text) as file:
            yield file
        return
    with _path_errors(path):
        _check_file(path)
        target = path.resolve()
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target))
    try:
        with open(descriptor, **text) as file:
            yield file
        # mkstemp's files are private to their owner; set the mode that open() would have set.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_new(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check, before hours of work, that a folder can be made at `path`, that nothing exists there,
    and that it is not inside an input.

    Raises
    ------
    InputError
        If a check fails.
    """
    path = Path(path)
    with _path_errors(path):
        if os.path.lexists(path):
            raise InputError(f"{path}: already exists; name a new folder, or remove it first")
        # lexists takes a name that is too long for one that is not there.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
        _check_folder(next(folder for folder in path.resolve().parents if folder.exists()), path)
        _check_outside(path, inputs)


@contextlib.contextmanager
def folder_whole(path: str | Path) -> Iterator[Path]:
    """Make a temporary folder that is renamed to `path` when the block succeeds and removed when it
    fails.

    Raises
    ------
    InputError
        If `path` exists already or cannot be made.
    """
    path = Path(path)
    with _path_errors(path):
        check_new(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
    try:
        folder.chmod(0o755)
        yield folder
        os.replace(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


SHARED_BYTES = 2**20
"""Smaller files are not worth sharing."""


def share_equal_files(folders: list[Path]) -> None:
    """Store large files once that are identical and have the same place in each folder.

    They become hard links: each folder stays complete, copied or moved. Where links cannot be made
    the files stay copies.
    """
    first, *others = folders
    for source in first.rglob("*"):
        if not source.is_file() or source.stat().st_size < SHARED_BYTES:
            continue
        digest = sha256(source)
        for other in others:
            path = other / source.relative_to(first)
            if path.is_file() and sha256(path) == digest:
                link = path.with_name(f".{path.name}.link")
                with contextlib.suppress(OSError):
                    os.link(source, link)
                    os.replace(link, path)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; NaN is a defect, not a number."""
    with write_whole(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; errors become one line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def sha256(path: str | Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(path: Path) -> str | None:
    """Return why a file is damaged, or None: it is a git-lfs pointer, or safetensors that are cut
    off."""
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return "a git-lfs pointer, not the file itself; fetch it (git lfs pull)"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            return f"not whole safetensors, download or copy it again ({error})"
    return None


_POINTER = b"version https://git-lfs.github.com/spec/"
