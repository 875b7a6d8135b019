"""Kaggle's rules for what is pushed, checked before the push, all at once.

The client checks few of them: it ignores unknown keys, lets the internet on where its key is
missing or misspelt, and ends with exit code 0 after pushing a kernel beside the one that was meant.
Each rule here is one that it leaves unchecked, or one that it refuses later and in other words.
"""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from humanpref.config import load_config
from humanpref.files import read_json, sha256
from humanpref.kaggle.bundle.assemble import DATASET_FOLDER, KERNELS, kernels_of, read_run
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    OWNER_PLACEHOLDER,
    fill_manifest,
)
from humanpref.kaggle.bundle.stage import LAYOUTS, mount_path, upload_faults, version_faults
from humanpref.kaggle.contract import COMPETITION, MARKER, WEIGHTS_MARKER, KernelRun
from humanpref.schema import InputError

KERNEL_KEYS = (
    *(
        "id",
        "id_no",
        "title",
        "code_file",
        "language",
        "kernel_type",
        "is_private",
        "enable_gpu",
        "enable_tpu",
    ),
    *("enable_internet", "machine_shape", "docker_image_pinning_type", "docker_image", "keywords"),
    *("dataset_sources", "competition_sources", "kernel_sources", "model_sources"),
)
DATASET_KEYS = (
    "id",
    "id_no",
    "title",
    "subtitle",
    "description",
    "licenses",
    "keywords",
    "resources",
)
"""All keys that the client looks up; it ignores every other one."""

SOURCES = {
    "dataset_sources": (r"OWNER/SLUG(/VERSION)?", "owner/slug or owner/slug/VERSION"),
    "kernel_sources": (r"OWNER/SLUG(/VERSION)?", "owner/slug or owner/slug/VERSION"),
    "model_sources": (
        r"OWNER/NAME/NAME/NAME/VERSION",
        "owner/model/framework/variation/VERSION, all five parts",
    ),
    "competition_sources": (r"SLUG", "the competition's slug, without an owner"),
}
_PARTS = {
    "OWNER": rf"({OWNER_PLACEHOLDER}|[A-Za-z0-9]+([-_][A-Za-z0-9]+)*)",
    "SLUG": r"[a-z0-9]+(-[a-z0-9]+)*",
    "NAME": r"[\w.-]+",
    "VERSION": r"[1-9][0-9]*",
}
_SUFFIXES = {"script": ".py", "notebook": ".ipynb"}


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
class _File:
    """A metadata file under examination."""

    path: Path
    findings: list[Finding] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def error(self, key: str, problem: str, mend: str) -> None:
        self.findings.append(Finding(self.path, key, problem, mend))

    def warn(self, key: str, problem: str, mend: str) -> None:
        self.findings.append(Finding(self.path, key, problem, mend, "warning"))

    def length(self, key: str, low: int, high: int, value: str) -> None:
        if not low <= len(value) <= high:
            self.error(
                key, f"{value!r} has {len(value)} characters", f"Kaggle takes {low} to {high}"
            )


def check_project(project: Path) -> list[Finding]:
    """Check the checkout's three metadata files, and that they fit together."""
    paths = {name: project / path for name, path in KERNELS.items()}
    return _check(paths, project / DATASET_METADATA, None, artifacts=False)


def check_bundle(bundle: Path) -> list[Finding]:
    """Check a bundle: its metadata, and that every file of its datasets is the one in the manifest.

    Raises
    ------
    InputError
        If there is no bundle.
    """
    dataset = bundle / DATASET_FOLDER
    if not (dataset / MARKER).is_file():
        raise InputError(
            f"{bundle}: not a bundle; make one first: humanpref kaggle bundle --out {bundle}"
        )
    try:
        run, findings = read_run(dataset), []
    except InputError as error:
        run = None
        findings = [Finding(dataset / "run.toml", "", str(error), "make the bundle again")]
    paths = {
        name: bundle / name / KERNEL_METADATA for name in (kernels_of(run) if run else KERNELS)
    }
    findings += _check(
        paths, dataset / DATASET_METADATA, run, artifacts=(dataset / "artifacts").is_dir()
    )
    findings += _check_files(dataset, MARKER)
    findings += _check_versions(dataset)
    for marker in sorted(bundle.glob(f"*/{WEIGHTS_MARKER}")):
        weights = check_dataset(marker.parent / DATASET_METADATA)
        findings += weights.findings + _check_files(marker.parent, WEIGHTS_MARKER)
    return findings


