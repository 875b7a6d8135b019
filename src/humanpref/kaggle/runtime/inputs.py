"""Find the competition's files, artifacts, backbones and weights under `/kaggle/input`."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from humanpref.files import read_json, sha256
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER
from humanpref.kaggle.runtime.mounts import find, tree
from humanpref.schema import InputError


def find_competition_file(name: str, input_root: Path, competition: str) -> Path:
    """Find one of a competition's files under any path at which Kaggle mounts them.

    Raises
    ------
    InputError
        If the file is missing.
    """
    for path in find(name, input_root):
        if competition in path.parts:
            return path
    raise InputError(
        f"{input_root}: no {name} in a folder named {competition}; is the competition "
        f"attached?\n{tree(input_root)}"
    )


def find_artifacts(input_root: Path) -> list[Path]:
    """Find the folders with an artifact.json. Skip fold models, which are inside another artifact,
    and hidden folders, which a killed run left unfinished."""
    folders = [path.parent for path in find("artifact.json", input_root)]
    return sorted(outermost(f for f in folders if not f.name.startswith(".")))


def find_backbones(input_root: Path) -> list[Path]:
    """Find the folders with a config.json or a modules.json that are not part of an artifact;
    outer folders come first."""
    artifacts = find_artifacts(input_root)
    files = [*find("config.json", input_root), *find("modules.json", input_root)]
    folders = {path.parent for path in files if not set(artifacts) & set(path.parents)}
    return sorted(folders, key=lambda folder: (len(folder.parts), folder))


def outermost(folders: Iterable[Path]) -> list[Path]:
    """Return the folders in the given order, without those that are inside an earlier folder."""
    kept: list[Path] = []
    for folder in folders:
        if not set(kept) & set(folder.parents):
            kept.append(folder)
    return kept


def find_backbone(name: str, input_root: Path) -> Path:
    """Find the folder of a pretrained model by one or several consecutive parts of its path.

    The modules of a sentence encoder have separate folders, so the outermost folder is returned.

    Raises
    ------
    InputError
        If there is no such folder, or more than one.
    """
    named = [
        folder
        for folder in find_backbones(input_root)
        if f"/{name.strip('/')}/" in f"/{folder.relative_to(input_root).as_posix()}/"
    ]
    folders = outermost(named)
    if len(folders) != 1:
        there = "\n".join(f"  {folder}" for folder in folders) or tree(input_root)
        raise InputError(
            f"run.toml: key backbone: expected one folder {name!r} with a config.json under "
            f"{input_root}, found {len(folders)}\n{there}"
        )
    return folders[0]


def point_to_base(model: Path, input_root: Path) -> None:
    """Find the mounted backbone on which a model was trained, and set HUMANPREF_BASE to its folder.
    Do nothing if the model was saved with all of its weights.

    Parameters
    ----------
    model : Path
        A model's folder.
    input_root : Path
        Where to look for a backbone with the weights that the model was trained on. If none is
        found, loading the model will report it.
    """
    if not (model / "base.json").is_file():
        return  # without importing torch, which is slow
    from humanpref.models.bases import BASE_FILE, BASE_VARIABLE
    from humanpref.models.checkpoint import base_digest

    wanted = read_json(model / BASE_FILE)["sha256"]
    for folder in find_backbones(input_root):
        with suppress(InputError):  # a folder without weights is not the base
            if base_digest(folder) == wanted:
                os.environ[BASE_VARIABLE] = str(folder)
                return


def check_weights(backbone: Path, manifest: str = "") -> None:
    """Check a backbone against the manifest that `humanpref kaggle weights` packed with it.

    Parameters
    ----------
    backbone : Path
        The backbone's folder.
    manifest : str
        The SHA-256 that the manifest itself must have. If empty, any manifest is accepted, and a
        backbone without a manifest is not checked.

    Raises
    ------
    InputError
        If the manifest is not the expected one, or a file is missing or differs from it.
    """
    marker = backbone / WEIGHTS_MARKER
    digest = sha256(marker) if marker.is_file() else "none"
    if manifest not in ("", digest):
        raise InputError(
            f"{marker}: expected the manifest with SHA-256 {manifest}, got {digest}; the mounted "
            "weights are not the version that was pushed"
        )
    for entry in read_json(marker)["files"] if marker.is_file() else ():
        path = backbone / entry["name"]
        if not path.is_file():
            raise InputError(f"{path}: listed in {WEIGHTS_MARKER}, but missing\n{tree(backbone)}")
        if sha256(path) != entry["sha256"]:
            raise InputError(
                f"{path}: not the file that {WEIGHTS_MARKER} describes; is an older version "
                "mounted?"
            )


def use_nltk_data(input_root: Path) -> None:
    """Make NLTK look for its data in the wheel dataset first; call this before importing NLTK."""
    folders = [path.with_name("nltk_data") for path in find(MARKER, input_root)]
    if present := [str(folder) for folder in folders if folder.is_dir()]:
        os.environ["NLTK_DATA"] = os.pathsep.join(present)
