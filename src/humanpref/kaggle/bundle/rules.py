"""Kaggle's rules for a kernel's and a dataset's metadata, each file by itself.

The client checks few of them: it ignores unknown keys, lets the internet on where its key is
missing or misspelt, and ends with exit code 0 after pushing a kernel beside the one that was meant.
Each rule here is one that it leaves unchecked, or one that it refuses later and in other words.
"""

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from humanpref.kaggle.bundle.metadata import OWNER_PLACEHOLDER, fill_manifest
from humanpref.schema import InputError

_OWNER = rf"({OWNER_PLACEHOLDER}|[A-Za-z0-9]+([-_][A-Za-z0-9]+)*)"
_SLUG = "[a-z0-9]+(-[a-z0-9]+)*"
_OWNED = (rf"{_OWNER}/{_SLUG}(/[1-9][0-9]*)?", "owner/slug or owner/slug/VERSION")
_MODEL = (
    rf"{_OWNER}(/[\w.-]+){{3}}/[1-9][0-9]*",
    "owner/model/framework/variation/VERSION, all five parts",
)
SOURCES = {
    "dataset_sources": _OWNED,
    "kernel_sources": _OWNED,
    "model_sources": _MODEL,
    "competition_sources": (_SLUG, "the competition's slug, without an owner"),
}
"""A kernel's sources: the pattern of one, and its shape in words."""
_SUFFIXES = {"script": ".py", "notebook": ".ipynb"}


@dataclass(frozen=True)
class Rule:
    """What a key's value has to fulfil, and the finding where it does not. `problem` may show
    `{value!r}` or `{json}`; an `optional` rule is skipped where the key is absent."""

    key: str
    holds: Callable[[Any], bool]
    problem: str
    mend: str
    level: str = "error"
    optional: bool = False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _one_license(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], dict)
        and _is_text(value[0].get("name"))
    )


def _text(key: str, low: int, high: int, mend: str, optional: bool = False) -> tuple[Rule, ...]:
    return (
        Rule(key, _is_text, "expected text, got {value!r}", mend, optional=optional),
        Rule(
            key,
            lambda value: low <= len(value) <= high,
            "{value!r} has {length} characters",
            f"Kaggle takes {low} to {high}",
            optional=optional,
        ),
    )


def _texts(key: str) -> Rule:
    problem, mend = "expected a list of texts, got {json:.60}", 'write ["…"], or [] for none'
    return Rule(key, _are_texts, problem, mend, optional=True)


def _boolean(key: str) -> Rule:
    problem, mend = "expected true or false, got {json}", "write it without quotes"
    return Rule(key, lambda value: value is None or isinstance(value, bool), problem, mend)


KERNEL_RULES = (
    *_text("title", 5, 50, "give the kernel a title of 5 to 50 characters"),
    *map(_boolean, ("is_private", "enable_gpu", "enable_tpu", "enable_internet")),
    Rule(
        "enable_internet",
        lambda value: value is not None,
        "not set, and Kaggle's default is true",
        'write "enable_internet": false',
    ),
    Rule(
        "enable_internet",
        lambda value: value is not True,
        "the competition refuses a kernel with internet",
        "set it to false",
    ),
    Rule(
        "is_private",
        lambda value: value is not False,
        "the kernel would be public",
        "set it to true, unless that is what you want",
        "warning",
    ),
    Rule("language", lambda value: value == "python", "got {value!r}", 'write "python"'),
    Rule(
        "kernel_type",
        lambda value: value in list(_SUFFIXES),
        "got {value!r}",
        'write "script" or "notebook"',
    ),
    Rule(
        "docker_image_pinning_type",
        lambda value: value in (None, "original", "latest"),
        "got {value!r}",
        'write "original" or "latest", or leave it out',
    ),
    *map(_texts, (*SOURCES, "keywords")),
)
GPU_RULES = (
    Rule(
        "machine_shape",
        lambda value: value != "NvidiaTeslaP100",
        "the P100 is retired",
        'write "NvidiaTeslaT4", which is two T4',
    ),
    Rule(
        "machine_shape",
        lambda value: value == "NvidiaTeslaT4",
        "got {value!r}",
        '"NvidiaTeslaT4" means two T4',
        "warning",
    ),
)
DATASET_RULES = (
    *_text("title", 6, 50, "give the dataset a title of 6 to 50 characters"),
    *_text("subtitle", 20, 80, "write 20 to 80 characters, or leave it out", optional=True),
    Rule("licenses", _one_license, "expected exactly one", 'write [{"name": "apache-2.0"}]'),
    Rule(
        "licenses",
        lambda value: value[0]["name"].lower() != "mit",
        "Kaggle does not list MIT",
        'write [{"name": "other"}], and the licence in the description',
    ),
    _texts("keywords"),
)
"""Of a key's rules the first that does not hold is the finding."""

