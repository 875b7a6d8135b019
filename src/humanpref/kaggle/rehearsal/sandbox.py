"""A stand-in for Kaggle's machine: one command without a network, with read-only inputs and an
environment of its own.

Two modes:

- `bwrap`: bubblewrap, with a file system of its own, where the kernel's folders are at `/kaggle`,
  and no capabilities;
- `none`: no isolation. Only Python's own sockets are kept from leaving the machine, and the
  kernel's folders stay where they are (`$HUMANPREF_KAGGLE_ROOT` says where).

bubblewrap is tried, not looked up: many machines have the program and forbid what it does.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from humanpref.schema import InputError
from humanpref.training.device import DRY_RUN

logger = logging.getLogger(__name__)

MODES = ("bwrap", "none")

_FOLDERS = ("input", "src", "working", "temp")
_READ_ONLY = ("input", "src")
# What a run may inherit: how many threads, which GPU, and where the GPU's driver lies.
_INHERITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_DEVICES = ("nvidia*", "kfd", "dri", "dxg")
# The loader's and the resolver's files, so that a failing look-up speaks of the network and not of
# a missing file.
_ETC = (
    "ld.so.cache",
    "alternatives",
    "passwd",
    "group",
    "nsswitch.conf",
    "resolv.conf",
    "hosts",
    "localtime",
)


@dataclass(frozen=True)
class Box:
    """One kernel's machine.

    Attributes
    ----------
    mode : str
        One of `MODES`.
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
        """What `/kaggle` is called inside."""
        return Path("/kaggle") if self.mode == "bwrap" else self.root

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.environment / "bin" / "python")


@dataclass(frozen=True)
class Probe:
    """What a program inside a box found when it tried to get out.

    `connection`, `lookup`, `input_remount` (mounting the input folder writable) and `input_write`,
    tried after it, tell what happened; `interfaces` are the network interfaces that are up;
    `package` says whether humanpref could be imported (it must not be, before the kernel installs
    it).
    """

    mode: str
    connection: str
    connected: bool
    unreachable: bool
    lookup: str
    resolved: bool
    interfaces: tuple[str, ...]
    input_remount: str
    input_write: str
    input_writable: bool
    package: bool

    @property
    def offline(self) -> bool:
        """Whether it is proved that there is no network.

        A time-out, or a refusal, is no proof: a firewall can do that on a machine that reaches
        other addresses. Proof is that the system has no route at all and no interface but the
        loopback. In mode `none` there can be no such proof.
        """
        return self.unreachable and not self.resolved and set(self.interfaces) <= {"lo"}

    @property
    def faults(self) -> list[str]:
        """Why this box is not what it has to be; empty if it is."""
        faults = []
        if self.mode == "none":
            if self.connected or self.resolved or not self.unreachable:
                faults.append("Python's sockets are not blocked")
        else:
            if not self.offline:
                faults.append("there is no proof that the kernels had no network")
            if self.input_writable:
                faults.append("the input folder can be written")
        if self.package:
            faults.append("humanpref can be imported before the kernel installs it")
        return faults


