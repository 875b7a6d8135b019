"""Write files and folders atomically, and compute digests of files."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from safetensors import SafetensorError, safe_open

from humanpref.schema import InputError
from humanpref.storage import not_written, storage_errors, storage_failure

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def _path_errors(path: Path) -> Iterator[None]:
    """Raise any error about `path` (missing, not permitted, too long, not a path) as a one-line
    InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link loop
        full = storage_failure(error)
        raise (
            not_written(path, full)
            if full
            else InputError(
                f"{str(path)!r}: cannot be written ({getattr(error, 'strerror', None) or error})"
            )
        ) from None


def is_main_process() -> bool:
    """Return whether this process writes files. Of the processes that `accelerate launch` starts,
    only the one with rank 0 does."""
    return os.environ.get("RANK", "0") == "0"


STREAMS = frozenset(map(Path, ("/dev/stdout", "/dev/null")))
"""Paths that are written to directly rather than replaced."""


def _check_file(path: Path) -> None:
    """Raise InputError if the path exists but is not a regular file (a folder, a device …)."""
    if path.exists() and not path.is_file():
        kind = "is a folder" if path.is_dir() else "is not a file"
        raise InputError(f"{path}: cannot be written ({kind})")


def _check_folder(folder: Path, path: Path) -> None:
    """Raise InputError, naming `path`, if no file can be created in `folder`. This creates a
    temporary file, since permissions are not conclusive (for example, in /proc)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if storage_failure(error):
            raise
        raise InputError(f"{path}: cannot be written ({folder} is not a writable folder)") from None


def _check_outside(path: Path, inputs: Iterable[str | Path]) -> None:
    """Raise InputError if `path` is one of the `inputs` or inside one."""
    for source in inputs:
        if path.resolve().is_relative_to(Path(source).resolve()):
            raise InputError(f"{path}: is inside {source}, an input; name a path outside it")


def check_writable(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that a file can be written to `path`, and that `path` is neither one of the `inputs`
    nor inside one. Call this before work that takes hours.

    Raises
    ------
    InputError
        If a check fails.
    """
    path, inputs = Path(path), [*inputs]
    with _path_errors(path):
        if path in STREAMS:
            return
        _check_file(path)
        _check_folder(path.resolve().parent, path)
        if any(path.exists() and Path(other).exists() and path.samefile(other) for other in inputs):
            raise InputError(f"{path}: is also the input, which would be overwritten")
        _check_outside(path, inputs)


def _prefix(path: Path) -> str:
    """Return a prefix for temporary files next to `path`: its name, shortened to leave room for a
    suffix."""
    return f".{path.name[:40]}."


@contextlib.contextmanager
def write_whole(path: str | Path) -> Iterator[TextIO]:
    """Open a temporary UTF-8 text file for writing. If the block succeeds, the file replaces
    `path`; otherwise, it is deleted. Temporary files left by processes that were killed while
    writing `path` are also deleted.

    If `path` is a symbolic link, its target is replaced; `STREAMS` are written to directly.
    Characters that UTF-8 cannot encode (as in file names in a different encoding) are escaped in a
    form that JSON can read.

    Raises
    ------
    InputError
        If `path` exists but is not a file, if its folder is missing or not writable, or if there is
        no space.
    """
    path = Path(path)
    text = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    if path in STREAMS:
        with storage_errors(path), open(path, **text) as file:
            yield file
        return
    # Outermost, so that the free space is measured after the temporary file has been deleted.
    with storage_errors(path), contextlib.ExitStack() as held:
        with _path_errors(path):
            _check_file(path)
            target = path.resolve()
            _remove_abandoned(target)
            name = _claim(target, Path.touch, held)
        with open(name, **text) as file:
            yield file
        os.replace(name, target)


def _claim(path: Path, create: Callable[[Path], Any], held: contextlib.ExitStack) -> Path:
    """Create and lock a temporary file or folder next to `path`, and return its path. It is removed
    when `held` is closed. If another process takes it for abandoned and removes it before it is
    locked, create another."""
    while True:
        place = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}{UNFINISHED}")
        if os.path.lexists(place):
            continue
        # Do this before the file exists, since a signal may arrive at any time.
        held.callback(_discard, place)
        create(place)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            held.enter_context(locked(place))
            if place.exists():
                return place


def _discard(place: Path) -> None:
    with contextlib.suppress(OSError):
        remove(place)


