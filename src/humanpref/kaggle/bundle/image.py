"""Kaggle's image: what is installed there, its Python, and the wheels that its platform takes."""

import re
from dataclasses import dataclass
from pathlib import Path

from humanpref.schema import InputError

try:
    from packaging.tags import Tag, compatible_tags, cpython_tags
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version
except ImportError:
    raise InputError(
        "wheels: needs the library packaging: pip install 'humanpref[kaggle]'"
    ) from None

IMAGE = "image.txt"
"""The checkout's freeze of the image, in `wheels/`."""
PYTHONS = ("3.12", "3.13")
"""The image's Python, and the one that is announced."""
GLIBC = (2, 35)
"""The image's C library (Ubuntu 22.04)."""
PROTECTED = ("torch", "numpy")
"""What must stay the image's own: everything compiled in it is built against these two."""

# What markers ask for beside the Python; pip's own resolver answers for the Python that runs it.
MARKERS = {
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}

# The image's xgboost is the same module with CUDA.
_STANDS_FOR = {"xgboost-cpu": "xgboost"}
_OLD_NAMES = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}


@dataclass(frozen=True)
class Image:
    """Kaggle's image: where its freeze is from, the freeze's date (`unknown` if the file names
    none), what is installed."""

    path: Path
    date: str
    versions: dict[str, Version]

    def version(self, name: str) -> Version | None:
        """What the image has of a distribution, by its canonical name."""
        return self.versions.get(name) or self.versions.get(_STANDS_FOR.get(name, ""))


def platforms() -> list[str]:
    """The image's platform by every name that a wheel may have for it, the newest first."""
    return [
        name
        for minor in range(GLIBC[1], 4, -1)
        for name in (f"manylinux_2_{minor}_x86_64", _OLD_NAMES.get(minor))
        if name
    ]


def image_tags(python: str) -> frozenset[Tag]:
    """Every tag that a wheel for the image may have, with this Python, as `3.12`."""
    version, names = tuple(map(int, python.split("."))), platforms()
    interpreter = f"cp{python.replace('.', '')}"
    return frozenset(
        (*cpython_tags(version, platforms=names), *compatible_tags(version, interpreter, names))
    )


def read_image(path: Path) -> Image:
    """Read a freeze of the image: lines `name==version`; a line `# Date: …` dates it.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no version at all.
    """
    text = read_text(path)
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


def read_text(path: Path) -> str:
    """A file's UTF-8 text, or InputError in one line."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text ({error})") from None
