"""A kernel's sources: how kernel-metadata.json lists each kind, and where Kaggle mounts it."""

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from humanpref.kaggle.bundle.metadata import OWNER_PLACEHOLDER
from humanpref.schema import InputError

LAYOUTS = ("new", "legacy")
"""The two layouts that Kaggle uses for `/kaggle/input`."""
OWNER = rf"(?:{OWNER_PLACEHOLDER}|[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*)"
SLUG = "[a-z0-9]+(?:-[a-z0-9]+)*"


class SourceKind(NamedTuple):
    """How kernel-metadata.json names the sources of one kind, and where Kaggle mounts them."""

    pattern: str
    shape: str
    """A description of the pattern, for messages."""
    folder: str
    """The folder under `/kaggle/input` in the new layout."""


_OWNED = rf"{OWNER}/{SLUG}(?:/[1-9][0-9]*)?", "owner/slug or owner/slug/VERSION"
KINDS = {
    "competition": SourceKind(SLUG, "the competition's slug, without an owner", "competitions"),
    "dataset": SourceKind(*_OWNED, "datasets"),
    "kernel": SourceKind(*_OWNED, "notebooks"),
    "model": SourceKind(
        rf"{OWNER}(?:/[\w.-]+){{3}}/[1-9][0-9]*",
        "owner/model/framework/variation/VERSION, all five parts",
        "models",
    ),
}
"""The kinds of sources by name; kernel-metadata.json lists each kind under the key
`KIND_sources`."""


def is_source(kind: str, reference: str) -> bool:
    """Return whether the string names a source of this kind in the form that kernel-metadata.json
    uses."""
    return re.fullmatch(KINDS[kind].pattern, reference) is not None


def mount_path(kind: str, reference: str, layout: str) -> PurePosixPath:
    """Return the path under `/kaggle/input` at which Kaggle mounts a source.

    Parameters
    ----------
    kind : str
        A key of `KINDS`.
    reference : str
        The source, as listed in kernel-metadata.json.
    layout : str
        `new` or `legacy`.

    Raises
    ------
    InputError
        If the reference is not a source of this kind.
    """
    if not is_source(kind, reference):
        raise InputError(f"{kind}_sources: expected {KINDS[kind].shape}, got {reference!r}")
    parts = reference.split("/")
    if kind in ("dataset", "kernel"):
        parts = parts[:2]  # mounted without the version
    if layout == "legacy":
        return PurePosixPath(*parts[0 if kind == "competition" else 1 :])
    return PurePosixPath(KINDS[kind].folder, *parts)
