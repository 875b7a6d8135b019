"""Find the checkout, copy its folders without clutter, and build the package's wheel."""

import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import humanpref
from humanpref.kaggle.bundle.metadata import KERNEL_METADATA
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

_WHEEL_SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src")


def find_project(start: Path | None = None) -> Path:
    """Find the checkout at or above `start` (by default the current folder), or otherwise above the
    imported package.

    Raises
    ------
    InputError
        If there is none, for example because only the wheel is installed.
    """
    start = (start or Path.cwd()).resolve()
    package = Path(humanpref.__file__).resolve().parent
    for folder in (start, *start.parents, *package.parents):
        if (folder / KERNEL_METADATA).is_file() and (folder / "src" / "humanpref").is_dir():
            return folder
    raise InputError(
        f"{start}: expected a checkout of humanpref at or above it (a folder with "
        f"{KERNEL_METADATA} and src/humanpref), found none; the installed package does not "
        "contain the kernels"
    )


def copy_clean(source: Path, target: Path) -> None:
    """Copy a folder, leaving out caches, egg-info, hidden files and unfinished files."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.partial", ".*")
    shutil.copytree(source, target, ignore=ignored)


def build_wheel(project: Path, out: Path) -> Path:
    """Build the package's wheel in `out` and return its path. Building needs no network and leaves
    nothing in the checkout.

    The same sources produce the same bytes, regardless of the files' timestamps and modes.

    Raises
    ------
    InputError
        If the build fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source, built = Path(temporary, "source"), Path(temporary, "built")
        source.mkdir()
        for path in (project / name for name in _WHEEL_SOURCES):
            if path.is_dir():
                copy_clean(path, source / path.name)
            elif path.exists():
                shutil.copy(path, source)
        offline = ("--no-index", "--no-deps", "--no-build-isolation")
        if code := pip("wheel", *offline, "--wheel-dir", str(built), str(source)):
            raise InputError(
                f"{project}: the wheel cannot be built; pip exited with code {code} (its output is "
                "above)"
            )
        (wheel,) = built.glob("humanpref-*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return normalize_wheel(wheel, out / wheel.name)


def pip(*arguments: str) -> int:
    """Run pip and return its exit code; log its output if it fails."""
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        logger.error("%s", done.stdout)
    return done.returncode


def normalize_wheel(wheel: Path, target: Path) -> Path:
    """Copy a wheel so that its bytes depend only on its files' names and contents. The files are
    sorted, have a fixed timestamp and mode, and are uncompressed, since compressors differ."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        for name in sorted(old.namelist()):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100644 << 16
            new.writestr(entry, old.read(name))
    return target
