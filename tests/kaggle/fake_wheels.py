"""Tiny wheels made on the spot, and a pip that finds no others."""

import base64
import hashlib
import zipfile
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    tags: str = "py3-none-any",
    requires: tuple[str, ...] = (),
    python: str = "",
    code: str = "",
) -> Path:
    """Write a wheel that pip installs: one module of the distribution's name, and its metadata."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {text}" for text in requires),
    ]
    metadata += [f"Requires-Python: {python}"] if python else []
    files = {
        f"{module}.py": code or f"NAME = {name!r}\n",
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, "", ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        f"Tag: {tags}\n",
    }
    record = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in files.items()] + [
        f"{info}/RECORD,,"
    ]
    files[f"{info}/RECORD"] = "\n".join(record) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in files.items():
            archive.writestr(zipfile.ZipInfo(entry), text)
    return path


def only_from(monkeypatch, folder: Path) -> None:
    """Let every pip that the test starts find wheels in this folder alone."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