KERNEL_KEYS = (
    *dict.fromkeys(rule.key for rule in KERNEL_RULES + GPU_RULES),
    *("id", "id_no", "code_file", "docker_image"),
)
DATASET_KEYS = (
    *dict.fromkeys(rule.key for rule in DATASET_RULES),
    *("id", "id_no", "description", "resources"),
)
"""All keys that the client looks up; it ignores every other one."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what, and how to mend it. A `warning` can be left as it
    is."""

    path: Path
    key: str
    problem: str
    mend: str
    level: str = "error"

    def __str__(self) -> str:
        key = f" key {self.key}:" if self.key else ""
        return f"{self.level}: {self.path}:{key} {self.problem}; {self.mend}"


@dataclass
class Metadata:
    """A metadata file, and what is wrong with it."""

    path: Path
    findings: list[Finding] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def error(self, key: str, problem: str, mend: str) -> None:
        self.findings.append(Finding(self.path, key, problem, mend))

    def apply(self, rules: tuple[Rule, ...]) -> None:
        broken = set()
        for rule in rules:
            value = self.values.get(rule.key)
            skipped = rule.key in broken or (rule.optional and rule.key not in self.values)
            if not skipped and not rule.holds(value):
                broken.add(rule.key)
                length = len(value) if _is_text(value) else 0
                problem = rule.problem.format(value=value, json=json.dumps(value), length=length)
                self.findings.append(Finding(self.path, rule.key, problem, rule.mend, rule.level))

    def texts(self, key: str) -> list[str]:
        """The texts of a list; what else is there is another finding's."""
        value = self.values.get(key)
        return [item for item in value if _is_text(item)] if isinstance(value, list) else []


def check_kernel(path: Path) -> Metadata:
    """Check one kernel's metadata and its code file by themselves."""
    file = _read(path, KERNEL_KEYS, ascii_only=False)
    values = file.values
    if not values:
        return file
    slug, title = _check_id(file, 5), values.get("title")
    file.apply(KERNEL_RULES)
    if slug and _is_text(title) and (becomes := _slugify(title)) != slug:
        file.error(
            "title",
            f"{title!r} becomes the slug {becomes!r}, but the id says {slug!r}: Kaggle would make "
            "a second kernel",
            f"use a title such as {slug.replace('-', ' ')!r}",
        )
    if fault := _code_fault(path.parent, values.get("code_file"), values.get("kernel_type")):
        file.error("code_file", *fault)
    if values.get("enable_gpu") is True:
        file.apply(GPU_RULES)
    for key, (pattern, shape) in SOURCES.items():
        sources = file.texts(key)
        for source in dict.fromkeys(sources):
            if not re.fullmatch(pattern, source):
                file.error(key, f"{source!r} names nothing", f"write {shape}")
            elif sources.count(source) > 1:
                problem = f"{source!r} stands there twice"
                file.findings.append(Finding(path, key, problem, "remove one", "warning"))
    return file


def check_dataset(path: Path) -> Metadata:
    """Check a dataset's metadata by itself."""
    file = _read(path, DATASET_KEYS, ascii_only=True)
    if not file.values:
        return file
    _check_id(file, 6)
    file.apply(DATASET_RULES)
    resources = file.values.get("resources", [])
    for entry in resources if isinstance(resources, list) else [resources]:
        name = entry.get("path") if isinstance(entry, dict) else None
        if not _is_text(name) or not (path.parent / name).exists():
            mend = "name files of the dataset's folder, or leave the key out"
            file.error("resources", f"{name!r} is not there", mend)
    return file


