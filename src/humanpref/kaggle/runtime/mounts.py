"""Files under Kaggle's mounts, found by name. Standard library only: both kernels carry this text.

Kaggle mounts the same source under more than one path (`/kaggle/input/competitions/SLUG` or
`/kaggle/input/SLUG`, and so on for datasets, models and outputs of kernels).
"""

import itertools
import os
from pathlib import Path


def find(name: str, root: Path, depth: int = 8) -> list[Path]:
    """Find the files called `name` at most `depth` folders below `root`, nearest first."""
    found = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        if name in files:
            # Kaggle may show one mount under two paths.
            found.setdefault(os.path.realpath(Path(folder, name)), Path(folder, name))
        if len(Path(folder).relative_to(root).parts) >= depth:
            folders.clear()
    return sorted(found.values(), key=lambda path: (len(path.parts), str(path)))


def tree(root: Path, limit: int = 60) -> str:
    """List what is under `root`, for a message that says what was there instead."""
    lines = (
        f"  {path.relative_to(root)}"
        for path in root.rglob("*")
        if len(path.relative_to(root).parts) <= 6
    )
    listed = sorted(itertools.islice(lines, limit))
    return "\n".join(
        [f"{root} holds:", *(listed or ["  nothing"]), *(["  …"] if len(listed) == limit else [])]
    )
