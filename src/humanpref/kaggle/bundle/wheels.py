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
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from humanpref.files import sha256, write_whole
from humanpref.schema import InputError

try:
    from packaging.markers import default_environment
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.tags import Tag, compatible_tags, cpython_tags
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
    from packaging.version import InvalidVersion, Version
except ImportError:
    raise InputError(
        "wheels: needs the library packaging: pip install 'humanpref[kaggle]'"
    ) from None

logger = logging.getLogger(__name__)

LOCK = "requirements.lock"
IMAGE = "image.txt"
"""The two committed files of the checkout's `wheels/`."""

PYTHONS = ("3.12", "3.13")
"""The image's Python, and the one that is announced."""
GLIBC = (2, 35)
"""The image's C library (Ubuntu 22.04)."""
PROTECTED = ("torch", "numpy")
"""What must stay the image's own: everything compiled in it is built against these two."""
EXTRAS = ("torch", "boosted", "nltk")
"""The extras of the package that the kernels may import."""

# The image's xgboost is the same module with CUDA.
_STANDS_FOR = {"xgboost-cpu": "xgboost"}
_OLD_NAMES = {
    (2, 17): "manylinux2014_x86_64",
    (2, 12): "manylinux2010_x86_64",
    (2, 5): "manylinux1_x86_64",
}

_LOCK_HEAD = """\
# Wheels that the kernels need and Kaggle's image lacks, with exact versions and hashes, for the
# image's Python and platform.
# Made by `humanpref kaggle lock` from the package's requirements and image.txt; not edited by hand.
"""


@dataclass(frozen=True)
class Image:
    """Kaggle's image: where its freeze is from, the freeze's date (`unknown` if the file names
    none), what is installed."""

    path: Path
    date: str
    versions: dict[str, Version]


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


def platforms() -> list[str]:
    """The image's platform by every name that a wheel may have for it, the newest first."""
    names = []
    for minor in range(GLIBC[1], 4, -1):
        names.append(f"manylinux_2_{minor}_x86_64")
        if (2, minor) in _OLD_NAMES:
            names.append(_OLD_NAMES[2, minor])
    return names


def image_tags(python: str) -> frozenset[Tag]:
    """Every tag that a wheel for the image may have, with this Python, as `3.12`."""
    version = tuple(map(int, python.split(".")))
    interpreter = f"cp{python.replace('.', '')}"
    return frozenset(
        [
            *cpython_tags(version, platforms=platforms()),
            *compatible_tags(version, interpreter, platforms()),
        ]
    )


def read_image(path: Path) -> Image:
    """Read a freeze of the image: lines `name==version`; a line `# Date: …` dates it.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no version at all.
    """
    text = _read(path)
    versions = {}
    for line in text.splitlines():
        found = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line.partition("#")[0].strip())
        if found:
            try:
                versions[canonicalize_name(found[1])] = Version(found[2])
            except InvalidVersion:
                raise InputError(f"{path}: {line.strip()!r}: not a version") from None
    if not versions:
        raise InputError(
            f"{path}: no line name==version in it; expected what `pip freeze` prints in a Kaggle "
            "notebook"
        )
    date = re.search(r"^# Date: (.+)$", text, re.MULTILINE)
    return Image(path, date[1].strip() if date else "unknown", versions)


def is_newer(version: str, other: str) -> bool:
    """Whether a version comes after another one, or is none; what a build adds to it (`+cu128`)
    does not count."""
    try:
        return Version(Version(version).public) > Version(Version(other).public)
    except (InvalidVersion, TypeError):
        return True


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
    except InvalidWheelFilename as error:
        raise InputError(f"{path}: not a wheel's name ({error})") from None
    except (OSError, zipfile.BadZipFile, ValueError, InvalidRequirement) as error:
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
    joined = re.sub(r"\\\s*\n", " ", _read(path))
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
    faults += _lock_faults(wheels[1:], locked)
    by_name: dict[str, list[Wheel]] = {}
    for wheel in wheels:
        by_name.setdefault(wheel.name, []).append(wheel)
    faults += [
        f"{name}: in {LOCK}, but there is no wheel of it"
        for name in sorted(locked.keys() - by_name.keys())
    ]
    for name, files in by_name.items():
        if name in PROTECTED:
            faults.append(
                f"{files[0].path.name}: would replace the image's {name} "
                f"{image.versions.get(name, '')}".rstrip()
            )
        if len({wheel.version for wheel in files}) > 1:
            faults.append(
                f"{name}: two versions, "
                f"{' and '.join(sorted(str(wheel.version) for wheel in files))}"
            )
        unfit = [python for python in PYTHONS if not any(wheel.fits(python) for wheel in files)]
        if unfit:
            faults.append(_misfit(files, unfit))
    for python in PYTHONS:
        faults += [
            fault
            for fault in (need.describe() for need in _unmet(wheels, image, python))
            if fault not in faults
        ]
    return faults


