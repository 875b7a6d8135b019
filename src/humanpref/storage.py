"""Distinguish a full or read-only file system from other failures, and name the path that could not
be written."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from humanpref.schema import InputError

_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of the operating system that occur only when something is written."""


def storage_failure(error: BaseException | None) -> OSError | None:
    """Return the operating system's error behind an exception from any library if the cause is a
    full or read-only file system, a quota or a limit on file sizes; otherwise, return None.

    Examples
    --------
    >>> storage_failure(RuntimeError("I/O error: No space left on device (os error 28)")).errno
    28
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in _ERRORS:
            return error
        for number in _ERRORS if not isinstance(error, InputError) else ():
            if os.strerror(number) in str(error):  # from a library that is not written in Python
                return OSError(number, os.strerror(number))
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def written_path(failure: OSError) -> str | None:
    """Return the path that a `storage_failure` names, or None if it names none. If a file could not
    be copied, this is the path of the copy, not of the original."""
    named = failure.filename if failure.filename2 is None else failure.filename2
    return None if named is None else os.fsdecode(named)


def not_written(path: str | Path, failure: OSError) -> InputError:
    """Return an InputError which says that a path could not be written because of a
    `storage_failure`, and, if the file system is full, how much space is free there now."""
    reason = failure.strerror
    if failure.errno == errno.ENOSPC:
        place = Path(path).absolute()
        folder = next(parent for parent in (place, *place.parents) if parent.exists())
        reason += f"; {shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free there now"
    return InputError(f"{path}: cannot be written ({reason})")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert a `storage_failure` in the block to an InputError that names `path`. A failure that
    names a file outside the folder of `path` is raised unchanged."""
    try:
        yield
    except Exception as error:
        full = storage_failure(error)
        if full is None:
            raise
        if named := written_path(full):
            place = Path(named).absolute()
            if not place.is_relative_to(path.absolute().parent):
                raise
        raise not_written(path, full) from error
