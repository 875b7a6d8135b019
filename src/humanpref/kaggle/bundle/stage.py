"""The wheel dataset and the mounts: what is uploaded, and where Kaggle shows it to a kernel."""

import importlib.util
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import humanpref
from humanpref.files import damage, read_json, sha256, write_json, write_whole
from humanpref.kaggle.bundle import wheels
from humanpref.kaggle.bundle.image import IMAGE, PYTHONS, is_newer, read_image
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, KERNEL_METADATA
from humanpref.kaggle.contract import MARKER, KernelRun
from humanpref.runs.artifact import FACTS_FILE, Artifact
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

MANIFEST_FORMAT = 1

LAYOUTS = ("new", "legacy")
"""Both ways in which Kaggle mounts a kernel's sources."""

# What `humanpref.text` reads of NLTK's data, and which part of it; none: all.
_NLTK_DATA = {
    "tokenizers/punkt_tab": "english",
    "corpora/stopwords": "english",
    "corpora/wordnet": None,
}
_WHEEL_SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src")


def find_project(start: Path | None = None) -> Path:
    """Find the checkout: the folder with the inference kernel's metadata, at or above `start`
    (default: the current folder), else the one that the imported package lies in.

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
        f"{start}: no checkout of humanpref at or above it (a folder with {KERNEL_METADATA} and "
        "src/humanpref); "
        "the kernels are part of the checkout, not of the installed package"
    )


def build_wheel(project: Path, out: Path) -> Path:
    """Build the package's wheel into `out`, from a copy of its sources: nothing is left in the
    checkout.

    No network is used. The same sources give the same bytes, whatever the times and modes of the
    files.

    Raises
    ------
    InputError
        If pip or setuptools is missing, or the build fails.
    """
    for tool in ("pip", "setuptools"):
        if importlib.util.find_spec(tool) is None:
            raise InputError(
                f"building the wheel needs {tool}, which {sys.executable} does not have"
            )
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        source.mkdir()
        for name in _WHEEL_SOURCES:
            if (project / name).is_dir():
                copy_clean(project / name, source / name)
            elif (project / name).exists():
                shutil.copy(project / name, source / name)
        built = Path(temporary, "built")
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
        ]
        command += ["--disable-pip-version-check", "--wheel-dir", str(built), str(source)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wheels = list(built.glob("humanpref-*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            logger.error("%s", done.stdout)
            raise InputError(
                f"{project}: the wheel cannot be built, pip ended with {done.returncode} (its "
                "output is above)"
            )
        out.mkdir(parents=True, exist_ok=True)
        return _repack(wheels[0], out / wheels[0].name)


def _repack(wheel: Path, target: Path) -> Path:
    """Copy a wheel with its entries in order, of one time and mode, and not compressed: compressors
    differ in their bytes."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        # A wheel's metadata comes last, and its RECORD after that.
        for name in sorted(
            old.namelist(), key=lambda name: (".dist-info/" in name, name.endswith("/RECORD"), name)
        ):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            new.writestr(entry, old.read(name))
    return target


def copy_clean(source: Path, target: Path) -> None:
    """Copy a folder without what tools leave in it: caches, egg-info, hidden and unfinished
    files."""
    shutil.copytree(
        source,
        target,
        ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.partial", ".*"),
    )


