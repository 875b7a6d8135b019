"""The vendored wheels: what Kaggle's image lacks, locked, fetched, and checked against the image.

The kernels install with `--no-index --no-deps`: nothing is looked for and nothing is resolved
there. So it is all settled here: every requirement of every wheel is met by the image or by the
bundle, and every wheel fits the image's Python and platform. Which distributions are vendored is no
list of ours: it is what the package requires and the image does not have.
"""

import email.parser
import logging
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from humanpref.files import sha256, write_whole
from humanpref.kaggle.bundle.image import (
    GLIBC,
    MARKERS,
    PROTECTED,
    PYTHONS,
    Image,
    image_tags,
    platforms,
    read_text,
)
from humanpref.schema import InputError

try:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.tags import Tag
    from packaging.utils import canonicalize_name, parse_wheel_filename
    from packaging.version import Version
except ImportError:
    raise InputError(
        "wheels: needs the library packaging: pip install 'humanpref[kaggle]'"
    ) from None

logger = logging.getLogger(__name__)

LOCK = "requirements.lock"
"""The checkout's lock, in `wheels/`."""

EXTRAS = ("torch", "boosted", "nltk")
"""The extras of the package that the kernels may import."""

_LOCK_HEAD = """\
# Wheels that the kernels need and Kaggle's image lacks, with exact versions and hashes, for the
# image's Python and platform.
# Made by `humanpref kaggle lock` from the package's requirements and image.txt; not edited by hand.
"""


@dataclass(frozen=True)
class Wheel:
    """A wheel file: what its name and its metadata say."""

    path: Path
    name: str
    """Canonical: lower case, hyphens."""
    version: Version
    tags: frozenset[Tag]
    requires: tuple[Requirement, ...]
    requires_python: SpecifierSet

    def fits(self, python: str) -> bool:
        """Whether pip would install it in the image with this Python, as `3.12`."""
        return f"{python}.0" in self.requires_python and not self.tags.isdisjoint(
            image_tags(python)
        )


@dataclass(frozen=True)
class Locked:
    """One distribution of the lock."""

    version: Version
    hashes: frozenset[str]


def read_wheel(path: Path) -> Wheel:
    """Read a wheel's name and metadata.

    Raises
    ------
    InputError
        If it is not a wheel.
    """
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            (entry,) = (
                entry
                for entry in archive.namelist()
                if re.fullmatch(r"[^/]+\.dist-info/METADATA", entry)
            )
            metadata = email.parser.BytesParser().parsebytes(archive.read(entry))
        requires = tuple(Requirement(text) for text in metadata.get_all("Requires-Dist", []))
        requires_python = SpecifierSet(metadata.get("Requires-Python", ""))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise InputError(
            f"{path}: not a wheel that can be read ({type(error).__name__}: {error})"
        ) from None
    return Wheel(path, name, version, tags, requires, requires_python)


def read_lock(path: Path) -> dict[str, Locked]:
    """Read the lock, by canonical name.

    Raises
    ------
    InputError
        If a line is not `name==version --hash=sha256:…`.
    """
    locked = {}
    joined = re.sub(r"\\\s*\n", " ", read_text(path))
    for line in (line.partition("#")[0].strip() for line in joined.splitlines()):
        if not line:
            continue
        found = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)", line)
        if not found:
            raise InputError(f"{path}: expected name==version --hash=sha256:…, got {line[:80]!r}")
        locked[canonicalize_name(found[1])] = Locked(
            Version(found[2]), frozenset(re.findall(r"sha256:([0-9a-f]{64})", found[3]))
        )
    return locked


