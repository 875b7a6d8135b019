"""Kaggle's rules for the metadata of a kernel or a dataset, checked one file at a time.

The client checks few of them. It ignores unknown keys, enables the internet if `enable_internet` is
missing or misspelled, and exits with code 0 even when it has created a second kernel instead of
updating the intended one.
"""

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humanpref.extras import install_line
from humanpref.kaggle.bundle.metadata import fill_manifest, read_code, read_metadata
from humanpref.kaggle.bundle.sources import KINDS, OWNER, SLUG, is_source
from humanpref.schema import InputError

KERNEL_KEYS = (
    *("id", "id_no", "title", "keywords", "code_file", "language", "kernel_type"),
    *("docker_image", "docker_image_pinning_type"),
    *("is_private", "enable_gpu", "enable_tpu", "enable_internet", "machine_shape"),
    *(f"{kind}_sources" for kind in KINDS),
)
DATASET_KEYS = ("id", "title", "keywords", "subtitle", "description", "licenses")
"""The keys of each file that a push sends; it ignores all others."""


@dataclass(frozen=True)
class Finding:
    """A fault in one file and how to fix it. `key` is empty if the fault is not in a particular
    key; a fault of level `warning` may be intended."""

    path: Path
    key: str
    problem: str
    level: str = "error"

    def __str__(self) -> str:
        key = f" key {self.key}:" if self.key else ""
        return f"{self.level}: {self.path}:{key} {self.problem}"


@dataclass
class Metadata:
    """A metadata file and the findings about it."""

    path: Path
    values: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    def add(self, key: str, problem: str, level: str = "error") -> None:
        """Add a finding."""
        self.findings.append(Finding(self.path, key, problem, level))

    def texts(self, key: str) -> list[str]:
        """Return the strings in the list under this key; empty if the value is not a list."""
        value = self.values.get(key)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def check_keys(self, known: tuple[str, ...]) -> None:
        """Add a finding for each key that a push does not send."""
        for key in self.values.keys() - set(known):
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "remove it"
            self.add(key, f"unknown, so Kaggle ignores it; {hint}")

    def check_value(self, key: str, *allowed: str, why: str = "") -> None:
        """Add a finding unless the value's JSON text is in `allowed`. A missing key counts as
        null."""
        text = json.dumps(self.values.get(key))
        if text not in allowed:
            self.add(key, f"expected {' or '.join(allowed)}, got {text}{why}")

    def check_text(self, key: str, low: int, high: int) -> str | None:
        """Return the value if it is a string of `low` to `high` characters; otherwise add a finding
        and return None."""
        value = self.values.get(key)
        if isinstance(value, str) and low <= len(value) <= high:
            return value
        self.add(key, f"expected text of {low} to {high} characters, got {value!r}")
        return None

    def check_texts(self, key: str) -> None:
        """Add a finding unless the value is a list of strings or the key is missing."""
        value = self.values.get(key, [])
        if value != self.texts(key):
            self.add(key, f"expected a list of strings, got {value!r:.60}")

    def check_id(self, shortest: int) -> str | None:
        """Return the id's slug; if the id is not `owner/slug`, add a finding and return None."""
        name = self.values.get("id")
        match = re.fullmatch(f"{OWNER}/({SLUG})", str(name))
        if match and shortest <= len(match[1]) <= 50:
            return match[1]
        self.add(
            "id",
            "expected owner/slug without a version, the slug in lower case with hyphens and "
            f"between {shortest} and 50 characters long, got {name!r}",
        )
        return None


def check_kernel(path: Path) -> Metadata:
    """Check one kernel's metadata and code, independently of the other files.

    Raises
    ------
    InputError
        If the file cannot be read, or python-slugify is missing.
    """
    file = Metadata(path, read_metadata(path))
    values = file.values
    file.check_keys(KERNEL_KEYS)
    title, slug = file.check_text("title", 5, 50), file.check_id(5)
    if title and slug and (becomes := _slugify(title)) != slug:
        file.add(
            "title",
            f"{title!r} becomes the slug {becomes!r}, but the id says {slug!r}, so Kaggle would "
            f"create a second kernel; use a title such as {slug.replace('-', ' ')!r}",
        )
    file.check_value("language", '"python"')
    file.check_value("kernel_type", '"script"', '"notebook"')
    file.check_value("docker_image_pinning_type", '"original"', '"latest"', "null")
    for key in ("is_private", "enable_gpu"):
        file.check_value(key, "true", "false", "null")
    why = "; no model of this package uses a TPU"
    file.check_value("enable_tpu", "false", "null", why=why)
    why = "; Kaggle's default is true, and the competition refuses a kernel with internet"
    file.check_value("enable_internet", "false", why=why)
    if values.get("is_private") is False:
        file.add("is_private", "the kernel would be public; set it to true", "warning")
    shape = values.get("machine_shape")
    if values.get("enable_gpu") is True and shape != "NvidiaTeslaT4":
        level = "error" if shape == "NvidiaTeslaP100" else "warning"  # the P100 is retired
        problem = f'expected "NvidiaTeslaT4", which means two T4s, got {shape!r}'
        file.add("machine_shape", problem, level)
    if fault := _code_fault(path, values):
        file.add("code_file", fault)
    file.check_texts("keywords")
    for kind in KINDS:
        key = f"{kind}_sources"
        file.check_texts(key)
        sources = file.texts(key)
        for source in dict.fromkeys(sources):
            if sources.count(source) > 1:
                file.add(key, f"{source!r} is listed more than once", "warning")
            if not is_source(kind, source):
                file.add(key, f"expected {KINDS[kind].shape}, got {source!r}")
    return file


def check_dataset(path: Path) -> Metadata:
    """Check a dataset's metadata, independently of the other files.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    file = Metadata(path, read_metadata(path))
    file.check_keys(DATASET_KEYS)
    file.check_id(6)
    file.check_text("title", 6, 50)
    if "subtitle" in file.values:
        file.check_text("subtitle", 20, 80)
    file.check_texts("keywords")
    match file.values.get("licenses"):
        case [{"name": str(name)}] if name.lower() != "mit":
            pass
        case licenses:
            file.add(
                "licenses",
                'expected one license that Kaggle lists, as in [{"name": "apache-2.0"}] (for MIT, '
                f'use "other" and name it in the description), got {licenses!r:.60}',
            )
    return file


def _code_fault(path: Path, values: dict[str, Any]) -> str | None:
    """Return the first fault in a kernel's code, or None."""
    code_file, kind = values.get("code_file"), values.get("kernel_type")
    try:
        code = read_code(path.parent, code_file)
        if not code_file.endswith({"script": ".py", "notebook": ".ipynb"}.get(kind, "")):
            return f"{code_file!r} is not a {kind}; name another file, or change kernel_type"
        if kind == "notebook" and not json.loads(code)["metadata"]["kernelspec"]["name"]:
            raise ValueError("no kernelspec")
        fill_manifest(code, "")
    except InputError as error:
        return str(error)
    except (ValueError, TypeError, KeyError):
        return f"{code_file!r} is not a notebook with a kernelspec; rebuild it (make kernels)"
    return None


def _slugify(title: str) -> str:
    """Return the slug that Kaggle derives from a title, using the same library as its client."""
    try:
        from slugify import slugify
    except ImportError:
        raise InputError(f"check: needs python-slugify: {install_line('kaggle')}") from None
    return slugify(title)