def _lock_faults(vendored: Iterable[Wheel], locked: dict[str, Locked]) -> list[str]:
    """Which wheels are not those of the lock."""
    faults = []
    for wheel in vendored:
        entry, digest = locked.get(wheel.name), sha256(wheel.path)
        if entry is None:
            faults.append(
                f"{wheel.path.name}: not in {LOCK}; remake it (humanpref kaggle lock), or remove "
                "the wheel"
            )
        elif entry.version != wheel.version:
            faults.append(
                f"{wheel.path.name}: {LOCK} has version {entry.version}; remove the wheel"
            )
        elif digest not in entry.hashes:
            faults.append(
                f"{wheel.path.name}: its SHA-256 {digest} is not in {LOCK}: this is not the file "
                "that was locked; "
                "remove it to fetch it again"
            )
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

    def describe(self) -> str:
        return (
            f"{self.wheel.path.name}: needs {self.requirement.name}{self.requirement.specifier}, "
            f"{self.found}"
        )


def _unmet(wheels: Sequence[Wheel], image: Image, python: str) -> Iterator[_Need]:
    """Yield what the wheels require and nobody has, for one Python. The first wheel is ours, with
    its extras."""
    bundled = {wheel.name: wheel for wheel in wheels}
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }
    pending = [
        (wheel, extra)
        for wheel in wheels
        for extra in ("", *(EXTRAS if wheel is wheels[0] else ()))
    ]
    done = set()
    while pending:
        wheel, extra = pending.pop()
        if (wheel.path, extra) in done:
            continue
        done.add((wheel.path, extra))
        for requirement in wheel.requires:
            if requirement.marker and not requirement.marker.evaluate(
                {**environment, "extra": extra}
            ):
                continue
            name = canonicalize_name(requirement.name)
            if name in bundled:
                version, owner = bundled[name].version, "the bundle"
                pending += [(bundled[name], wanted) for wanted in requirement.extras]
            else:
                version = image.versions.get(name) or image.versions.get(_STANDS_FOR.get(name, ""))
                owner = "the image"
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
                _download(
                    python,
                    ["--require-hashes", "--requirement", str(requirements)],
                    Path(temporary),
                )
            for path in Path(temporary).glob("*.whl"):
                os.replace(path, wheels / path.name)
    return _vendored(wheels)


def _vendored(wheels: Path) -> list[Path]:
    return [path for path in sorted(wheels.glob("*.whl")) if not path.name.startswith("humanpref-")]


def copy_vendored(wheels: Path, folder: Path) -> list[Path]:
    """Fetch the vendored wheels and copy them into `folder`."""
    return [Path(shutil.copy(path, folder)) for path in fetch(wheels)]


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
        folder = Path(temporary)
        wheels = [read_wheel(ours)]
        while True:
            needs = [need for python in PYTHONS for need in _unmet(wheels, image, python)]
            if not needs:
                break
            name = canonicalize_name(needs[0].requirement.name)
            # All that is asked of one distribution at once, so that its version suits everybody.
            specifier = SpecifierSet()
            for need in needs:
                if canonicalize_name(need.requirement.name) == name:
                    specifier &= need.requirement.specifier
            if name in PROTECTED:
                raise InputError(
                    f"{lock}: {needs[0].describe()}, and {name} must stay the image's own"
                )
            if any(wheel.name == name for wheel in wheels):
                raise InputError(
                    f"{lock}: {needs[0].describe()}; what is required of {name} does not fit "
                    "together"
                )
            logger.info("%s", needs[0].describe())
            wheels += _choose(name, specifier, folder)
        locked = {}
        for wheel in wheels[1:]:
            hashes = {sha256(other.path) for other in wheels[1:] if other.name == wheel.name}
            locked[wheel.name] = Locked(wheel.version, frozenset(hashes))
    nothing = "# None: the image has every library that humanpref imports.\n"
    with write_whole(lock) as file:
        file.write(_LOCK_HEAD + (_lock_lines(locked) or nothing))
    return locked


def _choose(name: str, specifier: SpecifierSet, folder: Path) -> list[Wheel]:
    """Download the newest fitting version, the same for every Python."""
    wheels = {}
    for python in PYTHONS:
        target = folder / f"{name}-{python}"
        pinned = f"=={next(iter(wheels.values())).version}" if wheels else str(specifier)
        _download(python, [f"{name}{pinned}"], target)
        for path in target.glob("*.whl"):
            wheels.setdefault(path.name, read_wheel(path))
    return list(wheels.values())


def _lock_lines(locked: dict[str, Locked]) -> str:
    lines = []
    for name in sorted(locked):
        hashes = [f"--hash=sha256:{digest}" for digest in sorted(locked[name].hashes)]
        lines.append(" \\\n    ".join([f"{name}=={locked[name].version}", *hashes]))
    return "".join(f"{line}\n" for line in lines)


def _download(python: str, what: Iterable[str], target: Path) -> None:
    """Let pip fetch wheels for the image. It gets every platform name: with one alone it would pick
    ancient versions."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(target),
    ]
    command += ["--disable-pip-version-check", "--implementation", "cp", "--python-version", python]
    for platform in platforms():
        command += ["--platform", platform]
    done = subprocess.run(
        [*command, *what], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
        logger.error("%s", done.stdout)
        raise InputError(
            f"pip found no wheel for the image's Python {python}: "
            f"{errors[-1] if errors else 'its output is above'}"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text ({error})") from None
