"""Push a bundle's datasets and its two kernels, and wait for their results.

Every push is recorded before it is sent (`humanpref.kaggle.service.records`) and recognized on
Kaggle afterwards: a dataset by its manifest, a kernel by its version number and its code. After an
interruption, the same command can therefore be rerun and sends only the missing parts.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from humanpref.files import sha256
from humanpref.kaggle.bundle.assemble import DATASET_FOLDER, KERNELS, kernels_of, read_run
from humanpref.kaggle.bundle.check import check_bundle
from humanpref.kaggle.bundle.metadata import (
    DATASET_METADATA,
    KERNEL_METADATA,
    read_metadata,
    stage_kernel,
)
from humanpref.kaggle.bundle.verdict import impossible
from humanpref.kaggle.competitions import DEFAULT
from humanpref.kaggle.contract import MARKER, WEIGHTS_MARKER
from humanpref.kaggle.service.client import Client
from humanpref.kaggle.service.dataset_push import push_dataset, wait_for_dataset
from humanpref.kaggle.service.kernels import (
    FAILED,
    SOURCES,
    Kernel,
    get_kernel,
    run_status,
    save_kernel,
    sources_left_out,
    unversioned,
)
from humanpref.kaggle.service.records import Records, describe, identity
from humanpref.kaggle.service.results import check_finished, check_whole, wait_for_run
from humanpref.kaggle.service.waiting import send_once, settled
from humanpref.schema import InputError

logger = logging.getLogger(__name__)

PARTS = (DATASET_FOLDER, *KERNELS)
"""The parts of a bundle that can be pushed separately; packed weights are pushed with the
dataset."""


def push(
    client: Client,
    records: Records,
    bundle: Path,
    owner: str,
    parts: Collection[str] = (),
    anyway: bool = False,
) -> None:
    """Push the chosen parts of a bundle in order; the inference kernel is not pushed until the
    training kernel that it mounts has run.

    Parameters
    ----------
    client, records
        The service, and the record of everything sent to it.
    bundle : Path
        A folder created by `humanpref kaggle bundle`.
    owner : str
        The Kaggle user name to push under.
    parts : collection of str
        Elements of `PARTS`; if empty, every part that the bundle has.
    anyway : bool
        Whether to push a training kernel even if its estimate says that it cannot succeed. If the
        training ran out of time, also whether to predict with the models that are finished.

    Raises
    ------
    InputError
        If the bundle cannot be pushed, its training cannot succeed, or Kaggle refuses it or does
        not answer.
    """
    check_user(client, owner)
    for finding in sorted(check_bundle(bundle), key=lambda finding: finding.level, reverse=True):
        if finding.level == "error":
            raise InputError(client.clean(str(finding).removeprefix("error: ")))
        logger.warning("%s", client.clean(finding))
    marker = bundle / DATASET_FOLDER / MARKER
    manifest = sha256(marker)
    run = read_run(marker.parent)
    kernels = kernels_of(run)
    if missing := set(parts) - {DATASET_FOLDER, *kernels}:
        raise InputError(
            f"{bundle}: has no {missing.pop()} kernel; it was bundled from artifacts only, without "
            "--preset"
        )
    if not anyway and (not parts or "train" in parts) and (reason := impossible(run)):
        raise InputError(f"{bundle}: {reason}; to push it anyway, add --anyway")
    chosen = parts or PARTS
    with records.locked():
        for path in (marker, *mounted_weights(bundle, kernels)):
            push_dataset(client, records, path, owner, manifest, DATASET_FOLDER in chosen)
        for name in kernels:
            if name in chosen or "infer" in chosen:
                folder = bundle / name
                push_kernel(client, records, folder, owner, manifest, name in chosen, anyway)


def mounted_weights(bundle: Path, kernels: Collection[str]) -> Iterator[Path]:
    """Yield the manifest of each folder of packed weights that a kernel mounts."""
    metadata = [read_metadata(bundle / name / KERNEL_METADATA) for name in kernels]
    mounted = {source for each in metadata for source in each.get("dataset_sources", ())}
    for path in sorted(bundle.glob(f"*/{WEIGHTS_MARKER}")):
        if read_metadata(path.parent / DATASET_METADATA)["id"] in mounted:
            yield path
        else:
            logger.info("%s: no kernel mounts these weights; not uploaded", path.parent)


def check_user(client: Client, owner: str) -> None:
    """Raise InputError if the credentials are known to belong to a user other than `owner`."""
    if client.user and client.user.lower() != owner:
        raise InputError(f"--user {owner}: the Kaggle credentials in use belong to {client.user}")


def wait(client: Client, records: Records, anyway: bool = False) -> Iterator[str]:
    """Wait until each dataset of the last bundle is ready and each kernel has run. Yield one line
    for each of them.

    Parameters
    ----------
    client, records
        The service, and the record of everything sent to it.
    anyway : bool
        Whether a result that is incomplete or belongs to a different bundle only causes a warning,
        instead of an error.

    Raises
    ------
    InputError
        If nothing has been pushed, if a push was interrupted or refused, if a run failed, or if its
        result is incomplete or belongs to a different bundle.
    """
    names = records.latest()
    if not names:
        raise InputError(
            f"{records.path}: nothing has been pushed from here; run humanpref kaggle push"
        )
    for name in names:
        entry = records.require(name, "push")
        if "marker" in entry:
            wait_for_dataset(client, entry)
            yield f"{describe(entry)}: ready"
        else:
            wait_for_run(client, records, name)
            check_whole(client, entry, anyway)
            yield f"{describe(entry)}: COMPLETE"


def push_kernel(
    client: Client,
    records: Records,
    folder: Path,
    owner: str,
    manifest: str,
    chosen: bool = True,
    anyway: bool = False,
) -> None:
    """Push a kernel, which starts its run. Do not push it if the same code has already run, or is
    running, on the same sources.

    If `chosen` is False, nothing is pushed; but if the kernel's record was lost and Kaggle has the
    kernel, the record is restored.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source, name = folder / KERNEL_METADATA, folder.name
        staged = stage_kernel(source, Path(temporary), owner, manifest, records.name)
        metadata = read_metadata(staged / KERNEL_METADATA)
        code = staged / metadata["code_file"]
        client.refuse_secrets(code)
        ref, text = metadata["id"], code.read_text(encoding="utf-8")
        known = records[name].get("ref") == ref
        if known and not chosen:
            return
        named = (source for kind in SOURCES for source in metadata.get(f"{kind}_sources", []))
        sources = set(map(unversioned, named))
        competition = next(iter(metadata.get("competition_sources", ())), DEFAULT)
        # To resume a run, a kernel may mount an earlier version of itself.
        inputs = mounted_pushes(client, records, ref, sources - {ref}, manifest, anyway)
        content = json.dumps([metadata, text, inputs], sort_keys=True)
        key = {"ref": ref, "digest": hashlib.sha256(content.encode()).hexdigest()}
        facts = {"manifest": manifest, "inputs": inputs, "competition": competition}

        def current() -> Kernel | None:
            # Ask several times about a kernel that was pushed: Kaggle may once report it missing.
            entry = records[name]
            pushed = entry.get("ref") == ref and (entry.get("version") or entry.get("base"))
            return settled(lambda: get_kernel(client, ref)) if pushed else get_kernel(client, ref)

        def is_ours(kernel: Kernel) -> bool:
            return _cells(kernel.code) == _cells(text)

        def present() -> int | None:
            if known and not records.has(name, "done", **key):
                return None
            kernel = current()
            if kernel is None:
                return None
            if known:
                fits = kernel.version == records[name]["version"]
            else:
                # The record was lost. The code contains the dataset's digest, so the same code
                # means the same dataset. Mounted kernels are not in the code, but must have run
                # before this kernel.
                others = [other for other, of in inputs.items() if isinstance(of, int)]
                fits = (
                    is_ours(kernel)
                    and sources == kernel.sources
                    and not any(kernel.is_older(get_kernel(client, other)) for other in others)
                )
            return kernel.version if fits and run_status(client, ref)[0] not in FAILED else None

        def find() -> int | None:
            kernel = get_kernel(client, ref)
            if kernel is None or kernel.version <= records[name]["base"] or not is_ours(kernel):
                return None
            if missing := sorted(sources - kernel.sources):
                records.update(name, state="refused")
                raise sources_left_out(ref, kernel.version, missing)
            return kernel.version

        def send() -> int:
            kernel = current()
            base = kernel.version if kernel else 0
            with records.sending(name, **key, **facts, base=base):
                return save_kernel(client, staged, ref)

        if version := present():
            logger.info("%s: version %d already has this code and these inputs", ref, version)
        elif chosen:
            version = send_once(send, lambda: records.has(name, "sending", **key), find)
            logger.info("%s: pushed as version %d", ref, version)
        if version:
            records.write(name, "done", **key, **facts, version=version)


