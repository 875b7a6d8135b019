"""Create a rehearsed kernel's Python environment from this interpreter's packages."""

import importlib.metadata
import importlib.util
import os
import site
import sys
import venv
from collections.abc import Iterable
from pathlib import Path


def make_environment(
    folder: Path, without: Iterable[str] = (), block_sockets: bool = False
) -> Path:
    """Create a virtual environment that links to this interpreter's packages, except humanpref.

    Parameters
    ----------
    folder : Path
        The environment's folder, which this function creates.
    without : iterable of str
        Other distributions to leave out, namely those that the kernels install; otherwise pip would
        write through the links into the user's own environment.
    block_sockets : bool
        Whether to keep the environment's Python programs from reaching other machines (mode
        `none`).

    Returns
    -------
    Path
        `folder`.
    """
    # An environment created by uv has no pip to link; ensurepip includes one and needs no network.
    venv.EnvBuilder(symlinks=True, with_pip=importlib.util.find_spec("pip") is None).create(folder)
    (target,) = folder.glob("lib/python3.*/site-packages")
    unwanted = {"__pycache__"}
    for name in {*without, "humanpref"}:
        for distribution in importlib.metadata.distributions(name=name):
            unwanted |= {file.parts[0] for file in distribution.files or ()}
    for entry in (entry for source in site_packages() for entry in source.iterdir()):
        link = target / entry.name
        if entry.name not in unwanted and not os.path.lexists(link):
            link.symlink_to(entry)
    if block_sockets:
        (target / "humanpref_no_network.py").write_text(_BLOCK)
        (target / "humanpref_no_network.pth").write_text("import humanpref_no_network\n")
    return folder


def add_distribution(environment: Path, name: str, version: str) -> None:
    """Put an empty package into an environment; it can be found and imported, but does nothing."""
    (target,) = environment.glob("lib/python3.*/site-packages")
    (target / name).mkdir()
    (target / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
    folder = target / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def base_python() -> str:
    """Return the interpreter from which this environment was created."""
    return sys._base_executable


def python_folders() -> list[str]:
    """Return the folders, except those under `/usr`, that an environment from `make_environment`
    reads: the interpreter's home and its packages."""
    home = Path(os.path.realpath(base_python())).parent.parent
    folders = {sys.base_prefix, str(home), *map(str, site_packages())}
    # `/usr` is mounted anyway, and a home of `/` (a Python in /bin) is not specific to Python.
    return sorted(
        folder for folder in folders if folder != "/" and not Path(folder).is_relative_to("/usr")
    )


def site_packages() -> list[Path]:
    """Return the folders that contain this interpreter's third-party packages."""
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [Path(folder) for folder in dict.fromkeys(folders) if Path(folder).is_dir()]


# Every Python program in an environment created with block_sockets imports this. An audit hook sees
# the calls of every library that uses Python's sockets, and it cannot be removed.
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
        # A path is a local socket; None means that the socket is connected and was checked then.
        local = not isinstance(address, tuple) or is_local(address[0])
    elif event in LOOKED_UP:
        local = is_local(args[LOOKED_UP[event]])
    else:
        return
    if not local:
        raise OSError(errno.ENETUNREACH, "blocked by the dry run: it has no network")

sys.addaudithook(hook)
"""
