"""Stage the wheel dataset: the files that both kernels install and read."""

import itertools
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from humanpref.config import Config
from humanpref.config.gpu import trained_models
from humanpref.files import write_whole
from humanpref.kaggle.bundle import wheels
from humanpref.kaggle.bundle.checkout import build_wheel
from humanpref.kaggle.bundle.image import IMAGE, is_newer, read_image
from humanpref.kaggle.bundle.manifest import write_manifest
from humanpref.kaggle.contract import MARKER, KernelRun, check_classes
from humanpref.models import extras_of, libraries_of
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import FACTS_FILE, copy_files
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

# The NLTK data that `humanpref.text` reads: the English files of each resource.
_NLTK_DATA = {
    "tokenizers/punkt_tab": ("README", "english/*"),
    "corpora/stopwords": ("README", "english"),
    "corpora/wordnet": ("*",),
}


def stage_dataset(
    folder: Path,
    project: Path,
    run: KernelRun,
    artifacts: Sequence[Path] = (),
    nltk_data: Sequence[Path] = (),
    image: Path | None = None,
) -> Path:
    """Stage and check the wheel dataset: wheels, run.toml, artifacts, NLTK data, and finally the
    manifest.

    Parameters
    ----------
    folder : Path
        A new folder.
    project : Path
        The checkout; see `humanpref.kaggle.bundle.checkout.find_project`.
    run : KernelRun
        The run that the kernels are built for.
    artifacts : sequence of Path
        Artifacts that the inference kernel uses in addition to the training kernel's.
    nltk_data : sequence of Path
        Folders to search for NLTK's data; the first match wins. If empty, the image's data is used.
    image : Path, optional
        A `pip freeze` of Kaggle's image; by default the checkout's `wheels/image.txt`.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    InputError
        If a wheel cannot be built, fetched or installed in the image, a file is unsuitable for
        upload, two artifacts have the same name, or an artifact predicts no ties although
        the competition has them.
    """
    folder.mkdir()
    freeze = read_image(image or project / "wheels" / IMAGE)
    for path in artifacts:
        artifact, copy = Artifact.load(path), folder / "artifacts" / path.resolve().name
        check_classes(path, artifact.classes, run.rules)
        if copy.exists():
            raise InputError(
                f"{path}: another artifact is also named {copy.name}; rename one of them"
            )
        artifact.copy(copy)
        if artifact.shortfall:
            logger.warning("%s: %s", path, artifact.shortfall)
    if nltk_data:
        _copy_nltk(nltk_data, folder / "nltk_data")
    with write_whole(folder / "run.toml") as file:
        file.write(run.to_toml())
    ours = wheels.read_wheel(build_wheel(project, folder))
    configs = itertools.chain(*configs_of(folder, run).values())
    extras = sorted({*wheels.EXTRAS, *itertools.chain(*map(extras_of, configs))})
    vendored = wheels.fetch(project / "wheels", ours, freeze, extras)
    for wheel in vendored:
        shutil.copy(wheel.path, folder)
    bundled = [ours, *vendored]
    faults = wheels.closure_faults(bundled, freeze, extras)
    facts = {
        "wheels": {wheel.name: str(wheel.version) for wheel in bundled},
        "image": {
            "versions": {name: str(version) for name, version in sorted(freeze.versions.items())}
        },
    }
    faults += [f"{name}: {fault}" for name, fault in version_faults(folder, facts).items()]
    if faults:
        raise InputError("; ".join(faults))
    return write_manifest(folder, MARKER, facts)


def configs_of(dataset: Path, run: KernelRun) -> dict[str, list[Config]]:
    """Return the configurations of all models that the kernels train or predict with. The keys are
    `preset NAME` and `artifact NAME`."""
    config = run.config
    found = {f"preset {run.preset}": trained_models(config)} if config else {}
    for artifact in staged_artifacts(dataset):
        leaves = artifact.ensemble.leaves()
        found[f"artifact {artifact.folder.name}"] = [leaf.config for leaf in leaves]
    return found


def staged_artifacts(dataset: Path) -> list[Artifact]:
    """Return the dataset's artifacts, sorted by name."""
    paths = sorted(dataset.glob(f"artifacts/*/{FACTS_FILE}"))
    return [Artifact.load(path.parent) for path in paths]


def library_faults(dataset: Path, run: KernelRun, facts: dict[str, Any]) -> list[str]:
    """Return a line for each library that a preset or artifact needs, but neither Kaggle's image
    nor the dataset has. `facts` is the dataset's manifest."""
    present = facts["image"]["versions"].keys() | facts["wheels"].keys()
    return [
        f"{name} needs {library}, which neither the image nor the bundle has; rerun humanpref "
        f"kaggle bundle (and humanpref kaggle lock before it, if wheels/{wheels.LOCK} lacks "
        f"{library}), or choose options that do not need it"
        for name, configs in configs_of(dataset, run).items()
        for library in sorted(set().union(*map(libraries_of, configs)) - present)
    ]


def version_faults(dataset: Path, facts: dict[str, Any]) -> dict[str, str]:
    """Find the dataset's artifacts that were written with newer versions of a library than the
    kernels have.

    Parameters
    ----------
    dataset : Path
        The staged dataset.
    facts : dict
        The dataset's manifest, with the versions of the image and of the dataset's wheels.

    Returns
    -------
    dict of str to str
        The faults, by the name of the artifact's file. The version of torch does not matter, since
        only tensors are saved.
    """
    faults, versions = {}, facts["image"]["versions"] | facts["wheels"]
    for artifact in staged_artifacts(dataset):
        for name, version in sorted(artifact.written_by):
            if name in versions and is_newer(version, versions[name]):
                faults[f"artifacts/{artifact.folder.name}/{FACTS_FILE}"] = (
                    f"written by {name} {version}, but the image has {versions[name]}; train with "
                    "the image's versions (constraints.txt), or name a newer freeze (bundle "
                    "--image)"
                )
    return faults


def _copy_nltk(sources: Sequence[Path], target: Path) -> None:
    """Copy the English part of NLTK's data. Its archives are unpacked here, since Kaggle would
    unpack them into other folders."""
    for resource, patterns in _NLTK_DATA.items():
        with tempfile.TemporaryDirectory() as temporary:
            unpacked = _find_nltk(resource, sources, Path(temporary))
            found = (path for pattern in patterns for path in unpacked.glob(pattern))
            names = [str(path.relative_to(unpacked)) for path in found if path.stat().st_size]
            copy_files(unpacked, target / resource, names)


def _find_nltk(resource: str, sources: Sequence[Path], temporary: Path) -> Path:
    """Return the folder of an NLTK resource. If it is an archive, unpack it into `temporary`."""
    for source in sources:
        archive = source / f"{resource}.zip"
        if (source / resource).is_dir():
            return source / resource
        if archive.is_file():
            shutil.unpack_archive(archive, temporary)
            return temporary / archive.stem
    raise InputError(
        f"NLTK data: no {resource} in {', '.join(map(str, sources))} (python -m nltk.downloader "
        f"{Path(resource).name})"
    )
