"""The bundle: everything that is pushed to Kaggle, staged as folders that the client can upload.

::

    BUNDLE/
      dataset/          the wheel dataset: wheels, run.toml, artifacts, NLTK data, manifest,
                        dataset-metadata.json
      train/, infer/    the kernels: kernel-metadata.json and the code; train/ only if something is
                        trained
      weights-NAME/     a backbone's weights, as a separate dataset (`humanpref kaggle weights`)

The owner is `INSERT_USERNAME` everywhere; a push fills in the user name as it uploads. The same
checkout, artifacts and options produce the same bytes.
"""

import itertools
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from humanpref.config.gpu import uses_gpu
from humanpref.config.loading import read_toml
from humanpref.extras import install_line
from humanpref.files import read_json, sha256, temporary_folder, write_whole
from humanpref.kaggle.bundle.manifest import write_manifest
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    read_metadata,
    stage_kernel,
    write_metadata,
)
from humanpref.kaggle.bundle.stage import configs_of, stage_dataset
from humanpref.kaggle.competitions import DEFAULT
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER, KernelRun
from humanpref.models.bases import BASE_FILE
from humanpref.runs.artifact import Artifact
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

KERNELS = {"train": f"kernel/train/{KERNEL_METADATA}", "infer": KERNEL_METADATA}
"""The committed metadata of the two kernels, by their folder in the bundle."""
DATASET_FOLDER = "dataset"


def kernels_of(run: KernelRun) -> tuple[str, ...]:
    """Return the names of a bundle's kernels; without a preset there is no training kernel."""
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
        The checkout; see `humanpref.kaggle.bundle.checkout.find_project`.
    out : Path
        The bundle's folder. An earlier bundle there is replaced, except for its weights; a run that
        needs the same weights continues to use them.
    run : KernelRun
        The run that the kernels are built for; without a preset there is no training kernel, and
        at least one artifact is needed.
    artifacts : sequence of Path
        Artifacts to predict with, in addition to the one from the training kernel, if any.
    nltk_data : sequence of Path, optional
        Folders to copy NLTK's data from; if empty, the folders where NLTK looks for it. If None,
        no data is copied, and the image's own is used.
    image : Path, optional
        A `pip freeze` of Kaggle's image; the checkout's by default.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If an input cannot be used, or the dataset would not install in the image. In that case an
        earlier bundle is left unchanged.
    """
    if out.exists():
        check_is_bundle(out)
    weights = None if run.backbone else earlier_weights(out, run, artifacts)
    if weights:
        logger.info("%s: keeps the weights %s of the earlier bundle", out, weights["source"])
    elif run.pretrained and not run.backbone:
        logger.warning(
            "preset %s needs a backbone's weights; next run: humanpref kaggle weights FOLDER",
            run.preset,
        )
    if nltk_data is not None:
        nltk_data = nltk_data or usual_nltk_data()
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be created ({error.strerror})") from None
    with temporary_folder(parent / out.name) as new:
        dataset = stage_dataset(
            new / DATASET_FOLDER, project, run, artifacts, nltk_data or (), image
        )
        write_metadata(dataset / DATASET_METADATA, read_metadata(project / DATASET_METADATA))
        trained, used = read_metadata(project / KERNELS["train"])["id"], uses_gpus(dataset, run)
        for name in kernels_of(run):
            stage_kernel(project / KERNELS[name], new / name)
            path = new / name / KERNEL_METADATA
            metadata = mounting(read_metadata(path), run.competition)
            if not used[name]:
                metadata["enable_gpu"] = False
                metadata.pop("machine_shape", None)
            if not run.preset:
                sources = metadata.get("kernel_sources", [])
                metadata["kernel_sources"] = [each for each in sources if each != trained]
            write_metadata(path, metadata)
        if weights:
            use_weights(new, **weights)
        out.mkdir(exist_ok=True)
        for name in (DATASET_FOLDER, *KERNELS):
            shutil.rmtree(out / name, ignore_errors=True)
            if (new / name).exists():
                os.replace(new / name, out / name)
    return out


def earlier_weights(
    bundle: Path, run: KernelRun, artifacts: Sequence[Path]
) -> dict[str, Any] | None:
    """Return the weights of an earlier bundle in this folder, as arguments of `use_weights`. Return
    None if there are none, or if the run does not need the same weights."""
    if not bundle.exists():
        return None
    try:
        earlier = read_run(bundle / DATASET_FOLDER)
        pretrained = earlier.pretrained
    except InputError:  # a different version of humanpref may have written it
        return None
    leaves = [leaf for path in artifacts for leaf in Artifact.load(path).ensemble.leaves()]
    needs = run.pretrained or any((leaf.folder / BASE_FILE).is_file() for leaf in leaves)
    if not (needs and earlier.backbone) or run.pretrained != pretrained:
        return None
    found = {"backbone": earlier.backbone, "manifest": earlier.backbone_manifest}
    packed = bundle / earlier.backbone / WEIGHTS_MARKER
    if packed.is_file() and sha256(packed) == earlier.backbone_manifest:
        source = read_metadata(packed.with_name(DATASET_METADATA))["id"]
        return {"kind": "dataset", "source": source, **found}
    for source in read_metadata(bundle / "infer" / KERNEL_METADATA).get("model_sources", ()):
        if _mounted_name(source) == earlier.backbone:
            return {"kind": "model", "source": source, **found}
    return None


def uses_gpus(dataset: Path, run: KernelRun) -> dict[str, bool]:
    """Return, by the kernel's name, whether the kernel trains or predicts with a model that uses a
    GPU. `dataset` is the folder of the staged dataset with its artifacts."""
    config = run.config
    trained = config is not None and uses_gpu(config)
    configs = itertools.chain(*configs_of(dataset, run).values())
    return {"train": trained, "infer": any(map(uses_gpu, configs))}


def mounting(metadata: dict[str, Any], competition: str) -> dict[str, Any]:
    """Return a kernel's metadata with the default competition replaced by `competition`."""
    key = "competition_sources"
    sources = [competition if source == DEFAULT else source for source in metadata.get(key, [])]
    return metadata | ({key: list(dict.fromkeys(sources))} if sources else {})


