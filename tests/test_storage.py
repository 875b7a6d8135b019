"""A full disk is told from other failures and names what was not written."""

import errno
import os

import pytest

from humanpref.schema import InputError
from humanpref.storage import not_written, storage_errors, storage_failure


def test_the_cause_counts_and_a_cell_does_not():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    later = RuntimeError("unexpected pos 64")
    later.__context__ = full
    assert storage_failure(later) is full
    assert storage_failure(InputError("row 1: got 'No space left on device'")) is None
    assert storage_failure(OSError(errno.ENOENT, "gone")) is None


def test_a_chain_that_leads_back_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert storage_failure(first) is None


def test_a_read_only_file_system_has_no_space_to_name(tmp_path):
    error = not_written(tmp_path / "deep" / "a", OSError(errno.EROFS, "Read-only file system"))
    assert str(error) == f"{tmp_path / 'deep' / 'a'}: cannot be written (Read-only file system)"


@pytest.mark.parametrize("inside", [True, False])
def test_a_failure_elsewhere_keeps_its_name(tmp_path, inside):
    place = tmp_path / "out" / "a" if inside else tmp_path / "elsewhere"
    failure = OSError(errno.ENOSPC, "full", str(place))
    expected = pytest.raises(InputError if inside else OSError)
    with expected as found, storage_errors(tmp_path / "out" / "b"):
        raise failure
    assert (found.value is failure) != inside


def test_other_failures_pass(tmp_path):
    with pytest.raises(KeyError), storage_errors(tmp_path / "a"):
        raise KeyError("a")
