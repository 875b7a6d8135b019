"""Which exceptions are told in one line, and how a line is shown."""

import errno
import logging

import pytest
from safetensors import SafetensorError

from humanpref.cli.ending import MAX_LINE, Printable, ending_of, one_line

GIB = "you tried to allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is not always installed."""


class TerminatedWorkerError(Exception):
    """Named as joblib's."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OutOfMemoryError("CUDA out of memory. Tried\nto"),
            "out of memory (CUDA out of memory. Tried)",
        ),
        (
            RuntimeError(f"[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: {GIB}"),
            f"out of memory ([enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: {GIB})",
        ),
        (MemoryError(), "out of memory (MemoryError)"),
        (OSError(errno.ENOMEM, "no memory"), "out of memory ([Errno 12] no memory)"),
        (
            TerminatedWorkerError("long"),
            "a process of this command was killed, probably because memory ran out",
        ),
        (
            SafetensorError("Error while serializing: No space left on device (os error 28)"),
            "cannot write (No space left on device)",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, line):
    assert ending_of(error) == (line, 2)


def test_a_missing_library_of_the_neural_models_is_one_line():
    line, code = ending_of(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert line.startswith("this command needs torch: pip install ")
    assert line.rstrip("'").endswith("[torch]")
    assert code == 2
    assert ending_of(ModuleNotFoundError("No module named 'x'", name="humanpref.x")) is None


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), OSError("odd"), KeyError("a")])
def test_defects_are_not(error):
    assert ending_of(error) is None


def test_the_file_and_the_space_are_named(tmp_path):
    line, code = ending_of(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a")))
    assert code == 2
    assert line.startswith(f"{tmp_path / 'a'}: cannot be written (No space left on device; ")
    assert line.endswith(" MiB are free there now)")


def test_a_long_line_keeps_its_start_and_its_end():
    line = one_line(f"rows.csv: row 1: got {'x' * 10**6}; expected less")
    assert MAX_LINE <= len(line) < MAX_LINE + 50
    assert line.startswith("rows.csv: row 1: got xxx")
    assert line.endswith("xxx; expected less")
    assert "(1,000,036 characters)" in line


def test_nothing_of_a_message_controls_the_terminal():
    record = logging.LogRecord("a", 20, "a", 1, "id %s\nok", ("\x1b]0;x\x07\u202e",), None)
    assert Printable().format(record) == r"id \x1b]0;x\x07\u202e" + "\nok"