def _check(
    kernels: dict[str, Path], dataset: Path, run: KernelRun | None, artifacts: bool
) -> list[Finding]:
    wheels = check_dataset(dataset)
    files = {name: check_kernel(path) for name, path in kernels.items()}
    for kernel in files.values():
        _needs(kernel, "competition_sources", COMPETITION, "the competition's files")
        _needs(kernel, "dataset_sources", wheels.values.get("id"), "the wheel dataset")
    if "train" in files:
        if not artifacts:
            _needs(
                files["infer"],
                "kernel_sources",
                files["train"].values.get("id"),
                "the training kernel's output",
            )
        if run is not None:
            _check_backbone(files["train"], run)
    return [
        *wheels.findings,
        *(finding for kernel in files.values() for finding in kernel.findings),
    ]


def _needs(kernel: _File, key: str, source: Any, what: str) -> None:
    named = kernel.values.get(key)
    if kernel.values and isinstance(source, str):
        # With or without a version.
        there = [text for text in named if isinstance(text, str)] if isinstance(named, list) else []
        if not any(text == source or text.startswith(f"{source}/") for text in there):
            kernel.error(key, f"{what} ({source}) is not named", f'add "{source}"')


def _check_backbone(kernel: _File, run: KernelRun) -> None:
    """The training kernel's run.toml may ask for a backbone: some source has to mount it."""
    try:
        backbone = getattr(load_config(run.preset, None, list(run.overrides)).model, "backbone", "")
    except InputError as error:
        kernel.error(
            "", f"run.toml: {error}", "make the bundle again with another --preset or --set"
        )
        return
    if not run.backbone:
        if backbone not in ("", "scratch"):
            kernel.error(
                "model_sources",
                f"run.toml's preset {run.preset} needs a backbone's weights, and names none",
                "name them: humanpref kaggle weights FOLDER",
            )
        return
    parts = PurePosixPath(run.backbone).parts
    for key in ("dataset_sources", "model_sources"):
        for source in kernel.values.get(key) or []:
            for layout in LAYOUTS:
                try:
                    path = mount_path(key.removesuffix("_sources"), source, layout).parts
                except (InputError, AttributeError):
                    continue
                if any(path[i : i + len(parts)] == parts for i in range(len(path))):
                    return
    kernel.error(
        "model_sources",
        f"run.toml needs the backbone {run.backbone!r}, and no source mounts it",
        "name it: humanpref kaggle weights FOLDER",
    )


def check_kernel(path: Path) -> _File:
    """Check one kernel's metadata and its code file by themselves."""
    file = _read(path, KERNEL_KEYS, ascii_only=False)
    if not file.values:
        return file
    values = file.values
    slug = _check_id(file, 5)
    title = values.get("title")
    if not isinstance(title, str):
        file.error(
            "title",
            f"expected text, got {title!r}",
            "give the kernel a title of 5 to 50 characters",
        )
    else:
        file.length("title", 5, 50, title)
        if slug and _slugify(title) != slug:
            file.error(
                "title",
                f"{title!r} becomes the slug {_slugify(title)!r}, but the id says {slug!r}: Kaggle "
                "would make a second kernel",
                f"use a title such as {slug.replace('-', ' ')!r}",
            )
    _check_booleans(file)
    if values.get("language") != "python":
        file.error("language", f"got {values.get('language')!r}", 'write "python"')
    if values.get("kernel_type") not in _SUFFIXES:
        file.error(
            "kernel_type", f"got {values.get('kernel_type')!r}", 'write "script" or "notebook"'
        )
    _check_code(file)
    if values.get("enable_gpu") is True:
        shape = values.get("machine_shape")
        if shape == "NvidiaTeslaP100":
            file.error(
                "machine_shape", "the P100 is retired", 'write "NvidiaTeslaT4", which is two T4'
            )
        elif shape != "NvidiaTeslaT4":
            file.warn("machine_shape", f"got {shape!r}", '"NvidiaTeslaT4" means two T4')
    pinning = values.get("docker_image_pinning_type")
    if pinning not in (None, "original", "latest"):
        file.error(
            "docker_image_pinning_type",
            f"got {pinning!r}",
            'write "original" or "latest", or leave it out',
        )
    for key in SOURCES:
        _check_sources(file, key)
    _check_texts(file, "keywords")
    return file


