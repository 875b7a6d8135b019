"""Find the pretrained model, called the base, on which a saved model was trained. The saved model
names its base without the path, because a path may reveal more than the owner wants to publish. The
path is kept in the user's cache instead."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from humanpref.config.neural import SCRATCH
from humanpref.files import write_whole
from humanpref.schema import InputError

BASE_FILE = "base.json"
BASE_VARIABLE = "HUMANPREF_BASE"
"""Environment variable that names the folder of an artifact's base, or its parent folder."""


def public_name(name: str) -> str:
    """Return a hub name or `scratch` unchanged, and a folder as `./NAME`, without its path.

    Examples
    --------
    >>> public_name("/home/ada/gemma-2-2b"), public_name("google/gemma-2-2b")
    ('./gemma-2-2b', 'google/gemma-2-2b')
    """
    if is_folder_name(name) or (name != SCRATCH and Path(name).is_dir()):
        return f"./{Path(name).resolve().name}"
    return name


def is_folder_name(name: str) -> bool:
    """Return whether a name must be a folder's: names on a hub never begin like this."""
    return name.startswith(("/", "./", "../", "~"))


def public_config(values: Any) -> Any:
    """Replace each backbone in a configuration, given as plain JSON types, by its `public_name`.

    Examples
    --------
    >>> public_config({"model": {"backbone": "/home/ada/a", "members": ["b model.backbone=/c/d"]}})
    {'model': {'backbone': './a', 'members': ['b model.backbone=./d']}}
    """
    if isinstance(values, dict):
        return {
            key: public_name(value)
            if key == "backbone" and isinstance(value, str) and value
            else public_config(value)
            for key, value in values.items()
        }
    if isinstance(values, list):
        return [public_config(value) for value in values]
    if isinstance(values, str):
        return _MEMBER_BACKBONE.sub(_public_backbone, values)
    return values


_MEMBER_BACKBONE = re.compile(
    r"""(?:(\\*["'])model\.backbone=(?P<around>.*?)(?=\1)"""
    r"""|\bmodel\.backbone=(\\*["'])(?P<quoted>.*?)(?=\3)"""
    r"""|\bmodel\.backbone=(?P<plain>(?:\\+\s|[^\s"'\\])+))"""
)
"""Matches the backbone in the text of a blend's member, or in a command line that contains such a
text. The setting `model.backbone=NAME`, or only NAME, may be quoted; quotes inside other quotes are
escaped."""


def _public_backbone(found: re.Match[str]) -> str:
    start, end = (position - found.start() for position in found.span(found.lastgroup))
    return found[0][:start] + public_name(found[found.lastgroup]) + found[0][end:]


def remember(digest: str, folder: Path) -> None:
    """Record in the user's cache that a folder holds the base with this digest."""
    with suppress(
        OSError, RuntimeError, InputError
    ):  # without a cache, `places` tries one folder fewer
        path = _record(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as file:
            file.write(str(folder.resolve()))


def places(name: str, digest: str, model_folder: Path) -> Iterator[Path]:
    """Yield the existing folders that may hold the base `name` of a saved model, in this order: the
    folder in HUMANPREF_BASE, and its subfolder with the base's name; a folder with the base's name
    in the model's folder, next to it, and up to two levels higher; the folder recorded in the
    user's cache; and `name` itself as a path."""
    override, last = os.environ.get(BASE_VARIABLE), Path(name).name
    found = [Path(override), Path(override, last)] if override else []
    around = model_folder.resolve()
    found += [folder / last for folder in (around, *around.parents[:3])]
    with suppress(OSError, RuntimeError, ValueError):  # nothing there, or no home folder
        found.append(Path(_record(digest).read_text()))
    found.append(Path(name))
    yield from (place for place in dict.fromkeys(found) if (place / "config.json").is_file())


def _record(digest: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "humanpref" / "bases" / digest[:64]
