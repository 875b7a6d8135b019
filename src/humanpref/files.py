"""Files and folders that are written whole or not at all, and digests of them."""

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
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(path)!r}: cannot be written ({getattr(error, 'strerror', None) or error})"
        ) from None


def is_main_process() -> bool:
    """Whether this process writes: of those that `accelerate launch` started, one does."""
    return os.environ.get("RANK", "0") == "0"


def _real(path: Path) -> Path:
    """Where a symbolic link leads: it stays, and what it points to is replaced."""
    return Path(os.path.realpath(path))


STREAMS = frozenset(map(Path, ("/dev/stdout", "/dev/null")))
"""Outputs that are written into, not replaced."""


def _check_file(path: Path) -> None:
    """Raise InputError for a folder, a device or anything else that is not a file."""
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path}: cannot be written ({'is a folder' if path.is_dir() else 'is not a file'})"
        )


def _check_folder(folder: Path, path: Path) -> None:
    """Check that files can be made in the folder of `path`, by making one: rights do not say
    everything (/proc)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        raise InputError(
            f"{path}: cannot be written ({folder} is not a folder that can be written)"
        ) from None


def check_writable(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check, before hours of work, that a file can be written at `path`, and that it is none of the
    `inputs`, nor in one.

    Raises
    ------
    InputError
        If it cannot, or is.
    """
    path = Path(path)
    with _path_errors(path):
        if path in STREAMS:
            return
        _check_file(path)
        _check_folder(_real(path).parent, path)
        if any(path.exists() and Path(other).exists() and path.samefile(other) for other in inputs):
            raise InputError(f"{path}: is also the input, which it would replace")
        _check_outside(path, inputs)


def _check_outside(path: Path, folders: Iterable[str | Path]) -> None:
    for folder in folders:
        if _real(path).is_relative_to(_real(Path(folder))):
            raise InputError(f"{path}: lies in {folder}, which is read; name a place outside it")


def _prefix(path: Path) -> str:
    """The prefix of temporary names beside `path`: not its whole name, which may be the longest
    allowed."""
    return f".{path.name[:40]}."


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file beside `path` that takes its place when the block ends well, and is
    gone when it does not.

    Where `path` is a symbolic link, what it points to is replaced; `STREAMS` are written into. What
    UTF-8 cannot hold (names of files in another encoding) becomes an escape, which JSON reads.

    Raises
    ------
    InputError
        If the folder is not there or cannot be written.
    """
    path = Path(path)
    if path in STREAMS:
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        return
    with _path_errors(path):
        _check_file(path)
        target = _real(path)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target))
    try:
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        # mkstemp makes files that only their owner may read; give the mode that open() would have
        # given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def check_new(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check, before hours of work, that a folder can be made at `path`, that nothing is there, and
    that it is in no input.

    Raises
    ------
    InputError
        If it cannot, something is, or it is.
    """
    path = Path(path)
    with _path_errors(path):
        if os.path.lexists(path):
            raise InputError(f"{path}: already exists; name a new folder, or remove it first")
        # lexists takes a name that is too long for one that is not there.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
        _check_folder(next(folder for folder in _real(path).parents if folder.exists()), path)
        _check_outside(path, inputs)


@contextlib.contextmanager
def folder_whole(path: str | Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its name when the block ends well, and is gone when it
    does not.

    Raises
    ------
    InputError
        If `path` is there already, or cannot be made.
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
    """Keep large files that are byte for byte the same, and stand at the same place in each folder,
    once on the disk.

    They become hard links: each folder stays whole by itself, copied or moved. Where links cannot
    be made the files stay copies.
    """
    first, *others = folders
    for source in (
        path for path in first.rglob("*") if path.is_file() and path.stat().st_size >= SHARED_BYTES
    ):
        own = sha256(source)
        for other in others:
            path = other / source.relative_to(first)
            if path.is_file() and sha256(path) == own:
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
    """The file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(path: Path) -> str | None:
    """Why a file is damaged, or None: a git-lfs pointer in its place, or safetensors that are cut
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
