"""The acceptance kernel: install humanpref from its wheel dataset, without a network, and verify on
Kaggle's GPUs what the project claims about GPUs.

The table of results is in acceptance.md and acceptance.json in /kaggle/working. A failed check is
only reported in the table; the run ends with an error only if there is no table. `make kernels`
writes the pushed file, kernel/accept/accept.py, from kernel/accept.py and the code that the kernels
share.
"""

import base64
import csv
import errno
import hashlib
import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path

# Code that the kernels share: kernel/bootstrap.py and modules of humanpref.
ROOT = Path(os.environ.get("HUMANPREF_KAGGLE_ROOT", "/kaggle"))
INPUT, WORKING = ROOT / "input", ROOT / "working"
MARKER = "humanpref-dataset.json"
# SHA-256 of the manifest pushed with this kernel, filled in by the push. If empty, any manifest is
# accepted.
MANIFEST = ""


def find_dataset() -> Path:
    """Return the folder where Kaggle mounted the wheel dataset."""
    markers = find(MARKER, INPUT)
    if len(markers) != 1:
        mounted = "\n".join(map(str, markers)) or tree(INPUT)
        raise RuntimeError(
            f"expected one dataset with {MARKER} under {INPUT}, found {len(markers)}; {mounted}"
        )
    return markers[0].parent


def manifest_digest(dataset: Path) -> str:
    """Return the SHA-256 of the wheel dataset's manifest, which identifies the bundle."""
    return hashlib.sha256((dataset / MARKER).read_bytes()).hexdigest()


def check_dataset(dataset: Path) -> list[Path]:
    """Check that the manifest is the one that was pushed and that every file matches it; return the
    wheels."""
    if MANIFEST not in ("", digest := manifest_digest(dataset)):
        raise RuntimeError(
            f"{dataset / MARKER}: expected the manifest with SHA-256 {MANIFEST}, got {digest}; "
            "the mounted dataset is not the version that was pushed with this kernel"
        )
    manifest = json.loads((dataset / MARKER).read_text())
    if manifest["format"] != 1:
        raise RuntimeError(f"{dataset / MARKER}: expected format 1, got {manifest['format']!r}")
    wheels = []
    for entry in manifest["files"]:
        path = dataset / entry["name"]
        if path.suffix == ".whl" and not path.is_file():
            wheels.append(repack(path))
            continue
        if not path.is_file():
            raise RuntimeError(f"{path}: listed in {MARKER}, but missing; {tree(dataset)}")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if (path.stat().st_size, digest) != (entry["bytes"], entry["sha256"]):
            raise RuntimeError(
                f"{path}: expected {entry['bytes']} bytes with SHA-256 {entry['sha256']}, "
                f"got {path.stat().st_size} bytes with {digest}; is an older version of the "
                "dataset mounted?"
            )
        if path.suffix == ".whl":
            wheels.append(path)
    return wheels


def repack(wheel: Path) -> Path:
    """Repack a wheel that Kaggle unpacked into a folder, checking its files against its RECORD."""
    folders = [folder for folder in (wheel, wheel.with_suffix("")) if folder.is_dir()]
    records = [record for folder in folders for record in folder.glob("*.dist-info/RECORD")]
    if len(records) != 1:
        raise RuntimeError(f"{wheel}: neither a file nor an unpacked wheel; {tree(wheel.parent)}")
    folder = records[0].parent.parent
    repacked = Path(tempfile.mkdtemp()) / wheel.name
    with (
        zipfile.ZipFile(repacked, "w") as archive,
        open(records[0], encoding="utf-8", newline="") as record,
    ):
        for name, digest, _ in csv.reader(record):
            content = (folder / name).read_bytes()
            actual = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            if digest not in ("", f"sha256={actual.rstrip('=')}"):
                raise RuntimeError(f"{folder / name}: its SHA-256 differs from the wheel's RECORD")
            archive.writestr(name, content)
    return repacked


def install(wheels: list[Path]) -> None:
    """Install the wheels and nothing else, without a network."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--root-user-action=ignore"]
    for folder in sorted({str(wheel.parent) for wheel in wheels}):
        command += ["--find-links", folder]
    # A package may have several wheels, one per Python version; pip chooses the right one.
    command += dict.fromkeys("==".join(wheel.name.split("-")[:2]) for wheel in wheels)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        raise RuntimeError(f"pip ended with {done.returncode}:\n{done.stdout}")
    importlib.invalidate_caches()


def one_line(error: Exception) -> str:
    """Return an error as one line. If the disk is full, add how much space is free now."""
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    if os.strerror(errno.ENOSPC) in line and "MiB are free" not in line:
        free = shutil.disk_usage(WORKING).free / 2**20
        line += f"; {free:,.1f} MiB are free in {WORKING}"
    return line


def go_offline() -> None:
    """Tell the libraries that there is no network; call this before importing any of them."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def find(name: str, root: Path, depth: int = 8) -> list[Path]:
    """Find the files called `name` at most `depth` folders below `root`, nearest first."""
    paths = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        if name in files:
            # Kaggle may mount the same file under two paths.
            paths.setdefault(os.path.realpath(Path(folder, name)), Path(folder, name))
        if len(Path(folder).relative_to(root).parts) >= depth:
            folders.clear()
    return sorted(paths.values(), key=lambda path: (len(path.parts), str(path)))


def tree(root: Path, limit: int = 60) -> str:
    """List up to `limit` paths under `root`, for a message about a missing file."""
    paths = (path.relative_to(root) for path in root.rglob("*"))
    near = (f"  {path}" for path in paths if len(path.parts) <= 6)
    lines = sorted(itertools.islice(near, limit)) or ["  nothing"]
    if len(lines) == limit:
        lines.append("  …")
    return "\n".join([f"{root} holds:", *lines])


def main() -> None:
    """Install, then check."""
    go_offline()
    dataset = find_dataset()
    WORKING.mkdir(parents=True, exist_ok=True)
    status = {"manifest": manifest_digest(dataset), "degraded": ["the checks have not ended"]}
    (WORKING / "status.json").write_text(json.dumps(status))
    install(check_dataset(dataset))
    table = WORKING / "acceptance.md"
    command = [sys.executable, "-u", "-m", "humanpref.kaggle.acceptance", "--table", str(table)]
    command += ["--json", str(table.with_suffix(".json"))]
    # A dry run has no GPU.
    command += ["--quick"] if os.environ.get("HUMANPREF_DRY_RUN") else []
    done = subprocess.run(command)
    if not table.is_file():
        raise RuntimeError(f"the checks ended with {done.returncode} and left no table")
    (WORKING / "status.json").write_text(json.dumps(status | {"degraded": []}))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"The acceptance kernel failed: {one_line(error)}")
