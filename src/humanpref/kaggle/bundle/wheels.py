"""The vendored wheels: lock, fetch and check the packages that Kaggle's image lacks.

The kernels install with `--no-index --no-deps`, so pip looks nothing up and resolves nothing there.
Everything is therefore verified here: the image or the bundle must meet every requirement of every
wheel, and every wheel must fit the image's Python and platform. The package's requirements and the
image's versions determine which packages are locked. A bundle's configurations determine which of
the locked packages it contains.
"""

import email.parser
import logging
import re
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from humanpref.extras import install_line
from humanpref.files import sha256, write_whole
from humanpref.kaggle.bundle.checkout import build_wheel, pip
from humanpref.kaggle.bundle.image import (
    GLIBC,
    IMAGE,
    PROTECTED,
    PYTHONS,
    Image,
    environment,
    image_tags,
    platforms,
    read_image,
)
from humanpref.kaggle.bundle.metadata import read_text
from humanpref.schema import InputError

try:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.tags import Tag
    from packaging.utils import canonicalize_name, parse_wheel_filename
    from packaging.version import Version
except ImportError:
    raise InputError(f"this needs the library packaging: {install_line('kaggle')}") from None

logger = logging.getLogger(__name__)

LOCK = "requirements.lock"
"""The lock file in the checkout's `wheels/`."""

EXTRAS = ("torch", "boosted", "nltk")
"""The package's extras whose libraries every bundle's kernels may import."""
OPTIONAL_EXTRAS = ("quantised",)
"""The extras whose libraries a bundle contains only if one of its configurations needs them."""

_LOCK_HEAD = """\
# Wheels that the kernels need and Kaggle's image lacks, with exact versions and hashes, for the
# image's Python and platform.
# Made by `humanpref kaggle lock` from the package's requirements and image.txt; not edited by hand.
"""


@dataclass(frozen=True)
class Wheel:
    """A wheel file. `name` is canonical: lower case, with hyphens."""

    path: Path
    name: str
    version: Version
    tags: frozenset[Tag]
    requires: tuple[Requirement, ...]
    requires_python: SpecifierSet

    def fits(self, python: str) -> bool:
        """Return whether pip would install the wheel in Kaggle's image under a Python version such
        as `3.12`."""
        fits_python = f"{python}.0" in self.requires_python
        return fits_python and not self.tags.isdisjoint(image_tags(python))


def read_wheel(path: Path) -> Wheel:
    """Read a wheel's name and metadata.

    Raises
    ------
    InputError
        If the file is not a wheel.
    """
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            (entry,) = (e for e in archive.namelist() if e.endswith(".dist-info/METADATA"))
            metadata = email.parser.BytesParser().parsebytes(archive.read(entry))
        requires = tuple(map(Requirement, metadata.get_all("Requires-Dist", [])))
        requires_python = SpecifierSet(metadata.get("Requires-Python", ""))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise InputError(
            f"{path}: not a readable wheel ({type(error).__name__}: {error})"
        ) from None
    return Wheel(path, name, version, tags, requires, requires_python)


def read_lock(path: Path) -> dict[str, set[str]]:
    """Read the lock. Return the SHA-256 hashes of each distribution's wheels; a key has the form
    `name==version`.

    Raises
    ------
    InputError
        If a line is not `name==version --hash=sha256:…`.
    """
    locked = {}
    text = re.sub(r"#.*", "", read_text(path)).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        if not re.fullmatch(r"[\w.-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", line):
            raise InputError(f"{path}: expected name==version --hash=sha256:…, got {line[:80]!r}")
        locked[line.split()[0]] = set(re.findall("sha256:(.{64})", line))
    return locked


def write_lock(path: Path, wheels: Sequence[Wheel]) -> None:
    """Write the lock that `read_lock` reads: names, versions and hashes, but no URLs."""
    hashes: dict[str, set[str]] = {}
    for wheel in wheels:
        digests = hashes.setdefault(f"{wheel.name}=={wheel.version}", set())
        digests.add(f" \\\n    --hash=sha256:{sha256(wheel.path)}")
    lines = [requirement + "".join(sorted(hashes[requirement])) for requirement in sorted(hashes)]
    nothing = "# None: the image has every library that humanpref imports."
    with write_whole(path) as file:
        file.write(_LOCK_HEAD + "\n".join(lines or [nothing]) + "\n")