def usual_nltk_data() -> list[Path]:
    """Return the folders where NLTK looks for its data on this machine.

    Raises
    ------
    InputError
        If NLTK is not installed.
    """
    try:
        import nltk
    except ImportError:
        raise InputError(
            f"--nltk: install nltk so that its data can be found ({install_line('nltk')}), "
            "or name the folder"
        ) from None
    return [Path(path) for path in nltk.data.path]


def use_weights(bundle: Path, kind: str, source: str, backbone: str, manifest: str = "") -> None:
    """Make a bundle's kernels use a backbone.

    Parameters
    ----------
    bundle : Path
        The bundle; its kernels' metadata and run.toml are changed.
    kind, source : str
        The kind of source, `model` or `dataset`, and its name for kernel-metadata.json.
    backbone, manifest : str
        The values of `backbone` and `backbone_manifest` for run.toml.

    Raises
    ------
    InputError
        If the folder is not a bundle.
    """
    check_is_bundle(bundle)
    dataset, key = bundle / DATASET_FOLDER, f"{kind}_sources"
    run = read_run(dataset)
    for name in kernels_of(run):
        path = bundle / name / KERNEL_METADATA
        metadata = read_metadata(path)
        if source not in metadata.get(key, []):
            write_metadata(path, metadata | {key: [*metadata.get(key, []), source]})
    with write_whole(dataset / "run.toml") as file:
        file.write(replace(run, backbone=backbone, backbone_manifest=manifest).to_toml())
    facts = read_json(dataset / MARKER)
    del facts["format"], facts["files"]
    write_manifest(dataset, MARKER, facts)


def name_weights(source: str, bundle: Path) -> None:
    """Make the bundle's kernels use a model hosted on Kaggle, named
    `owner/model/framework/variation/VERSION`."""
    use_weights(bundle, "model", source, _mounted_name(source))


def _mounted_name(source: str) -> str:
    return "/".join(source.split("/")[1:4])


def check_is_bundle(bundle: Path) -> None:
    """Raise InputError unless the folder is a bundle."""
    if not (bundle / DATASET_FOLDER / MARKER).is_file():
        raise InputError(
            f"{bundle}: not a bundle; create one first, in a new folder: humanpref kaggle bundle "
            "--out FOLDER"
        )


def read_run(dataset: Path) -> KernelRun:
    """Read the dataset's run.toml.

    Raises
    ------
    InputError
        If it is missing or cannot be used.
    """
    return KernelRun.from_dict(read_toml(dataset / "run.toml"))
