"""Report in one line why a command did not succeed: input that cannot be used, a full disk, too
little memory, or a signal."""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from humanpref.extras import install_line
from humanpref.schema import InputError
from humanpref.storage import not_written, storage_failure, written_path

MAX_LINE = 1_200
"""Maximum number of characters of an error message. Longer ones are cut in the middle."""
_KEPT_AT_END = 300
_OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "CUDA out of memory", "CUDA error: out of memory")
# The libraries of the extra `torch`. The modules of the neural models import them directly.
_NEURAL = ("torch", "transformers", "accelerate", "peft", "tokenizers", "sentence_transformers")
# The errors that joblib and concurrent.futures raise if one of their processes is killed.
_KILLED = ("TerminatedWorkerError", "BrokenProcessPool")


class Terminated(KeyboardInterrupt):
    """Raised when the process receives SIGTERM or SIGHUP, so that it cleans up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """Raise `Terminated` on the first SIGTERM or SIGHUP within the block, and ignore others until
    the cleanup is done. Signals that are already ignored (`nohup`) or handled remain so."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in ours:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(number)

    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGHUP) if in_main else ()
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def ending_of(error: BaseException) -> tuple[str, int] | None:
    """Return the message and the exit code for an exception; None if it is a bug in this package.

    Examples
    --------
    >>> ending_of(MemoryError("Unable to allocate 9 GiB"))
    ('out of memory (Unable to allocate 9 GiB)', 2)
    >>> ending_of(Terminated(signal.SIGTERM))
    ('stopped by SIGTERM', 143)
    """
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, ModuleNotFoundError) and error.name in _NEURAL:
        return f"this command needs {error.name}: {install_line('torch')}", 2
    if isinstance(error, Terminated):
        return f"stopped by {signal.Signals(error.number).name}", 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if full := storage_failure(error):
        if place := written_path(full):
            return str(not_written(place, full)), 2
        return f"cannot write ({full.strerror})", 2
    if _is_out_of_memory(error):
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"out of memory ({text})", 2
    if type(error).__name__ in _KILLED:
        return "a process of this command was killed, probably because memory ran out", 2
    if type(error).__name__ == "ProcessEndedError":  # humanpref.runs.workers, imported when needed
        return str(error), 2
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}", 2
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return f"cannot read or write ({error.strerror})", 2
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def one_line(text: str) -> str:
    r"""Return a message on one line of at most `MAX_LINE` characters, with control characters
    escaped, so that an id or a cell from a file can neither fill nor control the terminal.

    Examples
    --------
    >>> one_line("rows.csv: row 1:\n got \x1b[31m")
    'rows.csv: row 1: got \\x1b[31m'
    """
    text = " ".join(text.split())
    if len(text) > MAX_LINE:
        start = text[: MAX_LINE - _KEPT_AT_END]
        text = f"{start} … ({len(text):,} characters) … {text[-_KEPT_AT_END:]}"
    return _printable(text)


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class Printable(logging.Formatter):
    """Format log messages with control characters escaped, except line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(_printable, super().format(record).split("\n")))


def drop_unwritten_output() -> None:
    """Discard output that cannot be written. Otherwise, Python would try to write it again at exit,
    and report a second error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
