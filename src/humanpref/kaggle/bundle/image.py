"""Kaggle's image: its Python, its platform and its installed libraries."""

import re
from dataclasses import dataclass
from pathlib import Path

from humanpref.extras import install_line
from humanpref.kaggle.bundle.metadata import read_text
from humanpref.schema import InputError

try:
    from packaging.tags import Tag, compatible_tags, cpython_tags
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version
except ImportError:
    raise InputError(f"this needs the library packaging: {install_line('kaggle')}") from None

IMAGE = "image.txt"
"""The file in the checkout's `wheels/` that holds the `pip freeze` of the image."""
PYTHONS = ("3.12", "3.13")
"""The image's Python version, and the announced next one."""
GLIBC = (2, 35)
"""The version of the image's C library (Ubuntu 22.04)."""
PROTECTED = ("torch", "numpy")
"""Distributions that are never replaced: every compiled library in the image is built against them.
"""

# Instead of xgboost-cpu, the image has xgboost, which is the same module with CUDA.
_STANDS_FOR = {"xgboost-cpu": "xgboost"}
_OLD_NAMES = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}


@dataclass(frozen=True)
class Image:
    """A `pip freeze` of Kaggle's image: the version of each distribution by canonical name."""

    versions: dict[str, Version]

    def version(self, name: str) -> Version | None:
        """Return the installed version of a distribution; None if it is not installed."""
        return self.versions.get(name) or self.versions.get(_STANDS_FOR.get(name, ""))


def platforms() -> list[str]:
    """Return every platform name that a wheel for Kaggle's image may have, newest first."""
    names = []
    for minor in range(GLIBC[1], 4, -1):
        names.append(f"manylinux_2_{minor}_x86_64")
        if minor in _OLD_NAMES:
            names.append(_OLD_NAMES[minor])
    return names


def image_tags(python: str) -> frozenset[Tag]:
    """Return every tag that a wheel for Kaggle's image may have, given a Python version such as
    `3.12`."""
    version, names = tuple(map(int, python.split("."))), platforms()
    interpreter = f"cp{python.replace('.', '')}"
    return frozenset(
        (*cpython_tags(version, platforms=names), *compatible_tags(version, interpreter, names))
    )


def environment(python: str) -> dict[str, str]:
    """Return the values that pip's environment markers have in Kaggle's image, given a Python
    version such as `3.12`."""
    # By default, markers have the values of the Python that evaluates them.
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def read_image(path: Path) -> Image:
    """Read a `pip freeze` of Kaggle's image. Only lines of the form `name==version` are used.

    Raises
    ------
    InputError
        If the file cannot be read, or has no `name==version` line.
    """
    text = read_text(path)
    versions = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE):
        try:
            versions[canonicalize_name(name)] = Version(version)
        except InvalidVersion:
            raise InputError(f"{path}: {name}: expected a version, got {version!r}") from None
    if not versions:
        raise InputError(
            f"{path}: has no name==version line; expected the output of `pip freeze` in a Kaggle "
            "notebook"
        )
    return Image(versions)


def is_newer(version: str, other: str) -> bool:
    """Return True if `version` is later than `other`, or if either is not a valid version. Local
    parts such as `+cu128` are ignored."""
    try:
        return Version(Version(version).public) > Version(Version(other).public)
    except (InvalidVersion, TypeError):
        return True
