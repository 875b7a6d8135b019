"""The bundle: all that is pushed to Kaggle, staged as folders that the client takes as they are.

::

    BUNDLE/
      dataset/          the wheel dataset: wheels, run.toml, artifacts, NLTK data, manifest, dataset-metadata.json
      train/, infer/    the kernels: kernel-metadata.json and the code; train/ only where something is trained
      weights-NAME/     a backbone's weights, a dataset of its own (`humanpref kaggle weights`)

Everything says `INSERT_USERNAME` where the owner belongs; whoever pushes fills it in on the way. The same checkout, artifacts
and options give the same bytes.
"""

import importlib.util
import logging
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from humanpref.config import load_config
from humanpref.files import read_json, sha256, write_whole
from humanpref.kaggle import wheels
from humanpref.kaggle.kernels import MARKER, WEIGHTS_MARKER, Run
from humanpref.kaggle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    OWNER_PLACEHOLDER,
    copy_kernel,
    read_metadata,
    write_metadata,
)
from humanpref.kaggle.stage import build_wheel, stage_dataset, write_manifest
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

KERNELS = {"train": f"kernel/train/{KERNEL_METADATA}", "infer": KERNEL_METADATA}
"""The committed metadata of the two kernels, by the folder that they get in the bundle."""
DATASET_FOLDER = "dataset"


def kernels_of(run: Run) -> tuple[str, ...]:
    """The kernels of a bundle: without a preset nothing is trained."""
    return tuple(name for name in KERNELS if run.preset or name != "train")


# All that transformers reads of a backbone. What is not named (optimizer states, other frameworks' weights, pictures) stays.
_WEIGHTS_FILES = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json")
_WEIGHTS_FILES += ("vocab.*", "merges.txt", "*.model", "chat_template.*", "LICENSE*", "NOTICE*")
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*")


def bundle(
    project: Path,
    out: Path,
    run: Run,
    artifacts: Sequence[Path] = (),
    nltk_data: Sequence[Path] | None = None,
    image: Path | None = None,
) -> Path:
    """Stage the wheel dataset and both kernels.

    Parameters
    ----------
    project : Path
        The checkout; see `humanpref.kaggle.stage.find_project`.
    out : Path
        The bundle's folder. An earlier bundle there is replaced, its weights apart.
    run : Run
        What the kernels are to run; without a preset there is no training kernel.
    artifacts : sequence of Path
        Artifacts to predict with, alone or beside the training kernel's.
    nltk_data : sequence of Path, optional
        Folders to take NLTK's data from, the usual ones if empty; None: no data, the image has its own.
    image : Path, optional
        A freeze of Kaggle's image; default: the checkout's.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If something cannot be used, or would not install in the image; an earlier bundle stays as it was then.
    """
    if out.exists() and not (out / DATASET_FOLDER / MARKER).is_file():
        raise InputError(f"{out}: exists and is not a bundle; name another folder with --out, or remove it")
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
        dataset = stage_dataset(new / DATASET_FOLDER, project, run, artifacts, nltk_data or (), image)
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
    if config and getattr(config.model, "backbone", "scratch") not in ("", "scratch") and not run.backbone:
        logger.warning("preset %s needs a backbone's weights; next: humanpref kaggle weights FOLDER", run.preset)
    return out


def lock(project: Path, image: Path | None = None) -> dict[str, wheels.Locked]:
    """Remake the checkout's lock of vendored wheels; see `humanpref.kaggle.wheels.remake_lock`."""
    with tempfile.TemporaryDirectory() as temporary:
        ours = build_wheel(project, Path(temporary))
        folder = project / "wheels"
        return wheels.remake_lock(ours, wheels.read_image(image or folder / wheels.IMAGE), folder / wheels.LOCK)


def usual_nltk_data() -> list[Path]:
    """The folders where NLTK looks for its data on this machine.

    Raises
    ------
    InputError
        If NLTK is not installed.
    """
    if importlib.util.find_spec("nltk") is None:
        raise InputError(
            "--nltk: needs nltk to know where its data is (pip install 'humanpref[nltk]'), or name the folder"
        )
    import nltk

    return [Path(path) for path in nltk.data.path]


