"""The bundle: all that is pushed to Kaggle, staged as folders that the client takes as they are.

::

    BUNDLE/
      dataset/          the wheel dataset: wheels, run.toml, artifacts, NLTK data, manifest,
                        dataset-metadata.json
      train/, infer/    the kernels: kernel-metadata.json and the code; train/ only where something
                        is trained
      weights-NAME/     a backbone's weights, a dataset of its own (`humanpref kaggle weights`)

Everything says `INSERT_USERNAME` where the owner belongs; whoever pushes fills it in on the way.
The same checkout, artifacts and options give the same bytes.
"""

import importlib.util
import logging
import os
import re
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from humanpref.config import load_config
from humanpref.files import read_json, write_whole
from humanpref.kaggle.bundle import wheels
from humanpref.kaggle.bundle.image import IMAGE, read_image
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    copy_kernel,
    read_metadata,
    write_metadata,
)
from humanpref.kaggle.bundle.stage import build_wheel, stage_dataset, write_manifest
from humanpref.kaggle.contract import MARKER, KernelRun
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

KERNELS = {"train": f"kernel/train/{KERNEL_METADATA}", "infer": KERNEL_METADATA}
"""The committed metadata of the two kernels, by the folder that they get in the bundle."""
DATASET_FOLDER = "dataset"


def kernels_of(run: KernelRun) -> tuple[str, ...]:
    """The kernels of a bundle: without a preset nothing is trained."""
    return tuple(name for name in KERNELS if run.preset or name != "train")


def bundle(
    project: Path,
    out: Path,
    run: KernelRun,
    artifacts: Sequence[Path] = (),
    nltk_data: Sequence[Path] | None = None,
    image: Path | None = None,
) -> Path:
    """Stage the wheel dataset and both kernels.

    Parameters
    ----------
    project : Path
        The checkout; see `humanpref.kaggle.bundle.stage.find_project`.
    out : Path
        The bundle's folder. An earlier bundle there is replaced, its weights apart.
    run : Run
        What the kernels are to run; without a preset there is no training kernel.
    artifacts : sequence of Path
        Artifacts to predict with, alone or beside the training kernel's.
    nltk_data : sequence of Path, optional
        Folders to take NLTK's data from, the usual ones if empty; None: no data, the image has its
        own.
    image : Path, optional
        A freeze of Kaggle's image; default: the checkout's.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If something cannot be used, or would not install in the image; an earlier bundle stays as
        it was then.
    """
    if out.exists() and not (out / DATASET_FOLDER / MARKER).is_file():
        raise InputError(
            f"{out}: exists and is not a bundle; name another folder with --out, or remove it"
        )
    if not (run.preset or artifacts):
        raise InputError("bundle: nothing to predict with; name a preset to train, or an artifact")
    config = load_config(run.preset, None, list(run.overrides)) if run.preset else None
    if nltk_data is not None:
        nltk_data = list(nltk_data) or usual_nltk_data()
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.")
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror})") from None
    with temporary:
        new, old = Path(temporary.name, "new"), Path(temporary.name, "old")
        dataset = stage_dataset(
            new / DATASET_FOLDER, project, run, artifacts, nltk_data or (), image
        )
        write_metadata(dataset / DATASET_METADATA, read_metadata(project / DATASET_METADATA))
        for name in kernels_of(run):
            copy_kernel(project / KERNELS[name], new / name)
        if not run.preset:
            trained = read_metadata(project / KERNELS["train"])["id"]
            metadata = read_metadata(new / "infer" / KERNEL_METADATA)
            sources = [source for source in metadata.get("kernel_sources", []) if source != trained]
            write_metadata(new / "infer" / KERNEL_METADATA, metadata | {"kernel_sources": sources})
        old.mkdir()
        out.mkdir(exist_ok=True)
        for name in (DATASET_FOLDER, *KERNELS):
            if (out / name).exists():
                os.replace(out / name, old / name)
            if (new / name).exists():
                os.replace(new / name, out / name)
    if (
        config
        and getattr(config.model, "backbone", "scratch") not in ("", "scratch")
        and not run.backbone
    ):
        logger.warning(
            "preset %s needs a backbone's weights; next: humanpref kaggle weights FOLDER",
            run.preset,
        )
    return out


def lock(project: Path, image: Path | None = None) -> dict[str, wheels.Locked]:
    """Remake the checkout's lock of vendored wheels; see
    `humanpref.kaggle.bundle.wheels.remake_lock`."""
    with tempfile.TemporaryDirectory() as temporary:
        ours = build_wheel(project, Path(temporary))
        folder = project / "wheels"
        return wheels.remake_lock(ours, read_image(image or folder / IMAGE), folder / wheels.LOCK)


def usual_nltk_data() -> list[Path]:
    """The folders where NLTK looks for its data on this machine.

    Raises
    ------
    InputError
        If NLTK is not installed.
    """
    if importlib.util.find_spec("nltk") is None:
        raise InputError(
            "--nltk: needs nltk to know where its data is (pip install 'humanpref[nltk]'), or name "
            "the folder"
        )
    import nltk

    return [Path(path) for path in nltk.data.path]


def name_weights(source: str, bundle: Path) -> None:
    """Let the bundle's kernels use a backbone that Kaggle has:
    `owner/model/framework/variation/VERSION`."""
    check_is_bundle(bundle)
    use_weights(bundle, "model", source, "/".join(source.split("/")[1:4]))


def use_weights(bundle: Path, kind: str, source: str, backbone: str, manifest: str = "") -> None:
    """Name a backbone's source in the staged kernels' metadata, and the backbone and its manifest's
    digest in run.toml."""
    key = f"{kind}_sources"
    for name in kernels_of(read_run(bundle / DATASET_FOLDER)):
        path = bundle / name / KERNEL_METADATA
        metadata = read_metadata(path)
        if source not in metadata.get(key, []):
            write_metadata(path, metadata | {key: [*metadata.get(key, []), source]})
    dataset = bundle / DATASET_FOLDER
    run = replace(read_run(dataset), backbone=backbone, backbone_manifest=manifest)
    with write_whole(dataset / "run.toml") as file:
        file.write(run.to_toml())
    manifest = read_json(dataset / MARKER)
    write_manifest(
        dataset, MARKER, {key: manifest[key] for key in manifest if key not in ("format", "files")}
    )


def is_model_source(text: str) -> bool:
    """Whether this is how Kaggle names a model's files:
    `owner/model/framework/variation/VERSION`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+){3}/[1-9][0-9]*", text) is not None


def check_is_bundle(bundle: Path) -> None:
    """Raise InputError where no bundle is."""
    if not (bundle / DATASET_FOLDER / MARKER).is_file():
        raise InputError(
            f"{bundle}: not a bundle; make one first: humanpref kaggle bundle --out {bundle}"
        )


def read_run(dataset: Path) -> KernelRun:
    """The dataset's run.toml.

    Raises
    ------
    InputError
        If it is not there or cannot be used.
    """
    path = dataset / "run.toml"
    try:
        return KernelRun.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