def check_new(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that nothing exists at `path`, that a folder can be created there, and that `path` is
    not inside one of the `inputs`. Call this before work that takes hours.

    Raises
    ------
    InputError
        If a check fails.
    """
    path = Path(path)
    with _path_errors(path):
        if os.path.lexists(path):
            raise InputError(f"{path}: already exists; name a new folder, or remove it first")
        # lexists returns False for a name that is too long; lstat raises an error.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
        _check_folder(next(folder for folder in path.resolve().parents if folder.exists()), path)
        _check_outside(path, inputs)


UNFINISHED = ".partial"
"""Suffix of files and folders that are not complete yet."""


@contextlib.contextmanager
def folder_whole(path: str | Path) -> Iterator[Path]:
    """Create a temporary folder. If the block succeeds, the folder is renamed to `path`; otherwise,
    it is deleted. Temporary folders left by processes that were killed while writing `path` are
    also deleted.

    Raises
    ------
    InputError
        If `path` already exists, cannot be created, or is created by another process while the
        block runs, or if there is no space.
    """
    path = Path(path)
    with _path_errors(path):
        check_new(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path) as folder:
        yield folder
        folder.chmod(0o755)
        _rename(folder, path)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Create a private folder next to `path`, with a name derived from that of `path`, and delete
    it after the block unless it was renamed. Such folders left by killed processes are deleted
    before the block.

    Raises
    ------
    InputError
        If the folder cannot be created, or if there is no space for its contents.
    """
    with storage_errors(path), contextlib.ExitStack() as held:
        with _path_errors(path):
            _remove_abandoned(path)
            folder = _claim(path, partial(os.mkdir, mode=0o700), held)
        yield folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock a file or folder for this process while the block runs. Yields False, without a lock, if
    the file system does not support locks. Raises BlockingIOError if another process holds the
    lock.

    The system releases the lock when the process ends, even if it is killed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders for `path` that no running process has locked."""
    pattern = f"{glob.escape(_prefix(path))}????????{UNFINISHED}"
    for left in path.parent.glob(pattern):
        with contextlib.suppress(OSError), locked(left) as ours:
            if ours and not left.is_symlink():
                remove(left)


def _rename(folder: Path, path: Path) -> None:
    try:
        os.replace(folder, path)
    except OSError:
        if not os.path.lexists(path):
            raise
        raise InputError(
            f"{path}: was created by another process while this one was running; this process's "
            "result was discarded"
        ) from None


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


SHARED_BYTES = 2**20
"""Minimum size, in bytes, of the files that `share_equal_files` links."""


def share_equal_files(folders: list[Path]) -> None:
    """Store each large file of the first folder only once, even if other folders have an identical
    file at the same relative path.

    The duplicates are replaced with hard links, so each folder remains complete when it is copied
    or moved. If a link cannot be created, the file remains a separate copy.
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


def write_csv(path: str | Path, table: "pd.DataFrame", **style: Any) -> None:
    """Atomically write a table as a CSV file without its index. `style` has further options of
    `DataFrame.to_csv`."""
    with write_whole(path) as file:
        table.to_csv(file, index=False, lineterminator="\n", **style)


def write_json(path: str | Path, value: Any) -> None:
    """Atomically write a value as indented JSON. Raises ValueError for NaN or infinity, which
    indicate a bug."""
    with write_whole(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: str | Path, unique_keys: bool = False) -> Any:
    """Read a JSON file. Raises a one-line InputError if it cannot be read or is not valid JSON.
    With `unique_keys`, a repeated key is also an error, since JSON readers disagree on which of its
    values counts."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=unique if unique_keys else None)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's keys and values as a dict (`object_pairs_hook` of `json.loads`).
    Raises ValueError if a key appears twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)[:60]!r} appears twice")
    return values


def sha256(path: str | Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(os.fsencode(f"{path.relative_to(folder)}\0{sha256(path)}\n"))
    return digest.hexdigest()


def damage(path: Path) -> str | None:
    """Describe the damage if a file is a git-lfs pointer or an incomplete safetensors file;
    otherwise, return None."""
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return "a git-lfs pointer, not the file itself; fetch it (git lfs pull)"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            return f"an incomplete safetensors file; download or copy it again ({error})"
    return None


_POINTER = b"version https://git-lfs.github.com/spec/"