def pack_weights(source: Path, bundle: Path, name: str | None = None) -> Path:
    """Pack a backbone as a dataset of its own in the bundle, and let the bundle's kernels use it.

    Parameters
    ----------
    source : Path
        A folder as transformers saves it: config.json, safetensors, tokenizer.
    bundle : Path
        The bundle.
    name : str, optional
        What the backbone is called; default: the folder's name.

    Returns
    -------
    Path
        The dataset's folder, `weights-NAME` in the bundle. An earlier one is replaced.

    Raises
    ------
    InputError
        If the folder is no backbone with safetensors and a tokenizer, or `bundle` is no bundle.
    """
    _check_bundle(bundle)
    files = weights_files(source)
    name = re.sub("[^a-z0-9]+", "-", (name or source.resolve().name).lower()).strip("-")[:42].strip("-")
    if not name:
        raise InputError(f"{source}: expected a folder with letters or digits in its name, for the dataset's name")
    slug = f"weights-{name}"
    with tempfile.TemporaryDirectory(dir=bundle, prefix=".new-") as temporary:
        new = Path(temporary, slug)
        new.mkdir()
        for path in files:
            shutil.copyfile(path, new / path.name)
        write_manifest(new, WEIGHTS_MARKER, {"name": slug})
        write_metadata(
            new / DATASET_METADATA,
            {
                "id": f"{OWNER_PLACEHOLDER}/{slug}",
                "title": slug.replace("-", " "),
                "subtitle": "Weights of a pretrained model, for kernels without internet",
                "licenses": [{"name": "other"}],
            },
        )
        shutil.rmtree(bundle / slug, ignore_errors=True)
        os.replace(new, bundle / slug)
    use_weights(bundle, "dataset", f"{OWNER_PLACEHOLDER}/{slug}", slug, sha256(bundle / slug / WEIGHTS_MARKER))
    return bundle / slug


def name_weights(source: str, bundle: Path) -> None:
    """Let the bundle's kernels use a backbone that Kaggle has: `owner/model/framework/variation/VERSION`."""
    _check_bundle(bundle)
    use_weights(bundle, "model", source, "/".join(source.split("/")[1:4]))


def use_weights(bundle: Path, kind: str, source: str, backbone: str, manifest: str = "") -> None:
    """Name a backbone's source in the staged kernels' metadata, and the backbone and its manifest's digest in run.toml."""
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
    write_manifest(dataset, MARKER, {key: manifest[key] for key in manifest if key not in ("format", "files")})


def is_model_source(text: str) -> bool:
    """Whether this is how Kaggle names a model's files: `owner/model/framework/variation/VERSION`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+){3}/[1-9][0-9]*", text) is not None


def weights_files(folder: Path) -> list[Path]:
    """What of a backbone's folder the kernels need.

    Raises
    ------
    InputError
        If there is no config.json, no safetensors, a part of them is missing, or no tokenizer.
    """
    if not isinstance(read_json(folder / "config.json"), dict):
        raise InputError(f"{folder / 'config.json'}: expected a JSON object")
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        weights = [folder / "model.safetensors"]
    elif index.is_file():
        parts = sorted(set(read_json(index)["weight_map"].values()))
        weights = [index, *(folder / part for part in parts)]
    else:
        raise InputError(f"{folder}: no model.safetensors; save the model again with save_pretrained")
    missing = [path.name for path in weights if not path.is_file()]
    if missing:
        raise InputError(f"{folder}: {index.name} names {missing[0]}, which is not there")
    files = {path for pattern in _WEIGHTS_FILES for path in folder.glob(pattern) if path.is_file()}
    if not any(PurePosixPath(path.name).match(pattern) for path in files for pattern in _TOKENIZERS):
        raise InputError(f"{folder}: no tokenizer (one of {', '.join(_TOKENIZERS)})")
    return sorted({*files, *weights})


def download_weights(name: str) -> Path:
    """Fetch a backbone from the Hugging Face hub, what the kernels need of it; give its folder.

    Raises
    ------
    InputError
        If huggingface_hub is missing, or the hub does not have it or cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError("weights: needs huggingface_hub: pip install 'humanpref[torch]'") from None
    patterns = [*_WEIGHTS_FILES, "model*.safetensors", "model.safetensors.index.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"weights {name!r}: no such folder, and not to be had from the hub ({reason})") from None


def _check_bundle(bundle: Path) -> None:
    if not (bundle / DATASET_FOLDER / MARKER).is_file():
        raise InputError(f"{bundle}: not a bundle; make one first: humanpref kaggle bundle --out {bundle}")


def read_run(dataset: Path) -> Run:
    """The dataset's run.toml.

    Raises
    ------
    InputError
        If it is not there or cannot be used.
    """
    path = dataset / "run.toml"
    try:
        return Run.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
