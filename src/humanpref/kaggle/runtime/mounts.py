"""Find files under Kaggle's mounts by name. This module imports only the standard library, since
the kernels contain a copy of its code.

Kaggle mounts the same source under different paths (`/kaggle/input/competitions/SLUG` or
`/kaggle/input/SLUG`, and so on for datasets, models and outputs of kernels).
"""

import itertools
import os
from pathlib import Path


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
