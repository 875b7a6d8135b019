"""Write named arrays to a safetensors file, and read them back strictly."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from humanpref.schema import InputError, refuse_failures

STATE_FILE = "model.safetensors"
"""The file in a model's folder that holds its learned arrays."""


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as safetensors."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load_arrays(path: Path, shapes: dict[str, tuple[int | None, ...]]) -> dict[str, np.ndarray]:
    """Read arrays from a safetensors file, which must hold exactly those in `shapes`.

    Parameters
    ----------
    path : Path
        The file.
    shapes : dict
        The shape of each array, by name; None means any length.

    Raises
    ------
    InputError
        If the file cannot be read, if an array is missing or unexpected, or if an array has the
        wrong shape or dtype, or a value that is not finite.
    """
    with refuse_failures(f"{path}: cannot be read as safetensors"):
        arrays = load_file(path)
    check_names(path, set(shapes), set(arrays))
    for name, shape in shapes.items():
        actual = arrays[name].shape
        # Replace None with the actual length. The number of dimensions must still match.
        wanted = tuple(m if n is None else n for n, m in zip(shape, actual, strict=False))
        if wanted != actual or len(shape) != len(actual):
            raise InputError(f"{path}: weight {name}: expected shape {shape}, got {actual}")
        if arrays[name].dtype not in (np.float32, np.float64):
            raise InputError(
                f"{path}: weight {name}: expected float32 or float64, got {arrays[name].dtype}"
            )
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{path}: weight {name}: expected finite values, got NaN or infinity")
    return arrays


def check_names(path: Path, expected: set[str], actual: set[str]) -> None:
    """Raise InputError unless a file holds exactly the expected weights."""
    problems = [
        f"{kind} weights {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        for kind, names in (
            ("missing", sorted(expected - actual)),
            ("extra", sorted(actual - expected)),
        )
        if names
    ]
    if problems:
        raise InputError(f"{path}: does not fit the model: {'; '.join(problems)}")
