"""A stand-in for Kaggle's machine: run a command without a network, with read-only inputs and its
own environment.

There are two modes:

- `bwrap`: bubblewrap without capabilities and with its own file system, in which the kernel's
  folders are under `/kaggle`;
- `none`: no isolation. Only Python's own sockets are kept from reaching other machines. The
  kernel's folders stay where they are, and `$HUMANPREF_KAGGLE_ROOT` holds their path.

Many machines have bubblewrap installed but do not permit it to work, so a trial run decides whether
it is used.
"""

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from humanpref.kaggle.rehearsal.environment import base_python, python_folders
from humanpref.schema import InputError
from humanpref.training.device import DRY_RUN

logger = logging.getLogger(__name__)

_FOLDERS = {"input": "--ro-bind", "src": "--ro-bind", "working": "--bind", "temp": "--bind"}
# Environment variables that a run inherits: the numbers of threads, the GPUs to use, and the
# location of the GPU driver.
_INHERITED = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"),
)
_DEVICES = ("nvidia*", "kfd", "dri", "dxg")
# Of /etc, only the files of the dynamic loader and of name resolution are listed. With them, a
# look-up of a name can fail only for lack of a network, and not for lack of a file.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/etc/passwd", "/etc/group", "/etc/localtime"),
    *("/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/hosts"),
)


@dataclass
class Kill:
    """A process to kill while a command runs.

    Attributes
    ----------
    line : str
        Regular expression; the process is killed once a line of output contains a match.
    argument : str
        A part of the process's command line. Of several such processes, the youngest is killed.
    done : bool
        Whether a process was killed.
    """

    line: str
    argument: str
    done: bool = False

    def hear(self, line: str, process: subprocess.Popen) -> None:
        """If the line of output matches `self.line`, kill the youngest descendant of `process` with
        `self.argument` in its command line. Only one process is ever killed."""
        if self.done or not re.search(self.line, line):
            return
        for pid in sorted(_descendants(process), reverse=True):
            with contextlib.suppress(OSError):
                if self.argument in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                    os.kill(pid, signal.SIGKILL)
                    self.done = True
                    return


@dataclass(frozen=True)
class Box:
    """The sandbox in which one kernel runs.

    Attributes
    ----------
    mode : str
        `bwrap` or `none`.
    root : Path
        The folder that contains `input` and `src` (read-only inside the box), and `working` and
        `temp` (writable); see `make_box`.
    environment : Path
        The virtual environment that the kernel runs in and installs into; see `make_environment`.
    """

    mode: str
    root: Path
    environment: Path

    @property
    def kaggle(self) -> Path:
        """The path that serves as `/kaggle` inside the box."""
        return Path("/kaggle") if self.mode == "bwrap" else self.root

    @property
    def python(self) -> str:
        """The path of the environment's Python interpreter."""
        return str(self.environment / "bin" / "python")


def make_box(mode: str, root: Path, environment: Path) -> Box:
    """Create the folders of a box under `root`, and return the box."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    return Box(mode, root.resolve(), environment.resolve())


def detect() -> str:
    """Return the mode to use on this machine: `bwrap` if it works; otherwise `none`, after logging
    a warning with the reason."""
    reason = why_no_bubblewrap()
    if reason is None:
        return "bwrap"
    logger.warning(
        "NO ISOLATION: bubblewrap does not work here (%s). The kernels can read this machine's "
        "files, your credentials included, and write to their inputs; only Python's own sockets "
        "are blocked. For a conclusive dry run, install bubblewrap (apt-get install bubblewrap).",
        reason,
    )
    return "none"


def why_no_bubblewrap() -> str | None:
    """Run a trivial command in bubblewrap; return the reason if it fails, None if it works."""
    with tempfile.TemporaryDirectory(prefix="humanpref-box-") as temporary:
        box = make_box("bwrap", Path(temporary), Path(temporary))
        output: list[str] = []
        try:
            code = run(box, [base_python(), "-c", "pass"], output.append)
        except (OSError, InputError) as error:
            return str(error)
        return None if code == 0 else "; ".join(output)[:500] or f"exit code {code}"


def run(
    box: Box,
    command: Sequence[str],
    echo: Callable[[str], None],
    memory: int | None = None,
    variables: Mapping[str, str] | None = None,
    kill: Kill | None = None,
) -> int:
    """Run a command in a box and pass on its output, line by line.

    Parameters
    ----------
    box : Box
        The box to run in.
    command : sequence of str
        The program and its arguments, with paths as seen inside the box.
    echo : callable
        Called with each line of stdout and stderr, without its line ending.
    memory : int, optional
        Memory limit of each process in bytes; a process that exceeds it is killed, as the system
        does when it runs out of memory.
    variables : mapping of str to str, optional
        Additional environment variables.
    kill : Kill, optional
        A process to kill.

    Returns
    -------
    int
        The exit code; negative for a signal, as in `subprocess`.
    """
    # In a separate session, the command and its children can be killed together, and nothing else.
    with subprocess.Popen(
        [*(_bwrap(box) if box.mode == "bwrap" else []), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**_environment(box), **(variables or {})},
        cwd=box.root / "working",
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            if memory is not None:
                threading.Thread(target=_kill_largest, args=[process, memory], daemon=True).start()
            for line in process.stdout:
                echo(line.rstrip())
                if kill is not None:
                    kill.hear(line, process)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode


def _kill_largest(process: subprocess.Popen, memory: int) -> None:
    """Until the process ends, kill each of its descendants that exceeds the memory limit."""
    while process.returncode is None:
        for pid, held in _descendants(process).items():
            if held > memory:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _descendants(process: subprocess.Popen) -> dict[int, int]:
    """Return the memory, in bytes, of each descendant of a process, by process ID."""
    parents, held = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The process name, in parentheses, may contain any character.
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parents[pid], held[pid] = int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    family = {process.pid}
    while children := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= children
    return {pid: held[pid] for pid in family - {process.pid}}


def _environment(box: Box) -> dict[str, str]:
    """Return the environment variables that every command in the box sees."""
    variables = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    variables["PATH"] = f"{box.environment}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    variables["HOME"] = str(box.kaggle / "temp")
    variables["KAGGLE_KERNEL_RUN_TYPE"] = "Batch"
    variables[DRY_RUN] = "1"
    if box.mode != "bwrap":
        variables["HUMANPREF_KAGGLE_ROOT"] = str(box.kaggle)
    return variables


def _bwrap(box: Box) -> list[str]:
    """Return the bubblewrap command line, to be followed by the command to run in the box."""
    program = shutil.which("bwrap")
    if program is None:
        raise InputError("bwrap is not installed")
    # Without --cap-drop, root would keep all capabilities, and a kernel could mount its inputs
    # writable.
    argv = [program, "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in (*_SYSTEM, *python_folders()):  # after /tmp, which may contain a Python
        argv += ["--ro-bind-try", path, path]
    devices = [str(path) for pattern in _DEVICES for path in Path("/dev").glob(pattern)]
    for device in devices:
        argv += ["--dev-bind", device, device]
    if devices:
        argv += ["--ro-bind", "/sys", "/sys"]  # where a GPU's driver looks up the device
    argv += ["--bind", str(box.environment), str(box.environment)]
    for name, bind in _FOLDERS.items():
        argv += [bind, str(box.root / name), f"/kaggle/{name}"]
    return [*argv, "--chdir", "/kaggle/working", "--"]
