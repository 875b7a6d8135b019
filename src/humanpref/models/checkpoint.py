"""A pretrained model's weights on disk: find their files, check that they are complete, and compute
a digest.

The digest covers the tensors, not the files. A publisher's .bin file therefore has the same digest
as the safetensors made from it, whether in one file or several.
"""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from humanpref.files import damage, read_json
from humanpref.schema import InputError

DIGESTS_VARIABLE = "HUMANPREF_BASE_DIGESTS"
"""Environment variable with the digests computed so far, which child processes inherit. It is a
JSON object whose keys are digests of the files' paths, sizes and modification times."""

# Names of weight files, in the order in which transformers looks for them.
_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weights_files(folder: Path) -> list[Path]:
    """List the files from which transformers reads the folder's weights. If there are several, the
    first one is the index that names the others.

    Raises
    ------
    InputError
        If there are none, if one is missing or incomplete, if the folder contains an adapter, which
        transformers would also load, or if config.json names a different file
        (`transformers_weights`).
    """
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    if adapter.exists():
        raise InputError(
            f"{adapter}: an adapter, which would change the model; merge it into the weights, or "
            "remove it from the folder"
        )
    settings = read_json(config) if config.is_file() else {}
    if not isinstance(settings, dict) or "transformers_weights" in settings:
        raise InputError(f"{config}: expected a JSON object without the key 'transformers_weights'")
    first = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if first is None:
        raise InputError(f"backbone {folder}: no weights, expected one of {', '.join(_NAMES)}")
    files = [first]
    if first.suffix == ".json":
        index = read_json(first)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        names = list(shards.values()) if isinstance(shards, dict) else []
        beside = [isinstance(name, str) and Path(name).name == name for name in names]
        if not names or not all(beside):
            raise InputError(f"{first}: expected a 'weight_map' from weights to files next to it")
        files += [folder / name for name in sorted(set(names))]
    for path in files:
        problem = damage(path) if path.is_file() else f"named in {first.name}, but missing"
        if problem:
            raise InputError(f"{path}: {problem}")
    return files


def base_digest(folder: Path) -> str:
    """Return the SHA-256 of a folder's weights: the name, type, shape and content of each tensor,
    in the order of the names.

    This takes minutes for a large model. The digest is therefore kept for this process and its
    later child processes, until the size or the modification time of a file changes.

    Raises
    ------
    InputError
        If a file holds something other than tensors; see also `weights_files`.
    """
    files = weights_files(folder)
    seen = repr(stamps(files)).encode("utf-8", "surrogateescape")
    key = hashlib.sha256(seen).hexdigest()
    known = json.loads(os.environ.get(DIGESTS_VARIABLE, "{}"))
    if key not in known:
        digest = hashlib.sha256()
        for name, tensor in _tensors(files):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        known[key] = digest.hexdigest()
        os.environ[DIGESTS_VARIABLE] = json.dumps(known)
    return known[key]


def stamps(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return the path, size and modification time of each file. A file for which all three are the
    same counts as unchanged."""
    stats = ((str(path.resolve()), path.stat()) for path in files)
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def convert(files: list[Path], target: Path) -> None:
    """Write the tensors of a publisher's .bin files as one safetensors file.

    A tensor that several names share is written under each name, so that readers do not have to tie
    the names again.
    """
    state = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in _tensors(files)
    }
    save_file(state, target, metadata={"format": "pt"})


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in the order of their names. They are read one at a time from safetensors,
    but all at once from .bin files."""
    parts = [path for path in files if path.suffix != ".json"]
    if parts[0].suffix == ".bin":
        state: dict[str, Tensor] = {}
        for path in parts:
            state |= load_bin(path)
        yield from sorted(state.items())
        return
    with contextlib.ExitStack() as stack:
        owners = {}
        for path in parts:
            opened = stack.enter_context(safe_open(path, framework="pt"))
            owners |= dict.fromkeys(opened.keys(), opened)
        for name in sorted(owners):
            yield name, owners[name].get_tensor(name)


def load_bin(path: Path) -> dict[str, Tensor]:
    """Read the tensors in a publisher's .bin file, which is a pickle, without running code from the
    file.

    Raises
    ------
    InputError
        If it is truncated, or holds something other than tensors.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        if not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise TypeError("expected weights by name")
    except Exception as error:  # a truncated pickle can fail anywhere
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:100]
        raise InputError(
            f"{path}: incomplete, or holds something other than weights "
            f"({reason or type(error).__name__})"
        ) from None
    return state