def make_box(mode: str, root: Path, environment: Path) -> Box:
    """Make the folders of a box."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    return Box(mode, root.resolve(), environment.resolve())


def make_environment(
    folder: Path, without: Iterable[str] = ("humanpref",), block_sockets: bool = False
) -> Path:
    """Make a virtual environment that has this interpreter's packages as links, less some.

    Parameters
    ----------
    folder : Path
        The environment's folder, made here.
    without : iterable of str
        The distributions to leave out: those that the kernels install. They could else write
        through the links, into the user's own environment.
    block_sockets : bool
        Let no Python program in it reach another machine (mode `none`).

    Returns
    -------
    Path
        `folder`.
    """
    # An environment made by uv has no pip to link; ensurepip brings its own and needs no network.
    venv.EnvBuilder(symlinks=True, with_pip=importlib.util.find_spec("pip") is None).create(folder)
    target = (
        folder
        / "lib"
        / f"python{sys.version_info.major}.{sys.version_info.minor}"
        / "site-packages"
    )
    unwanted = _files_of({*without, "humanpref"})
    for source in _site_packages():
        unwanted.add(source / "humanpref")  # also where no metadata tells of it
    for source in _site_packages():
        _link(source, target, unwanted)
    if block_sockets:
        (target / "humanpref_no_network.py").write_text(_BLOCK)
        (target / "humanpref_no_network.pth").write_text("import humanpref_no_network\n")
    return folder


def add_distribution(environment: Path, name: str, version: str) -> None:
    """Put an empty package of this name and version into an environment: it can be found and
    imported, and does nothing."""
    (target,) = environment.glob("lib/python3.*/site-packages")
    (target / name).mkdir()
    (target / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
    folder = target / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def detect() -> str:
    """Give the mode to use here: `bwrap` if it works, else `none`, with a warning that says why."""
    reason = why_no_bubblewrap()
    if reason is None:
        return "bwrap"
    logger.warning(
        "NO ISOLATION: bubblewrap does not work here (%s). The kernels will see this machine's "
        "files and can write their "
        "inputs; only Python's own sockets are blocked. Install bubblewrap (apt-get install "
        "bubblewrap) for a dry run "
        "that proves something.",
        reason,
    )
    return "none"


def why_no_bubblewrap() -> str | None:
    """Why bubblewrap does not work on this machine, by running a trivial command in it; None if it
    does."""
    with tempfile.TemporaryDirectory(prefix="humanpref-box-") as temporary:
        box = make_box("bwrap", Path(temporary, "root"), Path(temporary, "environment"))
        box.environment.mkdir()
        output: list[str] = []
        try:
            code = run(box, [_base_python(), "-c", "pass"], output.append)
        except (OSError, InputError) as error:
            return str(error)
        return None if code == 0 else "; ".join(output)[:500] or f"exit code {code}"


def run(
    box: Box,
    command: Sequence[str],
    echo: Callable[[str], None],
    timeout: float | None = None,
    memory: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run a command in a box and pass on what it prints, line by line.

    Parameters
    ----------
    box : Box
        Where to run.
    command : sequence of str
        The program and its arguments, with paths as they are called inside.
    echo : callable
        Gets each line of stdout and stderr, without its end.
    timeout : float, optional
        Seconds after which the command and all that it started are killed.
    memory : int, optional
        Bytes of memory that each process may come to hold; one that holds more is killed, as the
        system does when it has no more.
    variables : mapping of str to str, optional
        More environment variables.

    Returns
    -------
    int
        The exit code; negative for a signal, as `subprocess` has it.
    """
    argv = [*(_bwrap(box) if box.mode == "bwrap" else []), *command]
    # A session of its own, so that the command and its children can be ended together, and only
    # they.
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**_environment(box), **(variables or {})},
        cwd=box.root / "working",
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    alarm = threading.Timer(timeout or 0, _kill, [process])
    watch = threading.Thread(target=_kill_largest, args=[process, memory], daemon=True)
    try:
        if timeout is not None:
            alarm.start()
        if memory is not None:
            watch.start()
        for line in process.stdout:
            echo(line.rstrip())
        return process.wait()
    finally:
        alarm.cancel()
        if process.poll() is None:
            _kill(process)
            process.wait()
        process.stdout.close()


def probe(box: Box) -> Probe:
    """Try, from inside a box, to reach the network, to mount the inputs writable and to write them.

    Raises
    ------
    RuntimeError
        If the probe itself does not run.
    """
    output: list[str] = []
    code = run(
        box, [box.python, "-c", _PROBE, str(box.kaggle / "input")], output.append, timeout=60
    )
    if code != 0 or not output:
        raise RuntimeError(
            f"the probe ended with {code} in mode {box.mode}: {'; '.join(output)[-2000:]}"
        )
    found = json.loads(output[-1])
    return Probe(mode=box.mode, **{**found, "interfaces": tuple(found["interfaces"])})


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill_largest(process: subprocess.Popen, memory: int) -> None:
    """Until the process ends: kill what it started when that holds more memory than allowed."""
    while process.returncode is None:
        for pid in _descendants(process.pid):
            with contextlib.suppress(OSError, IndexError):
                held = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf(
                    "SC_PAGE_SIZE"
                )
                if held > memory:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, pending = [], [pid]
    while pending:
        started = children.get(pending.pop(), [])
        found += started
        pending += started
    return found


def _environment(box: Box) -> dict[str, str]:
    """All that the command gets to see of the environment variables."""
    variables = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    variables["PATH"] = f"{box.environment}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    variables["HOME"] = str(box.kaggle / "temp")
    variables["KAGGLE_KERNEL_RUN_TYPE"] = "Batch"
    variables[DRY_RUN] = "1"
    if box.mode != "bwrap":
        variables["HUMANPREF_KAGGLE_ROOT"] = str(box.kaggle)
    return variables