def mounted_pushes(
    client: Client,
    records: Records,
    kernel: str,
    sources: set[str],
    manifest: str,
    anyway: bool = False,
) -> dict[str, Any]:
    """Wait until every kernel in `sources` that the records list has run. Return a dict that maps
    each source in the records to the digest (of a dataset) or version (of a kernel) pushed last.
    With `anyway`, accept a training kernel that ran out of time."""
    pushes = {entry["ref"]: name for name, entry in records.pushes().items()}
    for source in sorted(sources & pushes.keys()):
        name = pushes[source]
        problem = ""
        if records[name]["state"] != "done":
            problem = "whose last push is not done"
        elif name == DATASET_FOLDER and records[name]["digest"] != manifest:
            problem = "which belongs to a different bundle"
        if problem:
            raise InputError(f"{kernel}: mounts {source}, {problem}; push {source} first")
        if name in KERNELS:
            wait_for_run(client, records, name)
            check_finished(client, records[name], anyway)
    return {source: identity(records[pushes[source]]) for source in sources & pushes.keys()}


def _cells(text: str) -> list[tuple[str, str]]:
    """Return a kernel's code as a list of cells, with a script as one cell. Kaggle preserves a
    notebook's code, but not every byte of the file."""
    try:
        cells = json.loads(text)["cells"]
    except (ValueError, KeyError, TypeError):
        cells = [{"cell_type": "code", "source": text}]
    return [
        (cell["cell_type"], "".join(cell["source"]).replace("\r\n", "\n").strip()) for cell in cells
    ]