def _check_booleans(file: _File) -> None:
    for key in ("is_private", "enable_gpu", "enable_tpu", "enable_internet"):
        value = file.values.get(key)
        if value is not None and not isinstance(value, bool):
            file.error(
                key, f"expected true or false, got {json.dumps(value)}", "write it without quotes"
            )
    internet = file.values.get("enable_internet")
    if internet is None:
        file.error(
            "enable_internet",
            "not set, and Kaggle's default is true",
            'write "enable_internet": false',
        )
    elif internet is True:
        file.error(
            "enable_internet", "the competition refuses a kernel with internet", "set it to false"
        )
    if file.values.get("is_private") is False:
        file.warn(
            "is_private",
            "the kernel would be public",
            "set it to true, unless that is what you want",
        )


def _check_code(file: _File) -> None:
    name, kind = file.values.get("code_file"), file.values.get("kernel_type")
    if not isinstance(name, str) or not name:
        file.error(
            "code_file",
            f"expected the path of the code, got {name!r}",
            "name the one file that is pushed",
        )
        return
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        file.error("code_file", f"{name!r} is outside the metadata's folder", "name a file in it")
        return
    if kind in _SUFFIXES and PurePosixPath(name).suffix != _SUFFIXES[kind]:
        file.error(
            "code_file",
            f"{name!r} is no {kind}",
            f"name a {_SUFFIXES[kind]} file, or change kernel_type",
        )
    path = file.path.parent / name
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        file.error(
            "code_file",
            f"{path} cannot be read ({error.strerror})",
            "the path is relative to the metadata",
        )
        return
    except UnicodeDecodeError:
        file.error("code_file", f"{path} is not UTF-8", "save it as UTF-8")
        return
    if not text.strip():
        file.error("code_file", f"{path} is empty", "name the kernel's code")
    elif text.startswith("\ufeff"):
        file.error(
            "code_file", f"{path} begins with a byte order mark", "save it as UTF-8 without one"
        )
    elif kind == "notebook":
        _check_notebook(file, path, text)
    if not any(finding.key == "code_file" for finding in file.findings):
        try:
            fill_manifest(text, "")
        except InputError as error:
            file.error(
                "code_file", f"{path}: {error}", "without it the kernel would take any dataset"
            )


def _check_notebook(file: _File, path: Path, text: str) -> None:
    try:
        notebook = json.loads(text)
        cells = notebook["cells"]
    except (ValueError, TypeError, KeyError):
        file.error("code_file", f"{path} is not a notebook", "make it again (make kernels)")
        return
    metadata = notebook.get("metadata")
    kernelspec = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    if not (isinstance(kernelspec, dict) and kernelspec.get("name")):
        file.error(
            "code_file",
            f"{path} has no metadata.kernelspec",
            "without it the run fails: make it again (make kernels)",
        )
    if not any(isinstance(cell, dict) and cell.get("cell_type") == "code" for cell in cells):
        file.error("code_file", f"{path} has no code cell", "name the kernel's code")


def _check_sources(file: _File, key: str) -> None:
    pattern, shape = SOURCES[key]
    for name, part in _PARTS.items():
        pattern = pattern.replace(name, part)
    seen = set()
    for source in _check_texts(file, key):
        if not re.fullmatch(pattern, source):
            file.error(key, f"{source!r} names nothing", f"write {shape}")
        elif source in seen:
            file.warn(key, f"{source!r} stands there twice", "remove one")
        seen.add(source)


def _check_texts(file: _File, key: str) -> list[str]:
    """The texts of a list of texts; what else is there is a finding."""
    value = file.values.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        file.error(
            key,
            f"expected a list of texts, got {json.dumps(value)[:60]}",
            'write ["…"], or [] for none',
        )
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    return value


