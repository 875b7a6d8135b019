"""Named arrays in a safetensors file, read strictly."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from humanpref.schema import InputError


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load_arrays(path: Path, shapes: dict[str, tuple[int | None, ...]]) -> dict[str, np.ndarray]:
    """Read exactly these arrays from a safetensors file.

    Parameters
    ----------
    path : Path
        The file.
    shapes : dict
        The arrays' names and shapes; None stands for any length.

    Raises
    ------
    InputError
        If the file cannot be read, or an array is missing, too many, of another shape, or not
        finite.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from None
    check_names(path, set(shapes), set(arrays))
    for name, shape in shapes.items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(
            n not in (None, m) for n, m in zip(shape, found, strict=True)
        ):
            raise InputError(f"{path}: weight {name}: expected shape {shape}, got {found}")
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{path}: weight {name} has values that are not finite")
    return arrays


def check_names(path: Path, expected: set[str], found: set[str]) -> None:
    """Raise InputError unless both sets of weight names are the same."""
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        parts = [
            f"{kind} {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
            for kind, names in (("missing weights", missing), ("extra weights", extra))
            if names
        ]
        raise InputError(f"{path}: does not fit the model: {'; '.join(parts)}")