def _check_id(file: Metadata, shortest: int) -> str | None:
    """Check the id; give its slug, where it has one."""
    name = file.values.get("id")
    found = re.fullmatch(f"{_OWNER}/({_SLUG})(/[0-9]+)?", name) if _is_text(name) else None
    if not found or found[5]:
        mend = "write owner/slug, the slug in lower case with hyphens"
        file.error("id", f"got {name!r}", "leave the version away" if found else mend)
        return None
    slug = found[3]
    if not shortest <= len(slug) <= 50:
        problem = f"{slug!r} has {len(slug)} characters"
        file.error("id", problem, f"Kaggle takes {shortest} to 50")
    return slug


def _code_fault(folder: Path, name: Any, kind: Any) -> tuple[str, str] | None:
    """The first thing that is wrong with a kernel's code, and how to mend it."""
    if not _is_text(name) or not name:
        return f"expected the path of the code, got {name!r}", "name the one file that is pushed"
    inside, path = PurePosixPath(name), folder / name
    if inside.is_absolute() or ".." in inside.parts:
        return f"{name!r} is outside the metadata's folder", "name a file in it"
    if _is_text(kind) and inside.suffix != (suffix := _SUFFIXES.get(kind, inside.suffix)):
        return f"{name!r} is no {kind}", f"name a {suffix} file, or change kernel_type"
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        return problem, "the path is relative to the metadata"
    except UnicodeDecodeError:
        return f"{path} is not UTF-8", "save it as UTF-8"
    if not text.strip():
        return f"{path} is empty", "name the kernel's code"
    if text.startswith("\ufeff"):
        return f"{path} begins with a byte order mark", "save it as UTF-8 without one"
    if kind == "notebook" and (fault := _notebook_fault(path, text)):
        return fault
    try:
        fill_manifest(text, "")
    except InputError as error:
        return f"{path}: {error}", "without it the kernel would take any dataset"
    return None


def _notebook_fault(path: Path, text: str) -> tuple[str, str] | None:
    try:
        notebook = json.loads(text)
        cells, metadata = notebook["cells"], notebook.get("metadata")
    except (ValueError, TypeError, KeyError):
        return f"{path} is not a notebook", "make it again (make kernels)"
    kernelspec = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    if not (isinstance(kernelspec, dict) and kernelspec.get("name")):
        problem = f"{path} has no metadata.kernelspec"
        return problem, "without it the run fails: make it again (make kernels)"
    if not any(isinstance(cell, dict) and cell.get("cell_type") == "code" for cell in cells):
        return f"{path} has no code cell", "name the kernel's code"
    return None


def _read(path: Path, keys: tuple[str, ...], ascii_only: bool) -> Metadata:
    """Read a metadata file; what is wrong with the file itself and its keys is among the
    findings."""
    file = Metadata(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        file.error("", f"cannot be read ({error.strerror})", "put it there")
        return file
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        file.error(
            "",
            "begins with a byte order mark, at which the client fails",
            "save it as UTF-8 without one",
        )
    elif ascii_only and not content.isascii():
        file.error(
            "",
            "the client reads it in the machine's encoding",
            "write letters beyond ASCII as \\uXXXX",
        )
    doubled: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [key for key, _ in pairs]
        doubled.extend(key for key in dict.fromkeys(names) if names.count(key) > 1)
        return dict(pairs)

    try:
        values = json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        file.error("", f"not valid JSON in UTF-8 ({error})", "mend it")
        return file
    if not isinstance(values, dict) or not values:
        file.error(
            "",
            f"expected a JSON object with keys, got {json.dumps(values)[:60]}",
            "see kaggle's documentation",
        )
        return file
    for key in doubled:
        file.error(key, "stands there twice, and the last one wins", "remove one")
    for key in values.keys() - set(keys):
        close = difflib.get_close_matches(key, keys, n=1)
        file.error(
            key,
            "unknown, so Kaggle ignores it",
            f"did you mean {close[0]}?" if close else "remove it",
        )
    file.values = values
    return file


def _slugify(title: str) -> str:
    """The slug that Kaggle makes of a title, by the library that its client uses."""
    try:
        from slugify import slugify
    except ImportError:
        raise InputError("check: needs python-slugify: pip install 'humanpref[kaggle]'") from None
    return slugify(title)
