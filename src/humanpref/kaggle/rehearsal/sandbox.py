"""A stand-in for Kaggle's machine: run a command without a network, with read-only inputs and its
own environment.

Two modes:

- `bwrap`: bubblewrap without capabilities and with its own file system, in which the kernel's
  folders are at `/kaggle`;
- `none`: no isolation. Only Python's own sockets cannot leave the machine, and the kernel's folders
  stay where they are (`$HUMANPREF_KAGGLE_ROOT` names the place).

Many machines have bubblewrap but forbid what it does, so a trial decides whether it is used.
"""

import contextlib
import logging
import os
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
# Environment variables that a run inherits: number of threads, which GPU, and its driver's place.
_INHERITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_DEVICES = ("nvidia*", "kfd", "dri", "dxg")
# Of /etc the loader's and the resolver's files, so that a failing look-up is about the network and
# not about a missing file.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/etc/passwd", "/etc/group", "/etc/localtime"),
    *("/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/hosts"),
)


@dataclass(frozen=True)
class Box:
    """One kernel's machine.

    Attributes
    ----------
    mode : str
        `bwrap` or `none`.
    root : Path
        Holds `input` and `src` (read-only inside), `working` and `temp` (writable); see `make_box`.
    environment : Path
        The virtual environment that the kernel runs in and installs into; see `make_environment`.
    """

    mode: str
    root: Path
    environment: Path

    @property
    def kaggle(self) -> Path:
        """The path of `/kaggle` inside."""
        return Path("/kaggle") if self.mode == "bwrap" else self.root

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.environment / "bin" / "python")


def make_box(mode: str, root: Path, environment: Path) -> Box:
    """Make the folders of a box."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    return Box(mode, root.resolve(), environment.resolve())


def detect() -> str:
    """Return the mode to use here: `bwrap` if it works, else `none`, with a warning that says
    why."""
    reason = why_no_bubblewrap()
    if reason is None:
        return "bwrap"
    logger.warning(
        "NO ISOLATION: bubblewrap does not work here (%s). The kernels will see this machine's "
        "files and can write their inputs; only Python's own sockets are blocked. Install "
        "bubblewrap (apt-get install bubblewrap) for a dry run that proves something.",
        reason,
    )
    return "none"


def why_no_bubblewrap() -> str | None:
    """Run a trivial command in bubblewrap; return why that fails, or None if it works."""
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
) -> int:
    """Run a command in a box and pass on what it prints, line by line.

    Parameters
    ----------
    box : Box
        Where to run.
    command : sequence of str
        The program and its arguments, with paths as they are inside.
    echo : callable
        Gets each line of stdout and stderr, without its end.
    memory : int, optional
        Bytes of memory that each process may hold; one that holds more is killed, as the system
        does when it runs out of memory.
    variables : mapping of str to str, optional
        More environment variables.

    Returns
    -------
    int
        The exit code; negative for a signal, as in `subprocess`.
    """
    # With a session of its own the command and its children can be ended together, and only they.
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
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode


def _kill_largest(process: subprocess.Popen, memory: int) -> None:
    """Until the process ends, kill each of its descendants that holds more memory than allowed."""
    page = os.sysconf("SC_PAGE_SIZE")
    while process.returncode is None:
        parents, held = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name, in brackets, may hold anything.
                fields = stat.read_text().rpartition(")")[2].split()
                pid = int(stat.parent.name)
                parents[pid], held[pid] = int(fields[1]), int(fields[21]) * page
        family = {process.pid}
        while children := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= children
        for pid in family - {process.pid}:
            if held[pid] > memory:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _environment(box: Box) -> dict[str, str]:
    """Return all environment variables that the command sees."""
    variables = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    variables["PATH"] = f"{box.environment}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    variables["HOME"] = str(box.kaggle / "temp")
    variables["KAGGLE_KERNEL_RUN_TYPE"] = "Batch"
    variables[DRY_RUN] = "1"
    if box.mode != "bwrap":
        variables["HUMANPREF_KAGGLE_ROOT"] = str(box.kaggle)
    return variables


def _bwrap(box: Box) -> list[str]:
    """Return the command line that precedes the kernel's."""
    program = shutil.which("bwrap")
    if program is None:
        raise InputError("bwrap is not installed")
    # Without --cap-drop, root would keep all capabilities, and a kernel could mount its inputs
    # writable.
    argv = [program, "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in (*_SYSTEM, *python_folders()):  # after /tmp, in which a Python may lie
        argv += ["--ro-bind-try", path, path]
    devices = [str(path) for pattern in _DEVICES for path in Path("/dev").glob(pattern)]
    for device in devices:
        argv += ["--dev-bind", device, device]
    if devices:
        argv += ["--ro-bind", "/sys", "/sys"]  # where a GPU's driver looks the device up
    argv += ["--bind", str(box.environment), str(box.environment)]
    for name, bind in _FOLDERS.items():
        argv += [bind, str(box.root / name), f"/kaggle/{name}"]
    return [*argv, "--chdir", "/kaggle/working", "--"]
