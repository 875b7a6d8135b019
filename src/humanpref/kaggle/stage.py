"""The wheel dataset and the mounts: what is uploaded, and where Kaggle shows it to a kernel."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

import humanpref
from humanpref.files import read_json, sha256, write_json, write_whole
from humanpref.kaggle.kernels import Run
from humanpref.kaggle.metadata import KERNEL_METADATA
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

MARKER = "humanpref-dataset.json"
"""The manifest by which the kernels find the wheel dataset, and check it."""
MANIFEST_FORMAT = 1

LAYOUTS = ("new", "legacy")
"""Both ways in which Kaggle mounts a kernel's sources."""

_WHEEL_SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src")


def find_project(start: Path | None = None) -> Path:
    """Find the checkout: the folder with the inference kernel's metadata, at or above `start` (default: the current folder),
    else the one that the imported package lies in.

    Raises
    ------
    InputError
        If there is none, as where only the wheel is installed.
    """
    start = (start or Path.cwd()).resolve()
    package = Path(humanpref.__file__).resolve().parent
    for folder in (start, *start.parents, *package.parents):
        if (folder / KERNEL_METADATA).is_file() and (folder / "src" / "humanpref").is_dir():
            return folder
    raise InputError(
        f"{start}: no checkout of humanpref at or above it (a folder with {KERNEL_METADATA} and src/humanpref); "
        "the kernels are part of the checkout, not of the installed package"
    )


def build_wheel(project: Path, out: Path) -> Path:
    """Build the package's wheel into `out`, from a copy of its sources: nothing is left in the checkout.

    No network is used. The same sources give the same bytes.

    Raises
    ------
    InputError
        If pip or setuptools is missing, or the build fails.
    """
    for tool in ("pip", "setuptools"):
        if importlib.util.find_spec(tool) is None:
            raise InputError(f"building the wheel needs {tool}, which {sys.executable} does not have")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        source.mkdir()
        for name in _WHEEL_SOURCES:
            if (project / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(project / name, source / name, ignore=ignored)
            elif (project / name).exists():
                shutil.copy(project / name, source / name)
        built = Path(temporary, "built")
        command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
        command += ["--disable-pip-version-check", "--wheel-dir", str(built), str(source)]
        # The zip's time stamps; 1980 is the earliest that a zip can hold.
        environment = os.environ | {"SOURCE_DATE_EPOCH": "315532800"}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        wheels = list(built.glob("humanpref-*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            logger.error("%s", done.stdout)
            raise InputError(
                f"{project}: the wheel cannot be built, pip ended with {done.returncode} (its output is above)"
            )
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheels[0], out))


def stage_dataset(folder: Path, project: Path, run: Run) -> Path:
    """Lay out the wheel dataset: the package's wheel, the vendored wheels, run.toml, and last the manifest.

    Parameters
    ----------
    folder : Path
        A new or an empty folder.
    project : Path
        The checkout; see `find_project`.
    run : Run
        What the kernels are to run.

    Returns
    -------
    Path
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"{folder}: expected an empty folder to stage the dataset in")
    build_wheel(project, folder)
    for wheel in sorted((project / "wheels").glob("*.whl")):
        if not wheel.name.startswith("humanpref-"):
            shutil.copy(wheel, folder)
    with write_whole(folder / "run.toml") as file:
        file.write(run.to_toml())
    files = [{"name": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(folder.iterdir())]
    manifest = {"format": MANIFEST_FORMAT, "version": humanpref.__version__, "files": files}
    write_json(folder / MARKER, manifest)
    logger.info("%s: %s", folder, ", ".join(f"{file['name']} ({file['bytes']:,} bytes)" for file in files))
    return folder


def wheel_names(dataset: Path) -> list[str]:
    """The distributions that a staged dataset brings, as their wheels spell them."""
    return [
        file["name"].split("-")[0] for file in read_json(dataset / MARKER)["files"] if file["name"].endswith(".whl")
    ]


def mount_path(kind: str, reference: str, layout: str) -> PurePosixPath:
    """Where Kaggle mounts a kernel's source, relative to `/kaggle/input`.

    Parameters
    ----------
    kind : str
        `competition`, `dataset`, `kernel` or `model`.
    reference : str
        As kernel-metadata.json has it: `slug`; `owner/slug`, with or without `/version`;
        `owner/model/framework/variation/version`.
    layout : str
        `new` or `legacy`.

    Raises
    ------
    InputError
        For a reference of another shape.
    """
    parts = reference.split("/")
    lengths = {"competition": (1,), "dataset": (2, 3), "kernel": (2, 3), "model": (5,)}[kind]
    if len(parts) not in lengths or not all(parts):
        raise InputError(f"{KERNEL_METADATA}: {reference!r} does not name a {kind}")
    if kind in ("dataset", "kernel"):
        parts = parts[:2]
    if layout == "legacy":
        return PurePosixPath(*parts[0 if kind == "competition" else 1 :])
    folder = {"competition": "competitions", "dataset": "datasets", "kernel": "notebooks", "model": "models"}[kind]
    return PurePosixPath(folder, *parts)


def kernel_code(path: Path) -> str:
    """The code that Kaggle would run: a script as it stands, a notebook's code cells one after the other."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