def closure_faults(
    ours: Path, vendored: Sequence[Path], image: Image, locked: dict[str, Locked]
) -> list[str]:
    """Why these wheels would not install, or not work, in the image without a network; empty if
    they would.

    Parameters
    ----------
    ours : Path
        The package's own wheel.
    vendored : sequence of Path
        The other wheels of the bundle.
    image : Image
    locked : dict
        What the lock says of the vendored wheels.

    Returns
    -------
    list of str
        One line each: a wheel that is not the locked one, one for another Python or platform, one
        that would replace torch or numpy, one that is missing.
    """
    faults, wheels = [], [read_wheel(ours)]
    for path in vendored:
        try:
            wheels.append(read_wheel(path))
        except InputError as error:
            faults.append(str(error))
    names = {wheel.name for wheel in wheels}
    faults += [
        *_lock_faults(wheels[1:], locked),
        *(
            f"{name}: in {LOCK}, but there is no wheel of it"
            for name in sorted(locked.keys() - names)
        ),
    ]
    for name in sorted(names):
        files = [wheel for wheel in wheels if wheel.name == name]
        if name in PROTECTED:
            faults.append(
                f"{files[0].path.name}: would replace the image's {name} "
                f"{image.versions.get(name, '')}".rstrip()
            )
        unfit = [python for python in PYTHONS if not any(wheel.fits(python) for wheel in files)]
        if unfit:
            faults.append(_misfit(files, unfit))
    return faults + list(dict.fromkeys(str(need) for need in _unmet(wheels, image)))


def _lock_faults(vendored: Sequence[Wheel], locked: dict[str, Locked]) -> list[str]:
    """Which wheels are not those of the lock."""
    faults = []
    for wheel in vendored:
        entry, digest = locked.get(wheel.name), sha256(wheel.path)
        if entry is None:
            problem = f"not in {LOCK}; remake it (humanpref kaggle lock), or remove the wheel"
        elif entry.version != wheel.version:
            problem = f"{LOCK} has version {entry.version}; remove the wheel"
        elif digest not in entry.hashes:
            problem = (
                f"its SHA-256 {digest} is not in {LOCK}: this is not the file that was locked; "
                "remove it to fetch it again"
            )
        else:
            continue
        faults.append(f"{wheel.path.name}: {problem}")
    return faults


def _misfit(files: list[Wheel], pythons: list[str]) -> str:
    names = ", ".join(wheel.path.name for wheel in files)
    tags = sorted({str(tag) for wheel in files for tag in wheel.tags})
    shown = ", ".join(tags[:3]) + (", …" if len(tags) > 3 else "")
    return (
        f"{names}: not for the image's Python {' and '.join(pythons)} on Linux x86_64 with glibc "
        f"{GLIBC[0]}.{GLIBC[1]} "
        f"(tags {shown}; Requires-Python {files[0].requires_python or 'any'})"
    )


@dataclass(frozen=True)
class _Need:
    """A requirement that neither the image nor the wheels meet."""

    wheel: Wheel
    requirement: Requirement
    found: str

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    def __str__(self) -> str:
        return (
            f"{self.wheel.path.name}: needs {self.requirement.name}{self.requirement.specifier}, "
            f"{self.found}"
        )


def _unmet(wheels: Sequence[Wheel], image: Image) -> Iterator[_Need]:
    """Yield what the wheels require and nobody has, Python by Python. The first wheel is ours, with
    its extras."""
    bundled = {wheel.name: wheel for wheel in wheels}
    start = [(wheel, "") for wheel in wheels] + [(wheels[0], extra) for extra in EXTRAS]
    for python in PYTHONS:
        environment = MARKERS | {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "implementation_version": f"{python}.0",
        }
        pending, done = list(start), set()
        while pending:
            wheel, extra = pending.pop()
            if (wheel.path, extra) in done:
                continue
            done.add((wheel.path, extra))
            for requirement in wheel.requires:
                marker = requirement.marker
                if marker and not marker.evaluate({**environment, "extra": extra}):
                    continue
                name, owner = canonicalize_name(requirement.name), "the image"
                version = image.version(name)
                if name in bundled:
                    version, owner = bundled[name].version, "the bundle"
                    pending += [(bundled[name], wanted) for wanted in requirement.extras]
                if version is None:
                    yield _Need(wheel, requirement, "which neither the image nor the bundle has")
                elif not requirement.specifier.contains(version, prereleases=True):
                    yield _Need(wheel, requirement, f"{owner} has {version}")