def stage_dataset(
    folder: Path,
    project: Path,
    run: KernelRun,
    artifacts: Sequence[Path] = (),
    nltk_data: Sequence[Path] = (),
    image: Path | None = None,
) -> Path:
    """Lay out the wheel dataset and check it: wheels, run.toml, artifacts, NLTK data, and last the
    manifest.

    Parameters
    ----------
    folder : Path
        A new or an empty folder.
    project : Path
        The checkout; see `find_project`.
    run : Run
        What the kernels are to run.
    artifacts : sequence of Path
        Artifacts that the inference kernel is to use, beside the training kernel's.
    nltk_data : sequence of Path
        Folders to look in for NLTK's data, the first that has a resource wins; none: the image's
        own data will do.
    image : Path, optional
        A freeze of Kaggle's image; default: the checkout's `wheels/image.txt`.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    InputError
        If a wheel cannot be built, fetched or installed beside the image, or a file cannot be
        uploaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"{folder}: expected an empty folder to stage the dataset in")
    freeze = read_image(image or project / "wheels" / IMAGE)
    for artifact, name in zip(artifacts, artifact_names(artifacts), strict=True):
        copy_clean(artifact, folder / "artifacts" / name)
    if nltk_data:
        _copy_nltk(nltk_data, folder / "nltk_data")
    with write_whole(folder / "run.toml") as file:
        file.write(run.to_toml())
    vendored = [Path(shutil.copy(path, folder)) for path in wheels.fetch(project / "wheels")]
    ours = build_wheel(project, folder)
    faults = wheels.closure_faults(
        ours, vendored, freeze, wheels.read_lock(project / "wheels" / wheels.LOCK)
    )
    facts = {
        "version": humanpref.__version__,
        "wheels": {
            wheel.name: str(wheel.version) for wheel in map(wheels.read_wheel, [ours, *vendored])
        },
        "image": {
            "date": freeze.date,
            "sha256": sha256(freeze.path),
            "python": list(PYTHONS),
            "versions": {name: str(version) for name, version in sorted(freeze.versions.items())},
        },
    }
    faults += [
        f"{path.relative_to(folder)}: {problem}" for path, problem in version_faults(folder, facts)
    ]
    if faults:
        raise InputError("; ".join(faults))
    return write_manifest(folder, MARKER, facts)


def version_faults(dataset: Path, facts: dict[str, Any]) -> list[tuple[Path, str]]:
    """The artifacts of a dataset that newer libraries wrote than it will be read by, the image's or
    the dataset's own.

    `facts` are the manifest's. torch is apart: what is saved of it are tensors, which any version
    reads.
    """
    faults = []
    for path in sorted(dataset.glob(f"artifacts/*/{FACTS_FILE}")):
        versions = facts["image"]["versions"] | facts["wheels"]
        for name, version in sorted(Artifact.load(path.parent).written_by):
            if name in versions and is_newer(version, versions[name]):
                problem = f"written by {name} {version}, the image has {versions[name]}"
                mend = (
                    "train with the image's versions (constraints.txt), or name a newer freeze "
                    "(bundle --image)"
                )
                faults.append((path, f"{problem}; {mend}"))
    return faults


def artifact_names(artifacts: Sequence[Path]) -> list[str]:
    """Names for the artifacts' folders in the dataset.

    Raises
    ------
    InputError
        If one is not an artifact, or two have the same name.
    """
    names = []
    for path in artifacts:
        Artifact.load(path)
        name = path.resolve().name
        if name in names:
            raise InputError(f"{path}: another artifact is called {name}, too; rename one")
        names.append(name)
    return names


def _copy_nltk(sources: Sequence[Path], target: Path) -> None:
    """Copy what `humanpref.text` needs of NLTK's data, the English part, unpacked: Kaggle unpacks
    archives elsewhere."""
    for resource, part in _NLTK_DATA.items():
        base = next(
            (s for s in sources if (s / resource).is_dir() or (s / f"{resource}.zip").is_file()),
            None,
        )
        if base is None:
            searched, package = ", ".join(map(str, sources)), PurePosixPath(resource).name
            raise InputError(
                f"NLTK data: no {resource} in {searched} (python -m nltk.downloader {package})"
            )
        with tempfile.TemporaryDirectory() as temporary:
            unpacked = base / resource
            if not unpacked.is_dir():
                with zipfile.ZipFile(base / f"{resource}.zip") as archive:
                    archive.extractall(temporary)
                unpacked = Path(temporary, PurePosixPath(resource).name)
            for path in sorted(unpacked.rglob("*")):
                inside = path.relative_to(unpacked)
                if (
                    path.is_file()
                    and path.stat().st_size
                    and inside.parts[0] in (part or inside.parts[0], "README")
                ):
                    (target / resource / inside).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target / resource / inside)


def write_manifest(folder: Path, marker: str, facts: dict[str, Any]) -> Path:
    """Write the marker file: `facts`, and the name, size and SHA-256 of every file in the folder.

    The client does not upload its own metadata file, so that one is left out.

    Raises
    ------
    InputError
        If there is a file that Kaggle would drop or unpack, or that should not be uploaded.
    """
    faults = upload_faults(folder)
    if faults:
        raise InputError("; ".join(faults))
    own = (folder / marker, folder / DATASET_METADATA)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in own]
    files = [
        {
            "name": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in paths
    ]
    write_json(folder / marker, {"format": MANIFEST_FORMAT, **facts, "files": files})
    logger.info(
        "%s: %d files, %s bytes",
        folder.name,
        len(files),
        f"{sum(file['bytes'] for file in files):,}",
    )
    return folder


def upload_faults(folder: Path) -> list[str]:
    """What must not be in a folder that is uploaded as a dataset; empty if all is well."""
    faults = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            faults.append(f"{name}: a link; put the file itself there")
        elif path.is_file() and path.stat().st_size == 0:
            faults.append(f"{name}: an empty file, which Kaggle drops")
        elif path.is_file() and re.search(
            r"\.(zip|tar|tgz|gz|bz2|xz|7z|rar)$", name, re.IGNORECASE
        ):
            faults.append(
                f"{name}: an archive, which Kaggle unpacks on arrival; put its files there"
            )
        elif path.is_file() and (problem := damage(path)):
            faults.append(f"{name}: {problem}")
        elif path.name == "__pycache__" or path.suffix in (".egg-info", ".pyc"):
            faults.append(f"{name}: left there by a tool; remove it")
    return faults


def wheel_names(dataset: Path) -> list[str]:
    """The distributions that a staged dataset brings, as their wheels spell them."""
    return [
        file["name"].split("-")[0]
        for file in read_json(dataset / MARKER)["files"]
        if file["name"].endswith(".whl")
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
    folder = {
        "competition": "competitions",
        "dataset": "datasets",
        "kernel": "notebooks",
        "model": "models",
    }[kind]
    return PurePosixPath(folder, *parts)


def kernel_code(path: Path) -> str:
    """The code that Kaggle would run: a script as it stands, a notebook's code cells one after the
    other."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