def closure_faults(
    wheels: Sequence[Wheel], image: Image, extras: Collection[str] = EXTRAS
) -> list[str]:
    """Return the reasons why wheels would fail to install or to work in the image without a
    network.

    Parameters
    ----------
    wheels : sequence of Wheel
        The bundle's wheels, the package's own first.
    image : Image
        Kaggle's image.
    extras : collection of str
        The package's extras that the kernels need.

    Returns
    -------
    list of str
        One line for each wheel that would replace torch or numpy, or that is for a different Python
        or platform, and for each unmet requirement; empty if there are none.
    """
    faults = []
    for name in sorted({wheel.name for wheel in wheels}):
        files = [wheel for wheel in wheels if wheel.name == name]
        names = ", ".join(wheel.path.name for wheel in files)
        if name in PROTECTED:
            faults.append(f"{names}: would replace the image's {name}")
        for python in PYTHONS:
            if not any(wheel.fits(python) for wheel in files):
                faults.append(
                    f"{names}: not for the image's Python {python} on Linux x86_64 with glibc "
                    f"{GLIBC[0]}.{GLIBC[1]} (Requires-Python {files[0].requires_python or 'any'})"
                )
    return faults + list(dict.fromkeys(problem for _, problem in unmet(wheels, image, extras)))


def unmet(
    wheels: Sequence[Wheel], image: Image, extras: Collection[str] = EXTRAS
) -> Iterator[tuple[Requirement, str]]:
    """Yield each requirement of the wheels that neither the image nor the wheels meet, and a
    message about it.

    Parameters
    ----------
    wheels : sequence of Wheel
        The package's own wheel first.
    image : Image
        Kaggle's image.
    extras : collection of str
        The package's extras that the kernels need.
    """
    bundled = {wheel.name: wheel for wheel in wheels}
    for python in PYTHONS:
        installed = [(wheel, "") for wheel in wheels] + [(wheels[0], extra) for extra in extras]
        for wheel, extra in installed:  # the loop appends the extras that requirements name
            for requirement in wheel.requires:
                marker = requirement.marker
                if marker and not marker.evaluate({**environment(python), "extra": extra}):
                    continue
                name, owner = canonicalize_name(requirement.name), "the image"
                version = image.version(name)
                if name in bundled:
                    version, owner = bundled[name].version, "the bundle"
                    wanted = ((bundled[name], each) for each in sorted(requirement.extras))
                    installed += [pair for pair in wanted if pair not in installed]
                needs = f"{wheel.path.name}: needs {requirement.name}{requirement.specifier}"
                if version is None:
                    yield requirement, f"{needs}, which neither the image nor the bundle has"
                elif not requirement.specifier.contains(version, prereleases=True):
                    yield requirement, f"{needs}, but {owner} has {version}"


def fetch(folder: Path, ours: Wheel, image: Image, extras: Collection[str] = EXTRAS) -> list[Wheel]:
    """Fetch the locked wheels that the kernels need and the image lacks.

    Parameters
    ----------
    folder : Path
        The folder that contains the lock; the wheels are kept there. A wheel whose hash is not in
        the lock is not used.
    ours : Wheel
        The package's own wheel.
    image : Image
        Kaggle's image.
    extras : collection of str
        The package's extras that the kernels need.

    Returns
    -------
    list of Wheel
        The needed wheels, without `ours`.

    Raises
    ------
    InputError
        If pip cannot fetch a wheel with a locked hash.
    """
    locked = read_lock(folder / LOCK)
    vendored = _vendored(folder)
    pins = {canonicalize_name(pin.partition("==")[0]): pin for pin in locked}
    needed = [ours]
    # A fetched wheel can need further ones.
    while missing := _lacking(needed, image, extras) & pins.keys():
        for pin in (pins[name] for name in sorted(missing)):
            if locked[pin] - vendored.keys():
                _fetch_pinned(folder, pin, locked[pin])
                vendored = _vendored(folder)
            needed += [read_wheel(vendored[d]) for d in sorted(locked[pin] & vendored.keys())]
    return sorted(needed[1:], key=lambda wheel: wheel.path.name)