def check_dataset(path: Path) -> _File:
    """Check a dataset's metadata by itself."""
    file = _read(path, DATASET_KEYS, ascii_only=True)
    if not file.values:
        return file
    values = file.values
    _check_id(file, 6)
    if isinstance(values.get("title"), str):
        file.length("title", 6, 50, values["title"])
    else:
        file.error(
            "title",
            f"expected text, got {values.get('title')!r}",
            "give the dataset a title of 6 to 50 characters",
        )
    if "subtitle" in values:
        if isinstance(values["subtitle"], str):
            file.length("subtitle", 20, 80, values["subtitle"])
        else:
            file.error(
                "subtitle",
                f"expected text, got {values['subtitle']!r}",
                "write 20 to 80 characters, or leave it out",
            )
    licenses = values.get("licenses")
    names = (
        [entry.get("name") for entry in licenses if isinstance(entry, dict)]
        if isinstance(licenses, list)
        else []
    )
    if len(names) != 1 or len(licenses) != 1 or not isinstance(names[0], str):
        file.error("licenses", "expected exactly one", 'write [{"name": "apache-2.0"}]')
    elif names[0].lower() == "mit":
        file.error(
            "licenses",
            "Kaggle does not list MIT",
            'write [{"name": "other"}], and the licence in the description',
        )
    resources = values.get("resources", [])
    for entry in resources if isinstance(resources, list) else [resources]:
        name = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not (path.parent / name).exists():
            file.error(
                "resources",
                f"{name!r} is not there",
                "name files of the dataset's folder, or leave the key out",
            )
    _check_texts(file, "keywords")
    return file


def _check_id(file: _File, shortest: int) -> str | None:
    """Check the id; give its slug, where it has one."""
    name = file.values.get("id")
    if not isinstance(name, str) or not re.fullmatch(f"{_PARTS['OWNER']}/{_PARTS['SLUG']}", name):
        version = isinstance(name, str) and re.fullmatch(
            f"{_PARTS['OWNER']}/{_PARTS['SLUG']}/[0-9]+", name
        )
        mend = (
            "leave the version away"
            if version
            else "write owner/slug, the slug in lower case with hyphens"
        )
        file.error("id", f"got {name!r}", mend)
        return None
    slug = name.rpartition("/")[2]
    file.length("id", shortest, 50, slug)
    return slug


def _read(path: Path, keys: tuple[str, ...], ascii_only: bool) -> _File:
    """Read a metadata file; what is wrong with the file itself and its keys is among the
    findings."""
    file = _File(path)
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


def _check_files(folder: Path, marker: str) -> list[Finding]:
    """What cannot be uploaded, and what is not as the manifest has it."""
    again = "make it again (humanpref kaggle bundle, or weights)"
    findings = [
        Finding(folder / name, "", problem.strip(), again)
        for name, _, problem in (fault.partition(":") for fault in upload_faults(folder))
    ]
    try:
        entries = json.loads((folder / marker).read_text(encoding="utf-8"))["files"]
        listed = {entry["name"]: (entry["bytes"], entry["sha256"]) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError) as error:
        return [
            *findings,
            Finding(
                folder / marker, "", f"not a manifest ({type(error).__name__}: {error})", again
            ),
        ]
    there = {path.relative_to(folder).as_posix() for path in _files(folder)} - {
        marker,
        DATASET_METADATA,
    }
    findings += [
        Finding(folder / name, "", "in the manifest, but not there", again)
        for name in sorted(listed.keys() - there)
    ]
    findings += [
        Finding(folder / name, "", "not in the manifest", again)
        for name in sorted(there - listed.keys())
    ]
    for name in sorted(there & listed.keys()):
        path = folder / name
        if (path.stat().st_size, sha256(path)) != listed[name]:
            findings.append(Finding(path, "", "not the file that the manifest describes", again))
    return findings


def _check_versions(dataset: Path) -> list[Finding]:
    try:
        faults = version_faults(dataset, read_json(dataset / MARKER))
    except InputError as error:
        faults = [(dataset / "artifacts", str(error))]
    except (KeyError, TypeError):
        faults = [(dataset / MARKER, "does not say which versions the image has")]
    parts = ((path, problem.partition("; ")) for path, problem in faults)
    return [
        Finding(path, "", problem, mend or "make the bundle again")
        for path, (problem, _, mend) in parts
    ]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _slugify(title: str) -> str:
    """The slug that Kaggle makes of a title, by the library that its client uses."""
    try:
        from slugify import slugify
    except ImportError:
        raise InputError("check: needs python-slugify: pip install 'humanpref[kaggle]'") from None
    return slugify(title)
