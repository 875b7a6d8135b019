"""A pretrained model's weights on disk: which files they are read from, whether those are whole,
and their digest.

The digest is of the tensors, not of the files: a publisher's .bin and the safetensors that are made
from it, in one file or in several, have the same.
"""

import contextlib
import hashlib
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from humanpref.files import damage, read_json
from humanpref.schema import InputError

ADAPTER_FILE = "adapter_config.json"
SAFETENSORS = "model.safetensors"
# In the order in which transformers looks for them.
_NAMES = (
    SAFETENSORS,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weights_files(folder: Path) -> list[Path]:
    """The files that transformers reads the folder's weights from; an index comes first.

    Raises
    ------
    InputError
        If there are none, one is missing or not whole, or something beside them would change the
        model without being a part of it: an adapter, or a configuration that names other weights.
    """
    adapter, config = folder / ADAPTER_FILE, folder / "config.json"
    if adapter.exists():
        # transformers puts an adapter that it finds on the model, or on whatever base the adapter
        # names.
        raise InputError(
            f"{adapter}: an adapter, which would change the model; merge it into the weights, or "
            "take it out of the folder"
            if config.is_file()
            else (
                f"backbone {folder}: holds an adapter alone ({ADAPTER_FILE}); merge it into its "
                f"base and save that whole"
            )
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
        if not (
            isinstance(shards, dict) and shards and all(_is_name(name) for name in shards.values())
        ):
            raise InputError(f"{first}: expected a 'weight_map' from weights to files beside it")
        files += [folder / name for name in sorted(set(shards.values()))]
    for path in files:
        problem = damage(path) if path.is_file() else f"named by {first.name}, but not there"
        if problem:
            raise InputError(f"{path}: {problem}")
    return files


def _is_name(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value


def base_digest(folder: Path) -> str:
    """SHA-256 of a folder's weights: of the name, type, shape and content of every tensor, in the
    order of the names.

    Raises
    ------
    InputError
        As `weights_files`, or if a file holds something else than tensors.
    """
    digest = hashlib.sha256()
    for name, tensor in _tensors(weights_files(folder)):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def convert(files: list[Path], target: Path) -> None:
    """Write the tensors of a publisher's .bin files as one safetensors file.

    Tensors that share memory are written once for each name: what reads them then does not depend
    on who ties them again.
    """
    state = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in _tensors(files)
    }
    save_file(state, target, metadata={"format": "pt"})


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the order of their names, read one by one where the format allows."""
    parts = [path for path in files if path.suffix != ".json"]
    if parts[0].suffix == ".bin":
        yield from sorted(
            {name: tensor for path in parts for name, tensor in load_bin(path).items()}.items()
        )
        return
    with contextlib.ExitStack() as stack:
        owners = {}
        for path in parts:
            opened = stack.enter_context(safe_open(path, framework="pt"))
            owners |= dict.fromkeys(opened.keys(), opened)
        for name in sorted(owners):
            yield name, owners[name].get_tensor(name)


def load_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a publisher's .bin, a pickle, of which no code is run.

    Raises
    ------
    InputError
        If it is cut off, or holds something else.
    """
    try:
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    # A pickle that is cut off can fail anywhere.
    except (
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = (
            str(error).strip().partition("\n")[0].partition(". ")[0][:100] or type(error).__name__
        )
        raise InputError(
            f"{path}: not whole, or holds something else than weights ({reason})"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise InputError(f"{path}: expected weights by name, got something else")
    return state
