"""Probe a sandbox from inside, to prove that a rehearsal had no network, and no access to the
user's credentials."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from humanpref.kaggle.rehearsal.environment import python_folders
from humanpref.kaggle.rehearsal.sandbox import Box, run

SUCCEEDED = "succeeded"


@dataclass(frozen=True)
class Probe:
    """The results of a program's attempts to get out of its sandbox.

    Attributes
    ----------
    mode : str
        The sandbox's mode, `bwrap` or `none`.
    connection, lookup, input_remount, input_write : str
        The result of an attempt to connect to an address, to look up a name, to remount the input
        folder as writable, and then to write to it: `succeeded`, or why it failed.
    unreachable : bool
        Whether the connection failed for lack of a route.
    interfaces : tuple of str
        The network interfaces that are up.
    package : bool
        Whether humanpref can be imported, which must fail before the kernel installs it.
    readable : tuple of str
        The readable places that may hold the user's credentials.
    """

    mode: str
    connection: str
    unreachable: bool
    lookup: str
    interfaces: tuple[str, ...]
    input_remount: str
    input_write: str
    package: bool
    readable: tuple[str, ...] = ()

    def __str__(self) -> str:
        isolated = self.mode != "none" and not self.faults
        return (
            f"{'isolated, as it should be: ' if isolated else ''}"
            f"a connection to the outside {self.connection}, a name look-up {self.lookup}, "
            f"mounting the input writable {self.input_remount}, writing to it {self.input_write}; "
            f"network interfaces: {', '.join(self.interfaces) or 'none'}; readable places that may "
            f"hold credentials: {', '.join(self.readable) or 'none'}"
        )

    @property
    def offline(self) -> bool:
        """Whether it is proven that there is no network.

        A timeout or a refusal proves nothing, since a firewall may cause it on a machine that can
        reach other addresses. The proof is that there is no route at all and no interface except
        the loopback. Mode `none` cannot provide it.
        """
        return self.unreachable and self.lookup != SUCCEEDED and set(self.interfaces) <= {"lo"}

    @property
    def faults(self) -> list[str]:
        """The reasons why this box is not isolated; empty if it is."""
        faults = []
        if self.mode == "none":
            if not self.unreachable or self.lookup == SUCCEEDED:
                faults.append("Python's sockets are not blocked")
        else:
            if not self.offline:
                faults.append("there is no proof that the kernels had no network")
            if self.input_write == SUCCEEDED:
                faults.append("the input folder can be written")
            if self.readable:
                faults.append(f"credentials could be read from {', '.join(self.readable)}")
        if self.package:
            faults.append("humanpref can be imported before the kernel installs it")
        return faults


def probe(box: Box) -> Probe:
    """Try, from inside a box, to reach the network, to remount the inputs as writable and to write
    to them. Also look for readable places that may hold credentials: the environment of other
    processes, the user's home folder, and the box's own environment variables.

    Raises
    ------
    RuntimeError
        If the probe itself fails.
    """
    output: list[str] = []
    home = Path.home()
    mounted = [Path(folder) for folder in (*python_folders(), box.environment)]
    # These folders of the home folder contain the mounted Python, so they are visible in the box.
    ways = {folder.relative_to(home).parts[0] for folder in mounted if home in folder.parents}
    outside = [str(os.getpid()), os.readlink("/proc/self/ns/pid"), str(home), json.dumps([*ways])]
    given = [str(box.kaggle / "input"), *outside]
    code = run(box, [box.python, "-c", _PROBE, *given], output.append)
    if code != 0 or not output:
        raise RuntimeError(
            f"the probe ended with {code} in mode {box.mode}: {'; '.join(output)[-2000:]}"
        )
    found = json.loads(output[-1])
    listed = {name: tuple(found[name]) for name in ("interfaces", "readable")}
    return Probe(mode=box.mode, **{**found, **listed})


# Source text rather than functions, because it runs inside the box, where humanpref is missing.
_PROBE = """
import ctypes, errno, fcntl, importlib.util, json, os, socket, struct, sys

def attempt(action):
    try:
        return action(), "succeeded", None
    except OSError as error:
        return None, f"failed ({error.strerror or error})", error.errno

def connect():
    # An address reserved for documentation, so nothing answers there.
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

def readable():
    _, pid, namespace, home, ways = sys.argv[1:]
    try:
        if os.readlink("/proc/self/ns/pid") == namespace:
            with open(f"/proc/{pid}/environ", "rb") as file:
                file.read()
            yield "the environment of other processes"
    except OSError:
        pass
    try:
        if set(os.listdir(home)) - set(json.loads(ways)):
            yield "the home folder"
    except OSError:
        pass
    for name in os.environ:
        if any(word in name.upper() for word in ("TOKEN", "KEY", "SECRET", "PASSWORD")):
            yield f"the variable {name}"

_, connection, number = attempt(connect)
_, lookup, _ = attempt(lambda: socket.getaddrinfo("example.com", 443))
_, input_remount, _ = attempt(remount)
_, input_write, _ = attempt(write)
print(json.dumps({
    "connection": connection,
    "unreachable": number == errno.ENETUNREACH,
    "lookup": lookup,
    "interfaces": [name for _, name in socket.if_nameindex() if is_up(name)],
    "input_remount": input_remount,
    "input_write": input_write,
    "readable": list(readable()),
    "package": importlib.util.find_spec("humanpref") is not None,
}))
"""
