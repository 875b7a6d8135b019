"""Check a checkout or a bundle before a push: the metadata must follow Kaggle's rules and be
consistent, and every file must match the manifest."""

from pathlib import Path
from typing import Any

from humanpref.files import read_json
from humanpref.kaggle.bundle.assemble import (
    DATASET_FOLDER,
    KERNELS,
    check_is_bundle,
    kernels_of,
    read_run,
    uses_gpus,
)
from humanpref.kaggle.bundle.manifest import manifest_faults, upload_faults
from humanpref.kaggle.bundle.metadata import DATASET_METADATA, KERNEL_METADATA
from humanpref.kaggle.bundle.rules import Finding, Metadata, check_dataset, check_kernel
from humanpref.kaggle.bundle.stage import library_faults, version_faults
from humanpref.kaggle.competitions import DEFAULT
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER, KernelRun


def check_project(project: Path) -> list[Finding]:
    """Check the checkout's three metadata files and their consistency with each other.

    Raises
    ------
    InputError
        If one of them cannot be read.
    """
    kernels = {name: check_kernel(project / path) for name, path in KERNELS.items()}
    dataset = check_dataset(project / DATASET_METADATA)
    return _check_together(kernels, dataset, DEFAULT, artifacts=False)


def check_bundle(bundle: Path) -> list[Finding]:
    """Check a bundle's metadata, and its datasets' files against their manifests.

    Raises
    ------
    InputError
        If the folder is not a bundle, or its metadata or run.toml cannot be read.
    """
    check_is_bundle(bundle)
    dataset = bundle / DATASET_FOLDER
    run = read_run(dataset)
    kernels = {name: check_kernel(bundle / name / KERNEL_METADATA) for name in kernels_of(run)}
    if "train" in kernels:
        _check_backbone(kernels["train"], run)
    metadata = check_dataset(dataset / DATASET_METADATA)
    artifacts = (dataset / "artifacts").is_dir()
    findings = _check_together(kernels, metadata, run.competition, artifacts)
    # The other checks compare versions with those in the manifest, so it is checked first.
    damaged = _check_files(dataset, MARKER)
    findings += damaged
    if not damaged:
        facts = read_json(dataset / MARKER)
        findings += [
            Finding(dataset / name, "", fault)
            for name, fault in version_faults(dataset, facts).items()
        ]
        findings += [
            Finding(dataset / MARKER, "", fault) for fault in library_faults(dataset, run, facts)
        ]
        findings += _check_gpus(kernels, uses_gpus(dataset, run))
    for marker in sorted(bundle.glob(f"*/{WEIGHTS_MARKER}")):
        findings += check_dataset(marker.parent / DATASET_METADATA).findings
        findings += _check_files(marker.parent, WEIGHTS_MARKER)
    return findings


def _check_together(
    kernels: dict[str, Metadata], dataset: Metadata, competition: str, artifacts: bool
) -> list[Finding]:
    """Check that each kernel lists the sources that it needs. Return all findings."""
    for kernel in kernels.values():
        _needs(kernel, "competition_sources", competition, "the competition's files")
        _needs(kernel, "dataset_sources", dataset.values.get("id"), "the wheel dataset")
    if "train" in kernels and not artifacts:
        trained = kernels["train"].values.get("id")
        _needs(kernels["infer"], "kernel_sources", trained, "the training kernel's output")
    return [finding for file in (dataset, *kernels.values()) for finding in file.findings]


def _needs(kernel: Metadata, key: str, source: Any, what: str) -> None:
    # The source may be listed with or without a version.
    if not any(f"{name}/".startswith(f"{source}/") for name in kernel.texts(key)):
        kernel.add(key, f'{what} ({source}) is not listed; add "{source}"')


def _check_backbone(kernel: Metadata, run: KernelRun) -> None:
    """Check that a source mounts the backbone that run.toml needs."""
    if run.pretrained and not run.backbone:
        kernel.add(
            "model_sources",
            f"run.toml's preset {run.preset} needs a backbone's weights, but run.toml names none; "
            "add them: humanpref kaggle weights FOLDER",
        )
    sources = kernel.texts("dataset_sources") + kernel.texts("model_sources")
    if run.backbone and not any(f"/{run.backbone}/" in f"/{source}/" for source in sources):
        kernel.add(
            "model_sources",
            f"run.toml needs the backbone {run.backbone!r}, but no source mounts it; add it: "
            "humanpref kaggle weights FOLDER",
        )


def _check_gpus(kernels: dict[str, Metadata], used: dict[str, bool]) -> list[Finding]:
    """Return a finding for each kernel that asks for a GPU but uses none, or uses a GPU without
    asking for it."""
    problems = {
        True: "the kernel's models use a GPU; set it to true",
        False: "none of the kernel's models uses a GPU, which costs quota; set it to false",
    }
    return [
        Finding(kernel.path, "enable_gpu", problems[used[name]], "warning")
        for name, kernel in kernels.items()
        if (kernel.values.get("enable_gpu") is True) != used[name]
    ]


def _check_files(folder: Path, marker: str) -> list[Finding]:
    """Return a finding for each file that is unsuitable for upload or differs from the manifest."""
    faults = manifest_faults(folder, marker) | upload_faults(folder)
    return [
        Finding(folder / name, "", f"{fault} (rerun humanpref kaggle bundle, or kaggle weights)")
        for name, fault in faults.items()
    ]
