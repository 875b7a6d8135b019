"""A checkout or a bundle, checked before the push, all at once.

Its metadata follow Kaggle's rules, its files fit together, and each is the one in the manifest.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from humanpref.config import load_config
from humanpref.files import read_json, sha256
from humanpref.kaggle.bundle.assemble import (
    DATASET_FOLDER,
    KERNELS,
    check_is_bundle,
    kernels_of,
    read_run,
)
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, KERNEL_METADATA
from humanpref.kaggle.bundle.rules import Finding, Metadata, check_dataset, check_kernel
from humanpref.kaggle.bundle.stage import LAYOUTS, mount_path, upload_faults, version_faults
from humanpref.kaggle.contract import COMPETITION, MARKER, WEIGHTS_MARKER, KernelRun
from humanpref.schema import InputError


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
    check_is_bundle(bundle)
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


def _needs(kernel: Metadata, key: str, source: Any, what: str) -> None:
    # With or without a version.
    if kernel.values and isinstance(source, str):
        names = kernel.texts(key)
        if source not in names and not any(name.startswith(f"{source}/") for name in names):
            kernel.error(key, f"{what} ({source}) is not named", f'add "{source}"')


def _check_backbone(kernel: Metadata, run: KernelRun) -> None:
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
    paths = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    there = paths.keys() - {marker, DATASET_METADATA}
    problems = dict.fromkeys(listed.keys() - there, "in the manifest, but not there")
    problems |= dict.fromkeys(there - listed.keys(), "not in the manifest")
    for name in there & listed.keys():
        if (paths[name].stat().st_size, sha256(paths[name])) != listed[name]:
            problems[name] = "not the file that the manifest describes"
    return findings + [
        Finding(folder / name, "", problems[name], again) for name in sorted(problems)
    ]


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