def _lacking(wheels: Sequence[Wheel], image: Image, extras: Collection[str]) -> set[str]:
    """Return the names of the required distributions that neither Kaggle's image nor the wheels
    provide."""
    names = {canonicalize_name(requirement.name) for requirement, _ in unmet(wheels, image, extras)}
    return names - {wheel.name for wheel in wheels}


def _fetch_pinned(folder: Path, pin: str, digests: set[str]) -> None:
    """Download the wheels of a distribution (`pin`, `name==version`) that have the given hashes."""
    with tempfile.TemporaryDirectory() as temporary:
        lines = Path(temporary, LOCK)
        lines.write_text(pin + "".join(f" --hash=sha256:{each}" for each in sorted(digests)))
        for python in PYTHONS:
            download(python, folder, "--require-hashes", "--requirement", str(lines))


def _vendored(folder: Path) -> dict[str, Path]:
    """Return the wheels in a folder by their SHA-256, except the package's own."""
    paths = sorted({*folder.glob("*.whl")} - {*folder.glob("humanpref-*")})
    return {sha256(path): path for path in paths}


def remake_lock(project: Path, image: Path | None = None) -> list[Wheel]:
    """Find the package's requirements that Kaggle's image does not meet, resolve them with pip, and
    write the lock.

    Parameters
    ----------
    project : Path
        The checkout in which to write the lock.
    image : Path, optional
        A `pip freeze` of Kaggle's image; the checkout's by default.

    Returns
    -------
    list of Wheel
        The locked wheels. Their files were temporary and have been deleted.

    Raises
    ------
    InputError
        If pip finds no compatible wheel, if requirements conflict, or if torch or numpy would have
        to be replaced.
    """
    lock, freeze = project / "wheels" / LOCK, read_image(image or project / "wheels" / IMAGE)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = [read_wheel(build_wheel(project, Path(temporary)))]
        while needs := list(unmet(wheels, freeze, (*EXTRAS, *OPTIONAL_EXTRAS))):
            name, problem = canonicalize_name(needs[0][0].name), needs[0][1]
            if name in PROTECTED:
                raise InputError(f"{lock}: {problem}; a bundle must not replace the image's {name}")
            if any(wheel.name == name for wheel in wheels):
                raise InputError(f"{lock}: {problem}; the requirements of {name} conflict")
            logger.info("%s", problem)
            # Combine all requirements on one distribution, so that its version meets them all.
            specifiers = [str(r.specifier) for r, _ in needs if canonicalize_name(r.name) == name]
            wanted, folder = f"{name}{','.join(filter(None, specifiers))}", Path(temporary, name)
            for python in PYTHONS:
                download(python, folder, wanted)
                found = [read_wheel(path) for path in sorted(folder.glob("*.whl"))]
                wanted = f"{name}=={found[0].version}"  # so that every Python gets the same version
            wheels += found
        write_lock(lock, wheels[1:])
    return wheels[1:]


def download(python: str, target: Path, *what: str) -> None:
    """Download wheels for Kaggle's image into a folder with pip.

    Parameters
    ----------
    python : str
        A Python version such as `3.12`.
    target : Path
        The folder. pip keeps an existing file if its hash is correct.
    what : str
        Requirements, or options of `pip download`.

    Raises
    ------
    InputError
        If pip finds no compatible wheel.
    """
    binary = ("--no-deps", "--only-binary=:all:", "--implementation=cp")
    # Pass every platform name. Given only one, pip would pick ancient versions.
    image = [f"--python-version={python}", *(f"--platform={name}" for name in platforms())]
    if pip("download", *binary, *image, "--dest", str(target), *what):
        raise InputError(
            f"pip found no wheel for the image's Python {python} (its output is above)"
        )