def fetch(wheels: Path) -> list[Path]:
    """Fetch the lock's wheels into the folder `wheels`, those that are there already apart; give
    every wheel there.

    Raises
    ------
    InputError
        If a wheel there is not the locked one, pip cannot fetch one, or what it got has another
        hash.
    """
    locked = read_lock(wheels / LOCK)
    faults = _lock_faults(map(read_wheel, _vendored(wheels)), locked)
    if faults:
        raise InputError("; ".join(faults))
    there = {sha256(path) for path in _vendored(wheels)}
    missing = {name: entry for name, entry in locked.items() if not entry.hashes <= there}
    if missing:
        with tempfile.TemporaryDirectory(dir=wheels, prefix=".fetch-") as temporary:
            requirements = Path(temporary, "requirements.txt")
            requirements.write_text(_lock_lines(missing), encoding="utf-8")
            for python in PYTHONS:
                _download(python, Path(temporary), "--require-hashes", "-r", str(requirements))
            for path in Path(temporary).glob("*.whl"):
                os.replace(path, wheels / path.name)
    return _vendored(wheels)


def _vendored(wheels: Path) -> list[Path]:
    return [path for path in sorted(wheels.glob("*.whl")) if not path.name.startswith("humanpref-")]


def remake_lock(ours: Path, image: Image, lock: Path) -> dict[str, Locked]:
    """Find what the package requires beyond the image, ask pip for it, and write the lock.

    Parameters
    ----------
    ours : Path
        The package's own wheel.
    image : Image
    lock : Path
        The file to write. It holds names, versions and hashes, and no address.

    Raises
    ------
    InputError
        If pip finds no fitting wheel, or torch or numpy would have to be replaced.
    """
    with tempfile.TemporaryDirectory() as temporary:
        wheels = [read_wheel(ours)]
        while needs := list(_unmet(wheels, image)):
            need, name = needs[0], needs[0].name
            if name in PROTECTED:
                raise InputError(f"{lock}: {need}, and {name} must stay the image's own")
            if any(wheel.name == name for wheel in wheels):
                raise InputError(
                    f"{lock}: {need}; what is required of {name} does not fit together"
                )
            logger.info("%s", need)
            # All that is asked of one distribution at once, so that its version suits everybody.
            wanted = SpecifierSet()
            for other in needs:
                wanted &= other.requirement.specifier if other.name == name else SpecifierSet()
            wheels += _choose(name, str(wanted), Path(temporary, name))
        locked = {}
        for wheel in wheels[1:]:
            hashes = locked[wheel.name].hashes if wheel.name in locked else frozenset()
            locked[wheel.name] = Locked(wheel.version, hashes | {sha256(wheel.path)})
    nothing = "# None: the image has every library that humanpref imports.\n"
    with write_whole(lock) as file:
        file.write(_LOCK_HEAD + (_lock_lines(locked) or nothing))
    return locked


def _choose(name: str, wanted: str, folder: Path) -> list[Wheel]:
    """Download the newest fitting version, the same for every Python."""
    wheels: list[Wheel] = []
    for python in PYTHONS:
        _download(python, folder, f"{name}=={wheels[0].version}" if wheels else f"{name}{wanted}")
        wheels = [read_wheel(path) for path in sorted(folder.glob("*.whl"))]
    return wheels


def _lock_lines(locked: dict[str, Locked]) -> str:
    lines = []
    for name in sorted(locked):
        hashes = [f"--hash=sha256:{digest}" for digest in sorted(locked[name].hashes)]
        lines.append(" \\\n    ".join([f"{name}=={locked[name].version}", *hashes]))
    return "".join(f"{line}\n" for line in lines)


def _download(python: str, target: Path, *what: str) -> None:
    """Let pip fetch wheels for the image. It gets every platform name: with one alone it would pick
    ancient versions."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--implementation", "cp", "--python-version", python]
    command += [f"--platform={platform}" for platform in platforms()]
    done = subprocess.run(
        [*command, "--dest", str(target), *what],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
        logger.error("%s", done.stdout)
        raise InputError(
            f"pip found no wheel for the image's Python {python}: "
            f"{errors[-1] if errors else 'its output is above'}"
        )