def _bwrap(box: Box) -> list[str]:
    """The command line that comes before the kernel's."""
    program = shutil.which("bwrap")
    if program is None:
        raise InputError("bwrap is not installed")
    # Started by root it would keep all capabilities, with which a kernel mounts its inputs
    # writable.
    argv = [program, "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            argv += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            argv += ["--ro-bind", name, name]
    for name in _ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    devices = sorted(str(path) for pattern in _DEVICES for path in Path("/dev").glob(pattern))
    for device in devices:
        argv += ["--dev-bind", device, device]
    if devices:
        argv += ["--ro-bind", "/sys", "/sys"]  # where a GPU's driver looks the device up
    for folder in _python_folders():
        argv += ["--ro-bind", folder, folder]
    argv += ["--bind", str(box.environment), str(box.environment)]
    for name in _FOLDERS:
        argv += [
            "--ro-bind" if name in _READ_ONLY else "--bind",
            str(box.root / name),
            f"/kaggle/{name}",
        ]
    return [*argv, "--chdir", "/kaggle/working", "--"]


def _base_python() -> str:
    """The interpreter that this environment was made from."""
    return sys._base_executable


def _python_folders() -> list[str]:
    """What an environment made by `make_environment` needs of this machine: the interpreter's home
    and its packages."""
    home = Path(os.path.realpath(_base_python())).parent.parent
    folders = {sys.base_prefix, str(home), *map(str, _site_packages())}
    # `/usr` is there already, and a home of `/` (a Python in /bin) is no folder of Python's own.
    return sorted(
        folder for folder in folders if folder != "/" and not Path(folder).is_relative_to("/usr")
    )


def _site_packages() -> list[Path]:
    """The folders with this interpreter's third-party packages."""
    folders = [
        *site.getsitepackages(),
        *([site.getusersitepackages()] if site.ENABLE_USER_SITE else []),
    ]
    return [Path(folder) for folder in dict.fromkeys(folders) if Path(folder).is_dir()]


def _files_of(distributions: set[str]) -> set[Path]:
    """Every file of the named distributions, as this interpreter has them installed."""
    files = set()
    for name in distributions:
        for distribution in importlib.metadata.distributions(name=name):
            files.update(
                Path(os.path.normpath(distribution.locate_file(file)))
                for file in distribution.files or ()
            )
    return files


def _link(source: Path, target: Path, unwanted: set[Path]) -> None:
    """Link what is in `source` into `target`; a folder that holds an unwanted file is remade
    without it."""
    mixed = {parent for file in unwanted for parent in file.parents}
    for entry in source.iterdir():
        link = target / entry.name
        if entry in unwanted or entry.name == "__pycache__" or os.path.lexists(link):
            continue
        if entry.suffix == ".pth":
            # Its lines may be folders to search, and one of these may hold our own sources.
            lines = entry.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [
                line
                for line in lines
                if line.startswith("import") or not (source / line.strip() / "humanpref").is_dir()
            ]
            link.write_text("\n".join(kept) + "\n", encoding="utf-8")
        elif entry in mixed:
            link.mkdir()
            _link(entry, link, unwanted)
            if not any(link.iterdir()):
                link.rmdir()
        else:
            link.symlink_to(entry)


# What runs inside, where humanpref is not installed: text, not functions of this module.

_PROBE = """
import ctypes, errno, fcntl, importlib.util, json, os, socket, struct, sys

def attempt(action):
    try:
        return action(), "succeeded", None
    except OSError as error:
        return None, f"failed ({error.strerror or error})", error.errno

def connect():
    # An address reserved for documentation: nobody answers there.
    with socket.socket() as connection:
        connection.settimeout(5)
        connection.connect(("192.0.2.1", 443))

def is_up(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", name.encode(), 0)
        answer = fcntl.ioctl(control, 0x8913, request)  # SIOCGIFFLAGS
    return bool(struct.unpack("16sh22x", answer)[1] & 1)

def remount():
    libc = ctypes.CDLL(None, use_errno=True)
    kept = os.statvfs(sys.argv[1]).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
    flags = ctypes.c_ulong(32 | 4096 | kept)  # MS_REMOUNT, MS_BIND
    if libc.mount(None, os.fsencode(sys.argv[1]), None, flags, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def write():
    path = os.path.join(sys.argv[1], "probe")
    with open(path, "w"):
        pass
    os.unlink(path)

_, connection, number = attempt(connect)
_, lookup, _ = attempt(lambda: socket.getaddrinfo("example.com", 443))
_, input_remount, _ = attempt(remount)
_, input_write, _ = attempt(write)
print(json.dumps({
    "connection": connection,
    "connected": connection == "succeeded",
    "unreachable": number == errno.ENETUNREACH,
    "lookup": lookup,
    "resolved": lookup == "succeeded",
    "interfaces": [name for _, name in socket.if_nameindex() if is_up(name)],
    "input_remount": input_remount,
    "input_write": input_write,
    "input_writable": input_write == "succeeded",
    "package": importlib.util.find_spec("humanpref") is not None,
}))
"""

# Imported by every Python program of an environment made with block_sockets. An audit hook sees the
# calls of every library that uses Python's sockets, and cannot be taken off.
_BLOCK = """
import errno, ipaddress, sys

ADDRESSED = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
LOOKED_UP = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}

def is_local(host):
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False

def hook(event, args):
    if event in ADDRESSED:
        address = args[ADDRESSED[event]]
        # A path is a socket of this machine; None: the socket is connected, and was judged then.
        local = not isinstance(address, tuple) or is_local(address[0])
    elif event in LOOKED_UP:
        local = is_local(args[LOOKED_UP[event]])
    else:
        return
    if not local:
        raise OSError(errno.ENETUNREACH, "blocked by the dry run: it has no network")

sys.addaudithook(hook)
"""
