"""Find the competition's files, artifacts, backbones and weights under `/kaggle/input`."""

import logging
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from humanpref.files import read_json, sha256
from humanpref.kaggle.contract import COMPETITION, MARKER, WEIGHTS_MARKER
from humanpref.kaggle.runtime.mounts import find, tree
from humanpref.schema import InputError

logger = logging.getLogger(__name__)


def find_competition_file(name: str, input_root: Path) -> Path:
    """Find a file of the competition's, in either layout.

    Raises
    ------
    InputError
        If it is not there.
    """
    found = [path for path in find(name, input_root) if COMPETITION in path.parts]
    if not found:
        raise InputError(
            f"{input_root}: no {name} in a folder {COMPETITION}; is the competition "
            f"attached?\n{tree(input_root)}"
        )
    return found[0]


def find_artifacts(input_root: Path) -> list[Path]:
    """Find the artifacts' folders: those with an artifact.json, but not the fold models within
    another artifact."""
    # Nearest first, so that an artifact comes before what is inside it.
    folders: list[Path] = []
    for path in find("artifact.json", input_root):
        unfinished = path.parent.name.endswith(".partial")
        if not unfinished and not any(folder in path.parents for folder in folders):
            folders.append(path.parent)
    return sorted(folders)


def find_backbone(name: str, input_root: Path) -> Path:
    """Find a pretrained model's folder: it has a config.json or modules.json, and `name` is a part,
    or several, of its path.

    A sentence encoder's modules have folders with a config.json inside its own, so of nested
    folders the outer one counts.

    Raises
    ------
    InputError
        If there is none, or more than one.
    """
    parts = PurePosixPath(name).parts
    found = []
    for folder in find_backbones(input_root):
        own = folder.relative_to(input_root).parts
        named = any(own[i : i + len(parts)] == parts for i in range(len(own)))
        if named and not any(outer in folder.parents for outer in found):
            found.append(folder)
    if len(found) != 1:
        there = "\n".join(f"  {folder}" for folder in found) or tree(input_root)
        raise InputError(
            f"run.toml: key backbone: expected one folder {name!r} with a config.json under "
            f"{input_root}, found {len(found)}\n{there}"
        )
    return found[0]


def find_backbones(input_root: Path) -> list[Path]:
    """Find every folder with a config.json or a modules.json that is not a part of an artifact,
    outer ones first."""
    artifacts = find_artifacts(input_root)
    folders = {
        path.parent for name in ("config.json", "modules.json") for path in find(name, input_root)
    }
    own = [
        f
        for f in folders
        if not any(artifact == f or artifact in f.parents for artifact in artifacts)
    ]
    return sorted(own, key=lambda folder: (len(folder.parts), folder))


def point_to_base(model: Path, input_root: Path) -> None:
    """Let a model that only names its base find it where this run has it mounted; it may have been
    trained elsewhere.

    Parameters
    ----------
    model : Path
        A model's folder.
    input_root : Path
        Where to look for a backbone with the weights that the model was trained on. If there is
        none, loading will say so.
    """
    if not (model / "base.json").is_file():
        return  # and torch, which the import below takes, is perhaps not needed
    from humanpref.models.checkpoint import base_digest
    from humanpref.models.pretrained import BASE_FILE, BASE_VARIABLE

    wanted = read_json(model / BASE_FILE)["sha256"]
    for folder in find_backbones(input_root):
        with suppress(InputError):  # a folder without weights is not the one
            if base_digest(folder) == wanted:
                os.environ[BASE_VARIABLE] = str(folder)
                return


def check_weights(backbone: Path, manifest: str = "") -> None:
    """Check a backbone that `humanpref kaggle weights` packed against its manifest; another one is
    taken as it is.

    Parameters
    ----------
    backbone : Path
        The folder.
    manifest : str
        The SHA-256 that the manifest itself has to have; empty: any.

    Raises
    ------
    InputError
        If a file is missing, or is not the one that was packed.
    """
    packed = (backbone / WEIGHTS_MARKER).is_file()
    if not packed and not manifest:
        return
    found = sha256(backbone / WEIGHTS_MARKER) if packed else "none"
    if manifest not in ("", found):
        raise InputError(
            f"{backbone / WEIGHTS_MARKER}: expected the manifest with SHA-256 {manifest}, got "
            f"{found}; another version of the weights than the one pushed is mounted"
        )
    for entry in read_json(backbone / WEIGHTS_MARKER)["files"]:
        path = backbone / entry["name"]
        if not path.is_file():
            raise InputError(f"{path}: named by {WEIGHTS_MARKER}, but not there\n{tree(backbone)}")
        if (path.stat().st_size, sha256(path)) != (entry["bytes"], entry["sha256"]):
            raise InputError(
                f"{path}: not the file that {WEIGHTS_MARKER} describes; is an older version "
                "mounted?"
            )


def use_nltk_data(input_root: Path) -> None:
    """Let NLTK look first into the wheel dataset, where the dataset brings data; called before NLTK
    is imported."""
    folders = [path.with_name("nltk_data") for path in find(MARKER, input_root)]
    found = [str(folder) for folder in folders if folder.is_dir()]
    if found:
        os.environ["NLTK_DATA"] = os.pathsep.join(found)
